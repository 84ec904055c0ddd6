//! Events in Postgres: pages through sqlx, the horizon's two looks, and LISTEN.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgRow};
use sqlx::{Decode, PgConnection, Row as _, Type};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::horizon::{Look, Tracker};
use super::wake::{Bell, Seen};
use super::{Backlog, Blocker, Page, PageLimit, Source, Wanted};
use crate::database::monthly;
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres, Timestamptz};
use crate::event::{Event, Position};

/// How long the server may be silent before the connection counts as lost. A page or a count takes milliseconds.
const SILENCE: Duration = Duration::from_secs(60);

/// The channel that the trigger of `host migrate` notifies.
const CHANNEL: &str = "projectionist_events";

/// How many connections a process reads events with, however many workers it has.
const POOL: u32 = 4;

/// What the planner may not do there. A page is the next events of the primary key, and nothing but a walk along that
/// index gives a page for the price of a page. But where the planner knows little of the table (it was never analyzed, or
/// the plan is a generic one) it may take all events up to the horizon and sort them, for each page again. And a large log
/// looks so dear to it that it compiles the plan for longer than the page takes.
const SETTINGS: &str = "SET enable_sort = off; SET jit = off";

/// How long to wait before LISTEN is tried again after its connection was lost. Polling goes on meanwhile.
const RELISTEN: Duration = Duration::from_secs(2);

/// After how long whoever holds the horizon back is named in the log, and how often again.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// See [`TELL_AFTER`].
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The longest wait while there is a hole: nobody notifies when it closes by a rollback.
const POLL_AT_A_HOLE: Duration = Duration::from_millis(50);

/// Events in Postgres.
#[derive(Debug)]
pub struct PostgresSource {
    /// The database.
    database: Postgres,
    /// Connections to read with.
    pool: PgPool,
    /// The horizon, and how many times it was looked at.
    horizon: Mutex<Horizon>,
    /// How many times a look at the horizon was asked for.
    asked: AtomicU64,
    /// Whether a hole keeps it back.
    at_a_hole: AtomicBool,
    /// Rung at each notification.
    bell: Arc<Bell>,
    /// The task that listens.
    listener: tokio::task::JoinHandle<()>,
}

/// The horizon of this process, shared by its workers.
#[derive(Debug, Default)]
struct Horizon {
    /// Where it stands.
    tracker: Tracker,
    /// The ticket of the last ask that a look has answered.
    answered: u64,
    /// Since when somebody has held it back.
    blocked: Option<Instant>,
    /// When that was last told.
    told: Option<Instant>,
}

impl Drop for PostgresSource {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl PostgresSource {
    /// Connects, sees that the events can be read safely, and listens.
    ///
    /// # Errors
    /// When the database cannot be reached, is not migrated, or its sequence hands out positions in blocks.
    pub fn open(options: &PgConnectOptions, runtime: &Handle) -> Result<Self, DatabaseError> {
        let database = Postgres::new(options, runtime.clone());
        let pool = runtime.block_on(async {
            let mut connection = database.connect("projectionist source").await?;
            schema::check_postgres(&database, &mut connection, Tables::Events).await?;
            refuse_what_loses_events(&database, &mut connection).await?;
            database.pool("projectionist source", POOL, SETTINGS).await
        })?;
        let bell = Arc::new(Bell::default());
        let listener = runtime.spawn(listen(database.clone(), Arc::clone(&bell)));
        let (horizon, asked, at_a_hole) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { database, pool, horizon, asked, at_a_hole, bell, listener })
    }

