//! What `srv status` and `srv sockets` print for people: plain text tables of
//! the control socket's answers. Pure; knows neither sockets nor the server.

pub(crate) mod accept_delay;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::control::status::{GroupStatus, LINES, ProgramStatus, Totals, WorkerStatus};
use crate::control::{AccessLogStatus, SocketStatus, Status};
use crate::output::table::table;
use srv_steer::balance;

/// A server's state, one table per listener group.
pub fn status(status: &Status) -> String {
    let process = match &status.command {
        None => format!("master {}", status.pid),
        Some(command) => format!("{command} {} (srv run)", status.pid),
    };
    let mut text = format!(
        "srv {}, {process}, policy {}, accept {}\n",
        status.version, status.policy, status.accept
    );
    if let Some(confinement) = &status.workers_run_as {
        let _ = writeln!(text, "workers run as {confinement}");
    }
    if status.listen_drops > 0 {
        let _ = writeln!(
            text,
            "dropped by the kernel at listeners here since it started: {}, of which {} at full accept queues",
            status.listen_drops, status.listen_overflows
        );
    }
    if let Some(joined) = &status.joined {
        let last = joined
            .first_slot
            .saturating_add(joined.workers)
            .saturating_sub(1);
        let _ = writeln!(
            text,
            "joined: server {}, whose workers are in slots {} to {last}",
            joined.pid, joined.first_slot
        );
    }
    if let Some(log) = &status.access_log {
        text += &access_log(log);
    }
    for group in &status.groups {
        text += "\n";
        text += &self::group(group);
    }
    text
}

fn access_log(log: &AccessLogStatus) -> String {
    let writer = match log.writer {
        Some(writer) => format!("log writer {writer}"),
        None => "no log writer runs".to_owned(),
    };
    let (written, waiting, lost) = (log.written, log.waiting, log.lost);
    let mut text = format!("access log: {written} requests written, {writer}");
    for (count, what) in [(waiting, "waiting for room"), (lost, "lost")] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text + "\n"
}

/// The listening sockets, one a line.
pub fn sockets(sockets: &[SocketStatus]) -> String {
    let header = [
        "listen", "server", "slot", "pid", "fd", "recv_q", "backlog", "inode", "cookie",
    ];
    let rows = sockets.iter().map(|socket| {
        vec![
            socket.listen.to_string(),
            socket.server.clone(),
            socket.slot.map_or("all".into(), |slot| slot.to_string()),
            known(socket.pid),
            known(socket.fd),
            socket.recv_q.to_string(),
            socket.backlog.to_string(),
            socket.inode.to_string(),
            // As `ss -e` writes it.
            format!("sk:{:x}", socket.cookie),
        ]
    });
    table(&header, &["listen", "server", "cookie"], rows)
}

fn group(group: &GroupStatus) -> String {
    let mut text = format!("{}: {}\n", group.listen, program(&group.program));
    let header = [
        "slot", "pid", "state", "starts", "steered", "own", "stolen", "waiting", "active",
        "running", "served", "busy",
    ];
    let mut rows: Vec<Vec<String>> = group.workers.iter().map(worker).collect();
    rows.push(sum_row(&group.workers, &group.totals));
    text += &table(&header, &["state"], rows);
    text += &shares(&group.totals);
    text += &accept_delay::line(&group.workers, &group.program);
    text += &refusals(&group.workers);
    text += &ended(&group.workers);
    text += &lines(&group.workers);
    text += &behind(&group.workers);
    text
}

fn program(program: &ProgramStatus) -> String {
    let mut text = match &program.why_not {
        _ if program.attached => "steered by the BPF program".to_owned(),
        Some(why) => format!("not steered: {why}"),
        None => "not steered".to_owned(),
    };
    if program.runs > 0 {
        let _ = write!(text, "; {} runs, {} steered", program.runs, program.steered);
    }
    if program.acks > 0 {
        let _ = write!(text, ", {} ACKs to SYN cookies or to nothing", program.acks);
    }
    let fallbacks = counts(program.fallbacks.iter());
    if !fallbacks.is_empty() {
        let _ = write!(text, "\nleft to the kernel's hash: {fallbacks}");
    }
    text
}

fn worker(worker: &WorkerStatus) -> Vec<String> {
    vec![
        worker.slot.to_string(),
        or_dash(worker.pid != 0, worker.pid),
        worker.state.to_string(),
        worker.starts.to_string(),
        worker.steered.to_string(),
        worker.taken_own.to_string(),
        worker.taken_stolen.to_string(),
        worker.waiting.to_string(),
        worker.active.to_string(),
        worker.running.to_string(),
        worker.served.to_string(),
        or_dash(worker.busy_us != 0, time(worker.busy_us)),
    ]
}

