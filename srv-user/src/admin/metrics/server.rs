//! The metrics of a server of `srv serve` or `srv run`. A new figure of a worker is one entry of
//! [`COUNTERS`] or [`GAUGES`].

use super::families::{Family, Label, Unit, Value};
use crate::control::Status;
use crate::control::status::{GroupStatus, HistogramStatus, WorkerStatus, accept_delays};

/// A figure that each worker has: the family, and the figure.
type OfWorker = (fn() -> Family, fn(&WorkerStatus) -> Value);

const COUNTERS: &[OfWorker] = &[
    (
        || {
            Family::counter(
                "srv_steered",
                "Connections that the program assigned to the worker.",
            )
        },
        |worker| worker.steered.into(),
    ),
    (
        || Family::counter("srv_requests", "Requests answered."),
        |worker| worker.served.into(),
    ),
    (
        || {
            Family::counter(
                "srv_worker_starts",
                "Worker processes started in the slot; each but the first is a restart.",
            )
        },
        |worker| worker.starts.into(),
    ),
    (
        || {
            Family::counter(
                "srv_worker_hangs",
                "Times at which the worker stalled (--hang-after).",
            )
        },
        |worker| worker.hangs.into(),
    ),
    (
        || {
            Family::counter(
                "srv_worker_stall_kills",
                "Workers killed because they stalled (--hang-kill).",
            )
        },
        |worker| worker.hang_kills.into(),
    ),
    (
        || {
            Family::counter(
                "srv_at_capacity",
                "Times at which the worker left new connections to its siblings (srv run --capacity).",
            )
        },
        |worker| worker.full.into(),
    ),
    (
        || {
            Family::counter(
                "srv_over_capacity",
                "Times at which the worker accepted beyond its capacity, because no worker answered.",
            )
        },
        |worker| worker.overfull.into(),
    ),
];

const GAUGES: &[OfWorker] = &[
    (
        || Family::gauge("srv_connections", "Open connections."),
        |worker| worker.active.into(),
    ),
    (
        || Family::gauge("srv_requests_in_flight", "Requests in service."),
        |worker| worker.running.into(),
    ),
    (
        || {
            Family::gauge(
                "srv_waiting_connections",
                "Connections that wait at the worker's listener, half-open ones included.",
            )
        },
        |worker| worker.waiting.into(),
    ),
    (
        || {
            Family::gauge(
                "srv_worker_away",
                "How long the worker has been away from epoll_wait; 0 while it sleeps.",
            )
            .in_unit(Unit::Seconds)
        },
        |worker| (worker.busy_us as f64 / 1e6).into(),
    ),
    (
        || {
            Family::gauge(
                "srv_worker_ready",
                "Whether the worker accepts connections.",
            )
        },
        |worker| (worker.state == "ready").into(),
    ),
    (
        || Family::gauge("srv_worker_stalled", "Whether the worker has stalled."),
        |worker| (worker.state == "hung").into(),
    ),
    (
        || {
            Family::gauge(
                "srv_worker_behind",
                "Whether the worker does not serve by the newest settings yet.",
            )
        },
        |worker| worker.behind.into(),
    ),
];

/// All families of the server.
pub(super) fn families(status: &Status) -> Vec<Family> {
    let mut families = of_server(status);
    families.extend(of_programs(&status.groups));
    for (family, figure) in COUNTERS.iter().chain(GAUGES) {
        let mut family = family();
        each_worker(&status.groups, |labels, worker| {
            family.add(labels, figure(worker));
        });
        families.push(family);
    }
    families.extend(labelled(&status.groups));
    families.extend(of_waiting(&status.groups));
    families.extend(of_requests(&status.groups));
    families.extend(of_queues(&status.groups));
    families.extend(of_reload(status));
    families
}

fn each_worker(groups: &[GroupStatus], mut add: impl FnMut(Vec<Label>, &WorkerStatus)) {
    for group in groups {
        for worker in &group.workers {
            add(of_worker(group, worker), worker);
        }
    }
}

fn of_group(group: &GroupStatus) -> Vec<Label> {
    vec![("listen", group.listen.to_string())]
}

fn of_worker(group: &GroupStatus, worker: &WorkerStatus) -> Vec<Label> {
    let mut labels = of_group(group);
    labels.push(("worker", worker.slot.to_string()));
    labels
}

fn of_server(status: &Status) -> Vec<Family> {
    let kind = match &status.command {
        Some(_) => "run",
        None => "serve",
    };
    let mut mode = vec![
        ("kind", kind.to_owned()),
        ("policy", status.policy.name().to_owned()),
        ("accept", status.accept.name().to_owned()),
    ];
    mode.extend(
        status
            .command
            .iter()
            .map(|command| ("server", command.clone())),
    );
    let mut info = Family::info(
        "srv_mode",
        "How the server runs, and by which policy it steers.",
    );
    info.add(mode, true);
    vec![
        Family::info("srv_build", "The version of srv.").with([("version", status.version.clone())], true),
        info,
        Family::counter(
            "srv_listen_overflows",
            "Accept queues that the kernel found full (TcpExt ListenOverflows) since the server started, those of other servers in this network namespace included.",
        )
        .with([], status.listen_overflows),
        Family::counter(
            "srv_listen_drops",
            "SYNs and handshakes that the kernel dropped at listeners (TcpExt ListenDrops), counted likewise.",
        )
        .with([], status.listen_drops),
    ]
}

