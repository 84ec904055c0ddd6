//! Storing events: what goes into the log, all or nothing, with the right versions.
//!
//! [`open`] gives the [`EventStore`] of a database. One append is one transaction, and on both databases it goes
//! the same way: which of the event ids are stored already; take the heads of the aggregates and see what
//! version each is at; [`plan`](mod@plan) the versions (no database in there); insert in the order of the slice;
//! move the heads. Read [`error`] for how it fails, [`plan`](mod@plan) for the rules, then [`postgres`] or
//! [`sqlite`].

pub mod error;
pub mod plan;
pub mod postgres;
pub mod sqlite;

use std::fmt;

use tokio::runtime::Handle;

use crate::database::{DatabaseError, DatabaseUrl, Postgres};
use crate::event::{ExpectedVersion, NewEvent, Position};

pub use error::AppendError;

/// What an append does with an event whose id is in the log already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicates {
    /// Nothing is stored, and the error names the id.
    Refuse,
    /// Passes over it; the others are stored. What makes an import repeatable.
    Skip,
}

/// Where an event of an append ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the log, with this append.
    Stored {
        /// Where in the log.
        position: Position,
        /// Its number within its aggregate, from 1.
        version: u64,
    },
    /// It was there already.
    Skipped,
}

/// What an append did: one placement for each event, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// One for each event of the append.
    pub placements: Vec<Placement>,
}

impl Appended {
    /// How many events were stored.
    #[must_use]
    pub fn stored(&self) -> usize {
        self.placements.len() - self.skipped()
    }

    /// How many were in the log already.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.placements.iter().filter(|placement| **placement == Placement::Skipped).count()
    }
}

/// A log that takes events.
pub trait EventStore: fmt::Debug + Send {
    /// Stores events in one transaction: all of them in this order, or none. Positions grow in the order of the
    /// slice, and versions go on from each aggregate's last one.
    ///
    /// `expected` is what the caller believes about the aggregate, and then all events must be of that one; with
    /// [`ExpectedVersion::Any`] they may be of many. Others may append at the same time, from anywhere.
    ///
    /// # Errors
    /// [`AppendError`], and then nothing was stored, but for [`AppendError::OutcomeUnknown`].
    fn append(
        &mut self,
        events: &[NewEvent],
        expected: ExpectedVersion,
        duplicates: Duplicates,
    ) -> Result<Appended, AppendError>;
}

/// Opens the log of a database. An SQLite file is made when it is missing; a Postgres database has to be migrated.
///
/// # Errors
/// When it cannot be reached or opened, or its tables are not there or not of this host's version.
pub fn open(url: &DatabaseUrl, runtime: &Handle) -> Result<Box<dyn EventStore>, DatabaseError> {
    Ok(match url {
        DatabaseUrl::Postgres(options) => {
            Box::new(postgres::PostgresStore::open(Postgres::new(options, runtime.clone()))?)
        }
        DatabaseUrl::Sqlite(path) => Box::new(sqlite::SqliteStore::open(path, runtime)?),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event of `User` whose id is told by a number.
    pub(crate) fn event(id: u8, aggregate_id: &str) -> NewEvent {
        NewEvent {
            bounded_context: crate::event::DEFAULT_CONTEXT.into(),
            aggregate_type: "User".into(),
            aggregate_id: aggregate_id.into(),
            event_id: uuid::Uuid::from_u128(u128::from(id) + 1),
            event_type: "UserCreated".into(),
            event_version: 1,
            payload: br#"{"email":"a@example.org"}"#.to_vec(),
            metadata: "{}".into(),
            trace_id: None,
            correlation_id: None,
            causation_id: None,
            created_at: 1_357_017_300_123_456,
        }
    }

    #[test]
    fn a_new_file_is_made_and_takes_events() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = DatabaseUrl::Sqlite(folder.path().join("new.db"));
        let mut store = open(&url, runtime.handle()).unwrap();
        let events = [event(1, "a"), event(2, "a"), event(1, "b")];
        let appended = store.append(&events, ExpectedVersion::Any, Duplicates::Skip).unwrap();
        assert_eq!((appended.stored(), appended.skipped()), (2, 1));
        let again = store.append(&events, ExpectedVersion::Any, Duplicates::Skip).unwrap();
        assert_eq!((again.stored(), again.skipped()), (0, 3));
    }
}
