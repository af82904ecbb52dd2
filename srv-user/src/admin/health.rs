//! Whether a server is ready for new connections, as `/readyz` says it. Pure.

use super::source::Snapshot;
use crate::control::attached::{AttachedStatus, Attachment};
use crate::control::status::GroupStatus;
use crate::control::{ServerPhase, Status};

/// Whether new connections should be sent to the server.
///
/// # Errors
/// The reason why not.
pub(super) fn readiness(snapshot: &Snapshot) -> Result<(), String> {
    match snapshot {
        Snapshot::Server(status) => of_server(status),
        Snapshot::Attached(status) => of_attached(status),
    }
}

fn of_server(status: &Status) -> Result<(), String> {
    match status.phase {
        None | Some(ServerPhase::Serving) => {}
        Some(phase) => return Err(format!("the server is {}", phase.name())),
    }
    if status.groups.is_empty() {
        return Err("the server listens nowhere yet".into());
    }
    match status.groups.iter().find(|group| !has_ready_worker(group)) {
        Some(group) => Err(format!("no worker is ready at {}", group.listen)),
        None => Ok(()),
    }
}

/// One that is at its capacity accepts again soon.
fn has_ready_worker(group: &GroupStatus) -> bool {
    let mut workers = group.workers.iter();
    workers.any(|worker| worker.state == "ready" || worker.state == "full")
}

fn of_attached(status: &AttachedStatus) -> Result<(), String> {
    match &status.program.attachment {
        Attachment::Attached => Ok(()),
        Attachment::NotAttached(why) | Attachment::Unknown(why) => Err(why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{group_for_tests, worker_for_tests};
    use crate::control::status_for_tests;

    fn said(status: Status) -> String {
        readiness(&Snapshot::Server(status))
            .err()
            .unwrap_or_default()
    }

    #[test]
    fn a_server_is_ready_while_it_serves_and_a_worker_of_each_group_accepts() {
        let group = || group_for_tests(vec![worker_for_tests(0), worker_for_tests(1)]);
        let with = |phase, state: &str| {
            let mut status = status_for_tests(vec![group(), group()]);
            status.phase = phase;
            for worker in &mut status.groups[1].workers {
                worker.state = state.into();
            }
            said(status)
        };
        let serving = Some(ServerPhase::Serving);
        assert_eq!(with(serving, "ready"), "");
        assert_eq!(with(serving, "full"), "");
        assert_eq!(with(None, "ready"), "");
        assert!(with(serving, "hung").contains("no worker is ready"));
        for phase in [
            ServerPhase::Starting,
            ServerPhase::HandingOver,
            ServerPhase::Stopping,
        ] {
            assert!(with(Some(phase), "ready").contains(phase.name()));
        }
        assert!(said(status_for_tests(Vec::new())).contains("listens nowhere"));
    }
}
