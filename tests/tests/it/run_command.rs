//! The command `srv run`: it becomes COMMAND and leaves nothing of itself behind; and what no
//! library can be loaded into runs plain.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use srv::control::{Reply, Request, ask};
use srv_tests::child::Child;
use srv_tests::free_address;
use srv_tests::server::binary;

use crate::agent::LOCALHOST;
use crate::beside;
use crate::client::get;
use crate::gate;
use crate::probe::until;
use crate::support::executable;
use crate::unmodified::servers;

fn srv() -> Command {
    Command::new(binary().unwrap())
}

/// `srv run` of a shell that runs this script.
fn script(text: &str) -> Command {
    let mut command = srv();
    command.args(["run", "--", "sh", "-c", text]);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[test]
fn it_becomes_the_command() {
    let mut command = script("echo $$ $PPID; cat; echo said >&2; kill -TERM $$");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    child.stdin.take().unwrap().write_all(b"asked").unwrap();
    // This awaits the end of standard error, which the coordinator has, too.
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    assert_eq!(
        text(&stdout),
        format!("{pid} {}\nasked", std::process::id())
    );
    assert_eq!(text(&stderr), "said");
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    let server = rustix::process::Pid::from_raw(pid as i32).unwrap();
    until("its coordinator and its keeper have ended", || {
        beside::both(server).is_empty().then_some(())
    });
}

#[test]
fn the_exit_code_is_the_commands_or_says_why_there_is_none() {
    assert_eq!(script("exit 42").status().unwrap().code(), Some(42));
    let none = srv().args(["run", "no-such-command"]).output().unwrap();
    assert_eq!(none.status.code(), Some(127));
    assert!(
        text(&none.stderr).contains("execute no-such-command: "),
        "{none:?}"
    );
    let folder = srv().args(["run", "/"]).output().unwrap();
    assert_eq!(folder.status.code(), Some(126), "{folder:?}");
    let nothing = srv().arg("run").output().unwrap();
    assert_eq!(nothing.status.code(), Some(2));
}

/// How a process handles signals, which it inherits through exec.
fn signals_of(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    let lines = text(&output.stdout).lines();
    lines.map(ToOwned::to_owned).collect()
}

#[test]
fn signals_are_handled_as_without_it() {
    const SHOW: [&str; 3] = ["grep", "-E", "^Sig(Blk|Ign):"];
    for ignored in [
        [libc::SIGPIPE, libc::SIGUSR2],
        [libc::SIGHUP, libc::SIGCHLD],
    ] {
        let prepare = move || {
            // SAFETY: the calls change how signals are handled, and nothing else; both are
            // async-signal-safe.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                for signal in ignored {
                    libc::signal(signal, libc::SIG_IGN);
                }
                let mut blocked: libc::sigset_t = std::mem::zeroed();
                libc::sigaddset(&raw mut blocked, libc::SIGUSR1);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const blocked, std::ptr::null_mut());
            }
            Ok(())
        };
        let mut plain = Command::new(SHOW[0]);
        plain.args(&SHOW[1..]).arg("/proc/self/status");
        let mut run = srv();
        run.args(["run", "--"]).args(SHOW).arg("/proc/self/status");
        for command in [&mut plain, &mut run] {
            // SAFETY: see `prepare`.
            unsafe { command.pre_exec(prepare) };
        }
        let expected = signals_of(&mut plain);
        assert_eq!(expected.len(), 2, "{expected:?}");
        assert_eq!(signals_of(&mut run), expected);
    }
}

/// A binary that is linked statically, and does nothing but end with the exit code 7.
fn static_binary(folder: &Path) -> PathBuf {
    const HEADER_BYTES: u16 = 64;
    const SEGMENT_BYTES: u16 = 56;
    const ADDRESS: u64 = 0x40_0000;
    let (machine, code): (u16, &[u8]) = match std::env::consts::ARCH {
        // mov $231, %eax; mov $7, %edi; syscall
        "x86_64" => (62, b"\xb8\xe7\x00\x00\x00\xbf\x07\x00\x00\x00\x0f\x05"),
        // mov x8, #94; mov x0, #7; svc #0
        _ => (183, b"\xc8\x0b\x80\xd2\xe0\x00\x80\xd2\x01\x00\x00\xd4"),
    };
    let start = u64::from(HEADER_BYTES + SEGMENT_BYTES);
    let bytes = start + code.len() as u64;
    // An executable (ET_EXEC) of version 1, which begins after its headers.
    let mut binary = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    binary.extend([2, machine].iter().flat_map(|half| half.to_le_bytes()));
    binary.extend(1u32.to_le_bytes());
    let places = [ADDRESS + start, HEADER_BYTES.into(), 0];
    binary.extend(places.iter().flat_map(|word| word.to_le_bytes()));
    binary.extend(0u32.to_le_bytes());
    let sizes = [HEADER_BYTES, SEGMENT_BYTES, 1, 0, 0, 0];
    binary.extend(sizes.iter().flat_map(|half| half.to_le_bytes()));
    // One segment (PT_LOAD), which is read and executed.
    binary.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let segment = [0, ADDRESS, ADDRESS, bytes, bytes, 0x1000];
    binary.extend(segment.iter().flat_map(|word| word.to_le_bytes()));
    binary.extend(code);
    let path = folder.join("static");
    executable::write(&path, binary);
    path
}

