//! Events in an SQLite file. One writer at a time, positions given under its lock: the horizon is simply the
//! greatest position.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};
use tokio::runtime::Handle;

use super::wake::{Bell, Seen};
use super::{Backlog, Blocker, Page, PageLimit, Source, Wanted};
use crate::database::DatabaseError;
use crate::database::schema::Tables;
use crate::database::sqlite::{self, Durability};
use crate::event::{Aggregate, Event, Position};
use crate::timestamp;

/// How often the file is asked whether somebody committed. `PRAGMA data_version` reads a counter in shared
/// memory, about 2 µs, so this costs a thousandth of a core and bounds the latency of an idle host.
const POLL: Duration = Duration::from_millis(2);

/// Events in a file.
#[derive(Debug)]
pub struct SqliteSource {
    /// The file.
    path: PathBuf,
    /// Connections that no worker uses just now.
    idle: Mutex<Vec<Connection>>,
    /// How many there are, those in use among them.
    open: AtomicUsize,
    /// Where new connections come from.
    runtime: Handle,
    /// Rung when the file has changed.
    bell: Arc<Bell>,
}

impl SqliteSource {
    /// Opens the file, making it when it is missing, and starts watching it for commits.
    ///
    /// # Errors
    /// When it cannot be opened or made.
    pub fn open(path: &Path, runtime: &Handle) -> Result<Self, DatabaseError> {
        let connection = sqlite::open(path, Tables::Events, Durability::EveryCommit, runtime)?;
        let bell = Arc::new(Bell::default());
        let (idle, open) = (Mutex::new(vec![connection]), AtomicUsize::new(1));
        let source = Self { path: path.to_owned(), idle, open, runtime: runtime.clone(), bell };
        source.watch()?;
        Ok(source)
    }

    /// Rings the bell at each commit of another connection, from a thread of its own that ends with the source.
    fn watch(&self) -> Result<(), DatabaseError> {
        let connection = self.connect()?;
        let bell = Arc::downgrade(&self.bell);
        let spawned = std::thread::Builder::new().name("watch events".into()).spawn(move || {
            let mut last: Option<i64> = None;
            while let Some(bell) = bell.upgrade() {
                let version = connection.pragma_query_value(None, "data_version", |row| row.get(0)).ok();
                // A failure rings too: the worker that then reads meets the error, and reports it.
                if version.is_none() || version != last {
                    bell.ring();
                }
                last = version;
                drop(bell);
                std::thread::sleep(POLL);
            }
        });
        match spawned {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(DatabaseError::File { path: self.path.clone(), doing: "watch", reason: error.to_string() })
            }
        }
    }

    /// One more connection.
    fn connect(&self) -> Result<Connection, DatabaseError> {
        sqlite::open(&self.path, Tables::Events, Durability::EveryCommit, &self.runtime)
    }

    /// Runs `query` on a connection of the pool.
    fn with<T>(
        &self,
        doing: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = self.connect()?;
                self.open.fetch_add(1, Ordering::Relaxed);
                connection
            }
        };
        let result = query(&connection);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result.map_err(|source| DatabaseError::Sqlite { path: self.path.clone(), doing, source })
    }
}

impl Source for SqliteSource {
    fn horizon(&self) -> Result<Position, DatabaseError> {
        self.with("reading the last position", |connection| {
            let last: Option<i64> = connection
                .prepare_cached("SELECT max(global_position) FROM events")?
                .query_row([], |row| row.get(0))?;
            Ok(Position::from_sql(last.unwrap_or(0)))
        })
    }

    fn last(&self) -> Result<Position, DatabaseError> {
        self.horizon()
    }

