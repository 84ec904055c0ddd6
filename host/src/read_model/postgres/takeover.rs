//! A worker's sign of life on Postgres, and how one that gives none is replaced: see [`super::super::claim`].

use std::hash::Hasher as _;

use sqlx::{Connection as _, PgConnection};

use super::super::checkpoint::Epoch;
use super::super::claim::Holder;
use super::super::heartbeat::Heartbeat;
use super::super::life::Life;
use super::claim::lock_projection;
use super::shared::Shared;
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
                if is_last(&mut connection, holder, epoch).await.map_err(failed)? {
                    end_sessions(&mut connection, &holder.owner).await.map_err(failed)?;
                }
                transaction = connection.begin().await.map_err(failed)?;
                lock_projection(&mut transaction, &holder.slot.projection).await.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let deposed = sqlx::query(
            "UPDATE projectionist.checkpoints SET term = term + 1, epoch = epoch + 1, owner = $5, updated_at = now()
             WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3 AND epoch = $4",
        )
        .bind(&holder.slot.projection)
        .bind(holder.slot.partition.total().cast_signed())
        .bind(holder.slot.partition.key().cast_signed())
        .bind(epoch.0)
        .bind(by)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        if deposed.rows_affected() == 0 {
            return Ok(false);
        }
        // A session that was left in the middle of a transaction keeps its rows locked, and nobody can go on.
        if let Err(error) = end_sessions(&mut connection, &holder.owner).await {
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

/// Whether the claim of this epoch is still the last one.
async fn is_last(connection: &mut PgConnection, holder: &Holder, epoch: Epoch) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM projectionist.checkpoints
                        WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3 AND epoch = $4)",
    )
    .bind(&holder.slot.projection)
    .bind(holder.slot.partition.total().cast_signed())
    .bind(holder.slot.partition.key().cast_signed())
    .bind(epoch.0)
    .fetch_one(connection)
    .await
}

/// Ends the sessions of a process, where they are in the middle of something. They are known by a lock that each of them has ([`sessions_key`]); which of them writes for which partition is nobody's business but the
/// process's. Where it is frozen, all of them stand still; where it is not, it begins again with the same batches.
pub(super) async fn end_sessions(connection: &mut PgConnection, owner: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT pg_terminate_backend(activity.pid) FROM pg_stat_activity AS activity JOIN pg_locks AS lock USING (pid)
         WHERE lock.locktype = 'advisory' AND lock.objsubid = 1 AND lock.granted
           AND (lock.classid::bigint << 32) | lock.objid::bigint = $1
           AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND activity.state <> 'idle'",
    )
    .bind(sessions_key(owner))
    .execute(connection)
    .await
    .map(drop)
}

/// The advisory lock that all sessions of a process share which write read models.
pub(super) fn sessions_key(owner: &str) -> i64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(b"projectionist sessions\0");
    hasher.write(owner.as_bytes());
    hasher.finish().cast_signed()
}

/// What is to be seen of the server's life, in the session that holds the claims of `owner`.
///
/// # Errors
/// When the database fails.
pub fn life(shared: &Shared, owner: &str) -> Result<Life, DatabaseError> {
    // Anybody may read both. A recovery resets all statistics, because it cannot trust those that were there.
    let look = sqlx::query_as(
        "SELECT pg_postmaster_start_time()::text, coalesce(stats_reset::text, '') FROM pg_stat_bgwriter",
    );
    let look = async |connection: &mut PgConnection| look.fetch_one(connection).await;
    let looked = shared.database.block_on(shared.locks.with(owner, "looking at what has become of the server", look));
    looked.map(|(started, recovered)| Life::new(started, recovered))
}

/// Gives a sign of life of `owner`: a row that is written each second, in the session that holds its claims.
///
/// # Errors
/// When the system has no thread for it.
pub fn beat(shared: &Shared, owner: &str) -> std::io::Result<Heartbeat> {
    let (shared, owner) = (shared.clone(), owner.to_owned());
    let mut lost = false;
    Heartbeat::start(move || match shared.database.block_on(shared.locks.beat(&owner)) {
        Ok(()) => lost = false,
        // The workers meet the same, and say so each time; once is enough here.
        Err(error) => {
            if !std::mem::replace(&mut lost, true) {
                tracing::warn!(%error, "no sign of life can be given: whoever stands by may take over");
            }
        }
    })
}
