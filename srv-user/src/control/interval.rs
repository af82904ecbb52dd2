//! What happened between two answers of a server or agent: rates, shares, and how evenly the
//! workers shared what came in the interval. Metrics, the page and `srv top` take them from here.
//! Pure functions over the status; what is unknown is `None`, never 0. Knows no clock: the answers
//! say when their figures were read.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use srv_common::State;
use srv_common::histogram::Snapshot;

use super::Status;
use super::attached::{AttachedListener, AttachedStatus};
use super::status::{GroupStatus, WorkerStatus};
use crate::values::StateName;
use crate::values::reported::Reported;
use srv_steer::balance::{coefficient_of_variation, max_over_mean, sum};

/// What a listener group did between two answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupInterval {
    /// The group's address.
    pub listen: SocketAddr,
    /// Length of the interval; 0 if there is no earlier answer about the group.
    pub seconds: f64,
    /// What `accepts` counts.
    pub basis: Basis,
    /// Connections accepted in the interval.
    pub accepts: Option<u64>,
    /// The same per second.
    pub accepts_per_s: Option<f64>,
    /// Requests answered per second.
    pub requests_per_s: Option<f64>,
    /// The part of the accepted connections that siblings took from a worker's listener, from 0
    /// to 1; `None` also if no connection was accepted.
    pub stolen_share: Option<f64>,
    /// The part of the interval that the workers were busy (away from `epoll_wait`), from 0 to 1: the
    /// mean of the workers of which it is known.
    pub busy_share: Option<f64>,
    /// For how long connections waited until a worker accepted them, 99th percentile, ns: the end of
    /// its bucket. `None` also if it is unknown, or no connection was accepted.
    pub accept_delay_p99_ns: Option<u64>,
    /// Accepts of each worker in the interval: standard deviation over mean; 0 is even. Workers
    /// that could not accept during the whole interval do not count. `None` if the others
    /// accepted nothing.
    pub accepts_cv: Option<f64>,
    /// Accepts of each worker in the interval: largest over mean; 1 is even. `None` as
    /// `accepts_cv`.
    pub accepts_max_over_mean: Option<f64>,
    /// Worker by worker, in the order of the later answer.
    pub workers: Vec<WorkerInterval>,
}

/// What the accepts of a group are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The workers count what they accept.
    Accepted,
    /// The workers publish nothing: SYNs that the program assigned, less the growth of the accept
    /// queue. Handshakes that never complete count, too; what the hash assigned does not.
    Steered,
}

/// What one worker did between two answers. For an attached server: what happened at one socket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerInterval {
    /// Its slot, as in the status.
    pub slot: Option<u32>,
    /// Connections accepted per second.
    pub accepts_per_s: Option<f64>,
    /// Requests answered per second.
    pub requests_per_s: Option<f64>,
    /// The part of its accepted connections that it took from siblings' listeners, from 0 to 1;
    /// `None` also if it accepted none.
    pub stolen_share: Option<f64>,
    /// The part of the interval that it was busy (away from `epoll_wait`), from 0 to 1.
    pub busy_share: Option<f64>,
    /// For how long the connections that it accepted had waited, as in [`GroupInterval`].
    pub accept_delay_p99_ns: Option<u64>,
}

/// What each group of a server did between two of its answers, in the order of the later one.
/// `asked_apart` is the time between the two questions; it is used if the server is of a version
/// that does not say when it read its figures.
pub fn of_server(earlier: &Status, later: &Status, asked_apart: Duration) -> Vec<GroupInterval> {
    let groups = later.groups.iter().map(|group| {
        let before = earlier
            .groups
            .iter()
            .find(|before| before.listen == group.listen);
        of_group(before, group, asked_apart)
    });
    groups.collect()
}

