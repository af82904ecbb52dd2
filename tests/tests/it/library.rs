//! srv-steer as others use it: its examples, a project outside the workspace, its package. That
//! connections are steered is read from the BPF program's counters, which the programs print.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::gate::needs;
use crate::support::executable;

/// Connections that each program serves before it ends.
const CONNECTIONS: u64 = 200;
/// The user that owns nothing.
const NOBODY: u32 = 65_534;

fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// Cargo in `folder`, without a network: what it needs has been fetched for the workspace.
fn cargo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(folder).args(arguments).arg("--offline");
    command
}

#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// An example, built.
fn example(name: &str) -> PathBuf {
    let target = workspace().join("target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from);
    let build = ["build", "--package", "srv-steer", "--example", name];
    output(&mut cargo(&workspace(), &build));
    target.join("debug/examples").join(name)
}

/// A program that serves [`CONNECTIONS`] connections.
struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
    /// What it says of its group's state.
    state: String,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let command = command.arg("127.0.0.1:0").arg(CONNECTIONS.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let said = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{line}"));
        let (address, state) = said.trim_end().split_once(": ").unwrap();
        Self {
            address: address.parse().unwrap(),
            state: state.to_owned(),
            child,
            stdout,
        }
    }

    /// Asks once, and reads to the end.
    #[track_caller]
    fn ask(&self) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello\n"), "{answer}");
    }

    /// Asks as often as is left of [`CONNECTIONS`], and returns how many the program steered.
    #[track_caller]
    fn finish(mut self, asked: u64) -> u64 {
        (asked..CONNECTIONS).for_each(|_| self.ask());
        let mut said = String::new();
        self.stdout.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        let words: Vec<&str> = said.trim_end().lines().last().unwrap().split(' ').collect();
        let ["steered", steered, "of", served, "connections"] = words[..] else {
            panic!("{said}");
        };
        assert_eq!(served, CONNECTIONS.to_string());
        steered.parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn assert_steers(command: Command) {
    let program = Program::start(command);
    assert_eq!(program.state, "the BPF program steers");
    // More if a SYN was sent again.
    let steered = program.finish(0);
    assert!(steered >= CONNECTIONS, "{steered} of {CONNECTIONS}");
}

#[test]
fn threads_that_block_in_accept_are_steered() {
    needs!(steer);
    assert_steers(Command::new(example("threads")));
}

#[test]
fn a_ring_in_a_bare_epoll_loop_is_steered() {
    needs!(steer);
    assert_steers(Command::new(example("epoll")));
}

#[test]
fn a_ring_in_mios_loop_is_steered() {
    needs!(steer);
    assert_steers(Command::new(example("mio")));
}

#[test]
fn processes_that_inherit_their_worker_are_steered() {
    needs!(steer);
    assert_steers(Command::new(example("processes")));
}

/// A connection that comes to the listener of a process that has died waits for the next one.
#[test]
fn a_process_that_is_killed_resets_nothing() {
    needs!(steer);
    let mut command = Command::new(example("processes"));
    command.stderr(Stdio::piped());
    let mut program = Program::start(command);
    let mut stderr = BufReader::new(program.child.stderr.take().unwrap());
    // All have started when each has answered.
    (0..20).for_each(|_| program.ask());
    let pid = program.child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let first = children.split_whitespace().next().unwrap();
    let first = Pid::from_raw(first.parse().unwrap()).unwrap();
    let first = pidfd_open(first, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&first, Signal::KILL).unwrap();
    // Until it is dead, it may accept a connection that ends with it.
    rustix::event::poll(&mut [PollFd::new(&first, PollFlags::IN)], None).unwrap();
    let program = &program;
    std::thread::scope(|scope| {
        (0..40).for_each(|_| {
            scope.spawn(|| program.ask());
        });
    });
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("another takes its place"), "{line}");
}

#[test]
fn without_privilege_the_kernel_hashes_and_all_is_served() {
    needs!(root);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let reachable = folder.path().join("threads");
    executable::copy(example("threads"), &reachable);
    let mut command = Command::new(&reachable);
    command.uid(NOBODY).gid(NOBODY);
    let program = Program::start(command);
    let begin = "the kernel's hash chooses: load the select program (needs Linux 5.12";
    assert!(program.state.starts_with(begin), "{}", program.state);
    assert_eq!(program.finish(0), 0);
}

/// A program of someone else's: it has a listener for each thread already.
const OUTSIDE: &str = r#"
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};

