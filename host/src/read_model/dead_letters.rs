//! The operator's side of dead letters: what is parked and what was skipped, asking for a replay, purging.
//!
//! Nothing here touches what a projection has written: a parked aggregate is replayed by whoever has claimed its
//! partition ([`super::request`]), and only letters of events that were given up may be removed past them.

use serde::Serialize;

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

/// A place in a list of letters, which is by projection and position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cursor {
    /// Of which projection.
    pub projection: String,
    /// The event.
    pub position: Position,
}

/// Which part of a list. However many there are, no more is read than is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What comes behind this; from the beginning on without.
    pub after: Option<Cursor>,
    /// At most so many.
    pub most: usize,
}

impl Page {
    /// The beginning of a list.
    #[must_use]
    pub const fn first(most: usize) -> Self {
        Self { after: None, most }
    }

    /// How many rows to read: one more than is wanted, to see whether there is one.
    pub(super) fn limit(&self) -> i64 {
        i64::try_from(self.most.saturating_add(1)).unwrap_or(i64::MAX)
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// What there is.
    pub items: Vec<T>,
    /// Behind what the next part begins, if there is more.
    pub next: Option<Cursor>,
}

impl Listed<StoredLetter> {
    /// The letters of a page, of which one more was read than is wanted.
    pub(super) fn of(mut letters: Vec<StoredLetter>, page: &Page) -> Self {
        let has_more = letters.len() > page.most;
        letters.truncate(page.most);
        let cursor = |last: &StoredLetter| Cursor { projection: last.projection.clone(), position: last.position };
        let next = letters.last().filter(|_| has_more).map(cursor);
        Self { items: letters, next }
    }
}

/// How many are read at a time where all are wanted.
const AT_A_TIME: usize = 1_000;

/// The first `most` of a list, page after page, and whether there are more.
///
/// # Errors
/// When a page cannot be read.
pub fn up_to<T>(
    most: usize,
    mut read: impl FnMut(&Page) -> Result<Listed<T>, DatabaseError>,
) -> Result<(Vec<T>, bool), DatabaseError> {
    let (mut all, mut page) = (Vec::new(), Page::first(0));
    loop {
        page.most = AT_A_TIME.min(most - all.len());
        let Listed { items, next } = read(&page)?;
        all.extend(items);
        match next {
            None => return Ok((all, false)),
            Some(_) if all.len() >= most => return Ok((all, true)),
            next => page.after = next,
        }
    }
}

/// All of a list, page after page.
///
/// # Errors
/// When a page cannot be read.
pub fn whole<T>(read: impl FnMut(&Page) -> Result<Listed<T>, DatabaseError>) -> Result<Vec<T>, DatabaseError> {
    up_to(usize::MAX, read).map(|(all, _)| all)
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
    /// A page of the letters, by projection and position.
    ///
    /// # Errors
    /// When the database fails.
    fn letters(
        &mut self,
        selection: &Selection,
        which: Which,
        page: &Page,
    ) -> Result<Listed<StoredLetter>, DatabaseError>;

    /// The letters of the aggregates that these are of, counted; in the order of these, and nothing for one that is not
    /// parked any more.
    ///
    /// # Errors
    /// When the database fails.
    fn groups(&mut self, of: &[StoredLetter]) -> Result<Vec<Option<Group>>, DatabaseError>;

    /// The last request that waits for each of the aggregates that these are of, in the order of these.
    ///
    /// # Errors
    /// When the database fails.
    fn waiting(&mut self, of: &[StoredLetter]) -> Result<Vec<Option<Waiting>>, DatabaseError>;

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

    /// A page of the parked aggregates with what they are parked for, whatever the selection says of a position.
    ///
    /// # Errors
    /// When the database fails.
    fn parked(&mut self, selection: &Selection, page: &Page) -> Result<Listed<ParkedAggregate>, DatabaseError> {
        let selection = Selection { position: None, ..selection.clone() };
        let Listed { items, next } = self.letters(&selection, Which::Only(Reason::Poison), page)?;
        let (groups, waiting) = (self.groups(&items)?, self.waiting(&items)?);
        let parked = items.into_iter().zip(groups).zip(waiting);
        // Between two reads somebody may have replayed it: then it is not parked any more.
        let parked =
            parked.filter_map(|((poison, group), waiting)| Some(ParkedAggregate { group: group?, poison, waiting }));
        Ok(Listed { items: parked.collect(), next })
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