    /// Waits for an answer of the server, but not for ever: one whose machine is gone never says so.
    fn ask<T>(&self, doing: &'static str, query: impl Future<Output = sqlx::Result<T>>) -> Result<T, DatabaseError> {
        let answer = self.database.block_on(async { tokio::time::timeout(SILENCE, query).await });
        answer.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|error| self.database.error(doing, error))
    }

    /// Names whoever has held the horizon back for a while, in the log.
    fn tell_of_blockers(&self, horizon: &mut Horizon) {
        let since = *horizon.blocked.get_or_insert_with(Instant::now);
        let told = horizon.told.is_some_and(|told| told.elapsed() < TELL_EVERY);
        if since.elapsed() < TELL_AFTER || told {
            return;
        }
        horizon.told = Some(Instant::now());
        let position = horizon.tracker.horizon();
        for Blocker { pid, age_seconds, application, query } in self.blockers().unwrap_or_default() {
            tracing::warn!(
                horizon = position.get(),
                pid,
                age_seconds,
                application,
                query,
                "an open transaction writes events: those above the horizon wait for it to end"
            );
        }
    }

    /// One look at the database for the horizon: rows first, then, if they leave a hole, the locks.
    async fn look(&self, tracker: &Tracker) -> Result<Look, sqlx::Error> {
        let from = tracker.horizon();
        // Counted only near the horizon: far from it, asking for the writers is cheaper than counting.
        let (last, rows): (Option<i64>, i64) = sqlx::query_as(
            "SELECT m.last, CASE WHEN $1 = 0 OR m.last - $1 > 10000 THEN 0 ELSE
                (SELECT count(*) FROM events WHERE global_position > $1 AND global_position <= m.last) END
             FROM (SELECT max(global_position) AS last FROM events) AS m",
        )
        .bind(from.to_sql())
        .fetch_one(&self.pool)
        .await?;
        let last = Position::from_sql(last.unwrap_or(0)).max(from);
        let rows = rows.unsigned_abs();
        if !tracker.has_holes(last, rows) {
            return Ok(Look { last, rows, writers: None });
        }
        let writers: Vec<String> = sqlx::query_scalar(WRITERS).fetch_all(&self.pool).await?;
        Ok(Look { last, rows, writers: Some(writers.into_iter().collect::<BTreeSet<_>>()) })
    }
}

/// The text of a page's statement: some events of a FROM.
macro_rules! page {
    ($with:literal, $from:literal) => {
        concat!(
            $with,
            "SELECT global_position, event_id, bounded_context, aggregate_type, aggregate_id, aggregate_version,
                    event_type, event_version, payload, metadata::text, trace_id, correlation_id, causation_id,
                    created_at
             FROM ",
            $from,
            " WHERE global_position > $1 AND global_position <= $2
               AND ($3::text[] IS NULL OR event_type = ANY($3))
               AND ($4::text[] IS NULL OR aggregate_type = ANY($4))
               AND ($5::text[] IS NULL OR bounded_context = ANY($5))
             ORDER BY global_position LIMIT $6"
        )
    };
}

/// A page of events.
const PAGE: &str = page!("", "events");

/// A page of the events of some aggregates. They are found by their own index, and then there is nothing to do but to sort
/// them: set apart, because the planner would rather walk along all events than do that ([`SETTINGS`]).
const PAGE_OF_AGGREGATES: &str = page!(
    "WITH theirs AS MATERIALIZED (
         SELECT * FROM events
         WHERE (bounded_context, aggregate_type, aggregate_id) IN (SELECT * FROM unnest($7::text[], $8::text[], $9::text[]))
           AND global_position > $1 AND global_position <= $2)
     ",
    "theirs"
);

/// The virtual ids of whoever holds RowExclusiveLock on the events table, or on a partition of it.
const WRITERS: &str = "
    WITH RECURSIVE tables AS (
        SELECT 'events'::regclass::oid AS oid
        UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = tables.oid)
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND granted AND mode = 'RowExclusiveLock'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND relation IN (SELECT oid FROM tables)";

/// As [`WRITERS`], with what a person needs to know to find them.
const BLOCKERS: &str = "
    WITH RECURSIVE tables AS (
        SELECT 'events'::regclass::oid AS oid
        UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = tables.oid),
    writers AS (
        SELECT DISTINCT pid, virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND granted AND mode = 'RowExclusiveLock'
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND relation IN (SELECT oid FROM tables))
    SELECT writers.pid,
           extract(epoch FROM clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))::float8,
           coalesce(activity.application_name, 'prepared transaction ' || prepared.gid, ''),
           coalesce(activity.query, '')
    FROM writers
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = writers.pid
    LEFT JOIN pg_prepared_xacts AS prepared ON writers.pid IS NULL AND EXISTS (
        SELECT FROM pg_locks AS own
        WHERE own.locktype = 'transactionid' AND own.transactionid = prepared.transaction AND own.pid IS NULL
          AND own.virtualtransaction = writers.virtualtransaction)
    ORDER BY 2 DESC NULLS LAST";

