//! SQL past the host, the same on either kind of database.
//!
//! A [`Database`] is named by a URL; a [`Connection`] to it runs statements and reads rows. Values come back as text,
//! because that is what a test compares, and it is the same text on both: `NULL` for null, `true` and `false` where a
//! column is a boolean on Postgres (SQLite has none, and shows 1 and 0).

mod postgres;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use serde_json::json;

use crate::Event;

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A server.
    Postgres,
    /// A file.
    Sqlite,
}

/// A database, gone when dropped.
#[derive(Debug)]
pub enum Database {
    /// A database of a server.
    Postgres(postgres::Fresh),
    /// A file, in a folder that is somebody else's to remove.
    Sqlite(PathBuf),
}

impl Database {
    /// A new and empty one. A file is in `folder`, and made by whoever opens it first.
    ///
    /// # Panics
    /// When the server cannot be reached.
    #[must_use]
    pub fn new(kind: Kind, folder: &Path) -> Self {
        match kind {
            Kind::Postgres => Self::Postgres(postgres::Fresh::shared()),
            Kind::Sqlite => Self::Sqlite(folder.join("projectionist.db")),
        }
    }

    /// A new and empty one on a server of the test's own.
    ///
    /// # Panics
    /// When the server cannot be reached.
    #[must_use]
    pub fn on(cluster: &crate::Cluster) -> Self {
        Self::Postgres(postgres::Fresh::on(cluster))
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Postgres(_) => Kind::Postgres,
            Self::Sqlite(_) => Kind::Sqlite,
        }
    }

    /// Its URL, as a host takes it.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Postgres(fresh) => fresh.url().to_owned(),
            Self::Sqlite(path) => format!("sqlite://{}", path.display()),
        }
    }

    /// How a host names it in messages: without a password.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Postgres(fresh) => fresh.shown(),
            Self::Sqlite(path) => path.display().to_string(),
        }
    }

    /// A connection to it: to the events.
    ///
    /// # Panics
    /// When there is none to be had.
    #[must_use]
    #[track_caller]
    pub fn connect(&self) -> Connection {
        match self {
            Self::Postgres(fresh) => Connection::Postgres(postgres::Session::open(fresh.url())),
            Self::Sqlite(path) => Connection::open_file(path),
        }
    }

    /// A connection to the events, if there is one to be had.
    ///
    /// # Errors
    /// What the database said when there is none.
    pub fn try_connect(&self) -> Result<Connection, String> {
        match self {
            Self::Postgres(fresh) => {
                postgres::Session::try_open(fresh.url()).map(Connection::Postgres).map_err(|error| error.to_string())
            }
            Self::Sqlite(path) => Connection::try_open_file(path).map_err(|error| error.to_string()),
        }
    }

    /// A connection to what a projection keeps in it: on Postgres with its schema as `search_path`, on SQLite to its
    /// own file.
    ///
    /// # Panics
    /// When there is none to be had.
    #[must_use]
    #[track_caller]
    pub fn connect_to(&self, projection: &str) -> Connection {
        match self {
            Self::Postgres(_) => {
                let mut connection = self.connect();
                connection.execute(&format!("SET search_path = \"{projection}\""));
                connection
            }
            Self::Sqlite(_) => Connection::open_file(&self.file_of(projection)),
        }
    }

    /// The file with a projection's read model, `projectionist.NAME.db`.
    ///
    /// # Panics
    /// On Postgres.
    #[must_use]
    pub fn file_of(&self, projection: &str) -> PathBuf {
        match self {
            Self::Sqlite(path) => path.with_file_name(format!("projectionist.{projection}.db")),
            Self::Postgres(_) => panic!("a read model in Postgres has no file"),
        }
    }

    /// Whether a projection keeps anything in it yet.
    #[must_use]
    pub fn has(&self, projection: &str) -> bool {
        let count = match self {
            Self::Sqlite(_) if !self.file_of(projection).exists() => return false,
            Self::Sqlite(_) => "SELECT count(*) FROM sqlite_master WHERE name = '_projectionist_checkpoints'",
            Self::Postgres(_) => {
                "SELECT count(*) FROM pg_tables WHERE schemaname = 'projectionist' AND tablename = 'checkpoints'"
            }
        };
        self.connect_to(projection).value(count) == "1"
    }
}

/// A connection, perhaps with a transaction open.
#[derive(Debug)]
pub enum Connection {
    /// To a server.
    Postgres(postgres::Session),
    /// To a file.
    Sqlite(rusqlite::Connection),
}

