//! A ring in shared memory, from one worker to the log writer. The worker writes records, by plain
//! stores; if there is no room, it drops one and counts it. The log writer takes them. If either ends,
//! what is in the ring stays there for the next log writer.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use rustix::fs::{MemfdFlags, SealFlags};
use srv_common::{Line, Shared};
use srv_steer::{Layout, Mapping, SharedMemory};

use super::record::{FACT_WORDS, Facts, SAID_BYTES_MAX, Said};

/// The room of a ring: 512 KiB, which are the records of 2000 to 4000 requests. Pages that were never
/// written cost no memory.
const WORDS: u64 = 64 << 10;
const WORD_BYTES: usize = size_of::<u64>();
/// The longest record, words: its length, the facts, and what the client has said.
const RECORD_WORDS_MAX: u64 = (1 + FACT_WORDS + SAID_BYTES_MAX.div_ceil(WORD_BYTES)) as u64;

/// What is in the memory. Positions are counts of words since the start.
#[repr(C, align(4096))]
pub struct RingMemory {
    /// How far the worker has written. Written by the worker.
    written: Line<Shared<u64>>,
    /// How far the log writer has taken. Written by the log writer.
    taken: Line<Shared<u64>>,
    /// 1 if the log writer wants to be woken for the next record. The log writer sets it, and the
    /// worker clears it.
    sleeps: Line<Shared<u32>>,
    words: Line<[Shared<u64>; WORDS as usize]>,
}

// SAFETY: made of atomic integers.
unsafe impl Layout for RingMemory {}

/// New memory for a ring.
///
/// # Errors
/// What the kernel says.
pub fn memory() -> anyhow::Result<OwnedFd> {
    shared_memory::<RingMemory>("create the ring of a worker's access log")
}

/// New memory for a `T`, all zeros.
pub(super) fn shared_memory<T>(what: &'static str) -> anyhow::Result<OwnedFd> {
    let create = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("srv-access-log", flags)?;
        rustix::fs::ftruncate(&fd, size_of::<T>() as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals)?;
        rustix::io::Result::Ok(fd)
    };
    create().context(what)
}

fn map(memory: OwnedFd) -> anyhow::Result<Mapping<RingMemory>> {
    let memory = SharedMemory::<RingMemory>::checked(memory);
    Ok(memory.and_then(|memory| memory.map())?)
}

/// The worker's end.
pub struct Records {
    memory: Mapping<RingMemory>,
    written: u64,
    /// Wakes the log writer.
    bell: OwnedFd,
}

impl Records {
    /// The end of a worker that has just started. A byte to `bell`, which does not block, wakes the log
    /// writer.
    ///
    /// # Errors
    /// It is no ring, or what the kernel says.
    pub fn new(memory: OwnedFd, bell: OwnedFd) -> anyhow::Result<Self> {
        let memory = map(memory).context("map the ring of the access log")?;
        Ok(Self {
            written: memory.written.0.get(),
            memory,
            bell,
        })
    }

    /// Writes a record, of which `said` is what [`Said::write`] has made. False: there is no room.
    pub fn push(&mut self, facts: &Facts, said: &[u8]) -> bool {
        let used = self.written.wrapping_sub(self.memory.taken.0.get());
        let length = (1 + FACT_WORDS + said.len().div_ceil(WORD_BYTES)) as u64;
        if used.saturating_add(length) > WORDS || length > RECORD_WORDS_MAX {
            return false;
        }
        let mut at = self.written;
        let words = &self.memory.words.0;
        let mut put = |word| {
            words[(at % WORDS) as usize].set(word);
            at = at.wrapping_add(1);
        };
        put(said.len() as u64);
        facts.words().into_iter().for_each(&mut put);
        let (whole, rest) = said.as_chunks::<WORD_BYTES>();
        whole.iter().for_each(|word| put(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; WORD_BYTES];
            last[..rest.len()].copy_from_slice(rest);
            put(u64::from_le_bytes(last));
        }
        self.written = at;
        let written = self.memory.written.0.atomic();
        written.store(at, Ordering::Release);
        self.ring(used, length);
        true
    }

