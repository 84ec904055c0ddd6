//! Claiming a partition in a Postgres read model.
//!
//! Who works on a partition holds an advisory lock in the session that also writes for it. The lock ends with
//! the session: when the process dies, when its connection is lost, when the server restarts.

use std::hash::Hasher as _;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::checkpoint::{Epoch, Slot};
use super::super::dead_letter::{Aggregate, Parked};
use super::super::store::{Claim, ClaimError};
use super::{PostgresStore, quote_identifier};
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres};
use crate::event::Position;

/// Sees that the database is there and migrated.
///
/// # Errors
/// When it cannot be reached, or its tables are not of this host's version.
pub fn check(database: &Postgres) -> Result<(), DatabaseError> {
    database.block_on(async {
        let mut connection = database.connect("projectionist").await?;
        schema::check_postgres(database, &mut connection, Tables::ReadModel).await?;
        connection.close().await.ok();
        Ok(())
    })
}

impl PostgresStore {
    /// Claims a partition with a connection of its own.
    ///
    /// # Errors
    /// As [`super::super::ReadModel::claim`].
    pub fn claim(database: &Postgres, slot: &Slot, owner: &str) -> Result<Claim, ClaimError> {
        let failed = |source| database.error("claiming a partition", source);
        database.block_on(async {
            let application = format!("projectionist {} {}", slot.projection, slot.partition);
            let mut connection = database.connect(&application).await?;
            let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
                .bind(lock_key(slot))
                .fetch_one(&mut connection)
                .await
                .map_err(failed)?;
            if !locked {
                let owner = recorded_owner(&mut connection, slot).await.map_err(failed)?;
                connection.close().await.ok();
                return Err(ClaimError::Held { slot: slot.clone(), owner });
            }
            settle(&mut connection, slot).await.map_err(failed)?;
            let (position, epoch) = raise_epoch(&mut connection, slot, owner).await.map_err(|error| match error {
                Refused::OtherTotal(found) => ClaimError::OtherTotal { slot: slot.clone(), found },
                Refused::Failed(error) => failed(error).into(),
            })?;
            let parked = parked(&mut connection, slot).await.map_err(failed)?;
            prepare_advance(&mut connection, slot, epoch).await.map_err(failed)?;
            let store = Self::new(database.clone(), connection, slot.clone(), position, epoch);
            Ok(Claim { position, epoch, parked, store: Box::new(store) })
        })
    }
}

/// The advisory lock of a partition: 64 bits of its name, so that it collides with nobody's by accident.
pub(in super::super) fn lock_key(slot: &Slot) -> i64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(b"projectionist claim\0");
    hasher.write(slot.projection.as_bytes());
    hasher.write(&slot.partition.total().to_be_bytes());
    hasher.write(&slot.partition.key().to_be_bytes());
    hasher.finish().cast_signed()
}

/// The advisory lock under which the workers of a projection take turns.
pub(super) fn turns_key(slot: &Slot) -> i64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(b"projectionist turns\0");
    hasher.write(slot.projection.as_bytes());
    hasher.finish().cast_signed()
}