/// Refuses what `horizon`'s argument does not hold for, because events would be lost without a word.
async fn refuse_what_loses_events(database: &Postgres, connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let failed = |error| database.error("looking at the events table", error);
    let refused = |reason: String| Err(DatabaseError::UnsafeEvents { database: database.name().to_owned(), reason });
    let (standby, kind): (bool, String) =
        sqlx::query_as("SELECT pg_is_in_recovery(), relkind::text FROM pg_class WHERE oid = 'events'::regclass")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
    if standby {
        return refused("it is on a standby server, which does not show who is writing; read from the primary".into());
    }
    if !matches!(&*kind, "r" | "p") {
        return refused("it is not a table, and what stands behind it does not show who is writing".into());
    }
    // Blocks of positions become visible in any order, and a hole that will be filled looks like one that will not.
    let cached: Option<(String, i64)> = sqlx::query_as(
        "SELECT seqrelid::regclass::text, seqcache FROM pg_sequence
         WHERE seqcache > 1 AND seqrelid IN (
             SELECT pg_get_serial_sequence('events', 'global_position')::regclass::oid
             UNION SELECT depends.refobjid FROM pg_attrdef AS def
                 JOIN pg_depend AS depends ON depends.classid = 'pg_attrdef'::regclass AND depends.objid = def.oid
                 WHERE def.adrelid = 'events'::regclass AND depends.refclassid = 'pg_class'::regclass)",
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    match cached {
        None => Ok(()),
        Some((sequence, cache)) => refused(format!(
            "its sequence {sequence} has CACHE {cache}, so positions become visible out of order; \
             run: ALTER SEQUENCE {sequence} CACHE 1"
        )),
    }
}

/// Rings at each notification, for ever. A lost connection is made again; until then the workers poll.
async fn listen(database: Postgres, bell: Arc<Bell>) {
    loop {
        let listened = async {
            let pool = database.pool("projectionist listen", 1, "").await?;
            let failed = |error| database.error("LISTEN", error);
            let mut listener = PgListener::connect_with(&pool).await.map_err(failed)?;
            listener.listen(CHANNEL).await.map_err(failed)?;
            // What was stored before LISTEN took hold rang nobody.
            bell.ring();
            loop {
                // `None` is a lost connection: the driver makes a new one by itself, and may have missed something.
                let _ = listener.try_recv().await.map_err(failed)?;
                bell.ring();
            }
        };
        let Err::<std::convert::Infallible, DatabaseError>(error) = listened.await;
        tracing::warn!(%error, "no notifications of new events for now: polling");
        tokio::time::sleep(RELISTEN).await;
    }
}

impl Source for PostgresSource {
    fn horizon(&self) -> Result<Position, DatabaseError> {
        // Workers ask at the same time. A look that began after the ask answers it, so those who wait for the
        // lock mostly find that somebody has looked for them.
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut horizon = self.horizon.lock().unwrap_or_else(PoisonError::into_inner);
        if horizon.answered >= ticket {
            return Ok(horizon.tracker.horizon());
        }
        let answers = self.asked.load(Ordering::SeqCst);
        let look = self.ask("looking for the horizon", self.look(&horizon.tracker))?;
        horizon.answered = answers;
        let position = horizon.tracker.step(&look);
        self.at_a_hole.store(horizon.tracker.is_waiting(), Ordering::Relaxed);
        if horizon.tracker.is_waiting() {
            self.tell_of_blockers(&mut horizon);
        } else {
            horizon.blocked = None;
        }
        Ok(position)
    }

    fn last(&self) -> Result<Position, DatabaseError> {
        let last: Option<i64> = self.ask(
            "reading the last position",
            sqlx::query_scalar("SELECT max(global_position) FROM events").fetch_one(&self.pool),
        )?;
        Ok(Position::from_sql(last.unwrap_or(0)))
    }

    fn page(&self, after: Position, upto: Position, wanted: &Wanted, limit: PageLimit) -> Result<Page, DatabaseError> {
        // On a thread of the runtime that also waits for the socket: from here each of a page's many packets would
        // have to wake this thread.
        let reading = self.database.runtime().spawn(read_page(self.pool.clone(), after, upto, wanted.clone(), limit));
        let task = reading.abort_handle();
        let page = self.ask("reading events", async {
            // A panic in there is a bug of ours, and the connection went with it.
            reading.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
        });
        // One that is too late would keep its connection.
        task.abort();
        page
    }

    fn events_at(&self, positions: &[Position]) -> Result<Vec<Event>, DatabaseError> {
        let positions: Vec<i64> = positions.iter().map(|position| position.to_sql()).collect();
        let rows = self.ask(
            "reading events",
            sqlx::query(
                "SELECT global_position, event_id, bounded_context, aggregate_type, aggregate_id,
                        aggregate_version, event_type, event_version, payload, metadata::text, trace_id,
                        correlation_id, causation_id, created_at
                     FROM events WHERE global_position = ANY($1)",
            )
            .bind(positions)
            .fetch_all(&self.pool),
        )?;
        let events: Result<Vec<Event>, sqlx::Error> = rows.iter().map(|row| Types::Checked.event(row)).collect();
        let mut events = events.map_err(|error| self.database.error("reading an event", error))?;
        events.sort_unstable_by_key(|event| event.global_position);
        Ok(events)
    }

    fn has_aggregate(
        &self,
        bounded_context: &str,
        aggregate_type: &str,
        aggregate_id: &str,
    ) -> Result<bool, DatabaseError> {
        self.ask(
            "looking for an aggregate",
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM events
                     WHERE bounded_context = $1 AND aggregate_type = $2 AND aggregate_id = $3)",
            )
            .bind(bounded_context)
            .bind(aggregate_type)
            .bind(aggregate_id)
            .fetch_one(&self.pool),
        )
    }

    fn backlog(&self, after: Position, upto: Position) -> Result<Backlog, DatabaseError> {
        let (events, oldest): (i64, Option<Timestamptz>) = self.ask(
            "counting events",
            sqlx::query_as(
                "SELECT (SELECT count(*) FROM events WHERE global_position > $1 AND global_position <= $2),
                            (SELECT created_at FROM events
                             WHERE global_position > $1 AND global_position <= $2 ORDER BY global_position LIMIT 1)",
            )
            .bind(after.to_sql())
            .bind(upto.to_sql())
            .fetch_one(&self.pool),
        )?;
        Ok(Backlog { events: events.unsigned_abs(), oldest: oldest.map(|oldest| oldest.0) })
    }

    fn blockers(&self) -> Result<Vec<Blocker>, DatabaseError> {
        let rows: Vec<(Option<i32>, Option<f64>, String, String)> =
            self.ask("asking who writes events", sqlx::query_as(BLOCKERS).fetch_all(&self.pool))?;
        Ok(rows
            .into_iter()
            .map(|(pid, age, application, query)| Blocker { pid, age_seconds: age.unwrap_or(0.0), application, query })
            .collect())
    }

    fn taken_away(&self, after: Position) -> Result<Option<Position>, DatabaseError> {
        let doing = "looking for events that are not there any more";
        if !self.ask(doing, sqlx::query_scalar(monthly::SEES_KEYS).fetch_one(&self.pool))? {
            return Ok(None);
        }
        let last = sqlx::query_scalar(monthly::TAKEN_AWAY).bind(after.to_sql());
        let last: Option<i64> = self.ask(doing, last.fetch_one(&self.pool))?;
        Ok(last.map(Position::from_sql))
    }

    fn months_ahead(&self) -> Result<Option<u32>, DatabaseError> {
        let query = sqlx::query_scalar(monthly::MONTHS_AHEAD).fetch_one(&self.pool);
        let ahead: Option<i32> = self.ask("looking for the months of events", query)?;
        Ok(ahead.map(i32::unsigned_abs))
    }

    fn connections(&self) -> usize {
        self.pool.size() as usize
    }

    fn wait(&self, seen: Seen, timeout: Duration) -> Seen {
        let at_a_hole = self.at_a_hole.load(Ordering::Relaxed);
        self.bell.wait(seen, if at_a_hole { timeout.min(POLL_AT_A_HOLE) } else { timeout })
    }
}

