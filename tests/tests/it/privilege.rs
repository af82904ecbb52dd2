//! Least privilege: what the kernel says that master and workers may do, and what
//! comes of asking them for more.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use rustix::io::Errno;
use rustix::mm::{MprotectFlags, mprotect};
use rustix::process::{Pid, Signal};
use rustix::thread::CapabilitySet;
use socket2::{Domain, Socket, Type};
use srv::serve::sandbox::{capabilities, paths};
use srv_common::{Group, MAX_WORKERS, Slot};
use srv_steer::SelectProgram;
use srv_steer::drop_syns;
use srv_tests::server::{self, Server};
use tempfile::TempDir;

use crate::client::{Client, get};
use crate::gate;
use crate::probe::{group, pid, signal, until, until_group, worker};
use crate::serve::serve;
use crate::support::executable;

/// The lines of `/proc/PID/task/TID/status` by name, of each thread.
fn threads(pid: Pid) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    let fields = |status: String| {
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        lines
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect()
    };
    statuses.map(|status| fields(status.unwrap())).collect()
}

fn capability_sets(thread: &BTreeMap<String, String>) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|set| u64::from_str_radix(&thread[set], 16).unwrap())
}

fn workers(server: &Server) -> Vec<Pid> {
    group(server).workers.iter().map(pid).collect()
}

#[test]
fn workers_have_nothing_left_to_give_up() {
    gate::needs!(root);
    let server = serve().workers(2).with("--user", "4321:5432").start();
    for pid in workers(&server) {
        let threads = threads(pid);
        assert_eq!(threads.len(), 1);
        let it = &threads[0];
        assert_eq!(it["Uid"], ["4321"; 4].join("\t"));
        assert_eq!(it["Gid"], ["5432"; 4].join("\t"));
        assert_eq!(it["Groups"], "");
        assert_eq!(capability_sets(it), [0; 5]);
        assert_eq!(
            (it["NoNewPrivs"].as_str(), it["Seccomp"].as_str()),
            ("1", "2")
        );
        // Others who are that user cannot look into it.
        let owner = fs::metadata(format!("/proc/{}/mem", pid.as_raw_nonzero())).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
    }
    let confinement = server.status().unwrap().workers_run_as.unwrap();
    assert_eq!((confinement.uid, confinement.gid), (4321, 5432));
    assert!(confinement.seccomp);
    assert_eq!(confinement.landlock_abi, paths::abi());
    let said = server.srv(&["status"]).unwrap().stdout;
    assert!(String::from_utf8_lossy(&said).contains("workers run as user 4321, group 5432"));
}

/// Most kernels let anybody attach a socket filter; where they do not, the master
/// keeps what it needs to.
fn for_filters() -> CapabilitySet {
    let attach = std::thread::spawn(|| {
        capabilities::keep(CapabilitySet::BPF | CapabilitySet::PERFMON)?;
        drop_syns(&Socket::new(Domain::IPV4, Type::STREAM, None)?)
    });
    match attach.join().unwrap() {
        Ok(()) => CapabilitySet::empty(),
        Err(_) => CapabilitySet::NET_ADMIN,
    }
}

#[track_caller]
fn assert_master_keeps(server: &Server, kept: CapabilitySet) {
    let kept = kept.bits();
    for thread in threads(server.pid()) {
        assert_eq!(capability_sets(&thread), [0, kept, kept, kept, 0]);
    }
}

#[test]
fn the_master_keeps_what_it_will_need_and_no_more() {
    gate::needs!(steer, root);
    // Where uid 0 can read it whoever owns the build.
    let copy = tempfile::tempdir().unwrap();
    let binary = copy.path().join("srv");
    executable::copy(server::binary().unwrap(), &binary);
    let start = |arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        Server::start_as(Command::new(&binary), folder, arguments).unwrap()
    };
    let workers_of_another_user = CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::SETPCAP
        | CapabilitySet::KILL
        | for_filters();
    let program = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let server = start(&["--workers", "2"]);
    assert_master_keeps(&server, workers_of_another_user | program);
    let server = start(&["--workers", "2", "--no-bpf"]);
    assert_master_keeps(&server, workers_of_another_user);
    // A low port of an address that nothing else here uses.
    let low = ["--listen", "127.83.86.1:83", "--workers", "1"];
    let server = start(&low);
    let all = workers_of_another_user | program | CapabilitySet::NET_BIND_SERVICE;
    assert_master_keeps(&server, all);
    // A configuration in somebody's private folder.
    let private = tempfile::tempdir().unwrap();
    let config = private.path().join("srv.toml");
    fs::write(&config, "workers = 1\n").unwrap();
    fs::set_permissions(private.path(), PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(private.path(), Some(4321), None).unwrap();
    let server = start(&["--no-bpf", "--config", config.to_str().unwrap()]);
    let kept = workers_of_another_user | CapabilitySet::DAC_READ_SEARCH;
    assert_master_keeps(&server, kept);
    fs::write(&config, "workers = 2\n").unwrap();
    assert!(server.srv(&["reload"]).unwrap().status.success());
}

