//! The command line of `srv top`.

use clap::Args;

use super::{Server, find};
use crate::top::{self, TopOptions};
use crate::values::Period;

/// The arguments of `srv top`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --control and --listen, srv top shows every server and attached group that this user may \
see, and finds those that are started later. Root sees the servers of all users. If a server ends, \
srv top says so and goes on with the others.

The number of accepts of an attached server is the number of SYNs that the program assigned, less \
the growth of the accept queues, because its workers publish nothing.

Keys: Tab selects a group, p switches the policy of its server after a confirmation, s sorts, f \
chooses what bars and lines show, Space pauses, + and - change the interval, ? lists all keys, q \
and Ctrl-C quit.

Environment: with NO_COLOR srv top uses no colour. If the locale (LC_ALL, LC_CTYPE, LANG) is not \
UTF-8, bars are ASCII. COLUMNS is the width of --once.

Exit codes: 0 if a key or a signal ended it. 1 if no server runs, or the terminal cannot be drawn \
on. 2 if the command line is wrong.")]
pub struct TopArgs {
    /// Which server; all if it is not named.
    #[command(flatten)]
    pub server: Server,

    /// Time between two frames, at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub interval: Period<100>,

    /// Print one frame as text after one interval, and exit
    #[arg(long)]
    pub once: bool,
}

impl TopArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// No server runs, or the terminal cannot be drawn on.
    pub fn run(&self) -> anyhow::Result<()> {
        let control = match self.server.is_named() {
            true => Some(find::one(&self.server)?),
            false => None,
        };
        top::run(&TopOptions {
            control,
            interval: self.interval.into(),
            once: self.once,
        })
    }
}
