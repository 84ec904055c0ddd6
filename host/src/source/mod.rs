//! Where events come from.
//!
//! A [`Source`] answers three questions: how far may be read without missing an event that commits late
//! ([`Source::horizon`]), which events of mine stand between here and there ([`Source::page`]), and when it
//! is worth asking again ([`Source::wait`]). [`horizon`] has the argument why nothing is lost, [`postgres`] and
//! [`sqlite`] the two kinds, [`wake`] how a waiting worker is woken, and [`feed`] how the workers of a process read
//! together and ahead.
//!
//! The trait is synchronous: a worker is a thread, and what is async stays inside `postgres`.

pub mod feed;
mod filter;
pub mod horizon;
pub mod postgres;
pub mod sqlite;
pub mod wake;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;

use crate::database::{DatabaseError, DatabaseUrl};
use crate::event::{Event, Position};

pub use feed::Feed;
pub use filter::{Filter, Wanted};

/// Where events come from. Shared by all workers of a process.
pub trait Source: Send + Sync {
    /// Moves the horizon as far as it goes now: everything at or below it is visible to the next [`Source::page`]
    /// or will never be.
    ///
    /// # Errors
    /// When the database fails.
    fn horizon(&self) -> Result<Position, DatabaseError>;

    /// The last position that is visible now, whether it may be read already or not.
    ///
    /// # Errors
    /// When the database fails.
    fn last(&self) -> Result<Position, DatabaseError>;

    /// The first events of `wanted` behind `after` and not behind `upto`, as many as `limit` says.
    ///
    /// # Errors
    /// When the database fails.
    fn page(&self, after: Position, upto: Position, wanted: &Wanted, limit: PageLimit) -> Result<Page, DatabaseError>;

    /// The events at these positions, in order. Those that are not there any more are left out.
    ///
    /// # Errors
    /// When the database fails.
    fn events_at(&self, positions: &[Position]) -> Result<Vec<Event>, DatabaseError>;

    /// Whether there is any event of an aggregate.
    ///
    /// # Errors
    /// When the database fails.
    fn has_aggregate(
        &self,
        bounded_context: &str,
        aggregate_type: &str,
        aggregate_id: &str,
    ) -> Result<bool, DatabaseError>;

    /// How many events stand behind `after` and not behind `upto`, of all partitions and types, and when the
    /// oldest of them was written (microseconds since 1970, UTC).
    ///
    /// # Errors
    /// When the database fails.
    fn backlog(&self, after: Position, upto: Position) -> Result<Backlog, DatabaseError>;

    /// Who keeps the horizon below the last event, if somebody does.
    ///
    /// # Errors
    /// When the database fails.
    fn blockers(&self) -> Result<Vec<Blocker>, DatabaseError>;

    /// The last event behind `after` that was stored and is not there any more, where events lie in months and it went with one
    /// ([`crate::database::monthly`]): a projection whose checkpoint is `after` will never see it.
    ///
    /// # Errors
    /// When the database fails.
    fn taken_away(&self, _after: Position) -> Result<Option<Position>, DatabaseError> {
        Ok(None)
    }

    /// How many months behind the current one have a partition of the events table; nothing where they do not lie in months.
    ///
    /// # Errors
    /// When the database fails.
    fn months_ahead(&self) -> Result<Option<u32>, DatabaseError> {
        Ok(None)
    }

    /// How many connections it has open to read with.
    fn connections(&self) -> usize;

    /// Waits until there may be more than there was at `seen`, at most `timeout`; gives what to pass next time.
    fn wait(&self, seen: wake::Seen, timeout: Duration) -> wake::Seen;
}

/// How much is read at once: a page ends with the first row at which one of them is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Rows of the log.
    pub rows: u32,
    /// Bytes of events in memory.
    pub bytes: usize,
}

impl PageLimit {
    /// So many rows, whatever they take.
    #[must_use]
    pub const fn rows(rows: u32) -> Self {
        Self { rows, bytes: usize::MAX }
    }
}

/// What was read at once.
#[derive(Debug)]
pub struct Page {
    /// The wanted events in it, in order.
    pub events: Vec<Event>,
    /// Where the stretch ends: no wanted event stands between the last of `events` and here.
    pub through: Position,
}

/// What lies between a checkpoint and the horizon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backlog {
    /// How many events.
    pub events: u64,
    /// When the oldest was written, in microseconds since 1970, UTC.
    pub oldest: Option<i64>,
}

/// A transaction that keeps the horizon back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blocker {
    /// The server process, or nothing for a prepared transaction.
    pub pid: Option<i32>,
    /// How long it has been open, in seconds.
    pub age_seconds: f64,
    /// Its application name, or the name of the prepared transaction.
    pub application: String,
    /// What it runs or ran last.
    pub query: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => f.write_str("prepared")?,
        }
        write!(f, " ({}), open for {:.0} s: {}", self.application, self.age_seconds, self.query)
    }
}

/// Opens the events of a database.
///
/// # Errors
/// When it cannot be reached, has no events table of this host's version, or one that cannot be read safely.
pub fn open(url: &DatabaseUrl, runtime: &Handle) -> Result<Arc<dyn Source>, DatabaseError> {
    Ok(match url {
        DatabaseUrl::Postgres(options) => Arc::new(postgres::PostgresSource::open(options, runtime)?),
        DatabaseUrl::Sqlite(path) => Arc::new(sqlite::SqliteSource::open(path, runtime)?),
    })
}