#[test]
fn what_no_library_can_be_loaded_into_runs_plain_and_one_line_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let binary = static_binary(folder.path());
    let output = srv().args(["run", "--"]).arg(&binary).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("linked statically") && said.contains("runs plain"),
        "{said}"
    );
    // A script is as its interpreter is.
    let script = folder.path().join("script");
    executable::write(&script, format!("#!{}\n", binary.display()));
    let output = srv().arg("run").arg(&script).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(
        text(&output.stderr).contains("linked statically"),
        "{output:?}"
    );
    let mut itself = srv();
    itself.args(["run", "--"]).arg(srv().get_program());
    let output = itself.arg("--version").output().unwrap();
    assert!(output.status.success());
    assert!(
        text(&output.stderr).contains("`srv serve` steers its own workers"),
        "{output:?}"
    );
}

#[test]
fn what_was_loaded_before_stays_loaded() {
    let other = "libc.so.6";
    let mut command = script("echo $LD_PRELOAD");
    let output = command.env("LD_PRELOAD", other).output().unwrap();
    let loaded: Vec<&str> = text(&output.stdout).split(':').collect();
    assert_eq!(loaded.len(), 2, "{output:?}");
    assert!(
        loaded[0].ends_with(".so") && loaded[1] == other,
        "{loaded:?}"
    );
}

/// nginx under `srv run`, without a control socket of the test's choice.
struct Found {
    server: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Found {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address(LOCALHOST).unwrap();
        let at = folder.path().display();
        let config = folder.path().join("nginx.conf");
        let text = format!(
            "daemon off; worker_processes 2; pid {at}/pid; error_log {at}/error;\n\
             events {{}}\n\
             http {{ access_log off; server {{ listen {address}; return 204; }} }}\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = srv();
        command.args(["run", "--", "nginx", "-c"]).arg(&config);
        let server = Child::spawn(&mut command).unwrap();
        let found = Self {
            server,
            address,
            _folder: folder,
        };
        until("both workers have a slot", || {
            let (ready, text) = found.ask(&["status"]);
            (ready && text.matches("  ready ").count() == 2).then_some(())
        });
        found
    }

    /// What a command says of it, and whether it succeeds.
    fn ask(&self, words: &[&str]) -> (bool, String) {
        let mut command = srv();
        command
            .args(words)
            .arg("--listen")
            .arg(self.address.to_string());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), text(&said).to_owned())
    }
}

#[test]
fn a_server_is_found_asked_and_switched() {
    gate::needs!(root, "run nginx": &servers::NGINX.installed());
    let found = Found::start();
    let pid = found.server.pid();
    let (_, status) = found.ask(&["status"]);
    assert!(
        status.contains(&format!("nginx {pid} (srv run)")),
        "{status}"
    );
    let (_, sockets) = found.ask(&["sockets"]);
    assert_eq!(
        sockets.lines().count(),
        3,
        "a header and two sockets: {sockets}"
    );
    let (is_done, said) = found.ask(&["reload"]);
    assert!(
        !is_done && said.contains("coordinator of `srv run`"),
        "{said}"
    );
    let (is_done, said) = found.ask(&["policy", "hash"]);
    assert!(
        is_done && said.contains("policy: hash (was least)"),
        "{said}"
    );
    let (_, status) = found.ask(&["status"]);
    assert!(status.contains("policy hash"), "{status}");
}

/// The processes of a server that are ready, once there are `count`.
fn ready_processes(control: &Path, count: usize) -> Vec<u32> {
    until("each copy has a slot and is ready", || {
        let Ok(Reply::Status(status)) = ask(Some(control), &Request::Status) else {
            return None;
        };
        let workers = status.groups.first()?.workers.iter();
        let ready = workers.filter(|worker| worker.state.name() == "ready");
        let pids: Vec<u32> = ready.map(|worker| worker.pid).collect();
        (pids.len() == count).then_some(pids)
    })
}

#[test]
fn copies_share_a_port_and_one_that_ends_is_started_again() {
    const COPIES: usize = 3;
    gate::needs!(root, "run nginx": &servers::NGINX.installed());
    let folder = tempfile::tempdir().unwrap();
    let address = free_address(LOCALHOST).unwrap();
    let (at, control) = (folder.path().display(), folder.path().join("control"));
    let config = folder.path().join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error;\n\
         events {{}}\n\
         http {{ access_log off; server {{ listen {address}; return 204; }} }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = srv();
    command.args(["run", "--copies", &COPIES.to_string(), "--control"]);
    command
        .arg(&control)
        .args(["--", "nginx", "-c"])
        .arg(&config);
    let mut parent = command.spawn().unwrap();
    let before = ready_processes(&control, COPIES);
    for _ in 0..32 {
        assert_eq!(get(address, "/").status(), 204);
    }
    let killed = rustix::process::Pid::from_raw(before[0] as i32).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    until("another copy is in its place", || {
        let now = ready_processes(&control, COPIES);
        (!now.contains(&before[0])).then_some(())
    });
    for _ in 0..32 {
        assert_eq!(get(address, "/").status(), 204);
    }
    let pid = rustix::process::Pid::from_child(&parent);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(parent.wait().unwrap().success());
    // The coordinator, which has the sockets open as well, sees a little later that they have ended.
    until("no process listens any more", || {
        std::net::TcpStream::connect(address).err()
    });
}
