//! The command lines of `srv run` and of the coordinator that it starts.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::run::launch::{self, RunOptions};
use crate::values::{AdminAddr, LogFormat, PolicyName, policies};

/// The arguments of `srv run`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
srv run loads a library into COMMAND and the processes that it starts, and becomes COMMAND: the \
process id, signals, exit code, standard input and output, and sd_notify are those of the server. \
A second process, the coordinator, opens the listening sockets that the server lacks, steers \
between them, and answers `srv status`, `srv sockets` and `srv policy`. It ends after the server. \
If it is killed, the server goes on serving.

With --copies, srv run stays: it passes SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 and \
SIGWINCH on to the copies, and ends with the last of them.

With --capacity, a request is in service from when the process reads it, or has accepted its \
connection, until the process writes to the client. A kept connection without a request does not \
count. Its next request goes to the process that has the connection, whatever its capacity. If no \
process of the server answers anything for a second while connections wait, they are accepted all \
the same. A request that takes longer than 10 to 20 s does not count any more.

Requirements: none to share connections between the workers (the kernel's hash chooses, and a \
worker that is idle takes what waits at a busy one). To steer each connection, CAP_BPF and \
CAP_PERFMON. `srv doctor` says what is missing.

If no library can be loaded into COMMAND, srv run says why, and COMMAND runs as without srv: a \
binary that is linked statically, a Go binary, a binary that is setuid or has file capabilities.

Exit codes: those of COMMAND; with --copies, the first of a copy that is not 0. 126 if COMMAND cannot be executed. 127 if there is no COMMAND of \
that name. 2 if the command line is wrong.")]
pub struct RunArgs {
    /// How the program chooses a worker.
    #[arg(long, value_name = "NAME", default_value = "least",
          help = policies::alternatives(&policies::all()))]
    pub policy: PolicyName,

    /// Load no BPF program: the kernel's hash chooses
    #[arg(long)]
    pub no_bpf: bool,

    /// Run N copies of COMMAND, a server that has one process: they share the ports that they bind,
    /// and srv run starts a copy again that ends by itself. SRV_COPY is the number of each, from 0
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub copies: Option<u32>,

    /// Let each process accept a connection only while it has fewer than N requests in service: for
    /// servers whose threads block while their event loop goes on accepting (granian, gunicorn
    /// gthread, puma with threads). N is the number of threads of a process
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub capacity: Option<u32>,

    /// Control socket to create [default: a path that `srv status` finds]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Where to answer HTTP about the server: an address and a port, beside which the Unix socket
    /// stays; unix: and the path of another Unix socket; or none [default: a Unix socket beside the
    /// control socket]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<AdminAddr>,

    /// Format of the coordinator's log on standard error: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log: LogFormat,

    /// The server and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}

impl RunArgs {
    /// Becomes the server, or runs copies of it until they have ended.
    pub fn run(self) -> ExitCode {
        let name = self.command.first().cloned().unwrap_or_default();
        let ended = launch::run(&RunOptions {
            policy: self.policy,
            uses_bpf: !self.no_bpf,
            control: self.control,
            admin: self.admin,
            log: self.log,
            copies: self.copies,
            capacity: self.capacity,
            command: self.command,
        });
        ended.unwrap_or_else(|error| {
            eprintln!("srv run: execute {}: {error}", name.display());
            code_of(&error)
        })
    }
}

/// As shells and env(1) say it.
fn code_of(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::NotFound => 127.into(),
        _ => 126.into(),
    }
}
