//! The command line. Says what can be asked for and how it is written;
//! [`crate::config`] settles what that means.

pub mod attach;
pub mod find;
pub mod load;
pub mod observe;
pub mod query;

use std::io;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use srv_common::MAX_WORKERS;

use crate::ab;
use crate::config::value::{
    Bytes, Count, FileType, ListenAddr, LogFormat, Period, PolicyName, UserName, list, scalar,
    table,
};
use crate::config::{AcceptMode, HEADER_BYTES_MIN};
use crate::rehearsal::RehearsalArgs;
use crate::takeover::SuccessionArgs;
use attach::{AttachArgs, DetachArgs};
use load::LoadArgs;
use observe::ObserveArgs;

/// Steers every new TCP connection, inside the kernel, to the worker that can
/// serve it soonest.
#[derive(Debug, Parser)]
#[command(name = "srv", version = env!("SRV_VERSION"))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const DOCTOR_EXIT_CODES: &str = "\
Exit codes:
  0  srv serve runs here
  1  it does not
  2  with --strict: it runs, but something is degraded or missing";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve HTTP, in the foreground, until SIGTERM or SIGINT
    Serve(Box<ServeArgs>),
    /// Show the workers, connections and steering of a running server and of other servers
    /// that agents steer
    #[command(after_help = "\
Exit codes: 0 if it was found and answers. 1 if not. 3 with --strict if the kernel's hash chooses \
for a group, or that is unknown. 2 if the command line is wrong.")]
    Status(StatusArgs),
    /// Switch the policy of a running server or agent; no connection is lost
    #[command(after_help = CHANGE_CODES)]
    Policy {
        /// hash, random, round-robin, cpu, source, p2c, least or hermes
        name: PolicyName,
        /// Which server.
        #[command(flatten)]
        server: Server,
    },
    /// Have a running server read its --config file again, as SIGHUP does; no
    /// connection is lost
    #[command(after_help = CHANGE_CODES)]
    Reload(Server),
    /// Have a running server replace itself by the binary that is now where its
    /// own was, as SIGUSR2 does; no connection is lost
    #[command(after_help = CHANGE_CODES)]
    Upgrade(Server),
    /// List each listening socket of a running server
    #[command(after_help = "\
Exit codes: 0 if it was found. 1 if not, or it does not answer. 2 if the command line is wrong.")]
    Sockets(Query),
    /// Show how a server's workers share its connections, whether that is a problem, and
    /// what would fix it; changes nothing
    Observe(ObserveArgs),
    /// Steer a server that already runs, from outside, until SIGTERM or SIGINT
    Attach(AttachArgs),
    /// Leave a group to the kernel's hash again, whoever attached a program
    #[command(after_help = "\
Exit codes: 0 if no program is attached any more, also if none was. 1 if it cannot be \
detached, or the agent does not end. 2 if the command line is wrong.")]
    Detach(DetachArgs),
    /// Check what this machine lacks, what that costs and how to mend it
    #[command(after_help = DOCTOR_EXIT_CODES)]
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Fail if anything is degraded or missing (exit code 2)
        #[arg(long)]
        strict: bool,
    },
    /// Compare ways of distributing connections: interleaved arms, the same
    /// draws, a control, and the limit that none can beat
    Ab(Box<AbArgs>),
    /// Send requests to a server and measure how long the answers take
    Load(Box<LoadArgs>),
    /// What `serve` starts once per worker
    #[command(hide = true)]
    Worker,
    /// What `serve` starts to try what its workers will be able to do
    #[command(hide = true)]
    Rehearse(RehearsalArgs),
    /// What a server starts to become the next binary
    #[command(hide = true)]
    Succeed(SuccessionArgs),
}

/// What `srv ab` may be told.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AbArgs {
    /// Something else than a run.
    #[command(subcommand)]
    pub other: Option<AbCommand>,

    /// Which: bimodal, half, cheap, cloudflare, hermes-1 to hermes-4,
    /// longlived, burst, hung, rtt
    /// [default: longlived bimodal cheap; with --simulate bimodal]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,

    /// Policies (each also with +ring), ring, shared, shared-herd, blocking,
    /// nginx, nginx-reuseport, haproxy, gunicorn, granian; nginx, haproxy, gunicorn
    /// and granian also with +attach; the first that can run does so twice, as the control
    #[arg(long, value_name = "ARM,ARM", default_value = ab::arm::DEFAULT)]
    pub arms: String,

    /// How often each arm runs; with 3, one sound run in four has a control
    /// that seems to differ, with 5 one in sixteen
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// How often a run is repeated, after all others, during which the
    /// hypervisor took more than 2 % of the CPUs; what it disturbed to the end
    /// is not judged
    #[arg(long, default_value_t = 2)]
    pub repeats: usize,

    /// Seed of the first round's draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Requests per second [default: the scenario's]
    #[arg(long)]
    pub rate: Option<f64>,

    /// Of a round, such as 5s [default: the scenario's]
    #[arg(long)]
    pub duration: Option<humantime::Duration>,

    /// Worker processes of each arm [default: the scenario's]
    #[arg(long)]
    pub workers: Option<usize>,

    /// Put the client behind a path with this delay, such as 50ms
    #[arg(long)]
    pub rtt: Option<humantime::Duration>,

    /// How many connections are kept, in scenarios that keep them [default: the
    /// scenario's]
    #[arg(long, value_name = "COUNT")]
    pub kept: Option<usize>,

    /// The handler burns CPU instead of sleeping
    #[arg(long)]
    pub spin: bool,

    /// Leave out the arms that steer if this process cannot steer, instead of
    /// stopping before anything starts
    #[arg(long)]
    pub unsteered: bool,

    /// Ask for more than the workers can do
    #[arg(long)]
    pub overload: bool,

    /// Simulate instead of running: the same policies before up to 4096
    /// workers, for --duration of simulated time, each round another seed;
    /// srv's own arms only
    #[arg(long)]
    pub simulate: bool,

    /// Where the result goes [default: ab-TIME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What `srv ab` does beside running.
