//! Rebuilding a read model in SQLite: a file of its own, and a swap that copies its pages over the live one's.
//!
//! A file that others have open cannot be replaced by renaming another over it: they go on with the old one, and
//! whoever opens the new one finds the old one's `-wal` beside it. So the swap is SQLite's own online backup, from
//! the rebuilt file into the live one. In WAL mode that is one write transaction of the live file like any other: its
//! readers see the old pages until they begin anew, and all new ones after; a writer waits for its turn; a process
//! that is killed in the middle leaves frames in the WAL that no commit follows, which count for nothing. The schema's
//! version changes with it, so statements that others have prepared are prepared again.
//!
//! A backup copies pages, and cannot change them. So the rows of checkpoints and dead letters get the live names
//! *before*, in the rebuilt file, and the epochs that are higher than any of the live file. No claim may come in
//! between, and none can: claims of a projection take turns by a locked file, and the swap takes it as well.
//!
//! A swap that was interrupted before the backup's commit leaves a rebuilt file with the live names in it; one that
//! was interrupted after it leaves the same, of no more use. The time at which the tables got their version tells the
//! two apart: the swap writes its own there, and finds it in the live file if it was done.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::runtime::Handle;

use super::super::pause;
use super::super::sqlite::{found, one_at_a_time};
use super::{RebuildError, Successor, Swap, name_of, signature, successors};
use crate::database::schema::Tables;
use crate::database::sqlite::{self, Durability};
use crate::database::{DatabaseError, DatabaseUrl};

/// How long to wait before a busy file is tried again.
const BUSY: Duration = Duration::from_millis(10);

/// The host's tables whose rows are a projection's.
const OWN_TABLES: [&str; 3] = ["checkpoints", "dead_letters", "projections"];

/// What operators ask of the workers of a projection.
const REQUESTS: &str = "_projectionist_dead_letter_requests";

/// The right to rebuild a projection: a locked file.
#[derive(Debug)]
pub struct Rebuild {
    /// The live file.
    live: PathBuf,
    /// The rebuilt one.
    file: PathBuf,
    /// Which projection.
    projection: String,
    /// Who rebuilds.
    owner: String,
    /// Where migrations run.
    runtime: Handle,
    /// Ends with the process.
    _lock: File,
}

impl Rebuild {
    /// Takes the lock, and settles what an interrupted swap has left.
    pub(super) fn begin(base: &Path, projection: &str, owner: &str, runtime: Handle) -> Result<Self, RebuildError> {
        let live = DatabaseUrl::projection_file(base, projection);
        let file = DatabaseUrl::projection_file(base, &name_of(projection));
        let lock = lock(&live, projection, owner)?;
        let (projection, owner) = (projection.to_owned(), owner.to_owned());
        let rebuild = Self { live, file, projection, owner, runtime, _lock: lock };
        rebuild.settle()?;
        Ok(rebuild)
    }

    /// Opens a file.
    fn open(&self, path: &Path) -> Result<Connection, DatabaseError> {
        sqlite::open(path, Tables::ReadModel, Durability::EveryCommit, &self.runtime)
    }

