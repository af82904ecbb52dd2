//! Without privilege: hash and ring, said in one line.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use srv::measure::result::{ArmRole, Comparison};
use srv_tests::server::{Server, binary};
use tempfile::TempDir;

use crate::client::{Client, get, get_many};
use crate::gate;
use crate::probe::{Stopped, group, pid, status, worker};
use crate::serve::serve;
use crate::support::executable;

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// A way to run srv as a user without privilege, in a folder of its own.
struct Nobody {
    folder: TempDir,
    binary: PathBuf,
}

impl Nobody {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let binary = binary().unwrap();
        if !rustix::process::geteuid().is_root() {
            return Self { folder, binary };
        }
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        // Where the build lies, others than root may not get at it.
        let reachable = folder.path().join("srv-for-all");
        executable::copy(&binary, &reachable);
        Self {
            folder,
            binary: reachable,
        }
    }

    fn srv(&self) -> Command {
        if !rustix::process::geteuid().is_root() {
            return Command::new(&self.binary);
        }
        let user = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        command.arg(&self.binary);
        command
    }

    fn serve(&self, control: &Path) -> Command {
        let mut command = self.srv();
        command.args(["serve", "--listen", "127.0.0.1:0", "--workers", "2"]);
        command.arg("--control").arg(control);
        command
    }
}

/// A user may have been given what it takes.
fn is_unprivileged(nobody: &Nobody) -> bool {
    let output = nobody.srv().args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lacks = report["steers"] == false;
    gate::can(
        "lack privilege",
        lacks.then_some(()).ok_or("srv steers all the same".into()),
    )
}

#[test]
fn it_serves_by_hash_and_ring_and_says_so_in_one_line() {
    let nobody = Nobody::new();
    if !is_unprivileged(&nobody) {
        return;
    }
    let command = nobody.srv();
    let arguments = ["--workers", "2", "--worker-header"];
    let mut server = Server::start_as(command, nobody.folder, arguments).unwrap();
    let said = server.child().stderr();
    let lines = |part| said.lines().filter(move |line| line.contains(part));
    assert_eq!(lines("not steering").count(), 1, "{said}");
    // It was to steer and cannot: that is the one warning.
    let warned: Vec<_> = lines("WARN").collect();
    let [warning] = warned[..] else {
        panic!("{said}");
    };
    assert!(
        warning.contains("not steering") && !said.contains("ERROR"),
        "{said}"
    );
    let stopped = Stopped::new(pid(&worker(&server, 0)));
    assert_eq!(get_many(server.address(), 40), [1; 40]);
    drop(stopped);
    assert_eq!(status(&server).policy, "hash");
    let program = group(&server).program;
    assert!(!program.attached && program.why_not.is_some());
    let refused = server.srv(&["policy", "least"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(server.stop().unwrap().code(), Some(0));
}

#[test]
fn a_policy_asked_for_is_not_quietly_left_out() {
    let nobody = Nobody::new();
    if !is_unprivileged(&nobody) {
        return;
    }
    let control = nobody.folder.path().join("control");
    let output = nobody
        .serve(&control)
        .args(["--policy", "least"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.contains("steer by least"), "{said}");
    assert!(!control.exists());
}

#[test]
fn no_bpf_is_no_privilege_needed() {
    let server = serve().no_bpf().workers(2).start();
    assert_eq!(get(server.address(), "/").status(), 200);
    let program = group(&server).program;
    assert!(program.why_not.unwrap().contains("--no-bpf"));
    assert_eq!(program.runs, 0);
}

/// As many users do: several servers, none named. The folder in which they are
/// looked for is this test's own.
#[test]
fn which_server_is_meant_must_be_clear() {
    let nobody = Nobody::new();
    let runtime = nobody.folder.path().to_owned();
    let ask = |arguments: &[&str]| {
        let mut command = nobody.srv();
        let output = command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", &runtime)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap(),
        )
    };
    let (code, said) = ask(&["status"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("no server of yours runs here"), "{said}");
    let serve = || {
        let mut command = nobody.srv();
        command.args([
            "serve",
            "--no-bpf",
            "--workers",
            "1",
            "--listen",
            "127.0.0.1:0",
        ]);
        let command = command
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("NO_COLOR", "1");
        let mut child = srv_tests::child::Child::spawn(command).unwrap();
        child.await_line("listening on ").unwrap();
        child
    };
    let mut first = serve();
    let (code, said) = ask(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("master {}", first.pid().as_raw_nonzero())),
        "{said}"
    );
    let _second = serve();
    // To look at all of them is clear; to change one is not.
    let (code, said) = ask(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("server of user").count(), 2, "{said}");
    let (code, said) = ask(&["policy", "hash"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("several servers") && said.matches("--control").count() == 2,
        "{said}"
    );
    // What a killed one leaves behind is no server.
    first.signal(rustix::process::Signal::KILL).unwrap();
    first.await_exit().unwrap();
    let (code, said) = ask(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("master ").count(), 1, "{said}");
}

#[test]
fn a_root_that_only_others_may_read() {
    let nobody = Nobody::new();
    let folder = nobody.folder.path().join("root");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o000)).unwrap();
    let control = nobody.folder.path().join("control");
    let output = nobody
        .serve(&control)
        .arg("--root")
        .arg(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(
        said.contains("--root") && said.contains("Permission denied"),
        "{said}"
    );
    assert!(!control.exists());
}

/// A file that appears unreadable is the client's 403, not the server's end.
#[test]
fn a_file_that_only_others_may_read() {
    let nobody = Nobody::new();
    let secret = nobody.folder.path().join("secret");
    std::fs::write(&secret, "s").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    let command = nobody.srv();
    let root = nobody.folder.path().to_owned();
    let arguments = [
        "--no-bpf",
        "--workers",
        "1",
        "--root",
        root.to_str().unwrap(),
    ];
    let server = Server::start_as(command, nobody.folder, arguments).unwrap();
    let mut client = Client::connect(server.address());
    client.get("/secret");
    assert_eq!(client.response().status(), 403);
    client.get("/missing");
    assert_eq!(client.response().status(), 404);
}

#[test]
fn a_comparison_stops_before_it_starts_unless_arms_may_be_left_out() {
    let nobody = Nobody::new();
    if !is_unprivileged(&nobody) {
        return;
    }
    let out = nobody.folder.path().join("ab");
    let ab = |more: &[&str]| {
        let mut command = nobody.srv();
        command.args(["ab", "cheap", "--arms", "hash,least+ring", "--rounds", "1"]);
        command.args(["--rate", "100", "--duration", "100ms", "--out"]);
        command.arg(&out).args(more).output().unwrap()
    };
    let output = ab(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said.contains("the arms least+ring steer") && said.contains("--unsteered"),
        "{said}"
    );
    assert!(!out.exists());

    let output = ab(&["--unsteered"]);
    // 2: the run is complete, and the machine was too disturbed to judge by it.
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 2)), "{output:?}");
    let result = Comparison::read(&out).unwrap();
    let rounds = result
        .arms
        .iter()
        .map(|arm| (arm.name.as_str(), arm.role, arm.rounds.len()));
    assert_eq!(
        rounds.collect::<Vec<_>>(),
        [
            ("hash", ArmRole::Candidate, 1),
            ("least+ring", ArmRole::Candidate, 0),
            ("hash", ArmRole::Control, 1)
        ]
    );
}
