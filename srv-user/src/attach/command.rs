//! `srv attach`, up to the moment at which the program chooses: it takes the lock, loads the
//! program, and decides whether another program may be replaced.

use std::path::PathBuf;

use anyhow::Context as _;
use rustix::thread::CapabilitySet;
use srv_common::Policy;

use super::detach::end_agent;
use super::follow::{Following, FormerProgram};
use super::group::{Target, ensure_steerable};
use super::lock::{Lock, Record};
use super::process::ProcessId;
use super::programs::Programs;
use super::refusal::Refusal;
use crate::kernel::owners::Owners;
use crate::kernel::sock_diag::SockDiag;
use crate::values::{AdminAddr, LogFormat};
use srv_steer::program;

/// What to attach to, and how.
#[derive(Clone, Debug)]
pub(crate) struct AttachOptions {
    /// The group.
    pub(crate) target: Target,
    /// How the program chooses.
    pub(crate) policy: Policy,
    /// Whether another agent, or a program that srv does not know, may be replaced.
    pub(crate) takes_over: bool,
    /// Where to answer HTTP about the group; `None` is beside the control socket.
    pub(crate) admin: Option<AdminAddr>,
    /// The format of the log.
    pub(crate) log: LogFormat,
    /// The control socket of the agent; `None` if this process does not stay as an agent.
    pub(crate) control: Option<PathBuf>,
}

/// Attaches the program to the group.
///
/// # Errors
/// The reason why srv cannot attach, with the remedy.
pub(crate) fn attach(options: &AttachOptions) -> anyhow::Result<(Following, Lock)> {
    let target = options.target;
    let mut diag = SockDiag::open(target.netns)?;
    // srv checks the group before it ends another agent or loads a program.
    let listeners = target.listeners(&mut diag)?;
    let owners = Owners::of(&listeners.iter().map(|each| each.inode).collect());
    ensure_steerable(target.address, &listeners, &owners)?;
    let mut lock = lock(options)?;
    // A program that a former agent of this user attached may be replaced.
    let before = lock.record();
    let is_ours = |record: &Record| {
        let mut cookies = listeners.iter().map(|each| each.cookie);
        cookies.any(|cookie| record.cookies.contains(&cookie))
    };
    let former = match options.takes_over || before.as_ref().is_some_and(is_ours) {
        true => FormerProgram::Replace,
        false => FormerProgram::Keep,
    };
    let begin = || {
        let programs = load(options.policy)?;
        // The record is written before the program is attached. If the agent is killed in between,
        // the next one knows the program.
        let cookies = listeners.iter().map(|each| each.cookie).collect();
        lock.write(&record(options, cookies, programs.program_id())?)?;
        Following::begin(target, diag, programs, former)
    };
    match begin() {
        Ok(following) => Ok((following, lock)),
        Err(error) => {
            // Nothing has changed, so the former record is right again.
            match before {
                Some(before) => lock.write(&before)?,
                None => lock.remove()?,
            }
            Err(error).with_context(|| format!("attach to {}", target.address))
        }
    }
}

/// The record for the lock file.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn record(
    options: &AttachOptions,
    cookies: Vec<u64>,
    program: u32,
) -> anyhow::Result<Record> {
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
            tracing::info!("end agent {} of {address}", holder.process.pid);
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
        // The message of the verifier has many lines.
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

/// The missing capabilities without which the kernel loads no program. Without CAP_PERFMON the
/// verifier forbids arithmetic with pointers, which even the program that reads no kernel memory
/// needs. (If Linux 6.12 is booted with `mitigations=off`, it loads such a program, and the program
/// steers.)
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
