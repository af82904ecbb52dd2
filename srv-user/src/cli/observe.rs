//! The command line of `srv observe`.

use std::process::ExitCode;

use anyhow::ensure;
use clap::Args;

use super::attach::GroupArgs;
use crate::attach::observe::{self, ObserveOptions};

/// What `srv observe` may be told.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Accepts of a process are the connections that it closed in the interval and those that it \
has open more. They are counted by local port; a connection that ends by a reset is not \
counted. Of a process whose threads accept each by itself (HAProxy), each thread is shown \
with what it closed. Counting takes CAP_BPF and CAP_PERFMON, seeing other users' processes \
CAP_SYS_PTRACE; without the first two the verdict goes by accept queues alone.

Exit codes, of the last report: 0 if the workers share evenly; 3 if one takes much more than its \
share, or connections wait at one worker's socket while another's queue is empty; 4 if \
too few connections came to judge, there is one worker, or accepts cannot be counted. \
1 if the server cannot be observed, 2 if the command line is wrong. SIGTERM and SIGINT \
end it.")]
pub struct ObserveArgs {
    /// Which server [default: the only one that listens with several workers]
    #[command(flatten)]
    pub group: GroupArgs,

    /// Length of a report's interval, such as 10s
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub interval: humantime::Duration,

    /// One report, after one interval
    #[arg(long)]
    pub once: bool,

    /// Print JSON, one report a line
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