    /// Wakes the log writer if it sleeps, or if the ring becomes half full, since it looks at rings that
    /// are less full at intervals.
    fn ring(&self, used: u64, length: u64) {
        let sleeps = &self.memory.sleeps.0;
        let is_half = used < WORDS / 2 && used + length >= WORDS / 2;
        if sleeps.get() != 0 || is_half {
            sleeps.set(0);
            // If the pipe is full, the log writer has not looked yet. If it has ended, the next one
            // looks at once.
            let _ = rustix::io::write(&self.bell, &[1]);
        }
    }
}

/// The log writer's end.
pub struct Taking {
    memory: Mapping<RingMemory>,
    taken: u64,
}

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// This is it.
    Record(Facts, Said<'a>),
    /// The ring has none now.
    None,
    /// The ring has what no worker of srv writes, and all in it was skipped.
    Corrupt,
}

impl Taking {
    /// The end of a log writer that goes on where the last one has ended.
    ///
    /// # Errors
    /// It is no ring, or what the kernel says.
    pub fn new(memory: OwnedFd) -> anyhow::Result<Self> {
        let memory = map(memory).context("map the ring of a worker's access log")?;
        Ok(Self {
            taken: memory.taken.0.get(),
            memory,
        })
    }

    /// Takes the next record, with what the client has said in `room`. It is there for good once
    /// [`Self::give_room`] was called.
    pub fn take<'a>(&mut self, room: &'a mut Vec<u8>) -> Taken<'a> {
        let written = self.memory.written.0.atomic().load(Ordering::Acquire);
        let available = written.wrapping_sub(self.taken);
        if available == 0 {
            return Taken::None;
        }
        let said_bytes = self.word(0);
        let length = 1 + FACT_WORDS as u64 + said_bytes.div_ceil(WORD_BYTES as u64);
        if available > WORDS || length > RECORD_WORDS_MAX || length > available {
            self.taken = written;
            return Taken::Corrupt;
        }
        let facts = Facts::of(&std::array::from_fn(|nth| self.word(1 + nth as u64)));
        room.clear();
        for nth in 1 + FACT_WORDS as u64..length {
            room.extend_from_slice(&self.word(nth).to_le_bytes());
        }
        room.truncate(said_bytes as usize);
        self.taken = self.taken.wrapping_add(length);
        match Said::read(room) {
            Some(said) => Taken::Record(facts, said),
            None => Taken::Corrupt,
        }
    }

    /// Whether the ring has none now.
    pub fn is_empty(&self) -> bool {
        self.memory.written.0.atomic().load(Ordering::Acquire) == self.taken
    }

    fn word(&self, nth: u64) -> u64 {
        self.memory.words.0[(self.taken.wrapping_add(nth) % WORDS) as usize].get()
    }

    /// Lets the worker have the room of what was taken.
    pub fn give_room(&self) {
        let taken = self.memory.taken.0.atomic();
        taken.store(self.taken, Ordering::Release);
    }

    /// Has the worker wake the log writer for its next record. False: there is one already.
    pub fn sleep(&self) -> bool {
        self.memory.sleeps.0.set(1);
        self.is_empty()
    }
}

/// A pipe by which a worker wakes the log writer: the end to read, and the end to write. When its last
/// end to write is closed, the worker has ended.
///
/// # Errors
/// What the kernel says.
pub fn bell() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    rustix::pipe::pipe_with(flags).context("create the pipe of a worker's access log")
}