/// What a group of srv's own workers, or of a server under `srv run`, did between two answers.
/// Without an earlier answer all figures are unknown.
pub fn of_group(
    earlier: Option<&GroupStatus>,
    later: &GroupStatus,
    asked_apart: Duration,
) -> GroupInterval {
    let seconds = earlier.map_or(0.0, |earlier| {
        seconds(earlier.read_at_us, later.read_at_us, asked_apart)
    });
    let parts = later.workers.iter().map(|worker| {
        let before = earlier?
            .workers
            .iter()
            .find(|before| before.slot == worker.slot)?;
        Some(Part {
            counts: Counts::of(worker).since(Counts::of(before)),
            delays: delays(worker).map(|later| later.since(&delays(before).unwrap_or_default())),
            was_there: accepts(before) && accepts(worker) && before.pid == worker.pid,
        })
    });
    let parts: Vec<Option<Part>> = parts.collect();
    let slots = later.workers.iter().map(|worker| Some(worker.slot));
    interval(later.listen, Basis::Accepted, seconds, slots, &parts)
}

/// What an attached group did between two answers: what is known of it without a word of its
/// workers. Sockets are the same if their cookies are.
pub fn of_attached(
    earlier: Option<&AttachedStatus>,
    later: &AttachedStatus,
    asked_apart: Duration,
) -> GroupInterval {
    let seconds = earlier.map_or(0.0, |earlier| {
        seconds(earlier.read_at_us, later.read_at_us, asked_apart)
    });
    let steers = |status: &AttachedStatus| status.policy.as_deref() != Some(HASH);
    // While the policy is `hash`, the program counts its runs, but not by socket.
    let earlier = earlier.filter(|earlier| steers(earlier) && steers(later));
    let parts = later.listeners.iter().map(|listener| {
        let mut before = earlier?.listeners.iter();
        let before = before.find(|before| before.cookie == listener.cookie)?;
        Some(Part {
            counts: Counts {
                own: left_the_queue(before, listener)?,
                ..Counts::default()
            },
            delays: None,
            was_there: true,
        })
    });
    let parts: Vec<Option<Part>> = parts.collect();
    let slots = later.listeners.iter().map(|listener| listener.slot);
    let mut group = interval(later.listen, Basis::Steered, seconds, slots, &parts);
    group.requests_per_s = None;
    group.stolen_share = None;
    for worker in &mut group.workers {
        (worker.requests_per_s, worker.stolen_share) = (None, None);
    }
    group
}

/// The policy of an attached group under which the program assigns nothing.
const HASH: &str = "hash";

/// What is known of one worker.
struct Part {
    counts: Counts,
    /// For how long the connections that it accepted had waited.
    delays: Option<Snapshot>,
    /// Whether it could accept during the whole interval.
    was_there: bool,
}

/// A worker's counters, or their growth.
#[derive(Clone, Copy, Default)]
struct Counts {
    own: u64,
    stolen: u64,
    served: u64,
    busy_ns: Option<u64>,
}

impl Counts {
    fn of(worker: &WorkerStatus) -> Self {
        Self {
            own: worker.taken_own,
            stolen: worker.taken_stolen,
            served: worker.served,
            busy_ns: worker.busy_sum_ns,
        }
    }

    /// The growth since `earlier`. Counters continue when a worker is replaced. If one of them has
    /// become smaller, another server counts now, and it began at zero.
    fn since(self, earlier: Self) -> Self {
        let has_restarted =
            self.own < earlier.own || self.stolen < earlier.stolen || self.served < earlier.served;
        if has_restarted {
            return self;
        }
        Self {
            own: self.own - earlier.own,
            stolen: self.stolen - earlier.stolen,
            served: self.served - earlier.served,
            busy_ns: self
                .busy_ns
                .zip(earlier.busy_ns)
                .map(|(later_ns, earlier_ns)| later_ns.saturating_sub(earlier_ns)),
        }
    }

    fn accepts(self) -> u64 {
        self.own.saturating_add(self.stolen)
    }

    /// A server that was started in the interval has counted for a part of it.
    fn busy_share(self, seconds: f64) -> Option<f64> {
        let busy_ns = self.busy_ns.filter(|_| seconds > 0.0)?;
        Some((busy_ns as f64 / 1e9 / seconds).min(1.0))
    }
}

/// For how long the connections waited that a worker has accepted.
fn delays(worker: &WorkerStatus) -> Option<Snapshot> {
    let delay = worker.accept_delay.as_ref()?;
    Some(delay.own.snapshot().merged(&delay.stolen.snapshot()))
}