/// What `/proc/PID/fd` says of each number.
fn files(pid: Pid) -> BTreeMap<i32, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| {
            let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            (number, fs::read_link(path).unwrap())
        })
        .collect()
}

#[test]
fn a_worker_has_no_file_descriptor_but_its_own() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().canonicalize().unwrap();
    // Whoever starts it has left some open.
    let mut command = Command::new("bash");
    command.args([
        "-c",
        "exec 7</etc/passwd 200</etc/group; exec \"$@\"",
        "bash",
    ]);
    command.arg(server::binary().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
    let server = serve()
        .workers(3)
        .root(&path)
        .flags(&listen)
        .start_as(command, folder);
    let sockets = server.srv(&["sockets", "--json"]).unwrap().stdout;
    let sockets: serde_json::Value = serde_json::from_slice(&sockets).unwrap();
    let listeners: Vec<_> = sockets["sockets"].as_array().unwrap().iter().collect();
    assert_eq!(listeners.len(), 6);
    let kept = Client::connect(server.address());
    until_group(&server, "it is accepted", |group| group.totals.active == 1);
    let mut connections = 0;
    for pid in workers(&server) {
        let mut files = files(pid);
        for stdio in 0..3 {
            files.remove(&stdio).unwrap();
        }
        let mut take = |count: usize, is_it: &dyn Fn(&str) -> bool, what: &str| {
            let before = files.len();
            files.retain(|_, path| !is_it(path.to_str().unwrap()));
            assert_eq!(before - files.len(), count, "{what}: {files:?} is left");
        };
        take(1, &|link| link == path.to_str().unwrap(), "the root");
        take(1, &|link| link == "anon_inode:[eventpoll]", "epoll");
        take(
            1,
            &|link| link.starts_with("pipe:"),
            "what wakes the log writer",
        );
        for listener in &listeners {
            let link = format!("socket:[{}]", listener["inode"]);
            take(1, &|it| it == link, "a listener");
        }
        // Channel, both ends of what tells of signals, connections.
        assert!(
            files
                .values()
                .all(|link| link.to_str().unwrap().starts_with("socket:"))
        );
        connections += files.len() - 3;
    }
    assert_eq!(connections, 1);
    drop(kept);
}

#[test]
fn files_outside_of_the_root_or_of_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(folder.path().join("outside"), "not to be served").unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    fs::write(root.join("secret"), "the owner's").unwrap();
    fs::set_permissions(root.join("secret"), PermissionsExt::from_mode(0o000)).unwrap();
    fs::write(root.join("inside"), "to be served").unwrap();
    symlink("inside", root.join("link")).unwrap();
    let server = serve().workers(1).root(&root).start();
    for (path, status) in [
        ("/relative", 404),
        ("/absolute", 404),
        ("/magic/etc/passwd", 404),
        // Root's own workers could read it.
        ("/secret", 403),
        ("/link", 200),
    ] {
        assert_eq!(get(server.address(), path).status(), status, "{path}");
    }
}

