//! How many events one transaction takes.
//!
//! Live, it is what has come since the last commit: one event, or a few. Catching up there is a choice, and no size that
//! is right for everybody. A projection that folds in memory writes a row once for all the events of a batch, and gains
//! from a large one; also the round trips and the flush of a commit are shared. A projection that updates the same rows
//! again and again loses: Postgres cannot clear away old versions of a row while the transaction that made them is
//! open, so 10,000 updates of 2,500 rows took twice as long in one transaction as in ten. So the size is found by trying: twice or
//! half as many for a few batches, and what is cheaper an event stays. (Hill climbing, on the cheapest of a few batches
//! each, because other work on a machine only ever makes a batch dearer.)
//!
//! Beyond [`LONG`] no batch grows: others wait for the rows it has locked, for the file it writes, for a worker to hear
//! that it should stop.

use std::time::Duration;

/// How long a batch may take before the next is made smaller.
const LONG: Duration = Duration::from_millis(250);

/// How many events the first batch has at most, and a batch after a failure.
const FIRST: usize = 1_000;

/// No size below this is tried: the commit would cost more than the events.
const LEAST: usize = 250;

/// How many batches are compared.
const COMPARED: u32 = 2;

/// By how much another size has to be cheaper, so that noise alone changes nothing.
const GAIN: f64 = 0.95;

/// How many batches pass before another size is tried when the last attempt was in vain; it doubles each time.
const REST: u32 = 4;
/// The most of them.
const LONGEST_REST: u32 = 64;

/// The size of the next batch.
#[derive(Debug)]
pub struct Pace {
    /// What the operator allows.
    most: usize,
    /// The size that has proved itself.
    settled: Measured,
    /// Another one, while it is tried.
    trial: Option<Measured>,
    /// Whether the next trial is a larger one.
    larger: bool,
    /// How many batches pass before the next trial.
    rest: u32,
    /// How many will pass after the next one in vain.
    next_rest: u32,
}

/// A size, and what an event costs with it.
#[derive(Debug)]
struct Measured {
    /// Events in a batch.
    size: usize,
    /// Batches so far.
    batches: u32,
    /// Seconds an event, in the cheapest of them.
    cheapest: f64,
}

impl Measured {
    /// Nothing is known of it yet.
    fn new(size: usize) -> Self {
        Self { size, batches: 0, cheapest: f64::INFINITY }
    }

    /// A batch was applied.
    fn note(&mut self, cost: f64) {
        self.batches += 1;
        self.cheapest = self.cheapest.min(cost);
    }
}

impl Pace {
    /// At most this many events, ever.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let settled = Measured::new(FIRST.min(most));
        Self { most, settled, trial: None, larger: true, rest: 0, next_rest: REST }
    }

    /// From now on at most this many events, ever.
    pub fn allow(&mut self, most: usize) {
        if most != self.most {
            self.most = most;
            self.settle(Measured::new(self.settled.size.clamp(FIRST.min(most), most)));
        }
    }

    /// How many events the next batch has at most.
    #[must_use]
    pub fn size(&self) -> usize {
        self.trial.as_ref().unwrap_or(&self.settled).size
    }

    /// A batch of so many events took so long.
    pub fn took(&mut self, events: usize, time: Duration) {
        if time > LONG {
            self.too_much(events);
            return;
        }
        // What has come live says nothing about a full one.
        if events < self.size() {
            return;
        }
        let cost = time.as_secs_f64() / events.max(1) as f64;
        let Some(trial) = &mut self.trial else {
            self.settled.note(cost);
            if self.settled.batches >= COMPARED.max(self.rest) {
                self.try_another(time);
            }
            return;
        };
        trial.note(cost);
        if trial.batches < COMPARED {
            return;
        }
        let is_cheaper = trial.cheapest < self.settled.cheapest * GAIN;
        match self.trial.take() {
            Some(trial) if is_cheaper => {
                self.settle(trial);
                self.try_another(time);
            }
            _ => {
                // Measured anew: what was cheap a while ago may not be any more.
                self.settled = Measured::new(self.settled.size);
                self.larger = !self.larger;
                self.rest = self.next_rest;
                self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
            }
        }
    }

    /// So many events were more than one transaction takes.
    pub fn too_much(&mut self, events: usize) {
        self.settle(Measured::new((self.size().min(events.max(1)) / 2).max(1)));
    }

    /// A batch failed.
    pub fn failed(&mut self) {
        *self = Self::new(self.most);
    }

    /// Goes on with a size.
    fn settle(&mut self, size: Measured) {
        (self.settled, self.trial) = (size, None);
        (self.rest, self.next_rest) = (0, REST);
    }

    /// Tries another size, if there is one: `time` is what the last batch took.
    fn try_another(&mut self, time: Duration) {
        let size = self.settled.size;
        let larger = (size * 2).min(self.most);
        let other = if self.larger { larger } else { size / 2 };
        let fits = if self.larger { other > size && time < LONG / 3 } else { other >= LEAST };
        if fits {
            self.trial = Some(Measured::new(other));
        } else {
            self.settled = Measured::new(size);
            self.larger = !self.larger;
            self.rest = self.next_rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies full batches, each event at a cost that depends on the size; gives the size after so many events.
    fn after(pace: &mut Pace, events: usize, cost: impl Fn(usize) -> Duration) -> usize {
        let mut applied = 0;
        while applied < events {
            let size = pace.size();
            pace.took(size, cost(size));
            applied += size;
        }
        pace.settled.size
    }

    #[test]
    fn where_a_batch_has_a_cost_of_its_own_it_grows_to_what_is_allowed() {
        let cost = |size: usize| Duration::from_micros(2_000 + size as u64);
        assert!(after(&mut Pace::new(10_000), 60_000, cost) >= 8_000);
        assert_eq!(after(&mut Pace::new(3_000), 60_000, cost), 3_000);
    }

    #[test]
    fn where_a_large_batch_is_dearer_it_stays_small() {
        let cost = |size: usize| Duration::from_micros(size as u64 * if size > 1_000 { 20 } else { 10 });
        assert_eq!(after(&mut Pace::new(10_000), 500_000, cost), 1_000);
    }

    #[test]
    fn what_has_become_cheaper_is_found_out_later() {
        let mut pace = Pace::new(10_000);
        after(&mut pace, 500_000, |size| Duration::from_micros(size as u64 * 10));
        assert!(after(&mut pace, 2_000_000, |size| Duration::from_micros(2_000 + size as u64)) >= 8_000);
    }

    #[test]
    fn slow_ones_shrink_down_to_one_event_and_come_back() {
        let mut pace = Pace::new(10);
        for size in [10, 5, 2, 1, 1] {
            assert_eq!(pace.size(), size);
            pace.took(size, LONG * 2);
        }
        assert_eq!(after(&mut pace, 200, |size| Duration::from_micros(2_000 + size as u64)), 10);
    }

    #[test]
    fn few_events_say_nothing_about_a_larger_batch() {
        let mut pace = Pace::new(10_000);
        for _ in 0..100 {
            pace.took(3, Duration::ZERO);
        }
        assert_eq!(pace.size(), 1_000);
    }
}
