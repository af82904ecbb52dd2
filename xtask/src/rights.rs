//! Root's rights: whether they are there, or to be had.

use std::{
    fs,
    io::{IsTerminal as _, stdin},
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// What to put before a command so that root runs it: nothing for root
/// itself, `sudo` where it needs no password or somebody at the terminal has
/// just entered it, `None` where none of these is so.
pub(crate) fn prefix() -> Option<&'static [&'static str]> {
    const SUDO: &[&str] = &["sudo", "-n", "-E"];
    static GRANTED: OnceLock<bool> = OnceLock::new();
    if is_root() {
        return Some(&[]);
    }
    let granted =
        || works_silently(SUDO) || (stdin().is_terminal() && asks() && works_silently(SUDO));
    GRANTED.get_or_init(granted).then_some(SUDO)
}

fn works_silently(sudo: &[&str]) -> bool {
    let mut command = Command::new(sudo[0]);
    command.args(&sudo[1..]).arg("true").stdin(Stdio::null());
    let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// Has sudo ask for the password, once: it remembers that for some minutes.
fn asks() -> bool {
    eprintln!("==> sudo: root's rights are needed; without them some of it is left out");
    Command::new("sudo")
        .arg("-v")
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether the effective user is root: /proc/self belongs to it.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}
