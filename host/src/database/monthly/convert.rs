//! A table with events becomes the first partition of one by month, without a copy of it and without stopping its writers.
//!
//! 1. A trigger keeps the keys of what is stored from now on. Those that wrote before it have ended by then: a trigger and a
//!    writer wait for each other.
//! 2. The keys of what was stored before are copied, a stretch at a time, in transactions of their own.
//! 3. A constraint says that no event is of later than a month that is still to end. For what is stored from now on it holds at
//!    once; for the rest the table is read, which holds up nobody.
//! 4. The table is renamed and becomes the first partition, in one transaction of some milliseconds: Postgres believes the
//!    constraint, and reads nothing.
//!
//! Killed after 1 or 2, it has changed nothing that anybody notices, and the next attempt goes on from there. Between 3 and 4,
//! events dated later than the bound are refused; so whatever goes wrong there, also a signal, takes the constraint away again,
//! however long that takes, and what a kill leaves is taken away by the next `host migrate` and told by `host doctor` ([`super::LEFT_BEHIND`]).

use sqlx::PgConnection;
use tokio::signal::unix::{SignalKind, signal};

use super::Names;
use crate::database::{DatabaseError, Postgres, notify, patience};

/// How many keys are copied in one transaction.
const STRETCH: i64 = 20_000;

/// What keeps the table from being partitioned, a line each.
const OBSTACLES: &str = include_str!("../../../../migrations/postgres/monthly/obstacles.sql");

/// The same that servers have since version 15, and whether this one is such.
const OBSTACLES_15: &str = include_str!("../../../../migrations/postgres/monthly/obstacles_15.sql");

/// See [`OBSTACLES_15`].
const IS_15: &str = "SELECT to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL";

/// Whether keys are there that no trigger keeps: those of another table that was here before.
const STALE_KEYS: &str = "
    SELECT to_regclass('projectionist.event_keys') IS NOT NULL
           AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'events'::regclass AND tgname = 'projectionist_keys')";

/// The end of the first partition, and its name; and the date of the last event, if that is a year ahead. Two days are enough for
/// what is to be done until then.
const BOUND: &str = "
    SELECT to_char(bound, 'YYYY-MM-DD') || ' 00:00:00+00', 'events_before_' || to_char(bound, 'YYYY_MM'),
           CASE WHEN last > now() + interval '1 year' THEN last::text END
    FROM (SELECT last, date_trunc('month', greatest(last, now() + interval '2 days') AT TIME ZONE 'UTC') + interval '1 month' AS bound
          FROM (SELECT max(created_at) AS last FROM events) AS events) AS bounds";

/// Whether the trigger that wakes hosts is there.
const NOTIFIES: &str = "
    SELECT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = 'events'::regclass AND tgname = 'projectionist_notify' AND tgenabled <> 'D')";

/// Takes away the constraint of step 3.
const NO_BOUND: &str = "ALTER TABLE events DROP CONSTRAINT IF EXISTS projectionist_until";

/// How long after an attempt to take it away comes the next.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// What is being done, in messages.
const DOING: &str = "partitioning the events table";

/// Takes away what an attempt that was killed has left.
pub(super) async fn clear(database: &Postgres, connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let Some(constraint) = left_behind(database, connection).await? else { return Ok(()) };
    tracing::warn!(
        constraint,
        "an attempt to partition the events table was killed half-way: taking away what it left"
    );
    patience::change_events(database, connection, DOING, NO_BOUND).await
}

/// The constraint of an attempt, if it is there.
async fn left_behind(database: &Postgres, connection: &mut PgConnection) -> Result<Option<String>, DatabaseError> {
    let left = sqlx::query_scalar(super::LEFT_BEHIND).fetch_optional(connection).await;
    left.map_err(|error| database.error(DOING, error))
}