    fn page(&self, after: Position, upto: Position, wanted: &Wanted, limit: PageLimit) -> Result<Page, DatabaseError> {
        let (sql, parameters) = page_sql(after, upto, wanted, limit.rows);
        self.with("reading events", |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(parameters))?;
            let mut events = Vec::new();
            let (mut read, mut bytes, mut last) = (0, 0, after);
            while let Some(row) = rows.next()? {
                read += 1;
                let event = event(row)?;
                last = event.position();
                bytes += event.size();
                events.push(event);
                if bytes >= limit.bytes {
                    return Ok(Page { events, through: last });
                }
            }
            Ok(Page { events, through: if read < limit.rows { upto } else { last } })
        })
    }

    fn events_at(&self, positions: &[Position]) -> Result<Vec<Event>, DatabaseError> {
        let sql = format!(
            "{COLUMNS} FROM events WHERE global_position IN (SELECT value FROM json_each(?1)) ORDER BY global_position"
        );
        let positions = serde_json::json!(positions).to_string();
        self.with("reading events", |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_map([positions], event)?.collect()
        })
    }

    fn has_aggregate(
        &self,
        bounded_context: &str,
        aggregate_type: &str,
        aggregate_id: &str,
    ) -> Result<bool, DatabaseError> {
        self.with("looking for an aggregate", |connection| {
            let sql = "SELECT 1 FROM events WHERE bounded_context = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";
            connection.prepare_cached(sql)?.exists([bounded_context, aggregate_type, aggregate_id])
        })
    }

    fn backlog(&self, after: Position, upto: Position) -> Result<Backlog, DatabaseError> {
        self.with("counting events", |connection| {
            let range = [after.to_sql(), upto.to_sql()];
            let events: i64 = connection
                .prepare_cached("SELECT count(*) FROM events WHERE global_position > ?1 AND global_position <= ?2")?
                .query_row(range, |row| row.get(0))?;
            let oldest: Option<String> = connection
                .prepare_cached("SELECT (SELECT created_at FROM events WHERE global_position > ?1 AND global_position <= ?2 ORDER BY global_position LIMIT 1)")?
                .query_row(range, |row| row.get(0))?;
            Ok(Backlog { events: events.unsigned_abs(), oldest: oldest.as_deref().and_then(timestamp::parse) })
        })
    }

    fn blockers(&self) -> Result<Vec<Blocker>, DatabaseError> {
        Ok(Vec::new())
    }

    fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn wait(&self, seen: Seen, timeout: Duration) -> Seen {
        self.bell.wait(seen, timeout)
    }
}

/// What [`event`] reads.
const COLUMNS: &str =
    "SELECT global_position, event_id, bounded_context, aggregate_type, aggregate_id, aggregate_version, event_type,
         event_version, payload, metadata, trace_id, correlation_id, causation_id, created_at";

/// The statement for a page. Lists become so many parameters; their number is the projection's own, so the
/// statement cache holds one text a projection.
fn page_sql(after: Position, upto: Position, wanted: &Wanted, limit: u32) -> (String, Vec<Value>) {
    let mut sql = format!("{COLUMNS} FROM events WHERE global_position > ? AND global_position <= ?");
    let mut parameters = vec![Value::Integer(after.to_sql()), Value::Integer(upto.to_sql())];
    for (column, values) in [
        ("event_type", &wanted.filter.event_types),
        ("aggregate_type", &wanted.filter.aggregate_types),
        ("bounded_context", &wanted.filter.bounded_contexts),
    ] {
        if !values.is_empty() {
            let marks = vec!["?"; values.len()].join(", ");
            // The `+` keeps SQLite on the order of positions: an index on types would have it sort the whole log.
            sql.push_str(&format!(" AND +{column} IN ({marks})"));
            parameters.extend(values.iter().cloned().map(Value::Text));
        }
    }
    if !wanted.aggregates.is_empty() {
        // Of these there are few events, and the index finds them.
        let marks = vec!["(?, ?, ?)"; wanted.aggregates.len()].join(", ");
        sql.push_str(&format!(" AND (bounded_context, aggregate_type, aggregate_id) IN (VALUES {marks})"));
        for Aggregate { bounded_context, aggregate_type, aggregate_id } in &wanted.aggregates {
            parameters.extend([bounded_context, aggregate_type, aggregate_id].map(|part| Value::Text(part.clone())));
        }
    }
    sql.push_str(" ORDER BY global_position LIMIT ?");
    parameters.push(Value::Integer(limit.into()));
    (sql, parameters)
}

/// A column's text, in place.
fn text<'row>(row: &'row Row<'_>, column: usize) -> rusqlite::Result<&'row str> {
    Ok(row.get_ref(column)?.as_str()?)
}

/// A row as an event.
fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let created_at = text(row, 13)?;
    let created_at = timestamp::parse(created_at).ok_or_else(|| {
        let message = format!("created_at `{created_at}` is not a time such as 2026-01-31T12:00:00Z");
        rusqlite::Error::FromSqlConversionFailure(13, rusqlite::types::Type::Text, message.into())
    })?;
    // Other writers store JSON as text or as bytes.
    let bytes = |column| -> rusqlite::Result<Vec<u8>> {
        Ok(match row.get_ref(column)? {
            ValueRef::Null => b"{}".to_vec(),
            value => value.as_bytes()?.to_vec(),
        })
    };
    Ok(Event {
        global_position: Position::from_sql(row.get(0)?).get(),
        event_id: row.get(1)?,
        bounded_context: row.get(2)?,
        aggregate_type: row.get(3)?,
        aggregate_id: row.get(4)?,
        aggregate_version: row.get::<_, i64>(5)?.unsigned_abs(),
        event_type: row.get(6)?,
        event_version: row.get(7)?,
        payload: bytes(8)?,
        metadata: bytes(9)?,
        trace_id: row.get(10)?,
        correlation_id: row.get(11)?,
        causation_id: row.get(12)?,
        created_at,
    })
}
