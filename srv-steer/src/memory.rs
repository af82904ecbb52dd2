//! Shared memory, and the only mmap. Memory that another process has handed over is examined
//! before it is mapped, since an access beyond the end of a file is a SIGBUS.

use std::fs::File;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use srv_common::attached::AttachedGroup;
use srv_common::{Group, MAX_WORKERS};

use crate::error::{Error, ErrorKind, Result, Tried as _};

/// What can lie in [`SharedMemory`].
///
/// # Safety
/// All fields accept any bits, and are accessed atomically only.
pub unsafe trait Layout {}

// SAFETY: made of atomic integers.
unsafe impl Layout for Group {}
// SAFETY: likewise.
unsafe impl Layout for AttachedGroup {}

/// A file that is known to be as long as a `T`, for as long as it exists.
pub struct SharedMemory<T> {
    fd: OwnedFd,
    layout: PhantomData<T>,
}

impl SharedMemory<Group> {
    /// Memory for a group that no BPF program reads.
    ///
    /// # Errors
    /// If the kernel refuses a memfd of the group's size.
    pub fn new() -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("srv-group", flags).tried(
            ErrorKind::Memory,
            "create shared memory for the workers' status",
        )?;
        let file = File::from(fd);
        file.set_len(size_of::<Group>() as u64).tried(
            ErrorKind::Memory,
            "size shared memory for the workers' status",
        )?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .tried(ErrorKind::Memory, "seal the size of the workers' status")?;
        Self::checked(file.into())
    }

    /// As [`Self::map`], for the worker in `slot`: it can write only what
    /// [`Group::writable_by`] says. After the descriptor is closed, the worker cannot make more of
    /// it writable either: the kernel never makes a mapping of an array writable that was made to
    /// be read (kernel/bpf/syscall.c, `bpf_map_mmap`). If pages are larger than the layout assumes,
    /// the worker can write all of it.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map_for_worker(&self, slot: u32) -> Result<Mapping<Group>> {
        let writable = Group::<MAX_WORKERS>::writable_by(slot);
        let page_bytes = rustix::param::page_size();
        let is_aligned = |bytes: &std::ops::Range<usize>| bytes.start.is_multiple_of(page_bytes);
        if !writable.iter().all(is_aligned) {
            return self.map();
        }
        let mapping = self.map_with(ProtFlags::READ)?;
        for bytes in writable {
            let read_write = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            let (length, offset) = (bytes.len(), bytes.start as u64);
            // SAFETY: the pages are part of the mapping that was just made, and what replaces
            // them is the same part of the same file.
            unsafe {
                let at = mapping.address.as_ptr().byte_add(bytes.start).cast();
                rustix::mm::mmap(at, length, read_write, flags, &self.fd, offset)
            }
            .tried(
                ErrorKind::Memory,
                "map the part of the status memory that a worker writes",
            )?;
        }
        Ok(mapping)
    }
}

impl<T: Layout> SharedMemory<T> {
    /// Takes memory that another process has handed over.
    ///
    /// # Errors
    /// If it is neither a BPF array nor a memfd whose size is sealed, or the memfd is
    /// smaller than a `T`. (Of an array the kernel maps no more than there is:
    /// kernel/bpf/arraymap.c, `array_map_mmap`.)
    pub fn checked(fd: OwnedFd) -> Result<Self> {
        let refused = |why| Err(Error::new(ErrorKind::Memory, why));
        let stat = rustix::fs::fstat(&fd).tried(ErrorKind::Memory, "stat shared memory")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let needed = size_of::<T>();
            if bytes < needed as u64 {
                return refused(format!("shared memory has {bytes} bytes, not {needed}"));
            }
            let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(SealFlags::empty());
            if !seals.contains(SealFlags::SHRINK) {
                let why = "the size of shared memory is not sealed: it could become smaller";
                return refused(why.into());
            }
        } else {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let kind = std::fs::read_link(link)
                .tried(ErrorKind::Memory, "find out what shared memory is")?;
            if kind.as_os_str() != "anon_inode:bpf-map" {
                return refused(format!("{} is no shared memory", kind.display()));
            }
        }
        Ok(Self {
            fd,
            layout: PhantomData,
        })
    }

    /// Another descriptor of the same memory.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone();
        Ok(Self {
            fd: fd.tried(
                ErrorKind::Memory,
                "duplicate the descriptor of shared memory",
            )?,
            layout: PhantomData,
        })
    }

    /// Maps it, to be read and written.
    ///
    /// # Errors
    /// What `mmap` says, for example `EPERM` for an array that cannot be mapped, and
    /// `EINVAL` for one that is smaller than a `T`.
    pub fn map(&self) -> Result<Mapping<T>> {
        self.map_with(ProtFlags::READ | ProtFlags::WRITE)
    }

    fn map_with(&self, protection: ProtFlags) -> Result<Mapping<T>> {
        let length = size_of::<T>();
        let nowhere = std::ptr::null_mut();
        // SAFETY: a new mapping, which replaces nothing.
        let address =
            unsafe { rustix::mm::mmap(nowhere, length, protection, MapFlags::SHARED, &self.fd, 0) };
        let address = address
            .tried(ErrorKind::Memory, "map the shared status memory")
            .map(|address| NonNull::new(address.cast::<T>()))?
            .ok_or_else(|| Error::new(ErrorKind::Memory, "map shared memory: got no address"))?;
        Ok(Mapping {
            address,
            pages: Arc::new(Pages {
                address: address.as_ptr() as usize,
                length,
            }),
        })
    }
}

