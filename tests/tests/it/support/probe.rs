//! Looking at a running server from outside: its own account through the
//! control socket, and the kernel's through /proc.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use procfs::net::TcpNetEntry;
use procfs::process::Process;
use rustix::process::{Pid, Signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use srv::control::status::{GroupStatus, WorkerStatus};
use srv::control::{Reply, Request, Status, ask};
use srv_tests::server::Server;

/// What does not come about in this time will not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `look` finds something.
///
/// # Panics
/// If it does not come about.
#[track_caller]
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    let found = watch(look);
    found.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain until {what}"))
}

/// What `look` finds, if it does in time.
pub(crate) fn watch<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// A server's account of itself.
pub(crate) fn status(server: &Server) -> Status {
    match ask(Some(&server.control()), &Request::Status).unwrap() {
        Reply::Status(status) => status,
        other => panic!("asked for status, got {other:?}"),
    }
}

/// The account of the server that answers there now, if one does: it may just be leaving.
pub(crate) fn asked(server: &Server) -> Option<Status> {
    match ask(Some(&server.control()), &Request::Status) {
        Ok(Reply::Status(status)) => Some(status),
        _ => None,
    }
}

/// Its first listener group.
pub(crate) fn group(server: &Server) -> GroupStatus {
    status(server).groups.remove(0)
}

/// One worker in the first group.
pub(crate) fn worker(server: &Server, slot: u32) -> WorkerStatus {
    group(server).workers.swap_remove(slot as usize)
}

/// Waits until the first group's status shows what `is_so` looks for.
pub(crate) fn until_group(
    server: &Server,
    what: &str,
    is_so: impl Fn(&GroupStatus) -> bool,
) -> GroupStatus {
    let mut last = String::new();
    let found = watch(|| {
        let group = group(server);
        last = format!("{:?}", group.workers);
        Some(group).filter(|group| is_so(group))
    });
    found.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain until {what}; last seen: {last}"))
}

/// Switches the policy.
pub(crate) fn switch(server: &Server, policy: &str) {
    let request = Request::Policy(policy.into());
    ask(Some(&server.control()), &request).unwrap();
}

/// How often the workers refused for `reason`.
pub(crate) fn refused(server: &Server, reason: &str) -> u64 {
    let workers = group(server).workers;
    workers
        .iter()
        .filter_map(|worker| worker.refused.get(reason))
        .sum()
}

/// How the requests of the first group have ended, by class of status; classes without any are left
/// out.
pub(crate) fn ended(server: &Server) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for worker in group(server).workers {
        for (class, count) in worker.ended.expect("srv's own workers count requests") {
            *sums.entry(class).or_default() += count;
        }
    }
    sums.retain(|_, count| *count > 0);
    sums
}

/// Waits until so many requests have ended in each class: a worker counts an answer after it has sent
/// it.
#[track_caller]
pub(crate) fn until_ended(server: &Server, expected: &BTreeMap<String, u64>) {
    let mut last = BTreeMap::new();
    let found = watch(|| {
        last = ended(server);
        (last == *expected).then_some(())
    });
    assert!(
        found.is_some(),
        "expected {expected:?}, last seen: {last:?}"
    );
}

/// The process of a worker.
pub(crate) fn pid(worker: &WorkerStatus) -> Pid {
    Pid::from_raw(worker.pid as i32).expect("a worker is there")
}

/// The TCP sockets of the network that the server is in, which may be the test's own.
pub(crate) fn sockets_beside(server: &Server) -> Vec<TcpNetEntry> {
    let master = Process::new(server.pid().as_raw_nonzero().get()).unwrap();
    master.tcp().unwrap()
}

/// Sends a signal.
pub(crate) fn signal(pid: Pid, signal: Signal) {
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A process that does nothing until this is dropped.
pub(crate) struct Stopped(Pid);

impl Stopped {
    /// Stops it and waits until it stands still.
    pub(crate) fn new(pid: Pid) -> Self {
        signal(pid, Signal::STOP);
        until("the process has stopped", || {
            (state(pid) == Some('T')).then_some(())
        });
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = rustix::process::kill_process(self.0, Signal::CONT);
    }
}

/// Runs `f` in the network namespace of a process.
pub(crate) fn in_namespace_of<R: Send>(process: Pid, f: impl FnOnce() -> R + Send) -> R {
    let enter = || {
        let path = format!("/proc/{}/ns/net", process.as_raw_nonzero());
        let namespace = std::fs::File::open(path).unwrap();
        move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::NETWORK).unwrap();
        f()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

/// The processes that a process has started.
pub(crate) fn children(of: Pid) -> Vec<Pid> {
    let number = of.as_raw_nonzero();
    let path = format!("/proc/{number}/task/{number}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// A process's state as in `ps`; `None` once it is gone.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let process = procfs::process::Process::new(pid.as_raw_nonzero().get()).ok()?;
    Some(process.stat().ok()?.state)
}

/// How many file descriptors a process has open.
pub(crate) fn open_files(pid: Pid) -> usize {
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    std::fs::read_dir(Path::new(&folder)).unwrap().count()
}

/// How long and often the endurance tests try: `long` where `SRV_LONG=1` asks
/// for it, else `short`.
pub(crate) fn endurance<T>(short: T, long: T) -> T {
    match std::env::var_os("SRV_LONG").is_some_and(|value| value == "1") {
        true => long,
        false => short,
    }
}

/// What is too much for every run: `all` where `SRV_STRESS=1` asks for it, else `some`.
pub(crate) fn stress<T>(some: T, all: T) -> T {
    match std::env::var_os("SRV_STRESS").is_some_and(|value| value == "1") {
        true => all,
        false => some,
    }
}