fn sum_row(workers: &[WorkerStatus], totals: &Totals) -> Vec<String> {
    let sum =
        |count| balance::sum(workers.iter().map::<u64, fn(&WorkerStatus) -> _>(count)).to_string();
    vec![
        "all".into(),
        String::new(),
        String::new(),
        sum(|worker| worker.starts.into()),
        sum(|worker| worker.steered),
        sum(|worker| worker.taken_own),
        sum(|worker| worker.taken_stolen),
        totals.waiting.to_string(),
        totals.active.to_string(),
        totals.running.to_string(),
        totals.served.to_string(),
        String::new(),
    ]
}

fn shares(totals: &Totals) -> String {
    format!(
        "accepts {}: CV {:.4}, max/mean {:.3}; live connections {}: CV {:.4}, max/mean {:.3}\n",
        totals.accepted,
        totals.accepts_cv,
        totals.accepts_max_over_mean,
        totals.active,
        totals.active_cv,
        totals.active_max_over_mean,
    )
}

fn refusals(workers: &[WorkerStatus]) -> String {
    let by_reason = workers.iter().flat_map(|worker| &worker.refused);
    match counts(sums(by_reason).iter()) {
        none if none.is_empty() => none,
        counts => format!("refused: {counts}\n"),
    }
}

/// How requests have ended, and how long the workers were busy for that.
fn ended(workers: &[WorkerStatus]) -> String {
    let by_class = workers.iter().filter_map(|worker| worker.ended.as_ref());
    let busy_ns = workers.iter().filter_map(|worker| worker.busy_sum_ns);
    match counts(sums(by_class.flatten()).iter()) {
        none if none.is_empty() => none,
        counts => {
            let busy = time(balance::sum(busy_ns) / 1_000);
            format!("ended: {counts}; the workers were busy for {busy}\n")
        }
    }
}

fn sums<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (name, count) in counts {
        let sum: &mut u64 = sums.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
    sums
}

/// The lines for what the table of workers does not show.
fn lines(workers: &[WorkerStatus]) -> String {
    let figures = LINES
        .iter()
        .map(|line| (line.meaning, (line.figure)(workers)));
    figures
        .filter(|(_, figure)| *figure > 0)
        .map(|(meaning, figure)| format!("{meaning}: {figure}\n"))
        .collect()
}

fn behind(workers: &[WorkerStatus]) -> String {
    let behind = workers.iter().filter(|worker| worker.behind);
    let names: Vec<_> = behind
        .map(|worker| format!("worker {}", worker.slot))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("behind the newest settings: {}\n", names.join(", ")),
    }
}

