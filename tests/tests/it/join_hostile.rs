//! What a server that would join finds in the place of the first: another user's
//! process, or memory that is not what it should be.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use srv::control::Reply;
use srv::control::joining::Joined;
use srv::kernel::packets;
use srv::serve::master::join::{self, Welcome};
use srv_tests::server::binary;

use crate::gate;

/// What `srv serve --join` says that may not, or will not, join.
fn refusal(control: &Path, listen: &str) -> String {
    let mut command = Command::new("timeout");
    command.arg("20").arg(binary().unwrap());
    command.args(["serve", "--join", "--workers", "1", "--listen", listen]);
    let output = command.arg("--control").arg(control).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{:?} {said}", output.status);
    said
}

/// Plays the first server, whose shared memory is `memory`.
fn welcome(control: UnixListener, listener: &TcpListener, memory: OwnedFd) {
    let (stream, _) = control.accept().unwrap();
    BufReader::new(&stream)
        .read_line(&mut String::new())
        .unwrap();
    let (mine, theirs) = packets::pair().unwrap();
    let mut packet = serde_json::to_vec(&Reply::Joined(Joined { channel: None })).unwrap();
    packet.push(b'\n');
    packets::send_with_fds(&stream, &packet, &[theirs.as_fd()]).unwrap();
    let welcome = Welcome {
        pid: std::process::id(),
        first_slot: 0,
        listeners: 1,
        groups: vec![(listener.local_addr().unwrap(), 1)],
        policy: "hash".into(),
    };
    let fds = [memory.as_fd(), listener.as_fd()];
    join::welcome(&mine, welcome, &fds).unwrap();
    // Until the other one has gone.
    let _ = BufReader::new(&stream).read_line(&mut String::new());
}

#[track_caller]
fn assert_memory_is_refused(memory: OwnedFd, why: &str) {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let listening = UnixListener::bind(&control).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let first = thread::spawn(move || welcome(listening, &listener, memory));
    let said = refusal(&control, &address);
    assert!(said.contains(why), "{said}");
    first.join().unwrap();
}

#[test]
fn memory_that_is_too_small_or_could_become_so_is_refused() {
    let memfd = |bytes, seals| {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    };
    assert_memory_is_refused(memfd(4096, SealFlags::SHRINK), "has 4096 bytes");
    assert_memory_is_refused(memfd(64 << 20, SealFlags::GROW), "not sealed");
}

#[test]
fn another_users_server_is_not_joined() {
    gate::needs!(root);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let control = folder.path().join("control");
    let path = control.clone();
    let another = thread::spawn(move || {
        let nobody = Uid::from_raw(65_534);
        set_thread_res_uid(nobody, nobody, nobody).unwrap();
        UnixListener::bind(path).unwrap()
    });
    let _listening = another.join().unwrap();
    let said = refusal(&control, "127.0.0.1:1");
    assert!(said.contains("it belongs to user 65534"), "{said}");
}
