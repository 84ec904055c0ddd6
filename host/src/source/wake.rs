//! Waking workers that wait for events: a counter and a condition.
//!
//! Whoever learns of new events calls [`Bell::ring`]; a worker passes the count it has [`Seen`] before it last
//! looked, so a ring between its look and its wait is never missed.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How many rings a worker knows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(u64);

/// What is rung.
#[derive(Debug, Default)]
pub struct Bell {
    /// How often it was rung.
    rings: Mutex<u64>,
    /// Whoever waits for the next ring.
    waiting: Condvar,
}

impl Bell {
    /// Wakes all who wait.
    pub fn ring(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.waiting.notify_all();
    }

    /// Waits for a ring after `seen`, at most `timeout`.
    pub fn wait(&self, seen: Seen, timeout: Duration) -> Seen {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let (rings, _) = self
            .waiting
            .wait_timeout_while(rings, timeout, |rings| *rings == seen.0)
            .unwrap_or_else(PoisonError::into_inner);
        Seen(*rings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_missed() {
        let bell = Bell::default();
        let seen = bell.wait(Seen::default(), Duration::ZERO);
        bell.ring();
        let next = bell.wait(seen, Duration::from_secs(3600));
        assert_ne!(seen, next);
        assert_eq!(bell.wait(next, Duration::from_millis(1)), next);
    }
}
