//! The operator's side of dead letters: what is parked and what was skipped, asking for a replay, purging.
//!
//! Nothing here touches what a projection has written: a parked aggregate is replayed by whoever has claimed its
//! partition ([`super::request`]), and only letters of events that were given up may be removed past them.

use std::collections::HashMap;

use super::ReadModel;
use super::dead_letter::{Aggregate, Reason};
use super::request::{Action, Answer};
use super::{postgres, sqlite};
use crate::database::DatabaseError;
use crate::event::Position;

/// Which letters. Nothing stands for all; but those of a rebuild that is under way (`NAME+rebuild`) have to be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of this projection.
    pub projection: Option<String>,
    /// Of aggregates in this bounded context.
    pub bounded_context: Option<String>,
    /// Of aggregates of this kind.
    pub aggregate_type: Option<String>,
    /// Of the aggregate with this id.
    pub aggregate_id: Option<String>,
    /// Of the event at this position.
    pub position: Option<Position>,
}

impl Selection {
    /// One aggregate of one projection.
    #[must_use]
    pub fn aggregate(projection: &str, aggregate: &Aggregate) -> Self {
        Self {
            projection: Some(projection.to_owned()),
            bounded_context: Some(aggregate.bounded_context.clone()),
            aggregate_type: Some(aggregate.aggregate_type.clone()),
            aggregate_id: Some(aggregate.aggregate_id.clone()),
            position: None,
        }
    }
}

/// Which letters, by why they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those of this reason.
    Only(Reason),
}

impl Which {
    /// The reason, as the databases store it.
    pub(super) fn reason(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Only(reason) => Some(reason.as_str()),
        }
    }
}

/// A dead letter as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// Of which projection.
    pub projection: String,
    /// Whose event.
    pub aggregate: Aggregate,
    /// Which event.
    pub position: Position,
    /// Its number within its aggregate.
    pub aggregate_version: u64,
    /// Its UUID.
    pub event_id: String,
    /// What happened.
    pub event_type: String,
    /// Why it is a dead letter.
    pub reason: Reason,
    /// What went wrong.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The component that failed.
    pub plugin_digest: String,
    /// Since when: microseconds since 1970, UTC.
    pub created_at: i64,
}

/// The letters of a parked aggregate, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Of which projection.
    pub projection: String,
    /// Which aggregate.
    pub aggregate: Aggregate,
    /// Its first event that waits.
    pub first: Position,
    /// Its last.
    pub last: Position,
    /// How many events wait, the one that failed among them.
    pub letters: u64,
    /// Since when: microseconds since 1970, UTC.
    pub since: i64,
}

/// A request that nobody has carried out yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub id: i64,
    /// Of which projection.
    pub projection: String,
    /// Whose letters.
    pub aggregate: Aggregate,
    /// What to do.
    pub action: Action,
    /// Who asked.
    pub by: String,
    /// When: microseconds since 1970, UTC.
    pub at: i64,
    /// Why it waits, where that is known.
    pub note: String,
}

/// A parked aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedAggregate {
    /// Its letters, counted.
    pub group: Group,
    /// The event that it is parked for.
    pub poison: StoredLetter,
    /// The last request that waits for it.
    pub waiting: Option<Waiting>,
}

/// How far a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It waits; perhaps it is known why.
    Waits(String),
    /// It was carried out.
    Answered(Answer),
    /// Somebody has removed it.
    Gone,
}

/// What a database does for the commands.
pub trait Letters {
    /// Letters, by projection and position.
    ///
    /// # Errors
    /// When the database fails.
    fn letters(&mut self, selection: &Selection, which: Which) -> Result<Vec<StoredLetter>, DatabaseError>;

    /// The parked aggregates, whatever the selection says of a position.
    ///
    /// # Errors
    /// When the database fails.
    fn groups(&mut self, selection: &Selection) -> Result<Vec<Group>, DatabaseError>;

    /// The requests that wait, in the order in which they were made.
    ///
    /// # Errors
    /// When the database fails.
    fn waiting(&mut self, selection: &Selection) -> Result<Vec<Waiting>, DatabaseError>;

    /// Asks for a replay; gives the number of the request, or nothing when the aggregate is not parked.
    ///
    /// # Errors
    /// When the database fails.
    fn ask(
        &mut self,
        projection: &str,
        aggregate: &Aggregate,
        action: Action,
        by: &str,
    ) -> Result<Option<i64>, DatabaseError>;

    /// How far a request is.
    ///
    /// # Errors
    /// When the database fails.
    fn asked(&mut self, projection: &str, request: i64) -> Result<Asked, DatabaseError>;

    /// Removes letters of skipped events, those that are older than so many seconds if that is said; gives how many.
    ///
    /// # Errors
    /// When the database fails.
    fn purge(&mut self, selection: &Selection, older_than: Option<u64>) -> Result<u64, DatabaseError>;

    /// The parked aggregates with what they are parked for, whatever the selection says of a position.
    ///
    /// # Errors
    /// When the database fails.
    fn parked(&mut self, selection: &Selection) -> Result<Vec<ParkedAggregate>, DatabaseError> {
        let selection = Selection { position: None, ..selection.clone() };
        let poison = self.letters(&selection, Which::Only(Reason::Poison))?;
        let mut poison: HashMap<_, _> =
            poison.into_iter().map(|letter| ((letter.projection.clone(), letter.aggregate.clone()), letter)).collect();
        let waiting = self.waiting(&selection)?;
        let mut waiting: HashMap<_, _> = waiting
            .into_iter()
            .map(|waiting| ((waiting.projection.clone(), waiting.aggregate.clone()), waiting))
            .collect();
        let groups = self.groups(&selection)?;
        // Between the two reads somebody may have replayed it: then it is not parked any more.
        Ok(groups
            .into_iter()
            .filter_map(|group| {
                let key = (group.projection.clone(), group.aggregate.clone());
                Some(ParkedAggregate { poison: poison.remove(&key)?, waiting: waiting.remove(&key), group })
            })
            .collect())
    }
}

impl ReadModel {
    /// The dead letters that are kept there.
    ///
    /// # Errors
    /// When the database cannot be reached, or its tables are not of this host's version.
    pub fn dead_letters(&self) -> Result<Box<dyn Letters>, DatabaseError> {
        Ok(match self {
            Self::Postgres(database, _) => Box::new(postgres::PostgresLetters::open(database)?),
            Self::Sqlite(base, runtime, _) => Box::new(sqlite::SqliteLetters::open(base, runtime)?),
        })
    }
}
