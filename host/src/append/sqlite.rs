//! Appending on SQLite, in place on the caller's thread. There is one writer at a time, so whoever has begun
//! finds the ids, the heads and the positions as they will be at the commit; all there is to do about others is
//! to wait for them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::plan::{self, Aggregate, Fresh};
use super::{AppendError, Appended, Duplicates, EventStore};
use crate::database::schema::Tables;
use crate::database::sqlite::{self, Durability};
use crate::database::{DatabaseError, DatabaseUrl};
use crate::event::{ExpectedVersion, NewEvent, Position};
use crate::timestamp;

/// Where an id stands.
const STORED: &str = "SELECT global_position FROM events WHERE event_id = ?";

/// At which version an aggregate is. A head is never believed alone: it counts as at least the highest version
/// in `events`, for writers that do not know the heads.
const HEAD: &str = "SELECT max( \
    coalesce((SELECT aggregate_version FROM aggregate_heads \
        WHERE bounded_context = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3), 0), \
    coalesce((SELECT max(aggregate_version) FROM events \
        WHERE bounded_context = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3), 0))";

/// Stores an event.
const INSERT: &str = "INSERT INTO events (bounded_context, aggregate_type, aggregate_id, aggregate_version, event_id, \
    event_type, event_version, payload, trace_id, correlation_id, causation_id, metadata, created_at) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Moves a head.
const MOVE_HEAD: &str = "INSERT INTO aggregate_heads \
    (bounded_context, aggregate_type, aggregate_id, aggregate_version, updated_at) VALUES (?, ?, ?, ?, ?) \
    ON CONFLICT (bounded_context, aggregate_type, aggregate_id) \
    DO UPDATE SET aggregate_version = excluded.aggregate_version, updated_at = excluded.updated_at";

/// The log of an SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    /// Which file.
    path: PathBuf,
    /// Open for writing, and every commit is on the disk.
    connection: Connection,
}

impl SqliteStore {
    /// Opens the file, making it when it is missing.
    ///
    /// # Errors
    /// When it cannot be opened or made, or its tables are not of this host's version.
    pub fn open(path: &Path, runtime: &Handle) -> Result<Self, DatabaseError> {
        let connection = sqlite::open(path, Tables::Events, Durability::EveryCommit, runtime)?;
        let store = Self { path: path.to_owned(), connection };
        let heads = sqlite::has_table(&store.connection, "aggregate_heads");
        if heads.map_err(|error| store.error("looking for the host's tables", error))? {
            Ok(store)
        } else {
            Err(DatabaseError::Unmigrated { database: store.name(), tables: Tables::Events.name() })
        }
    }

    /// What to call it in messages.
    fn name(&self) -> String {
        DatabaseUrl::Sqlite(self.path.clone()).to_string()
    }

    /// An error of the host's own statement.
    fn error(&self, doing: &'static str, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite { path: self.path.clone(), doing, source }
    }

    /// Begins when no other writer is there: the connection waits for its turn.
    fn begin(&self) -> Result<Transaction<'_>, DatabaseError> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
            .map_err(|error| self.error("beginning a transaction", error))
    }
}

impl EventStore for SqliteStore {
    fn append(
        &mut self,
        events: &[NewEvent],
        expected: ExpectedVersion,
        duplicates: Duplicates,
    ) -> Result<Appended, AppendError> {
        let transaction = self.begin()?;
        let stored = stored(&transaction, events).map_err(|error| self.error("looking for event ids", error))?;
        let fresh = plan::fresh(events, expected, duplicates, &stored)?;
        let mut heads = heads(&transaction, &fresh).map_err(|error| self.error("reading aggregates' heads", error))?;
        let versions = fresh.number(expected, &mut heads)?;
        let positions =
            insert(&transaction, &fresh, &versions, &heads).map_err(|error| self.error("inserting events", error))?;
        transaction.commit().map_err(|error| self.error("committing", error))?;
        Ok(fresh.appended(positions.into_iter().zip(versions)))
    }
}

/// Which of the events are in the log, and where.
fn stored(transaction: &Transaction<'_>, events: &[NewEvent]) -> rusqlite::Result<HashMap<Uuid, Position>> {
    let mut statement = transaction.prepare_cached(STORED)?;
    let mut buffer = Uuid::encode_buffer();
    let mut stored = HashMap::new();
    for event in events {
        let id: &str = event.event_id.hyphenated().encode_lower(&mut buffer);
        if let Some(position) = statement.query_row([id], |row| row.get(0)).optional()? {
            stored.insert(event.event_id, Position::from_sql(position));
        }
    }
    Ok(stored)
}