/// Converts it.
pub(super) async fn convert(database: &Postgres, connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let failed = |error| database.error(DOING, error);
    refuse(database, connection).await?;
    // Before the keys, so that nothing was changed when it is refused; and again after them, which may take long.
    bound(database, connection, "").await?;
    keep_keys(database, connection).await?;
    let stays = " (projectionist.event_keys and its trigger were made meanwhile, and stay for the next attempt)";
    let (bound, old_name) = bound(database, connection, stays).await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.map_err(failed)?;
    tracing::info!(bound, "reading the events table once; until that is done, no event dated later than this is taken");
    let done = tokio::select! {
        done = switch(database, connection, &bound, &old_name) => done,
        () = told_to_end() => Err(DatabaseError::Interrupted { database: database.name().to_owned(), doing: DOING }),
    };
    if done.is_err() {
        take_back_at_last(database, pid).await?;
    } else {
        tracing::info!(
            partition = old_name,
            until = bound,
            "the events table is partitioned by month: this one has all so far"
        );
    }
    done
}

/// Where the first partition is to end, and its name. Refused when that is far ahead, with what is to be told of it.
async fn bound(
    database: &Postgres,
    connection: &mut PgConnection,
    told: &str,
) -> Result<(String, String), DatabaseError> {
    let (bound, old_name, too_late): (String, String, Option<String>) =
        sqlx::query_as(BOUND).fetch_one(connection).await.map_err(|error| database.error(DOING, error))?;
    match too_late {
        Some(last) => Err(cannot(
            database,
            &format!("an event is dated {last}: until then there would be one partition only{told}"),
        )),
        None => Ok((bound, old_name)),
    }
}

/// Steps 3 and 4.
async fn switch(
    database: &Postgres,
    connection: &mut PgConnection,
    bound: &str,
    old_name: &str,
) -> Result<(), DatabaseError> {
    let failed = |error| database.error(DOING, error);
    let names = Names::of(connection).await.map_err(failed)?;
    let old = names.table(old_name);
    let literal = old.replace('\'', "''");
    let fill = |sql: &str| {
        names.fill(sql, &[("old_name", old_name), ("old_literal", &literal), ("old", &old), ("bound", bound)])
    };
    let promise =
        fill("ALTER TABLE {events} ADD CONSTRAINT projectionist_until CHECK (created_at < '{bound}') NOT VALID");
    patience::change_events(database, connection, DOING, &promise).await?;
    let prove = fill("ALTER TABLE {events} VALIDATE CONSTRAINT projectionist_until");
    patience::change_events(database, connection, DOING, &prove).await?;
    let notifies: bool = sqlx::query_scalar(NOTIFIES).fetch_one(&mut *connection).await.map_err(failed)?;
    let mut sql = fill(include_str!("../../../../migrations/postgres/monthly/switch.sql"));
    if notifies {
        // In the same transaction, so that nobody waits for a poll.
        sql.push_str(notify::ON);
    }
    patience::change_events(database, connection, DOING, &sql).await
}