#[derive(Debug, Subcommand)]
pub enum AbCommand {
    /// Compare two runs, before and after a change
    Compare {
        /// result.json, or its folder
        before: PathBuf,
        /// result.json, or its folder
        after: PathBuf,
    },
    /// Make report.html and the plots anew from result.json
    Report {
        /// The folder that a run left
        folder: PathBuf,
    },
}

/// What `srv status` may be told.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// As other questions.
    #[command(flatten)]
    pub ask: Query,
    /// Fail if a group is not steered (exit code 3)
    #[arg(long)]
    pub strict: bool,
}

/// A question to a running server.
#[derive(Debug, Args)]
pub struct Query {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which server.
    #[command(flatten)]
    pub server: Server,
}

/// Which running server.
#[derive(Debug, Args)]
pub struct Server {
    /// The control socket of the server or agent [default: that of the only server running,
    /// or, if none runs, of the only agent]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// The server that serves on this address, or the agent that steers it
    #[arg(long, value_name = "ADDR", conflicts_with = "control")]
    pub listen: Option<ListenAddr>,
}

impl Server {
    /// Whether it was said which.
    pub fn is_named(&self) -> bool {
        self.control.is_some() || self.listen.is_some()
    }
}

/// Of the commands that ask for a change.
const CHANGE_CODES: &str = "\
Exit codes: 0 if it was done. 1 if it was refused, or no server was found. 2 if the command \
line is wrong.";

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
    /// repeatable; in the file: table [types]. The built-in table knows the usual ones
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::settings;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())
    }

    fn serve(line: &str) -> ServeArgs {
        match parse(line).unwrap().command {
            Command::Serve(args) => *args,
            other => panic!("{line} became {other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_command_line_is_accepted() {
        let args = serve(
            "srv serve --listen 127.0.0.1:0 --listen [::1]:0 --workers 3 --policy round-robin \
             --accept own --root . --config srv.toml --synthetic --worker-header \
             --control /run/srv.sock --backlog 64 --no-bpf --grace 3s --hang-after 100ms --hang-kill 5s \
             --user www-data --log json --fast-open 16 --v6-only=false --header-bytes 32KiB",
        );
        assert_eq!(args.listen.map(|listen| listen.len()), Some(2));
        assert_eq!(args.accept, Some(AcceptMode::Own));
        assert_eq!((args.synthetic, args.v6_only), (Some(true), Some(false)));
        assert_eq!(args.limits.header_bytes, Some(Bytes(32 << 10)));
        for line in [
            "srv status --json --control /run/srv.sock",
            "srv policy least --control /run/srv.sock",
            "srv sockets --json",
            "srv reload --control /run/srv.sock",
            "srv upgrade --control /run/srv.sock",
            "srv doctor --json --strict",
            "srv worker",
        ] {
            parse(line).unwrap();
        }
    }

    #[test]
    fn refusals_name_the_flag_the_value_and_what_is_expected() {
        for (line, value, expected) in [
            (
                "srv serve --policy lest",
                "'lest' for '--policy <NAME>'",
                "p2c, least",
            ),
            (
                "srv serve --accept any",
                "'any' for '--accept <MODE>'",
                "ring, own",
            ),
            (
                "srv serve --workers 257",
                "'257' for '--workers <N>'",
                "from 1 to 256",
            ),
            (
                "srv serve --listen 80",
                "'80' for '--listen <ADDR>'",
                "0.0.0.0:80",
            ),
            ("srv serve --grace 10", "'10' for '--grace <TIME>'", "10s"),
            ("srv policy lest", "'lest' for '<NAME>'", "p2c, least"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(
                error.contains(value) && error.contains(expected),
                "{line}: {error}"
            );
        }
    }

    /// Each flag's `[default: …]`, said aloud, changes nothing.
    #[test]
    fn the_defaults_that_the_help_names_are_the_defaults() {
        let silent = settings(&serve("srv serve")).unwrap();
        let silent = format!("{silent:?}").replace("explicit: false", "explicit: true");
        let command = Cli::command();
        let flags = command.find_subcommand("serve").unwrap().get_arguments();
        let mut tried = 0;
        for flag in flags.filter(|flag| flag.get_long() != Some("help")) {
            let help = flag.get_help().unwrap().to_string();
            let default = help
                .split("[default: ")
                .nth(1)
                .and_then(|rest| rest.split([']', ',']).next());
            // Some defaults are sentences.
            if let Some(default) = default.filter(|default| !default.contains(' ')) {
                let name = flag.get_long().unwrap();
                let said = settings(&serve(&format!("srv serve --{name}={default}"))).unwrap();
                let said = format!("{said:?}").replace("explicit: false", "explicit: true");
                assert_eq!(said, silent, "--{name}");
                tried += 1;
            }
        }
        assert_eq!(tried, 22, "flags whose help names a value as default");
    }

    #[test]
    fn the_worker_command_is_hidden() {
        let help = Cli::command().render_long_help().to_string();
        assert!(
            help.contains("doctor") && !help.contains("  worker"),
            "{help}"
        );
    }
}
