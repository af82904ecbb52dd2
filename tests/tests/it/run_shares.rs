//! Kept connections under `srv run` where no program steers: the workers hand them over to one
//! another, so that each has as many as any other.

use srv::measure::baseline::launch::NO_BPF;
use srv::measure::load::keep_alive::{KeepAlive, Opening};

use crate::gate;
use crate::probe::until;
use crate::unmodified::{Running, Unmodified, servers};

const PAGE: &str = "/index.html";

/// Open connections of each worker, once there are as many as that in all.
fn open(running: &Running, expected: usize) -> Vec<u32> {
    until("the workers' connections add up", || {
        let workers = running.group().workers;
        let open: Vec<u32> = workers.iter().map(|worker| worker.active).collect();
        (open.iter().sum::<u32>() as usize == expected).then_some(open)
    })
}

/// Opens kept connections in these ways, and compares the workers if it was one by one: in a burst, a
/// worker that gets no CPU for 10 ms is passed over.
fn assert_even(server: &Unmodified, count: usize, openings: &[Opening]) {
    /// By the hash alone, the fullest of four workers has some 15 of 256 more than the emptiest, or 8
    /// of 64.
    const APART_MAX: u32 = 4;
    gate::needs!(root, "run an unmodified server": &server.installed());
    let running = server.run(&[NO_BPF]);
    let address = running.address();
    for &opening in openings {
        let kept = KeepAlive::open(address, PAGE, count, opening).unwrap();
        let open_now = open(&running, count);
        let (most, fewest) = (open_now.iter().max(), open_now.iter().min());
        let apart = most.zip(fewest).map(|(most, fewest)| most - fewest);
        let is_even = apart.is_some_and(|apart| apart <= APART_MAX);
        assert!(is_even || opening == Opening::Burst, "{open_now:?}");
        drop(kept);
        open(&running, 0);
    }
    let workers = running.group().workers;
    assert!(
        workers.iter().all(|worker| worker.taken_stolen > 0),
        "each worker has got connections of others: {workers:?}"
    );
}

/// Its workers wait in epoll instances of their own.
#[test]
fn kept_connections_are_even_without_a_program() {
    let openings = [Opening::OneByOne, Opening::Burst];
    assert_even(&servers::NGINX_REUSEPORT, 256, &openings);
}

/// Its workers wait by `select`.
#[test]
fn kept_connections_of_a_server_that_selects_are_even() {
    assert_even(&servers::PUMA, 64, &[Opening::OneByOne]);
}