    /// Brings a rebuilt file back to where it was before a swap that did not happen, or removes it after one that did.
    fn settle(&self) -> Result<(), DatabaseError> {
        if !self.file.exists() {
            // What is left of one that is being removed.
            return self.remove();
        }
        let mut connection = self.open(&self.file)?;
        let failed = |source| self.failed("settling an interrupted rebuild", source);
        let Some(mark) = mark(&connection, &self.projection).map_err(failed)? else { return Ok(()) };
        if self.live.exists() && mark_of(&self.live, &self.projection)?.as_ref() == Some(&mark) {
            drop(connection);
            return self.remove();
        }
        let mut run = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            rename(&transaction, &self.projection, &name_of(&self.projection))?;
            transaction.commit()
        };
        run().map_err(failed)
    }

    /// See [`super::Rebuild::prepare`].
    pub(super) fn prepare(&mut self) -> Result<(), RebuildError> {
        if self.file.exists() || !self.live.exists() {
            return Ok(());
        }
        // A backup into a file in WAL mode cannot change the size of its pages.
        let live = sqlite::open_existing(&self.live)?;
        let size: i64 = live
            .pragma_query_value(None, "page_size", |row| row.get(0))
            .map_err(|source| self.failed("reading the page size", source))?;
        let make = || -> rusqlite::Result<()> {
            let connection = Connection::open(&self.file)?;
            connection.pragma_update(None, "page_size", size)?;
            connection.pragma_update(None, "journal_mode", "wal")
        };
        make().map_err(|source| self.failed("making the file of a rebuild", source))?;
        Ok(())
    }

    /// See [`super::Rebuild::discard`].
    pub(super) fn discard(&mut self) -> Result<(), RebuildError> {
        Ok(self.remove()?)
    }

    /// Removes the rebuilt file with all that stands beside it. The file itself first: without it the others are
    /// nothing, and SQLite removes a `-wal` that it finds beside a file that is new.
    fn remove(&self) -> Result<(), DatabaseError> {
        let failed = |path: &Path, error: std::io::Error| DatabaseError::File {
            path: path.to_owned(),
            doing: "remove",
            reason: error.to_string(),
        };
        let remove = |path: &Path| match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, error)),
            _ => Ok(()),
        };
        remove(&self.file)?;
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
            let entry = entry.map_err(|error| failed(folder, error))?;
            // `-wal`, `-shm`, and locks: `.0of1.lock`.
            let found = entry.file_name();
            if found.to_string_lossy().strip_prefix(&name).is_some_and(|rest| rest.starts_with(['-', '.'])) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// See [`super::Rebuild::swap`].
    pub(super) fn swap(&mut self) -> Result<Swap, RebuildError> {
        let _claims = one_at_a_time(&self.live)?;
        let failed = |source| self.failed("swapping a rebuilt read model in", source);
        let mut live = self.open(&self.live)?;
        let mut rebuilt = self.open(&self.file)?;
        self.take_names(&mut rebuilt, &live).map_err(failed)?;
        let mut copy = || -> rusqlite::Result<()> {
            let backup = Backup::new(&rebuilt, &mut live)?;
            // In one step: between two of them, the file would be written by nobody and yet locked.
            while backup.step(-1)? != StepResult::Done {
                std::thread::sleep(BUSY);
            }
            Ok(())
        };
        copy().map_err(failed)?;
        drop((live, rebuilt));
        self.remove()?;
        Ok(Swap::Done)
    }

    /// Gives the rows of the rebuilt file the live names, and its checkpoints what the live file's workers go on with.
    fn take_names(&self, rebuilt: &mut Connection, live: &Connection) -> rusqlite::Result<()> {
        let transaction = rebuilt.transaction_with_behavior(TransactionBehavior::Immediate)?;
        rename(&transaction, &name_of(&self.projection), &self.projection)?;
        let successors = successors(&found(live, &self.projection)?, &found(&transaction, &self.projection)?);
        transaction.execute("DELETE FROM _projectionist_checkpoints", [])?;
        // What was asked was about dead letters that are no more. Their numbers are not given again: whoever waits for an
        // answer is not to take that of another.
        transaction.execute(&format!("DELETE FROM {REQUESTS}"), [])?;
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?1";
        let last: Option<i64> = live.query_row(sql, [REQUESTS], |row| row.get(0)).optional()?;
        transaction.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [REQUESTS])?;
        let sql = "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)";
        transaction.execute(sql, params![REQUESTS, last.unwrap_or(0)])?;
        pause::carry(live, &transaction, &self.projection)?;
        for Successor { row, term, plugin_version, plugin_digest } in successors {
            transaction.execute(
                "INSERT INTO _projectionist_checkpoints (projection, total_partitions, partition_key, position, epoch,
                     owner, lineage, events_applied, term, plugin_version, plugin_digest)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                params![
                    self.projection,
                    row.partition.total(),
                    row.partition.key(),
                    row.position.to_sql(),
                    row.epoch,
                    signature(&self.owner),
                    row.lineage.to_json(),
                    row.events_applied.cast_signed(),
                    term.0,
                    plugin_version,
                    plugin_digest,
                ],
            )?;
        }
        transaction.execute(
            "UPDATE _projectionist_projections SET migrated_at = ?2 WHERE projection = ?1",
            params![self.projection, crate::timestamp::format(crate::timestamp::now())],
        )?;
        transaction.commit()
    }

    /// See [`super::Rebuild::empty`].
    pub(super) fn empty(&mut self) -> Result<Swap, RebuildError> {
        let _claims = one_at_a_time(&self.live)?;
        let mut live = self.open(&self.live)?;
        let signature = signature(&self.owner);
        let mut empty = || -> rusqlite::Result<()> {
            // The order of the tables is nobody's business: they all go.
            live.pragma_update(None, "foreign_keys", false)?;
            let transaction = live.transaction_with_behavior(TransactionBehavior::Immediate)?;
            drop_tables(&transaction)?;
            let epoch = highest_epoch(&transaction, &self.projection)?;
            transaction.execute(
                "UPDATE _projectionist_checkpoints SET position = 0, lineage = NULL, events_applied = 0, epoch = ?2,
                     owner = ?3, plugin_version = 0, plugin_digest = '',
                     updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
                 WHERE projection = ?1",
                params![self.projection, epoch + 1, signature],
            )?;
            transaction.execute("DELETE FROM _projectionist_dead_letters WHERE projection = ?1", [&self.projection])?;
            transaction
                .execute("DELETE FROM _projectionist_dead_letter_requests WHERE projection = ?1", [&self.projection])?;
            transaction.execute("DELETE FROM _projectionist_projections WHERE projection = ?1", [&self.projection])?;
            transaction.commit()
        };
        empty().map_err(|source| DatabaseError::Sqlite {
            path: self.live.clone(),
            doing: "emptying a read model",
            source,
        })?;
        Ok(Swap::Done)
    }

    /// An error of a statement.
    fn failed(&self, doing: &'static str, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite { path: self.file.clone(), doing, source }
    }
}

