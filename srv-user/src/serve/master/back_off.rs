//! How long a slot stays empty after its worker died.

use std::time::Duration;

/// The first wait is this long; each further one is twice as long, up to a maximum.
const MIN: Duration = Duration::from_millis(100);
/// The longest wait after workers that never became ready. To try again soon does not help.
const FAILED_START_MAX: Duration = Duration::from_secs(10);
/// The longest wait after workers that were ready. Something may be killing them, and the
/// server must go on.
const DIED_MAX: Duration = Duration::from_millis(500);
/// If a worker lived longer than this, its death is not early.
const SETTLED: Duration = Duration::from_secs(5);

/// One slot's history.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackOff {
    /// How often in a row a worker died early.
    pub early_deaths: u32,
}

impl BackOff {
    /// How long the slot stays empty after a worker that `lived` for so long has died. The first
    /// death costs no wait. The next early death costs a wait of `MIN`, and each further one
    /// twice as much as the one before, up to the maximum.
    pub(super) fn after_death(&mut self, lived: Duration, was_ready: bool) -> Duration {
        if lived > SETTLED && was_ready {
            self.early_deaths = 0;
        }
        let most = if was_ready {
            DIED_MAX
        } else {
            FAILED_START_MAX
        };
        let wait = match self.early_deaths {
            0 => Duration::ZERO,
            n => (MIN * 2u32.saturating_pow(n.min(16) - 1)).min(most),
        };
        self.early_deaths += 1;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits_ms(back_off: &mut BackOff, was_ready: bool, count: usize) -> Vec<u128> {
        let early = Duration::from_millis(20);
        let wait = |_| back_off.after_death(early, was_ready).as_millis();
        (0..count).map(wait).collect()
    }

    #[test]
    fn failed_starts_wait_longer_and_longer() {
        let waits = waits_ms(&mut BackOff::default(), false, 9);
        assert_eq!(waits, [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000]);
    }

    #[test]
    fn workers_that_were_ready_come_back_within_half_a_second() {
        let waits = waits_ms(&mut BackOff::default(), true, 6);
        assert_eq!(waits, [0, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn a_long_life_begins_anew() {
        let mut back_off = BackOff::default();
        waits_ms(&mut back_off, true, 4);
        assert_eq!(back_off.after_death(SETTLED * 2, true), Duration::ZERO);
    }
}
