//! A server whose binary can be replaced.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal};
use srv_tests::server::{self, Server};
use tempfile::TempDir;

use crate::client::get_many;
use crate::probe::{group, signal, status};
use crate::support::executable;

/// A server whose binary is its own and can be replaced.
pub(crate) struct Upgradable {
    pub server: Server,
    pub binary: PathBuf,
    _folder: TempDir,
}

impl Upgradable {
    /// Starts it with these further arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("srv");
        install(&binary);
        Self::start_as(binary, folder, arguments)
    }

    /// Starts the binary of that name, which is in this folder.
    pub(crate) fn start_as(binary: PathBuf, folder: TempDir, arguments: &[&str]) -> Self {
        let control = tempfile::tempdir().unwrap();
        let server = Server::start_as(Command::new(&binary), control, arguments).unwrap();
        Self {
            server,
            binary,
            _folder: folder,
        }
    }

    /// What `srv upgrade` says, and whether it succeeded.
    pub(crate) fn upgrade(&self) -> (String, bool) {
        let output = self.server.srv(&["upgrade"]).unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            String::from_utf8_lossy(&said).into_owned(),
            output.status.success(),
        )
    }

    /// The master that serves now.
    pub(crate) fn master(&self) -> Pid {
        Pid::from_raw(status(&self.server).pid as i32).unwrap()
    }

    /// Puts a script where the binary is.
    pub(crate) fn replace(&self, script: &str) {
        put(&self.binary, |path| executable::write(path, script));
    }

    /// The same master, its workers and its steering go on.
    pub(crate) fn assert_unchanged(&self, before: &[u32]) {
        let server = &self.server;
        assert_eq!(self.master(), server.pid());
        let now = group(server);
        assert_eq!(
            now.workers
                .iter()
                .map(|worker| worker.pid)
                .collect::<Vec<_>>(),
            before
        );
        get_many(server.address(), 20);
        if now.program.attached {
            assert_eq!(group(server).program.steered, now.program.steered + 20);
        }
    }
}

impl Drop for Upgradable {
    fn drop(&mut self) {
        // The one that serves now is nobody's child here.
        if std::thread::panicking() {
            return;
        }
        let master = self.master();
        if master != self.server.pid() {
            signal(master, Signal::TERM);
            self.server.child().await_exit().unwrap();
        }
    }
}

/// Puts the binary under test there.
pub(crate) fn install(binary: &Path) {
    let built = server::binary().unwrap();
    put(binary, |path| {
        executable::copy(&built, path);
    });
}

/// As an installer does: aside, then renamed, so that nobody sees half of it.
fn put(binary: &Path, write: impl FnOnce(&Path)) {
    let aside = binary.with_extension("new");
    write(&aside);
    std::fs::rename(&aside, binary).unwrap();
}
