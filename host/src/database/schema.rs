//! The host's own tables: bringing them up, and refusing to work with ones this host does not understand.
//!
//! Two sets, because events and read models may live in two databases: [`Tables::Events`] and
//! [`Tables::ReadModel`]. Each has its migrations in `migrations/` and its own bookkeeping, so that the two
//! can share a database or not. Postgres is migrated by `host migrate` alone: it is somebody's production
//! database. An SQLite file is made when it is missing, because an embedded database is the host's own.
//!
//! # Old and new hosts together
//!
//! Hosts are replaced one after the other, so for a while an old one works on tables that `host migrate` of a new one has
//! changed, and may have to start on them. So **a migration adds**: tables, indexes, columns that are empty or have a default.
//! What the host writes names its columns, so what it does not know is no concern of its. A host starts on tables that have more
//! migrations than it knows. A migration that an older host could not work with (it takes away, renames, or changes what
//! something means) is named for it: its file is called `NNNN_breaking_….sql`. The migrator keeps that with the version, and a
//! host that does not know such a migration does not start.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::runtime::Handle;

use super::{DatabaseError, Postgres};

/// One of the two sets of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// `events` and `aggregate_heads`.
    Events,
    /// Checkpoints, dead letters, and which version each projection's tables have.
    ReadModel,
}

impl Tables {
    /// What to call it in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::ReadModel => "read model",
        }
    }

    /// Its migrations on Postgres.
    fn postgres(self) -> &'static Migrator {
        match self {
            Self::Events => &POSTGRES_EVENTS,
            Self::ReadModel => &POSTGRES_READ_MODEL,
        }
    }

    /// Its migrations on SQLite.
    fn sqlite(self) -> &'static Migrator {
        match self {
            Self::Events => &SQLITE_EVENTS,
            Self::ReadModel => &SQLITE_READ_MODEL,
        }
    }

    /// Where sqlx keeps which migrations have run.
    const fn bookkeeping(self) -> &'static str {
        match self {
            Self::Events => "projectionist._migrations_events",
            Self::ReadModel => "projectionist._migrations_read_model",
        }
    }
}

/// Where sqlx keeps which migrations of an SQLite file have run.
const SQLITE_BOOKKEEPING: &str = "_projectionist_migrations";

/// Puts the bookkeeping where it does not collide with that of the application whose database it is.
fn on_postgres(mut migrator: Migrator, tables: Tables) -> Migrator {
    migrator.create_schema("projectionist");
    migrator.dangerous_set_table_name(tables.bookkeeping());
    beside_newer(migrator)
}

/// As [`on_postgres`], in a file.
fn on_sqlite(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(SQLITE_BOOKKEEPING);
    beside_newer(migrator)
}

/// `migrations/postgres/events`
static POSTGRES_EVENTS: LazyLock<Migrator> =
    LazyLock::new(|| on_postgres(sqlx::migrate!("../migrations/postgres/events"), Tables::Events));
/// `migrations/postgres/read_model`
static POSTGRES_READ_MODEL: LazyLock<Migrator> =
    LazyLock::new(|| on_postgres(sqlx::migrate!("../migrations/postgres/read_model"), Tables::ReadModel));
/// `migrations/sqlite/events`
static SQLITE_EVENTS: LazyLock<Migrator> = LazyLock::new(|| on_sqlite(sqlx::migrate!("../migrations/sqlite/events")));
/// `migrations/sqlite/read_model`
static SQLITE_READ_MODEL: LazyLock<Migrator> =
    LazyLock::new(|| on_sqlite(sqlx::migrate!("../migrations/sqlite/read_model")));

/// How long a migration waits for a table that somebody uses. Whoever comes after it waits with it: hosts that apply events, and
/// writers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets a migrator pass over migrations of a newer host that are there already.
fn beside_newer(mut migrator: Migrator) -> Migrator {
    migrator.set_ignore_missing(true);
    migrator
}

/// What the migrator's books say: which migrations have run, and which of them older hosts cannot work with.
fn books(bookkeeping: &str) -> String {
    format!("SELECT version, description LIKE 'breaking %' FROM {bookkeeping} WHERE success ORDER BY version")
}

/// What was found in the books: a migration's version, and whether it is a breaking one.
type Found = Vec<(i64, bool)>;

/// For how long one `host migrate` waits for another. A migration of large tables takes minutes.
const TURN: Duration = Duration::from_secs(600);