/// Locks the file that says who rebuilds, and writes there who does. It stands beside the live file, and stays: to
/// remove a lock file is to let two have it.
fn lock(live: &Path, projection: &str, owner: &str) -> Result<File, RebuildError> {
    let path = sqlite::beside(live, "rebuild.lock");
    let failed =
        |error: std::io::Error| DatabaseError::File { path: path.clone(), doing: "lock", reason: error.to_string() };
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            file.write_all(owner.as_bytes()).map_err(failed)?;
            Ok(file)
        }
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner).map_err(failed)?;
            let owner = if owner.is_empty() { "another process".to_owned() } else { owner };
            Err(RebuildError::Running { projection: projection.to_owned(), owner })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error).into()),
    }
}

/// The highest epoch of a projection's claims.
fn highest_epoch(connection: &Connection, projection: &str) -> rusqlite::Result<i64> {
    let sql = "SELECT coalesce(max(epoch), 0) FROM _projectionist_checkpoints WHERE projection = ?1";
    connection.query_row(sql, [projection], |row| row.get(0))
}

/// Since when the tables of a projection have their version: different for each swap.
fn mark(connection: &Connection, projection: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT migrated_at FROM _projectionist_projections WHERE projection = ?1";
    connection.query_row(sql, [projection], |row| row.get(0)).optional()
}

/// As [`mark`], of a file.
fn mark_of(path: &Path, projection: &str) -> Result<Option<String>, DatabaseError> {
    let connection = sqlite::open_existing(path)?;
    mark(&connection, projection).map_err(|source| DatabaseError::Sqlite {
        path: path.to_owned(),
        doing: "looking for a swap",
        source,
    })
}

/// Gives the rows of one projection to another, which has none.
fn rename(transaction: &Transaction<'_>, from: &str, to: &str) -> rusqlite::Result<()> {
    for table in OWN_TABLES {
        let sql = format!("UPDATE _projectionist_{table} SET projection = ?2 WHERE projection = ?1");
        transaction.execute(&sql, [from, to])?;
    }
    Ok(())
}

/// Drops whatever a projection has made.
fn drop_tables(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    // Indexes and triggers go with their tables; and a view may stand on another that is gone already.
    let sql = "SELECT type, name FROM sqlite_master
               WHERE type IN ('view', 'table') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
                 AND name NOT LIKE '\\_projectionist\\_%' ESCAPE '\\' AND name <> 'projection_checkpoints'
               ORDER BY type = 'table'";
    let found: Vec<(String, String)> = transaction
        .prepare(sql)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (kind, name) in found {
        let sql = format!("DROP {kind} \"{}\"", name.replace('"', "\"\""));
        transaction.execute_batch(&sql)?;
    }
    Ok(())
}
