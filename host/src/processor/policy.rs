//! What the operator chose: how much at a time, how often, and what becomes of an event that cannot be applied.

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
}

/// When a worker is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: it follows the log.
    Stopped,
    /// When it has applied everything that was visible when it started.
    CaughtUp,
}
