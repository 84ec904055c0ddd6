//! Appending on Postgres: five round trips a transaction, however many events it has.
//!
//! **Order of locks.** An appender first takes the head rows of its aggregates, sorted, in one statement, so two
//! of ours never wait for each other in a circle. Whoever has the head of an aggregate is the only one that
//! gives out its versions.
//!
//! **Writers that do not know the heads.** A head is never believed alone: it counts as at least the highest
//! version in `events`. One that inserts while we do makes our INSERT hit a unique index; so does one that
//! stores the same event id. Either way the transaction is rolled back and tried again, and then the look at
//! the ids, or at the heads, sees what the other one did and says the right thing.
//!
//! **Positions.** `global_position` is left to its default, so that the INSERT has its lock on the table before
//! it draws the first number: the horizon rests on that order. Nothing here calls `nextval`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rand::Rng as _;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::plan::{self, Aggregate, Fresh};
use super::{AppendError, Appended, Duplicates, EventStore};
use crate::database::monthly;
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres, Timestamptz, error::is_lost};
use crate::event::{ExpectedVersion, NewEvent, Position};

/// How often an append that meets another writer is tried.
const ATTEMPTS: u32 = 12;

/// Which of these ids are in the log.
macro_rules! stored {
    ($keys:literal) => {
        concat!("SELECT event_id, global_position FROM ", $keys, " WHERE event_id = ANY($1)")
    };
}

