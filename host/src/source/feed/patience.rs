//! How long the foremost reader waits for those behind it. No database, no clock, no lock: only the rules.
//!
//! Waiting costs the foremost time; not waiting costs the database every page once more, for each who is left behind.
//! Workers that share the cores are mostly behind because the others were running: then waiting costs nothing, and all of
//! them are done sooner. But one that is stuck, or that is slower by nature, must not hold the others up.
//!
//! So there is a **budget** of time to wait: [`BUDGET`] at first, of which a hundredth of the time that goes by comes
//! back. Whatever the others do, the foremost loses that much once and a hundredth of its time for ever. And nobody
//! waits for one who has not moved for [`STILL`]; who has not begun yet (its partition is being claimed) may take longer.

use std::time::{Duration, Instant};

/// How long the foremost waits altogether before it goes on without those behind it.
pub(super) const BUDGET: Duration = Duration::from_secs(10);

/// How long those behind may stand still.
pub(super) const STILL: Duration = Duration::from_secs(1);

/// Which part of the time comes back to the budget.
const COMES_BACK: u32 = 100;

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hindmost {
    /// Somebody who has not begun to read.
    Coming,
    /// Somebody who reads.
    Reading,
}

/// What is left of it.
#[derive(Debug)]
pub(super) struct Patience {
    /// How much.
    left: Duration,
    /// When that was so.
    counted: Instant,
    /// Whether somebody waits.
    waiting: bool,
    /// When the hindmost last moved, or the wait began.
    moved: Instant,
}

impl Patience {
    /// All of it.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BUDGET, counted: now, waiting: false, moved: now }
    }

    /// The hindmost has moved.
    pub(super) fn moved(&mut self, now: Instant) {
        self.moved = now;
    }

    /// Nobody has to wait.
    pub(super) fn rest(&mut self, now: Instant) {
        self.count(now);
        self.waiting = false;
    }

    /// How long to wait now, until the next look at this; nothing when that was long enough.
    pub(super) fn wait(&mut self, hindmost: Hindmost, now: Instant) -> Option<Duration> {
        if !self.waiting {
            self.rest(now);
            (self.waiting, self.moved) = (true, now);
        }
        self.count(now);
        let still = match hindmost {
            Hindmost::Coming => BUDGET,
            Hindmost::Reading => STILL.saturating_sub(now.saturating_duration_since(self.moved)),
        };
        Some(self.left.min(still)).filter(|wait| !wait.is_zero())
    }

    /// Brings the budget up to date.
    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        self.counted = now;
        self.left = if self.waiting {
            self.left.saturating_sub(passed)
        } else {
            BUDGET.min(self.left.saturating_add(passed / COMES_BACK))
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many milliseconds.
    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn one_who_stands_still_is_waited_for_a_moment() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert_eq!(patience.wait(Hindmost::Reading, start), Some(STILL));
        assert_eq!(patience.wait(Hindmost::Reading, start + ms(400)), Some(ms(600)));
        assert_eq!(patience.wait(Hindmost::Reading, start + STILL), None);
    }

    #[test]
    fn one_who_moves_is_waited_for_until_the_budget_is_spent() {
        let start = Instant::now();
        let (mut patience, mut now) = (Patience::new(start), start);
        while patience.wait(Hindmost::Reading, now).is_some() {
            now += ms(100);
            patience.moved(now);
        }
        assert_eq!(now - start, BUDGET);
    }

    #[test]
    fn one_who_has_not_begun_may_take_the_whole_budget() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert_eq!(patience.wait(Hindmost::Coming, start), Some(BUDGET));
        assert_eq!(patience.wait(Hindmost::Coming, start + BUDGET - ms(1)), Some(ms(1)));
        assert_eq!(patience.wait(Hindmost::Coming, start + BUDGET), None);
    }

    #[test]
    fn a_budget_that_is_spent_comes_back_slowly_and_not_beyond_what_it_was() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert!(patience.wait(Hindmost::Coming, start).is_some());
        let mut now = start + BUDGET;
        patience.rest(now);
        assert_eq!(patience.wait(Hindmost::Reading, now), None, "at once");
        patience.rest(now);
        now += ms(20_000);
        assert_eq!(patience.wait(Hindmost::Reading, now), Some(ms(200)));
        patience.rest(now);
        now += Duration::from_secs(1_000_000);
        assert_eq!(patience.wait(Hindmost::Coming, now), Some(BUDGET));
    }
}
