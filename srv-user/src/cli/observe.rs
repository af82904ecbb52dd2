//! The command line of `srv observe`.

use std::process::ExitCode;

use anyhow::ensure;
use clap::Args;

use super::attach::GroupArgs;
use crate::attach::observe::{self, ObserveOptions};

/// The arguments of `srv observe`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The number of accepts of a process is the number of connections that it closed in the interval, \
plus the growth of the number that it has open. srv observe counts by local port. It does not \
count a connection that ends by a reset. If each thread of a process accepts by itself \
(HAProxy), it shows each thread with the connections that the thread closed.

After the verdict, the line `hint:` says whether the server would gain by `srv run`, and the command \
for that. If the process has replaced its command line, COMMAND stands for it. If the server is under \
`srv run` already, the line says so, and whether the server is steered.

Requirements: to count, srv observe needs CAP_BPF and CAP_PERFMON. Without them the verdict goes \
by the accept queues alone. To see the processes of other users, it needs CAP_SYS_PTRACE.

Signals: SIGTERM and SIGINT end srv observe.

Exit codes, for the last report: 0 if the workers share evenly. 1 if srv cannot observe the \
server. 2 if the command line is wrong. 3 if one worker accepts much more than its share, or if \
connections wait at the socket of one worker while the queue of another is empty. 4 if a verdict \
is not possible: too few connections came, there is one worker, or srv cannot count accepts.")]
pub struct ObserveArgs {
    /// The server to observe.
    #[command(flatten)]
    pub group: GroupArgs,

    /// Interval of each report, such as 10s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub interval: humantime::Duration,

    /// Print one report after one interval, and exit
    #[arg(long)]
    pub once: bool,

    /// Print JSON, one line for each report
    #[arg(long)]
    pub json: bool,
}

impl ObserveArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The reason why the server cannot be observed.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        ensure!(
            !self.interval.is_zero(),
            "observe for --interval 0s: expected a time above 0, such as 1s"
        );
        observe::run(&ObserveOptions {
            target: self.group.target()?,
            interval: self.interval.into(),
            once: self.once,
            json: self.json,
        })
    }
}
