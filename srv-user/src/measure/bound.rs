//! The single-queue bound: the latencies of the very same draws in one first-come-first-served
//! queue before the same workers. A way of distributing connections that neither knows the
//! service times beforehand nor interrupts a worker is not better in general. Therefore the
//! bound is printed beside every measured arm. In a closed loop, where requests come when
//! answers have gone, the clients and their service times are replayed. Pure: knows no clock
//! and no socket.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::measure::arrivals::Draw;
use crate::measure::load::closed::Closed;

/// Latency of each draw, ns, in one FCFS queue before `workers` workers;
/// `overhead_ns` is added to each service time.
///
/// `draws` are in order of arrival; `workers` is at least 1.
pub fn replay(draws: &[Draw], workers: usize, overhead_ns: u64) -> Vec<u64> {
    let mut queue = Queue::new(workers, overhead_ns);
    draws.iter().map(|draw| queue.serve(draw)).collect()
}

/// The same for clients that each send when they have their answer, which
/// takes `delay_ns` from the worker to them: what each sent, in order, and its
/// latency, that delay not included.
pub fn replay_closed(
    closed: &Closed,
    workers: usize,
    overhead_ns: u64,
    delay_ns: u64,
) -> Vec<(Draw, u64)> {
    let mut queue = Queue::new(workers, overhead_ns);
    let mut services_us = closed.service.draws(closed.seed);
    // When each client sends next, soonest on top.
    let mut clients: BinaryHeap<Reverse<u64>> = (0..closed.clients).map(|_| Reverse(0)).collect();
    let end_ns = closed.duration.map_or(u64::MAX, |d| d.as_nanos() as u64);
    let mut sent = Vec::new();
    while let Some(Reverse(at_ns)) = clients.pop() {
        if at_ns >= end_ns || closed.requests.is_some_and(|most| sent.len() >= most) {
            break;
        }
        let Some(service_us) = services_us.next() else {
            break;
        };
        let draw = Draw { at_ns, service_us };
        let latency_ns = queue.serve(&draw);
        clients.push(Reverse(at_ns + latency_ns + delay_ns));
        sent.push((draw, latency_ns));
    }
    sent
}

struct Queue {
    /// When each worker becomes free, soonest on top.
    free_at_ns: BinaryHeap<Reverse<u64>>,
    overhead_ns: u64,
}

impl Queue {
    fn new(workers: usize, overhead_ns: u64) -> Self {
        Self {
            free_at_ns: (0..workers).map(|_| Reverse(0)).collect(),
            overhead_ns,
        }
    }

    /// The latency of the next in order of arrival, ns.
    fn serve(&mut self, draw: &Draw) -> u64 {
        let Reverse(free_ns) = self.free_at_ns.pop().expect("at least one worker");
        let service_ns = u64::from(draw.service_us) * 1000 + self.overhead_ns;
        let finished_ns = free_ns.max(draw.at_ns) + service_ns;
        self.free_at_ns.push(Reverse(finished_ns));
        finished_ns - draw.at_ns
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::arrivals::{Service, poisson};
    use crate::measure::stats::Summary;

    #[test]
    fn jobs_queue_in_order_of_arrival() {
        let draw = |at_us: u64, service_us| Draw {
            at_ns: at_us * 1000,
            service_us,
        };
        let draws = [draw(0, 10), draw(1, 2), draw(2, 1), draw(3, 1)];
        // Two workers: the third waits for the second's end at 3, the fourth for the third's at 4.
        assert_eq!(replay(&draws, 2, 0), [10_000, 2_000, 2_000, 2_000]);
        assert_eq!(replay(&draws, 2, 500), [10_500, 2_500, 3_000, 3_500]);
    }

    #[test]
    fn clients_in_a_closed_loop_wait_for_those_before_them() {
        let closed = Closed {
            clients: 3,
            service: Service::Fixed(10),
            seed: 1,
            duration: None,
            requests: Some(5),
        };
        // One worker: after the first round each finds the other two before it,
        // less the time that its answer took.
        let latencies = |delay_ns| -> Vec<u64> {
            let sent = replay_closed(&closed, 1, 0, delay_ns);
            sent.into_iter().map(|(_, ns)| ns).collect()
        };
        assert_eq!(latencies(0), [10_000, 20_000, 30_000, 30_000, 30_000]);
        assert_eq!(latencies(4_000), [10_000, 20_000, 30_000, 26_000, 26_000]);
        let until = Closed {
            duration: Some(Duration::from_micros(25)),
            requests: None,
            ..closed
        };
        assert_eq!(replay_closed(&until, 1, 0, 0).len(), 5);
    }

    /// Erlang's C: the probability of waiting in M/M/c.
    fn erlang_c(servers: u32, offered: f64) -> f64 {
        let blocked = (1..=servers).fold(1.0, |b, k| offered * b / (f64::from(k) + offered * b));
        let load = offered / f64::from(servers);
        blocked / (1.0 - load * (1.0 - blocked))
    }

    #[test]
    fn mean_wait_agrees_with_erlang() {
        for (servers, load) in [(1, 0.5), (4, 0.8), (8, 0.7)] {
            let mean_us = 1000.0;
            let offered = load * f64::from(servers);
            let rate = offered / mean_us * 1e6;
            let duration = Duration::from_secs_f64(400_000.0 / rate);
            let draws = poisson(3, rate, duration, Service::Exponential(mean_us));
            let latencies = replay(&draws, servers as usize, 0);
            let wait_us = Summary::of(latencies).mean_ns / 1e3 - mean_us;
            let expected =
                erlang_c(servers, offered) * mean_us / (f64::from(servers) * (1.0 - load));
            let error = wait_us / expected - 1.0;
            assert!(
                error.abs() < 0.05,
                "{servers} at {load}: {wait_us} µs, not {expected} µs"
            );
        }
    }

    /// Short-request p99, ms, of 98 % × 1 ms + 2 % × 25 ms.
    fn short_p99_ms(workers: usize, load: f64) -> f64 {
        let service = Service::Two {
            short_us: 1000,
            long_us: 25_000,
            p_long: 0.02,
        };
        let rate = load * workers as f64 / 1.48e-3;
        let draws = poisson(11, rate, Duration::from_secs_f64(2e6 / rate), service);
        let latencies = replay(&draws, workers, 0);
        let short = draws.iter().zip(latencies);
        let short = short.filter(|(draw, _)| service.is_short(draw.service_us));
        Summary::of(short.map(|(_, latency_ns)| latency_ns)).p99_ns as f64 / 1e6
    }

    /// Figures of an independent simulation of M/G/c over 10⁷ arrivals.
    #[test]
    fn short_tail_agrees_with_another_simulation() {
        for (workers, load, expected) in [(8, 0.7, 6.9), (8, 0.8, 12.1), (12, 0.8, 7.7)] {
            let measured = short_p99_ms(workers, load);
            let error = measured / expected - 1.0;
            assert!(
                error.abs() < 0.05,
                "{workers} at {load}: {measured} ms, not {expected} ms"
            );
        }
    }
}
