//! The processes beside a server under `srv run`: the keeper, and the coordinator, its child.

use rustix::process::{Pid, Signal, kill_process};
use srv::kernel::owners;

/// What the kernel calls a keeper.
const KEEPER: &str = "srv-keeper";

/// The keeper and the coordinator of the server whose first process this is, or was.
pub(crate) fn both(server: Pid) -> Vec<Pid> {
    let server = server.as_raw_nonzero().to_string();
    let of_server = |pid: &Pid| {
        let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
        let words = std::fs::read(path).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        words.get(1..4) == Some(&[b"coordinate", b"--server", server.as_bytes()])
    };
    let all = owners::all_processes().into_iter();
    all.filter(of_server).collect()
}

/// The keeper, if there is one.
pub(crate) fn keeper(server: Pid) -> Option<Pid> {
    let mut both = both(server).into_iter();
    both.find(|pid| owners::command(*pid) == KEEPER)
}

/// The coordinator, if there is one now.
pub(crate) fn coordinator(server: Pid) -> Option<Pid> {
    let mut both = both(server).into_iter();
    both.find(|pid| owners::command(*pid) == "srv")
}

/// Kills a process as the kernel does that is out of memory.
pub(crate) fn kill(process: Pid) {
    kill_process(process, Signal::KILL).unwrap();
}