/// Reads a page with a connection of the pool.
async fn read_page(
    pool: PgPool,
    after: Position,
    upto: Position,
    wanted: Wanted,
    limit: PageLimit,
) -> Result<Page, sqlx::Error> {
    let query = if wanted.aggregates.is_empty() { sqlx::query(PAGE) } else { sqlx::query(PAGE_OF_AGGREGATES) };
    let mut query = query
        .bind(after.to_sql())
        .bind(upto.to_sql())
        .bind(some(&wanted.filter.event_types))
        .bind(some(&wanted.filter.aggregate_types))
        .bind(some(&wanted.filter.bounded_contexts))
        .bind(i64::from(limit.rows));
    if !wanted.aggregates.is_empty() {
        let aggregates = || wanted.aggregates.iter();
        query = query
            .bind(aggregates().map(|aggregate| &*aggregate.bounded_context).collect::<Vec<_>>())
            .bind(aggregates().map(|aggregate| &*aggregate.aggregate_type).collect::<Vec<_>>())
            .bind(aggregates().map(|aggregate| &*aggregate.aggregate_id).collect::<Vec<_>>());
    }
    let mut connection = pool.acquire().await?;
    let mut rows = query.fetch(&mut *connection);
    let (mut events, mut read, mut bytes, mut last) = (Vec::new(), 0, 0, upto);
    let mut types = Types::Checked;
    while let Some(row) = rows.try_next().await? {
        read += 1;
        let event = types.event(&row)?;
        types = Types::Known;
        last = event.position();
        bytes += event.size();
        events.push(event);
        if bytes >= limit.bytes && read < limit.rows {
            // The rows that are still on their way are not worth reading: the connection goes with them.
            drop(rows);
            connection.close().await.ok();
            return Ok(Page { events, through: last });
        }
    }
    let through = if read < limit.rows { upto } else { last };
    Ok(Page { events, through })
}

