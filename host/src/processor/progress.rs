//! How far one worker is and what it is about, for whoever watches: an operator, a rebuild that waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::event::Position;
use crate::partition::Partition;
use crate::telemetry::metrics::{Cost, Meter};

/// What a worker is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not claimed its partition yet.
    Starting,
    /// Somebody else has its partition.
    StandingBy {
        /// Who.
        behind: String,
    },
    /// It applies events as they come.
    Running,
    /// An operator has paused the projection.
    Paused,
    /// Something around it is broken: it tries again and again.
    Waiting {
        /// What.
        reason: String,
    },
    /// It has ended, and was meant to.
    Done,
    /// It has ended, and was not.
    Failed {
        /// Why.
        reason: String,
    },
}

/// How far one worker is.
#[derive(Debug)]
pub struct Progress {
    /// Of which projection.
    projection: String,
    /// Which of its partitions.
    partition: Partition,
    /// Events applied since the worker started.
    applied: AtomicU64,
    /// Where its checkpoint stands.
    position: AtomicU64,
    /// What it is about.
    state: Mutex<State>,
    /// What it counts.
    meter: Meter,
}

impl Progress {
    /// Of a worker that has not begun.
    #[must_use]
    pub fn new(projection: &str, partition: Partition, meter: Meter) -> Self {
        Self {
            projection: projection.to_owned(),
            partition,
            applied: AtomicU64::new(0),
            position: AtomicU64::new(0),
            state: Mutex::new(State::Starting),
            meter,
        }
    }

    /// Counts events.
    pub(super) fn applied(&self, events: u64) {
        self.applied.fetch_add(events, Ordering::Relaxed);
    }

    /// Notes the checkpoint.
    pub(super) fn reached(&self, position: Position) {
        self.position.store(position.get(), Ordering::Relaxed);
    }

    /// Notes what the worker is about.
    pub(super) fn is(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Of which projection.
    #[must_use]
    pub fn projection(&self) -> &str {
        &self.projection
    }

    /// Which of its partitions.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// Events applied since the worker started.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Where its checkpoint stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.position.load(Ordering::Relaxed))
    }

    /// What its batches have cost so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.meter.cost()
    }

    /// What the worker is about.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The workers of a process, which come and go where they share the work with other processes.
#[derive(Clone, Debug, Default)]
pub struct Crew(Arc<RwLock<Vec<Arc<Progress>>>>);

impl Crew {
    /// Of these.
    #[must_use]
    pub fn of(workers: Vec<Arc<Progress>>) -> Self {
        Self(Arc::new(RwLock::new(workers)))
    }

    /// One more.
    pub(super) fn add(&self, worker: Arc<Progress>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    /// One has ended.
    pub(super) fn remove(&self, worker: &Arc<Progress>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, worker));
    }

    /// Those that there are now.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Progress>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
