//! What the log writer counts, in shared memory, so that the counts outlast it. The log writer alone
//! writes them.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use srv_common::Shared;
use srv_steer::{Layout, Mapping, SharedMemory};

use super::ring::shared_memory;

/// The memory.
#[repr(C, align(4096))]
#[derive(Default)]
pub struct TallyMemory {
    /// Records that were written to their logs.
    pub written: Shared<u64>,
    /// Records that were taken from a ring and came to no log.
    pub lost: Shared<u64>,
    /// Records that were taken from a ring and are not written yet.
    pub pending: Shared<u64>,
}

// SAFETY: made of atomic integers.
unsafe impl Layout for TallyMemory {}

/// The counts.
pub struct Tally(Mapping<TallyMemory>);

impl Tally {
    /// New memory for it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn memory() -> anyhow::Result<OwnedFd> {
        shared_memory::<TallyMemory>("create the memory for the counts of the access log")
    }

    /// The counts in this memory.
    ///
    /// # Errors
    /// It is none for counts, or what the kernel says.
    pub fn new(memory: OwnedFd) -> anyhow::Result<Self> {
        let memory = SharedMemory::checked(memory).and_then(|memory| memory.map());
        Ok(Self(memory.context("map the counts of the access log")?))
    }

    /// A new log writer begins: what the last one had taken and not written is lost.
    pub fn begin(&self) {
        self.0.lost.bump(self.0.pending.get());
        self.0.pending.set(0);
    }
}

impl std::ops::Deref for Tally {
    type Target = TallyMemory;

    fn deref(&self) -> &TallyMemory {
        &self.0
    }
}
