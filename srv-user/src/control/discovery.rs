//! Where running servers answer: the folders in which this user's servers leave their
//! sockets, and for root also every other server of the machine, found by its process.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use rustix::process::Pid;

use super::{SERVICE_FOLDER, runtime_folder};
use crate::kernel::owners;
use crate::values::is_admin_socket;

/// The control sockets of the running servers that this user may ask.
///
/// # Errors
/// There is no runtime directory.
pub fn servers() -> anyhow::Result<BTreeSet<PathBuf>> {
    let folder = runtime_folder()?;
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    // If the unit is not installed, there is no such folder.
    let of_service = fs::read_dir(SERVICE_FOLDER).into_iter().flatten();
    let paths = entries
        .chain(of_service)
        .flatten()
        .map(|entry| entry.path());
    // The sockets of agents, which steer other servers, are beside them, with another ending.
    let sockets = paths.filter(|path| path.extension().is_some_and(|end| end == "sock"));
    let mut found: BTreeSet<_> = sockets.filter(|path| answers(path)).collect();
    if rustix::process::getuid().is_root() {
        found.extend(masters().into_iter().flat_map(sockets_of));
    }
    Ok(found)
}

/// The error if no server that this user may ask runs here. It names the servers of other users.
pub fn no_server() -> anyhow::Error {
    let folder = match runtime_folder() {
        Ok(folder) => folder,
        Err(error) => return error,
    };
    let others: Vec<_> = masters().into_iter().filter_map(of_another_user).collect();
    let mend = match others.is_empty() {
        true => String::new(),
        false => format!(
            "; {}: ask as that user, or as root, which sees all servers (`sudo srv status`)",
            others.join(", ")
        ),
    };
    anyhow!(
        "no server of yours runs here (none answers in {} or {SERVICE_FOLDER}){mend}",
        folder.display()
    )
}

fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// The processes that are `srv serve`, or the coordinator of `srv run`.
fn masters() -> Vec<Pid> {
    let serves = |pid: &Pid| {
        let arguments = fs::read(process_file(*pid, "cmdline")).unwrap_or_default();
        let verb = arguments.split(|byte| *byte == 0).nth(1);
        let answers = [&b"serve"[..], b"coordinate"];
        verb.is_some_and(|verb| answers.contains(&verb)) && owners::command(*pid) == "srv"
    };
    owners::all_processes().into_iter().filter(serves).collect()
}

/// For a server of another user, `user 1000 runs one (process 4711)`.
fn of_another_user(master: Pid) -> Option<String> {
    let status = fs::read_to_string(process_file(master, "status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uid: u32 = uid.split_whitespace().next()?.parse().ok()?;
    let is_own = uid == rustix::process::getuid().as_raw();
    (!is_own).then(|| format!("user {uid} runs one (process {master})"))
}

/// The control sockets of a server, wherever they are. If the server is in a container, they are
/// found among the container's files.
pub fn sockets_of(master: Pid) -> Vec<PathBuf> {
    let held = owners::sockets_of(master).unwrap_or_default();
    let listening = fs::read_to_string(process_file(master, "net/unix")).unwrap_or_default();
    let paths = listening.lines().filter_map(|line| {
        let (inode, path) = listening_socket(line)?;
        // Beside the control socket, it may have one that answers HTTP.
        (held.contains_key(&inode) && !is_admin_socket(&path)).then_some(path)
    });
    let reachable = paths.filter_map(|path| {
        let inside = process_file(master, "root").join(path.strip_prefix("/").ok()?);
        let is_same = |a: &Path, b: &Path| {
            let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
            identity(a) == identity(b)
        };
        let path = match is_same(&path, &inside) {
            true => path,
            false => inside,
        };
        answers(&path).then_some(path)
    });
    reachable.collect()
}

fn process_file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_nonzero()))
}

/// Inode and path of a line of `/proc/net/unix`, if it is a stream socket that listens.
fn listening_socket(line: &str) -> Option<(u64, PathBuf)> {
    /// `__SO_ACCEPTCON` (include/uapi/linux/net.h).
    const ACCEPTS: &str = "00010000";
    const STREAM: &str = "0001";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, _, _, flags, kind, _, inode, ..] = fields[..] else {
        return None;
    };
    let path = &line[line.find(" /")? + 1..];
    let listens = flags == ACCEPTS && kind == STREAM;
    listens.then_some((inode.parse().ok()?, path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_with_a_path_are_found() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 31415 /run/a b.sock";
        assert_eq!(
            listening_socket(line),
            Some((31415, "/run/a b.sock".into()))
        );
        for other in [
            "0000000000000000: 00000003 00000000 00000000 0001 03 31415 /run/a.sock",
            "0000000000000000: 00000002 00000000 00010000 0005 01 31415 /run/a.sock",
            "0000000000000000: 00000002 00000000 00010000 0001 01 31415 @abstract",
            "0000000000000000: 00000002 00000000 00010000 0001 01 31415",
            "Num       RefCount Protocol Flags    Type St Inode Path",
            "",
        ] {
            assert_eq!(listening_socket(other), None, "{other}");
        }
    }
}
