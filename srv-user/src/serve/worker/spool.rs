//! Bodies of requests whose length is not known before they end, for an application that has to be told
//! it. The start of each is in memory. The rest is in one file of the worker, which has no name and is
//! open before the worker gives up the rights to open any: each body has its own part of it, and what
//! is dropped becomes a hole. This module knows neither HTTP nor applications.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags};
use slab::Slab;

/// So much of a body is in memory, bytes. Most such bodies have no more.
const MEMORY_BYTES: usize = 64 << 10;

/// The most that one body can have, bytes: where the next part of the file begins.
const PART_BYTES: u64 = 16 << 30;

/// How many bodies can be in the file at a time. With more, ext4 could not address their ends.
const PARTS_MAX: usize = 1000;

/// The most that all bodies of a worker have in a file on disk, or in one that is memory, bytes.
const ON_DISK_BYTES: u64 = 1 << 30;
const IN_MEMORY_BYTES: u64 = 64 << 20;

/// The bodies of a worker.
pub struct Spool {
    file: OwnedFd,
    parts: RefCell<Slab<()>>,
    bytes: Cell<u64>,
    bytes_max: u64,
}

/// Why a body cannot be kept.
#[derive(Debug)]
pub enum Fault {
    /// Other bodies have all the room.
    Full,
    /// What the kernel said of the file.
    Io(io::Error),
}

/// A body, which is written first and then read, once.
pub struct Spooled {
    spool: Rc<Spool>,
    /// What of it is in memory: its start while it is written.
    memory: Vec<u8>,
    /// The number of its part of the file, and how much is there.
    part: Option<(usize, u64)>,
    length: u64,
    read: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => {
                f.write_str("other bodies have all the room for bodies of unknown length")
            }
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl Spool {
    /// Opens the file: on disk, in the folder for temporary files, or, if there is none that this
    /// process may use, in memory.
    ///
    /// # Errors
    /// The kernel gives out neither.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let on_disk = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR);
        let (file, bytes_max) = match on_disk {
            Ok(file) => (file, ON_DISK_BYTES),
            Err(_) => {
                let file = rustix::fs::memfd_create("srv-bodies", MemfdFlags::CLOEXEC)?;
                (file, IN_MEMORY_BYTES)
            }
        };
        Ok(Self {
            file,
            parts: RefCell::default(),
            bytes: Cell::new(0),
            bytes_max,
        })
    }

    /// A body of which nothing is there.
    pub fn begin(self: &Rc<Self>) -> Spooled {
        Spooled {
            spool: self.clone(),
            memory: Vec::new(),
            part: None,
            length: 0,
            read: 0,
        }
    }

    fn take_part(&self) -> Result<usize, Fault> {
        let mut parts = self.parts.borrow_mut();
        match parts.len() < PARTS_MAX {
            true => Ok(parts.insert(())),
            false => Err(Fault::Full),
        }
    }

    fn take_room(&self, bytes: u64) -> Result<(), Fault> {
        let taken = self.bytes.get() + bytes;
        if taken > self.bytes_max {
            return Err(Fault::Full);
        }
        self.bytes.set(taken);
        Ok(())
    }
}

impl Spooled {
    /// Appends to the body. This may wait for the disk.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.length += piece.len() as u64;
        self.memory.extend_from_slice(piece);
        if self.memory.len() <= MEMORY_BYTES {
            return Ok(());
        }
        let bytes = self.memory.len() as u64;
        let (part, before) = match self.part {
            Some(part) => part,
            None => (self.spool.take_part()?, 0),
        };
        self.part = Some((part, before));
        if before + bytes > PART_BYTES {
            return Err(Fault::Full);
        }
        self.spool.take_room(bytes)?;
        self.part = Some((part, before + bytes));
        let mut written = 0;
        while written < self.memory.len() {
            let at = offset(part) + before + written as u64;
            let rest = &self.memory[written..];
            let count =
                rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.spool.file, rest, at));
            written += count.map_err(|errno| Fault::Io(errno.into()))?;
        }
        self.memory.clear();
        Ok(())
    }

    /// How long it is, bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes of it. None: that was all. This may wait for the disk.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&mut self) -> io::Result<Bytes> {
        let (part, in_file) = self.part.unwrap_or_default();
        if self.read >= in_file {
            // What the file does not have is its end.
            self.read = self.length;
            return Ok(std::mem::take(&mut self.memory).into());
        }
        let most = (in_file - self.read).min(MEMORY_BYTES as u64);
        let mut piece = vec![0; most as usize];
        let at = offset(part) + self.read;
        let file = &self.spool.file;
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut piece[..], at))?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(count);
        self.read += count as u64;
        Ok(piece.into())
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let Some((part, bytes)) = self.part else {
            return;
        };
        self.spool.bytes.set(self.spool.bytes.get() - bytes);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Whole blocks become a hole, and nothing follows in this part. If the file system cannot do
        // that, the next body in this part uses the same blocks.
        let whole = bytes.next_multiple_of(MEMORY_BYTES as u64);
        let _ = rustix::fs::fallocate(&self.spool.file, hole, offset(part), whole);
        self.spool.parts.borrow_mut().remove(part);
    }
}

/// Where a part of the file begins.
fn offset(part: usize) -> u64 {
    part as u64 * PART_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(mut body: Spooled) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match &body.read().unwrap()[..] {
                [] => return all,
                piece => all.extend_from_slice(piece),
            }
        }
    }

    /// What the file system may need to know where the holes are.
    const FEW_BYTES: u64 = 64 << 10;

    /// How many bytes the file has on disk.
    fn kept_bytes(spool: &Spool) -> u64 {
        rustix::fs::fstat(&spool.file).unwrap().st_blocks as u64 * 512
    }

    #[test]
    fn a_body_is_read_as_it_was_written() {
        let spool = Rc::new(Spool::open().unwrap());
        let text: Vec<u8> = (0..MEMORY_BYTES * 3 + 7).map(|n| (n % 251) as u8).collect();
        for length in [0, 1, MEMORY_BYTES, MEMORY_BYTES + 1, text.len()] {
            for piece in [1000, MEMORY_BYTES * 2] {
                let (mut body, mut beside) = (spool.begin(), spool.begin());
                for part in text[..length].chunks(piece) {
                    body.push(part).unwrap();
                    beside.push(&vec![0; part.len()]).unwrap();
                }
                assert_eq!(body.length(), length as u64);
                assert!(collected(body) == text[..length], "{length} by {piece}");
                assert!(collected(beside) == vec![0; length]);
            }
        }
        assert_eq!(spool.bytes.get(), 0);
        assert!(kept_bytes(&spool) < FEW_BYTES);
    }

    #[test]
    fn room_is_bounded_for_all_bodies_together() {
        let mut spool = Spool::open().unwrap();
        spool.bytes_max = 5 * MEMORY_BYTES as u64;
        let spool = Rc::new(spool);
        let piece = vec![1; 2 * MEMORY_BYTES];
        let (mut first, mut second) = (spool.begin(), spool.begin());
        first.push(&piece).unwrap();
        second.push(&piece).unwrap();
        assert!(matches!(first.push(&piece), Err(Fault::Full)));
        drop(first);
        second.push(&piece).unwrap();
        assert_eq!(collected(second).len(), 2 * piece.len());
        assert!(kept_bytes(&spool) < FEW_BYTES);
    }
}
