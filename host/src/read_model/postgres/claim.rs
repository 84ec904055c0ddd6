//! Claiming a partition in a Postgres read model: see [`super::super::claim`] for the rules.
//!
//! Who works on a partition holds an advisory lock in the session that also writes for it. The lock ends with
//! the session: when the process dies, when its connection is lost, when the server restarts.

use std::hash::Hasher as _;

use fnv::FnvHashSet;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::checkpoint::{Epoch, Slot, Term};
use super::super::claim::{Claimed, Found, Holder, Plan, Replacement, UNNAMED, Written};
use super::super::dead_letter::{Aggregate, Parked};
use super::super::store::{Claim, ClaimError};
use super::fence::Fence;
use super::role::Role;
use super::store::search_path;
use super::{PostgresStore, Turns};
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres};
use crate::event::Position;
use crate::partition::lineage::Lineage;

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
    pub fn claim(database: &Postgres, turns: &Turns, slot: &Slot, owner: &str) -> Result<Claim, ClaimError> {
        let failed = |source| database.error("claiming a partition", source);
        database.block_on(async {
            let application = format!("projectionist {} {}", slot.projection, slot.partition);
            let mut term = Term::default();
            loop {
                let mut connection = database.connect(&application).await?;
                term = recorded_term(&mut connection, slot).await.map_err(failed)?.unwrap_or(term);
                if !try_lock(&mut connection, lock_key(slot, term)).await.map_err(failed)? {
                    let holder = holder(&mut connection, slot).await.map_err(failed)?;
                    connection.close().await.ok();
                    return Err(ClaimError::Held { slot: slot.clone(), holders: vec![holder] });
                }
                settle(&mut connection, slot).await.map_err(failed)?;
                let claimed = match write_claim(&mut connection, slot, owner, term).await.map_err(failed)? {
                    Written::Claimed(claimed) => claimed,
                    // The lock that was free is not the one that counts; with the session it is let go.
                    Written::OtherTerm(other) => {
                        connection.close().await.ok();
                        term = other;
                        continue;
                    }
                    Written::Held(holders) => {
                        connection.close().await.ok();
                        return Err(ClaimError::Held { slot: slot.clone(), holders });
                    }
                };
                let Claimed { position, epoch, lineage } = claimed;
                let parked = parked(&mut connection, slot).await.map_err(failed)?;
                let role = Role::ensure(database, &mut connection, &slot.projection).await?;
                let turn = turns.of(&slot.projection);
                let fence = Fence::new(slot, epoch, &lineage);
                let store = Self::new(database.clone(), connection, slot.clone(), position, fence, turn, role);
                return Ok(Claim { position, lineage, epoch, parked, store: Box::new(store) });
            }
        })
    }
}

/// The advisory lock of a partition in a term: 64 bits of its name, so that it collides with nobody's by accident.
pub(in super::super) fn lock_key(slot: &Slot, term: Term) -> i64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(b"projectionist claim\0");
    hasher.write(slot.projection.as_bytes());
    hasher.write(&slot.partition.total().to_be_bytes());
    hasher.write(&slot.partition.key().to_be_bytes());
    hasher.write(&term.0.to_be_bytes());
    hasher.finish().cast_signed()
}

/// Takes a lock for this session, if it is free.
async fn try_lock(connection: &mut PgConnection, key: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(key).fetch_one(connection).await
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
        // Temporary tables would otherwise be found before anybody else's, the catalogue's included.
        "{}; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'iso_8601';
         SET standard_conforming_strings = on; SET bytea_output = 'hex'; SET client_min_messages = warning;
         SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off",
        search_path(&slot.projection)
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(connection).await.map(drop)
}

/// Which lock stands for the partition, if it has a row.
async fn recorded_term(connection: &mut PgConnection, slot: &Slot) -> Result<Option<Term>, sqlx::Error> {
    let term: Option<i32> = sqlx::query_scalar(
        "SELECT term FROM projectionist.checkpoints
         WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3",
    )
    .bind(&slot.projection)
    .bind(slot.partition.total().cast_signed())
    .bind(slot.partition.key().cast_signed())
    .fetch_optional(connection)
    .await?;
    Ok(term.map(|term| Term(term.unsigned_abs())))
}

/// Who holds the partition, as far as its row says.
async fn holder(connection: &mut PgConnection, slot: &Slot) -> Result<Holder, sqlx::Error> {
    let row: Option<(String, i64, Option<i64>)> = sqlx::query_as(
        "SELECT owner, epoch, beat FROM projectionist.checkpoints LEFT JOIN projectionist.workers USING (owner)
         WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3 AND owner <> ''",
    )
    .bind(&slot.projection)
    .bind(slot.partition.total().cast_signed())
    .bind(slot.partition.key().cast_signed())
    .fetch_optional(connection)
    .await?;
    let slot = slot.clone();
    Ok(match row {
        Some((owner, epoch, beat)) => {
            Holder { slot, owner, epoch: Some(Epoch(epoch)), beat: beat.map(i64::unsigned_abs) }
        }
        None => Holder { slot, owner: UNNAMED.to_owned(), epoch: None, beat: None },
    })
}

/// Locks the row of a projection until the transaction ends: its claims run one after the other.
pub(super) async fn lock_projection(connection: &mut PgConnection, projection: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO projectionist.projections (projection, schema_version) VALUES ($1, 0) ON CONFLICT DO NOTHING",
    )
    .bind(projection)
    .execute(&mut *connection)
    .await?;
    sqlx::query("SELECT 1 FROM projectionist.projections WHERE projection = $1 FOR UPDATE")
        .bind(projection)
        .execute(connection)
        .await
        .map(drop)
}

