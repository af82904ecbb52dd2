//! Kept connections under `srv run` where no program steers: the workers hand them over to one
//! another, so that each has as many as any other.

use srv::measure::baseline::launch::NO_BPF;
use srv::measure::load::keep_alive::{KeepAlive, Opening};

use crate::gate;
use crate::probe::until;
use crate::unmodified::{Running, servers};

const PAGE: &str = "/index.html";
const KEPT: usize = 256;

/// Open connections of each worker, once there are as many as that in all.
fn open(running: &Running, expected: usize) -> Vec<u32> {
    until("the workers' connections add up", || {
        let workers = running.group().workers;
        let open: Vec<u32> = workers.iter().map(|worker| worker.active).collect();
        (open.iter().sum::<u32>() as usize == expected).then_some(open)
    })
}

#[test]
fn kept_connections_are_even_without_a_program() {
    /// By the hash alone, the fullest of four workers has some 15 more than the emptiest.
    const APART_MAX: u32 = 4;
    gate::needs!(root, "run nginx": &servers::NGINX_REUSEPORT.installed());
    let running = servers::NGINX_REUSEPORT.run(&[NO_BPF]);
    let address = running.address();
    for opening in [Opening::OneByOne, Opening::Burst] {
        let kept = KeepAlive::open(address, PAGE, KEPT, opening).unwrap();
        let open_now = open(&running, KEPT);
        let (most, fewest) = (open_now.iter().max(), open_now.iter().min());
        let apart = most.zip(fewest).map(|(most, fewest)| most - fewest);
        // In a burst, a worker that gets no CPU for 10 ms is passed over.
        if opening == Opening::OneByOne {
            assert!(
                apart.is_some_and(|apart| apart <= APART_MAX),
                "{open_now:?}"
            );
        }
        drop(kept);
        open(&running, 0);
    }
    let workers = running.group().workers;
    assert!(
        workers.iter().all(|worker| worker.taken_stolen > 0),
        "each worker has got connections of others: {workers:?}"
    );
}
