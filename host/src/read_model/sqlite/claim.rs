//! Claiming a partition in an SQLite read model.
//!
//! Who works on a partition holds a lock on a file of its own beside the read model. The lock ends with the
//! process, however that ends, so whoever stands by takes over at once.

use std::fs::{File, TryLockError};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use tokio::runtime::Handle;

use super::super::checkpoint::{Epoch, Slot};
use super::super::dead_letter::{Aggregate, Parked};
use super::super::store::{Claim, ClaimError};
use super::SqliteStore;
use crate::database::schema::Tables;
use crate::database::sqlite::{self, Durability};
use crate::database::{DatabaseError, DatabaseUrl};
use crate::event::Position;

/// Sees that read models can be kept in the folder of `base`.
///
/// # Errors
/// When it is no folder, or not writable.
pub fn check(base: &Path) -> Result<(), DatabaseError> {
    let folder = match base.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Under a name of its own, and gone when it is dropped: others may be looking at the same moment.
    match tempfile::Builder::new().prefix(".projectionist-").tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(error) => {
            let reason = error.to_string();
            Err(DatabaseError::File { path: base.to_owned(), doing: "keep read models beside", reason })
        }
    }
}

impl SqliteStore {
    /// Claims a partition in the file of its projection, making the file when it is missing.
    ///
    /// # Errors
    /// As [`super::super::ReadModel::claim`].
    pub fn claim(base: &Path, slot: &Slot, owner: &str, runtime: &Handle) -> Result<Claim, ClaimError> {
        let path = DatabaseUrl::projection_file(base, &slot.projection);
        let lock = lock(&path, slot)?;
        let mut connection = sqlite::open(&path, Tables::ReadModel, Durability::Consistent, runtime)?;
        let Some(lock) = lock else {
            return Err(ClaimError::Held { slot: slot.clone(), owner: recorded_owner(&connection, slot) });
        };
        let failed = |source| DatabaseError::Sqlite { path: path.clone(), doing: "claiming a partition", source };
        let row = raise_epoch(&mut connection, slot, owner).map_err(failed)?;
        let (position, epoch) = match row {
            Claimed::Row { position, epoch } => (position, epoch),
            Claimed::OtherTotal(found) => return Err(ClaimError::OtherTotal { slot: slot.clone(), found }),
        };
        let parked = parked(&connection, slot).map_err(failed)?;
        let store = Self::new(connection, lock, slot.clone(), position, epoch).map_err(failed)?;
        Ok(Claim { position, epoch, parked, store: Box::new(store) })
    }
}

/// Locks the file that stands for the partition; nothing when somebody else holds it.
fn lock(path: &Path, slot: &Slot) -> Result<Option<File>, DatabaseError> {
    let path = lock_file(path, slot);
    let failed =
        |error: std::io::Error| DatabaseError::File { path: path.clone(), doing: "lock", reason: error.to_string() };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The file that stands for a partition.
fn lock_file(path: &Path, slot: &Slot) -> std::path::PathBuf {
    sqlite::beside(path, &format!("{}of{}.lock", slot.partition.key(), slot.partition.total()))
}

/// Whether somebody works on a partition. A shared lock is enough to ask, and two who ask do not see each other.
pub(in super::super) fn is_held(path: &Path, slot: &Slot) -> bool {
    match File::open(lock_file(path, slot)) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Who holds the partition, as far as its row says.
fn recorded_owner(connection: &Connection, slot: &Slot) -> String {
    let sql = "SELECT owner FROM _projectionist_checkpoints
               WHERE projection = ?1 AND total_partitions = ?2 AND partition_key = ?3";
    let parameters = params![slot.projection, slot.partition.total(), slot.partition.key()];
    let owner = connection.query_row(sql, parameters, |row| row.get(0)).optional();
    owner.ok().flatten().unwrap_or_else(|| "another process".to_owned())
}

/// What a claim found.
enum Claimed {
    /// The partition's row, made when it was missing.
    Row {
        /// How far it is.
        position: Position,
        /// Its new epoch.
        epoch: Epoch,
    },
    /// Rows for another number of partitions.
    OtherTotal(u32),
}

/// Writes the claim.
fn raise_epoch(connection: &mut Connection, slot: &Slot, owner: &str) -> rusqlite::Result<Claimed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (key, total) = (slot.partition.key(), slot.partition.total());
    let other: Option<u32> = transaction
        .query_row(
            "SELECT total_partitions FROM _projectionist_checkpoints WHERE projection = ?1 AND total_partitions <> ?2",
            params![slot.projection, total],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(other) = other {
        return Ok(Claimed::OtherTotal(other));
    }
    let claimed = transaction.query_row(
        "INSERT INTO _projectionist_checkpoints (projection, total_partitions, partition_key, epoch, owner)
         VALUES (?1, ?2, ?3, 1, ?4)
         ON CONFLICT (projection, total_partitions, partition_key)
         DO UPDATE SET epoch = epoch + 1, owner = excluded.owner, updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
         RETURNING position, epoch",
        params![slot.projection, total, key, owner],
        |row| Ok(Claimed::Row { position: Position::from_sql(row.get(0)?), epoch: Epoch(row.get(1)?) }),
    )?;
    transaction.commit()?;
    Ok(claimed)
}

/// The parked aggregates of the partition.
fn parked(connection: &Connection, slot: &Slot) -> rusqlite::Result<Parked> {
    let mut statement = connection.prepare(
        "SELECT DISTINCT bounded_context, aggregate_type, aggregate_id FROM _projectionist_dead_letters
         WHERE projection = ?1 AND reason <> 'skipped'",
    )?;
    let aggregates = statement.query_map([&slot.projection], |row| {
        Ok(Aggregate { bounded_context: row.get(0)?, aggregate_type: row.get(1)?, aggregate_id: row.get(2)? })
    })?;
    let own = |aggregate: &rusqlite::Result<Aggregate>| match aggregate {
        Ok(aggregate) => slot.partition.owns(&aggregate.aggregate_id),
        Err(_) => true,
    };
    aggregates.filter(own).collect()
}
