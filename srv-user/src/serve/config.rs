//! What a server is to do: the final [`Settings`]. [`settings`] makes them from the flags and the
//! TOML file. A flag overrules the file, and the file overrules the default. This module binds
//! nothing and starts nothing; whether this machine can fulfil the settings shows later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use crate::values::AccessLog;
use args::{Asked, ServeArgs};
use file::File;
use srv_steer::GroupOptions;

pub use args::{BACKLOG, Serving, Settings};
pub use certificates::Numbered;
pub use changes::Changes;
pub use keys::Places;
pub use limits::{HEADER_BYTES_MIN, LimitArgs, Limits};
pub use listen::{Listen, SocketOptions};
pub use root::Root;
pub use rules::available_cpus;

pub mod args;
mod certificates;
mod changes;
mod doubts;
mod file;
pub mod identity;
mod keys;
mod limits;
mod listen;
mod print;
mod root;
mod rules;
pub mod sites;
mod tables;
pub mod tls;

/// Where `srv serve` listens if neither a flag nor the file says it.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Media types by extension (lower case, without the dot). They overrule the built-in ones.
pub type Types = BTreeMap<String, String>;

/// Makes the settings of `srv serve`. A flag overrules the file, and the file overrules the
/// default.
///
/// # Errors
/// srv cannot use the file, two settings contradict each other, or a path does not lead to
/// what it must. The message says which setting it is, where it was made, and why srv refuses
/// it.
pub fn settings(flags: &ServeArgs) -> Result<Settings> {
    settings_noting(flags, &|_| {})
}

/// As [`settings`], but it calls `note` with each path before it accesses it, since the path's
/// file system may not answer.
///
/// # Errors
/// As [`settings`].
pub fn settings_noting(flags: &ServeArgs, note: &dyn Fn(&Path)) -> Result<Settings> {
    let config = flags.config.as_deref().inspect(|path| note(path));
    let file = config.map(File::read).transpose()?.unwrap_or_default();
    let asked = Asked {
        flags,
        file: &file.args,
        places: &file.places,
        note,
    };
    let settings = asked.settle()?;
    certificates::check(&settings)?;
    Ok(settings)
}

impl Serving {
    /// The folders that workers serve, each once.
    pub fn roots(&self) -> BTreeSet<&Root> {
        let mut roots = self.sites.roots();
        roots.extend(&self.root);
        roots
    }

    /// Whether workers that serve `other` have all that these settings serve, and no more.
    pub fn has_roots_of(&self, other: &Self) -> bool {
        let are_same = self.root == other.root && self.sites == other.sites;
        are_same || self.roots() == other.roots()
    }

    /// Whether workers that serve `other` may do all that these settings need, and no more: their
    /// sandbox has the same folders, and lets them ask the same applications.
    pub fn fits_workers_of(&self, other: &Self) -> bool {
        let may_ask =
            self.sites == other.sites || self.sites.applications() == other.sites.applications();
        may_ask && self.has_roots_of(other)
    }

    /// The name of this root means this folder now.
    pub fn move_root(&mut self, now: &Root) {
        if let Some(root) = &mut self.root
            && root.asked == now.asked
        {
            *root = now.clone();
        }
        self.sites.move_root(now);
    }

    /// The logs of requests, each once.
    pub fn access_logs(&self) -> BTreeSet<&AccessLog> {
        let places = self
            .sites
            .list()
            .iter()
            .flat_map(sites::SiteSettings::places);
        let logs = places.filter_map(|place| place.access_log.as_ref());
        logs.chain(&self.access_log).collect()
    }

    /// The key that says which folders are served.
    pub fn key_of_roots(&self) -> &'static str {
        match self.sites.is_empty() {
            true => "root",
            false => "site",
        }
    }
}

impl Settings {
    /// How a message names a key: by the place where it was set.
    pub fn place(&self, key: &str) -> String {
        self.places.of(key)
    }

    /// The settings of a listener group and its steering.
    pub fn group(&self) -> GroupOptions {
        let mut options = GroupOptions::default();
        options.accept = self.serving.accept;
        options.workers = self.workers;
        options.backlog = self.backlog;
        options.fast_open = self.fast_open;
        options.v6_only = self.v6_only;
        options.nonblocking = true;
        options.defer_accept = true;
        options.no_delay = true;
        options.steer = self.bpf;
        options.policy = self.policy;
        options.stall_after = self.hang_after;
        options
    }

    /// As [`group`](Self::group), for the `nth` address. The sockets of a server that was joined are
    /// that server's.
    pub fn group_of(&self, nth: usize) -> GroupOptions {
        let mut options = self.group();
        if let Some(own) = self.sockets.get(nth).filter(|_| !self.join) {
            options.backlog = own.backlog;
            options.fast_open = own.fast_open;
            options.v6_only = own.v6_only;
        }
        options
    }

    /// Whether srv steers connections if the kernel allows it.
    pub fn steers(&self) -> bool {
        self.bpf && self.serving.accept.has_own_listeners()
    }
}
