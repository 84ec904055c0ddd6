//! What the operator chose: how much at a time, how often, and what becomes of an event that cannot be applied.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What becomes of an event that cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// It becomes a dead letter, and so does every later event of its aggregate; the others go on
    Park,
    /// It becomes a dead letter, and its aggregate goes on without it
    Skip,
    /// The process ends with exit code 3; nothing is lost
    Stop,
}

/// Which projections of a process come first: to its connections, and to the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Priority {
    /// Before all others
    High,
    /// As most do
    #[default]
    Normal,
    /// When the others leave something
    Low,
}

impl Priority {
    /// The niceness of a worker's thread, where `highest` is the highest priority in the process: each step leaves the cores
    /// to the step above as far as that wants them.
    ///
    /// A process may lower its threads, and not raise them: that takes `CAP_SYS_NICE`, which no host should have. So a worker
    /// that has a connection for which others wait is not lifted up meanwhile. What that costs has a bound: who waits for it
    /// uses no core, and against all else that is busy a step leaves it a third (two leave it a tenth) of what an equal would
    /// have, so it is slow and never starved. A connection more than there are workers of low priority avoids it.
    #[must_use]
    pub fn niceness(self, highest: Self) -> i32 {
        5 * (self as i32 - highest as i32).max(0)
    }
}

/// How workers work.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Events in one transaction, at most.
    pub batch_size: usize,
    /// The longest pause between two looks for new events when nothing wakes the worker.
    pub poll_interval: Duration,
    /// What becomes of an event that cannot be applied.
    pub on_error: OnError,
    /// How often something that may pass is tried before it counts as an error.
    pub max_attempts: u32,
    /// After how long without a sign of life the holder of a partition is replaced; never without.
    pub stale_after: Option<Duration>,
    /// Whether to end when everything that was there at the start has been applied.
    pub until: Until,
    /// Which projections come first.
    pub priority: Priority,
    /// The niceness of the worker's thread.
    pub niceness: i32,
}

/// How the workers of a projection work, and go on working when an operator has changed it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveOptions(Arc<RwLock<Options>>);

impl From<Options> for LiveOptions {
    fn from(options: Options) -> Self {
        Self(Arc::new(RwLock::new(options)))
    }
}

impl LiveOptions {
    /// As they are now: looked up once a batch.
    #[must_use]
    pub fn get(&self) -> Options {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what can change while workers run: size of a batch, policy, attempts and pauses.
    pub fn change(&self, to: &Options) {
        let mut options = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Options { batch_size, poll_interval, on_error, max_attempts, .. } = *to;
        *options = Options { batch_size, poll_interval, on_error, max_attempts, ..*options };
    }
}

/// When a worker is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: it follows the log.
    Stopped,
    /// When it has applied everything that was visible when it started.
    CaughtUp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_highest_priority_in_the_process_yields_to_nobody() {
        assert_eq!(Priority::High.niceness(Priority::High), 0);
        assert_eq!(Priority::Normal.niceness(Priority::Normal), 0);
        assert_eq!(Priority::Low.niceness(Priority::Low), 0);
        assert_eq!([Priority::Normal, Priority::Low].map(|priority| priority.niceness(Priority::High)), [5, 10]);
    }
}
