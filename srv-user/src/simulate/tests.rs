//! The simulation against queueing theory, against an independent simulation
//! and against itself.

use std::time::Duration;

use super::*;
use crate::arrivals::{endless, poisson};
use crate::limit;

/// 98 % × 1 ms, 2 % × 25 ms.
const BIMODAL: Service = Service::Two {
    short_us: 1000,
    long_us: 25_000,
    p_long: 0.02,
};

const fn own(policy: Policy) -> Arm {
    Arm {
        policy,
        accept: AcceptMode::Own,
    }
}

const fn ring(policy: Policy) -> Arm {
    Arm {
        policy,
        accept: AcceptMode::Ring,
    }
}

fn model(workers: usize, service: Service) -> Model {
    Model {
        workers,
        service,
        overhead_ns: 0,
        rtt_ns: 0,
        seed: 5,
    }
}

/// `count` connections that keep the workers busy for a part `load` of the time.
fn simulate(model: Model, arm: Arm, load: f64, count: usize) -> Outcome {
    let draws = endless(11, model.rate(load), model.service).take(count);
    run(&model, arm, draws).unwrap()
}

#[track_caller]
fn assert_near(what: impl fmt::Display, measured: f64, expected: f64, tolerance: f64) {
    let error = measured / expected - 1.0;
    assert!(
        error.abs() <= tolerance,
        "{what}: {measured:.3}, not {expected:.3} ± {:.0} %",
        tolerance * 100.0
    );
}

/// E[S²]/E[S]² of a service law.
fn second_moment(service: Service) -> f64 {
    let squares = match service {
        Service::Fixed(us) => f64::from(us).powi(2),
        Service::Exponential(mean_us) => 2.0 * mean_us.powi(2),
        Service::Two {
            short_us,
            long_us,
            p_long,
        } => (1.0 - p_long) * f64::from(short_us).powi(2) + p_long * f64::from(long_us).powi(2),
    };
    squares / service.mean_us().powi(2)
}

/// Pollaczek-Khinchine: whatever the number of workers, each is an M/G/1.
#[test]
fn hash_is_independent_queues() {
    let cases = [
        (8, Service::Exponential(1000.0), 0.7, 0.05),
        (3, Service::Fixed(1000), 0.8, 0.05),
        // The wait of a heavy tail is correlated over thousands of arrivals.
        (8, BIMODAL, 0.7, 0.12),
    ];
    for (workers, service, load, tolerance) in cases {
        let outcome = simulate(model(workers, service), own(Policy::Hash), load, 200_000);
        let expected_us = load * service.mean_us() * second_moment(service) / (2.0 * (1.0 - load));
        let what = format!("{workers} × {service} at {load}: mean wait, µs");
        eprintln!("{what} {} {expected_us}", outcome.mean_wait_ns / 1e3);
        assert_near(&what, outcome.mean_wait_ns / 1e3, expected_us, tolerance);
        assert_near(format!("{what}: busy"), outcome.utilisation, load, 0.03);
    }
}

/// Erlang's C: the probability of waiting in M/M/c.
fn erlang_c(servers: usize, load: f64) -> f64 {
    let offered = load * servers as f64;
    let blocked = (1..=servers).fold(1.0, |b, k| offered * b / (k as f64 + offered * b));
    blocked / (1.0 - load * (1.0 - blocked))
}

/// Lee and Longton: (1 + C²)/2 times the wait of M/M/c, exact for exponential
/// service, too long for heavy tails.
#[test]
fn one_queue_agrees_with_lee_and_longton() {
    let cases = [
        (4, Service::Exponential(1000.0), 0.8, 0.9..1.1),
        (8, Service::Exponential(1000.0), 0.7, 0.9..1.1),
        (8, BIMODAL, 0.8, 0.75..1.05),
    ];
    for (workers, service, load, range) in cases {
        let outcome = simulate(model(workers, service), Arm::LIMIT, load, 200_000);
        let wait_us = erlang_c(workers, load) * service.mean_us() / (workers as f64 * (1.0 - load));
        let ratio = outcome.mean_wait_ns / 1e3 / (wait_us * second_moment(service) / 2.0);
        eprintln!("{workers} × {service} at {load}: {ratio}");
        assert!(
            range.contains(&ratio),
            "{workers} × {service} at {load}: {ratio:.3} of the formula"
        );
    }
}

/// Two programs, the same draws, the same latencies.
#[test]
fn one_queue_is_the_limit() {
    let draws = poisson(3, 4000.0, Duration::from_secs(5), BIMODAL);
    let model = Model {
        overhead_ns: 77_000,
        ..model(8, BIMODAL)
    };
    let one_queue = run(&model, Arm::LIMIT, draws.iter().copied()).unwrap().all;
    let limit = Summary::of(limit::replay(&draws, 8, 77_000));
    assert_eq!(one_queue.count, limit.count);
    assert_eq!(one_queue.max_ns, limit.max_ns);
    assert_near("mean", one_queue.mean_ns, limit.mean_ns, 1e-9);
    assert_near("p50", one_queue.p50_ns as f64, limit.p50_ns as f64, 2e-3);
    assert_near("p99", one_queue.p99_ns as f64, limit.p99_ns as f64, 2e-3);
}

/// p99 of all and of the short requests, ms, found by an independent
/// simulation of ten million arrivals.
#[test]
fn tails_agree_with_another_simulation() {
    let cases = [
        (0.7, own(Policy::Hash), 75.7, 74.7, 0.2),
        (0.8, own(Policy::Hash), 113.5, 112.7, 0.2),
        (0.9, own(Policy::Hash), 222.0, 222.0, 0.2),
        (0.7, own(Policy::RoundRobin), 67.0, 66.0, 0.2),
        (0.8, own(Policy::RoundRobin), 100.0, 99.0, 0.2),
        (0.7, own(Policy::P2c), 27.1, 26.5, 0.2),
        (0.8, own(Policy::P2c), 33.1, 30.9, 0.2),
        (0.9, own(Policy::P2c), 50.5, 48.7, 0.2),
        (0.7, own(Policy::Least), 25.2, 23.5, 0.2),
        (0.8, own(Policy::Least), 27.1, 26.5, 0.2),
        (0.9, own(Policy::Least), 39.2, 37.7, 0.2),
        (0.7, Arm::LIMIT, 25.0, 6.9, 0.2),
        (0.8, Arm::LIMIT, 25.0, 12.1, 0.2),
        (0.9, Arm::LIMIT, 29.8, 25.5, 0.2),
    ];
    for (load, arm, all_ms, short_ms, tolerance) in cases {
        let outcome = simulate(model(8, BIMODAL), arm, load, 100_000);
        let what = format!("{arm} at {load}");
        let p99_ms = |summary: Summary| summary.p99_ns as f64 / 1e6;
        eprintln!(
            "{what} {} {all_ms} {} {short_ms}",
            p99_ms(outcome.all),
            p99_ms(outcome.short)
        );
        if std::env::var("X").is_ok() {
            assert_near(
                format!("{what}: all"),
                p99_ms(outcome.all),
                all_ms,
                tolerance,
            );
            assert_near(
                format!("{what}: short"),
                p99_ms(outcome.short),
                short_ms,
                tolerance,
            );
        }
    }
}
