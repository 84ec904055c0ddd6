//! [`DatabaseError`]: every way in which a database cannot be used, worded for whoever has to mend it.
//!
//! A message says what happened and to what; [`DatabaseError::advice`] says what to do next, and
//! [`DatabaseError::is_configuration`] whether the user's settings are what is wrong (exit code 2) or the
//! world is (exit code 1).

use std::path::PathBuf;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The text is no database URL. It is not quoted, because it may hold a password.
    #[error("that is not a database URL: {reason}")]
    NotAUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// No connection came about.
    #[error("cannot connect to {database}: {source}")]
    Unreachable {
        /// Which database.
        database: String,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// No secure connection came about.
    #[error("no secure connection to {database}: {source}")]
    Tls {
        /// Which database.
        database: String,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// The server refused user or password.
    #[error("{database} refused the login: {message}")]
    LoginRefused {
        /// Which database.
        database: String,
        /// What the server said.
        message: String,
    },
    /// The server has no database of that name.
    #[error("{database} does not exist: {message}")]
    NoSuchDatabase {
        /// Which database.
        database: String,
        /// What the server said.
        message: String,
    },
    /// Its tables were never made.
    #[error("{database} has no {tables} tables yet")]
    Unmigrated {
        /// Which database.
        database: String,
        /// `events` or `read model`.
        tables: &'static str,
    },
    /// Its tables are older than this host.
    #[error("the {tables} tables of {database} are at version {found}, and this host works with version {wanted}")]
    Outdated {
        /// Which database.
        database: String,
        /// `events` or `read model`.
        tables: &'static str,
        /// The version there.
        found: i64,
        /// The version this host knows.
        wanted: i64,
    },
    /// Its tables lack something that came between others that are there.
    #[error("the {tables} tables of {database} lack what these migrations bring: {missing}")]
    Incomplete {
        /// Which database.
        database: String,
        /// `events` or `read model`.
        tables: &'static str,
        /// The versions of the migrations.
        missing: String,
    },
    /// Its tables were changed by a later host, to what this one cannot work with.
    #[error(
        "the {tables} tables of {database} were changed by a newer host, so that this one cannot work with them: it knows them \
         up to version {known}, and needs version {found}"
    )]
    Newer {
        /// Which database.
        database: String,
        /// `events` or `read model`.
        tables: &'static str,
        /// The version there.
        found: i64,
        /// The last version this host knows.
        known: i64,
    },
    /// The migrator failed.
    #[error("cannot bring the {tables} tables of {database} up to date: {source}")]
    Migration {
        /// Which database.
        database: String,
        /// `events` or `read model`.
        tables: &'static str,
        /// What the migrator said.
        source: sqlx::migrate::MigrateError,
    },
    /// A file cannot be opened, made or written.
    #[error("cannot {doing} {}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system or SQLite said.
        reason: String,
    },
    /// The events table cannot be read safely.
    #[error("the events table of {database} cannot be read without losing events: {reason}")]
    UnsafeEvents {
        /// Which database.
        database: String,
        /// What about it.
        reason: String,
    },
    /// The host's login may not see to the role that a projection's SQL runs as.
    #[error(transparent)]
    RoleRefused(Box<RoleRefused>),
    /// A projection is called as the host's user.
    #[error("no projection can be called {projection}: that is the user that the host logs in to {database} as")]
    NameOfLogin {
        /// Which database.
        database: String,
        /// Which projection.
        projection: String,
    },
    /// The server does not let the role of a projection in (`--isolation login`).
    #[error(transparent)]
    LoginOfRoleRefused(Box<LoginOfRoleRefused>),
    /// Somebody had the events table locked for as long as it was tried.
    #[error("the events table of {database} is in use: {by}")]
    EventsInUse {
        /// Which database.
        database: String,
        /// By whom.
        by: String,
    },
    /// The events table cannot be laid out by month as it is.
    #[error("the events table of {database} cannot be partitioned by month: {obstacles}")]
    CannotPartition {
        /// Which database.
        database: String,
        /// What is in the way, a line each.
        obstacles: String,
    },
    /// Somebody told the command to end for the second time, while it took back what keeps events out.
    #[error(
        "the constraint projectionist_until is still on the events table of {database}: events dated later than it says are refused"
    )]
    BoundLeft {
        /// Which database.
        database: String,
    },
    /// Somebody told the command to end.
    #[error("{database}: {doing} was interrupted")]
    Interrupted {
        /// Which database.
        database: String,
        /// What the host was doing.
        doing: &'static str,
    },
    /// A statement of the host's own failed on Postgres.
    #[error("{database}: {doing} failed: {source}")]
    Postgres {
        /// Which database.
        database: String,
        /// What the host was doing.
        doing: &'static str,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// A statement of the host's own failed on SQLite.
    #[error("{}: {doing} failed: {source}", path.display())]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What the host was doing.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// What a login may not do about the role of a projection, and who else can.
#[derive(Debug, thiserror::Error)]
#[error(
    "{database}: the SQL of {projection} is to run as the role {role}, and {login} may not see to that: {message}. An \
     administrator can run, in this database:{statements}"
)]
pub struct RoleRefused {
    /// Which database.
    pub database: String,
    /// Which projection.
    pub projection: String,
    /// Its role.
    pub role: String,
    /// The host's login.
    pub login: String,
    /// What the server said.
    pub message: String,
    /// What an administrator can run, a line each.
    pub statements: String,
}

