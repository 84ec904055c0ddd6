//! Taking turns: what workers of one projection do that write the same rows, each in its own order.
//!
//! They would lock each other out, and each time Postgres takes its `deadlock_timeout` (a second) to see it. So the first
//! deadlock is one too many: from then on, every worker of that projection in this process begins a transaction only when
//! no other worker that takes turns is in one: here ([`Turn::alone`]), or in another process ([`Turn::lock`]). Here they wait
//! without a session, so that those who wait do not keep other projections from theirs.

use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fnv::FnvHashMap;

use crate::database::Postgres;

/// Which projections of this process take turns. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<FnvHashMap<String, Arc<Shared>>>>);

/// What the workers of one projection in this process share.
#[derive(Debug, Default)]
struct Shared {
    /// Whether they take turns.
    taken: AtomicBool,
    /// Held by the one who is alone. Whoever asked first is next.
    alone: Arc<tokio::sync::Mutex<()>>,
}

/// Whether the workers of one projection take turns.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// The advisory lock under which they do.
    key: i64,
    /// Whether they do, and who is alone.
    shared: Arc<Shared>,
}

/// Nobody else of the projection in this process is alone for as long as this lives.
pub(super) struct Alone(#[expect(dead_code, reason = "held until it is dropped")] tokio::sync::OwnedMutexGuard<()>);

impl Turns {
    /// Those of a projection.
    pub(super) fn of(&self, projection: &str) -> Turn {
        let mut hasher = fnv::FnvHasher::default();
        hasher.write(b"projectionist turns\0");
        hasher.write(projection.as_bytes());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = Arc::clone(all.entry(projection.to_owned()).or_default());
        Turn { key: hasher.finish().cast_signed(), shared }
    }
}

impl Turn {
    /// From now on; says whether this is new.
    pub(super) fn take(&self) -> bool {
        !self.shared.taken.swap(true, Ordering::Relaxed)
    }

    /// Whether they do.
    pub(super) fn is_taken(&self) -> bool {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// The lock to wait for, if they take turns.
    pub(super) fn lock(&self) -> Option<i64> {
        self.is_taken().then_some(self.key)
    }

    /// Waits on this thread until nobody of the projection in this process is alone, and is.
    pub(super) fn alone(&self, database: &Postgres) -> Alone {
        Alone(database.block_on(Arc::clone(&self.shared.alone).lock_owned()))
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