/// A filter's list as a parameter: NULL for all.
fn some(list: &[String]) -> Option<&[String]> {
    (!list.is_empty()).then_some(list)
}

/// Whether the types of a row's columns are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Types {
    /// They are: a table of somebody else's may have others.
    Checked,
    /// They are those of the row before it. Checking them for each value is a tenth of what reading a row costs.
    Known,
}

impl Types {
    /// A value of a row.
    fn get<'row, T: Decode<'row, sqlx::Postgres> + Type<sqlx::Postgres>>(
        self,
        row: &'row PgRow,
        column: usize,
    ) -> Result<T, sqlx::Error> {
        match self {
            Self::Checked => row.try_get(column),
            Self::Known => row.try_get_unchecked(column),
        }
    }

    /// A row as an event.
    fn event(self, row: &PgRow) -> Result<Event, sqlx::Error> {
        let metadata: Option<&str> = self.get(row, 9)?;
        Ok(Event {
            global_position: Position::from_sql(self.get(row, 0)?).get(),
            event_id: self.get::<Uuid>(row, 1)?.to_string(),
            bounded_context: self.get(row, 2)?,
            aggregate_type: self.get(row, 3)?,
            aggregate_id: self.get(row, 4)?,
            aggregate_version: self.get::<i64>(row, 5)?.unsigned_abs(),
            event_type: self.get(row, 6)?,
            event_version: self.get::<i32>(row, 7)?.unsigned_abs(),
            payload: self.get(row, 8)?,
            metadata: metadata.unwrap_or("{}").as_bytes().to_vec(),
            trace_id: self.get(row, 10)?,
            correlation_id: self.get(row, 11)?,
            causation_id: self.get(row, 12)?,
            created_at: self.get::<Timestamptz>(row, 13)?.0,
        })
    }
}
