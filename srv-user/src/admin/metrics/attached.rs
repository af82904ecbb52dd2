//! The metrics of a group that an agent of `srv attach` steers. What means the same as for srv's own
//! server has the same name. What is unknown is left out.

use super::families::{Family, Label};
use crate::control::attached::{AttachedListener, AttachedStatus, Attachment};

/// All families of the group.
pub(super) fn families(status: &AttachedStatus) -> Vec<Family> {
    let mut families = of_group(status);
    families.extend(of_program(status));
    families.extend(of_listeners(status));
    families
}

fn of_group(status: &AttachedStatus) -> Vec<Family> {
    let mut mode = vec![
        ("kind", "attach".to_owned()),
        ("server", status.server.clone()),
    ];
    mode.extend({ status.policy.iter() }.map(|policy| ("policy", policy.clone())));
    let mut info = Family::info(
        "srv_mode",
        "How the server runs, and by which policy it steers.",
    );
    info.add(mode, true);
    vec![
        Family::info("srv_build", "The version of srv.")
            .with([("version", env!("CARGO_PKG_VERSION").to_owned())], true),
        info,
        Family::gauge(
            "srv_half_open_connections",
            "Handshakes that wait for their last packet.",
        )
        .with([listen(status)], status.half_open),
    ]
}

fn listen(status: &AttachedStatus) -> Label {
    ("listen", status.listen.to_string())
}

fn of_program(status: &AttachedStatus) -> [Family; 4] {
    let program = &status.program;
    let attached = Family::gauge(
        "srv_program_attached",
        "Whether the program chooses; otherwise the kernel's hash does.",
    )
    .with([listen(status)], program.attachment == Attachment::Attached);
    let mut runs = Family::counter("srv_program_runs", "Runs of the program.");
    let mut acks = Family::counter(
        "srv_program_acks",
        "ACKs that belong to no connection and were given to a listener.",
    );
    for (family, count) in [(&mut runs, program.runs), (&mut acks, program.acks)] {
        if let Some(count) = count {
            family.add(vec![listen(status)], count);
        }
    }
    let mut fallbacks = Family::counter(
        "srv_fallbacks",
        "Runs that left the choice to the kernel's hash.",
    );
    for (reason, count) in program.fallbacks.iter().flatten() {
        fallbacks.add(vec![listen(status), ("reason", reason.clone())], *count);
    }
    [attached, runs, acks, fallbacks]
}

fn of_listeners(status: &AttachedStatus) -> [Family; 4] {
    let mut steered = Family::counter(
        "srv_steered",
        "SYNs that the program assigned to the worker.",
    );
    let mut connections = Family::gauge("srv_connections", "Open connections.");
    let mut length = Family::gauge(
        "srv_accept_queue_length",
        "Connections in the accept queue.",
    );
    let mut limit = Family::gauge("srv_accept_queue_limit", "The limit of the accept queue.");
    for listener in &status.listeners {
        let labels = || labels(status, listener);
        if let Some(count) = listener.steered {
            steered.add(labels(), count);
        }
        if let Some(count) = listener.connections {
            connections.add(labels(), count);
        }
        length.add(labels(), listener.queued);
        limit.add(labels(), listener.backlog);
    }
    [steered, connections, length, limit]
}

/// A socket that the agent has not taken yet is told by its inode.
fn labels(status: &AttachedStatus, listener: &AttachedListener) -> Vec<Label> {
    let worker = listener.slot.map(|slot| slot.to_string());
    let worker = worker.unwrap_or_else(|| format!("inode-{}", listener.inode));
    vec![("listen", status.listen.to_string()), ("worker", worker)]
}
