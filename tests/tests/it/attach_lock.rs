//! The lock of a group, held by a process that is no agent: srv does not signal the process that the
//! record names, and it reports a record that it cannot read.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use srv::attach::group::Target;
use srv::attach::lock::control_path;
use srv_tests::child::Child;

use crate::agent::{said, srv};
use crate::gate;

/// A listener of this process with a lock that this process holds.
struct Held {
    listener: TcpListener,
    path: PathBuf,
    lock: File,
}

impl Held {
    /// With `record` in the lock file. `ADDRESS` and `NAMESPACE` in it are replaced by those of the
    /// listener.
    fn with(record: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let namespace = Target::new(address, None).unwrap().namespace;
        let path = control_path(namespace, address)
            .unwrap()
            .with_extension("lock");
        let record = record
            .replace("ADDRESS", &address.to_string())
            .replace("NAMESPACE", &namespace.to_string());
        fs::write(&path, record).unwrap();
        let lock = File::open(&path).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        Self {
            listener,
            path,
            lock,
        }
    }

    /// The error of `srv detach`.
    fn refused(&self) -> String {
        let address = self.listener.local_addr().unwrap().to_string();
        let mut detach = Child::spawn(srv().args(["detach", "--listen", &address])).unwrap();
        let code = detach.await_exit().unwrap().code();
        assert_eq!(code, Some(1), "{}", detach.stderr());
        detach.stderr()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // `srv detach` may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

/// An earlier version sent SIGTERM to the process that has the recorded id now.
#[test]
fn a_process_with_the_id_of_a_former_agent_is_not_signalled() {
    let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
    let held = Held::with(&format!(
        r#"{{"address":"ADDRESS","namespace":NAMESPACE,"pid":{},"start_ticks":1,
        "control":"/nowhere/agent","policy":"least","cookies":[],"program":0}}"#,
        bystander.id()
    ));
    let said = held.refused();
    let pid = bystander.id().to_string();
    let lives = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(lives, "it was ended: {said}");
    for part in [&*pid, "has ended", "fuser -v", held.path.to_str().unwrap()] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

/// An earlier version tried to take the lock 500 times a second without end.
#[test]
fn a_held_lock_with_an_unreadable_record_is_reported() {
    let held = Held::with("no record");
    let said = held.refused();
    for part in ["record cannot be read", held.path.to_str().unwrap()] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}

/// If no process has locked the file, for example one of an older version, `srv status` reports it,
/// and it does not block `srv detach`.
#[test]
fn an_unreadable_record_that_nothing_holds_is_reported_and_replaced() {
    gate::needs!(steer);
    let held = Held::with("no record");
    let address = held.listener.local_addr().unwrap();
    flock(&held.lock, FlockOperation::Unlock).unwrap();
    let status = srv().arg("status").output().unwrap();
    let complaint = String::from_utf8(status.stderr).unwrap();
    let named = format!("read the record {}", held.path.display());
    assert!(complaint.contains(&named), "{complaint}");
    let detached = said(&format!("detach --listen {address}"));
    assert!(detached.contains("nothing was attached"), "{detached}");
    assert!(!held.path.exists());
}
