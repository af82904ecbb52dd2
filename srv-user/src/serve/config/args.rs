//! The keys: what a user can set for `srv serve`, by flags or in the TOML file, how it is written,
//! what follows from it, and whether a reload can change it. A key is one entry of the table here; a
//! limit is one entry in [`super::limits`]. [`super::rules`] knows what a value must fulfil beyond
//! its syntax.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use srv_common::{MAX_WORKERS, Policy};
use toml::Spanned;

use super::keys::{Places, Reload, Said, is_said, keys, name, or};
use super::limits::{LimitArgs, Limits};
use super::listen::{Listen, SocketOptions, listens};
use super::root::Root;
use super::sites::args::SiteArgs;
use super::sites::settle::Settling;
use super::sites::{Files, Sites};
use super::tls::Tls;
use super::{LISTEN, Types, rules};
use crate::serve::sandbox::User;
use crate::values::{
    AccessLog, AccessLogFormat, AccessLogTo, AdminAddr, Count, FileType, Http2, LogFormat, Period,
    PolicyName, UserName, policies, scalar, table,
};
use srv_steer::AcceptMode;

/// The default limit of an accept queue. It is the kernel's default of net.core.somaxconn, and
/// the kernel reduces any larger limit to that sysctl.
pub const BACKLOG: u32 = 4096;