/// `3 not_syn, 1 truncated`; reasons that never occurred are left out.
pub(crate) fn counts<'a>(by_reason: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    let occurred = by_reason.filter(|(_, count)| **count > 0);
    occurred
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What is known, or a dash.
pub(crate) fn known(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(crate) fn or_dash(is_known: bool, value: impl ToString) -> String {
    if is_known {
        value.to_string()
    } else {
        "-".into()
    }
}

/// Microseconds with the unit that leaves few digits.
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}us"),
        1_000..10_000_000 => format!("{}ms", us / 1_000),
        _ => humantime::format_duration(Duration::from_secs(us / 1_000_000)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{group_for_tests, worker_for_tests};
    use crate::control::status_for_tests;

    fn busy_pair() -> Vec<WorkerStatus> {
        let first = WorkerStatus {
            pid: 4712,
            steered: 800,
            taken_own: 790,
            taken_stolen: 10,
            active: 12,
            running: 1,
            behind: true,
            busy_us: 2_500,
            served: 123_456,
            refused: [("malformed".into(), 2)].into(),
            ..worker_for_tests(0)
        };
        let second = WorkerStatus {
            state: "dead".into(),
            starts: 3,
            steered: 400,
            taken_own: 400,
            waiting: 7,
            served: 1000,
            refused: [("malformed".into(), 1), ("timeout".into(), 4)].into(),
            ..worker_for_tests(1)
        };
        vec![first, second]
    }

    #[test]
    fn a_status_reads_like_this() {
        assert_eq!(
            status(&status_for_tests(vec![group_for_tests(busy_pair())])),
            "\
srv 0.1.0, master 4711, policy least, accept ring

127.0.0.1:8080: steered by the BPF program; 1204 runs, 1200 steered
left to the kernel's hash: 1 none_ready, 3 not_syn
slot   pid  state  starts  steered   own  stolen  waiting  active  running  served  busy
   0  4712  ready       1      800   790      10        0      12        1  123456   2ms
   1     -  dead        3      400   400       0        7       0        0    1000     -
 all                    4     1200  1190      10        7      12        1  124456
accepts 1200: CV 0.3333, max/mean 1.333; live connections 12: CV 1.0000, max/mean 2.000
refused: 3 malformed, 4 timeout
behind the newest settings: worker 0
"
        );
    }

    #[test]
    fn a_figure_without_a_column_has_a_line_if_it_is_not_zero() {
        let mut workers = busy_pair();
        let meaning = "killed because they stalled";
        let said = |workers: &[WorkerStatus]| {
            status(&status_for_tests(vec![group_for_tests(workers.to_vec())]))
        };
        assert!(!said(&workers).contains(meaning));
        (workers[0].hang_kills, workers[1].hang_kills) = (2, u32::MAX);
        let text = said(&workers);
        assert!(
            text.contains("\nkilled because they stalled: 4294967297\n"),
            "{text}"
        );
    }

    #[test]
    fn requests_that_have_ended_are_summed_up_and_of_other_servers_unknown() {
        let mut workers = busy_pair();
        let said = |workers: &[WorkerStatus]| {
            status(&status_for_tests(vec![group_for_tests(workers.to_vec())]))
        };
        assert!(!said(&workers).contains("ended"));
        let classes = |counts: [u64; 2]| {
            Some(
                ["2xx", "4xx"]
                    .map(str::to_owned)
                    .into_iter()
                    .zip(counts)
                    .collect(),
            )
        };
        (workers[0].ended, workers[1].ended) = (classes([5, 0]), classes([u64::MAX, 1]));
        (workers[0].busy_sum_ns, workers[1].busy_sum_ns) = (Some(1_500_000), Some(2_000_000));
        let text = said(&workers);
        let line = "\nended: 18446744073709551615 2xx, 1 4xx; the workers were busy for 3ms\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn an_unsteered_group_says_why_and_counts_nothing() {
        let mut group = group_for_tests(vec![worker_for_tests(0)]);
        group.program = ProgramStatus {
            attached: false,
            why_not: Some("policy hash".into()),
            runs: 0,
            steered: 0,
            acks: 0,
            fallbacks: BTreeMap::new(),
            accept_delay_unknown: Some("policy hash".into()),
        };
        let text = status(&status_for_tests(vec![group]));
        assert!(
            text.contains("127.0.0.1:8080: not steered: policy hash\n"),
            "{text}"
        );
        assert!(!text.contains("refused"), "{text}");
    }

    #[test]
    fn each_group_has_its_table() {
        let group = group_for_tests(busy_pair());
        let text = status(&status_for_tests(vec![group.clone(), group]));
        assert_eq!(text.matches("slot").count(), 2);
    }

    #[test]
    fn a_large_server_fits_into_120_columns() {
        let worker = WorkerStatus {
            pid: 4_194_304,
            state: "starting".into(),
            starts: 999,
            steered: 9_999_999_999,
            taken_own: 9_999_999_999,
            taken_stolen: 999_999_999,
            waiting: 99_999,
            active: 16_384,
            running: 16_384,
            served: 999_999_999_999,
            busy_us: u64::from(u32::MAX),
            ..worker_for_tests(255)
        };
        let text = status(&status_for_tests(vec![group_for_tests(vec![worker])]));
        let widest = text.lines().skip(3).map(str::len).max();
        assert!(widest <= Some(120), "{widest:?}\n{text}");
    }

    /// The counts come from memory that workers write.
    #[test]
    fn whatever_the_counts_are_they_can_be_shown() {
        for count in [0, 1, 1 << 63, u64::MAX - 1, u64::MAX] {
            let worker = WorkerStatus {
                pid: count as u32,
                starts: count as u32,
                steered: count,
                taken_own: count,
                taken_stolen: count,
                waiting: count,
                active: count as u32,
                running: count as u32,
                busy_us: count,
                served: count,
                refused: [("malformed".into(), count)].into(),
                ..worker_for_tests(0)
            };
            let text = status(&status_for_tests(vec![group_for_tests(vec![worker; 3])]));
            assert!(text.contains(" all "), "{text}");
        }
    }

    #[test]
    fn times_have_few_digits() {
        for (us, text) in [
            (850, "850us"),
            (2_500, "2ms"),
            (9_999_999, "9999ms"),
            (10_000_000, "10s"),
            (3_725_000_000, "1h 2m 5s"),
        ] {
            assert_eq!(time(us), text);
        }
    }

    #[test]
    fn sockets_read_like_this() {
        let socket = SocketStatus {
            listen: "127.0.0.1:8080".parse().unwrap(),
            slot: Some(0),
            server: "srv".into(),
            inode: 31_415,
            cookie: 0x1001,
            pid: Some(4712),
            fd: Some(5),
            recv_q: 0,
            backlog: 4096,
        };
        let orphan = SocketStatus {
            slot: Some(1),
            pid: None,
            fd: None,
            recv_q: 12,
            ..socket.clone()
        };
        let shared = SocketStatus {
            listen: "[::1]:80".parse().unwrap(),
            slot: None,
            server: "nginx".into(),
            cookie: 2,
            ..socket.clone()
        };
        assert_eq!(
            sockets(&[socket, orphan, shared]),
            "\
listen          server  slot   pid  fd  recv_q  backlog  inode  cookie
127.0.0.1:8080  srv        0  4712   5       0     4096  31415  sk:1001
127.0.0.1:8080  srv        1     -   -      12     4096  31415  sk:1001
[::1]:80        nginx    all  4712   5       0     4096  31415  sk:2
"
        );
    }
}
