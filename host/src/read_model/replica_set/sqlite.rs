//! Rosters beside SQLite read models, for processes of one machine: a small database a set, and a locked file a member.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::roster::{Member, Next, Roster};
use super::{Generation, KEPT, Life, Look, Membership, Overview};
use crate::database::DatabaseError;
use crate::database::sqlite;
use crate::read_model::sqlite::Locks;

/// The tables.
const TABLES: &str = include_str!("../../../../migrations/sqlite/replica_set/replica_set.sql");

/// How the file of a set ends.
const ENDING: &str = "replica-set";

/// A place in a set.
pub(super) struct Place {
    /// Where the roster is.
    connection: Connection,
    /// Its file.
    path: PathBuf,
    /// As whom.
    member: String,
    /// Locked for as long as this process lives.
    _lock: Arc<File>,
}

impl Place {
    /// Takes it.
    pub(super) fn take(base: &Path, locks: &Locks, set: &str, member: &str) -> Result<Self, DatabaseError> {
        let path = file_of(base, set);
        let file_failed = |path: &Path, error: &dyn std::fmt::Display| DatabaseError::File {
            path: path.to_owned(),
            doing: "join the replica set in",
            reason: error.to_string(),
        };
        File::options().create(true).append(true).open(&path).map_err(|error| file_failed(&path, &error))?;
        let connection = sqlite::open_existing(&path)?;
        let failed = |source| DatabaseError::Sqlite { path: path.clone(), doing: "joining a replica set", source };
        connection.execute_batch(TABLES).map_err(failed)?;
        let lock_path = lock_file(&path, member);
        let lock = File::options().create(true).truncate(false).read(true).write(true).open(&lock_path);
        let lock = lock.map_err(|error| file_failed(&lock_path, &error))?;
        lock.lock().map_err(|error| file_failed(&lock_path, &error))?;
        let lock = Arc::new(lock);
        locks.add(&lock);
        Ok(Self { connection, path, member: member.to_owned(), _lock: lock })
    }
}

impl Membership for Place {
    fn look(&mut self) -> Result<Look, DatabaseError> {
        let look = look(&self.connection, &self.path)?;
        let own_beat = match life(&self.path, &self.member) {
            Life::Beats(beat) if !look.roster.has(&self.member) => beat,
            Life::Beats(_) | Life::Ended => None,
        };
        Ok(Look { own_beat, ..look })
    }

    fn write(&mut self, generation: u64, next: &Next) -> Result<bool, DatabaseError> {
        let path = self.path.clone();
        let failed = |source| DatabaseError::Sqlite { path, doing: "writing the roster of a replica set", source };
        let written = write(&mut self.connection, &self.member, generation, next).map_err(failed)?;
        if written {
            for name in gone(&self.path, &next.roster) {
                std::fs::remove_file(name).ok();
            }
        }
        Ok(written)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_file(lock_file(&self.path, &self.member)).ok();
    }
}