keys! {
/// What a user can set for `srv serve`, by flags or, under the same names, in the
/// TOML file. `None`: it is not set.
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
    /// Address and port, repeatable; port 0: any free one; in the file also: tables `[[listen]]`
    /// with address, name, backlog, fast-open, v6-only and tls [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "listens")]
    listen: Option<Vec<Listen>>
        => Settings.listen: Vec<SocketAddr> =
            |said, asked| rules::listen(said, asked.v6_only()?), Fixed
        => Settings.sockets: Vec<SocketOptions> = |said, asked| {
            let all = SocketOptions {
                backlog: asked.backlog()?,
                fast_open: asked.fast_open()?,
                v6_only: asked.v6_only()?,
            };
            let listen = said.value().unwrap_or_else(|| vec![Listen::on(LISTEN)]);
            Ok(listen.iter().map(|one| one.options(all)).collect())
        }, Fixed
        => Settings.listener_names: Vec<Option<String>> =
            |said, _| rules::listener_names(said), Unlisted
        => Serving.https: Vec<bool> = |said, asked| Ok(rules::https(said, asked.has_tls())), Fixed;

    /// Worker processes, 1 to 256 [default: one for each CPU available]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    workers: Option<Count<1, { MAX_WORKERS as u32 }>>
        => Settings.workers: u32 = |said, _| Ok(rules::workers(said)), Live;

    /// How the program chooses a worker.
    #[arg(long, value_name = "NAME", help = POLICY_HELP, long_help = policy_help())]
    #[serde(deserialize_with = "scalar")]
    policy: Option<PolicyName>
        => Settings.policy: Policy = |said, asked| {
            let (accept, bpf, workers) = (asked.accept()?, asked.bpf()?, asked.workers()?);
            rules::policy(said, asked.join()?, accept, bpf, workers)
        }, Live
        => Settings.policy_is_explicit: bool = is_said, Unlisted;

    /// How workers get connections [default: ring]
    ///
    ///   ring         each worker has a socket; an idle worker also accepts from its siblings'
    ///   own          each worker has a socket, and accepts from that one only
    ///   shared       one socket; a connection wakes one worker (EPOLLEXCLUSIVE)
    ///   shared-herd  one socket; a connection wakes every worker
    ///   blocking     one socket; each worker blocks in accept
    #[arg(long, value_name = "MODE", verbatim_doc_comment)]
    #[serde(deserialize_with = "scalar")]
    accept: Option<AcceptMode>
        => Serving.accept: AcceptMode = or(AcceptMode::Ring), Fixed;

    /// Join the server that this user already runs on these addresses. srv finds it, or
    /// --control names it. That server's program steers between the workers of both, and
    /// they share one ring. The listeners and the policy are that server's
    #[arg(long)]
    #[serde(skip)]
    join: bool
        => Settings.join: bool = |said, _| Ok(*said.by_flag()), Unlisted;

    /// Folder to serve; --user must be able to read it. If the name later means another folder
    /// (a new one, or a changed link), srv serves that one [default: a built-in welcome page]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>
        => Serving.root: Option<Root> = |said, asked| rules::root(said, asked.note), Live;

    /// Serve files and folders whose names begin with a dot; srv always serves
    /// /.well-known [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    dotfiles: Option<bool>
        => Serving.dotfiles: bool = or(false), Live;

    /// Content-Type of files with this extension, such as wasm=application/wasm,
    /// repeatable; in the file: table `[types]`. The built-in table knows the usual ones
    #[arg(long, value_name = "EXT=TYPE")]
    #[serde(deserialize_with = "table")]
    types: Option<Vec<FileType>>
        => Serving.types: Types = |said, _| rules::types(said), Live;

    /// The sites, each a table `[[site]]` of the file; docs/sites.md has their keys. Without one,
    /// the server has one site, which `root`, `dotfiles` and `types` describe.
    #[arg(skip)]
    site: Option<Vec<Spanned<SiteArgs>>>
        => Serving.sites: Sites =
            |said, asked| rules::sites(said, asked.place_of_root(), &asked.settling()?), Live;

    /// PEM file with the certificate for TLS, followed by those of its authorities; a site of
    /// the file may have its own. Unless a table `[[listen]]` says by `tls` which addresses speak
    /// TLS, all do
    #[arg(long, value_name = "PATH")]
    tls_certificate: Option<PathBuf>
        => Serving.tls: Option<Tls> = |said, asked| {
            rules::tls(said, &asked.said("tls_key", |args| &args.tls_key), asked.note)
        }, Live;

    /// PEM file with the private key of --tls-certificate; only the master reads it
    #[arg(long, value_name = "PATH")]
    tls_key: Option<PathBuf>;

    /// Which connections may speak HTTP/2 [default: tls]
    ///
    ///   tls     those with TLS, if the client offers it (ALPN)
    ///   always  others, too, if the client begins with it (prior knowledge)
    ///   never   none
    #[arg(long, value_name = "WHICH", verbatim_doc_comment)]
    #[serde(deserialize_with = "scalar")]
    http2: Option<Http2>
        => Serving.http2: Http2 = or(Http2::Tls), Live;

    /// User for the workers: a name, UID or UID:GID. They get no capabilities and no
    /// supplementary groups [default: nobody if root starts srv, else the user that starts it]
    #[arg(long, value_name = "USER")]
    #[serde(deserialize_with = "scalar")]
    user: Option<UserName>
        => Settings.user: Option<User> = |said, _| rules::user(said), Fixed
        => Settings.user_is_explicit: bool = is_said, Unlisted;

    /// TOML file with these flags as keys; a flag overrules its key. At SIGHUP and `srv reload`,
    /// srv reads it again: workers, policy, root, limits and other settings of serving change;
    /// addresses, accept mode and the like need a new start
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>;

    /// Print the settings that flags, file and defaults make, as a TOML file that means the same,
    /// and do not serve
    #[arg(long)]
    #[serde(skip)]
    print_config: bool;

    /// Answer GET /work?sleep_us=N, ?spin_us=N and ?bytes=N [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    synthetic: Option<bool>
        => Serving.synthetic: bool = or(false), Live;

    /// Add X-Worker: SLOT to every response to a well-formed request [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    worker_header: Option<bool>
        => Serving.worker_header: bool = or(false), Live;

    /// Control socket to create, or, with --join, of the server to join [default: where
    /// the other commands look]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>
        => Settings.control: Option<PathBuf> = |said, _| rules::control(said), Fixed;

    /// Where to answer HTTP about the server (/metrics, /status, /livez, /readyz, a page): an
    /// address and a port, beside which the Unix socket stays; unix: and the path of another Unix
    /// socket; or none [default: a Unix socket beside the control socket]
    #[arg(long, value_name = "ADDR")]
    #[serde(deserialize_with = "scalar")]
    admin: Option<AdminAddr>
        => Settings.admin: Option<AdminAddr> = |said, _| Ok(said.value()), Fixed;

    /// Accept queue limit per socket; the kernel reduces it to net.core.somaxconn
    /// [default: 4096]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    backlog: Option<Count<1, { i32::MAX as u32 }>>
        => Settings.backlog: u32 = or(BACKLOG), Fixed;

    /// TCP Fast Open requests pending per socket; 0: off [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    fast_open: Option<Count<0, { i32::MAX as u32 }>>
        => Settings.fast_open: u32 = or(0), Fixed;

    /// Accept no IPv4 clients on IPv6 sockets; 0.0.0.0 accepts them [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    v6_only: Option<bool>
        => Settings.v6_only: bool = or(true), Fixed;

    /// Load no BPF program; the policy is then hash [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    no_bpf: Option<bool>
        => Settings.bpf: bool = |said, _| Ok(said.value() != Some(true)), Fixed;

    /// How long a stop may take; 0s: close at once [default: 10s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    grace: Option<Period<0>>
        => Settings.grace: Duration = or(Duration::from_secs(10)), Live;

    /// How long to go on serving after a request to stop, while /readyz already says that the server
    /// is not ready: time for load balancers to notice; a second request ends it [default: 0s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    drain_wait: Option<Period<0>>
        => Settings.drain_wait: Duration = or(Duration::ZERO), Live;

    /// How long an upgrade may take to start the new binary; after that, the old one
    /// continues to serve [default: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    upgrade_within: Option<Period<1>>
        => Settings.upgrade_within: Duration = or(Duration::from_secs(30)), Live;

    /// If a worker stalls for longer, it gets no new connections; 0s: never [default: 100ms]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    hang_after: Option<Period<0>>
        => Settings.hang_after: Duration = or(Duration::from_millis(100)), Live;

    /// If a worker shows no progress for longer than this while the master runs, the master
    /// kills and replaces it; 0s: never [default: 0s]
    #[arg(long, value_name = "TIME")]
    #[serde(deserialize_with = "scalar")]
    hang_kill: Option<Period<0>>
        => Settings.hang_kill: Duration =
            |said, asked| rules::hang_kill(said, asked.hang_after()?), Live;

    /// Where each request is logged when it has ended: a file or named pipe, `-` for standard output,
    /// or `syslog`; sites may have others [default: no log]
    #[arg(long, value_name = "WHERE")]
    #[serde(deserialize_with = "scalar")]
    access_log: Option<AccessLogTo>
        => Serving.access_log: Option<AccessLog> = |said, asked| {
            rules::access_log(said, asked.access_log_format()?)
        }, Live;

    /// Form of these lines: common, combined or json [default: combined]
    #[arg(long, value_name = "FORMAT")]
    #[serde(deserialize_with = "scalar")]
    access_log_format: Option<AccessLogFormat>
        => Settings.access_log_format: AccessLogFormat = or(AccessLogFormat::Combined), Live;

    /// Log to stderr as text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    #[serde(deserialize_with = "scalar")]
    log: Option<LogFormat>
        => Settings.log_json: bool = |said, _| Ok(said.value() == Some(LogFormat::Json)), Fixed;

    /// Bounds on what a client may do.
    #[command(flatten)]
    limits: LimitArgs
        => Serving.limits: Limits =
            |said, _| Ok(Limits::settle(said.by_flag(), said.in_file())), Live;
}
}

