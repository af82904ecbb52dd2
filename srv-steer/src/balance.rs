//! How evenly something is shared out: pure functions over one count per
//! worker. Nothing shared out yet counts as even.

/// Coefficient of variation: standard deviation over mean (that of these
/// workers, not of a larger population they stand for). 0 is even.
pub fn coefficient_of_variation(counts: &[u64]) -> f64 {
    let Some(mean) = mean(counts) else { return 0.0 };
    let squares: f64 = counts
        .iter()
        .map(|count| (*count as f64 - mean).powi(2))
        .sum();
    (squares / counts.len() as f64).sqrt() / mean
}

/// The largest count over the mean. 1 is even, the number of workers is one
/// worker with everything.
pub fn max_over_mean(counts: &[u64]) -> f64 {
    let largest = counts.iter().copied().max().unwrap_or(0);
    mean(counts).map_or(1.0, |mean| largest as f64 / mean)
}

/// The most that one worker got of any `window` consecutive connections; `served_by` has
/// the worker of each connection, in order. With fewer connections: of all.
pub fn most_in_window(served_by: &[u16], window: usize) -> u64 {
    let mut counts = vec![0u64; 1 + usize::from(u16::MAX)];
    let mut most = 0;
    for (nth, worker) in served_by.iter().enumerate() {
        if let Some(gone) = nth.checked_sub(window) {
            counts[usize::from(served_by[gone])] -= 1;
        }
        let count = &mut counts[usize::from(*worker)];
        *count += 1;
        most = most.max(*count);
    }
    most
}

/// `None` where there is nothing to share.
fn mean(counts: &[u64]) -> Option<f64> {
    let sum = sum(counts.iter().copied());
    (sum > 0).then(|| sum as f64 / counts.len() as f64)
}

/// A sum that stays at the largest number: counts are read from memory that
/// workers write, and from answers of other processes.
pub fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn even_shares_are_0_and_1() {
        assert_eq!(coefficient_of_variation(&[7, 7, 7]), 0.0);
        assert_eq!(max_over_mean(&[7, 7, 7]), 1.0);
    }

    #[test]
    fn nothing_shared_is_even() {
        for counts in [&[][..], &[0, 0]] {
            assert_eq!(coefficient_of_variation(counts), 0.0);
            assert_eq!(max_over_mean(counts), 1.0);
        }
    }

    #[test]
    fn a_known_case() {
        // Mean 5, deviations 3, 1, 1, 1, 0, 0, 2, 4: variance 4.
        let counts = [2, 4, 4, 4, 5, 5, 7, 9];
        assert_eq!(coefficient_of_variation(&counts), 2.0 / 5.0);
        assert_eq!(max_over_mean(&counts), 9.0 / 5.0);
    }

    #[test]
    fn a_window_has_its_own_shares() {
        let in_turn = [0, 1, 2, 3].repeat(5);
        assert_eq!(most_in_window(&in_turn, 8), 2);
        let in_a_row = [[0; 5], [1; 5]].concat();
        assert_eq!(most_in_window(&in_a_row, 4), 4);
        assert_eq!(most_in_window(&in_a_row, 10), 5);
        assert_eq!(most_in_window(&in_a_row, 99), 5);
        assert_eq!(most_in_window(&[], 9), 0);
    }

    proptest! {
        #[test]
        fn both_stay_within_their_bounds(counts in proptest::collection::vec(0u64..1 << 40, 1..64)) {
            let most = counts.len() as f64;
            let cv = coefficient_of_variation(&counts);
            prop_assert!(cv >= 0.0 && cv <= (most - 1.0).sqrt() + 1e-9);
            let ratio = max_over_mean(&counts);
            prop_assert!(ratio >= 1.0 - 1e-9 && ratio <= most + 1e-9);
        }

        #[test]
        fn neither_depends_on_scale(counts in proptest::collection::vec(0u64..1 << 30, 1..64)) {
            let tenfold: Vec<u64> = counts.iter().map(|count| count * 10).collect();
            prop_assert!(
                (coefficient_of_variation(&counts) - coefficient_of_variation(&tenfold)).abs() < 1e-9
            );
            prop_assert!((max_over_mean(&counts) - max_over_mean(&tenfold)).abs() < 1e-9);
        }
    }
}
