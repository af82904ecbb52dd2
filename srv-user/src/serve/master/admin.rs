//! The admin sockets of a server, and the process that answers there, over the server's life.

use std::path::{Path, PathBuf};

use super::Master;
use crate::control::admin::{Admin, AdminSockets, Inherited, Launch};
use crate::control::server_path;
use crate::values::LogFormat;

/// How far the admin sockets are.
#[derive(Default)]
pub(super) enum Answering {
    /// There are none: this server has joined another, or leaves.
    #[default]
    No,
    /// A predecessor still answers there, or at other ones.
    Later(AdminSockets),
    /// A process answers if something connects.
    Yes(Admin),
}

impl Master {
    /// Where the control socket is.
    pub(super) fn control_path(&self) -> anyhow::Result<PathBuf> {
        match &self.settings.control {
            Some(path) => Ok(path.clone()),
            None => server_path(self.groups[0].listeners.address.port()),
        }
    }

    /// Opens the admin sockets, without answering there yet.
    ///
    /// # Errors
    /// The one that `--admin` names cannot be opened.
    pub(super) fn open_admin(&mut self, inherited: Vec<Inherited>) -> anyhow::Result<()> {
        let control = self.control_path()?;
        let sockets = AdminSockets::open(self.settings.admin.as_ref(), &control, inherited)?;
        self.admin = Answering::Later(sockets);
        Ok(())
    }

    /// As [`open_admin`](Self::open_admin), where another server had them just before.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub(super) fn reopen_admin(&mut self, control: &Path) -> anyhow::Result<()> {
        let sockets = AdminSockets::reopen(self.settings.admin.as_ref(), control)?;
        self.admin = Answering::Later(sockets);
        Ok(())
    }

    /// Answers at the admin sockets from now on.
    pub(super) fn answer_admin(&mut self) {
        match std::mem::take(&mut self.admin) {
            Answering::Later(sockets) => {
                for address in sockets.to_announce() {
                    tracing::info!("admin: answering at {address}");
                }
                let launch = Launch {
                    user: { self.launch.user }.map(|user| format!("{}:{}", user.uid, user.gid)),
                    log: LogFormat::of(self.settings.log_json),
                };
                let admin = Admin::watch(sockets, launch, self.events.clone());
                self.admin = Answering::Yes(admin);
            }
            other => self.admin = other,
        }
    }

    /// The successor answers at the admin sockets, which it has inherited.
    pub(super) fn leave_admin(&mut self) {
        if let Answering::Yes(admin) = std::mem::take(&mut self.admin) {
            admin.leave();
        }
    }

    /// For a successor.
    pub(super) fn admin_sockets(&self) -> Option<&AdminSockets> {
        match &self.admin {
            Answering::Yes(admin) => Some(admin.sockets()),
            Answering::No | Answering::Later(_) => None,
        }
    }
}