/// One line, for lack of which there would be a server.
fn refusal(command: &Command, folder: &TempDir) -> String {
    let mut bounded = Command::new("timeout");
    let output = bounded
        .arg("20")
        .arg(command.get_program())
        .args(command.get_args())
        .arg("serve")
        .args(["--listen", "127.0.0.1:0", "--workers", "1", "--control"])
        .arg(folder.path().join("control"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

#[test]
fn a_user_that_cannot_be_had_is_refused_if_asked_for_and_else_said() {
    gate::needs!(root);
    let folder = tempfile::tempdir().unwrap();
    let srv = || Command::new(server::binary().unwrap());
    let without_setuid = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-setuid", "--inh-caps=-all"]);
        command.arg(server::binary().unwrap());
        command
    };
    let asking = |mut command: Command, user: &str| {
        let script = format!("exec \"$@\" --user {user}");
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &script, "bash"])
            .arg(command.get_program());
        shell.args(command.get_args());
        command = shell;
        refusal(&command, &folder)
    };
    let said = asking(srv(), "srv-no-such-user");
    assert!(
        said.contains("--user: there is no user srv-no-such-user"),
        "{said}"
    );
    let said = asking(without_setuid(), "nobody");
    assert!(
        said.contains("--user") && said.contains("CAP_SETUID"),
        "{said}"
    );
    let mut server = serve()
        .workers(1)
        .start_as(without_setuid(), tempfile::tempdir().unwrap());
    let said = server.child().stderr();
    let lines = said.lines().filter(|line| line.contains("workers run as"));
    assert_eq!(lines.count(), 1, "{said}");
    assert_eq!(get(server.address(), "/").status(), 200);
    assert_eq!(server.status().unwrap().workers_run_as.unwrap().uid, 0);
    let thread = &threads(pid(&worker(&server, 0)))[0];
    assert_eq!(capability_sets(thread), [0; 5]);
}

