//! Which privileges the master keeps, and which user its workers run as.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use rustix::thread::CapabilitySet;
use socket2::{Domain, Socket, Type};

use crate::serve::config::Settings;
use crate::serve::config::args::ServeArgs;
use crate::serve::rehearsal::{self, rehearse};
use crate::serve::sandbox::capabilities::{self, Deeds};
use crate::serve::sandbox::user::User;

/// The user that workers change to. If the settings name no user and the default is not
/// possible, workers run as the user of this process (`None`), and srv logs a warning.
///
/// # Errors
/// If the settings name a user that this process cannot become.
pub(super) fn workers_user(settings: &Settings) -> anyhow::Result<Option<User>> {
    let Some(user) = settings.user else {
        return Ok(None);
    };
    match rehearsal::ensure_possible(user) {
        Ok(()) => Ok(Some(user)),
        Err(error) if settings.user_is_explicit => {
            bail!("run workers as the user that --user names: {error:#}")
        }
        Err(error) => {
            tracing::warn!("workers run as the master's user: {error:#}");
            Ok(None)
        }
    }
}

/// Makes sure that workers which run as `user` can serve the roots.
///
/// # Errors
/// If they cannot. The message says where the root was set.
pub(super) fn ensure_root_is_served(settings: &Settings, user: Option<User>) -> anyhow::Result<()> {
    let Some(user) = user else {
        return Ok(());
    };
    let outcome = rehearse(user, Some(&settings.serving))
        .context("try whether workers can serve the root")?;
    outcome
        .map_err(|refusal| anyhow!(refusal))
        .with_context(|| {
            let place = settings.place(settings.serving.key_of_roots());
            format!(
                "{place}: workers run as user {} of group {}: give that user access to the folder, \
                 or pass another --user",
                user.uid, user.gid
            )
        })
}

/// Whether `act` succeeds with these capabilities alone. A thread tries it.
fn with_only(kept: CapabilitySet, act: impl FnOnce() -> io::Result<()> + Send) -> bool {
    let attempt = || {
        capabilities::keep(kept)?;
        act()
    };
    std::thread::scope(|scope| matches!(scope.spawn(attempt).join(), Ok(Ok(()))))
}

/// Drops the capabilities that a serving master and its successors do not need. This
/// process must have no other thread.
///
/// # Errors
/// What the kernel says.
pub(super) fn drop_the_rest(
    settings: &Settings,
    flags: &ServeArgs,
    user: Option<User>,
    binary: &Path,
) -> anyhow::Result<()> {
    let ports_from = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let ports_from = ports_from.ok().and_then(|port| port.trim().parse().ok());
    let ports_from = ports_from.unwrap_or(1024);
    let is_low = |port| port != 0 && port < ports_from;
    let mut deeds = Deeds {
        changes_user: user.is_some(),
        steers: settings.bpf && settings.serving.accept.has_own_listeners(),
        binds_low_ports: settings.listen.iter().any(|address| is_low(address.port())),
        administers_filters: false,
        reads_private_files: false,
    };
    let held = capabilities::held();
    let kept = deeds.capabilities(held);
    deeds.administers_filters = !with_only(kept, || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        srv_steer::drop_syns(&socket)
    });
    let config = flags.config.as_deref();
    let roots = settings.serving.roots();
    let certificates = settings.serving.certificates();
    deeds.reads_private_files = !with_only(kept, || {
        let mut roots = roots.iter();
        roots.try_for_each(|root| std::fs::read_dir(&root.asked).map(drop))?;
        let mut files = certificates.list.iter().flat_map(|tls| tls.files());
        files.try_for_each(|file| File::open(file).map(drop))?;
        config.map_or(Ok(()), |config| File::open(config).map(drop))?;
        File::open(binary).map(drop)
    });
    let kept = deeds.capabilities(held);
    capabilities::keep(kept).context("drop the capabilities that are not needed any more")
}