/// Takes the heads of these aggregates in the order of the arrays, making those that are missing.
macro_rules! take_heads {
    ($keys:literal) => {
        concat!(
            "INSERT INTO aggregate_heads AS head (bounded_context, aggregate_type, aggregate_id, aggregate_version)
             SELECT k.context, k.kind, k.id,
                 COALESCE((SELECT max(e.aggregate_version) FROM ",
            $keys,
            " AS e WHERE e.bounded_context = k.context AND e.aggregate_type = k.kind AND e.aggregate_id = k.id), 0)
             FROM UNNEST($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS k (context, kind, id, place) ORDER BY k.place
             ON CONFLICT (bounded_context, aggregate_type, aggregate_id)
                 DO UPDATE SET aggregate_version = GREATEST(head.aggregate_version, EXCLUDED.aggregate_version)
             RETURNING bounded_context, aggregate_type, aggregate_id, aggregate_version"
        )
    };
}

/// Where the keys of events are looked up.
#[derive(Clone, Copy, Debug)]
struct Keys {
    /// See [`stored!`].
    stored: &'static str,
    /// See [`take_heads!`].
    take_heads: &'static str,
}

/// In the events table.
const OF_EVENTS: Keys = Keys { stored: stored!("events"), take_heads: take_heads!("events") };

/// In the keys of events that lie in months ([`monthly`]): those of months that were dropped are there, too.
const OF_ALL_MONTHS: Keys =
    Keys { stored: stored!("projectionist.event_keys"), take_heads: take_heads!("projectionist.event_keys") };

/// Moves the heads ($14…$17) and inserts the events in the order of the arrays.
const INSERT: &str = "\
    WITH moved AS (UPDATE aggregate_heads AS head SET aggregate_version = k.version, updated_at = now() \
        FROM UNNEST($14::text[], $15::text[], $16::text[], $17::bigint[]) AS k (context, kind, id, version) \
        WHERE head.bounded_context = k.context AND head.aggregate_type = k.kind AND head.aggregate_id = k.id) \
    INSERT INTO events (bounded_context, aggregate_type, aggregate_id, aggregate_version, event_id, event_type, \
        event_version, payload, trace_id, correlation_id, causation_id, metadata, created_at) \
    SELECT c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12::jsonb, c13 \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bigint[], $5::uuid[], $6::text[], $7::int[], $8::bytea[], \
        $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[]) \
        WITH ORDINALITY AS e (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, place) ORDER BY place \
    RETURNING global_position";

/// The log of a Postgres database.
#[derive(Debug)]
pub struct PostgresStore {
    /// Which database.
    database: Postgres,
    /// Open, unless the last append lost it.
    session: Option<Session>,
}

/// A connection, and where the keys of events are looked up on it.
#[derive(Debug)]
struct Session {
    /// The connection.
    connection: PgConnection,
    /// Where.
    keys: Keys,
}

/// Why one attempt did not store anything.
enum Failure {
    /// Another writer was there; the next attempt sees what it did.
    Met(sqlx::Error),
    /// Trying again would not help.
    Final(AppendError),
}

impl<E: Into<AppendError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

impl PostgresStore {
    /// Connects, and sees that the tables are there.
    ///
    /// # Errors
    /// When the server does not let us in, or was not migrated.
    pub fn open(database: Postgres) -> Result<Self, DatabaseError> {
        let session = database.block_on(connect(&database))?;
        Ok(Self { database, session: Some(session) })
    }

    /// One attempt, on an open connection.
    async fn attempt(
        database: &Postgres,
        Session { connection, keys }: &mut Session,
        events: &[NewEvent],
        expected: ExpectedVersion,
        duplicates: Duplicates,
    ) -> Result<Appended, Failure> {
        let sort = |doing| move |error| sort(database, doing, error);
        // Said, because a database's default may be stricter, and each statement has to see the latest commits.
        let mut transaction = connection
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
            .await
            .map_err(sort("beginning a transaction"))?;
        let stored = stored(&mut transaction, *keys, events).await.map_err(sort("looking for event ids"))?;
        let fresh = plan::fresh(events, expected, duplicates, &stored)?;
        if fresh.events.is_empty() {
            transaction.rollback().await.map_err(sort("ending a transaction"))?;
            return Ok(fresh.appended([]));
        }
        let mut heads =
            take_heads(&mut transaction, *keys, &fresh).await.map_err(sort("taking the aggregates' heads"))?;
        let versions = fresh.number(expected, &mut heads)?;
        let positions = insert(&mut transaction, &fresh, &versions, &heads).await.map_err(sort("inserting events"))?;
        if positions.len() != versions.len() {
            let database = database.name().to_owned();
            return Err(AppendError::RowsLost { database, stored: positions.len(), given: versions.len() }.into());
        }
        transaction.commit().await.map_err(|error| {
            if is_lost(&error) {
                Failure::Final(AppendError::OutcomeUnknown(database.error("committing", error)))
            } else {
                self::sort(database, "committing", error)
            }
        })?;
        Ok(fresh.appended(positions.into_iter().zip(versions)))
    }

    /// Attempts until it is clear what to say.
    async fn append(
        &mut self,
        events: &[NewEvent],
        expected: ExpectedVersion,
        duplicates: Duplicates,
    ) -> Result<Appended, AppendError> {
        let mut attempts = 0;
        loop {
            // Taken out, so that a connection in an unknown state is dropped and not used again.
            let mut session = match self.session.take() {
                Some(session) => session,
                None => connect(&self.database).await?,
            };
            let result = Self::attempt(&self.database, &mut session, events, expected, duplicates).await;
            attempts += 1;
            let met = match result {
                Ok(appended) => {
                    self.session = Some(session);
                    return Ok(appended);
                }
                Err(Failure::Final(error)) => {
                    if !error.is_lost_connection() {
                        self.session = Some(session);
                    }
                    return Err(error);
                }
                Err(Failure::Met(error)) => error,
            };
            // It may be that the table was laid out by month meanwhile.
            session.keys = keys(&self.database, &mut session.connection).await?;
            self.session = Some(session);
            if attempts == ATTEMPTS {
                let (database, reason) = (self.database.name().to_owned(), met.to_string());
                return Err(AppendError::Contended { database, attempts, reason });
            }
            // Two that met once would meet again if they waited equally long.
            let wait = rand::rng().random_range(0..=u64::from(attempts) * 10);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

impl EventStore for PostgresStore {
    fn append(
        &mut self,
        events: &[NewEvent],
        expected: ExpectedVersion,
        duplicates: Duplicates,
    ) -> Result<Appended, AppendError> {
        let runtime = self.database.runtime().clone();
        runtime.block_on(self.append(events, expected, duplicates))
    }
}

/// Opens a connection for appending.
async fn connect(database: &Postgres) -> Result<Session, DatabaseError> {
    let mut connection = database.connect("projectionist append").await?;
    schema::check_postgres(database, &mut connection, Tables::Events).await?;
    let heads: bool = sqlx::query_scalar("SELECT to_regclass('aggregate_heads') IS NOT NULL")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| database.error("looking for the host's tables", error))?;
    if !heads {
        let (database, tables) = (database.name().to_owned(), Tables::Events.name());
        return Err(DatabaseError::Unmigrated { database, tables });
    }
    // A plan made while `events` was small would go on scanning it when it has grown.
    sqlx::raw_sql("SET plan_cache_mode = force_custom_plan")
        .execute(&mut connection)
        .await
        .map_err(|error| database.error("preparing a connection", error))?;
    let keys = keys(database, &mut connection).await?;
    Ok(Session { connection, keys })
}

/// Where the keys of events are.
async fn keys(database: &Postgres, connection: &mut PgConnection) -> Result<Keys, DatabaseError> {
    let in_months: bool = sqlx::query_scalar(monthly::SEES_KEYS)
        .fetch_one(connection)
        .await
        .map_err(|error| database.error("looking for the keys of events", error))?;
    Ok(if in_months { OF_ALL_MONTHS } else { OF_EVENTS })
}

/// Whether an error means that another writer was there: a unique index, a deadlock, a serialization failure.
fn sort(database: &Postgres, doing: &'static str, error: sqlx::Error) -> Failure {
    let met = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| matches!(&*code, "23505" | "40P01" | "40001"));
    if met { Failure::Met(error) } else { Failure::Final(AppendError::Database(database.error(doing, error))) }
}

/// Which of the events are in the log, and where.
async fn stored(
    connection: &mut PgConnection,
    keys: Keys,
    events: &[NewEvent],
) -> sqlx::Result<HashMap<Uuid, Position>> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.event_id).collect();
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(keys.stored).bind(ids).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(id, position)| (id, Position::from_sql(position))).collect())
}