/// At which version the aggregates of these events are.
fn heads<'a>(transaction: &Transaction<'_>, fresh: &Fresh<'a>) -> rusqlite::Result<BTreeMap<Aggregate<'a>, u64>> {
    let mut statement = transaction.prepare_cached(HEAD)?;
    let mut heads = BTreeMap::new();
    for aggregate in fresh.aggregates() {
        let key = [aggregate.context, aggregate.kind, aggregate.id];
        let version: i64 = statement.query_row(key, |row| row.get(0))?;
        heads.insert(aggregate, version.unsigned_abs());
    }
    Ok(heads)
}

/// Inserts the events with these versions, moves the heads, and gives the positions.
fn insert(
    transaction: &Transaction<'_>,
    fresh: &Fresh<'_>,
    versions: &[u64],
    heads: &BTreeMap<Aggregate<'_>, u64>,
) -> rusqlite::Result<Vec<Position>> {
    let mut statement = transaction.prepare_cached(INSERT)?;
    let mut buffer = Uuid::encode_buffer();
    let mut positions = Vec::with_capacity(versions.len());
    for (event, version) in fresh.events.iter().zip(versions) {
        let event_id: &str = event.event_id.hyphenated().encode_lower(&mut buffer);
        let position = statement.insert(params![
            event.bounded_context,
            event.aggregate_type,
            event.aggregate_id,
            version.cast_signed(),
            event_id,
            event.event_type,
            event.event_version,
            event.payload,
            event.trace_id,
            event.correlation_id,
            event.causation_id,
            event.metadata,
            timestamp::format(event.created_at),
        ])?;
        positions.push(Position::from_sql(position));
    }
    let mut statement = transaction.prepare_cached(MOVE_HEAD)?;
    let now = timestamp::format(timestamp::now());
    for (aggregate, version) in heads {
        statement.execute(params![aggregate.context, aggregate.kind, aggregate.id, version.cast_signed(), now])?;
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::tests::event;

    /// A new file, and a runtime to open it with.
    fn store() -> (tempfile::TempDir, tokio::runtime::Runtime, SqliteStore) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = SqliteStore::open(&folder.path().join("log.db"), runtime.handle()).unwrap();
        (folder, runtime, store)
    }

    /// An append that expects nothing.
    fn append(store: &mut SqliteStore, events: &[NewEvent]) -> Result<Appended, AppendError> {
        store.append(events, ExpectedVersion::Any, Duplicates::Refuse)
    }

    /// One number out of the file.
    fn number(store: &SqliteStore, sql: &str) -> i64 {
        store.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn positions_follow_the_order_of_the_slice() {
        let (_folder, _runtime, mut store) = store();
        let events: Vec<_> = (0..50).map(|id| event(id, if id % 3 == 0 { "z" } else { "a" })).collect();
        let placements = append(&mut store, &events).unwrap().placements;
        for (index, placement) in placements.iter().enumerate() {
            let super::super::Placement::Stored { position, .. } = placement else { panic!("{placement:?}") };
            assert_eq!(position.get(), index as u64 + 1);
        }
    }

    #[test]
    fn a_refused_append_stores_nothing() {
        let (_folder, _runtime, mut store) = store();
        append(&mut store, &[event(1, "a")]).unwrap();
        let error = append(&mut store, &[event(2, "b"), event(1, "a")]).unwrap_err();
        assert!(matches!(error, AppendError::DuplicateEventId { position, .. } if position.get() == 1), "{error}");
        let error = store.append(&[event(3, "a")], ExpectedVersion::NoStream, Duplicates::Refuse).unwrap_err();
        assert!(matches!(error, AppendError::VersionConflict { found: 1, .. }), "{error}");
        assert_eq!(number(&store, "SELECT count(*) FROM events"), 1);
        assert_eq!(number(&store, "SELECT sum(aggregate_version) FROM aggregate_heads"), 1);
    }

    #[test]
    fn versions_go_on_behind_a_writer_that_keeps_no_heads() {
        let (_folder, _runtime, mut store) = store();
        let foreign = "INSERT INTO events \
            (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload) \
            VALUES ('User', 'a', 4, 'x', 'T', '')";
        store.connection.execute(foreign, []).unwrap();
        let appended = store.append(&[event(1, "a")], ExpectedVersion::Exactly(4), Duplicates::Refuse).unwrap();
        assert!(matches!(appended.placements[0], super::super::Placement::Stored { version: 5, .. }), "{appended:?}");
        assert_eq!(number(&store, "SELECT aggregate_version FROM aggregate_heads"), 5);
    }

    #[test]
    fn two_writers_of_one_file_wait_for_each_other_and_lose_no_version() {
        let (folder, runtime, mut first) = store();
        let mut second = SqliteStore::open(&folder.path().join("log.db"), runtime.handle()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100).for_each(|id| drop(append(&mut first, &[event(id, "a")]).unwrap())));
            scope.spawn(|| (100..200).for_each(|id| drop(append(&mut second, &[event(id, "a")]).unwrap())));
        });
        assert_eq!(number(&first, "SELECT count(*) FROM events"), 200);
        assert_eq!(number(&first, "SELECT max(aggregate_version) FROM events"), 200);
    }
}
