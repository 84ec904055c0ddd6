//! How long to wait before trying again: exponential, with full jitter, as in "Exponential Backoff and Jitter"
//! (Marc Brooker, AWS Architecture Blog, 2015), so that workers that failed together do not come back together.

use std::time::Duration;

use rand::Rng as _;

/// The first wait is at most this long.
const FIRST: Duration = Duration::from_millis(50);

/// No wait is longer than this.
const LONGEST: Duration = Duration::from_secs(15);

/// Counts attempts, and says how long to wait before the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    /// Attempts that failed so far.
    failures: u32,
}

impl Backoff {
    /// Counts a failure; gives the time to wait.
    pub fn fail(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.failures.min(20)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // At least a tenth, so that a run of small numbers does not become a busy loop.
        longest.mul_f64(rand::rng().random_range(0.1..=1.0))
    }

    /// Attempts that failed so far.
    #[must_use]
    pub fn failures(self) -> u32 {
        self.failures
    }

    /// Forgets them: something worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let mut backoff = Backoff::default();
        for failure in 0..100_u32 {
            let wait = backoff.fail();
            assert!(wait >= FIRST / 10 && wait <= LONGEST, "{failure}: {wait:?}");
            assert!(failure > 0 || wait <= FIRST);
        }
        assert_eq!(backoff.failures(), 100);
    }
}
