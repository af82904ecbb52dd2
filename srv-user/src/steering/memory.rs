//! Shared memory, and the only mmap. Memory that another process has handed over is
//! looked at before it is mapped: beyond the end of a file each access is a SIGBUS.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, ensure};
use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use srv_common::attached::AttachedGroup;
use srv_common::{Group, MAX_WORKERS};

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
    pub fn new() -> anyhow::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("srv-group", flags)
            .context("create shared memory for the workers' status")?;
        let file = File::from(fd);
        file.set_len(size_of::<Group>() as u64)
            .context("size shared memory for the workers' status")?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .context("seal the size of the workers' status")?;
        Self::checked(file.into())
    }

    /// As [`Self::map`], for the worker in `slot`: it can write only what
    /// [`Group::writable_by`] says, and since the kernel never lets a mapping of an array
    /// be written that was made to be read (kernel/bpf/syscall.c, `bpf_map_mmap`), not
    /// give itself more either once the file is closed. Where pages are larger than that
    /// takes for granted, all of it can be written.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map_for_worker(&self, slot: u32) -> io::Result<&'static Group> {
        let writable = Group::<MAX_WORKERS>::writable_by(slot);
        let page_bytes = rustix::param::page_size();
        if !writable
            .iter()
            .all(|bytes| bytes.start.is_multiple_of(page_bytes))
        {
            return self.map();
        }
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        let length = size_of::<Group>();
        // SAFETY: as in `map`; what is put over parts of the mapping is the same.
        unsafe {
            let fd = self.fd.as_fd();
            let flags = MapFlags::SHARED;
            let address =
                rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ, flags, fd, 0)?;
            for bytes in writable {
                let (at, offset) = (address.byte_add(bytes.start), bytes.start as u64);
                rustix::mm::mmap(
                    at,
                    bytes.len(),
                    read_write,
                    flags | MapFlags::FIXED,
                    fd,
                    offset,
                )?;
            }
            Ok(&*address.cast())
        }
    }
}

impl<T: Layout> SharedMemory<T> {
    /// Memory that this process has been given.
    ///
    /// # Errors
    /// If it is neither a BPF array nor a memfd whose size is sealed, or the memfd is
    /// smaller than a `T`. (Of an array the kernel maps no more than there is:
    /// kernel/bpf/arraymap.c, `array_map_mmap`.)
    pub fn checked(fd: OwnedFd) -> anyhow::Result<Self> {
        let stat = rustix::fs::fstat(&fd).context("stat shared memory")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            ensure!(
                bytes >= size_of::<T>() as u64,
                "shared memory has {bytes} bytes, not {}",
                size_of::<T>()
            );
            let seals = rustix::fs::fcntl_get_seals(&fd).unwrap_or(SealFlags::empty());
            ensure!(
                seals.contains(SealFlags::SHRINK),
                "the size of shared memory is not sealed: it could become smaller"
            );
        } else {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let kind = std::fs::read_link(link).context("look what shared memory is")?;
            ensure!(
                kind.as_os_str() == "anon_inode:bpf-map",
                "{} is no shared memory",
                kind.display()
            );
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
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            layout: PhantomData,
        })
    }

    /// Maps it for the rest of this process's life.
    ///
    /// # Errors
    /// What `mmap` says, for example `EPERM` for an array that cannot be mapped, and
    /// `EINVAL` for one that is smaller than a `T`.
    pub fn map(&self) -> io::Result<&'static T> {
        // SAFETY: a fresh shared mapping, never unmapped, page-aligned, of a file that is
        // as long as a `T`, which accepts any bits.
        unsafe {
            let address = rustix::mm::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &self.fd,
                0,
            )?;
            Ok(&*address.cast())
        }
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
        let said = format!("{:#}", refused.expect_err("a refusal"));
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