/// Takes what was written to a bell. False: the worker has ended.
pub fn hear(bell: impl AsFd) -> bool {
    let mut rings = [0; 64];
    loop {
        match rustix::io::read(&bell, &mut rings) {
            Ok(0) => return false,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::serve::access_log::record::{Protocol, Tls};
    use crate::values::LogId;

    fn facts(nth: u64) -> Facts {
        Facts {
            log: LogId(1),
            ended_ns: nth,
            duration_us: 0,
            body_bytes: 0,
            status: 200,
            protocol: Protocol::Http11,
            tls: Tls::None,
            slot: 0,
            accept_delay_us: None,
            client: None,
        }
    }

    fn said(target: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let said = Said {
            target,
            ..Said::default()
        };
        said.write(&mut bytes);
        bytes
    }

    struct Ends {
        memory: OwnedFd,
        heard: OwnedFd,
        records: Records,
        taking: Taking,
    }

    fn ends() -> Ends {
        let memory = memory().unwrap();
        let (heard, bell) = bell().unwrap();
        Ends {
            records: Records::new(memory.try_clone().unwrap(), bell).unwrap(),
            taking: Taking::new(memory.try_clone().unwrap()).unwrap(),
            memory,
            heard,
        }
    }

    #[test]
    fn records_come_in_order_and_those_without_room_are_refused() {
        let Ends {
            mut records,
            mut taking,
            ..
        } = ends();
        let mut room = Vec::new();
        for _ in 0..3 {
            let mut written = 0;
            while records.push(&facts(written), &said(&vec![b'x'; written as usize % 4000])) {
                written += 1;
            }
            assert!(written > 100);
            for nth in 0..written {
                let Taken::Record(taken, said) = taking.take(&mut room) else {
                    panic!("{nth} of {written}")
                };
                assert_eq!((taken, said.target.len() as u64), (facts(nth), nth % 4000));
            }
            assert_eq!(taking.take(&mut room), Taken::None);
            assert!(
                !records.push(&facts(0), &said(&[b'x'; 4000])),
                "no room yet"
            );
            taking.give_room();
        }
    }

    #[test]
    fn the_next_log_writer_goes_on_where_the_last_one_was() {
        let mut ends = ends();
        let mut room = Vec::new();
        for nth in 0..3 {
            assert!(ends.records.push(&facts(nth), &said(b"/")));
        }
        ends.taking.take(&mut room);
        ends.taking.give_room();
        // What it takes now, it does not come to write.
        ends.taking.take(&mut room);
        let mut next = Taking::new(ends.memory).unwrap();
        drop(ends.records);
        for nth in 1..3 {
            let Taken::Record(taken, _) = next.take(&mut room) else {
                panic!("{nth}")
            };
            assert_eq!(taken, facts(nth));
        }
        assert_eq!(next.take(&mut room), Taken::None);
    }

    #[test]
    fn the_bell_rings_for_one_that_sleeps_and_at_half_and_says_the_end() {
        let mut ends = ends();
        let rings = |ends: &Ends| rustix::io::read(&ends.heard, &mut [0; 64]).unwrap_or(0);
        assert!(ends.taking.sleep());
        for expected in [1, 0] {
            ends.records.push(&facts(0), &said(b"/"));
            assert_eq!(rings(&ends), expected);
        }
        assert!(!ends.taking.sleep(), "there are records");
        ends.records.memory.sleeps.0.set(0);
        while ends.records.push(&facts(0), &said(&[b'x'; 1000])) {}
        assert_eq!(rings(&ends), 1);
        assert!(hear(&ends.heard));
        drop(ends.records);
        assert!(!hear(&ends.heard));
    }

    proptest! {
        #[test]
        fn whatever_a_worker_writes_the_log_writer_gets_to_its_end(
            written: u64,
            taken in prop_oneof![Just(0), any::<u64>()],
            words in prop::collection::vec(prop_oneof![any::<u64>(), 0..5000u64], 1..50),
        ) {
            let memory = memory().unwrap();
            let ring = map(memory.try_clone().unwrap()).unwrap();
            ring.taken.0.set(taken);
            ring.written.0.set(taken.wrapping_add(written % (2 * WORDS)));
            for (nth, word) in words.iter().cycle().take(WORDS as usize).enumerate() {
                ring.words.0[nth].set(*word);
            }
            let mut taking = Taking::new(memory).unwrap();
            let mut room = Vec::new();
            let mut records = 0;
            while taking.take(&mut room) != Taken::None {
                records += 1;
                prop_assert!(records <= WORDS);
            }
        }
    }
}
