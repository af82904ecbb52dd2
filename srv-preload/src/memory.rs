//! The memory of a group in this process's address space. Of it, a process can write its own slot
//! and what all workers write ([`Group::writable_by`]).

use srv_common::{Group, MAX_WORKERS};

use crate::sys;

/// Maps the memory for the process in `slot`. `None` if the kernel refuses it.
pub(crate) fn map(fd: i32, slot: u32) -> Option<&'static Group> {
    if slot as usize >= MAX_WORKERS {
        return None;
    }
    let pages = sys::map(None, size_of::<Group>(), false, Some((fd, 0)))?;
    for part in Group::<MAX_WORKERS>::writable_by(slot) {
        let at = pages as usize + part.start;
        sys::map(Some(at), part.len(), true, Some((fd, part.start)))?;
    }
    // SAFETY: what is mapped there is replaced ([`unmap`]), and never removed. The kernel has mapped that many bytes of the coordinator's memory, page-aligned; a
    // group accepts any bits and is accessed atomically only.
    Some(unsafe { &*pages.cast::<Group>() })
}

/// Ends the mapping of a group's memory. Another thread may be publishing just now, so that the
/// addresses stay valid: pages that hold nothing, of which there are as many in memory as are
/// written to, take its place.
pub(crate) fn unmap(group: &'static Group) {
    let at = core::ptr::from_ref(group) as usize;
    sys::map(Some(at), size_of::<Group>(), true, None);
}
