//! From what was asked for to [`Settings`]: flags win over the file, the file
//! over the defaults, and what does not go together is refused. Values by
//! themselves were checked when they were parsed ([`crate::values`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use srv_common::{MAX_WORKERS, Policy};

use super::Types;
use super::file::File;
use super::{Limits, Root, Serving, Settings};
use crate::serve::config::args::{LimitArgs, ServeArgs};
use crate::serve::sandbox::User;
use crate::steering::accept_mode::AcceptMode;
use crate::steering::options::ensure_workers_fit;
use crate::values::{FileType, LogFormat};

/// Where `srv serve` listens when nothing else is said.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Accept queue limit when nothing else is said: the kernel's default of
/// net.core.somaxconn, to which it cuts any larger one.
pub const BACKLOG: u32 = 4096;
const GRACE: Duration = Duration::from_secs(10);
const UPGRADE_WITHIN: Duration = Duration::from_secs(30);
const HANG_AFTER: Duration = Duration::from_millis(100);
/// Media types go to workers in a message with everything else, which has 64 KiB.
const TYPES_BYTES_MAX: usize = 16 << 10;
/// Longest path of a Unix socket: `sun_path` less its terminating zero.
const SOCKET_PATH_MAX: usize = 107;

/// Settles what `srv serve` does: flags win over the file, the file over the
/// defaults.
///
/// # Errors
/// The file cannot be used, or two settings contradict each other, or a path
/// is not what it must be; the message says which, where it was asked for and
/// why it is refused.
pub fn settings(flags: &ServeArgs) -> Result<Settings> {
    settings_noting(flags, &|_| {})
}

/// As [`settings`]; `note` hears of each path before it is looked at, since its file
/// system may not answer.
///
/// # Errors
/// As [`settings`].
pub fn settings_noting(flags: &ServeArgs, note: &dyn Fn(&Path)) -> Result<Settings> {
    let config = flags.config.as_deref().inspect(|path| note(path));
    let file = config.map(File::read).transpose()?;
    let unsaid = ServeArgs::default();
    let asked = Asked {
        flags,
        from_file: file.as_ref().map_or(&unsaid, |file| &file.args),
        file: file.as_ref(),
    };
    let bpf = !asked.get(|args| args.no_bpf).unwrap_or(false);
    let accept = asked.get(|args| args.accept).unwrap_or(AcceptMode::Ring);
    let workers = asked
        .get(|args| args.workers)
        .map_or_else(available_cpus, |count| count.0);
    Ok(Settings {
        listen: asked.listen()?,
        workers,
        policy: asked.policy(accept, bpf, workers)?,
        policy_is_explicit: asked.get(|args| args.policy).is_some(),
        backlog: asked
            .get(|args| args.backlog)
            .map_or(BACKLOG, |count| count.0),
        fast_open: asked.get(|args| args.fast_open).map_or(0, |count| count.0),
        v6_only: asked.get(|args| args.v6_only).unwrap_or(true),
        bpf,
        join: flags.join,
        control: asked.control()?,
        grace: asked
            .get(|args| args.grace)
            .map_or(GRACE, |period| period.0),
        upgrade_within: asked
            .get(|args| args.upgrade_within)
            .map_or(UPGRADE_WITHIN, |period| period.0),
        hang_after: asked
            .get(|args| args.hang_after)
            .map_or(HANG_AFTER, |period| period.0),
        hang_kill: asked.hang_kill()?,
        user: asked.user()?,
        user_is_explicit: asked.get(|args| args.user.clone()).is_some(),
        log_json: asked.get(|args| args.log) == Some(LogFormat::Json),
        serving: Serving {
            accept,
            root: asked.root(note)?,
            dotfiles: asked.get(|args| args.dotfiles).unwrap_or(false),
            types: asked.types()?,
            synthetic: asked.get(|args| args.synthetic).unwrap_or(false),
            worker_header: asked.get(|args| args.worker_header).unwrap_or(false),
            limits: asked.limits(),
        },
    })
}

/// Where a setting was asked for: the flag, or file, line and key.
///
/// # Errors
/// The file cannot be used.
pub fn place(flags: &ServeArgs, key: &str) -> Result<String> {
    let file = flags.config.as_deref().map(File::read).transpose()?;
    let in_file = file.filter(|file| file.has(key));
    Ok(match in_file {
        Some(file) => format!("{}: {key}", file.place(key)),
        None => format!("--{key}"),
    })
}

/// As many workers as CPUs that this process may use: affinity and cgroup
/// quota count.
pub fn available_cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cpus.min(MAX_WORKERS) as u32
}

