//! What `srv serve` can be told, by flags or by the TOML file, and how it is written. The
//! settings that follow from it are [`super::settings`]'.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use srv_common::MAX_WORKERS;

use super::HEADER_BYTES_MIN;
use crate::steering::accept_mode::AcceptMode;
use crate::values::{
    Bytes, Count, FileType, ListenAddr, LogFormat, Period, PolicyName, UserName, list, scalar,
    table,
};

/// What `srv serve` may be told, by flags or, under the same names, by the
/// TOML file. `None`: not said.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(after_long_help = "\
Signals to the process that was started:
  SIGTERM, SIGINT  stop: answer what has arrived, within --grace; a second one, at least
                   300 ms later, kills the workers that are left
  SIGQUIT          stop, for as long as the requests in service take
  SIGHUP           read --config again, as `srv reload` does
  SIGUSR1          started by systemd: stop, and leave the listeners to the next server
                   (RestartKillSignal=SIGUSR1); otherwise no effect
  SIGUSR2          replace the binary, as `srv upgrade` does
A worker drains and is replaced at SIGTERM; it leaves the others to its master.")]
pub struct ServeArgs {
    /// Address and port, repeatable; port 0: any free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "list")]
    pub listen: Option<Vec<ListenAddr>>,

    /// Worker processes, 1 to 256 [default: one for each CPU available]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub workers: Option<Count<1, { MAX_WORKERS as u32 }>>,

    /// Which worker gets a new connection [default: least, or hash if unsteered]
    ///
    ///   hash         the kernel's own choice; no program is attached
    ///   random       any
    ///   round-robin  each in turn
    ///   cpu          the worker of the CPU that handled the SYN
    ///   source       the same client address, the same worker
    ///   p2c          the better of two random ones
    ///   least        the one with the least outstanding work
    ///   hermes       any that the workers' own filter lets pass (SIGCOMM 2025), for comparison;
    ///                64 workers at most
    ///
    /// All but hash need the BPF program: not with --no-bpf, nor where all workers share
    /// a socket (--accept shared, shared-herd, blocking)
    #[arg(long, value_name = "NAME", verbatim_doc_comment)]
    #[serde(deserialize_with = "scalar")]
    pub policy: Option<PolicyName>,

    /// How workers come by connections [default: ring]
    ///
    ///   ring         a socket each; an idle worker also takes what waits at its siblings'
    ///   own          a socket each, and only that
    ///   shared       one socket, one worker woken (EPOLLEXCLUSIVE)
    ///   shared-herd  one socket, every worker woken
    ///   blocking     one socket, a blocking accept in each worker
    #[arg(long, value_name = "MODE", verbatim_doc_comment)]
    #[serde(deserialize_with = "scalar")]
    pub accept: Option<AcceptMode>,

    /// Join the server that this user already runs on these addresses (the one that
    /// --control names, else found): its program steers between both servers' workers,
    /// and they share one ring. Listeners and policy are that server's
    #[arg(long)]
    #[serde(skip)]
    pub join: bool,

    /// Folder to serve, which --user must be able to read. If the name comes to mean another
    /// folder (made anew, a switched link), srv follows it [default: a built-in welcome page]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Serve files and folders whose names begin with a dot; /.well-known is served
    /// either way [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    pub dotfiles: Option<bool>,

    /// Content-Type of files with this extension, such as wasm=application/wasm,
    /// repeatable; in the file: table `[types]`. The built-in table knows the usual ones
    #[arg(long, value_name = "EXT=TYPE")]
    #[serde(deserialize_with = "table")]
    pub types: Option<Vec<FileType>>,

    /// Whom workers run as: a name, UID or UID:GID; they have no capability and no
    /// other group [default: nobody if started by root, else who starts it]
    #[arg(long, value_name = "USER")]
    #[serde(deserialize_with = "scalar")]
    pub user: Option<UserName>,

    /// TOML file with these flags as keys; flags win. Read again at SIGHUP and
    /// by `srv reload`: workers, policy, root, limits and what else is about
    /// serving; addresses, accept mode and the like need a new start
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Answer GET /work?sleep_us=N, ?spin_us=N and ?bytes=N [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    pub synthetic: Option<bool>,

    /// Add X-Worker: SLOT to every response to a well-formed request [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    pub worker_header: Option<bool>,

    /// Control socket to create, or, with --join, of the server to join [default: where
    /// the other commands look]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Accept queue limit per socket, cut to net.core.somaxconn [default: 4096]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub backlog: Option<Count<1, { i32::MAX as u32 }>>,

    /// TCP Fast Open requests pending per socket; 0: off [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub fast_open: Option<Count<0, { i32::MAX as u32 }>>,

    /// Keep IPv4 clients off IPv6 sockets (0.0.0.0 is theirs) [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    pub v6_only: Option<bool>,

    /// Load no BPF program; the policy is then hash [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    pub no_bpf: Option<bool>,

    /// How long a stop may take; 0s: close at once [default: 10s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub grace: Option<Period<0>>,

    /// How long a new binary may take to come up before the old one goes on
    /// without it [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub upgrade_within: Option<Period<1>>,

    /// A worker stuck for longer gets no new connections; 0s: never [default: 100ms]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub hang_after: Option<Period<0>>,

    /// A worker of which nothing has moved for longer than this, while the master ran, is
    /// killed and replaced; 0s: never [default: 0s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub hang_kill: Option<Period<0>>,

    /// Log to stderr as text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    #[serde(deserialize_with = "scalar")]
    pub log: Option<LogFormat>,

    /// Bounds on what a client may do.
    #[command(flatten)]
    pub limits: LimitArgs,
}

impl ServeArgs {
    /// Makes the flags' paths absolute, so that they mean the same name after the current
    /// directory was removed and made anew.
    ///
    /// # Errors
    /// The current directory is not there any more.
    pub fn anchor(&mut self) -> io::Result<()> {
        for path in [&mut self.root, &mut self.config].into_iter().flatten() {
            *path = std::path::absolute(&path)?;
        }
        Ok(())
    }
}

/// The limits among [`ServeArgs`]: the file's `[limits]` table.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table of limits"
)]
#[command(next_help_heading = "Limits (in the file: table [limits])")]
pub struct LimitArgs {
    /// Largest request line and header together, at least 8KiB; more than 100 header
    /// lines are refused, too [default: 16KiB]
    #[arg(long, value_name = "BYTES")]
    #[serde(deserialize_with = "scalar")]
    pub header_bytes: Option<Bytes<HEADER_BYTES_MIN>>,

    /// Largest request body [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    #[serde(deserialize_with = "scalar")]
    pub body_bytes: Option<Bytes<0>>,

    /// Open connections per worker [default: 16384]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub connections: Option<Count<1, { i32::MAX as u32 }>>,

    /// From the accept or a request's first byte to its header's end [default: 10s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub header_timeout: Option<Period<1>>,

    /// Between two reads of a request body [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub read_timeout: Option<Period<1>>,

    /// Between two requests on one connection [default: 75s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub idle_timeout: Option<Period<1>>,

    /// The client takes nothing of a response for longer than this [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    pub write_timeout: Option<Period<1>>,
}