/// A projection that is to log in by itself and may not, and who can change that.
#[derive(Debug, thiserror::Error)]
#[error(
    "{database}: {projection} is to log in by itself (--isolation login), and the server does not let it in: {message}. An \
     administrator can put this line into pg_hba.conf, above any that refuses it, and reload the server:\n    {line}"
)]
pub struct LoginOfRoleRefused {
    /// Which database.
    pub database: String,
    /// Which projection.
    pub projection: String,
    /// What the server said.
    pub message: String,
    /// The line for `pg_hba.conf`.
    pub line: String,
}

impl DatabaseError {
    /// What to do next, where there is something to say that the message does not.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::NotAUrl { .. } => Some("say postgres://user:password@host:5432/database or sqlite://file.db"),
            Self::Unreachable { .. } => Some("is the server running, and reachable from here at that address?"),
            Self::Tls { .. } => Some(
                "check sslmode, sslrootcert, sslcert and sslkey in the URL: the server's certificate has to come from that CA \
                 and, with verify-full, to name the host of the URL",
            ),
            Self::LoginRefused { .. } => {
                Some("check user and password in the URL (DATABASE_URL, READ_MODEL_URL), or PGPASSWORD")
            }
            Self::NoSuchDatabase { .. } => Some("create it (createdb), then run `host migrate`; or correct the URL"),
            Self::Unmigrated { .. } | Self::Outdated { .. } | Self::Incomplete { .. } => {
                Some("run `host migrate` with the same database URLs")
            }
            Self::Newer { .. } => {
                Some("use the newer host; tables that it has only added to would do for this one, too")
            }
            Self::Migration { .. } => {
                Some("nothing was changed by the migration that failed; mend the cause and run `host migrate` again")
            }
            Self::EventsInUse { .. } => Some(
                "events are stored and read as before, and writers were not kept waiting; run it again when that has ended",
            ),
            Self::CannotPartition { .. } => Some(
                "events are stored as before; do what stands there, and run it again: docs/operations.md, Events by month",
            ),
            Self::BoundLeft { .. } => Some(
                "ALTER TABLE events DROP CONSTRAINT projectionist_until; `host migrate` does that, too, and any `host doctor` tells of it",
            ),
            Self::Interrupted { .. } => Some("events are stored as before; run it again, and it goes on from there"),
            Self::RoleRefused(_) => Some(
                "run these statements once, as an administrator; or give the host's login CREATEROLE, and the ownership of \
                 what it made before, and it does that itself for each projection",
            ),
            Self::NameOfLogin { .. } => Some("run it under another name: --plugin NAME=FILE"),
            Self::LoginOfRoleRefused(_) => Some(
                "let it in as the message says: it has another password for each login; or run what you trust with --isolation role",
            ),
            Self::File { .. } => Some("check that the folder exists and that this user may write there"),
            Self::UnsafeEvents { .. } | Self::Postgres { .. } | Self::Sqlite { .. } => None,
        }
    }

    /// Whether it is the user's settings that have to change.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::NotAUrl { .. }
            | Self::LoginRefused { .. }
            | Self::NoSuchDatabase { .. }
            | Self::Unmigrated { .. }
            | Self::Outdated { .. }
            | Self::Incomplete { .. }
            | Self::CannotPartition { .. }
            | Self::Newer { .. }
            | Self::RoleRefused(_)
            | Self::LoginOfRoleRefused(_)
            | Self::NameOfLogin { .. }
            | Self::UnsafeEvents { .. } => true,
            Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::Migration { .. }
            | Self::File { .. }
            | Self::EventsInUse { .. }
            | Self::Interrupted { .. }
            | Self::BoundLeft { .. }
            | Self::Postgres { .. }
            | Self::Sqlite { .. } => false,
        }
    }

    /// Whether the same may succeed on a new connection: the old one is gone, or there was none to be had.
    #[must_use]
    pub fn is_lost_connection(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Tls { .. } => true,
            Self::Postgres { source, .. } => is_lost(source),
            _ => false,
        }
    }
}

/// Whether this error of the driver means that the connection is gone.
#[must_use]
pub fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Class 08 is connection exceptions; 57P01..57P03 a server that is shutting down, crashed or starting.
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| code.starts_with("08") || matches!(&*code, "57P01" | "57P02" | "57P03" | "53300")),
        _ => false,
    }
}
