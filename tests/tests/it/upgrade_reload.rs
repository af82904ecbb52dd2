//! A reload that comes while an upgrade is under way: the successor has read its
//! configuration already, so the server that serves afterwards reloads.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use srv::control::{Request, ask};
use srv_tests::server::{self, Server};
use tempfile::TempDir;

use crate::probe::{signal, until, until_group};
use crate::support::executable;

/// A server with a configuration file, whose next binary is a script that says what a
/// successor says.
struct Scripted {
    server: Server,
    folder: TempDir,
}

impl Scripted {
    fn start(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        executable::copy(server::binary().unwrap(), at("srv"));
        std::fs::write(at("srv.toml"), "workers = 2\n").unwrap();
        let arguments = ["--config".into(), at("srv.toml")];
        let control = tempfile::tempdir().unwrap();
        let server = Server::start_as(Command::new(at("srv")), control, arguments).unwrap();
        let script = format!("#!/bin/sh\ncd {}\n{script}", folder.path().display());
        executable::write(at("next"), script);
        std::fs::rename(at("next"), at("srv")).unwrap();
        Self { server, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn await_file(&self, name: &str) {
        let file = self.file(name);
        until(name, || file.exists().then_some(()));
    }

    /// Asks for four workers, by the control socket and by signal.
    fn reload(&mut self) {
        std::fs::write(self.file("srv.toml"), "workers = 4\n").unwrap();
        let refusal = ask(Some(&self.server.control()), &Request::Reload).unwrap_err();
        let said = format!("{refusal:#}");
        assert!(said.contains("an upgrade is under way"), "{said}");
        signal(self.server.pid(), Signal::HUP);
        let child = self.server.child();
        child.await_line("waits for the upgrade").unwrap();
    }
}

#[test]
fn a_reload_waits_for_an_upgrade_that_fails() {
    let mut scripted =
        Scripted::start("touch started\nuntil [ -e go ]; do sleep 0.01; done\nexit 3\n");
    signal(scripted.server.pid(), Signal::USR2);
    scripted.await_file("started");
    scripted.reload();
    std::fs::write(scripted.file("go"), "").unwrap();
    let child = scripted.server.child();
    child.await_line("did not come up").unwrap();
    child.await_line("reloaded: workers 2 to 4").unwrap();
    until_group(&scripted.server, "four workers are ready", |group| {
        let is_ready = |worker: &srv::control::status::WorkerStatus| worker.state == "ready";
        group.workers.len() == 4 && group.workers.iter().all(is_ready)
    });
}

/// The script leaves, and the test holds nothing to clean up: the old server ends by itself.
#[test]
fn a_reload_is_passed_on_to_the_successor() {
    let mut scripted = Scripted::start(
        "trap 'touch reloaded; exit' HUP\ntouch started\nuntil [ -e go ]; do sleep 0.01; done\n\
         printf '\"Serving\"' >&3\nwhile :; do sleep 0.01; done\n",
    );
    signal(scripted.server.pid(), Signal::USR2);
    scripted.await_file("started");
    scripted.reload();
    std::fs::write(scripted.file("go"), "").unwrap();
    scripted.await_file("reloaded");
    assert!(scripted.server.child().await_exit().unwrap().success());
}