/// Waits until no other `host migrate` is at work in this database; none is until the connection ends. The lock is that of the
/// migrator, which takes it once more when it runs.
///
/// # Errors
/// When the database fails, or another is at work for ten minutes.
pub(super) async fn take_turn(database: &Postgres, connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let failed = |error| database.error("waiting for another `host migrate`", error);
    // A server may allow its clients some seconds only.
    let patience = sqlx::AssertSqlSafe(format!("SET statement_timeout = 0; SET lock_timeout = {}", TURN.as_millis()));
    sqlx::raw_sql(patience).execute(&mut *connection).await.map_err(failed)?;
    let mut turn = connection.lock();
    let locked = match tokio::time::timeout(Duration::from_secs(1), &mut turn).await {
        Ok(locked) => locked,
        Err(_) => {
            tracing::info!("another `host migrate` is at work in this database: waiting until it has ended");
            turn.await
        }
    };
    locked.map_err(|error| match error {
        MigrateError::Execute(error) => failed(error),
        other => failed(sqlx::Error::Migrate(Box::new(other))),
    })
}

/// Brings one set of tables up on Postgres.
///
/// # Errors
/// When the server cannot be reached, or was migrated by a newer host to what this one cannot work with, or a migration fails.
pub async fn migrate_postgres(database: &Postgres, tables: Tables) -> Result<(), DatabaseError> {
    let mut connection = database.connect("projectionist migrate").await?;
    take_turn(database, &mut connection).await?;
    // Unmigrated or outdated is what this is for; a newer host's tables are not ours to touch.
    if let Err(newer @ DatabaseError::Newer { .. }) = check_postgres(database, &mut connection, tables).await {
        return Err(newer);
    }
    let failed =
        |source| DatabaseError::Migration { database: database.name().to_owned(), tables: tables.name(), source };
    let patience = sqlx::AssertSqlSafe(format!("SET lock_timeout = {}", PATIENCE.as_millis()));
    sqlx::raw_sql(patience).execute(&mut connection).await.map_err(|error| failed(error.into()))?;
    let result = tables.postgres().run(&mut connection).await;
    connection.close().await.ok();
    result.map_err(failed)
}

/// Sees that one set of tables is there, at the version this host works with. An events table that some
/// other system made is taken as it is.
///
/// # Errors
/// [`DatabaseError::Unmigrated`], [`DatabaseError::Outdated`], [`DatabaseError::Newer`].
pub async fn check_postgres(
    database: &Postgres,
    connection: &mut PgConnection,
    tables: Tables,
) -> Result<(), DatabaseError> {
    let failed = |source| database.error("looking for the host's tables", source);
    let found: Found = {
        let known: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(tables.bookkeeping())
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        if known {
            let books = sqlx::AssertSqlSafe(books(tables.bookkeeping()));
            sqlx::query_as(books).fetch_all(&mut *connection).await.map_err(failed)?
        } else {
            Found::new()
        }
    };
    if found.is_empty() && tables == Tables::Events {
        let foreign: bool = sqlx::query_scalar("SELECT to_regclass('events') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        if foreign {
            return Ok(());
        }
    }
    judge(database.name(), tables, &found, tables.postgres())
}

/// Brings one set of tables up in an SQLite file, making the file when it is missing.
///
/// # Errors
/// When the file cannot be made or opened, was migrated by a newer host, or a migration fails.
pub fn migrate_sqlite(path: &Path, tables: Tables, runtime: &Handle) -> Result<(), DatabaseError> {
    let _lock = lock_migration(path)?;
    migrate_locked(path, tables, runtime)
}

/// As [`migrate_sqlite`], if the file holds no tables of anybody's when nobody else is making them.
///
/// # Errors
/// As [`migrate_sqlite`].
pub fn migrate_sqlite_if_empty(
    path: &Path,
    connection: &rusqlite::Connection,
    tables: Tables,
    runtime: &Handle,
) -> Result<(), DatabaseError> {
    let _lock = lock_migration(path)?;
    // The bookkeeping alone is what a process leaves that was killed while it made the file: the migrator makes that
    // table first, and each migration in a transaction.
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_master
                              WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> ?1)";
    let failed = |source| DatabaseError::Sqlite { path: path.to_owned(), doing: "looking for tables", source };
    if connection.query_row(sql, [SQLITE_BOOKKEEPING], |row| row.get(0)).map_err(failed)? {
        return Ok(());
    }
    migrate_locked(path, tables, runtime)
}

