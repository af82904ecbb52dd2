//! What a server is told to do: the settled [`Settings`]. [`settings`] makes
//! them from the flags and the TOML file. Binds nothing, starts nothing;
//! whether this machine can do it shows later.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use srv_common::Policy;

use crate::serve::sandbox::User;
use crate::steering::accept_mode::AcceptMode;
use crate::steering::options::GroupOptions;

pub use changes::Changes;
pub use merge::{BACKLOG, LISTEN, available_cpus, place, settings, settings_noting};
pub use root::Root;

pub mod args;
mod changes;
mod file;
mod merge;
mod root;

/// Everything that `srv serve` was told, defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses to listen on, one listener group each.
    pub listen: Vec<SocketAddr>,
    /// Worker processes.
    pub workers: u32,
    /// Steering policy; always `Hash` in the one-socket accept modes.
    pub policy: Policy,
    /// The policy was asked for: without it there is to be no server.
    pub policy_is_explicit: bool,
    /// Accept queue limit of each listening socket.
    pub backlog: u32,
    /// TCP Fast Open queue length; 0 leaves it off.
    pub fast_open: u32,
    /// IPv6 sockets refuse IPv4-mapped peers.
    pub v6_only: bool,
    /// Steer in the kernel; false: hash and ring only.
    pub bpf: bool,
    /// Join the server that runs there.
    pub join: bool,
    /// Where the control socket goes (and the server to join answers); `None`: beside
    /// those of other servers.
    pub control: Option<PathBuf>,
    /// How long a stop may take.
    pub grace: Duration,
    /// How long a successor may take to come up.
    pub upgrade_within: Duration,
    /// A worker away from `epoll_wait` for longer gets no new connections; zero: never.
    pub hang_after: Duration,
    /// One away for longer than this is killed; zero: never.
    pub hang_kill: Duration,
    /// Whom workers run as; `None`: who runs the master.
    pub user: Option<User>,
    /// The user was asked for: as another one there is to be no server.
    pub user_is_explicit: bool,
    /// Log lines as JSON.
    pub log_json: bool,
    /// What the workers need to know.
    pub serving: Serving,
}

impl Settings {
    /// Those that a listener group is opened and steered by.
    pub fn group(&self) -> GroupOptions {
        GroupOptions {
            accept: self.serving.accept,
            workers: self.workers,
            backlog: self.backlog,
            fast_open: self.fast_open,
            v6_only: self.v6_only,
            bpf: self.bpf,
            hang_after: self.hang_after,
        }
    }

    /// Whether connections are to be steered, if the kernel lets this process.
    pub fn steers(&self) -> bool {
        self.bpf && self.serving.accept.has_own_listeners()
    }
}

/// Media types by extension (lower case, without the dot), before the built-in ones.
pub type Types = BTreeMap<String, String>;

/// What a worker is told over its channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// How connections are accepted.
    pub accept: AcceptMode,
    /// Folder to serve; `None`: the built-in welcome page.
    pub root: Option<Root>,
    /// Files whose names begin with a dot are served.
    pub dotfiles: bool,
    /// Media types by extension, before the built-in ones.
    pub types: Types,
    /// `GET /work` exists.
    pub synthetic: bool,
    /// Every response names its worker.
    pub worker_header: bool,
    /// Bounds on what a client may do.
    pub limits: Limits,
}

/// The smallest read buffer that hyper accepts.
pub const HEADER_BYTES_MIN: u64 = 8 << 10;

/// Bounds on what a client may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest request line and header together, at least [`HEADER_BYTES_MIN`].
    pub header_bytes: usize,
    /// Largest request body.
    pub body_bytes: u64,
    /// Open connections per worker.
    pub connections: u32,
    /// From the first byte of a request (or the accept) to the end of its header.
    pub header_timeout: Duration,
    /// Between two reads of a request body.
    pub read_timeout: Duration,
    /// Between two requests on one connection.
    pub idle_timeout: Duration,
    /// Without the client having taken anything of a response.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16 << 10,
            body_bytes: 1 << 20,
            connections: 16 << 10,
            header_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}