/// Whether a worker in this state accepts connections. A worker that has stalled should.
fn accepts(worker: &WorkerStatus) -> bool {
    let Reported::Known(StateName(state)) = worker.state else {
        return true;
    };
    matches!(state, State::Ready | State::Hung | State::Full)
}

/// Connections that were accepted from an attached server's socket: `None` if no agent counts.
fn left_the_queue(earlier: &AttachedListener, later: &AttachedListener) -> Option<u64> {
    let (before, now) = (earlier.steered?, later.steered?);
    // If the program was attached anew, it has counted from zero.
    let steered = now.checked_sub(before).unwrap_or(now);
    let came = steered.saturating_add(earlier.queued.into());
    Some(came.saturating_sub(later.queued.into()))
}

/// The time between two readings, by the clock of the process that read; 0 if they are the same
/// reading. That clock begins anew with the machine.
fn seconds(earlier_us: u64, later_us: u64, asked_apart: Duration) -> f64 {
    match later_us.checked_sub(earlier_us) {
        Some(apart_us) if earlier_us > 0 => apart_us as f64 / 1e6,
        _ => asked_apart.as_secs_f64(),
    }
}

fn interval(
    listen: SocketAddr,
    basis: Basis,
    seconds: f64,
    slots: impl Iterator<Item = Option<u32>>,
    parts: &[Option<Part>],
) -> GroupInterval {
    let known: Vec<&Part> = parts.iter().flatten().collect();
    let total = |count: fn(Counts) -> u64| {
        let counts = known.iter().map(|part| count(part.counts));
        (!known.is_empty()).then(|| sum(counts))
    };
    let (accepts, stolen) = (total(Counts::accepts), total(|counts| counts.stolen));
    let were_there = known.iter().filter(|part| part.was_there);
    let shares: Vec<u64> = were_there.map(|part| part.counts.accepts()).collect();
    let is_shared = sum(shares.iter().copied()) > 0;
    let workers = slots.zip(parts).map(|(slot, part)| WorkerInterval {
        slot,
        ..part
            .as_ref()
            .map_or_else(WorkerInterval::default, |part| worker(part, seconds))
    });
    let delays = known.iter().filter_map(|part| part.delays);
    let delays = delays.reduce(|sum, one| sum.merged(&one));
    GroupInterval {
        listen,
        seconds,
        basis,
        accepts,
        accepts_per_s: per_second(accepts, seconds),
        requests_per_s: per_second(total(|counts| counts.served), seconds),
        stolen_share: share(stolen, accepts),
        busy_share: mean(
            known
                .iter()
                .filter_map(|part| part.counts.busy_share(seconds)),
        ),
        accept_delay_p99_ns: delays.and_then(|delays| delays.quantile_ns(0.99)),
        accepts_cv: is_shared.then(|| coefficient_of_variation(&shares)),
        accepts_max_over_mean: is_shared.then(|| max_over_mean(&shares)),
        workers: workers.collect(),
    }
}