static SERVED: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let count: u64 = arguments[2].parse()?;
    let mut address: SocketAddr = arguments[1].parse()?;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(64)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    let mut group = srv_steer::Group::from_listeners(listeners)?;
    let workers = group.workers()?;
    println!("listening on {}: {}", group.address(), group.state());
    for worker in workers {
        std::thread::spawn(move || loop {
            let Ok((mut stream, _)) = worker.listener().accept() else { continue };
            let _busy = worker.load().busy();
            worker.load().accepted(0, worker.slot());
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"hello\n");
            SERVED.fetch_add(1, Ordering::Relaxed);
        });
    }
    while SERVED.load(Ordering::Relaxed) < count {
        group.maintain();
        std::thread::sleep(srv_steer::Group::MAINTENANCE_INTERVAL);
    }
    println!("steered {} of {} connections", group.counts().steered, SERVED.load(Ordering::Relaxed));
    Ok(())
}
"#;

#[test]
fn a_project_outside_the_workspace_builds_and_steers() {
    needs!(steer);
    let folder = outside(&workspace().join("srv-steer"));
    let target = workspace().join("target/outside");
    let mut build = cargo(folder.path(), &["build"]);
    output(build.env("CARGO_TARGET_DIR", &target));
    assert_steers(Command::new(target.join("debug/outside")));
}

/// A project that depends on `library` by path, with the workspace's choice of versions.
fn outside(library: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[package]\nname = \"outside\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
         socket2 = {{ version = \"0.6\", features = [\"all\"] }}\n\
         srv-steer = {{ path = \"{}\", default-features = false }}\n",
        library.display()
    );
    let at = |file: &str| folder.path().join(file);
    std::fs::write(at("Cargo.toml"), manifest).unwrap();
    std::fs::create_dir(at("src")).unwrap();
    std::fs::write(at("src/main.rs"), OUTSIDE).unwrap();
    std::fs::copy(workspace().join("Cargo.lock"), at("Cargo.lock")).unwrap();
    folder
}

/// Others pay for each dependency when they compile, and when they audit.
#[test]
fn the_library_has_at_most_40_crates() {
    let tree = ["tree", "--package", "srv-steer", "--edges", "normal"];
    let mut cargo = cargo(&workspace(), &tree);
    let tree = output(cargo.args(["--no-default-features", "--prefix", "none", "--no-dedupe"]));
    let crates: std::collections::BTreeSet<&str> = tree.lines().collect();
    assert!(crates.len() > 3 && crates.len() <= 40, "{crates:#?}");
    for unwanted in ["anyhow ", "tokio ", "tracing "] {
        assert!(
            !crates.iter().any(|name| name.starts_with(unwanted)),
            "{unwanted}"
        );
    }
}

/// The object is not in the repository: a package without it would steer nothing, silently. Cargo
/// builds the library from its archive, as its users would.
#[test]
fn the_package_builds_and_contains_the_bpf_object_that_the_sources_give() {
    needs!(steer);
    let target = workspace().join("target/package");
    let both = ["--package", "srv-common", "--package", "srv-steer"];
    let home = cargo_home_without_sources();
    let mut package = cargo(&workspace(), &["package", "--allow-dirty"]);
    package.args(both).arg("--target-dir").arg(&target);
    output(package.env("CARGO_HOME", home.path()));
    let unpacked = target.join("package/srv-steer-0.1.0");
    for file in ["build.rs", "src/group.rs", "examples/threads.rs", "api.txt"] {
        assert!(unpacked.join(file).is_file(), "{file}");
    }
    let packaged = std::fs::read(unpacked.join("bpf/srv-ebpf.o")).unwrap();
    let built = workspace().join("target/bpf-build/bpfel-unknown-none/release/srv-ebpf");
    assert!(packaged == std::fs::read(built).unwrap());
}

/// A home of cargo that has what was downloaded, but no unpacked sources.
///
/// cargo unpacks a packaged srv-common below its home, in a folder that is named by the path of
/// the workspace, and does not unpack the same version a second time: without a home of its own,
/// the test would compile srv-steer with the srv-common of an earlier commit.
fn cargo_home_without_sources() -> TempDir {
    let users = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let users =
        users.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("registry")).unwrap();
    for shared in ["registry/index", "registry/cache", "config.toml"] {
        if users.join(shared).exists() {
            std::os::unix::fs::symlink(users.join(shared), home.path().join(shared)).unwrap();
        }
    }
    home
}
