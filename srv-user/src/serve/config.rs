//! What a server is told to do: the settled [`Settings`]. [`settings`] makes
//! them from the flags and the TOML file: flags win over the file, the file over the defaults.
//! Binds nothing, starts nothing; whether this machine can do it shows later.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use args::{Asked, ServeArgs};
use file::File;
use srv_steer::GroupOptions;

pub use args::{BACKLOG, Serving, Settings};
pub use changes::Changes;
pub use keys::Places;
pub use limits::{HEADER_BYTES_MIN, LimitArgs, Limits};
pub use root::Root;
pub use rules::available_cpus;

pub mod args;
mod changes;
mod file;
mod keys;
mod limits;
mod root;
mod rules;

/// Where `srv serve` listens when nothing else is said.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Media types by extension (lower case, without the dot), before the built-in ones.
pub type Types = BTreeMap<String, String>;

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
    let file = config.map(File::read).transpose()?.unwrap_or_default();
    let asked = Asked {
        flags,
        file: &file.args,
        places: &file.places,
        note,
    };
    asked.settle()
}

impl Settings {
    /// How a message names a key: where it was asked for.
    pub fn place(&self, key: &str) -> String {
        self.places.of(key)
    }

    /// Those that a listener group is opened and steered by.
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

    /// Whether connections are to be steered, if the kernel lets this process.
    pub fn steers(&self) -> bool {
        self.bpf && self.serving.accept.has_own_listeners()
    }
}