const POLICY_HELP: &str =
    "Which worker gets a new connection [default: least, or hash without steering]";

fn policy_help() -> String {
    format!(
        "\
{POLICY_HELP}

{}
All but hash need the BPF program. They do not work with --no-bpf, nor if all workers
share a socket (--accept shared, shared-herd, blocking)",
        policies::described()
    )
}

impl ServeArgs {
    /// Makes the flags' paths absolute. If the current directory is later removed and made anew,
    /// they still mean the same names.
    ///
    /// # Errors
    /// The current directory does not exist any more.
    pub fn anchor(&mut self) -> io::Result<()> {
        let paths = [&mut self.root, &mut self.config, &mut self.tls_certificate];
        for path in paths.into_iter().chain([&mut self.tls_key]).flatten() {
            *path = std::path::absolute(&path)?;
        }
        if let Some(log) = &mut self.access_log {
            log.relative_to(&std::env::current_dir()?);
        }
        Ok(())
    }

    /// Makes the paths of a file, which are relative to its folder, relative to the current
    /// directory, or absolute.
    pub(super) fn relative_to(&mut self, folder: &Path) {
        let paths = [&mut self.root, &mut self.control, &mut self.tls_certificate];
        for path in paths.into_iter().chain([&mut self.tls_key]).flatten() {
            *path = folder.join(&path);
        }
        if let Some(AdminAddr::Unix(path)) = &mut self.admin {
            *path = folder.join(&path);
        }
        if let Some(log) = &mut self.access_log {
            log.relative_to(folder);
        }
        for site in self.site.iter_mut().flatten() {
            site.as_mut().relative_to(folder);
        }
    }
}

/// What the user has set.
pub(super) struct Asked<'a> {
    /// By flags.
    pub flags: &'a ServeArgs,
    /// In the file.
    pub file: &'a ServeArgs,
    /// Where the file has its keys.
    pub places: &'a Places,
    /// Is called with each path before it is accessed, since its file system may not answer.
    pub note: &'a dyn Fn(&Path),
}

impl Asked<'_> {
    /// What flag and file say about the key of a field.
    fn said<T: Default + PartialEq>(
        &self,
        field: &'static str,
        of: impl Fn(&ServeArgs) -> &T,
    ) -> Said<'_, T> {
        Said::new(field, of(self.flags), of(self.file), self.places)
    }

    /// Whether a certificate was named outside of all sites.
    fn has_tls(&self) -> bool {
        let said = self.said("tls_certificate", |args| &args.tls_certificate);
        said.value().is_some()
    }

    /// Where a root outside of all sites was set.
    fn place_of_root(&self) -> Option<String> {
        let said = self.said("root", |args| &args.root);
        said.value().map(|_| said.place())
    }

    /// What sites are made with. What holds outside of them holds for each that says nothing else.
    fn settling(&self) -> Result<Settling<'_>> {
        let base = Files {
            dotfiles: self.dotfiles()?,
            types: self.types()?,
            ..Files::default()
        };
        Ok(Settling {
            places: self.places,
            note: self.note,
            listeners: self
                .listener_names()?
                .into_iter()
                .zip(self.listen()?)
                .collect(),
            base,
            access_log: self.access_log()?,
            access_log_format: self.access_log_format()?,
        })
    }
}