/// All sets.
pub(super) fn all(base: &Path) -> Result<Vec<Overview>, DatabaseError> {
    let mut all = Vec::new();
    for name in sqlite::names_beside(base)? {
        let Some(set) = name.to_str().and_then(|name| name.strip_suffix(ENDING)?.strip_suffix('.')?.rsplit('.').next())
        else {
            continue;
        };
        let path = file_of(base, set);
        if path.file_name() != Some(&*name) {
            continue;
        }
        let connection = sqlite::open_existing(&path)?;
        // One that is being made just now.
        if !sqlite::has_table(&connection, "replica_generations").unwrap_or(false) {
            continue;
        }
        let failed = |source| DatabaseError::Sqlite { path: path.clone(), doing: "reading a replica set", source };
        let look = look(&connection, &path)?;
        let sql = "SELECT reason, moved, written_by, written_at FROM replica_generations WHERE generation = ?1";
        let last = connection.query_row(sql, [look.generation.cast_signed()], |row| {
            let (reason, moved, written_by, written_at) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Generation { generation: look.generation, reason, moved, written_by, written_at })
        });
        let last = last.optional().map_err(failed)?;
        let silent = silent(&path, &look.roster);
        all.push(Overview { name: set.to_owned(), look, silent, last });
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The set as it stands.
fn look(connection: &Connection, path: &Path) -> Result<Look, DatabaseError> {
    let failed = |source| DatabaseError::Sqlite { path: path.to_owned(), doing: "looking at a replica set", source };
    let row: Option<(i64, String)> = connection
        .query_row("SELECT generation, roster FROM replica_set", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(failed)?;
    let Some((generation, roster)) = row else { return Ok(Look::default()) };
    let roster: Roster = serde_json::from_str(&roster).map_err(|error| {
        failed(rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into()))
    })?;
    let lives = roster.members.iter().map(|member| (member.name.clone(), life(path, &member.name))).collect();
    Ok(Look { generation: generation.unsigned_abs(), roster, lives, own_beat: None })
}

/// Writes a roster where the one before it still stands.
fn write(connection: &mut Connection, by: &str, generation: u64, next: &Next) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let sql = "SELECT generation FROM replica_set";
    let found: i64 = transaction.query_row(sql, [], |row| row.get(0)).optional()?.unwrap_or(0);
    if found != generation.cast_signed() {
        return Ok(false);
    }
    let roster =
        serde_json::to_string(&next.roster).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    transaction.execute(
        "INSERT INTO replica_set (only, generation, roster) VALUES (1, ?1, ?2)
         ON CONFLICT (only) DO UPDATE SET generation = excluded.generation, roster = excluded.roster",
        params![found + 1, roster],
    )?;
    transaction.execute("DELETE FROM replica_generations WHERE generation <= ?1", [found - KEPT.cast_signed()])?;
    let (members, slots) = (next.roster.members.len().cast_signed(), next.roster.slots);
    transaction.execute(
        "INSERT INTO replica_generations (generation, reason, members, slots, moved, written_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![found + 1, next.reason, i64::try_from(members).unwrap_or(i64::MAX), slots, next.moved, by],
    )?;
    transaction.commit()?;
    Ok(true)
}

/// The file of a set. Its name is none that a projection's file could have.
fn file_of(base: &Path, set: &str) -> PathBuf {
    let stem = base.file_stem().unwrap_or_default().to_string_lossy();
    base.with_file_name(format!("{stem}.{set}.{ENDING}"))
}

/// The file that a member locks.
fn lock_file(path: &Path, member: &str) -> PathBuf {
    sqlite::beside(path, &format!("{}.lock", member.replace('/', "-")))
}

/// Whether a member lives. A shared lock is enough to ask, and two who ask do not see each other.
fn life(path: &Path, member: &str) -> Life {
    let file = match File::open(lock_file(path, member)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Life::Ended,
        // Too many open files, say: that is this process's trouble, and no reason to take the other for dead.
        Err(_) => return Life::Beats(None),
    };
    if file.try_lock_shared().is_ok() {
        return Life::Ended;
    }
    let mut beat = [0; 8];
    Life::Beats(file.read_exact_at(&mut beat, 0).is_ok().then(|| u64::from_le_bytes(beat)))
}

/// Of each member, how many seconds ago its last sign of life was: when it has written into its file.
fn silent(path: &Path, roster: &Roster) -> BTreeMap<String, f64> {
    let age = |member: &Member| {
        let written = std::fs::metadata(lock_file(path, &member.name)).and_then(|file| file.modified()).ok()?;
        Some((member.name.clone(), written.elapsed().unwrap_or_default().as_secs_f64()))
    };
    roster.members.iter().filter_map(age).collect()
}

/// Lock files of those who are not on the roster and do not live: nobody else takes them away.
fn gone(path: &Path, roster: &Roster) -> Vec<PathBuf> {
    let Some((folder, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let kept: Vec<PathBuf> = roster.members.iter().map(|member| lock_file(path, &member.name)).collect();
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|file| {
            let is_lock = file.file_name().and_then(|file| file.to_str()).is_some_and(|file| {
                file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".lock"))
            });
            let is_kept = kept.iter().any(|kept| kept.file_name() == file.file_name());
            // One that was made just now is not locked yet, and its owner not on the roster.
            let age = file.metadata().and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
            let is_old = age.is_some_and(|age| age > std::time::Duration::from_secs(60));
            is_lock && !is_kept && is_old && File::open(file).is_ok_and(|file| file.try_lock_shared().is_ok())
        })
        .collect()
}
