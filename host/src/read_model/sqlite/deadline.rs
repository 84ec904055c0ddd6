//! When a running statement is interrupted.
//!
//! SQLite asks every few microseconds whether to go on. What a statement may take counts from the first time it asks: most
//! statements are over before that, and a look at the clock for each of them would cost more than all the rest of this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When the running statement is interrupted; shared with the progress handler.
#[derive(Clone, Debug)]
pub(super) struct Deadline {
    /// What times count from.
    base: Instant,
    /// How long the statement may run, in nanoseconds; 0 while none runs.
    allowed: Arc<AtomicU64>,
    /// When that is over, in nanoseconds since `base`; 0 until somebody asks.
    over: Arc<AtomicU64>,
}

impl Deadline {
    /// No statement runs.
    pub(super) fn new() -> Self {
        Self { base: Instant::now(), allowed: Arc::default(), over: Arc::default() }
    }

    /// A statement begins, and may take so long.
    pub(super) fn begin(&self, allowed: Duration) {
        self.over.store(0, Ordering::Relaxed);
        self.allowed.store(u64::try_from(allowed.as_nanos()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// It has ended.
    pub(super) fn end(&self) {
        self.allowed.store(0, Ordering::Relaxed);
    }

    /// Whether the running statement has had its time.
    pub(super) fn has_passed(&self) -> bool {
        let allowed = self.allowed.load(Ordering::Relaxed);
        if allowed == 0 {
            return false;
        }
        let now = u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match self.over.load(Ordering::Relaxed) {
            0 => {
                self.over.store(now.saturating_add(allowed), Ordering::Relaxed);
                false
            }
            over => now > over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_statement_may_take_counts_anew_for_each() {
        let deadline = Deadline::new();
        assert!(!deadline.has_passed(), "no statement runs");
        deadline.begin(Duration::ZERO);
        assert!(!deadline.has_passed(), "the first look");
        std::thread::sleep(Duration::from_millis(1));
        assert!(deadline.has_passed());
        deadline.begin(Duration::from_secs(3_600));
        assert!(!deadline.has_passed(), "the next has its own time");
        std::thread::sleep(Duration::from_millis(1));
        assert!(!deadline.has_passed());
        deadline.end();
        assert!(!deadline.has_passed());
    }
}
