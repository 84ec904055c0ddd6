//! [`AppendError`]: every way in which events are not stored, and what to do about it.

use uuid::Uuid;

use crate::database::DatabaseError;
use crate::event::{ExpectedVersion, Position, UnfitEvent};

/// Why events were not stored.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The aggregate is not where the caller believes.
    #[error("{aggregate} {}, and {}", is_at(*.found), believed(*.expected))]
    VersionConflict {
        /// Which aggregate.
        aggregate: String,
        /// What the caller believes.
        expected: ExpectedVersion,
        /// The version of its last event, 0 where it has none.
        found: u64,
    },
    /// An event of this id is in the log.
    #[error("event {event_id} is stored already, at position {position}")]
    DuplicateEventId {
        /// Its id.
        event_id: Uuid,
        /// Where it stands.
        position: Position,
    },
    /// One id for two events of the same append.
    #[error("two of the events to append have the same id, {event_id}")]
    RepeatedEventId {
        /// The id.
        event_id: Uuid,
    },
    /// An expected version is that of one aggregate.
    #[error("version {expected} was expected, and the events are of more than one aggregate: {one} and {other}")]
    SeveralAggregates {
        /// What the caller believes.
        expected: ExpectedVersion,
        /// One of them.
        one: String,
        /// Another.
        other: String,
    },
    /// An event that a log cannot hold.
    #[error(transparent)]
    Unfit(#[from] UnfitEvent),
    /// Others were always faster.
    #[error("{database} is too busy: {attempts} attempts to append all met another writer ({reason})")]
    Contended {
        /// Which database.
        database: String,
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt met.
        reason: String,
    },
    /// The connection ended while the commit was under way.
    #[error("the connection ended during the commit, so the events may be stored or not: {0}")]
    OutcomeUnknown(DatabaseError),
    /// The table took fewer rows than it was given.
    #[error("{database} stored {stored} of {given} events, so nothing was kept")]
    RowsLost {
        /// Which database.
        database: String,
        /// Rows that came back.
        stored: usize,
        /// Rows that were given.
        given: usize,
    },
    /// The database does not work.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Where an aggregate is.
fn is_at(version: u64) -> String {
    if version == 0 { "has no events yet".to_owned() } else { format!("is at version {version}") }
}

/// Where it was believed to be.
fn believed(expected: ExpectedVersion) -> String {
    match expected {
        ExpectedVersion::Any => "any version was expected".to_owned(),
        ExpectedVersion::NoStream => "it was expected to have none".to_owned(),
        ExpectedVersion::Exactly(version) => format!("version {version} was expected"),
    }
}

impl AppendError {
    /// What to do next, where there is something to say that the message does not.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::VersionConflict { .. } => Some(
                "another writer was there: read the aggregate again, decide again, and append with the version it has now",
            ),
            Self::DuplicateEventId { .. } => {
                Some("if this append repeats an earlier one, it is done; a new event needs a new id")
            }
            Self::RepeatedEventId { .. } => Some("give each event its own id, or none: then it gets a new one"),
            Self::SeveralAggregates { .. } => Some("append them aggregate by aggregate, or expect `any`"),
            Self::Unfit(_) => None,
            Self::Contended { .. } => Some("nothing was stored; try again"),
            Self::OutcomeUnknown(_) => {
                Some("append again with the same event ids: what is stored already is not stored twice")
            }
            Self::RowsLost { .. } => {
                Some("does a trigger or rule on `events` drop rows? The host cannot number events that vanish")
            }
            Self::Database(error) => error.advice(),
        }
    }

    /// Whether the connection is gone, so that the next append needs a new one.
    #[must_use]
    pub fn is_lost_connection(&self) -> bool {
        match self {
            Self::Database(error) | Self::OutcomeUnknown(error) => error.is_lost_connection(),
            _ => false,
        }
    }

    /// Whether what the user said has to change.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::SeveralAggregates { .. } | Self::RepeatedEventId { .. } | Self::Unfit(_) => true,
            Self::Database(error) => error.is_configuration(),
            _ => false,
        }
    }
}
