//! A worker's sign of life on Postgres, and how one that gives none is replaced: see [`super::super::claim`].

use std::future::Future;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use super::super::checkpoint::{Epoch, Slot, Term};
use super::super::claim::Holder;
use super::super::heartbeat::Heartbeat;
use super::claim::{lock_key, lock_projection};
use crate::database::{DatabaseError, Postgres};

/// Replaces a worker: see [`super::super::ReadModel::depose`].
///
/// # Errors
/// When the database fails.
pub fn depose(database: &Postgres, holder: &Holder, by: &str) -> Result<bool, DatabaseError> {
    let failed = |source| database.error("replacing a worker that gives no sign of life", source);
    let Some(epoch) = holder.epoch else { return Ok(false) };
    database.block_on(async {
        let mut connection = database.connect("projectionist depose").await?;
        sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut connection).await.map_err(failed)?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        match lock_projection(&mut transaction, &holder.slot.projection).await {
            Ok(()) => {}
            // It may be the frozen one that holds it, in the middle of `migrate`.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
                transaction.rollback().await.map_err(failed)?;
                end_its_session(&mut connection, holder, epoch).await.map_err(failed)?;
                transaction = connection.begin().await.map_err(failed)?;
                lock_projection(&mut transaction, &holder.slot.projection).await.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let term: Option<i32> = sqlx::query_scalar(
            "UPDATE projectionist.checkpoints SET term = term + 1, epoch = epoch + 1, owner = $5, updated_at = now()
             WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3 AND epoch = $4 RETURNING term - 1",
        )
        .bind(&holder.slot.projection)
        .bind(holder.slot.partition.total().cast_signed())
        .bind(holder.slot.partition.key().cast_signed())
        .bind(epoch.0)
        .bind(by)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        let Some(term) = term else { return Ok(false) };
        // A session that was left in the middle of a transaction keeps its rows locked, and nobody can go on.
        let ended = terminate(&mut connection, &holder.slot, Term(term.unsigned_abs())).await;
        if let Err(error) = ended {
            tracing::warn!(%error, holder = holder.owner, "cannot end the session of the worker that was replaced");
        }
        connection.close().await.ok();
        Ok(true)
    })
}

/// How long somebody else's claim, or a frozen worker's `migrate`, is waited for.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '3s'";

/// The SQLSTATE of a lock that was not free in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Ends the session of whoever made the claim of this epoch, if it is still the last one.
async fn end_its_session(connection: &mut PgConnection, holder: &Holder, epoch: Epoch) -> Result<(), sqlx::Error> {
    let term: Option<i32> = sqlx::query_scalar(
        "SELECT term FROM projectionist.checkpoints
         WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3 AND epoch = $4",
    )
    .bind(&holder.slot.projection)
    .bind(holder.slot.partition.total().cast_signed())
    .bind(holder.slot.partition.key().cast_signed())
    .bind(epoch.0)
    .fetch_optional(&mut *connection)
    .await?;
    match term {
        Some(term) => terminate(connection, &holder.slot, Term(term.unsigned_abs())).await,
        None => Ok(()),
    }
}

/// Ends the session that holds the lock of a partition in a term, if it is in the middle of something.
async fn terminate(connection: &mut PgConnection, slot: &Slot, term: Term) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT pg_terminate_backend(activity.pid) FROM pg_stat_activity AS activity JOIN pg_locks AS lock USING (pid)
         WHERE lock.locktype = 'advisory' AND lock.objsubid = 1 AND lock.granted
           AND (lock.classid::bigint << 32) | lock.objid::bigint = $1
           AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND activity.state <> 'idle'",
    )
    .bind(lock_key(slot, term))
    .execute(connection)
    .await
    .map(drop)
}

/// Gives a sign of life of `owner`: a row that is written each second.
///
/// # Errors
/// When the system has no thread for it.
pub fn beat(database: Postgres, owner: &str) -> std::io::Result<Heartbeat> {
    let owner = owner.to_owned();
    let mut connection = None;
    let mut lost = false;
    Heartbeat::start(move || {
        let beat = database.block_on(bounded(async {
            let alive = match &mut connection {
                Some(alive) => alive,
                None => connection.insert(begin_to_beat(&database).await?),
            };
            sqlx::query(
                "INSERT INTO projectionist.workers (owner) VALUES ($1)
                 ON CONFLICT (owner) DO UPDATE SET beat = workers.beat + 1, beat_at = now()",
            )
            .bind(&owner)
            .execute(alive)
            .await
            .map_err(|error| database.error("giving a sign of life", error))
        }));
        match beat {
            Ok(_) => lost = false,
            Err(error) => {
                connection = None;
                // The workers meet the same, and say so each time; once is enough here.
                if !std::mem::replace(&mut lost, true) {
                    tracing::warn!(%error, "no sign of life can be given: whoever stands by may take over");
                }
            }
        }
    })
}

/// How long a sign of life may take.
const BEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds a beat: a server that is gone does not answer, and does not say so either.
async fn bounded<T>(beat: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, String> {
    match tokio::time::timeout(BEAT_TIMEOUT, beat).await {
        Ok(beat) => beat.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the server has not answered for {BEAT_TIMEOUT:?}")),
    }
}

/// A connection for signs of life, after those of processes long gone were cleared away.
async fn begin_to_beat(database: &Postgres) -> Result<PgConnection, DatabaseError> {
    let mut connection = database.connect("projectionist heartbeat").await?;
    sqlx::raw_sql("DELETE FROM projectionist.workers WHERE beat_at < now() - interval '1 day'")
        .execute(&mut connection)
        .await
        .map_err(|error| database.error("clearing away old signs of life", error))?;
    Ok(connection)
}
