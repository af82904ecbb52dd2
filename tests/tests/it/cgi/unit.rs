//! The unit in dist/: its command starts as its user, without any capability, and says that it is ready.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use srv_tests::child::Child;

use crate::agent::srv;
use crate::gate;

const UNIT: &str = include_str!("../../../../dist/srv-cgi.service");

const NOBODY: u32 = 65_534;

/// The value of the line with this key.
fn value(key: &str) -> &'static str {
    let mut values = UNIT.lines().filter_map(|line| line.strip_prefix(key));
    values.next().unwrap_or_else(|| panic!("no line `{key}`"))
}

#[test]
fn the_unit_starts_what_it_says() {
    gate::needs!(root);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let notified = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&notified).unwrap();
    chown(&notified, Some(NOBODY), Some(NOBODY)).unwrap();
    systemd.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let command = value("ExecStart=");
    let runtime = format!("/run/{}", value("RuntimeDirectory="));
    assert!(
        command.contains(&format!("unix:{runtime}/socket")),
        "{command}"
    );
    let here = folder.path().to_str().unwrap();
    let command = command
        .replace(&runtime, here)
        .replace("/usr/lib/cgi-bin", here);
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/srv"));
    let user = NOBODY.to_string();
    let mut start = Command::new("setpriv");
    start.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    start.args([
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        "--no-new-privs",
    ]);
    start
        .arg(srv().get_program())
        .args(words)
        .env("NOTIFY_SOCKET", &notified);
    let mut child = Child::spawn(&mut start).unwrap();
    let mut packet = [0; 256];
    let length = systemd.recv(&mut packet).expect("it says that it is ready");
    let said = String::from_utf8_lossy(&packet[..length]);
    assert!(said.contains("READY=1"), "{said}");
    UnixStream::connect(folder.path().join("socket")).unwrap();
    assert!(child.stop().unwrap().success());
}