#[test]
fn a_root_that_workers_may_not_enter_is_refused_with_its_place() {
    gate::needs!(root);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("srv.toml");
    let private = folder.path().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(
        &file,
        format!("workers = 1\nroot = \"{}\"\n", private.display()),
    )
    .unwrap();
    let mut command = Command::new("bash");
    let script = format!("exec \"$@\" --config {}", file.display());
    command.args(["-c", &script, "bash"]);
    let said = refusal(command.arg(server::binary().unwrap()), &folder);
    for part in [
        "srv.toml:2:1: root",
        "user 65534",
        "--user",
        "Permission denied",
    ] {
        assert!(said.contains(part), "{said}");
    }
    fs::write(&file, "workers = 1\n").unwrap();
    let server = serve().config(&file).start();
    let before = workers(&server);
    fs::write(&file, format!("root = \"{}\"\n", private.display())).unwrap();
    let refused = server.srv(&["reload"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("srv.toml:1:1: root"),
        "{said}"
    );
    assert_eq!(workers(&server), before);
    fs::write(&file, "user = \"root\"\n").unwrap();
    let refused = server.srv(&["reload"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("srv.toml:1:1: user: a running server cannot"),
        "{said}"
    );
}

/// What a worker can write of the memory that it shares, page by page as the kernel has
/// it; and that it cannot get more, having no descriptor left to map it by.
#[test]
fn a_worker_writes_to_its_own_page_and_to_what_all_share() {
    gate::needs!(steer, root);
    let server = serve().workers(3).start();
    for slot in 0..3 {
        let memory = SharedMemory::of(pid(&worker(&server, slot)));
        assert_eq!(memory.writable(), Group::<MAX_WORKERS>::writable_by(slot));
    }
    let steering = SelectProgram::load().unwrap();
    let group = steering.memory().map_for_worker(1).unwrap();
    let others = std::ptr::from_ref(&group.slots[2]);
    // SAFETY: nobody has the page; that it cannot be had is the question.
    let got = unsafe {
        mprotect(
            others.cast_mut().cast(),
            size_of::<Slot>(),
            MprotectFlags::WRITE,
        )
    };
    assert_eq!(got, Err(Errno::ACCESS));
}

/// All that a worker can do to others through what they share.
#[test]
fn a_worker_that_scribbles_over_all_that_it_can_costs_nothing_but_good_choices() {
    gate::needs!(steer, root);
    // Longer than a busy machine keeps a worker from running.
    let server = serve().workers(3).with("--hang-after", "1s").start();
    let before = group(&server);
    let memory = SharedMemory::of(pid(&before.workers[2]));
    let fill: [fn(usize) -> u8; 4] = [
        |_| 0xff,
        |nth| (nth as u8).wrapping_mul(167),
        |nth| 0x80 >> (nth % 8),
        |_| 0,
    ];
    for nth in 0..40 {
        memory.fill(fill[nth % fill.len()]);
        assert_eq!(get(server.address(), "/").status(), 200);
        let siblings = &group(&server).workers[..2];
        assert!(siblings.iter().all(|worker| worker.state == "ready"));
    }
    let after = group(&server);
    assert_eq!(after.program.fallbacks, before.program.fallbacks);
    assert!(after.program.steered >= before.program.steered + 40);
    until_group(
        &server,
        "it is what its worker says of itself again",
        |group| {
            get(server.address(), "/");
            group.workers[2].state == "ready"
        },
    );
}

/// What a worker has mapped of a listener group.
struct SharedMemory {
    process: fs::File,
    /// Where, and whether it may write there.
    mapped: Vec<(Range<u64>, bool)>,
}

impl SharedMemory {
    fn of(pid: Pid) -> Self {
        let folder = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let maps = fs::read_to_string(folder.join("maps")).unwrap();
        let shared = maps.lines().filter(|line| line.contains("bpf-map"));
        let memory = fs::File::options().write(true).open(folder.join("mem"));
        Self {
            process: memory.unwrap(),
            mapped: shared.map(mapping).collect(),
        }
    }

    /// The bytes of the group that the worker may write.
    fn writable(&self) -> Vec<Range<usize>> {
        let start = self.mapped[0].0.start;
        let writable = self.mapped.iter().filter(|(_, is_writable)| *is_writable);
        writable
            .map(|(bytes, _)| (bytes.start - start) as usize..(bytes.end - start) as usize)
            .collect()
    }

    fn fill(&self, byte: impl Fn(usize) -> u8) {
        for (at, is_writable) in &self.mapped {
            let bytes: Vec<u8> = (0..(at.end - at.start) as usize).map(&byte).collect();
            let written = self.process.write_all_at(&bytes, at.start);
            assert_eq!(written.is_ok(), *is_writable, "{at:x?}: {written:?}");
        }
    }
}

/// Where a line of `/proc/PID/maps` says that something is mapped, and whether it can be written.
fn mapping(line: &str) -> (Range<u64>, bool) {
    let mut fields = line.split(' ');
    let (start, end) = fields.next().unwrap().split_once('-').unwrap();
    let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
    (start..end, fields.next().unwrap().contains('w'))
}

/// As a panic ends a worker.
#[test]
fn an_abort_is_a_respawn_and_no_outage() {
    let server = serve().workers(2).start();
    for round in 1..=3 {
        signal(pid(&worker(&server, 1)), Signal::ABORT);
        for _ in 0..10 {
            assert_eq!(get(server.address(), "/").status(), 200);
        }
        until_group(&server, "it is replaced", |group| {
            let replaced = &group.workers[1];
            replaced.starts == round + 1 && replaced.state == "ready"
        });
    }
    assert_eq!(worker(&server, 0).starts, 1);
}

/// What a reload, an upgrade and a switch of the policy need is still there.
#[test]
fn what_was_kept_is_enough_for_all_that_comes_later() {
    gate::needs!(steer, root);
    let mut server = serve()
        .workers(2)
        .with("--hang-after", "20ms")
        .with("--hang-kill", "50ms")
        .start();
    for policy in ["hash", "p2c", "least"] {
        assert!(server.srv(&["policy", policy]).unwrap().status.success());
        assert_eq!(group(&server).program.attached, policy != "hash");
    }
    signal(pid(&worker(&server, 0)), Signal::STOP);
    until_group(
        &server,
        "the one that hangs is killed and replaced",
        |group| {
            get(server.address(), "/");
            group.workers[0].hang_kills == 1 && group.workers[0].state == "ready"
        },
    );
    let old = server.pid();
    let upgraded = server.srv(&["upgrade"]).unwrap();
    assert!(upgraded.status.success(), "{upgraded:?}");
    let program = until("the new one steers", || {
        Some(group(&server).program).filter(|program| program.attached)
    });
    assert_eq!(program.why_not, None);
    let successor = server.status().unwrap().pid;
    let successor = Pid::from_raw(successor as i32).unwrap();
    let [old, new] = [old, successor].map(|pid| capability_sets(&threads(pid)[0]));
    assert_eq!(old, new);
    signal(successor, Signal::TERM);
    let said = {
        server.child().await_exit().unwrap();
        server.child().stderr()
    };
    assert!(!said.contains("drop new SYNs"), "{said}");
}