/// Writes the claim, holding the lock of `term`.
async fn write_claim(
    connection: &mut PgConnection,
    slot: &Slot,
    owner: &str,
    term: Term,
) -> Result<Written, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    lock_projection(&mut transaction, &slot.projection).await?;
    let found = found(&mut transaction, &slot.projection, Reading::Keeping).await?;
    let counts = match Plan::new(slot.partition, found) {
        Plan::Claim { term } => term,
        Plan::Replace(replacement) => {
            let holders = holders(&mut transaction, &slot.projection, &replacement).await?;
            if !holders.is_empty() {
                return Ok(Written::Held(holders));
            }
            // Once more, as they are deleted: nobody works on them, but what somebody sent before may have come in.
            let found = found_and_deleted(&mut transaction, &slot.projection).await?;
            let Plan::Replace(replacement) = Plan::new(slot.partition, found) else {
                return Err(sqlx::Error::Protocol("the checkpoints changed under the projection's lock".into()));
            };
            replace(&mut transaction, slot, &replacement).await?;
            replacement.term
        }
    };
    if counts != term {
        transaction.commit().await?;
        return Ok(Written::OtherTerm(counts));
    }
    let (position, epoch, lineage): (i64, i64, Option<String>) = sqlx::query_as(
        "INSERT INTO projectionist.checkpoints AS c (projection, total_partitions, partition_key, epoch, owner)
         VALUES ($1, $2, $3, 1, $4)
         ON CONFLICT (projection, total_partitions, partition_key)
         DO UPDATE SET epoch = c.epoch + 1, owner = excluded.owner, updated_at = now()
         RETURNING position, epoch, lineage::text",
    )
    .bind(&slot.projection)
    .bind(slot.partition.total().cast_signed())
    .bind(slot.partition.key().cast_signed())
    .bind(owner)
    .fetch_one(&mut *transaction)
    .await?;
    let lineage = Lineage::parse(lineage.as_deref()).map_err(|error| sqlx::Error::Decode(error.into()))?;
    // So that a process which freezes before its first beat can be told from one that never gives a sign of life.
    sqlx::query("INSERT INTO projectionist.workers (owner) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(owner)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Written::Claimed(Claimed { position: Position::from_sql(position), lineage, epoch: Epoch(epoch) }))
}

/// Whether checkpoints are read or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// They stay.
    Keeping,
    /// They go.
    Deleting,
}

/// The checkpoints of a projection.
async fn found(connection: &mut PgConnection, projection: &str, how: Reading) -> Result<Vec<Found>, sqlx::Error> {
    const COLUMNS: &str = "total_partitions, partition_key, position, epoch, lineage::text, events_applied, owner, term, \
                           plugin_version, plugin_digest";
    let sql = match how {
        Reading::Keeping => format!("SELECT {COLUMNS} FROM projectionist.checkpoints WHERE projection = $1"),
        Reading::Deleting => format!("DELETE FROM projectionist.checkpoints WHERE projection = $1 RETURNING {COLUMNS}"),
    };
    type Row = (i32, i32, i64, i64, Option<String>, i64, String, i32, i32, String);
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql)).bind(projection).fetch_all(connection).await?;
    let found = |row: Row| {
        let (total, key, position, epoch, lineage, applied, owner, term, version, digest) = row;
        let (total, key, term) = (total.unsigned_abs(), key.unsigned_abs(), term.unsigned_abs());
        Found::new((total, key, position, epoch, lineage, applied, owner, term, version.unsigned_abs(), digest))
            .map_err(|error| sqlx::Error::Decode(error.into()))
    };
    rows.into_iter().map(found).collect()
}

/// The checkpoints of a projection, which are deleted. A commit that was on its way is waited for, and counts.
pub(in super::super) async fn found_and_deleted(
    connection: &mut PgConnection,
    projection: &str,
) -> Result<Vec<Found>, sqlx::Error> {
    found(connection, projection, Reading::Deleting).await
}

/// Who works on partitions that are to be replaced.
async fn holders(
    connection: &mut PgConnection,
    projection: &str,
    replacement: &Replacement,
) -> Result<Vec<Holder>, sqlx::Error> {
    let locks: FnvHashSet<i64> = held(connection).await?.into_iter().collect();
    let beats: Vec<(String, i64)> =
        sqlx::query_as("SELECT owner, beat FROM projectionist.workers").fetch_all(connection).await?;
    let beat = |_: &Slot, _: Term, owner: &str| {
        beats.iter().find(|(beating, _)| beating == owner).map(|(_, beat)| beat.unsigned_abs())
    };
    Ok(replacement.holders(projection, |slot, term| locks.contains(&lock_key(slot, term)), beat))
}

/// Writes the rows of another number of partitions.
async fn replace(connection: &mut PgConnection, slot: &Slot, replacement: &Replacement) -> Result<(), sqlx::Error> {
    for row in &replacement.rows {
        sqlx::query(
            "INSERT INTO projectionist.checkpoints (projection, total_partitions, partition_key, position, epoch, lineage,
                 events_applied, term, plugin_version, plugin_digest)
             VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10)",
        )
        .bind(&slot.projection)
        .bind(row.partition.total().cast_signed())
        .bind(row.partition.key().cast_signed())
        .bind(row.position.to_sql())
        .bind(row.epoch)
        .bind(row.lineage.to_json())
        .bind(row.events_applied.cast_signed())
        .bind(replacement.term.0.cast_signed())
        .bind(replacement.plugin_version.cast_signed())
        .bind(&replacement.plugin_digest)
        .execute(&mut *connection)
        .await?;
    }
    replacement.tell(&slot.projection);
    Ok(())
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
