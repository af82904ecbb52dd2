//! The access log: a line for each request, whatever happens to the log writer, the workers, the
//! server or the disk; and no request waits for it.

mod formats;
mod reopened;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use srv::control::AccessLogStatus;
use srv_tests::server::Server;

use crate::probe::{group, status, until};
use crate::serve::serve;

/// A server of two workers that logs to this place.
fn logging_to(to: &Path, more: &[&str]) -> Server {
    let serve = serve().workers(2).synthetic().worker_header().no_bpf();
    serve.with("--access-log", to).flags(more).start()
}

/// A folder, and a log in it.
fn in_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    (folder, log)
}

/// The lines of a log. The last one may be under way, and then does not count.
fn lines(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(str::to_owned).collect()
}

fn log_status(server: &Server) -> AccessLogStatus {
    status(server).access_log.expect("it has an access log")
}

/// Requests that have ended, and of these: those that are written, and those that are lost and counted.
fn accounts(server: &Server) -> (u64, u64, u64) {
    let workers = group(server).workers;
    let ended = workers
        .iter()
        .flat_map(|worker| worker.ended.as_ref().unwrap().values());
    let unlogged: u64 = workers.iter().map(|worker| worker.unlogged).sum();
    let log = log_status(server);
    (ended.sum(), log.written, log.lost + unlogged)
}

/// Waits until each request that has ended is written, or counted as lost. Returns these two.
fn until_settled(server: &Server) -> (u64, u64) {
    until("each request is written or counted as lost", || {
        let (ended, written, lost) = accounts(server);
        (written + lost == ended && log_status(server).waiting == 0).then_some((written, lost))
    })
}
