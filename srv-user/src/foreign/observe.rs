//! `srv attach --observe`: attaches nothing and shows how a group shares its
//! connections, so that one sees whether there is anything to gain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use rustix::thread::Timespec;

use super::group::{self, Target};
use super::owners::Owners;
use super::report::ForeignStatus;
use super::sock_diag::SockDiag;
use super::table;
use crate::control::ProgramStatus;
use crate::output;

/// Between two reports.
const EVERY: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Prints one report, or one a second until it is told to stop.
///
/// # Errors
/// Nobody listens there, or what listens cannot be steered.
pub fn run(target: &Target, once: bool, json: bool) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in signal_hook::consts::TERM_SIGNALS {
        signal_hook::flag::register(*signal, stop.clone()).context("catch a signal")?;
    }
    let mut diag = SockDiag::open(target.netns)?;
    let listeners = target.listeners(&mut diag)?;
    let owners = Owners::of(&listeners.iter().map(|each| each.inode).collect());
    group::ensure_steerable(target.address, &listeners, &owners)?;
    loop {
        let status = ForeignStatus::look(target, &mut diag, unattached())?;
        match json {
            true => println!("{}", serde_json::to_string(&status)?),
            false => println!("{}", table::group(&status)),
        }
        if once || output::failure().is_some() {
            return Ok(());
        }
        // A signal ends this sleep, where std's would go on.
        let _ = rustix::thread::nanosleep(&EVERY);
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

fn unattached() -> ProgramStatus {
    ProgramStatus {
        attached: false,
        why_not: Some("only observed".to_owned()),
        runs: 0,
        steered: 0,
        acks: 0,
        fallbacks: BTreeMap::new(),
    }
}
