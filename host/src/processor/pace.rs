//! How many events one transaction takes.
//!
//! Live, it is what has come since the last commit: one event, or a few. Catching up, the cost of a transaction (its
//! round trips, its flush to the disk) is shared by its events, and a projection that folds in memory writes a row
//! once for all of them; so the batch grows, doubling, for as long as it is applied within [`LONG`]. Beyond that a larger one
//! gains nothing, and others wait: for the rows it has locked, for the file it writes, for a worker to hear that it
//! should stop.

use std::time::Duration;

/// How long a batch may take before the next is made smaller.
const LONG: Duration = Duration::from_millis(250);

/// How many events the first batch has at most, and a batch after a failure.
const FIRST: usize = 1_000;

/// The size of the next batch.
#[derive(Debug)]
pub struct Pace {
    /// What the operator allows.
    most: usize,
    /// How many events the next batch has at most.
    size: usize,
}

impl Pace {
    /// At most this many events, ever.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, size: FIRST.min(most) }
    }

    /// How many events the next batch has at most.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// A batch of so many events took so long.
    pub fn took(&mut self, events: usize, time: Duration) {
        if time > LONG {
            self.size = (self.size / 2).max(1);
        } else if events >= self.size && time < LONG / 3 {
            // A full one, and twice as much will still be in time.
            self.size = (self.size * 2).min(self.most);
        }
    }

    /// A batch failed.
    pub fn failed(&mut self) {
        self.size = FIRST.min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_batches_that_are_quick_grow_to_what_is_allowed() {
        let mut pace = Pace::new(5_000);
        for size in [1_000, 2_000, 4_000, 5_000, 5_000] {
            assert_eq!(pace.size(), size);
            pace.took(size, LONG / 10);
        }
        pace.failed();
        assert_eq!(pace.size(), 1_000);
    }

    #[test]
    fn slow_ones_shrink_down_to_one_event_and_come_back() {
        let mut pace = Pace::new(10);
        for size in [10, 5, 2, 1, 1] {
            assert_eq!(pace.size(), size);
            pace.took(size, LONG * 2);
        }
        pace.took(1, LONG / 10);
        assert_eq!(pace.size(), 2);
    }

    #[test]
    fn few_events_say_nothing_about_a_larger_batch() {
        let mut pace = Pace::new(10_000);
        pace.took(3, Duration::ZERO);
        assert_eq!(pace.size(), 1_000);
    }
}
