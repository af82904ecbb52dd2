//! Files that are executed. This process never has one open for writing: another test's thread
//! may fork at that moment, its child has the file open until it executes something else, and
//! the kernel refuses to execute a file that someone may write ("Text file busy").

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies a program, which every user may execute.
#[track_caller]
pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut install = Command::new("install");
    install
        .args(["-m", "755", "--"])
        .args([from.as_ref(), to.as_ref()]);
    let output = install.output().unwrap();
    assert!(output.status.success(), "{install:?}: {output:?}");
}

/// Writes a script or a program, which every user may execute.
#[track_caller]
pub(crate) fn write(to: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"]);
    let mut child = shell
        .arg(to.as_ref())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(contents.as_ref())
        .unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{shell:?}: {status}");
}
