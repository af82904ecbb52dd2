//! The admin sockets of a server under `srv run`. Without them, the server is steered all the same.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::event::Event;
use crate::control::admin::{Admin, AdminSockets, Launch};
use crate::values::{AdminAddr, LogFormat};

/// If the coordinator before this one was killed, its admin process ends, and so closes the
/// sockets, within this time.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// The sockets, which may not be free at first.
pub(super) struct Opening {
    /// Where the control socket is; `None` if there is none, and then no admin socket either.
    control: Option<PathBuf>,
    asked: Option<AdminAddr>,
    log: LogFormat,
    until: Instant,
    admin: Option<Admin>,
    is_over: bool,
}

impl Opening {
    /// Nothing is open yet.
    pub(super) fn new(control: Option<PathBuf>, asked: Option<AdminAddr>, log: LogFormat) -> Self {
        Self {
            control,
            asked,
            log,
            until: Instant::now() + CLOSED_WITHIN,
            admin: None,
            is_over: false,
        }
    }

    /// Opens them, unless they are open or the time for it is over.
    pub(super) fn attempt(&mut self, events: &UnboundedSender<Event>) {
        let Some(control) = self.control.as_ref().filter(|_| !self.is_over) else {
            return;
        };
        if self.admin.is_some() {
            return;
        }
        match AdminSockets::reopen(self.asked.as_ref(), control) {
            Ok(sockets) => {
                for address in sockets.to_announce() {
                    tracing::info!("admin: answering at {address}");
                }
                let launch = Launch {
                    user: None,
                    log: self.log,
                };
                self.admin = Some(Admin::watch(sockets, launch, events.clone()));
            }
            Err(error) if Instant::now() > self.until => {
                tracing::error!("{error:#}; nothing answers there");
                self.is_over = true;
            }
            Err(_) => {}
        }
    }
}
