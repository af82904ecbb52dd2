//! Load while something happens to the server, each request counted.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use srv::measure::arrivals::{Service, poisson};
use srv::measure::load::Load;

/// A new connection for each request, whose handler sleeps as long as was drawn.
pub(crate) fn of_sleepers(target: SocketAddr) -> Load {
    Load {
        timeout: Duration::from_secs(20),
        ..Load::get(target, "/work?sleep_us={us}")
    }
}

/// What became of the requests that were sent.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub requests: usize,
    pub lost: usize,
    pub first_error: Option<String>,
}

/// As [`under_load`]; how many were answered.
///
/// # Panics
/// If one was not.
#[track_caller]
pub(crate) fn without_loss(target: SocketAddr, per_second: f64, meanwhile: impl FnOnce()) -> usize {
    let counted = under_load(target, per_second, meanwhile);
    assert_eq!(counted.lost, 0, "{counted:?}");
    counted.requests
}

/// Runs `meanwhile` under `per_second` requests of 300 µs each, which go on until
/// it is done, and are then all awaited.
pub(crate) fn under_load(target: SocketAddr, per_second: f64, meanwhile: impl FnOnce()) -> Counted {
    let load = of_sleepers(target);
    let is_over = AtomicBool::new(false);
    let run = || {
        let mut counted = Counted::default();
        for seed in 0.. {
            let draws = poisson(
                seed,
                per_second,
                Duration::from_secs(1),
                Service::Fixed(300),
            );
            let run = load.run(&draws).unwrap();
            assert_eq!(run.records.len(), draws.len());
            counted.requests += draws.len();
            counted.lost += run.lost();
            counted.first_error = counted.first_error.or(run.first_error);
            if is_over.load(Ordering::Relaxed) {
                break;
            }
        }
        counted
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(run);
        let done = catch_unwind(AssertUnwindSafe(meanwhile));
        is_over.store(true, Ordering::Relaxed);
        let counted = running.join().unwrap();
        done.unwrap_or_else(|panic| resume_unwind(panic));
        counted
    })
}
