//! The memory of a group in this process's address space. Of it, a process can write its own slot
//! and what all workers write ([`Group::writable_by`]).

use srv_common::{Group, MAX_WORKERS};

use crate::sys;

/// Maps the memory for the process in `slot`. It stays mapped for the rest of the process's life,
/// since a thread may be publishing at any time. `None` if the kernel refuses it.
pub(crate) fn map(fd: i32, slot: u32) -> Option<&'static Group> {
    if slot as usize >= MAX_WORKERS {
        return None;
    }
    let pages = sys::map(None, size_of::<Group>(), false, Some((fd, 0)))?;
    for part in Group::<MAX_WORKERS>::writable_by(slot) {
        let at = pages as usize + part.start;
        sys::map(Some(at), part.len(), true, Some((fd, part.start)))?;
    }
    // SAFETY: the kernel has mapped that many bytes of the coordinator's memory, page-aligned; a
    // group accepts any bits and is accessed atomically only.
    Some(unsafe { &*pages.cast::<Group>() })
}
