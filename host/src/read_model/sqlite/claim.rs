//! Claiming a partition in an SQLite read model: see [`super::super::claim`] for the rules.
//!
//! Who works on a partition holds a lock on a file of its own beside the read model. The lock ends with the
//! process, however that ends, so whoever stands by takes over at once. The file holds the process's sign of life, a
//! number that grows.

use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::runtime::Handle;

use super::super::checkpoint::{Epoch, Slot, Term};
use super::super::claim::{Claimed, Found, Holder, Plan, Replacement, UNNAMED, Written};
use super::super::dead_letter::{Aggregate, Parked};
use super::super::heartbeat::Heartbeat;
use super::super::store::{Claim, ClaimError};
use super::SqliteStore;
use crate::database::schema::Tables;
use crate::database::sqlite::{self, Durability};
use crate::database::{DatabaseError, DatabaseUrl};
use crate::event::Position;
use crate::partition::lineage::Lineage;

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

/// The lock files that this process holds: each is to show that the process lives.
#[derive(Clone, Debug, Default)]
pub struct Locks(Arc<Mutex<Vec<Weak<File>>>>);

impl Locks {
    /// Beats in this file, too, for as long as somebody holds it; for the first time now, so that a process which
    /// freezes before its next beat can be told from one that never gives a sign of life.
    pub(in super::super) fn add(&self, file: &Arc<File>) {
        file.write_all_at(&rand::random::<u64>().to_le_bytes(), 0).ok();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(file));
    }

    /// Writes a sign of life into each file.
    fn beat(&self, beat: u64) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| match file.upgrade() {
            // One that cannot be written, on a full disk say, only makes this process look frozen.
            Some(file) => file.write_all_at(&beat.to_le_bytes(), 0).is_ok() || Arc::strong_count(&file) > 1,
            None => false,
        });
    }
}

/// Gives a sign of life: in each lock file that this process holds, a number that grows.
///
/// # Errors
/// When the system has no thread for it.
pub fn beat(locks: Locks) -> std::io::Result<Heartbeat> {
    // Whoever had the files before must not have left the same number.
    let mut number: u64 = rand::random::<u64>() >> 1;
    Heartbeat::start(move || {
        number += 1;
        locks.beat(number);
    })
}

impl SqliteStore {
    /// Claims a partition in the file of its projection, making the file when it is missing.
    ///
    /// # Errors
    /// As [`super::super::ReadModel::claim`].
    pub fn claim(base: &Path, slot: &Slot, owner: &str, runtime: &Handle, locks: &Locks) -> Result<Claim, ClaimError> {
        let path = DatabaseUrl::projection_file(base, &slot.projection);
        let failed = |source| DatabaseError::Sqlite { path: path.clone(), doing: "claiming a partition", source };
        let held = |holders| ClaimError::Held { slot: slot.clone(), holders };
        let mut connection = sqlite::open(&path, Tables::ReadModel, Durability::Consistent, runtime)?;
        let mut term = recorded_term(&connection, slot).map_err(failed)?.unwrap_or_default();
        loop {
            let Some(lock) = lock(&path, slot, term)? else {
                return Err(held(vec![holder(&connection, &path, slot, term).map_err(failed)?]));
            };
            let one_at_a_time = one_at_a_time(&path)?;
            let claimed = match write_claim(&mut connection, &path, slot, owner, term).map_err(failed)? {
                Written::Claimed(claimed) => claimed,
                // The lock that was free is not the one that counts.
                Written::OtherTerm(other) => {
                    term = other;
                    continue;
                }
                Written::Held(holders) => return Err(held(holders)),
            };
            drop(one_at_a_time);
            let Claimed { position, epoch, lineage } = claimed;
            let parked = parked(&connection, slot).map_err(failed)?;
            let lock = Arc::new(lock);
            locks.add(&lock);
            let known_until = lineage.until();
            let store = Self::new(connection, lock, slot.clone(), position, epoch, known_until).map_err(failed)?;
            return Ok(Claim { position, lineage, epoch, parked, store: Box::new(store) });
        }
    }
}

