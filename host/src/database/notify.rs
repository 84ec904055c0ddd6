//! The trigger that wakes the hosts at each commit that stored events, put there or taken away while writers write.
//!
//! Either way Postgres wants a lock on the events table, and whoever waits for one keeps back all who come after it:
//! behind a transaction that is open for an hour, no event could be stored for an hour. So each try waits for
//! [`PATIENCE`] only, writers go on between two tries, and when it does not work out whoever is in the way is named.
//! What is as it should be already is not touched.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{DatabaseError, Postgres};

/// How long one try may keep the writers back.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it is tried; with the pauses between them, that is a quarter of a minute.
const TRIES: u32 = 10;

/// For how long writers go on between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// The SQLSTATE of a lock that was not to be had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Whether the trigger is there: `on`, `off`, or disabled by somebody, which is neither.
const STATE: &str = "
    SELECT coalesce((SELECT CASE tgenabled WHEN 'D' THEN 'disabled' ELSE 'on' END FROM pg_trigger
                     WHERE tgrelid = 'events'::regclass AND tgname = 'projectionist_notify'), 'off')";

/// Who holds a lock on the events table that is in the way of every other: process, application, query.
const IN_THE_WAY: &str = "
    SELECT 'process ' || coalesce(locks.pid::text, 'none: a prepared transaction')
           || coalesce(' (' || nullif(activity.application_name, '') || ')', '')
           || coalesce(': ' || left(activity.query, 120), '')
    FROM pg_locks AS locks LEFT JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
    WHERE locks.relation = 'events'::regclass AND locks.granted AND locks.pid IS DISTINCT FROM pg_backend_pid()
      AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY activity.xact_start LIMIT 1";

/// Has commits of events wake the hosts, or not.
///
/// # Errors
/// When the database fails, and [`DatabaseError::EventsInUse`] when somebody had the table locked all the time.
pub async fn switch(database: &Postgres, wake: bool) -> Result<(), DatabaseError> {
    let failed = |error| database.error("setting up NOTIFY", error);
    let mut connection = database.connect("projectionist migrate").await?;
    let timeout = format!("SET lock_timeout = {}", PATIENCE.as_millis());
    sqlx::raw_sql(AssertSqlSafe(timeout)).execute(&mut connection).await.map_err(failed)?;
    for tries in 1.. {
        let state: String = sqlx::query_scalar(STATE).fetch_one(&mut connection).await.map_err(failed)?;
        if state == if wake { "on" } else { "off" } {
            return Ok(());
        }
        let sql = if wake {
            include_str!("../../../migrations/postgres/notify_on.sql")
        } else {
            include_str!("../../../migrations/postgres/notify_off.sql")
        };
        match sqlx::raw_sql(sql).execute(&mut connection).await {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
                let by = in_the_way(&mut connection).await.map_err(failed)?;
                if tries == TRIES {
                    return Err(DatabaseError::EventsInUse { database: database.name().to_owned(), by });
                }
                tracing::info!(by, "somebody uses the events table; trying again, and writers go on meanwhile");
                tokio::time::sleep(PAUSE).await;
            }
            done => {
                done.map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Who is in the way, in words.
async fn in_the_way(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let found: Option<String> = sqlx::query_scalar(IN_THE_WAY).fetch_optional(connection).await?;
    Ok(found.unwrap_or_else(|| "somebody who has ended meanwhile".to_owned()))
}
