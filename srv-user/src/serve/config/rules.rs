//! What a key's value must fulfil beyond its syntax ([`crate::values`] has that), and which keys
//! contradict each other. An error names the place of the key, the reason, and the remedy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use srv_common::{MAX_WORKERS, Policy};
use toml::Spanned;

use super::identity::Identity;
use super::keys::Said;
use super::listen::Listen;
use super::root::Root;
use super::sites::Sites;
use super::sites::args::SiteArgs;
use super::sites::settle::Settling;
use super::tls::Tls;
use super::{LISTEN, Types};
use crate::serve::sandbox::User;
use crate::values::{
    AccessLog, AccessLogFormat, AccessLogTo, Count, FileType, Period, PolicyName, UserName,
};
use srv_steer::AcceptMode;
use srv_steer::ensure_workers_fit;

/// The most bytes of media types. They go to workers in one message with all other settings,
/// which may have 64 KiB.
const TYPES_BYTES_MAX: usize = 16 << 10;
/// The longest path of a Unix socket, bytes: `sun_path` without its terminating zero.
const SOCKET_PATH_MAX: usize = 107;

/// The number of CPUs that this process may use, at most as many as there can be workers. It
/// respects affinity and cgroup quota.
pub fn available_cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cpus.min(MAX_WORKERS) as u32
}

pub(super) fn workers<const MIN: u32, const MAX: u32>(
    said: &Said<'_, Option<Count<MIN, MAX>>>,
) -> u32 {
    said.value().map_or_else(available_cpus, Into::into)
}

pub(super) fn listen(
    said: &Said<'_, Option<Vec<Listen>>>,
    v6_only: bool,
) -> Result<Vec<SocketAddr>> {
    let Some(listen) = said.value() else {
        return Ok(vec![LISTEN]);
    };
    let place = said.place();
    if listen.is_empty() {
        bail!("{place}: the list is empty; name an address such as {LISTEN}, or leave it out");
    }
    let only: Vec<bool> = listen
        .iter()
        .map(|one| one.v6_only.unwrap_or(v6_only))
        .collect();
    let listen: Vec<SocketAddr> = listen.into_iter().map(|one| one.address).collect();
    for (nth, address) in listen.iter().enumerate() {
        if listen[..nth].contains(address) && address.port() != 0 {
            bail!("{place}: {address} is there twice: leave one of them out");
        }
        let mut whole = listen
            .iter()
            .zip(&only)
            .filter(|(other, _)| *other != address);
        if let Some((whole, _)) = whole.find(|(other, only)| includes(**other, *address, **only)) {
            bail!(
                "{place}: {whole} includes {address}, and srv does not serve an address twice: \
                 leave one of the two out"
            );
        }
    }
    Ok(listen)
}

/// The names of the listeners, in the order of their addresses.
pub(super) fn listener_names(said: &Said<'_, Option<Vec<Listen>>>) -> Result<Vec<Option<String>>> {
    let listen = said.value().unwrap_or_else(|| vec![Listen::on(LISTEN)]);
    let names: Vec<_> = listen.into_iter().map(|one| one.name).collect();
    let named = names.iter().flatten();
    for (nth, name) in named.clone().enumerate() {
        if named.clone().take(nth).any(|other| other == name) {
            bail!(
                "{}: two listeners are named {name}: give each a name of its own",
                said.place()
            );
        }
    }
    Ok(names)
}

/// Which addresses speak TLS. If none says it, all do if there is a certificate outside of all sites.
pub(super) fn https(said: &Said<'_, Option<Vec<Listen>>>, has_certificate: bool) -> Vec<bool> {
    let listen = said.value().unwrap_or_else(|| vec![Listen::on(LISTEN)]);
    let is_said = listen.iter().any(|one| one.tls.is_some());
    let by_default = has_certificate && !is_said;
    let tls = listen.iter().map(|one| one.tls.unwrap_or(by_default));
    tls.collect()
}

/// The certificate outside of all sites. Calls `note` with each path before it accesses it.
pub(super) fn tls(
    certificate: &Said<'_, Option<PathBuf>>,
    key: &Said<'_, Option<PathBuf>>,
    note: &dyn Fn(&Path),
) -> Result<Option<Tls>> {
    let (path, key_path) = match (certificate.value(), key.value()) {
        (None, None) => return Ok(None),
        (Some(path), Some(key)) => (path, key),
        (Some(_), None) => bail!(
            "{}: found a certificate without its key: name the key by tls-key",
            certificate.place()
        ),
        (None, Some(_)) => bail!(
            "{}: found a key without its certificate: name the certificate by tls-certificate",
            key.place()
        ),
    };
    note(&path);
    let identity = Identity::read(&path, &key_path);
    let identity = identity.with_context(|| certificate.place())?;
    Ok(Some(Tls {
        identity,
        clients: None,
    }))
}

/// Whether a socket on `whole` also gets the connections to `address`.
fn includes(whole: SocketAddr, address: SocketAddr, v6_only: bool) -> bool {
    let is_same_family = whole.is_ipv4() == address.is_ipv4();
    let takes_family = is_same_family || (whole.is_ipv6() && !v6_only);
    // Port 0 means a new port each time.
    let is_same_port = whole.port() == address.port() && whole.port() != 0;
    whole.ip().is_unspecified() && takes_family && is_same_port
}

