//! What an operator asks of whoever works on a partition, and what a replay does to the host's tables.
//!
//! `host dlq retry` cannot replay a parked aggregate past a running worker: that one owns the partition, and knows
//! the aggregate as parked. So it writes a [`Request`], which the worker carries out between two batches, under its
//! claim. The [`Answer`] is written in the transaction of the replay: whoever reads it knows that all of it is there.
//!
//! A request names an aggregate, not a partition, so it survives a change of their number.

use serde::Serialize;

use super::dead_letter::{Aggregate, Reason};
use super::value::SqlError;
use crate::event::Position;

/// What is to become of a parked aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its events are replayed, in order.
    Retry,
    /// The event that it is parked for is given up, if it is still this one; those behind it are replayed.
    Skip(Position),
}

impl Action {
    /// As the databases store it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip(_) => "skip",
        }
    }

    /// The event that is given up.
    #[must_use]
    pub const fn position(self) -> Option<Position> {
        match self {
            Self::Retry => None,
            Self::Skip(position) => Some(position),
        }
    }

    /// From the two columns that store it.
    pub(super) fn stored(action: &str, position: Option<i64>) -> Self {
        match position {
            Some(position) if action == "skip" => Self::Skip(Position::from_sql(position)),
            _ => Self::Retry,
        }
    }
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub id: i64,
    /// Whose letters.
    pub aggregate: Aggregate,
    /// What to do.
    pub action: Action,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The aggregate is live again.
    Applied,
    /// An event failed: the aggregate stays parked.
    Failed,
    /// The aggregate was not parked any more.
    Nothing,
}

impl Outcome {
    /// As the databases store it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Nothing => "nothing",
        }
    }

    /// From the column that stores it.
    pub(super) fn stored(outcome: &str) -> Option<Self> {
        [Self::Applied, Self::Failed, Self::Nothing].into_iter().find(|known| known.as_str() == outcome)
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// How many events were applied.
    pub applied: u64,
    /// The event that failed.
    pub failed: Option<Position>,
    /// For people.
    pub message: String,
    /// Who carried it out.
    pub by: String,
}

/// A letter of a parked aggregate, as a replay needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its event.
    pub position: Position,
    /// Why it is there.
    pub reason: Reason,
    /// How often it was tried.
    pub attempts: u32,
}

/// What a replay that failed writes into a letter.
#[derive(Clone, Copy, Debug)]
pub struct Amendment<'replay> {
    /// Which.
    pub position: Position,
    /// Why its event is there from now on.
    pub reason: Reason,
    /// What is known of it; nothing to keep what is said there.
    pub error: Option<&'replay str>,
    /// How often it was tried.
    pub attempts: u32,
    /// The component that tried it.
    pub plugin_digest: &'replay str,
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'request> {
    /// One request.
    One(i64),
    /// Every request that waits for this aggregate: it is live again, so all have what they wanted.
    About(&'request Aggregate),
}

/// What a claimed partition's database does for a replay. All but [`Replays::requests`] and [`Replays::note`] belong
/// to the transaction that is open.
pub trait Replays: Send {
    /// The requests that wait for this partition's aggregates, in the order in which they were made.
    ///
    /// # Errors
    /// When the connection fails.
    fn requests(&mut self) -> Result<Vec<Request>, SqlError>;

    /// Says why a request still waits, in a transaction of its own.
    ///
    /// # Errors
    /// When the connection fails.
    fn note(&mut self, request: i64, why: &str) -> Result<(), SqlError>;

    /// The letters for which an aggregate is parked, in the order of their events.
    ///
    /// # Errors
    /// When the connection fails.
    fn letters(&mut self, aggregate: &Aggregate) -> Result<Vec<Letter>, SqlError>;

    /// Changes a letter.
    ///
    /// # Errors
    /// When the connection fails.
    fn amend(&mut self, amendment: &Amendment<'_>) -> Result<(), SqlError>;

    /// Removes the letters for which an aggregate is parked.
    ///
    /// # Errors
    /// When the connection fails.
    fn unpark(&mut self, aggregate: &Aggregate) -> Result<(), SqlError>;

    /// Answers requests that wait. After [`Replays::unpark`]: a request that is made at this moment locks a letter, so
    /// it is either seen here, or finds no letter and is not made.
    ///
    /// # Errors
    /// When the connection fails.
    fn answer(&mut self, asked: Asked<'_>, answer: &Answer) -> Result<(), SqlError>;

    /// Checks constraints now that would otherwise be checked at the commit, which cannot say whose fault it is.
    ///
    /// # Errors
    /// When one does not hold, or the connection fails.
    fn check_deferred(&mut self) -> Result<(), SqlError>;
}
