//! Orders that do not reach a worker, or a worker that does not come up: what was asked for
//! comes about all the same, and a reload says what has not yet.

use std::path::Path;

use rustix::process::{Pid, Signal};
use srv::control::status::WorkerStatus;
use srv_tests::server::Server;
use tempfile::TempDir;

use crate::client::get;
use crate::configured::Configured;
use crate::gate;
use crate::probe::{Stopped, children, group, pid, signal, state, until, until_group, worker};

fn are_ready(workers: &[WorkerStatus], count: usize) -> bool {
    workers.len() == count && workers.iter().all(|worker| worker.state == "ready")
}

/// Its channel would be full of the orders that were sent to it meanwhile.
#[test]
fn a_worker_that_was_stopped_for_400_reloads_has_the_last_one() {
    let text = |workers: u32, seconds: u32, header: bool| {
        format!(
            "workers = {workers}\nworker-header = {header}\n[limits]\nidle-timeout = \
             \"{seconds}s\"\n"
        )
    };
    let mut configured = Configured::start(&text(2, 10, true), &["--hang-after", "0s"]);
    let stopped = Stopped::new(pid(&worker(&configured.server, 0)));
    for nth in 0..400 {
        configured.rewrite(&text(2, 11 + nth, true));
        signal(configured.server.pid(), Signal::HUP);
        configured.server.child().await_line("reloaded: ").unwrap();
    }
    configured.rewrite(&text(3, 10, false));
    let (said, succeeded) = configured.reload();
    assert!(succeeded, "{said}");
    let expected = "workers 2 to 3, worker-header, limits; worker 0 has not taken it over yet";
    assert!(said.contains(expected), "{said}");
    drop(stopped);
    until("all workers serve by the last configuration", || {
        let responses: Vec<_> = (0..30)
            .map(|_| get(configured.server.address(), "/"))
            .collect();
        let has_header = |response: &crate::client::Response| response.header("X-Worker").is_some();
        (!responses.iter().any(has_header)).then_some(())
    });
    // The third worker's listener came with the lost orders, and its successor is announced in
    // further ones.
    let third = worker(&configured.server, 2);
    signal(pid(&third), Signal::KILL);
    let after = until_group(&configured.server, "the third was replaced", |group| {
        group.workers[2].starts == 2 && are_ready(&group.workers, 3)
    });
    assert_eq!((after.workers[0].starts, after.workers[1].starts), (1, 1));
}

/// More than one packet can bring file descriptors for.
#[test]
fn workers_that_live_get_listeners_of_260_addresses() {
    let addresses: Vec<_> = (0..260)
        .map(|nth| format!("\"127.0.{}.{}:0\"", 1 + nth / 250, 1 + nth % 250))
        .collect();
    let text = |workers: u32| format!("workers = {workers}\nlisten = [{}]\n", addresses.join(", "));
    let configured = Configured::start_listening(&text(2), &["--no-bpf"], addresses.len());
    configured.rewrite(&text(3));
    let (said, succeeded) = configured.reload();
    assert!(succeeded && said.contains("workers 2 to 3"), "{said}");
    until_group(&configured.server, "the third worker is ready", |group| {
        are_ready(&group.workers, 3)
    });
    let before = group(&configured.server).workers;
    assert!(before.iter().all(|worker| worker.starts == 1), "{before:?}");
    // Those that were there answer for the third, at each address.
    let third = Stopped::new(pid(&before[2]));
    for address in configured.server.addresses().iter().step_by(20) {
        for _ in 0..6 {
            assert_eq!(get(*address, "/").status(), 200, "{address}");
        }
    }
    drop(third);
}

/// A root for a configuration file, in which each file says the root's name.
fn root(folder: &TempDir, name: &str) -> String {
    let root = folder.path().join(name);
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("index.html"), name).unwrap();
    format!("workers = 3\nroot = \"{}\"\n", root.display())
}

fn until_all_serve(server: &Server, name: &str) {
    until("all workers serve the new root", || {
        let is_new = |_| get(server.address(), "/").body == name.as_bytes();
        (0..30).all(is_new).then_some(())
    });
}

/// A control group that bounds how many processes and threads a server may have.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    fn around(process: Pid) -> std::io::Result<Self> {
        let name = format!("srv-tests-{}", process.as_raw_nonzero());
        let folder = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .map(|top| Path::new(top).join(&name))
            .into_iter()
            .find(|folder| std::fs::create_dir(folder).is_ok() && folder.join("pids.max").exists())
            .ok_or(std::io::ErrorKind::Unsupported)?;
        let cgroup = Self(folder);
        cgroup.set("cgroup.procs", &process.as_raw_nonzero().to_string())?;
        Ok(cgroup)
    }

    fn get(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap()
    }

    fn set(&self, file: &str, value: &str) -> std::io::Result<()> {
        std::fs::write(self.0.join(file), value)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The server ends after this: its processes go back to where all are.
        let procs = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for process in procs.lines() {
            let _ = std::fs::write(self.0.with_file_name("cgroup.procs"), process);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_worker_that_could_not_be_started_for_a_new_root_is_started_later() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (root(&folder, "one"), root(&folder, "two"));
    let mut configured = Configured::start(&one, &[]);
    let cgroup = Cgroup::around(configured.server.pid());
    gate::needs!("limit processes": &cgroup);
    let cgroup = cgroup.unwrap();
    // Room for the thread that reads the configuration and the process that looks at the root,
    // and so for two of three workers.
    let tasks: u32 = cgroup.get("pids.current").trim().parse().unwrap();
    cgroup.set("pids.max", &(tasks + 2).to_string()).unwrap();
    configured.rewrite(&two);
    let (said, _) = configured.reload();
    assert!(said.contains("not taken it over yet"), "{said}");
    configured
        .server
        .child()
        .await_line("spawn worker")
        .unwrap();
    cgroup.set("pids.max", "max").unwrap();
    until_all_serve(&configured.server, "two");
}

#[test]
fn a_newcomer_that_is_killed_before_it_serves_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (root(&folder, "one"), root(&folder, "two"));
    let configured = Configured::start(&one, &[]);
    let master = configured.server.pid();
    let old = children(master);
    configured.rewrite(&two);
    signal(master, Signal::HUP);
    let newcomer = until("a newcomer has been started", || {
        children(master)
            .into_iter()
            .find(|child| !old.contains(child))
    });
    signal(newcomer, Signal::KILL);
    until("it is gone", || state(newcomer).is_none().then_some(()));
    until_all_serve(&configured.server, "two");
}
