//! `srv ab` when something goes wrong meanwhile: what was measured is kept,
//! what is missing or not to be believed is said, and the exit code tells.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use srv::control::{Reply, Request, ask};
use srv::measure::ab::files::RESERVE_BYTES;
use srv::measure::result::Comparison;
use srv_tests::child::Child;
use srv_tests::server::binary;
use srv_tests::usage::Tree;

use crate::gate;
use crate::probe::{signal, state, until};

/// Answers of each server before the first that is measured.
const WARM_UP: u64 = 64;

/// A comparison in progress.
struct Ab {
    child: Child,
    out: PathBuf,
    folder: tempfile::TempDir,
}

impl Ab {
    /// Of cheap requests at a low rate.
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut command = Command::new(binary().unwrap());
        command.args(["ab", "cheap", "--rate", "200"]);
        command.args(arguments).arg("--out").arg(&out);
        let child = Child::spawn(command.stdout(Stdio::null())).unwrap();
        Self { child, out, folder }
    }

    /// Waits until this arm's run in this round, such as `hash-1`, is measured.
    fn await_run(&self, run: &str) {
        until("the run is done", || self.is_done(run).then_some(()));
    }

    fn is_done(&self, run: &str) -> bool {
        self.out.join(format!("samples/{run}.hgrm")).exists()
    }

    /// The master of the server that is measured now, once it has its workers.
    fn server(&self) -> Pid {
        until("a server is there", || {
            let family = Tree::of(self.child.pid()).ok()?;
            let pid = family.pids().find(|pid| is_master(*pid))?;
            (Tree::of(pid).ok()?.len() > 8).then_some(pid)
        })
    }

    /// Waits for its end with this exit code. What it left, what it said, and
    /// the folder for as long as it is needed.
    fn end(mut self, code: i32) -> (Comparison, String, tempfile::TempDir) {
        until("it ends", || {
            matches!(state(self.child.pid()), None | Some('Z')).then_some(())
        });
        let status = self.child.await_exit().unwrap();
        let said = self.child.stderr();
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(self.out.join("report.html").exists());
        (Comparison::read(&self.out).unwrap(), said, self.folder)
    }
}

fn is_master(pid: Pid) -> bool {
    words(pid).get(1).is_some_and(|word| word == "serve")
}

/// A process's command line.
fn words(pid: Pid) -> Vec<String> {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let line = std::fs::read(path).unwrap_or_default();
    let words = line.split(|byte| *byte == 0);
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Requests that a server answered, by its own account.
fn served(master: Pid) -> Option<u64> {
    let words = words(master);
    let flag = words.iter().position(|word| word == "--control")?;
    let control = Path::new(&words[flag + 1]);
    let Ok(Reply::Status(status)) = ask(Some(control), &Request::Status) else {
        return None;
    };
    let workers = &status.groups[0].workers;
    Some(workers.iter().map(|worker| worker.served).sum())
}

#[track_caller]
fn assert_incomplete(result: &Comparison, said: &str, why: &str) {
    let incomplete = result.incomplete.as_deref().unwrap_or_default();
    assert!(incomplete.contains(why), "{incomplete}");
    assert!(said.contains(why), "{said}");
    assert!(!result.arms[0].rounds.is_empty(), "nothing was kept");
    assert!(result.doubts[0].sentence.contains("incomplete"));
}

#[test]
fn an_interrupted_run_leaves_what_it_measured() {
    let ab = Ab::start(&[
        "--arms",
        "hash,ring",
        "--rounds",
        "100",
        "--duration",
        "200ms",
    ]);
    ab.await_run("hash-1");
    ab.child.signal(Signal::INT).unwrap();
    let (result, said, _) = ab.end(1);
    assert_incomplete(&result, &said, "interrupted");
}

#[test]
fn a_server_that_dies_ends_the_run() {
    let ab = Ab::start(&["--arms", "hash,ring", "--rounds", "9", "--duration", "2s"]);
    ab.await_run("hash-1");
    let server = ab.server();
    until("it answers more than the warm-up", || {
        (served(server)? > WARM_UP).then_some(())
    });
    signal(server, Signal::KILL);
    let (result, said, _) = ab.end(1);
    assert_incomplete(&result, &said, "did not outlive its round");
}

/// The control's servers stand still for most of the time, as they would by
/// chance if a program beside them took the cores.
#[test]
fn a_disturbed_control_condemns_the_run() {
    // A repeat would go undisturbed.
    let ab = Ab::start(&[
        "--arms",
        "hash",
        "--rounds",
        "3",
        "--duration",
        "2s",
        "--repeats",
        "0",
    ]);
    // Each round begins with the other arm.
    for (before, disturbed) in [
        ("hash-1", "hash-again-1"),
        ("hash-again-1", "hash-again-2"),
        ("hash-3", "hash-again-3"),
    ] {
        ab.await_run(before);
        let server = Tree::of(ab.server()).unwrap();
        while !ab.is_done(disturbed) {
            for (what, period_ms) in [(Signal::STOP, 80), (Signal::CONT, 20)] {
                for worker in server.pids().skip(1) {
                    // It has ended if the run is done.
                    let _ = kill_process(worker, what);
                }
                sleep(Duration::from_millis(period_ms));
            }
        }
    }
    let (result, _, _) = ab.end(2);
    assert_eq!(result.incomplete, None);
    assert!(!result.is_usable(), "{:?}", result.doubts);
    let [verdict, advice] = &result.verdict[..] else {
        panic!("{:?}", result.verdict)
    };
    assert!(verdict.contains("not usable"), "{verdict}");
    assert!(advice.contains("--rounds 6"), "{advice}");
}

/// Room for the samples of two or three runs, in a mount namespace that ends with the run.
#[test]
fn a_full_disk_leaves_what_was_measured() {
    gate::needs!(root);
    let [disk, kept] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let script = format!(
        "mount -t tmpfs -o size={} none $DISK || exit 9
         $SRV ab cheap --rate 2000 --duration 500ms --arms hash --rounds 50 --out $DISK/out
         code=$?; cp -r $DISK/out $KEPT; exit $code",
        RESERVE_BYTES + (128 << 10)
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    command.env("DISK", disk.path()).env("KEPT", kept.path());
    command.env("SRV", binary().unwrap()).stdout(Stdio::null());
    let ab = Ab {
        child: Child::spawn(&mut command).unwrap(),
        out: kept.path().join("out"),
        folder: kept,
    };
    let samples = ab.out.join("samples");
    let (result, said, _kept) = ab.end(1);
    assert_incomplete(&result, &said, "No space left on device");
    assert!(said.contains("--out"), "the mend: {said}");
    let rounds = result.arms.iter().map(|arm| arm.rounds.len());
    let files = std::fs::read_dir(samples).unwrap().count();
    // Records and distribution of each round that counts, and no half of one.
    assert_eq!(files, 2 * rounds.sum::<usize>());
}

#[test]
fn a_disk_without_room_for_the_result_is_refused() {
    gate::needs!(root);
    let disk = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=512k none $DISK && $SRV ab --out $DISK/out";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]);
    command
        .env("DISK", disk.path())
        .env("SRV", binary().unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("No space left") && said.contains("--out"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(output.stdout.is_empty(), "something had started");
}
