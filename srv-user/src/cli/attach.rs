//! The command lines of `srv attach` and `srv detach`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rustix::process::Pid;
use srv_common::Policy;

use crate::attach::command::AttachOptions;
use crate::attach::group::Target;
use crate::attach::refusal::Refusal;
use crate::attach::{agent, detach};
use crate::logging;
use crate::values::{AdminAddr, ListenAddr, LogFormat, PolicyName, policies};

/// The arguments of `srv attach`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Requirements: each worker of the server needs a listening socket of its own (SO_REUSEPORT). \
srv attach needs CAP_SYS_PTRACE, CAP_BPF and CAP_PERFMON. `srv doctor` says what is missing. \
docs/attach.md describes the setting of each server.

Signals: SIGTERM, SIGINT and SIGQUIT make srv attach detach the program and end. SIGHUP, \
SIGUSR1 and SIGUSR2 have no effect.

Exit codes: 0 if a signal ended srv attach and it has detached, or if --once has attached. 1 if \
srv could not attach. 2 if the command line is wrong. 3 if there is nothing to choose between. \
Either all workers share one socket, and nothing is attached. Or, with --once, there is one \
socket: the program is attached, but it does not choose after a second socket has joined, since \
no agent tells it.")]
pub struct AttachArgs {
    /// The group to attach to.
    #[command(flatten)]
    pub group: GroupArgs,

    /// How the program chooses a worker.
    #[arg(long, value_name = "NAME", default_value = "least", value_parser = policy,
          help = policy_help())]
    pub policy: PolicyName,

    /// Attach and exit. If the server reloads afterwards, the kernel's hash chooses again
    #[arg(long, conflicts_with = "control")]
    pub once: bool,

    /// If another agent steers this group, end it. If another program is attached, replace it; srv
    /// cannot restore that program
    #[arg(long)]
    pub take_over: bool,

    /// Control socket to create [default: a path that `srv status` finds]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Where to answer HTTP about the group: an address and a port, beside which the Unix socket
    /// stays; unix: and the path of another Unix socket; or none [default: a Unix socket beside the
    /// control socket]
    #[arg(long, value_name = "ADDR", conflicts_with = "once")]
    pub admin: Option<AdminAddr>,

    /// Format of the log on standard error: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,
}

/// The arguments that name a listener group of another server. The default is the only group that
/// has several workers.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// The exact address on which the server listens
    #[arg(long, value_name = "ADDR", conflicts_with = "pid")]
    pub listen: Option<ListenAddr>,

    /// The process id of the server: of its master or of a worker
    #[arg(long, value_name = "PID", value_parser = process, conflicts_with = "netns")]
    pub pid: Option<Pid>,

    /// Search in the network namespace of this process (this needs CAP_SYS_ADMIN)
    #[arg(long, value_name = "PID", value_parser = process)]
    pub netns: Option<Pid>,
}

/// The arguments of `srv detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The group to detach from.
    #[command(flatten)]
    pub group: GroupArgs,
}

impl AttachArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The reason why srv cannot attach, with the remedy.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match self.attach() {
            Err(error) if leaves_nothing_to_choose(&error) => {
                eprintln!("srv: {error:#}");
                Ok(NOTHING_TO_CHOOSE.into())
            }
            attached => attached,
        }
    }

    fn attach(&self) -> anyhow::Result<ExitCode> {
        let target = self.group.target()?;
        logging::start(self.log == LogFormat::Json);
        let options = AttachOptions {
            target,
            policy: self.policy.0,
            takes_over: self.take_over,
            admin: self.admin.clone(),
            log: self.log,
            control: self.control.clone(),
        };
        if !self.once {
            agent::run(options)?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(match agent::attach_once(options)? {
            1 => NOTHING_TO_CHOOSE.into(),
            _ => ExitCode::SUCCESS,
        })
    }
}

impl DetachArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// srv cannot find the group or take a socket of it.
    pub fn run(&self) -> anyhow::Result<()> {
        println!("{}", detach::run(&self.group.target()?)?);
        Ok(())
    }
}

impl GroupArgs {
    /// The group that the arguments name.
    ///
    /// # Errors
    /// There is no such process, or the arguments fit no group or several.
    pub fn target(&self) -> anyhow::Result<Target> {
        match (self.listen, self.pid) {
            (Some(ListenAddr(address)), _) => Target::new(address, self.netns),
            (None, Some(pid)) => Target::of_process(pid),
            (None, None) => Target::only(self.netns),
        }
    }
}

/// The exit code if all workers share one socket, or if there is one worker.
const NOTHING_TO_CHOOSE: u8 = 3;

fn leaves_nothing_to_choose(error: &anyhow::Error) -> bool {
    let refusal = error.chain().find_map(|cause| cause.downcast_ref());
    matches!(refusal, Some(Refusal::SharedSocket { .. }))
}

/// A policy that attached servers have.
fn policy(text: &str) -> Result<PolicyName, String> {
    let expected = || format!("expected one of {}", policies::of_attached().join(", "));
    let named = Policy::TABLE.iter().find(|about| about.name == text);
    let about = named.ok_or_else(expected)?;
    match about.attached {
        Ok(()) => Ok(PolicyName(about.policy)),
        Err(why) => Err(format!("{text} {why}; {}", expected())),
    }
}

fn policy_help() -> String {
    let names = policies::alternatives(&policies::of_attached());
    format!("Which worker gets a new connection: {names}")
}

fn process(text: &str) -> Result<Pid, String> {
    let number = text.parse().ok().and_then(Pid::from_raw);
    number.ok_or_else(|| "expected a process id".to_owned())
}