pub(super) fn policy(
    said: &Said<'_, Option<PolicyName>>,
    join: bool,
    accept: AcceptMode,
    bpf: bool,
    workers: u32,
) -> Result<Policy> {
    let steers = bpf && accept.has_own_listeners();
    let Some(PolicyName(policy)) = said.value() else {
        return Ok(if steers { Policy::Least } else { Policy::Hash });
    };
    let place = said.place();
    let name = policy.name();
    if join {
        bail!(
            "{place} {name}: with --join, the running server steers by its own policy: leave one \
             of the two out (`srv policy {name}` changes the policy of that server)"
        );
    }
    if steers || policy == Policy::Hash {
        ensure_workers_fit(policy, workers).with_context(|| format!("{place} {name}"))?;
        return Ok(policy);
    }
    if !bpf {
        bail!(
            "{place} {name} needs the BPF program, which no-bpf leaves out: leave one of the \
             two out"
        );
    }
    bail!(
        "{place} {name} chooses between the workers' own sockets, and with accept {} there is \
         only one: use accept ring or own, or leave the policy out",
        accept.name()
    );
}

pub(super) fn user(said: &Said<'_, Option<UserName>>) -> Result<Option<User>> {
    let is_root = rustix::process::geteuid().is_root();
    let Some(name) = said.value() else {
        return Ok(is_root.then(User::nobody));
    };
    User::named(&name.0).map(Some).with_context(|| said.place())
}

/// Calls `note` with the path before it accesses it.
pub(super) fn root(said: &Said<'_, Option<PathBuf>>, note: &dyn Fn(&Path)) -> Result<Option<Root>> {
    let Some(root) = said.value() else {
        return Ok(None);
    };
    note(&root);
    let found = Root::find(&root);
    let found = found.with_context(|| format!("{} {}", said.place(), root.display()))?;
    Ok(Some(found))
}

/// The sites of the file. `root` is where a root outside of them was set.
pub(super) fn sites(
    said: &Said<'_, Option<Vec<Spanned<SiteArgs>>>>,
    root: Option<String>,
    settling: &Settling<'_>,
) -> Result<Sites> {
    let Some(args) = said.in_file() else {
        return Ok(Sites::default());
    };
    if let Some(root) = root {
        bail!(
            "{root}: found a root beside {}, expected it in the [[site]] that it is for",
            said.place()
        );
    }
    settling.settle(args)
}

/// The types of the file and of the flags. A flag overrules the file.
pub(super) fn types(said: &Said<'_, Option<Vec<FileType>>>) -> Result<Types> {
    let both = [said.in_file(), said.by_flag()];
    let types: Types = both
        .into_iter()
        .flatten()
        .flatten()
        .map(|FileType { extension, name }| (extension.clone(), name.clone()))
        .collect();
    let bytes: usize = types.iter().map(|(key, name)| key.len() + name.len()).sum();
    if bytes > TYPES_BYTES_MAX {
        bail!(
            "{}: {} extensions with their types have {bytes} bytes; a message to a worker has \
             room for {TYPES_BYTES_MAX} at most: name fewer",
            said.place(),
            types.len()
        );
    }
    Ok(types)
}

pub(super) fn control(said: &Said<'_, Option<PathBuf>>) -> Result<Option<PathBuf>> {
    let control = said.value();
    if let Some(path) = &control
        && path.as_os_str().len() > SOCKET_PATH_MAX
    {
        bail!(
            "{} {}: a socket's path may have {SOCKET_PATH_MAX} bytes at most: choose a shorter one",
            said.place(),
            path.display()
        );
    }
    Ok(control)
}

pub(super) fn hang_kill(said: &Said<'_, Option<Period<0>>>, after: Duration) -> Result<Duration> {
    let kill = said.value().map_or(Duration::ZERO, Into::into);
    if !kill.is_zero() && (after.is_zero() || kill < after) {
        bail!(
            "{} {kill:?}: srv kills a worker only if it has stalled, and no worker counts as \
             stalled before hang-after ({after:?}, 0s: never); set a longer hang-kill, or a \
             shorter hang-after",
            said.place()
        );
    }
    Ok(kill)
}

/// The log of requests: its path is absolute, since the log writer opens it again later.
///
/// # Errors
/// The path leads to a folder, or the current directory does not exist any more.
pub(super) fn access_log(
    said: &Said<'_, Option<AccessLogTo>>,
    format: AccessLogFormat,
) -> Result<Option<AccessLog>> {
    let log = said.value().map(|to| AccessLog::settle(to, format));
    log.transpose().with_context(|| said.place())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutation::{config, mutated};
    use crate::serve::config::args::ServeArgs;
    use crate::serve::config::{Limits, settings};
    use crate::values::Bytes;

    fn listen(text: &str) -> Listen {
        text.parse().unwrap()
    }

    /// Flags that name a file with this text. The folder must outlive the flags' use.
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
        assert_refused(&flags, &["srv.toml:2:1: listen: the list is empty"]);
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
        assert_refused(&flags, &["srv.toml:2:1: policy least chooses between"]);
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
            &["srv.toml:2:1: root", "No such"],
        );
    }

    #[test]
    fn the_place_of_a_key_is_where_it_was_read_though_the_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut flags = with_file(&folder, "\ngrace = \"3s\"\nfast-open = 7");
        flags.grace = Some(Period(Duration::from_secs(4)));
        let settings = settings(&flags).unwrap();
        std::fs::remove_file(flags.config.unwrap()).unwrap();
        let place = settings.place("fast-open");
        assert!(place.ends_with("srv.toml:3:1: fast-open"), "{place}");
        assert_eq!(settings.place("grace"), "--grace", "the flag wins");
        assert_eq!(settings.place("backlog"), "--backlog", "nothing says it");
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