/// Locks the aggregates of these events, and says at which version each is.
async fn take_heads<'a>(
    connection: &mut PgConnection,
    keys: Keys,
    fresh: &Fresh<'a>,
) -> sqlx::Result<BTreeMap<Aggregate<'a>, u64>> {
    let aggregates = fresh.aggregates();
    let column = |of: fn(&Aggregate<'a>) -> &'a str| aggregates.iter().map(of).collect::<Vec<_>>();
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(keys.take_heads)
        .bind(column(|aggregate| aggregate.context))
        .bind(column(|aggregate| aggregate.kind))
        .bind(column(|aggregate| aggregate.id))
        .fetch_all(connection)
        .await?;
    let versions: HashMap<_, _> = rows
        .iter()
        .map(|(context, kind, id, version)| (Aggregate { context, kind, id }, version.unsigned_abs()))
        .collect();
    Ok(aggregates.into_iter().map(|aggregate| (aggregate, versions.get(&aggregate).copied().unwrap_or(0))).collect())
}

/// Inserts the events with these versions, and gives their positions.
async fn insert(
    connection: &mut PgConnection,
    fresh: &Fresh<'_>,
    versions: &[u64],
    heads: &BTreeMap<Aggregate<'_>, u64>,
) -> sqlx::Result<Vec<Position>> {
    let events = &fresh.events;
    let texts = |of: fn(&NewEvent) -> &str| events.iter().map(|event| of(event)).collect::<Vec<_>>();
    let optional = |of: fn(&NewEvent) -> Option<&str>| events.iter().map(|event| of(event)).collect::<Vec<_>>();
    let positions: Vec<i64> = sqlx::query_scalar(INSERT)
        .bind(texts(|event| &event.bounded_context))
        .bind(texts(|event| &event.aggregate_type))
        .bind(texts(|event| &event.aggregate_id))
        .bind(versions.iter().map(|version| version.cast_signed()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.event_id).collect::<Vec<_>>())
        .bind(texts(|event| &event.event_type))
        .bind(events.iter().map(|event| event.event_version.cast_signed()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.payload.as_slice()).collect::<Vec<_>>())
        .bind(optional(|event| event.trace_id.as_deref()))
        .bind(optional(|event| event.correlation_id.as_deref()))
        .bind(optional(|event| event.causation_id.as_deref()))
        .bind(texts(|event| &event.metadata))
        .bind(events.iter().map(|event| Timestamptz(event.created_at)).collect::<Vec<_>>())
        .bind(heads.keys().map(|aggregate| aggregate.context).collect::<Vec<_>>())
        .bind(heads.keys().map(|aggregate| aggregate.kind).collect::<Vec<_>>())
        .bind(heads.keys().map(|aggregate| aggregate.id).collect::<Vec<_>>())
        .bind(heads.values().map(|version| version.cast_signed()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(positions.into_iter().map(Position::from_sql).collect())
}
