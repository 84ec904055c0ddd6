//! Taking turns: what workers of one projection do that write the same rows, each in its own order.
//!
//! They would lock each other out, and each time Postgres takes its `deadlock_timeout` (a second) to see it. So the first
//! deadlock is one too many: from then on, every worker of that projection in this process begins a transaction only when
//! no other worker that takes turns is in one, here or in another process.

use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fnv::FnvHashMap;

/// Which projections of this process take turns. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<FnvHashMap<String, Arc<AtomicBool>>>>);

/// Whether the workers of one projection take turns.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// The advisory lock under which they do.
    key: i64,
    /// Whether they do.
    taken: Arc<AtomicBool>,
}

impl Turns {
    /// Those of a projection.
    pub(super) fn of(&self, projection: &str) -> Turn {
        let mut hasher = fnv::FnvHasher::default();
        hasher.write(b"projectionist turns\0");
        hasher.write(projection.as_bytes());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = Arc::clone(all.entry(projection.to_owned()).or_default());
        Turn { key: hasher.finish().cast_signed(), taken }
    }
}

impl Turn {
    /// From now on; says whether this is new.
    pub(super) fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::Relaxed)
    }

    /// The lock to wait for, if they take turns.
    pub(super) fn lock(&self) -> Option<i64> {
        self.taken.load(Ordering::Relaxed).then_some(self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_meets_a_deadlock_speaks_for_all_workers_of_its_projection_and_for_no_other() {
        let turns = Turns::default();
        let (one, same, other) = (turns.of("sums"), turns.of("sums"), turns.of("users"));
        assert_eq!(same.lock(), None);
        assert!(one.take() && !same.take());
        assert!(same.lock().is_some() && same.lock() == one.lock());
        assert_eq!(other.lock(), None);
    }
}