impl Connection {
    /// Opens a file that must be there.
    #[track_caller]
    fn open_file(path: &Path) -> Self {
        Self::try_open_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// As [`Connection::open_file`], if it can be opened.
    fn try_open_file(path: &Path) -> rusqlite::Result<Self> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(60))?;
        Ok(Self::Sqlite(connection))
    }

    /// Runs statements.
    ///
    /// # Panics
    /// When one fails.
    #[track_caller]
    pub fn execute(&mut self, sql: &str) {
        if let Err(error) = self.try_execute(sql) {
            panic!("{sql}: {error}");
        }
    }

    /// Runs statements.
    ///
    /// # Errors
    /// What the database said when one failed.
    pub fn try_execute(&mut self, sql: &str) -> Result<(), String> {
        match self {
            Self::Postgres(session) => session.execute(sql).map_err(|error| error.to_string()),
            Self::Sqlite(connection) => connection.execute_batch(sql).map_err(|error| error.to_string()),
        }
    }

    /// The rows of a query, as text.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The rows of a query, as text.
    ///
    /// # Errors
    /// What the database said when it failed.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        match self {
            Self::Postgres(session) => session.rows(sql).map_err(|error| error.to_string()),
            Self::Sqlite(connection) => sqlite_rows(connection, sql).map_err(|error| error.to_string()),
        }
    }

    /// The one value of a query, as text.
    ///
    /// # Panics
    /// When it fails, or gives anything but one value.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        match &mut self.rows(sql)[..] {
            [row] if row.len() == 1 => row.remove(0),
            other => panic!("{sql}: one value was expected: {other:?}"),
        }
    }

    /// Inserts events as a writer would: in one statement, with the next versions of their aggregates, raising
    /// `aggregate_heads`.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn insert(&mut self, events: &[Event]) {
        self.try_insert(events).unwrap_or_else(|error| panic!("inserting events: {error}"));
    }

    /// As [`Connection::insert`].
    ///
    /// # Errors
    /// What the database said when it failed.
    pub fn try_insert(&mut self, events: &[Event]) -> Result<(), String> {
        let list: Vec<_> = events
            .iter()
            .map(|event| {
                json!({"id": event.event_id.to_string(), "context": event.bounded_context, "type": event.aggregate_type,
                    "aggregate": event.aggregate_id, "event": event.event_type, "payload": event.payload,
                    "at": event.created_at})
            })
            .collect();
        let list = json!(list).to_string();
        match self {
            Self::Postgres(session) => session.insert(&list).map_err(|error| error.to_string()),
            Self::Sqlite(connection) => {
                let insert = || {
                    connection.execute(INSERT_SQLITE, [&list])?;
                    connection.execute(HEADS_SQLITE, [&list])
                };
                insert().map(drop).map_err(|error: rusqlite::Error| error.to_string())
            }
        }
    }
}

/// Inserts a JSON list of events.
const INSERT_SQLITE: &str = "
    INSERT INTO events (event_id, bounded_context, aggregate_type, aggregate_id, event_type, payload, created_at,
                        aggregate_version, metadata)
    SELECT value->>'id', value->>'context', value->>'type', value->>'aggregate', value->>'event',
           CAST(value->>'payload' AS BLOB),
           coalesce(value->>'at', strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
           (SELECT coalesce(max(aggregate_version), 0) FROM events
            WHERE bounded_context = value->>'context' AND aggregate_type = value->>'type'
              AND aggregate_id = value->>'aggregate')
           + row_number() OVER (PARTITION BY value->>'context', value->>'type', value->>'aggregate' ORDER BY key),
           '{}'
    FROM json_each(?1) ORDER BY key";

/// Raises the heads of the aggregates of a JSON list of events.
const HEADS_SQLITE: &str = "
    INSERT INTO aggregate_heads (bounded_context, aggregate_type, aggregate_id, aggregate_version)
    SELECT bounded_context, aggregate_type, aggregate_id, max(aggregate_version) FROM events
    WHERE event_id IN (SELECT value->>'id' FROM json_each(?1)) GROUP BY 1, 2, 3
    ON CONFLICT (bounded_context, aggregate_type, aggregate_id)
    DO UPDATE SET aggregate_version = excluded.aggregate_version";

/// The rows of a query on a file.
fn sqlite_rows(connection: &rusqlite::Connection, sql: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|column| Ok(text(row.get_ref(column)?))).collect())?;
    rows.collect()
}

/// A value as text.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    }
}
