//! Root's rights: whether they are there, or to be had without a question.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

/// What to put before a command so that root runs it: nothing for root
/// itself, `sudo` where it needs no password, `None` where neither is so.
pub fn prefix() -> Option<&'static [&'static str]> {
    const SUDO: &[&str] = &["sudo", "-n", "-E"];
    if is_root() {
        return Some(&[]);
    }
    let works = Command::new(SUDO[0])
        .args(&SUDO[1..])
        .arg("true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    works.then_some(SUDO)
}

/// Whether the effective user is root: /proc/self belongs to it.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}
