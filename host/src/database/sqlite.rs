//! Opening SQLite files, the same way everywhere: in WAL mode, waiting for a busy file, made when missing.
//!
//! Statements run through rusqlite, in place on the caller's thread: a statement costs 1 µs there, against
//! 65 µs through a worker thread.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::runtime::Handle;

use super::DatabaseError;
use super::schema::{self, Tables};

/// Waits for another writer, for as long as it takes: SQLite has one at a time, and the others take their turn. The
/// pauses are short, because a batch takes milliseconds; SQLite's own handler sleeps up to 100 ms.
fn wait_for_the_writer(tries: i32) -> bool {
    std::thread::sleep(Duration::from_micros(500).saturating_mul(tries.clamp(1, 20).unsigned_abs()));
    true
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The disk, at every commit: for events, which exist nowhere else.
    EveryCommit,
    /// The disk, at WAL checkpoints only: for read models. After a power cut the file stands at an earlier
    /// commit, checkpoint and rows together, and the host goes on from there: nothing is lost or doubled.
    Consistent,
}

/// Opens a file that holds this set of tables, making it when it is missing or empty.
///
/// # Errors
/// When it cannot be opened or made, or its tables are not of this host's version.
pub fn open(
    path: &Path,
    tables: Tables,
    durability: Durability,
    runtime: &Handle,
) -> Result<Connection, DatabaseError> {
    let empty = std::fs::metadata(path).map_or(true, |file| file.len() == 0);
    if empty {
        schema::migrate_sqlite(path, tables, runtime)?;
    }
    let connection = open_existing(path)?;
    match schema::check_sqlite(path, &connection, tables) {
        // Without a table of anybody's it counts as missing. Or somebody is making it just now, and then this waits.
        Err(DatabaseError::Unmigrated { .. }) => {
            schema::migrate_sqlite_if_empty(path, &connection, tables, runtime)?;
            schema::check_sqlite(path, &connection, tables)?;
        }
        // An embedded database is the host's own: an older host's is brought up without a question.
        Err(DatabaseError::Outdated { .. } | DatabaseError::Incomplete { .. }) => {
            schema::migrate_sqlite(path, tables, runtime)?
        }
        checked => checked?,
    }
    let pragmas = match durability {
        Durability::EveryCommit => "PRAGMA synchronous = FULL",
        Durability::Consistent => "PRAGMA synchronous = NORMAL",
    };
    connection.execute_batch(pragmas).map_err(|error| file_error(path, "open", &error))?;
    Ok(connection)
}

/// Opens a file that must be there, whatever is in it.
///
/// # Errors
/// When it is missing, is no SQLite database, or cannot be written.
pub fn open_existing(path: &Path) -> Result<Connection, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_handler(Some(wait_for_the_writer))?;
        connection.set_prepared_statement_cache_capacity(256);
        connection.pragma_update(None, "journal_mode", "wal")?;
        Ok(connection)
    };
    let connection = open().map_err(|error| file_error(path, "open", &error))?;
    // SQLite falls back to read-only without a word; a host that finds out at its first commit is of no use.
    if connection.is_readonly("main").unwrap_or(false) {
        return Err(DatabaseError::File {
            path: path.to_owned(),
            doing: "write",
            reason: "the file is read-only for this user".into(),
        });
    }
    Ok(connection)
}

/// The name of a file that belongs to `path`: `x.db` and `lock` give `x.db.lock`.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a file has this table. Read from the file each time: rusqlite's own answer comes from what the connection
/// knew of the schema when it last looked, and misses a table that somebody else has made since.
///
/// # Errors
/// When it cannot be read.
pub fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1)";
    connection.query_row(sql, [name], |row| row.get(0))
}

/// The file of one projection's read model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectionFile {
    /// The projection, as the file's name says.
    pub projection: String,
    /// The file.
    pub path: PathBuf,
}

/// The names of the files in the folder of `base`.
///
/// # Errors
/// When the folder cannot be read.
pub fn names_beside(base: &Path) -> Result<Vec<OsString>, DatabaseError> {
    let folder = match base.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let failed = |error: std::io::Error| DatabaseError::File {
        path: folder.to_owned(),
        doing: "read",
        reason: error.to_string(),
    };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(failed)).collect()
}

/// The read models that stand beside `base` now, by name: `projectionist.db` has `projectionist.user_count.db`.
///
/// # Errors
/// When the folder cannot be read.
pub fn projection_files(base: &Path) -> Result<Vec<ProjectionFile>, DatabaseError> {
    let mut files = Vec::new();
    for name in names_beside(base)? {
        // `stem.NAME.db`: taking NAME out and putting it back must give the same file name.
        let Some(projection) = name.to_str().and_then(|name| name.split('.').rev().nth(1)) else { continue };
        let path = super::DatabaseUrl::projection_file(base, projection);
        if path.file_name() == Some(&name) {
            files.push(ProjectionFile { projection: projection.to_owned(), path });
        }
    }
    files.sort_by(|one, other| one.projection.cmp(&other.projection));
    Ok(files)
}

/// An error of opening.
fn file_error(path: &Path, doing: &'static str, error: &rusqlite::Error) -> DatabaseError {
    DatabaseError::File { path: path.to_owned(), doing, reason: error.to_string() }
}