/// Replaces a worker: see [`super::super::ReadModel::depose`]. One that is frozen in the middle of a transaction keeps
/// the file locked, and is waited for.
///
/// # Errors
/// When the file cannot be opened or written.
pub fn depose(base: &Path, holder: &Holder, by: &str, runtime: &Handle) -> Result<bool, DatabaseError> {
    let path = DatabaseUrl::projection_file(base, &holder.slot.projection);
    let Some(epoch) = holder.epoch else { return Ok(false) };
    let connection = sqlite::open(&path, Tables::ReadModel, Durability::Consistent, runtime)?;
    let _one_at_a_time = one_at_a_time(&path)?;
    let (partition, projection) = (holder.slot.partition, &holder.slot.projection);
    let changed = connection.execute(
        "UPDATE _projectionist_checkpoints SET term = term + 1, epoch = epoch + 1, owner = ?5,
             updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
         WHERE projection = ?1 AND total_partitions = ?2 AND partition_key = ?3 AND epoch = ?4",
        params![projection, partition.total(), partition.key(), epoch.0, by],
    );
    let doing = "replacing a worker that gives no sign of life";
    changed.map(|rows| rows > 0).map_err(|source| DatabaseError::Sqlite { path, doing, source })
}

/// Waits until no other claim of this projection is being written. Whoever changes the checkpoints past the workers
/// holds it, too.
///
/// # Errors
/// When the file beside the read model cannot be made or locked.
pub(in super::super) fn one_at_a_time(path: &Path) -> Result<File, DatabaseError> {
    let path = sqlite::beside(path, "claim.lock");
    let failed =
        |error: std::io::Error| DatabaseError::File { path: path.clone(), doing: "lock", reason: error.to_string() };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Locks the file that stands for the partition; nothing when somebody else holds it.
fn lock(path: &Path, slot: &Slot, term: Term) -> Result<Option<File>, DatabaseError> {
    let path = lock_file(path, slot, term);
    let failed =
        |error: std::io::Error| DatabaseError::File { path: path.clone(), doing: "lock", reason: error.to_string() };
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The file that stands for a partition in a term.
fn lock_file(path: &Path, slot: &Slot, term: Term) -> PathBuf {
    let partition = slot.partition;
    let term = if term == Term::default() { String::new() } else { format!(".term{}", term.0) };
    sqlite::beside(path, &format!("{}of{}{term}.lock", partition.key(), partition.total()))
}

/// Whether somebody works on a partition. A shared lock is enough to ask, and two who ask do not see each other.
pub(in super::super) fn is_held(path: &Path, slot: &Slot, term: Term) -> bool {
    match File::open(lock_file(path, slot, term)) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// The sign of life in the file that stands for a partition.
fn last_beat(path: &Path, slot: &Slot, term: Term) -> Option<u64> {
    let mut beat = [0; 8];
    File::open(lock_file(path, slot, term)).and_then(|file| file.read_exact_at(&mut beat, 0)).ok()?;
    Some(u64::from_le_bytes(beat))
}

/// Which lock stands for the partition, if it has a row.
fn recorded_term(connection: &Connection, slot: &Slot) -> rusqlite::Result<Option<Term>> {
    let sql = "SELECT term FROM _projectionist_checkpoints
               WHERE projection = ?1 AND total_partitions = ?2 AND partition_key = ?3";
    let parameters = params![slot.projection, slot.partition.total(), slot.partition.key()];
    connection.query_row(sql, parameters, |row| Ok(Term(row.get(0)?))).optional()
}

/// Who holds the partition, as far as its row says.
fn holder(connection: &Connection, path: &Path, slot: &Slot, term: Term) -> rusqlite::Result<Holder> {
    let sql = "SELECT owner, epoch FROM _projectionist_checkpoints
               WHERE projection = ?1 AND total_partitions = ?2 AND partition_key = ?3 AND owner <> ''";
    let parameters = params![slot.projection, slot.partition.total(), slot.partition.key()];
    let row: Option<(String, i64)> =
        connection.query_row(sql, parameters, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (owner, epoch) = row.map_or((UNNAMED.to_owned(), None), |(owner, epoch)| (owner, Some(Epoch(epoch))));
    Ok(Holder { slot: slot.clone(), owner, epoch, beat: last_beat(path, slot, term) })
}

/// Writes the claim, holding the lock of `term`.
fn write_claim(
    connection: &mut Connection,
    path: &Path,
    slot: &Slot,
    owner: &str,
    term: Term,
) -> rusqlite::Result<Written> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let counts = match Plan::new(slot.partition, found(&transaction, &slot.projection)?) {
        Plan::Claim { term } => term,
        Plan::Replace(replacement) => {
            let is_held = |slot: &Slot, term| is_held(path, slot, term);
            let holders = replacement.holders(&slot.projection, is_held, |slot, term, _| last_beat(path, slot, term));
            if !holders.is_empty() {
                return Ok(Written::Held(holders));
            }
            replace(&transaction, slot, &replacement)?;
            replacement.term
        }
    };
    if counts != term {
        transaction.commit()?;
        return Ok(Written::OtherTerm(counts));
    }
    let claimed = transaction.query_row(
        "INSERT INTO _projectionist_checkpoints (projection, total_partitions, partition_key, epoch, owner)
         VALUES (?1, ?2, ?3, 1, ?4)
         ON CONFLICT (projection, total_partitions, partition_key)
         DO UPDATE SET epoch = epoch + 1, owner = excluded.owner, updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
         RETURNING position, epoch, lineage",
        params![slot.projection, slot.partition.total(), slot.partition.key(), owner],
        |row| {
            let lineage: Option<String> = row.get(2)?;
            let lineage = Lineage::parse(lineage.as_deref()).map_err(|error| no_lineage(2, error))?;
            Ok(Claimed { position: Position::from_sql(row.get(0)?), epoch: Epoch(row.get(1)?), lineage })
        },
    )?;
    transaction.commit()?;
    Ok(Written::Claimed(claimed))
}

/// The error of a column that holds no lineage.
pub(in super::super) fn no_lineage(column: usize, error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
}

/// The checkpoints of a projection.
pub(in super::super) fn found(connection: &Connection, projection: &str) -> rusqlite::Result<Vec<Found>> {
    let mut statement = connection.prepare(
        "SELECT total_partitions, partition_key, position, epoch, lineage, events_applied, owner, term, plugin_version,
             plugin_digest
         FROM _projectionist_checkpoints WHERE projection = ?1",
    )?;
    let rows = statement.query_map([projection], |row| {
        let columns = row.try_into()?;
        Found::new(columns).map_err(|error| no_lineage(4, error))
    })?;
    rows.collect()
}

/// Writes the rows of another number of partitions in place of the old ones.
fn replace(transaction: &Transaction<'_>, slot: &Slot, replacement: &Replacement) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM _projectionist_checkpoints WHERE projection = ?1", [&slot.projection])?;
    let mut insert = transaction.prepare(
        "INSERT INTO _projectionist_checkpoints (projection, total_partitions, partition_key, position, epoch, lineage,
             events_applied, term, plugin_version, plugin_digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for row in &replacement.rows {
        insert.execute(params![
            slot.projection,
            row.partition.total(),
            row.partition.key(),
            row.position.to_sql(),
            row.epoch,
            row.lineage.to_json(),
            row.events_applied.cast_signed(),
            replacement.term.0,
            replacement.plugin_version,
            replacement.plugin_digest,
        ])?;
    }
    replacement.tell(&slot.projection);
    Ok(())
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
