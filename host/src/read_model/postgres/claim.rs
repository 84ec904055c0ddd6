//! Claiming a partition in a Postgres read model: see [`super::super::claim`] for the rules.
//!
//! Who works on a partition holds an advisory lock, in the one session of its process that holds all its locks
//! ([`super::locks`]). It ends with that session: when the process dies, when its connection is lost, when the server restarts.

use std::hash::Hasher as _;

use fnv::FnvHashSet;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::checkpoint::{Epoch, Slot, Term};
use super::super::claim::{Claimed, Found, Holder, Plan, Replacement, UNNAMED, Written};
use super::super::dead_letter::{Aggregate, Parked};
use super::super::isolation::Isolation;
use super::super::store::{Claim, ClaimError};
use super::PostgresStore;
use super::fence::Fence;
use super::lease::Lease;
use super::locks::Lock;
use super::role::Role;
use super::seal::{Key, Sealer};
use super::shared::Shared;
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres};
use crate::event::Position;
use crate::partition::lineage::Lineage;
use crate::processor::Priority;

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
    /// Claims a partition.
    ///
    /// # Errors
    /// As [`super::super::ReadModel::claim`].
    pub fn claim(
        shared: &Shared,
        slot: &Slot,
        owner: &str,
        priority: Priority,
        isolation: Isolation,
    ) -> Result<Claim, ClaimError> {
        let mut lease = Lease::new(shared, slot, owner, priority);
        // Another worker of this process may be in its `migrate`, which the claim would wait for in the database.
        lease.be_alone();
        let claimed = claim(shared, &mut lease, slot, owner, isolation)?;
        lease.end(true);
        let Ours { lock, role, claimed: Claimed { position, epoch, lineage }, parked, sealer } = claimed;
        lease.claimed(lock, role.clone(), isolation);
        if isolation == Isolation::Login {
            // Now, when who refuses it can be told what to do.
            lease.log_in()?;
        }
        let fence = Fence::new(slot, epoch, &lineage).sealed_by(sealer);
        let store = Self::new(lease, slot.clone(), position, fence, role);
        Ok(Claim { position, lineage, epoch, parked, store: Box::new(store) })
    }
}

/// A claim that was made.
struct Ours {
    /// Holds it.
    lock: Lock,
    /// Whom the projection's statements run as.
    role: Role,
    /// How far the partition is.
    claimed: Claimed,
    /// Which aggregates are parked.
    parked: Parked,
    /// What seals what is said in sessions that are the projection's own.
    sealer: Option<Sealer>,
}

/// What an attempt has led to.
enum Attempt {
    /// The partition is ours.
    Claimed(Box<Ours>),
    /// The lock that was free is not the one that counts, and is let go.
    OtherTerm(Term),
    /// Somebody works.
    Held(Vec<Holder>),
}

/// Takes the lock that counts, and writes the claim.
fn claim(
    shared: &Shared,
    lease: &mut Lease,
    slot: &Slot,
    owner: &str,
    isolation: Isolation,
) -> Result<Ours, ClaimError> {
    let mut term = Term::default();
    loop {
        match lease.claim(async |connection| attempt(shared, connection, slot, owner, term, isolation).await)? {
            Attempt::Claimed(ours) => return Ok(*ours),
            Attempt::OtherTerm(other) => term = other,
            Attempt::Held(holders) => return Err(ClaimError::Held { slot: slot.clone(), holders }),
        }
    }
}

/// Tries to claim in a term, or in the one on record.
async fn attempt(
    shared: &Shared,
    connection: &mut PgConnection,
    slot: &Slot,
    owner: &str,
    term: Term,
    isolation: Isolation,
) -> Result<Attempt, DatabaseError> {
    let failed = |source| shared.database.error("claiming a partition", source);
    let term = recorded_term(connection, slot).await.map_err(failed)?.unwrap_or(term);
    let Some(lock) = shared.locks.try_lock(owner, lock_key(slot, term)).await? else {
        return Ok(Attempt::Held(vec![holder(connection, slot).await.map_err(failed)?]));
    };
    Ok(match write_claim(connection, slot, owner, term).await.map_err(failed)? {
        Written::Claimed(claimed) => {
            let parked = parked(connection, slot).await.map_err(failed)?;
            let role = Role::ensure(&shared.database, connection, &slot.projection, isolation).await?;
            let sealer = match isolation {
                Isolation::Role => None,
                Isolation::Login => Some(sealer(connection, slot, claimed.epoch).await.map_err(failed)?),
            };
            Attempt::Claimed(Box::new(Ours { lock, role, claimed, parked, sealer }))
        }
        Written::OtherTerm(other) => Attempt::OtherTerm(other),
        Written::Held(holders) => Attempt::Held(holders),
    })
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

/// Makes the key of a claim, and gives it to the server.
async fn sealer(connection: &mut PgConnection, slot: &Slot, epoch: Epoch) -> Result<Sealer, sqlx::Error> {
    let key = Key::new().map_err(sqlx::Error::Io)?;
    let (inner, outer) = key.halves();
    sqlx::query(
        "WITH others AS (DELETE FROM projectionist.seals WHERE projection = $1 AND total_partitions <> $2)
         INSERT INTO projectionist.seals AS s (projection, total_partitions, partition_key, epoch, inner_key, outer_key)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (projection, total_partitions, partition_key) DO UPDATE
         SET epoch = excluded.epoch, inner_key = excluded.inner_key, outer_key = excluded.outer_key, used = 0
         WHERE s.epoch <= excluded.epoch",
    )
    .persistent(false)
    .bind(&slot.projection)
    .bind(slot.partition.total().cast_signed())
    .bind(slot.partition.key().cast_signed())
    .bind(epoch.0)
    .bind(inner)
    .bind(outer)
    .execute(connection)
    .await?;
    Ok(Sealer::new(key, slot, epoch))
}

/// The advisory locks that are held in this database now, ours among them.
pub(in super::super) async fn held(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    // A lock on a bigint shows as its two halves, with objsubid 1.
    sqlx::query_scalar(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .persistent(false)
    .fetch_all(connection)
    .await
}

/// Which lock stands for the partition, if it has a row.
async fn recorded_term(connection: &mut PgConnection, slot: &Slot) -> Result<Option<Term>, sqlx::Error> {
    let term: Option<i32> = sqlx::query_scalar(
        "SELECT term FROM projectionist.checkpoints
         WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3",
    )
    .persistent(false)
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
    .persistent(false)
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
    .persistent(false)
    .bind(projection)
    .execute(&mut *connection)
    .await?;
    sqlx::query("SELECT 1 FROM projectionist.projections WHERE projection = $1 FOR UPDATE")
        .persistent(false)
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
                // Not left to whoever has the session next: the lock on the row would stay.
                transaction.rollback().await?;
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
    .persistent(false)
    .bind(&slot.projection)
    .bind(slot.partition.total().cast_signed())
    .bind(slot.partition.key().cast_signed())
    .bind(owner)
    .fetch_one(&mut *transaction)
    .await?;
    let lineage = Lineage::parse(lineage.as_deref()).map_err(|error| sqlx::Error::Decode(error.into()))?;
    // So that a process which freezes before its first beat can be told from one that never gives a sign of life.
    sqlx::query("INSERT INTO projectionist.workers (owner) VALUES ($1) ON CONFLICT DO NOTHING")
        .persistent(false)
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
    let rows: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(sql)).persistent(false).bind(projection).fetch_all(connection).await?;
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
        sqlx::query_as("SELECT owner, beat FROM projectionist.workers").persistent(false).fetch_all(connection).await?;
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
        ).persistent(false)
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
    .persistent(false)
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
