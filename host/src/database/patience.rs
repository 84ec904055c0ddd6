//! Changing the events table while writers write.
//!
//! Postgres wants a lock on the table for that, and whoever waits for one keeps back all who come after it: behind a
//! transaction that is open for an hour, no event could be stored for an hour. So each try waits for [`PATIENCE`] only,
//! writers go on between two tries (longer only where an autovacuum has to be ended), and when it does not work out whoever is in the way is named.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{DatabaseError, Postgres};

/// How long one try may keep the writers back.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is tried; with the pauses between them, that is a quarter of a minute.
const TRIES: u32 = 10;

/// Whether an autovacuum worker is among those of [`IN_THE_WAY`], and what a try has to wait for until Postgres ends it: it does
/// so for whoever has waited for `deadlock_timeout`, and not before. Who may not see what others do sees only its lock.
const AUTOVACUUM: &str = "
    WITH RECURSIVE tables AS (
        SELECT 'events'::regclass::oid AS oid
        UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = tables.oid)
    SELECT (SELECT setting::bigint FROM pg_settings WHERE name = 'deadlock_timeout') + 200
    FROM pg_locks AS locks JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
    WHERE locks.relation IN (SELECT oid FROM tables) AND locks.granted AND locks.pid <> pg_backend_pid()
      AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (activity.backend_type = 'autovacuum worker'
           OR activity.backend_type IS NULL AND locks.mode = 'ShareUpdateExclusiveLock')
    LIMIT 1";

/// For how long writers go on between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// The SQLSTATEs of a lock that was not to be had: not in time, or only in a circle.
const NOT_TO_BE_HAD: [&str; 2] = ["55P03", "40P01"];

/// Who holds a lock on the events table or one of its partitions: process, application, query.
const IN_THE_WAY: &str = "
    WITH RECURSIVE tables AS (
        SELECT 'events'::regclass::oid AS oid
        UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = tables.oid)
    SELECT 'process ' || coalesce(locks.pid::text, 'none: a prepared transaction')
           || coalesce(' (' || nullif(activity.application_name, '') || ')', '')
           || coalesce(': ' || left(activity.query, 120), '')
    FROM pg_locks AS locks LEFT JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
    WHERE locks.relation IN (SELECT oid FROM tables) AND locks.granted AND locks.pid IS DISTINCT FROM pg_backend_pid()
      AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY activity.xact_start LIMIT 1";

/// Runs statements that want such a lock, all of them or none.
///
/// # Errors
/// When the database fails, and [`DatabaseError::EventsInUse`] when somebody was in the way all the time.
pub(super) async fn change_events(
    database: &Postgres,
    connection: &mut PgConnection,
    doing: &'static str,
    sql: &str,
) -> Result<(), DatabaseError> {
    let failed = |error| database.error(doing, error);
    let mut patience = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
    for tries in 1.. {
        let timeout = format!("SET lock_timeout = {patience}");
        sqlx::raw_sql(AssertSqlSafe(timeout)).execute(&mut *connection).await.map_err(failed)?;
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await {
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| NOT_TO_BE_HAD.contains(&&*code)) => {
                let found: Option<String> =
                    sqlx::query_scalar(IN_THE_WAY).fetch_optional(&mut *connection).await.map_err(failed)?;
                let by = found.unwrap_or_else(|| "somebody who has ended meanwhile".to_owned());
                if tries == TRIES {
                    return Err(DatabaseError::EventsInUse { database: database.name().to_owned(), by });
                }
                let autovacuum: Option<i64> =
                    sqlx::query_scalar(AUTOVACUUM).fetch_optional(&mut *connection).await.map_err(failed)?;
                patience = autovacuum.unwrap_or(patience).max(patience);
                tracing::info!(by, "somebody uses the events table; trying again, and writers go on meanwhile");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done.map(drop).map_err(failed),
        }
    }
    Ok(())
}
