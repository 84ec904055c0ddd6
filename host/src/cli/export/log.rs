//! [`Log`]: stored events, page by page, for an export.

use std::path::PathBuf;

use rusqlite::types::{FromSqlError, Type, ValueRef};
use rusqlite::{Connection, Row};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use crate::cli::Context;
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, DatabaseUrl, Postgres, Timestamptz, sqlite};
use crate::event::{Event, Position};
use crate::timestamp;

/// How many events are read at a time.
const PAGE: i64 = 1_000;

/// The last position.
const LAST: &str = "SELECT coalesce(max(global_position), 0) FROM events";

/// A page, on Postgres.
const POSTGRES_PAGE: &str = "SELECT global_position, event_id::text, bounded_context, aggregate_type, aggregate_id, \
    aggregate_version, event_type, event_version, payload, metadata::text, trace_id, correlation_id, causation_id, \
    created_at FROM events WHERE global_position > $1 AND global_position <= $2 ORDER BY global_position LIMIT $3";

/// A page, on SQLite.
const SQLITE_PAGE: &str = "SELECT global_position, event_id, bounded_context, aggregate_type, aggregate_id, \
    aggregate_version, event_type, event_version, payload, metadata, trace_id, correlation_id, causation_id, \
    created_at FROM events WHERE global_position > ?1 AND global_position <= ?2 ORDER BY global_position LIMIT ?3";

/// A log to read from.
pub(super) enum Log {
    /// Of a Postgres database.
    Postgres {
        /// Which one.
        database: Postgres,
        /// Open.
        connection: PgConnection,
    },
    /// Of an SQLite file.
    Sqlite {
        /// Which one.
        path: PathBuf,
        /// Open.
        connection: Connection,
    },
}

impl Log {
    /// Opens the log of the events database, which has to be there.
    pub(super) fn open(context: &Context) -> Result<Self, DatabaseError> {
        match &context.events {
            DatabaseUrl::Postgres(options) => {
                let database = Postgres::new(options, context.runtime.handle().clone());
                let connection = database.block_on(async {
                    let mut connection = database.connect("projectionist export").await?;
                    schema::check_postgres(&database, &mut connection, Tables::Events).await?;
                    Ok(connection)
                })?;
                Ok(Self::Postgres { database, connection })
            }
            DatabaseUrl::Sqlite(path) => {
                let connection = sqlite::open_existing(path)?;
                schema::check_sqlite(path, &connection, Tables::Events)?;
                Ok(Self::Sqlite { path: path.clone(), connection })
            }
        }
    }

    /// The last position there is now.
    pub(super) fn last(&mut self) -> Result<Position, DatabaseError> {
        let doing = "looking for the last event";
        let last = match self {
            Self::Postgres { database, connection } => database
                .block_on(sqlx::query_scalar(LAST).fetch_one(connection))
                .map_err(|error| database.error(doing, error))?,
            Self::Sqlite { path, connection } => connection
                .query_row(LAST, [], |row| row.get(0))
                .map_err(|source| DatabaseError::Sqlite { path: path.clone(), doing, source })?,
        };
        Ok(Position::from_sql(last))
    }

    /// The first events behind `after`, up to and with `to`, in order; none at the end.
    pub(super) fn page(&mut self, after: Position, to: Position) -> Result<Vec<Event>, DatabaseError> {
        let doing = "reading events";
        match self {
            Self::Postgres { database, connection } => {
                let page = sqlx::query(POSTGRES_PAGE).bind(after.to_sql()).bind(to.to_sql()).bind(PAGE);
                let rows = database.block_on(page.fetch_all(connection));
                rows.and_then(|rows| rows.iter().map(postgres_event).collect())
                    .map_err(|error| database.error(doing, error))
            }
            Self::Sqlite { path, connection } => {
                let read = || -> rusqlite::Result<Vec<Event>> {
                    let mut statement = connection.prepare_cached(SQLITE_PAGE)?;
                    let range = [after.to_sql(), to.to_sql(), PAGE];
                    statement.query_map(range, sqlite_event)?.collect()
                };
                read().map_err(|source| DatabaseError::Sqlite { path: path.clone(), doing, source })
            }
        }
    }
}

/// An event from its row.
fn postgres_event(row: &PgRow) -> sqlx::Result<Event> {
    let number = |column| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
    Ok(Event {
        global_position: number(0)?,
        event_id: row.try_get(1)?,
        bounded_context: row.try_get(2)?,
        aggregate_type: row.try_get(3)?,
        aggregate_id: row.try_get(4)?,
        aggregate_version: number(5)?,
        event_type: row.try_get(6)?,
        event_version: row.try_get::<i32, _>(7)?.unsigned_abs(),
        payload: row.try_get(8)?,
        metadata: row.try_get::<Option<String>, _>(9)?.map_or_else(|| b"{}".to_vec(), String::into_bytes),
        trace_id: row.try_get(10)?,
        correlation_id: row.try_get(11)?,
        causation_id: row.try_get(12)?,
        created_at: row.try_get::<Timestamptz, _>(13)?.0,
    })
}

/// An event from its row.
fn sqlite_event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let created_at: String = row.get(13)?;
    let created_at = timestamp::parse(&created_at).ok_or_else(|| {
        let reason = format!("`{created_at}` is no time");
        rusqlite::Error::FromSqlConversionFailure(13, Type::Text, reason.into())
    })?;
    Ok(Event {
        global_position: number(0)?,
        event_id: row.get(1)?,
        bounded_context: row.get(2)?,
        aggregate_type: row.get(3)?,
        aggregate_id: row.get(4)?,
        aggregate_version: number(5)?,
        event_type: row.get(6)?,
        event_version: row.get(7)?,
        payload: bytes(row.get_ref(8)?)?.unwrap_or_default(),
        metadata: bytes(row.get_ref(9)?)?.unwrap_or_else(|| b"{}".to_vec()),
        trace_id: row.get(10)?,
        correlation_id: row.get(11)?,
        causation_id: row.get(12)?,
        created_at,
    })
}

/// The bytes of a BLOB or, as other writers store them, of a TEXT.
fn bytes(value: ValueRef<'_>) -> Result<Option<Vec<u8>>, FromSqlError> {
    value.as_bytes_or_null().map(|bytes| bytes.map(<[u8]>::to_vec))
}
