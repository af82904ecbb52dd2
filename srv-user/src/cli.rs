//! The command line: what a user can ask for, and how it is written. [`crate::serve::config`]
//! decides what that means.

pub mod admin;
pub mod attach;
pub mod check;
pub mod find;
pub mod observe;
pub mod query;
pub mod run;
pub mod top;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cgi::args::CgiArgs;
use crate::measure::ab::args::AbArgs;
use crate::measure::load::args::LoadArgs;
use crate::run::coordinator::CoordinatorArgs;
use crate::serve::config::args::ServeArgs;
use crate::serve::master::takeover::SuccessionArgs;
use crate::serve::rehearsal::RehearsalArgs;
use crate::values::{ListenAddr, PolicyName, policies};
use admin::AdminArgs;
use attach::{AttachArgs, DetachArgs};
use check::CheckArgs;
use observe::ObserveArgs;
use run::RunArgs;
use top::TopArgs;

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
  0  srv serve works on this machine
  1  srv serve does not work on this machine
  2  with --strict: srv serve works, but something is degraded or missing";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve HTTP, in the foreground, until SIGTERM or SIGINT
    Serve(Box<ServeArgs>),
    /// Test a configuration file as `serve` and `reload` read it, and serve nothing
    #[command(after_help = "\
Exit codes: 0 if a server can be started with the file. 1 if not; the message says file, line and \
column. 2 if the command line is wrong.")]
    Check(CheckArgs),
    /// Show the workers, connections and steering of a running server and of other servers
    /// that agents steer
    #[command(after_help = "\
Exit codes: 0 if srv found the server or agent and it answers. 1 if not. 3 with --strict if the \
kernel's hash chooses for a group, or if that is unknown. 2 if the command line is wrong.")]
    Status(StatusArgs),
    /// Show in the terminal, once a second, how the workers of all servers and attached groups share
    /// their connections, and what waits
    Top(TopArgs),
    /// Switch the policy of a running server or agent; no connection is lost
    #[command(after_help = CHANGE_CODES)]
    Policy {
        /// The policy to switch to.
        #[arg(help = policies::alternatives(&policies::all()))]
        name: PolicyName,
        /// Which server.
        #[command(flatten)]
        server: Server,
    },
    /// Have a running server read its --config file again, as SIGHUP does; no
    /// connection is lost
    #[command(after_help = CHANGE_CODES)]
    Reload(Server),
    /// Have a running server open its access logs anew, after they were renamed; no line is lost
    #[command(after_help = CHANGE_CODES)]
    Reopen(Server),
    /// Have a running server replace itself by the binary that is now where its
    /// own was, as SIGUSR2 does; no connection is lost
    #[command(after_help = CHANGE_CODES)]
    Upgrade(Server),
    /// List each listening socket of a running server
    #[command(after_help = "\
Exit codes: 0 if srv found the server and it answers. 1 if not. 2 if the command line is wrong.")]
    Sockets(Query),
    /// Show how a server's workers share its connections, whether that is a problem, and
    /// what would fix it; changes nothing
    Observe(ObserveArgs),
    /// Start a server with steering inside: its workers share connections as srv's own do
    Run(RunArgs),
    /// Steer a server that already runs, from outside, until SIGTERM or SIGINT
    Attach(AttachArgs),
    /// Detach the program from a group, whichever process attached it: the kernel's hash chooses
    /// again
    #[command(after_help = "\
Exit codes: 0 if no program is attached any more, also if none was. 1 if srv cannot detach \
it, or the agent does not end. 2 if the command line is wrong.")]
    Detach(DetachArgs),
    /// Answer HTTP about a running server: its status, metrics and health, and a page
    Admin(AdminArgs),
    /// Execute CGI scripts for servers that speak FastCGI, until SIGTERM or SIGINT
    Cgi(Box<CgiArgs>),
    /// Check what this machine lacks, what that costs and what to do about it
    #[command(after_help = DOCTOR_EXIT_CODES)]
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Fail if anything is degraded or missing (exit code 2)
        #[arg(long)]
        strict: bool,
    },
    /// Compare ways of distributing connections: interleaved arms, the same draws, a control, and
    /// the single-queue bound, which no arm can beat
    Ab(Box<AbArgs>),
    /// Send requests to a server and measure how long the answers take
    Load(Box<LoadArgs>),
    /// What `serve` starts once per worker
    #[command(hide = true)]
    Worker,
    /// What `serve` starts to write its access logs
    #[command(hide = true)]
    AccessLog,
    /// What `serve` starts to try what its workers will be able to do
    #[command(hide = true)]
    Rehearse(RehearsalArgs),
    /// What a server starts to become the next binary
    #[command(hide = true)]
    Succeed(SuccessionArgs),
    /// What `run` starts beside the server
    #[command(hide = true)]
    Coordinate(CoordinatorArgs),
}

