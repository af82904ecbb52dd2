//! The process that answers HTTP about a server (`srv admin`), as the server sees it. The server
//! opens the sockets, and starts the process when something connects there for the first time. The
//! process inherits the sockets, and a channel over which it asks for the status. If it ends,
//! another takes its place; the server never waits for it.
//!
//! Knows no HTTP.

mod channel;
mod process;
mod sockets;

use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use super::Question;
pub use process::{CHANNEL, FIRST_SOCKET, Launch};
use process::{Running, supervise};
pub use sockets::{AdminSockets, Inherited};

/// The sockets and the process. When this is dropped, the process ends, and the socket files are
/// removed.
pub struct Admin {
    sockets: Arc<AdminSockets>,
    running: Running,
    watching: JoinHandle<()>,
}

impl Admin {
    /// Starts the process when something connects to one of the sockets. What it asks arrives as
    /// `events`. A socket that was inherited belongs to this server from now on.
    pub fn watch<E: From<Question> + Send + 'static>(
        mut sockets: AdminSockets,
        launch: Launch,
        events: UnboundedSender<E>,
    ) -> Self {
        sockets.adopt_files();
        let (sockets, running) = (Arc::new(sockets), Running::default());
        let watching = supervise(sockets.clone(), running.clone(), launch, events);
        Self {
            sockets,
            running,
            watching: tokio::spawn(watching),
        }
    }

    /// The sockets, for a successor.
    pub fn sockets(&self) -> &AdminSockets {
        &self.sockets
    }

    /// Leaves the sockets and their files to the successor that has inherited them.
    pub fn leave(self) {
        self.sockets.leave_files();
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.watching.abort();
        if let Some(process) = self.running.get() {
            // Without the channel, which goes with the task, it ends by itself, too.
            let _ = process.signal(Signal::KILL);
        }
    }
}
