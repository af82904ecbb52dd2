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
use crate::values::{ListenAddr, LogFormat, PolicyName, policies};

/// What `srv attach` may be told.
#[derive(Debug, Args)]
#[command(after_long_help = "\
What it needs: each worker of the server has a listening socket of its own \
(SO_REUSEPORT), and this process CAP_SYS_PTRACE, CAP_BPF and CAP_PERFMON. \
`srv doctor` says what is missing; docs/attach.md says more.

Signals: SIGTERM, SIGINT and SIGQUIT detach and end it. SIGHUP (a terminal that is \
closed, a reload), SIGUSR1 and SIGUSR2 have no effect.

Exit codes: 0 after a stop by a signal (it has detached then), or if --once attached. 3 if \
there is nothing to choose between: all workers share one socket (nothing is attached), or \
with --once there is one socket (the program is attached, and a second socket changes \
nothing without an agent). 1 if it could not attach for another reason. 2 if the command \
line is wrong.")]
pub struct AttachArgs {
    /// Which group.
    #[command(flatten)]
    pub group: GroupArgs,

    /// How the program chooses a worker.
    #[arg(long, value_name = "NAME", default_value = "least", value_parser = policy,
          help = policy_help())]
    pub policy: PolicyName,

    /// Attach and exit; the program goes on, but nobody follows a reload: it
    /// then leaves the choice to the kernel's hash
    #[arg(long, conflicts_with = "control")]
    pub once: bool,

    /// End another agent of this group, or replace a program that somebody
    /// else attached (which cannot be put back)
    #[arg(long)]
    pub take_over: bool,

    /// Control socket to create [default: where `srv status` looks]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Log to stderr as text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,
}

/// Which listener group of another server; by default the only one with several workers.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// The exact address that the server listens on
    #[arg(long, value_name = "ADDR", conflicts_with = "pid")]
    pub listen: Option<ListenAddr>,

    /// The server, by the process id of its master or a worker
    #[arg(long, value_name = "PID", value_parser = process, conflicts_with = "netns")]
    pub pid: Option<Pid>,

    /// Look in the network namespace of this process (needs CAP_SYS_ADMIN)
    #[arg(long, value_name = "PID", value_parser = process)]
    pub netns: Option<Pid>,
}

/// What `srv detach` may be told.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Which group.
    #[command(flatten)]
    pub group: GroupArgs,
}

impl AttachArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The reason why it cannot attach, with its mend.
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
    /// The group cannot be reached.
    pub fn run(&self) -> anyhow::Result<()> {
        println!("{}", detach::run(&self.group.target()?)?);
        Ok(())
    }
}

impl GroupArgs {
    /// The group that is meant.
    ///
    /// # Errors
    /// There is no such process, or it is not clear which group is meant.
    pub fn target(&self) -> anyhow::Result<Target> {
        match (self.listen, self.pid) {
            (Some(ListenAddr(address)), _) => Target::new(address, self.netns),
            (None, Some(pid)) => Target::of_process(pid),
            (None, None) => Target::only(self.netns),
        }
    }
}

/// The exit code where all workers share one socket, or there is one worker.
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
