//! `srv attach`, up to the moment at which the program chooses: the lock, the
//! program, what may be replaced.

use std::path::PathBuf;

use anyhow::Context as _;
use rustix::thread::CapabilitySet;
use srv_common::Policy;

use super::detach::end_agent;
use super::follow::Following;
use super::group::{Target, ensure_steerable};
use super::lock::{Lock, Record};
use super::process::ProcessId;
use super::programs::Programs;
use super::refusal::Refusal;
use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::SockDiag;
use srv_steer::program;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// The group.
    pub target: Target,
    /// How to choose.
    pub policy: Policy,
    /// Whether an agent, or a program that is not known, may be replaced.
    pub takes_over: bool,
    /// Where the agent will answer; `None`: it will leave.
    pub control: Option<PathBuf>,
}

/// Attaches.
///
/// # Errors
/// The reason why not, with its mend.
pub fn attach(options: &AttachOptions) -> anyhow::Result<(Following, Lock)> {
    let target = options.target;
    let mut diag = SockDiag::open(target.netns)?;
    // Before anything of another agent is touched, or loaded.
    let listeners = target.listeners(&mut diag)?;
    let owners = Owners::of(&listeners.iter().map(|each| each.inode).collect());
    ensure_steerable(target.address, &listeners, &owners)?;
    let mut lock = lock(options)?;
    // What this user's former agents attached is nobody else's.
    let before = lock.record();
    let is_ours = |record: &Record| {
        let mut cookies = listeners.iter().map(|each| each.cookie);
        cookies.any(|cookie| record.cookies.contains(&cookie))
    };
    let replaces = options.takes_over || before.as_ref().is_some_and(is_ours);
    let begin = || {
        let programs = load(options.policy)?;
        // Before anything is attached: a killed agent's program is to be known.
        let cookies = listeners.iter().map(|each| each.cookie).collect();
        lock.write(&record(options, cookies, programs.program_id())?)?;
        Following::begin(target, diag, programs, replaces)
    };
    match begin() {
        Ok(following) => Ok((following, lock)),
        Err(error) => {
            // What is attached is what was before.
            match before {
                Some(before) => lock.write(&before)?,
                None => lock.remove()?,
            }
            Err(error).with_context(|| format!("attach to {}", target.address))
        }
    }
}

/// What the lock file is to say.
///
/// # Errors
/// There is no `/proc`.
pub fn record(options: &AttachOptions, cookies: Vec<u64>, program: u32) -> anyhow::Result<Record> {
    Ok(Record {
        address: options.target.address,
        namespace: options.target.namespace,
        process: ProcessId::own()?,
        control: options.control.clone(),
        policy: options.policy.name().to_owned(),
        cookies,
        program,
    })
}

fn lock(options: &AttachOptions) -> anyhow::Result<Lock> {
    let Target {
        address, namespace, ..
    } = options.target;
    match Lock::acquire(namespace, address)? {
        Ok(lock) => Ok(lock),
        Err(holder) if options.takes_over => {
            tracing::info!("ending agent {} of {address}", holder.process.pid);
            end_agent(&holder)
        }
        Err(holder) => {
            let pid = holder.process.pid;
            Err(Refusal::AgentRuns { address, pid }.into())
        }
    }
}

fn load(policy: Policy) -> anyhow::Result<Programs> {
    Programs::load(policy).map_err(|error| {
        // What the verifier said has many lines.
        tracing::debug!("{error:#}");
        let lacks = lacking();
        match lacks.is_empty() {
            true => does_not_load(error),
            false => Refusal::MayNotLoad {
                lacks,
                why: error.to_string(),
            }
            .into(),
        }
    })
}

fn does_not_load(error: anyhow::Error) -> anyhow::Error {
    if !program::carries_program() {
        return error;
    }
    let release = rustix::system::uname();
    Refusal::DoesNotLoad {
        why: program::on_one_line(error.chain().map(ToString::to_string)),
        release: release.release().to_string_lossy().into_owned(),
    }
    .into()
}

/// Capabilities without which no program is loaded: for a process without
/// CAP_PERFMON the verifier forbids arithmetic with pointers that the program,
/// even one that reads nothing of the kernel, cannot do without. (Booted with
/// `mitigations=off`, Linux 6.12 loads such a program, and it steers.)
fn lacking() -> Vec<&'static str> {
    let held = rustix::thread::capabilities(None);
    let held = held.map_or(CapabilitySet::empty(), |sets| sets.effective);
    [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ]
    .into_iter()
    .filter(|(one, _)| !held.intersects(*one | CapabilitySet::SYS_ADMIN))
    .map(|(_, name)| name)
    .collect()
}
