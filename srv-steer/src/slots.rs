//! One record per slot. Every slot that can exist has its record from the start, as
//! in the shared memory, so that no number of workers and no order of joins and
//! reloads leaves a slot without one.

use std::ops::{Index, IndexMut, Range};

use srv_common::MAX_WORKERS;

/// A record of type `T` for each slot. Slots that have, or had, a worker are *used*;
/// their number never falls.
pub struct SlotTable<T> {
    records: Vec<T>,
    used: u32,
}

impl<T: Default> Default for SlotTable<T> {
    fn default() -> Self {
        Self {
            records: std::iter::repeat_with(T::default)
                .take(MAX_WORKERS)
                .collect(),
            used: 0,
        }
    }
}

impl<T> SlotTable<T> {
    /// Marks the slots below `end` as used. Slots beyond it that were used remain used.
    pub fn use_until(&mut self, end: u32) {
        self.used = self.used.max(end.min(MAX_WORKERS as u32));
    }

    /// The slots that are used.
    pub fn used(&self) -> Range<u32> {
        0..self.used
    }

    /// The records of the used slots, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.records[..self.used as usize].iter()
    }

    /// The records of the used slots, in order, as mutable references.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.records[..self.used as usize].iter_mut()
    }
}

impl<T> Index<u32> for SlotTable<T> {
    type Output = T;

    fn index(&self, slot: u32) -> &T {
        &self.records[slot as usize]
    }
}

impl<T> IndexMut<u32> for SlotTable<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.records[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_stays_used_and_every_slot_has_a_record() {
        let mut table = SlotTable::<u32>::default();
        table.use_until(6);
        table[5] = 7;
        table.use_until(2);
        assert_eq!((table.used(), table[5]), (0..6, 7));
        assert_eq!(table.iter().sum::<u32>(), 7);
        table[MAX_WORKERS as u32 - 1] = 1;
        table.use_until(u32::MAX);
        assert_eq!(table.iter().len(), MAX_WORKERS);
    }
}
