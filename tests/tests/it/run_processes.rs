//! Servers under `srv run` whose processes and sockets are as few servers have them: they fork
//! without executing a program, close what they have not opened, restrict themselves, or were built
//! against another C library. `run_processes.c` is such a server. Each test sees by the
//! coordinator's account that the processes take part, or by one line that they do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use procfs::process::Process;
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use srv::control::status::GroupStatus;
use srv::control::{Reply, Request, ask};
use srv::measure::baseline::launch::NO_BPF;
use srv_tests::child::Child;
use srv_tests::free_address;
use srv_tests::server::binary;
use srv_tests::usage::Tree;
use tempfile::TempDir;

use crate::agent::LOCALHOST;
use crate::client::get;
use crate::gate;
use crate::probe::{open_files, signal, until};
use crate::support::executable;

/// Connections of a test, one after another.
const CONNECTIONS: usize = 64;
/// Workers of the server.
const WORKERS: usize = 2;
/// The ways of waiting for connections.
const WAYS: [&str; 4] = ["epoll", "poll", "select", "accept"];

/// The server's binary, by the command that compiles it.
struct Built {
    folder: TempDir,
    outcome: Result<(), String>,
}

impl Built {
    fn by(compiler: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Another user executes it, too.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let source = folder.path().join("server.c");
        std::fs::write(&source, include_str!("run_processes.c")).unwrap();
        let output = Command::new(compiler)
            .args(["-pthread", "-o"])
            .arg(folder.path().join("server"))
            .arg(&source)
            // musl has no headers of the kernel. Its own come first.
            .args(["-idirafter", "/usr/include"])
            .arg("-idirafter")
            .arg(format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH))
            .output();
        let outcome = match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(format!("run {compiler}: {error}")),
        };
        Self { folder, outcome }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("server")
    }
}

/// The server, built against this machine's C library.
fn server() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| Built::by("cc"))
}

/// The server under `srv run`.
struct Running {
    child: Child,
    addresses: Vec<SocketAddr>,
    control: PathBuf,
    _folder: TempDir,
}

impl Running {
    /// Starts it with these options, on these addresses.
    fn on(program: &Path, options: &[&str], addresses: &[IpAddr]) -> Self {
        Self::by(&[], program, options, addresses)
    }