fn of_programs(groups: &[GroupStatus]) -> [Family; 4] {
    let mut attached = Family::gauge(
        "srv_program_attached",
        "Whether the program chooses; otherwise the kernel's hash does.",
    );
    let mut runs = Family::counter("srv_program_runs", "Runs of the program.");
    let mut acks = Family::counter(
        "srv_program_acks",
        "ACKs that belong to no connection and were given to a listener.",
    );
    let mut fallbacks = Family::counter(
        "srv_fallbacks",
        "Runs that left the choice to the kernel's hash.",
    );
    for group in groups {
        let program = &group.program;
        attached.add(of_group(group), program.attached);
        runs.add(of_group(group), program.runs);
        acks.add(of_group(group), program.acks);
        for (reason, count) in &program.fallbacks {
            let mut labels = of_group(group);
            labels.push(("reason", reason.clone()));
            fallbacks.add(labels, *count);
        }
    }
    [attached, runs, acks, fallbacks]
}

/// What has a label beside that of the worker.
fn labelled(groups: &[GroupStatus]) -> [Family; 2] {
    let mut accepted = Family::counter(
        "srv_accepted",
        "Connections accepted, from the worker's own listener or stolen from a sibling's.",
    );
    let mut refused = Family::counter("srv_refused_requests", "Requests refused.");
    each_worker(groups, |labels, worker| {
        let with = |key, value: &str| {
            let mut labels = labels.clone();
            labels.push((key, value.to_owned()));
            labels
        };
        accepted.add(with("from", "own"), worker.taken_own);
        accepted.add(with("from", "stolen"), worker.taken_stolen);
        for (reason, count) in &worker.refused {
            refused.add(with("reason", reason), *count);
        }
    });
    [accepted, refused]
}

fn of_queues(groups: &[GroupStatus]) -> [Family; 3] {
    let mut length = Family::gauge(
        "srv_accept_queue_length",
        "Connections in the accept queue.",
    );
    let mut limit = Family::gauge("srv_accept_queue_limit", "The limit of the accept queue.");
    let mut half_open = Family::gauge(
        "srv_half_open_connections",
        "Handshakes that wait for their last packet.",
    );
    for group in groups {
        for queue in &group.queues {
            let slot = queue.slot.map(|slot| slot.to_string());
            let labels = || {
                let mut labels = of_group(group);
                labels.push(("worker", slot.clone().unwrap_or_else(|| "all".into())));
                labels
            };
            length.add(labels(), queue.length);
            limit.add(labels(), queue.limit);
        }
        let queued: u64 = group
            .queues
            .iter()
            .map(|queue| u64::from(queue.length))
            .sum();
        // Both are read one after the other, so the difference may be off by a few.
        half_open.add(of_group(group), group.totals.waiting.saturating_sub(queued));
    }
    [length, limit, half_open]
}

fn of_reload(status: &Status) -> Vec<Family> {
    let Some(reload) = status.reload else {
        return Vec::new();
    };
    vec![
        Family::gauge(
            "srv_config_last_reload_successful",
            "Whether the last reload succeeded.",
        )
        .with([], reload.succeeded),
        Family::gauge(
            "srv_config_last_reload_success_timestamp",
            "When the configuration in force was taken over, since 1970.",
        )
        .in_unit(Unit::Seconds)
        .with([], reload.succeeded_at_s),
    ]
}

/// Of the server of another program, these are not known.
fn of_requests(groups: &[GroupStatus]) -> [Family; 3] {
    let mut ended = Family::counter(
        "srv_responses",
        "Requests that have ended, by the class of their status.",
    );
    let mut busy = Family::counter(
        "srv_busy",
        "How long the worker has been away from epoll_wait in all.",
    )
    .in_unit(Unit::Seconds);
    each_worker(groups, |labels, worker| {
        for (class, count) in worker.ended.iter().flatten() {
            let mut labels = labels.clone();
            labels.push(("class", class.clone()));
            ended.add(labels, *count);
        }
        if let Some(ns) = worker.busy_sum_ns {
            busy.add(labels, ns as f64 / 1e9);
        }
    });
    let mut took = Family::durations(
        "http_server_request_duration",
        "How long requests took, from their first byte to the last byte of the answer.",
    );
    for group in groups {
        let workers = group.workers.iter();
        let known = workers.filter_map(|worker| worker.request_duration.as_ref());
        let known = known.map(HistogramStatus::snapshot);
        // Of all workers together, so that there are as many figures as for one.
        if let Some(durations) = known.reduce(|sum, one| sum.merged(&one)) {
            took.add(of_group(group), durations);
        }
    }
    [ended, busy, took]
}

/// For how long connections waited until a worker accepted them.
fn of_waiting(groups: &[GroupStatus]) -> [Family; 2] {
    let mut waited = Family::durations(
        "srv_accept_delay",
        "How long connections waited from when they could be accepted until a worker accepted them.",
    );
    let mut unknown = Family::counter(
        "srv_accept_delay_unknown",
        "Accepted connections of which it is not known how long they waited.",
    );
    for group in groups {
        let Some(delays) = accept_delays(&group.workers) else {
            continue;
        };
        for (from, durations) in [("own", delays.own), ("stolen", delays.stolen)] {
            let mut labels = of_group(group);
            labels.push(("from", from.into()));
            waited.add(labels, durations);
        }
        unknown.add(of_group(group), delays.unknown);
    }
    [waited, unknown]
}