/// The advisory locks that are held in this database now, ours among them.
pub(in super::super) async fn held(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    // A lock on a bigint shows as its two halves, with objsubid 1.
    sqlx::query_scalar(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .fetch_all(connection)
    .await
}

/// Makes the session what the rest of this module relies on, whatever the server's or the user's defaults are.
async fn settle(connection: &mut PgConnection, slot: &Slot) -> Result<(), sqlx::Error> {
    let settings = format!(
        "SET search_path = {}; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'iso_8601';
         SET standard_conforming_strings = on; SET bytea_output = 'hex'; SET client_min_messages = warning;
         SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off",
        quote_identifier(&slot.projection)
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(connection).await.map(drop)
}

/// Who holds the partition, as far as its row says.
async fn recorded_owner(connection: &mut PgConnection, slot: &Slot) -> Result<String, sqlx::Error> {
    let owner: Option<String> = sqlx::query_scalar(
        "SELECT owner FROM projectionist.checkpoints
         WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3",
    )
    .bind(&slot.projection)
    .bind(slot.partition.total().cast_signed())
    .bind(slot.partition.key().cast_signed())
    .fetch_optional(connection)
    .await?;
    Ok(owner.unwrap_or_else(|| "another process".to_owned()))
}

/// Why a claim was not written.
enum Refused {
    /// There are rows for another number of partitions.
    OtherTotal(u32),
    /// The connection fails.
    Failed(sqlx::Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error)
    }
}

/// Writes the claim.
async fn raise_epoch(connection: &mut PgConnection, slot: &Slot, owner: &str) -> Result<(Position, Epoch), Refused> {
    let mut transaction = connection.begin().await?;
    // Workers of one projection claim one after the other, so that two that start with different totals cannot both
    // find nothing of the other.
    sqlx::query(
        "INSERT INTO projectionist.projections (projection, schema_version) VALUES ($1, 0) ON CONFLICT DO NOTHING",
    )
    .bind(&slot.projection)
    .execute(&mut *transaction)
    .await?;
    sqlx::query("SELECT 1 FROM projectionist.projections WHERE projection = $1 FOR UPDATE")
        .bind(&slot.projection)
        .execute(&mut *transaction)
        .await?;
    let (key, total) = (slot.partition.key().cast_signed(), slot.partition.total().cast_signed());
    let other: Option<i32> = sqlx::query_scalar(
        "SELECT total_partitions FROM projectionist.checkpoints WHERE projection = $1 AND total_partitions <> $2 LIMIT 1",
    )
    .bind(&slot.projection)
    .bind(total)
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(other) = other {
        return Err(Refused::OtherTotal(other.cast_unsigned()));
    }
    let (position, epoch): (i64, i64) = sqlx::query_as(
        "INSERT INTO projectionist.checkpoints AS c (projection, total_partitions, partition_key, epoch, owner)
         VALUES ($1, $2, $3, 1, $4)
         ON CONFLICT (projection, total_partitions, partition_key)
         DO UPDATE SET epoch = c.epoch + 1, owner = excluded.owner, updated_at = now()
         RETURNING position, epoch",
    )
    .bind(&slot.projection)
    .bind(total)
    .bind(key)
    .bind(owner)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok((Position::from_sql(position), Epoch(epoch)))
}

/// The parked aggregates of the partition.
async fn parked(connection: &mut PgConnection, slot: &Slot) -> Result<Parked, sqlx::Error> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT DISTINCT bounded_context, aggregate_type, aggregate_id FROM projectionist.dead_letters
         WHERE projection = $1 AND reason <> 'skipped'",
    )
    .bind(&slot.projection)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(bounded_context, aggregate_type, aggregate_id)| Aggregate {
            bounded_context,
            aggregate_type,
            aggregate_id,
        })
        .filter(|aggregate| slot.partition.owns(&aggregate.aggregate_id))
        .collect())
}

/// Prepares the statement that moves the checkpoint, as an error when it may not.
///
/// `1 / count(*)` fails where no row was moved, and a failure ends a message before the COMMIT that follows. So
/// a batch, its checkpoint and its commit are one message: one round trip, and still no commit without the fence.
async fn prepare_advance(connection: &mut PgConnection, slot: &Slot, epoch: Epoch) -> Result<(), sqlx::Error> {
    let prepare = format!(
        "PREPARE projectionist_advance (bigint, bigint, int, text, bigint) AS
         WITH moved AS (
             UPDATE projectionist.checkpoints SET position = $1, events_applied = events_applied + $2,
                 plugin_version = $3, plugin_digest = $4, updated_at = now()
             WHERE projection = '{}' AND total_partitions = {} AND partition_key = {} AND epoch = {epoch} AND position = $5
               AND EXISTS (SELECT FROM projectionist.projections WHERE projection = '{}' AND schema_version = $3)
             RETURNING 1)
         SELECT 1 / count(*) FROM moved",
        slot.projection.replace('\'', "''"),
        slot.partition.total(),
        slot.partition.key(),
        slot.projection.replace('\'', "''"),
    );
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(connection).await.map(drop)
}
