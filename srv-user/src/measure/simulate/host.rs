//! What the policy meets when it is asked: the group as the master has set it
//! up, and the kernel's answers.

use srv_common::layout::{ELIGIBLE, eligibility};
use srv_common::{Group, Host, Policy, Shared, State};

use crate::measure::arrivals::Uniform;

/// Where the policy runs: on a random CPU, for a client not seen before.
pub(super) struct Kernel<'a> {
    /// Of all its answers but the cursor.
    pub random: &'a mut Uniform,
    /// The program's.
    pub cursor: &'a Shared<u64>,
}

impl Host for Kernel<'_> {
    fn random(&mut self) -> u32 {
        self.random.bits()
    }

    fn cpu(&mut self) -> u32 {
        self.random.bits()
    }

    fn source_hash(&mut self) -> u32 {
        self.random.bits()
    }

    fn flow_hash(&mut self) -> u32 {
        self.random.bits()
    }

    fn advance_cursor(&mut self) -> u32 {
        let before = self.cursor.get();
        self.cursor.set(before.wrapping_add(1));
        before as u32
    }

    fn skip(&mut self, places: u32) {
        self.cursor.bump(places.into());
    }
}

/// As the master and the workers leave it once all are ready and asleep.
pub(super) fn ready_group<const N: usize>(workers: usize, policy: Policy) -> Box<Group<N>> {
    let group = Group::<N>::boxed();
    group.config.policy.set(policy as u32);
    group.config.workers.set(workers as u32);
    group.config.ready_count.set(workers as u32);
    for slot in 0..workers {
        group.ready[slot].set(slot as u16);
        group.idle.0[slot].set(1);
        let steering = &group.steering[slot];
        steering.state.set(State::Ready as u32);
        steering.eligible.set(eligibility(ELIGIBLE, slot as u32));
    }
    group
}