/// Takes the constraint back, however long somebody is in the way or the server is away: as long as it is there, events dated later
/// are refused, and whoever reads that the command failed has no reason to think of it. A second signal ends that, and says so.
async fn take_back_at_last(database: &Postgres, pid: i32) -> Result<(), DatabaseError> {
    let at_last = async {
        while let Err(error) = take_back(database, pid).await {
            tracing::warn!(%error, "cannot take CHECK projectionist_until from the events table yet; trying again until it is gone");
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = at_last => Ok(()),
        () = told_to_end() => Err(DatabaseError::BoundLeft { database: database.name().to_owned() }),
    }
}

/// Takes the constraint back, on a connection of its own: the other may be in the middle of something.
async fn take_back(database: &Postgres, pid: i32) -> Result<(), DatabaseError> {
    let failed = |error| database.error(DOING, error);
    let mut connection = database.connect("projectionist migrate").await?;
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = 'projectionist migrate'")
        .bind(pid)
        .execute(&mut connection)
        .await
        .map_err(failed)?;
    let lives =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND application_name = 'projectionist migrate')";
    while sqlx::query_scalar(lives).bind(pid).fetch_one(&mut connection).await.map_err(failed)? {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Only if it came to that: who reads for long would be in the way for nothing.
    if left_behind(database, &mut connection).await?.is_none() {
        return Ok(());
    }
    patience::change_events(database, &mut connection, DOING, NO_BOUND).await
}

/// Waits for SIGTERM or Ctrl-C.
async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The error of a table that cannot be partitioned.
fn cannot(database: &Postgres, obstacle: &str) -> DatabaseError {
    DatabaseError::CannotPartition { database: database.name().to_owned(), obstacles: format!("\n    {obstacle}") }
}

/// Refuses a table that cannot be, before anything is changed.
async fn refuse(database: &Postgres, connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let failed = |error| database.error(DOING, error);
    let mut obstacles: Vec<String> = sqlx::query_scalar(OBSTACLES).fetch_all(&mut *connection).await.map_err(failed)?;
    if sqlx::query_scalar::<_, bool>(IS_15).fetch_one(&mut *connection).await.map_err(failed)? {
        let more: Vec<String> = sqlx::query_scalar(OBSTACLES_15).fetch_all(&mut *connection).await.map_err(failed)?;
        obstacles.extend(more);
    }
    if !obstacles.is_empty() {
        return Err(cannot(database, &obstacles.join("\n    ")));
    }
    let stale: bool = sqlx::query_scalar(STALE_KEYS).fetch_one(&mut *connection).await.map_err(failed)?;
    let some = "SELECT EXISTS (SELECT FROM projectionist.event_keys)";
    if stale && sqlx::query_scalar::<_, bool>(some).fetch_one(connection).await.map_err(failed)? {
        return Err(cannot(
            database,
            "projectionist.event_keys has keys of an events table that was here before: DROP TABLE it",
        ));
    }
    Ok(())
}

/// Steps 1 and 2.
async fn keep_keys(database: &Postgres, connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let failed = |error| database.error("copying the keys of events", error);
    let names = Names::of(connection).await.map_err(failed)?;
    let sql = names.fill(include_str!("../../../../migrations/postgres/monthly/keys.sql"), &[]);
    patience::change_events(database, connection, DOING, &sql).await?;
    let last: Option<i64> = sqlx::query_scalar("SELECT max(global_position) FROM events")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let last = last.unwrap_or(0);
    // As for a page: a stretch is a walk along the primary key. And a writer that stores the same key just now is waited for.
    sqlx::raw_sql("SET enable_sort = off; SET lock_timeout = 0").execute(&mut *connection).await.map_err(failed)?;
    let (mut done, mut told) = (0, std::time::Instant::now());
    while done < last {
        let until = "SELECT max(global_position) FROM (SELECT global_position FROM events WHERE global_position > $1
                         ORDER BY global_position LIMIT $2) AS stretch";
        let until: Option<i64> =
            sqlx::query_scalar(until).bind(done).bind(STRETCH).fetch_one(&mut *connection).await.map_err(failed)?;
        let Some(until) = until else { break };
        let copy = "INSERT INTO projectionist.event_keys
                        (global_position, event_id, bounded_context, aggregate_type, aggregate_id, aggregate_version)
                    SELECT global_position, event_id, bounded_context, aggregate_type, aggregate_id, aggregate_version
                    FROM events WHERE global_position > $1 AND global_position <= $2 ON CONFLICT DO NOTHING";
        sqlx::query(copy).bind(done).bind(until).execute(&mut *connection).await.map_err(failed)?;
        done = until;
        if told.elapsed().as_secs() >= 5 {
            told = std::time::Instant::now();
            tracing::info!(position = done, last, "copying the keys of events");
        }
    }
    Ok(())
}
