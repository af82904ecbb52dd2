//! Loading the select program for attached servers in the cheapest form that the running kernel
//! and the capabilities of this process allow.

use anyhow::{Context as _, ensure};
use aya::Ebpf;
use srv_common::attached::Offsets;

use super::object;
use super::offsets::{self, Readable};
use super::signals::Signals;
use crate::control::attached::Signal;
use srv_steer::btf::Btf;
use srv_steer::program::{loader, program};

/// The select program's name.
pub const SELECT: &str = "steer_attached";

const NEEDS: &str = "load the program for attached servers (this needs Linux 5.12 or newer, \
                     CAP_BPF and CAP_PERFMON; `srv doctor` says what is missing)";

/// How the select program reads the kernel's memory; the best way is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reads {
    /// It reads nothing, so it knows neither queues nor sleeping workers.
    Nothing,
    /// It calls `bpf_probe_read_kernel`, which costs about 70 ns each time.
    ByHelper,
    /// It uses plain loads, which cost a few ns each (measured on Linux 6.18).
    Directly,
}

impl Reads {
    /// The name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::ByHelper => "by helper",
            Self::Directly => "directly",
        }
    }
}

/// The object, with its select program loaded.
pub struct Loaded {
    /// The whole object.
    pub ebpf: Ebpf,
    /// How the program reads the kernel's memory.
    pub reads: Reads,
    /// Which signals it can go by. Another program counts live connections.
    pub signals: Signals,
}

/// Loads the program that reads in the way `at_best`, or in the next best way that works.
///
/// # Errors
/// The kernel refuses even the program that reads nothing, or this build carries no program.
pub fn load(at_best: Reads) -> anyhow::Result<Loaded> {
    let kernel = Btf::of_kernel();
    let told = kernel.as_ref();
    let Readable {
        offsets,
        queues,
        sleep,
    } = offsets::find(told.map_err(|error| anyhow::anyhow!("{error:#}")));
    let mut signals = Signals {
        queues: queues.into(),
        sleep: sleep.into(),
        live: Signal::Missing("the program that counts connections is not loaded yet".into()),
    };
    if let Ok(kernel) = kernel
        && offsets != Offsets::default()
    {
        match reading(&kernel, offsets, at_best) {
            Ok((ebpf, reads)) => {
                return Ok(Loaded {
                    ebpf,
                    reads,
                    signals,
                });
            }
            Err(error) => signals.set_unreadable(&error),
        }
    }
    Ok(Loaded {
        ebpf: with(object::built()?, &Offsets::default())?,
        reads: Reads::Nothing,
        signals,
    })
}

/// Loads the program that reads the fields at `offsets`.
fn reading(kernel: &Btf, offsets: Offsets, at_best: Reads) -> anyhow::Result<(Ebpf, Reads)> {
    ensure!(
        at_best != Reads::Nothing,
        "the caller asked for a program that reads nothing"
    );
    if at_best == Reads::Directly
        && let Ok(ebpf) = reading_directly(kernel, offsets)
    {
        return Ok((ebpf, Reads::Directly));
    }
    Ok((with(object::built()?, &offsets)?, Reads::ByHelper))
}

fn reading_directly(kernel: &Btf, offsets: Offsets) -> anyhow::Result<Ebpf> {
    let offsets = Offsets {
        reads_directly: 1,
        ..offsets
    };
    with(&object::reading_directly(kernel)?, &offsets)
}

fn with(object: &[u8], offsets: &Offsets) -> anyhow::Result<Ebpf> {
    let words = offsets.words();
    let mut loader = loader();
    let loader = loader.override_global("OFFSETS", &words[..], true);
    let mut ebpf = loader.load(object).context(NEEDS)?;
    program(&mut ebpf, SELECT).context(NEEDS)?;
    Ok(ebpf)
}