fn worker(part: &Part, seconds: f64) -> WorkerInterval {
    let counts = part.counts;
    WorkerInterval {
        slot: None,
        accepts_per_s: per_second(Some(counts.accepts()), seconds),
        requests_per_s: per_second(Some(counts.served), seconds),
        stolen_share: share(Some(counts.stolen), Some(counts.accepts())),
        busy_share: counts.busy_share(seconds),
        accept_delay_p99_ns: part.delays.and_then(|delays| delays.quantile_ns(0.99)),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn per_second(count: Option<u64>, seconds: f64) -> Option<f64> {
    let count = count.filter(|_| seconds > 0.0)?;
    Some(count as f64 / seconds)
}

fn share(part: Option<u64>, whole: Option<u64>) -> Option<f64> {
    let (part, whole) = (part?, whole.filter(|whole| *whole > 0)?);
    Some(part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use srv_common::histogram::Histogram;

    use crate::control::status::{
        AcceptDelayStatus, HistogramStatus, group_for_tests, worker_for_tests,
    };
    use crate::control::status_for_tests;

    /// Workers of process 100 + slot with these counts of own, stolen and served.
    fn group(read_at_us: u64, counts: &[(u64, u64, u64)]) -> GroupStatus {
        let workers = counts.iter().enumerate().map(|(slot, counts)| {
            let mut worker = worker_for_tests(slot as u32);
            worker.pid = 100 + slot as u32;
            (worker.taken_own, worker.taken_stolen, worker.served) = *counts;
            worker
        });
        GroupStatus {
            read_at_us,
            ..group_for_tests(workers.collect())
        }
    }

    fn between(earlier: &GroupStatus, later: &GroupStatus) -> GroupInterval {
        of_group(Some(earlier), later, Duration::from_secs(7))
    }

    fn rates(interval: &GroupInterval) -> Vec<Option<f64>> {
        let workers = interval.workers.iter();
        workers.map(|worker| worker.accepts_per_s).collect()
    }

    #[test]
    fn rates_are_per_second_of_the_servers_clock() {
        let earlier = group(1_000_000, &[(100, 10, 1000), (200, 0, 50)]);
        let later = group(3_000_000, &[(130, 20, 1200), (210, 10, 90)]);
        let interval = between(&earlier, &later);
        assert_eq!(interval.seconds, 2.0);
        assert_eq!(interval.accepts, Some(60));
        assert_eq!(interval.accepts_per_s, Some(30.0));
        assert_eq!(interval.requests_per_s, Some(120.0));
        assert_eq!(interval.stolen_share, Some(20.0 / 60.0));
        assert_eq!(rates(&interval), [Some(20.0), Some(10.0)]);
        assert_eq!(interval.workers[0].requests_per_s, Some(100.0));
        assert_eq!(interval.workers[1].stolen_share, Some(0.5));
        // 40 and 20: mean 30, deviation 10.
        assert!((interval.accepts_cv.unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert!((interval.accepts_max_over_mean.unwrap() - 4.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn accept_delays_are_those_of_the_interval() {
        let delayed = |read_at_us, own: &[u64], stolen: &[u64]| {
            let mut group = group(read_at_us, &[(9, 0, 0), (9, 0, 0)]);
            let histogram = |durations: &[u64]| {
                let histogram = Histogram::default();
                durations.iter().for_each(|ns| histogram.record(*ns));
                HistogramStatus::from(&histogram.snapshot())
            };
            group.workers[0].accept_delay = Some(AcceptDelayStatus {
                own: histogram(own),
                stolen: histogram(stolen),
                unknown: 0,
            });
            group
        };
        let slow_ns = 300_000_000;
        let earlier = delayed(1, &[slow_ns], &[]);
        let later = delayed(2, &[slow_ns, 1000], &[2000]);
        let interval = between(&earlier, &later);
        let p99_ns = interval.accept_delay_p99_ns.unwrap();
        assert!((2000..4000).contains(&p99_ns), "{p99_ns}");
        assert_eq!(interval.workers[0].accept_delay_p99_ns, Some(p99_ns));
        assert_eq!(interval.workers[1].accept_delay_p99_ns, None);
        assert_eq!(between(&later, &later).accept_delay_p99_ns, None);
    }

    #[test]
    fn the_busy_share_is_of_the_interval_and_unknown_if_the_server_is_older() {
        let busy = |read_at_us, busy_ns: [Option<u64>; 2]| {
            let mut group = group(read_at_us, &[(0, 0, 0); 2]);
            for (worker, busy_ns) in group.workers.iter_mut().zip(busy_ns) {
                worker.busy_sum_ns = busy_ns;
            }
            group
        };
        let earlier = busy(1, [Some(5_000_000_000), Some(0)]);
        let later = busy(2_000_001, [Some(6_000_000_000), Some(500_000_000)]);
        let interval = between(&earlier, &later);
        let shares = interval.workers.iter().map(|worker| worker.busy_share);
        assert_eq!(shares.collect::<Vec<_>>(), [Some(0.5), Some(0.25)]);
        assert_eq!(interval.busy_share, Some(0.375));
        let older = busy(2_000_001, [None, Some(9_000_000_000)]);
        let interval = between(&earlier, &older);
        let shares = interval.workers.iter().map(|worker| worker.busy_share);
        assert_eq!(shares.collect::<Vec<_>>(), [None, Some(1.0)]);
        assert_eq!(interval.busy_share, Some(1.0));
    }

    #[test]
    fn if_a_server_does_not_say_when_it_read_the_questions_count() {
        let (earlier, later) = (group(0, &[(0, 0, 0)]), group(0, &[(70, 0, 0)]));
        assert_eq!(rates(&between(&earlier, &later)), [Some(10.0)]);
        // A new server on a machine that was started anew.
        let (earlier, later) = (group(9, &[(0, 0, 0)]), group(3, &[(70, 0, 0)]));
        assert_eq!(rates(&between(&earlier, &later)), [Some(10.0)]);
    }

    #[test]
    fn the_same_reading_twice_has_no_rate() {
        let same = group(5, &[(1, 2, 3)]);
        let interval = between(&same, &same);
        assert_eq!((interval.seconds, interval.accepts), (0.0, Some(0)));
        assert_eq!((interval.accepts_per_s, interval.accepts_cv), (None, None));
    }

    #[test]
    fn without_an_earlier_answer_all_is_unknown() {
        let interval = of_group(None, &group(5, &[(1, 2, 3)]), Duration::from_secs(1));
        assert_eq!((interval.seconds, interval.accepts), (0.0, None));
        let unknown = WorkerInterval {
            slot: Some(0),
            ..WorkerInterval::default()
        };
        assert_eq!(interval.workers, [unknown]);
    }

    #[test]
    fn a_slot_that_appeared_is_unknown_and_has_no_part_in_the_balance() {
        let earlier = group(1, &[(10, 0, 0), (10, 0, 0)]);
        let later = group(1_000_001, &[(20, 0, 0), (20, 0, 0), (3, 0, 0)]);
        let interval = between(&earlier, &later);
        assert_eq!(rates(&interval), [Some(10.0), Some(10.0), None]);
        assert_eq!(
            (interval.accepts, interval.accepts_cv),
            (Some(20), Some(0.0))
        );
    }

    #[test]
    fn slots_are_found_by_number() {
        let mut earlier = group(1, &[(10, 0, 0), (50, 0, 0)]);
        // As `srv run` leaves out slots that have no socket.
        earlier.workers.remove(0);
        let interval = between(&earlier, &group(1_000_001, &[(20, 0, 0), (51, 0, 0)]));
        assert_eq!(rates(&interval), [None, Some(1.0)]);
    }

    #[test]
    fn a_replaced_worker_has_a_rate_and_no_part_in_the_balance() {
        let earlier = group(1, &[(10, 0, 0), (10, 0, 0)]);
        let mut later = group(1_000_001, &[(20, 0, 0), (11, 0, 0)]);
        later.workers[1].pid += 1;
        let interval = between(&earlier, &later);
        assert_eq!(rates(&interval), [Some(10.0), Some(1.0)]);
        assert_eq!(
            (interval.accepts, interval.accepts_cv),
            (Some(11), Some(0.0))
        );
        let mut dead = group(1_000_001, &[(20, 0, 0), (11, 0, 0)]);
        dead.workers[1].state = "dead".into();
        assert_eq!(between(&earlier, &dead).accepts_cv, Some(0.0));
        let mut stalled = group(1_000_001, &[(20, 0, 0), (10, 0, 0)]);
        stalled.workers[1].state = "hung".into();
        assert_eq!(between(&earlier, &stalled).accepts_cv, Some(1.0));
    }

    #[test]
    fn counters_that_restarted_count_from_zero() {
        let earlier = group(1, &[(1000, 0, 9000), (10, 0, 10)]);
        let later = group(1_000_001, &[(5, 1, 9100), (30, 0, 20)]);
        let interval = between(&earlier, &later);
        assert_eq!(rates(&interval), [Some(6.0), Some(20.0)]);
        // All counters of the slot, also those that have grown past the earlier ones.
        assert_eq!(interval.workers[0].requests_per_s, Some(9100.0));
    }

    /// The counts come from memory that workers write.
    #[test]
    fn whatever_the_counts_are_there_is_an_interval() {
        let ends = [0, 1, u64::MAX / 2, u64::MAX];
        for (earlier, later) in ends.iter().flat_map(|a| ends.map(|b| (*a, b))) {
            let earlier = group(1, &[(earlier, earlier, earlier); 3]);
            let later = group(2, &[(later, later, later); 3]);
            let interval = between(&earlier, &later);
            let all = [interval.accepts_per_s, interval.accepts_cv];
            assert!(all.iter().flatten().all(|figure| figure.is_finite()));
        }
    }

    #[test]
    fn groups_of_a_server_are_found_by_address() {
        let mut other = group(1_000_001, &[(7, 0, 0)]);
        other.listen = "[::1]:80".parse().unwrap();
        let earlier = status_for_tests(vec![group(1, &[(0, 0, 0)])]);
        let later = status_for_tests(vec![other, group(1_000_001, &[(3, 0, 0)])]);
        let intervals = of_server(&earlier, &later, Duration::ZERO);
        assert_eq!(rates(&intervals[0]), [None]);
        assert_eq!(rates(&intervals[1]), [Some(3.0)]);
        assert_eq!(intervals[1].listen, later.groups[1].listen);
    }

    /// Two sockets of an attached nginx, with these counts of steered and queued.
    fn attached(read_at_us: u64, sockets: &[(u64, Option<u64>, u32)]) -> AttachedStatus {
        let listeners = sockets.iter().map(|(cookie, steered, queued)| {
            json!({"slot": cookie, "workers": [], "owners": 1, "steered": steered, "acks": 0,
                   "sleep": null, "live": null, "queued": queued, "backlog": 511,
                   "connections": null, "inode": 1, "cookie": cookie, "fd": null})
        });
        let listeners: Vec<_> = listeners.collect();
        serde_json::from_value(json!({"listen": "127.0.0.1:80", "namespace": 1,
            "server": "nginx", "agent": 9, "policy": "least", "signals": {}, "half_open": 0,
            "program": {"attached": true, "why_not": null, "runs": 0, "steered": 0,
                        "acks": 0, "fallbacks": {}},
            "balance": {"connections": null, "queued": 0, "empty_while_others_queue": 0},
            "read_at_us": read_at_us, "listeners": listeners}))
        .unwrap()
    }

    #[test]
    fn accepts_of_attached_servers_are_what_was_assigned_and_does_not_wait() {
        let earlier = attached(1, &[(7, Some(100), 4), (8, Some(50), 0)]);
        let later = attached(
            500_001,
            &[(8, Some(60), 2), (7, Some(110), 0), (9, Some(5), 0)],
        );
        let interval = of_attached(Some(&earlier), &later, Duration::ZERO);
        assert_eq!(interval.basis, Basis::Steered);
        assert_eq!(rates(&interval), [Some(16.0), Some(28.0), None]);
        assert_eq!(interval.accepts, Some(22));
        assert_eq!(interval.requests_per_s, None);
        assert_eq!(interval.workers[0].stolen_share, None);
        assert_eq!(interval.workers[0].slot, Some(8));
        assert!(interval.accepts_cv.is_some());
    }

    #[test]
    fn without_an_agent_or_with_the_policy_hash_accepts_are_unknown() {
        let earlier = attached(1, &[(7, None, 0)]);
        let later = attached(500_001, &[(7, None, 0)]);
        let interval = of_attached(Some(&earlier), &later, Duration::ZERO);
        assert_eq!((interval.accepts, rates(&interval)), (None, vec![None]));
        let earlier = attached(1, &[(7, Some(3), 0)]);
        let mut later = attached(500_001, &[(7, Some(3), 0)]);
        later.policy = Some("hash".into());
        let interval = of_attached(Some(&earlier), &later, Duration::ZERO);
        assert_eq!((interval.accepts, interval.seconds), (None, 0.5));
    }

    #[test]
    fn a_page_can_read_it() {
        let interval = between(&group(1, &[(0, 0, 0)]), &group(2, &[(1, 0, 1)]));
        let json = serde_json::to_value(&interval).unwrap();
        assert_eq!(json["basis"], "accepted");
        assert_eq!(json["workers"][0]["slot"], 0);
        let read: GroupInterval = serde_json::from_value(json).unwrap();
        assert_eq!(read, interval);
    }
}