/// What was asked for, and where.
struct Asked<'a> {
    flags: &'a ServeArgs,
    from_file: &'a ServeArgs,
    file: Option<&'a File>,
}

/// Whether a socket on `whole` gets what comes to `address`, too.
fn includes(whole: SocketAddr, address: SocketAddr, v6_only: bool) -> bool {
    let is_same_family = whole.is_ipv4() == address.is_ipv4();
    let takes_family = is_same_family || (whole.is_ipv6() && !v6_only);
    // Port 0 is a new port each time.
    let is_same_port = whole.port() == address.port() && whole.port() != 0;
    whole.ip().is_unspecified() && takes_family && is_same_port
}

impl Asked<'_> {
    fn get<T>(&self, field: impl Fn(&ServeArgs) -> Option<T>) -> Option<T> {
        field(self.flags).or_else(|| field(self.from_file))
    }

    /// How an error names a setting that was asked for: the flag, or file,
    /// line and key.
    fn place(&self, key: &str, is_flag: bool) -> String {
        match self.file {
            Some(file) if !is_flag => format!("{}: {key}", file.place(key)),
            _ => format!("--{key}"),
        }
    }

    fn listen(&self) -> Result<Vec<SocketAddr>> {
        let Some(listen) = self.get(|args| args.listen.clone()) else {
            return Ok(vec![LISTEN]);
        };
        let place = || self.place("listen", self.flags.listen.is_some());
        if listen.is_empty() {
            bail!(
                "{}: the list is empty; name an address such as {LISTEN}, or leave it out",
                place()
            );
        }
        let listen: Vec<SocketAddr> = listen.into_iter().map(|address| address.0).collect();
        let v6_only = self.get(|args| args.v6_only).unwrap_or(true);
        for (nth, address) in listen.iter().enumerate() {
            if listen[..nth].contains(address) && address.port() != 0 {
                bail!(
                    "{}: {address} is there twice; one group of sockets serves it",
                    place()
                );
            }
            let mut whole = listen.iter().filter(|other| *other != address);
            if let Some(whole) = whole.find(|other| includes(**other, *address, v6_only)) {
                bail!(
                    "{}: {whole} includes {address}, and one address is not served twice; leave \
                     one of the two out",
                    place()
                );
            }
        }
        Ok(listen)
    }

    fn policy(&self, accept: AcceptMode, bpf: bool, workers: u32) -> Result<Policy> {
        let steers = bpf && accept.has_own_listeners();
        let Some(policy) = self.get(|args| args.policy).map(|name| name.0) else {
            return Ok(if steers { Policy::Least } else { Policy::Hash });
        };
        let place = self.place("policy", self.flags.policy.is_some());
        let name = policy.name();
        if self.flags.join {
            bail!(
                "{place} {name}: with --join the running server steers, as it was told; leave \
                 one of the two out (`srv policy {name}` switches that server)"
            );
        }
        if steers || policy == Policy::Hash {
            ensure_workers_fit(policy, workers).with_context(|| format!("{place} {name}"))?;
            return Ok(policy);
        }
        if !bpf {
            bail!(
                "{place} {name} is carried out by the BPF program, which no-bpf leaves out; \
                 drop one of the two"
            );
        }
        bail!(
            "{place} {name} chooses between the workers' own sockets, and with accept {} there is \
             only one; use accept ring or own, or drop the policy",
            accept.name()
        );
    }

    fn user(&self) -> Result<Option<User>> {
        let is_root = rustix::process::geteuid().is_root();
        let Some(name) = self.get(|args| args.user.clone()) else {
            return Ok(is_root.then(User::nobody));
        };
        let user = User::named(&name.0);
        let place = || self.place("user", self.flags.user.is_some());
        user.map(Some).with_context(place)
    }

    fn root(&self, note: &dyn Fn(&Path)) -> Result<Option<Root>> {
        let Some(root) = self.get(|args| args.root.clone()) else {
            return Ok(None);
        };
        note(&root);
        let place = self.place("root", self.flags.root.is_some());
        let root = Root::find(&root).with_context(|| format!("{place} {}", root.display()))?;
        Ok(Some(root))
    }

    /// The file's, and the flags' over them.
    fn types(&self) -> Result<Types> {
        let said = [&self.from_file.types, &self.flags.types];
        let said = said.into_iter().flatten().flatten();
        let types: Types = said
            .map(|FileType { extension, name }| (extension.clone(), name.clone()))
            .collect();
        let bytes: usize = types.iter().map(|(key, name)| key.len() + name.len()).sum();
        if bytes > TYPES_BYTES_MAX {
            bail!(
                "{}: {} extensions with their types have {bytes} bytes; a worker is told \
                 {TYPES_BYTES_MAX} at most",
                self.place("types", self.flags.types.is_some()),
                types.len()
            );
        }
        Ok(types)
    }

    fn control(&self) -> Result<Option<PathBuf>> {
        let control = self.get(|args| args.control.clone());
        if let Some(path) = &control
            && path.as_os_str().len() > SOCKET_PATH_MAX
        {
            let place = self.place("control", self.flags.control.is_some());
            bail!(
                "{place} {}: a socket's path may have {SOCKET_PATH_MAX} bytes at most",
                path.display()
            );
        }
        Ok(control)
    }

    fn hang_kill(&self) -> Result<Duration> {
        let kill = self
            .get(|args| args.hang_kill)
            .map_or(Duration::ZERO, |period| period.0);
        let after = self
            .get(|args| args.hang_after)
            .map_or(HANG_AFTER, |period| period.0);
        let place = || self.place("hang-kill", self.flags.hang_kill.is_some());
        if !kill.is_zero() && (after.is_zero() || kill < after) {
            bail!(
                "{} {kill:?}: only a worker that hangs is killed, and none does before hang-after \
                 ({after:?}, 0s: never); ask for a longer hang-kill, or for a shorter hang-after",
                place()
            );
        }
        Ok(kill)
    }

    fn limits(&self) -> Limits {
        fn or<T>(said: Option<T>, default: &mut T) {
            if let Some(said) = said {
                *default = said;
            }
        }
        let limit =
            |field: fn(&LimitArgs) -> Option<Duration>| self.get(|args| field(&args.limits));
        let mut limits = Limits::default();
        let bytes = self.get(|args| args.limits.header_bytes);
        or(
            bytes.map(|bytes| bytes.0 as usize),
            &mut limits.header_bytes,
        );
        or(
            self.get(|args| args.limits.body_bytes).map(|bytes| bytes.0),
            &mut limits.body_bytes,
        );
        or(
            self.get(|args| args.limits.connections)
                .map(|count| count.0),
            &mut limits.connections,
        );
        or(
            limit(|args| Some(args.header_timeout?.0)),
            &mut limits.header_timeout,
        );
        or(
            limit(|args| Some(args.read_timeout?.0)),
            &mut limits.read_timeout,
        );
        or(
            limit(|args| Some(args.idle_timeout?.0)),
            &mut limits.idle_timeout,
        );
        or(
            limit(|args| Some(args.write_timeout?.0)),
            &mut limits.write_timeout,
        );
        limits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutation::{config, mutated};
    use crate::values::{Bytes, Count, ListenAddr, Period, PolicyName};

    fn listen(text: &str) -> ListenAddr {
        text.parse().unwrap()
    }

    /// Flags that point to a file with this text; the folder must outlive the call.
    fn with_file(folder: &tempfile::TempDir, text: &str) -> ServeArgs {
        let path = folder.path().join("srv.toml");
        std::fs::write(&path, text).unwrap();
        ServeArgs {
            config: Some(path),
            ..ServeArgs::default()
        }
    }

    #[track_caller]
    fn assert_refused(flags: &ServeArgs, parts: &[&str]) {
        let error = format!("{:#}", settings(flags).expect_err("a refusal"));
        for part in parts {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    #[test]
    fn silence_means_the_defaults() {
        let settings = settings(&ServeArgs::default()).unwrap();
        assert_eq!(settings.listen, [LISTEN]);
        assert!((1..=MAX_WORKERS as u32).contains(&settings.workers));
        assert_eq!(settings.policy, Policy::Least);
        assert_eq!(settings.serving.accept, AcceptMode::Ring);
        assert!(settings.bpf && settings.v6_only && !settings.log_json);
        assert!(!settings.serving.synthetic && !settings.serving.worker_header);
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let mut flags = with_file(
            &folder,
            "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nworkers = 3\nsynthetic = true\n\
             worker-header = true\ngrace = \"3s\"\nlog = \"json\"\nbacklog = 7\n\
             [limits]\nbody-bytes = 5\nidle-timeout = \"5s\"",
        );
        flags.listen = Some(vec![listen("[::1]:9")]);
        flags.synthetic = Some(false);
        flags.grace = Some(Period(Duration::from_secs(4)));
        flags.limits.body_bytes = Some(Bytes(6));
        let settings = settings(&flags).unwrap();
        assert_eq!(
            settings.listen,
            ["[::1]:9".parse().unwrap()],
            "not added up"
        );
        assert_eq!((settings.workers, settings.backlog), (3, 7));
        assert_eq!(settings.grace, Duration::from_secs(4));
        assert!(settings.log_json);
        assert!(!settings.serving.synthetic && settings.serving.worker_header);
        let limits = settings.serving.limits;
        assert_eq!(
            (limits.body_bytes, limits.idle_timeout),
            (6, Duration::from_secs(5))
        );
        assert_eq!(limits.read_timeout, Limits::default().read_timeout);
    }

    #[test]
    fn types_of_flags_and_file_add_up_and_flags_win() {
        let folder = tempfile::tempdir().unwrap();
        let mut flags = with_file(&folder, "[types]\na = \"file/a\"\nb = \"file/b\"");
        let said = ["b=flag/b", ".C=flag/c"].map(|text| text.parse().unwrap());
        flags.types = Some(said.into());
        let types = settings(&flags).unwrap().serving.types;
        let types: Vec<_> = types.iter().map(|(key, name)| (&**key, &**name)).collect();
        assert_eq!(types, [("a", "file/a"), ("b", "flag/b"), ("c", "flag/c")]);
        let many = (0..1000).map(|nth| format!("x{nth}=application/x-{nth}").parse().unwrap());
        flags.types = Some(many.collect());
        assert_refused(&flags, &["--types", "1002 extensions", "16384 at most"]);
    }

    #[test]
    fn an_address_twice_is_refused_but_port_0_is_new_each_time() {
        let twice = |text| ServeArgs {
            listen: Some(vec![listen(text), listen("[::]:80"), listen(text)]),
            ..ServeArgs::default()
        };
        assert_refused(
            &twice("0.0.0.0:80"),
            &["--listen: 0.0.0.0:80 is there twice"],
        );
        assert_eq!(settings(&twice("127.0.0.1:0")).unwrap().listen.len(), 3);
    }

    #[test]
    fn an_empty_listen_list_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let flags = with_file(&folder, "\nlisten = []");
        assert_refused(&flags, &["srv.toml:2: listen: the list is empty"]);
    }

    #[test]
    fn a_policy_needs_sockets_to_choose_between() {
        for accept in [
            AcceptMode::Shared,
            AcceptMode::SharedHerd,
            AcceptMode::Blocking,
        ] {
            let with = |policy: Option<Policy>| ServeArgs {
                accept: Some(accept),
                policy: policy.map(PolicyName),
                ..ServeArgs::default()
            };
            assert_eq!(settings(&with(None)).unwrap().policy, Policy::Hash);
            assert_eq!(
                settings(&with(Some(Policy::Hash))).unwrap().policy,
                Policy::Hash
            );
            let place = "--policy p2c chooses between";
            assert_refused(
                &with(Some(Policy::P2c)),
                &[place, accept.name(), "only one"],
            );
        }
        for accept in [AcceptMode::Ring, AcceptMode::Own] {
            let policy = Some(PolicyName(Policy::P2c));
            let flags = ServeArgs {
                accept: Some(accept),
                policy,
                ..ServeArgs::default()
            };
            assert_eq!(settings(&flags).unwrap().policy, Policy::P2c);
        }
    }

    #[test]
    fn a_policy_needs_the_program() {
        let without = |policy: Option<Policy>| ServeArgs {
            no_bpf: Some(true),
            policy: policy.map(PolicyName),
            ..ServeArgs::default()
        };
        assert_eq!(settings(&without(None)).unwrap().policy, Policy::Hash);
        assert_eq!(
            settings(&without(Some(Policy::Hash))).unwrap().policy,
            Policy::Hash
        );
        assert_refused(&without(Some(Policy::Least)), &["--policy least", "no-bpf"]);
    }

    #[test]
    fn a_server_that_joins_has_no_policy_of_its_own() {
        let joining = |policy: Option<Policy>| ServeArgs {
            join: true,
            policy: policy.map(PolicyName),
            ..ServeArgs::default()
        };
        assert!(settings(&joining(None)).unwrap().join);
        assert_refused(
            &joining(Some(Policy::P2c)),
            &["--policy p2c", "--join", "`srv policy p2c`"],
        );
    }

    #[test]
    fn a_policy_may_have_a_bound_on_workers() {
        let with = |workers| ServeArgs {
            workers: Some(Count(workers)),
            policy: Some(PolicyName(Policy::Hermes)),
            ..ServeArgs::default()
        };
        assert_eq!(settings(&with(64)).unwrap().policy, Policy::Hermes);
        assert_refused(
            &with(65),
            &["--policy hermes: it chooses between 64 workers at most and there are 65"],
        );
    }

    #[test]
    fn a_contradiction_points_into_the_file_where_the_setting_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut flags = with_file(&folder, "workers = 2\npolicy = \"least\"");
        flags.accept = Some(AcceptMode::Shared);
        assert_refused(&flags, &["srv.toml:2: policy least chooses between"]);
    }

    #[test]
    fn the_root_must_be_a_folder_and_becomes_canonical() {
        let folder = tempfile::tempdir().unwrap();
        let root = |path: PathBuf| ServeArgs {
            root: Some(path),
            ..ServeArgs::default()
        };
        std::fs::create_dir(folder.path().join("site")).unwrap();
        let settings = settings(&root(folder.path().join("site/../site"))).unwrap();
        assert_eq!(
            settings.serving.root.map(|root| root.path),
            folder.path().join("site").canonicalize().ok()
        );

        let missing = folder.path().join("missing");
        assert_refused(
            &root(missing),
            &["--root", "missing", "No such file or directory"],
        );
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_refused(&root(file), &["--root", "file", "Not a directory"]);
    }

    #[test]
    fn a_root_in_the_file_is_relative_to_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("site")).unwrap();
        let settings = settings(&with_file(&folder, "root = \"site\"")).unwrap();
        assert_eq!(
            settings.serving.root.map(|root| root.path),
            folder.path().join("site").canonicalize().ok()
        );
        assert_refused(
            &with_file(&folder, "\nroot = \"no\""),
            &["srv.toml:2: root", "No such"],
        );
    }

    #[test]
    fn a_control_path_must_fit_into_a_socket_address() {
        let control = |len| ServeArgs {
            control: Some("x".repeat(len).into()),
            ..ServeArgs::default()
        };
        assert!(settings(&control(SOCKET_PATH_MAX)).is_ok());
        assert_refused(&control(SOCKET_PATH_MAX + 1), &["--control", "107 bytes"]);
    }

    #[test]
    fn a_worker_is_not_killed_before_it_hangs() {
        let with = |after, kill| ServeArgs {
            hang_after: Some(Period(Duration::from_millis(after))),
            hang_kill: Some(Period(Duration::from_millis(kill))),
            ..ServeArgs::default()
        };
        assert!(settings(&with(100, 100)).is_ok() && settings(&with(0, 0)).is_ok());
        assert_refused(&with(100, 99), &["--hang-kill 99ms", "(100ms, "]);
        assert_refused(&with(0, 5_000), &["--hang-kill 5s", "0s: never"]);
    }

    #[test]
    fn a_worker_count_that_was_asked_for_is_kept() {
        let flags = ServeArgs {
            workers: Some(Count(256)),
            ..ServeArgs::default()
        };
        assert_eq!(settings(&flags).unwrap().workers, 256);
    }

    #[test]
    fn a_hostile_file_is_refused_at_a_line_of_its_own_or_settled() {
        let folder = tempfile::tempdir().unwrap();
        let seeds = [
            "listen = [\"127.0.0.1:8080\", \"[::1]:80\"]\nworkers = 4\npolicy = \"hermes\"\n",
            "accept = \"own\"\nroot = \".\"\nsynthetic = true\nworker-header = false\n",
            "control = \"/run/srv.sock\"\nbacklog = 128\nfast-open = 16\nv6-only = false\n",
            "no-bpf = true\ngrace = \"5s\"\nhang-after = \"100ms\"\nhang-kill = '5s' # \u{fc}\n",
            "log = \"json\"\n[limits]\nheader-bytes = \"16KiB\"\nbody-bytes = 1048576\n",
            "[limits]\nconnections = 1000\nidle-timeout = \"3s\"\nwrite-timeout = \"4s\"\n",
        ];
        let input = prop::collection::vec(mutated(seeds), 1..4);
        proptest!(config(), |(texts in input)| {
            let text = texts.concat();
            let flags = with_file(&folder, "");
            let path = flags.config.clone().unwrap();
            std::fs::write(&path, &text).unwrap();
            match settings(&flags) {
                Ok(settings) => {
                    prop_assert!((1..=MAX_WORKERS as u32).contains(&settings.workers));
                    prop_assert!(!settings.listen.is_empty());
                    prop_assert!(settings.serving.limits.header_bytes >= 8192);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    prop_assert!(error.contains(path.to_str().unwrap()), "{}", error);
                    let said = error.split_once("srv.toml:").map(|(_, rest)| rest);
                    let line = said.and_then(|said| said.split(':').next()?.parse::<usize>().ok());
                    let lines = 1 + text.iter().filter(|byte| **byte == b'\n').count();
                    prop_assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{}", error);
                }
            }
        });
    }
}