    /// Likewise, with flags of `srv run`.
    fn by(flags: &[&str], program: &Path, options: &[&str], addresses: &[IpAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control");
        let addresses: Vec<_> = addresses
            .iter()
            .map(|host| free_address(*host).unwrap())
            .collect();
        let mut command = Command::new(binary().unwrap());
        command.args(["run", "--control"]).arg(&control).args(flags);
        command.arg("--").arg(program).args(options);
        for address in &addresses {
            command.arg(address.ip().to_string());
            command.arg(address.port().to_string());
        }
        let child = Child::spawn(command.env("NO_COLOR", "1")).unwrap();
        Self {
            child,
            addresses,
            control,
            _folder: folder,
        }
    }

    fn start(options: &[&str]) -> Self {
        Self::on(&server().path(), options, &[LOCALHOST])
    }

    fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    fn await_listening(&self) {
        until("it listens", || TcpStream::connect(self.address()).ok());
    }

    /// The groups that its coordinator knows, by address.
    fn groups(&self) -> BTreeMap<SocketAddr, GroupStatus> {
        let Ok(Reply::Status(status)) = ask(Some(&self.control), &Request::Status) else {
            return BTreeMap::new();
        };
        let groups = status.groups.into_iter();
        groups.map(|group| (group.listen, group)).collect()
    }

    /// Waits until so many processes have a slot of each address, and the program steers.
    fn await_slots(&self, slots: usize) {
        let what = format!("{slots} slots are ready and steered");
        until(&what, || {
            let groups = self.groups();
            let is_complete = |address| {
                let group: &GroupStatus = groups.get(address)?;
                let workers = group.workers.iter();
                let ready = workers.filter(|worker| worker.state == "ready").count();
                (ready == slots && group.program.attached).then_some(())
            };
            self.addresses.iter().try_for_each(is_complete)
        });
    }

    /// As the function of this name, to all of its addresses.
    fn ask_one_by_one(&self) -> BTreeSet<u32> {
        ask_one_by_one(&self.addresses)
    }

    /// Each of so many processes takes connections by its slot, and all are counted.
    fn assert_all_take_part(&self, slots: usize) {
        self.await_slots(slots);
        let answered = self.ask_one_by_one();
        assert_eq!(answered.len(), slots, "{answered:?}");
        self.assert_counted(&answered, CONNECTIONS);
    }

    /// The slots of each address are these processes', and each has taken connections.
    fn assert_counted(&self, processes: &BTreeSet<u32>, connections: usize) {
        for group in self.groups().values() {
            let workers = group.workers.iter();
            let taken = workers.map(|worker| (worker.pid, worker.taken_own + worker.taken_stolen));
            // A process may have several slots.
            let taken = taken.fold(BTreeMap::<_, u64>::new(), |mut sums, (pid, count)| {
                *sums.entry(pid).or_default() += count;
                sums
            });
            assert_eq!(&taken.keys().copied().collect::<BTreeSet<_>>(), processes);
            assert!(taken.values().all(|count| *count > 0), "{taken:?}");
            assert_eq!(taken.values().sum::<u64>(), connections as u64, "{taken:?}");
        }
    }

    /// It serves as without srv: no process has a slot, and none was killed.
    fn assert_plain(&mut self, line: &str) {
        self.child.await_line(line).unwrap();
        let answered = self.ask_one_by_one();
        assert!((1..=WORKERS).contains(&answered.len()), "{answered:?}");
        let said = self.child.stderr();
        assert!(!said.contains("signal"), "{said}");
        let groups = self.groups();
        let mut workers = groups.values().flat_map(|group| &group.workers);
        assert!(workers.all(|worker| worker.state != "ready"), "{groups:?}");
    }

    fn coordinator(&self) -> Pid {
        let peer = std::os::unix::net::UnixStream::connect(&self.control).unwrap();
        rustix::net::sockopt::socket_peercred(&peer).unwrap().pid
    }
}

/// Connections one after another to each address, all answered; by which processes.
fn ask_one_by_one(addresses: &[SocketAddr]) -> BTreeSet<u32> {
    let mut answered = BTreeSet::new();
    for _ in 0..CONNECTIONS {
        for address in addresses {
            answered.insert(answer(*address, "/").parse().unwrap());
        }
    }
    answered
}

/// The body of an answer.
fn answer(address: SocketAddr, target: &str) -> String {
    let response = get(address, target);
    assert_eq!(response.status(), 200);
    String::from_utf8(response.body).unwrap().trim().to_owned()
}

macro_rules! needs {
    () => {
        if !gate::steer() {
            return;
        }
        gate::needs!(root, "build a server in C": &server().outcome);
    };
}

#[test]
fn a_process_that_forks_without_exec_has_a_slot_and_so_has_its_child() {
    needs!();
    // A child is forked by a process that has begun to wait, three times in a row.
    for way in ["epoll", "poll", "accept"] {
        let running = Running::start(&["--way", way, "--levels", "3"]);
        running.assert_all_take_part(4 * WORKERS);
    }
}

#[test]
fn a_child_that_keeps_all_open_delays_no_connection_after_its_parents_death() {
    needs!();
    let running = Running::start(&["--bystander"]);
    running.assert_all_take_part(WORKERS);
    let workers: Vec<u32> = running.groups()[&running.address()]
        .workers
        .iter()
        .map(|worker| worker.pid)
        .collect();
    let killed = Pid::from_raw(workers[0] as i32).unwrap();
    signal(killed, Signal::KILL);
    running.await_slots(WORKERS);
    let answered = running.ask_one_by_one();
    assert!(!answered.contains(&workers[0]) && answered.len() == WORKERS);
}

#[test]
fn what_a_worker_executes_gets_one_descriptor_and_leaves_none() {
    needs!();
    const CHILDREN: u32 = 300;
    let running = Running::start(&[]);
    running.await_slots(WORKERS);
    let coordinator = running.coordinator();
    let before = open_files(coordinator);
    // A child that does not know of `srv run` adds 100.
    let plain = Command::new(server().path()).arg("--child").status();
    let inherited_by_all = plain.unwrap().code().unwrap() - 100;
    assert_eq!(
        answer(running.address(), &format!("/children/{CHILDREN}")),
        format!("most {} leaked 0", 1 + inherited_by_all)
    );
    until(
        "the coordinator sleeps, without further descriptors",
        || {
            let stat = Process::new(coordinator.as_raw_nonzero().get()).unwrap();
            let sleeps = stat.stat().unwrap().state == 'S';
            (sleeps && open_files(coordinator) <= before).then_some(())
        },
    );
    // The worker that was busy for so long is taken to have stalled until it has woken once more.
    let mut rounds = 0;
    let answered = until("both workers serve", || {
        rounds += 1;
        let answered = running.ask_one_by_one();
        (answered.len() == WORKERS).then_some(answered)
    });
    running.assert_counted(&answered, 1 + rounds * CONNECTIONS);
}

#[test]
fn a_worker_may_close_what_it_has_not_opened() {
    needs!();
    for how in ["closefrom", "close_range", "loop"] {
        let running = Running::start(&["--closes", how]);
        running.assert_all_take_part(WORKERS);
    }
    // Past the library: the workers then connect by the abstract name.
    let running = Running::start(&["--closes", "unseen"]);
    running.assert_all_take_part(WORKERS);
    let server = Process::new(running.child.pid().as_raw_nonzero().get()).unwrap();
    let told = server.environ().unwrap()["SRV_RUN".as_ref() as &std::ffi::OsStr].clone();
    let told = told.into_string().unwrap();
    let number = told.split(':').next().unwrap();
    let has_it = |pid: u32| Path::new(&format!("/proc/{pid}/fd/{number}")).exists();
    assert!(has_it(server.pid as u32));
    for worker in &running.groups()[&running.address()].workers {
        assert!(!has_it(worker.pid), "worker {} inherited it", worker.pid);
    }
}

#[test]
fn a_worker_that_loses_what_the_library_opened_goes_on() {
    needs!();
    let running = Running::start(&["--closes", "unseen late"]);
    running.await_listening();
    // The coordinator sees the end of its connection, and the worker has lost its siblings.
    let answered = running.ask_one_by_one();
    assert!((1..=WORKERS).contains(&answered.len()), "{answered:?}");
}

#[test]
fn several_addresses_of_both_families_are_a_group_each() {
    needs!();
    let hosts = [
        LOCALHOST,
        IpAddr::from([127, 0, 0, 2]),
        Ipv6Addr::LOCALHOST.into(),
    ];
    for way in ["epoll", "poll", "select"] {
        let running = Running::on(&server().path(), &["--way", way], &hosts);
        running.assert_all_take_part(WORKERS);
        let groups = running.groups();
        assert_eq!(groups.len(), hosts.len());
        for group in groups.values() {
            assert_eq!(group.program.steered, CONNECTIONS as u64, "{group:?}");
        }
    }
}

#[test]
fn a_duplicate_of_a_listener_is_one() {
    needs!();
    for how in ["dup", "dup2", "fcntl"] {
        let running = Running::start(&["--duplicates", how]);
        running.assert_all_take_part(WORKERS);
    }
    let running = Running::start(&["--duplicates", "both"]);
    running.await_slots(2 * WORKERS);
    let answered = running.ask_one_by_one();
    assert_eq!(answered.len(), WORKERS, "{answered:?}");
    running.assert_counted(&answered, CONNECTIONS);
}

#[test]
fn a_worker_in_another_root_takes_part() {
    needs!();
    let root = tempfile::tempdir().unwrap();
    let running = Running::start(&["--root", root.path().to_str().unwrap()]);
    running.assert_all_take_part(WORKERS);
    for worker in &running.groups()[&running.address()].workers {
        let at = std::fs::read_link(format!("/proc/{}/root", worker.pid)).unwrap();
        assert_eq!(at, root.path());
    }
}

#[test]
fn a_process_that_restricts_its_system_calls_is_left_alone_before_that() {
    const LINE: &str = "restricts its system calls";
    needs!();
    // The filter kills for calls of the library, and for those that the C library makes in another
    // way.
    for way in WAYS {
        let options = ["--way", way, "--filter", "strict"];
        Running::start(&options).assert_plain(LINE);
    }
    Running::start(&["--filter", "strict prctl"]).assert_plain(LINE);
    // These have a slot already.
    Running::start(&["--filter", "strict late"]).assert_plain(LINE);
}

#[test]
fn a_worker_that_has_left_its_slot_still_serves_beside_one_that_has_one() {
    needs!();
    let options = ["--filter", "strict late second"];
    // The program would not choose the socket of the worker that has left.
    let mut running = Running::by(&[NO_BPF], &server().path(), &options, &[LOCALHOST]);
    running
        .child
        .await_line("restricts its system calls")
        .unwrap();
    until("both serve", || {
        (running.ask_one_by_one().len() == WORKERS).then_some(())
    });
    let groups = running.groups();
    let workers = groups[&running.address()].workers.iter();
    let ready = workers.filter(|worker| worker.state == "ready");
    assert_eq!(ready.count(), 1);
}

#[test]
fn a_process_that_cannot_make_a_socket_says_so_and_goes_on() {
    needs!();
    for way in WAYS {
        let options = ["--way", way, "--filter", "errno unseen"];
        Running::start(&options).assert_plain("cannot reach the coordinator");
    }
}

#[test]
fn a_server_in_another_network_namespace_is_left_alone() {
    needs!();
    let mut running = Running::start(&["--own-network"]);
    let path = format!("/proc/{}/ns/net", running.child.pid().as_raw_nonzero());
    running
        .child
        .await_line("in another network namespace than `srv run`")
        .unwrap();
    let there = File::open(path).unwrap();
    let addresses = running.addresses.clone();
    let asked = std::thread::spawn(move || {
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        ask_one_by_one(&addresses)
    });
    let answered = asked.join().unwrap();
    assert!((1..=WORKERS).contains(&answered.len()), "{answered:?}");
    assert!(running.groups().is_empty());
}

#[test]
fn threads_that_each_wait_at_one_listener_are_left_alone() {
    needs!();
    let running = Running::start(&["--threads", "2"]);
    running.await_listening();
    let answered = running.ask_one_by_one();
    assert!((1..=WORKERS).contains(&answered.len()), "{answered:?}");
    until("no process has a slot", || {
        let groups = running.groups();
        let mut workers = groups.values().flat_map(|group| &group.workers);
        workers.all(|worker| worker.state != "ready").then_some(())
    });
    running.ask_one_by_one();
}

#[test]
fn a_program_with_file_capabilities_runs_plain() {
    needs!();
    const NOBODY: u32 = 65_534;
    /// Revision 2 with the effective bit, and CAP_NET_BIND_SERVICE permitted
    /// (include/uapi/linux/capability.h).
    const VALUE: [u32; 5] = [0x0200_0001, 1 << 10, 0, 0, 0];
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("capable");
    executable::copy(server().path(), &program);
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let value = VALUE.map(u32::to_le_bytes).concat();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&program, "security.capability", &value, flags).unwrap();
    let address = free_address(LOCALHOST).unwrap();
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .arg(binary().unwrap())
        .arg("run")
        .arg("--control")
        .arg(folder.path().join("control"))
        .arg("--")
        .arg(&program)
        .args([address.ip().to_string(), address.port().to_string()]);
    let mut child = Child::spawn(&mut command).unwrap();
    child.await_line("has file capabilities").unwrap();
    let is_open = || Ok(TcpStream::connect(address).ok().map(drop));
    child.await_ready("it listens", is_open).unwrap();
    for _ in 0..CONNECTIONS {
        answer(address, "/");
    }
}

#[test]
fn a_program_of_musl_takes_part_in_each_way() {
    let musl = Built::by("musl-gcc");
    if !gate::steer() {
        return;
    }
    gate::needs!(root, "build a server with musl": &musl.outcome);
    for way in WAYS {
        let running = Running::on(&musl.path(), &["--way", way], &[LOCALHOST]);
        running.assert_all_take_part(WORKERS);
        let tree = Tree::of(running.child.pid()).unwrap();
        for pid in tree.pids() {
            let maps = format!("/proc/{}/maps", pid.as_raw_nonzero());
            let maps = std::fs::read_to_string(maps).unwrap();
            assert!(
                maps.contains("musl") && !maps.contains("/libc.so.6"),
                "{maps}"
            );
        }
    }
}