/// Shared memory in this process's address space. Clones are the same mapping, which ends with
/// the last of them.
pub struct Mapping<T> {
    address: NonNull<T>,
    /// Kept for its drop.
    pages: Arc<Pages>,
}

// SAFETY: what is mapped is a `Layout`, which is accessed atomically only.
unsafe impl<T: Layout> Send for Mapping<T> {}
// SAFETY: likewise.
unsafe impl<T: Layout> Sync for Mapping<T> {}

impl<T: Layout> Mapping<T> {
    /// Keeps the mapping for the rest of this process's life.
    pub fn leak(self) -> &'static T {
        let mapping: &'static Self = Box::leak(Box::new(self));
        mapping
    }
}

impl<T> Clone for Mapping<T> {
    fn clone(&self) -> Self {
        Self {
            address: self.address,
            pages: self.pages.clone(),
        }
    }
}

impl<T: Layout> Deref for Mapping<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is page-aligned and exists for as long as `pages` does; the file
        // is as long as a `T`, which accepts any bits.
        unsafe { self.address.as_ref() }
    }
}

/// Pages of an address space, which are unmapped when this is dropped.
struct Pages {
    address: usize,
    length: usize,
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the pages were mapped for this value, and no reference to them outlives it.
        // Unmapping whole mappings cannot fail.
        let _ = unsafe { rustix::mm::munmap(self.address as *mut _, self.length) };
    }
}

impl<T> AsFd for SharedMemory<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn memfd(bytes: usize, seals: SealFlags) -> OwnedFd {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, bytes as u64).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[track_caller]
    fn assert_refused(fd: impl Into<OwnedFd>, why: &str) {
        let refused = SharedMemory::<Group>::checked(fd.into()).map(drop);
        let said = refused.expect_err("a refusal").to_string();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn only_memory_that_is_and_stays_large_enough_is_mapped() {
        let enough = size_of::<Group>();
        assert_refused(memfd(0, SealFlags::SHRINK), "has 0 bytes");
        assert_refused(memfd(enough - 1, SealFlags::SHRINK), "bytes, not");
        assert_refused(memfd(enough, SealFlags::GROW), "not sealed");
        let file = tempfile::tempfile().unwrap();
        file.set_len(enough as u64).unwrap();
        assert_refused(file, "not sealed");
        assert_refused(UnixStream::pair().unwrap().0, "is no shared memory");
        let zero = File::options().read(true).write(true).open("/dev/zero");
        assert_refused(zero.unwrap(), "is no shared memory");
        let memory = SharedMemory::<Group>::checked(memfd(enough, SealFlags::SHRINK)).unwrap();
        assert_eq!(
            memory.map().unwrap().slots[MAX_WORKERS - 1].load.own.get(),
            0
        );
    }

    #[test]
    fn what_srv_makes_cannot_become_smaller() {
        let memory = SharedMemory::new().unwrap();
        assert!(rustix::fs::ftruncate(&memory, 0).is_err());
        memory.map_for_worker(3).unwrap();
    }
}