/// SQLite has no advisory lock, and several workers may meet a missing file at once: a locked file beside it lets
/// one of them make it.
fn lock_migration(path: &Path) -> Result<std::fs::File, DatabaseError> {
    let failed = |error: std::io::Error| DatabaseError::File {
        path: path.to_owned(),
        doing: "create",
        reason: error.to_string(),
    };
    let file = std::fs::File::create(super::sqlite::beside(path, "migrate-lock")).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Runs the migrations, under the lock.
fn migrate_locked(path: &Path, tables: Tables, runtime: &Handle) -> Result<(), DatabaseError> {
    // Unmigrated or outdated is what this is for; what a newer host made of it is not ours to touch.
    if path.exists() {
        let connection = super::sqlite::open_existing(path)?;
        if let Err(newer @ DatabaseError::Newer { .. }) = check_sqlite(path, &connection, tables) {
            return Err(newer);
        }
    }
    runtime.block_on(async {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .disable_statement_logging();
        let mut connection = sqlx::SqliteConnection::connect_with(&options)
            .await
            .map_err(|error| DatabaseError::File { path: path.to_owned(), doing: "open", reason: error.to_string() })?;
        let result = tables.sqlite().run(&mut connection).await;
        connection.close().await.ok();
        let database = path.display().to_string();
        result.map_err(|source| DatabaseError::Migration { database, tables: tables.name(), source })
    })
}

/// As [`check_postgres`], for a file.
///
/// # Errors
/// As [`check_postgres`].
pub fn check_sqlite(path: &Path, connection: &rusqlite::Connection, tables: Tables) -> Result<(), DatabaseError> {
    let failed =
        |source| DatabaseError::Sqlite { path: path.to_owned(), doing: "looking for the host's tables", source };
    let known = super::sqlite::has_table(connection, SQLITE_BOOKKEEPING).map_err(failed)?;
    let found: Found = if known {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let read_all = || -> rusqlite::Result<Found> {
            connection.prepare(&books(SQLITE_BOOKKEEPING))?.query_map([], read)?.collect()
        };
        read_all().map_err(failed)?
    } else {
        Found::new()
    };
    if found.is_empty() && tables == Tables::Events && super::sqlite::has_table(connection, "events").map_err(failed)? {
        return Ok(());
    }
    judge(&path.display().to_string(), tables, &found, tables.sqlite())
}

/// What the migrations found there mean.
fn judge(database: &str, tables: Tables, found: &[(i64, bool)], migrator: &Migrator) -> Result<(), DatabaseError> {
    let (database, tables) = (database.to_owned(), tables.name());
    let known: Vec<i64> = migrator.iter().map(|migration| migration.version).collect();
    let (wanted, last) = (known.iter().max().copied().unwrap_or(0), found.iter().map(|(version, _)| *version).max());
    let Some(last) = last else { return Err(DatabaseError::Unmigrated { database, tables }) };
    // Whatever its number: a release that branched off before may have brought it. And first of all, because what it changed is
    // not to be migrated by this host either.
    if let Some((found, _)) = found.iter().rfind(|(version, breaking)| *breaking && !known.contains(version)) {
        return Err(DatabaseError::Newer { database, tables, found: *found, known: wanted });
    }
    if last < wanted {
        return Err(DatabaseError::Outdated { database, tables, found: last, wanted });
    }
    // One that was added with a lower number, by a release that branched off before, is not told by the last one.
    let is_there = |wanted: &i64| found.iter().any(|(version, _)| version == wanted);
    let missing: Vec<String> = known.iter().filter(|known| !is_there(known)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DatabaseError::Incomplete { database, tables, missing: missing.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaking_migration_of_another_host_is_noticed_whatever_its_number() {
        let migrator = Tables::Events.postgres();
        let known: Found = migrator.iter().map(|migration| (migration.version, true)).collect();
        judge("shop", Tables::Events, &known, migrator).expect("what this host brought itself");
        for (number, breaking) in [(0, true), (0, false), (999, true), (999, false)] {
            let mut found = known.clone();
            found.push((number, breaking));
            found.sort_unstable();
            let newer = matches!(
                judge("shop", Tables::Events, &found, migrator),
                Err(DatabaseError::Newer { found, .. }) if found == number
            );
            assert_eq!(newer, breaking, "{number}");
        }
        // Also where this host would have something to add.
        let refused = judge("shop", Tables::Events, &[(0, true)], migrator);
        assert!(matches!(refused, Err(DatabaseError::Newer { .. })), "{refused:?}");
    }
}