/// The arguments of `srv status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The arguments that all questions have.
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
    /// Whether the arguments name a server.
    pub fn is_named(&self) -> bool {
        self.control.is_some() || self.listen.is_some()
    }
}

/// The exit codes of the commands that ask for a change.
const CHANGE_CODES: &str = "\
Exit codes: 0 if the server made the change. 1 if it refused, or if srv found no server. 2 if \
the command line is wrong.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use srv_common::Policy;

    use super::*;
    use crate::serve::config::settings;
    use crate::values::Bytes;
    use srv_steer::AcceptMode;

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
            "srv top --once --interval 500ms --listen 127.0.0.1:8080",
            "srv check --config srv.toml",
            "srv serve --print-config",
            "srv reload --control /run/srv.sock",
            "srv upgrade --control /run/srv.sock",
            "srv doctor --json --strict",
            "srv worker",
            "srv run --policy least --no-bpf --control /run/a.sock --log json -- nginx -g daemon",
            "srv run python3 -m http.server",
            "srv cgi --listen unix:/run/cgi --root /srv/cgi --user nobody --env A=b --env C --memory 1GiB",
            "srv admin --of 127.0.0.1:80 --listen 127.0.0.1:9000",
            "srv admin --inherits 2 --user 65534:65534 --log json",
            "srv cgi --listen 127.0.0.1:9000 --script /srv/a.cgi --waiting 0 --grace 0s --log json",
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

    /// If a flag is given with the value of its `[default: …]`, nothing changes.
    #[test]
    fn the_defaults_that_the_help_names_are_the_defaults() {
        let silent = settings(&serve("srv serve")).unwrap();
        let silent = format!("{silent:?}").replace("explicit: false", "explicit: true");
        let command = Cli::command();
        let flags = command.find_subcommand("serve").unwrap().get_arguments();
        for flag in flags.filter(|flag| flag.get_long() != Some("help")) {
            let name = flag.get_long().unwrap();
            let help = flag.get_help().unwrap().to_string();
            let default = help.split_once("[default: ");
            let without = [
                "config",
                "join",
                "print-config",
                "tls-certificate",
                "tls-key",
                "types",
            ];
            let has_none = without.contains(&name);
            assert_eq!(default.is_none(), has_none, "--{name}: {help}");
            let default = default.and_then(|(_, rest)| rest.split([']', ',']).next());
            // Some defaults are sentences.
            if let Some(default) = default.filter(|default| !default.contains(' ')) {
                let said = settings(&serve(&format!("srv serve --{name}={default}"))).unwrap();
                let said = format!("{said:?}").replace("explicit: false", "explicit: true");
                assert_eq!(said, silent, "--{name}");
            }
        }
    }

    #[test]
    fn the_help_has_each_policy() {
        let mut command = Cli::command();
        let help = |command: &mut clap::Command, of: &str| {
            let help = command.find_subcommand_mut(of).unwrap().render_long_help();
            // As a reader sees it: without line breaks.
            let help = help.to_string();
            help.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let [serve, policy, attach] =
            ["serve", "policy", "attach"].map(|of| help(&mut command, of));
        for about in Policy::TABLE {
            let name = about.name;
            let described = format!("{name} {}", policies::sentence(about.policy));
            assert!(serve.contains(&described), "{described}: {serve}");
            let is_offered = |help: &str| {
                let mut words = help.split([' ', ',']);
                words.any(|word| word == name)
            };
            assert!(is_offered(&policy), "{name}: {policy}");
            assert_eq!(
                is_offered(&policy_of(&attach)),
                about.attached.is_ok(),
                "{name}: {attach}"
            );
        }
    }

    /// What the help of `srv attach` says of `--policy`.
    fn policy_of(attach: &str) -> String {
        let (_, policy) = attach.split_once("--policy").unwrap();
        let (policy, _) = policy.split_once("--once").unwrap();
        policy.to_owned()
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
