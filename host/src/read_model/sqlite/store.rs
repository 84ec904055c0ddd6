//! The transaction of a worker on SQLite. Statements run in place, on the worker's thread, as they come.

use std::fs;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::checkpoint::{Advance, Epoch, Slot};
use super::super::checkpoint::{Found, Mine};
use super::super::dead_letter::DeadLetter;
use super::super::grants::{Grant, Others};
use super::super::guard::{Judged, Kind};
use super::super::store::{CommitError, SchemaVersion, StatementLimits, Store};
use super::super::unit_of_work::SqlLimits;
use super::super::value::{Dialect, Rowset, SqlError, Value, sqlstate};
use super::authorizer::{Compiling, Whose};
use super::deadline::Deadline;
use super::file::File;
use super::{functions, sql_error};
use crate::event::Position;
use crate::telemetry::metrics::OpenConnection;

/// How many steps of SQLite's machine pass between two looks at the clock: some 20 µs.
const STEPS_PER_LOOK: i32 = 2_000;

/// How long a value may be at least: what a parameter may have.
const LONGEST: usize = 33 << 20;

/// How many columns a table or a result may have.
const COLUMNS: i32 = 200;

/// How long a pattern of LIKE or GLOB may be. What it costs grows with its length times that of the text, and nothing
/// interrupts it: some ten seconds for this and 32 MiB of the worst text.
const PATTERN: i32 = 128;

/// A claimed partition in a projection's file.
pub struct SqliteStore {
    /// The file.
    file: File,
    /// Whose statement is compiled.
    compiling: Compiling,
    /// Says that this process works on the partition, for as long as it is open.
    _lock: Arc<fs::File>,
    /// Which partition.
    pub(super) slot: Slot,
    /// Where the checkpoint stands, as this worker knows it.
    position: Position,
    /// The claim.
    epoch: Epoch,
    /// Behind this position, the checkpoint's lineage says nothing any more.
    known_until: Position,
    /// What results may be.
    limits: StatementLimits,
    /// When the running statement is interrupted.
    deadline: Deadline,
    /// Whether BEGIN has still to be said.
    begin_pending: bool,
    /// Counts it.
    _open: OpenConnection,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("slot", &self.slot).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Takes over a connection and its claim.
    pub(super) fn new(
        connection: Connection,
        lock: Arc<fs::File>,
        slot: Slot,
        position: Position,
        epoch: Epoch,
        known_until: Position,
    ) -> rusqlite::Result<Self> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        functions::register(&connection)?;
        let deadline = Deadline::new();
        let seen = deadline.clone();
        connection.progress_handler(STEPS_PER_LOOK, Some(move || seen.has_passed()))?;
        let compiling = Compiling::watch(&connection)?;
        let limits = SqlLimits::default().statement;
        Ok(Self {
            file: File::new(connection),
            compiling,
            _lock: lock,
            slot,
            position,
            epoch,
            known_until,
            limits,
            deadline,
            begin_pending: false,
            _open: OpenConnection::count(),
        })
    }

    /// The file.
    pub(super) fn connection(&self) -> &Connection {
        self.file.connection()
    }

    /// Says BEGIN if it has not been said. Only now, so that a guest that computes first, or folds in memory, does
    /// not keep the other partitions from writing meanwhile.
    pub(super) fn ensure_begun(&mut self) -> Result<(), SqlError> {
        if self.begin_pending {
            self.host("BEGIN IMMEDIATE", params![])?;
            self.begin_pending = false;
        }
        Ok(())
    }

    /// Runs a statement of the host's, and gives how many rows it changed.
    pub(super) fn host(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, SqlError> {
        let run = || self.connection().prepare_cached(sql)?.execute(parameters);
        run().map_err(|error| sql_error(&error))
    }

    /// Runs a statement of the guest's.
    fn guest(&mut self, judged: &Judged, parameters: &[Value]) -> Result<Rowset, SqlError> {
        self.ensure_begun()?;
        let whose = match judged.kind {
            Kind::Reading | Kind::Writing => Whose::GuestRows,
            Kind::Definition => Whose::GuestDefinition,
        };
        self.deadline.begin(self.limits.time);
        // Stepping may compile again, when the schema has changed; so all of it is the guest's.
        let (file, limits) = (&mut self.file, self.limits);
        let result = self.compiling.of(whose, || file.run(judged, parameters, limits));
        self.deadline.end();
        // A conflict clause can end a transaction (`OR ROLLBACK`). The guard refuses that; were it to miss one, what comes
        // after would commit by itself, statement by statement.
        if self.connection().is_autocommit() && result.is_ok() {
            return Err(SqlError::permanent(
                sqlstate::OTHER,
                "the statement ended the transaction, which is the host's",
            ));
        }
        result.map_err(|error| match &*error.code {
            "57014" => SqlError::permanent("57014", format!("the statement ran longer than {:?}", self.limits.time)),
            _ => error,
        })
    }

    /// What the checkpoint says, if it is there.
    fn found(&self) -> Result<Option<Found>, SqlError> {
        let found = self.connection().query_row(
            "SELECT owner, epoch, position,
                 coalesce((SELECT schema_version FROM _projectionist_projections WHERE projection = ?1), 0)
             FROM _projectionist_checkpoints
             WHERE projection = ?1 AND total_partitions = ?2 AND partition_key = ?3",
            params![self.slot.projection, self.slot.partition.total(), self.slot.partition.key()],
            |row| {
                let position = Position::from_sql(row.get(2)?);
                Ok(Found { owner: row.get(0)?, epoch: Epoch(row.get(1)?), position, version: row.get(3)? })
            },
        );
        found.optional().map_err(|error| sql_error(&error))
    }

    /// Why the checkpoint was not moved, or may not be.
    fn fenced(&self, found: Option<Found>, ours: u32) -> CommitError {
        let mine = Mine { slot: &self.slot, epoch: self.epoch, position: self.position, version: ours };
        let last = "SELECT owner FROM _projectionist_checkpoints WHERE projection = ?1
                    ORDER BY (owner = ''), updated_at DESC LIMIT 1";
        mine.refused(found, || self.connection().query_row(last, [&self.slot.projection], |row| row.get(0)).ok())
    }
}

impl StatementLimits {
    /// Whether a result of this many rows and bytes is still within the limits.
    pub(in super::super) fn check(&self, rows: usize, bytes: usize) -> Result<(), SqlError> {
        if rows > self.rows {
            return Err(SqlError::permanent(sqlstate::LIMIT, format!("the result has more than {} rows", self.rows)));
        }
        if bytes > self.result_bytes {
            let message = format!("the result has more than {} bytes", self.result_bytes);
            return Err(SqlError::permanent(sqlstate::LIMIT, message));
        }
        Ok(())
    }
}

impl Store for SqliteStore {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn limit(&mut self, limits: StatementLimits) -> Result<(), SqlError> {
        self.limits = limits;
        // A value that is longer fails while it is made, and not when it has filled the memory of the process.
        let length = i32::try_from(limits.result_bytes.max(LONGEST)).unwrap_or(i32::MAX);
        let set = |limit, value| self.connection().set_limit(limit, value).map_err(|error| sql_error(&error));
        set(Limit::SQLITE_LIMIT_LENGTH, length)?;
        set(Limit::SQLITE_LIMIT_COLUMN, COLUMNS)?;
        set(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN)?;
        Ok(())
    }

    fn grant_read(&mut self, wanted: &[Grant], _: Others) -> Result<(), SqlError> {
        match wanted.first() {
            None => Ok(()),
            Some(grant) => Err(SqlError::permanent(
                sqlstate::NOT_ALLOWED,
                format!("{grant} cannot be granted: a projection in SQLite has a file of its own, and reads no other"),
            )),
        }
    }

    fn begin(&mut self) -> Result<(), SqlError> {
        self.begin_pending = true;
        Ok(())
    }

    fn take_turns(&mut self) {
        // A file has one writer at a time as it is.
    }

    fn execute(&mut self, statement: &Judged, parameters: Vec<Value>) -> Result<(), SqlError> {
        self.guest(statement, &parameters).map(drop)
    }

    fn send(&mut self) -> Result<(), SqlError> {
        Ok(())
    }

    fn query(&mut self, statement: &Judged, parameters: Vec<Value>) -> Result<Rowset, SqlError> {
        self.guest(statement, &parameters)
    }

    fn savepoint(&mut self) -> Result<(), SqlError> {
        self.ensure_begun()?;
        self.host("SAVEPOINT one_event", params![]).map(drop)
    }

    fn release(&mut self) -> Result<(), SqlError> {
        self.host("RELEASE one_event", params![]).map(drop)
    }

    fn rollback_to_savepoint(&mut self) -> Result<(), SqlError> {
        self.host("ROLLBACK TO one_event", params![])?;
        self.release()
    }

    fn bury(&mut self, letter: &DeadLetter<'_>, plugin_digest: &str) -> Result<(), SqlError> {
        self.ensure_begun()?;
        let event = letter.event;
        self.host(
            "INSERT INTO _projectionist_dead_letters (projection, global_position, bounded_context, aggregate_type,
                 aggregate_id, aggregate_version, event_id, event_type, reason, error, attempts, plugin_digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (projection, global_position) DO UPDATE SET reason = excluded.reason, error = excluded.error,
                 attempts = excluded.attempts, plugin_digest = excluded.plugin_digest,
                 created_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
            params![
                self.slot.projection,
                event.position().to_sql(),
                event.bounded_context,
                event.aggregate_type,
                event.aggregate_id,
                event.aggregate_version.cast_signed(),
                event.event_id,
                event.event_type,
                letter.reason.as_str(),
                letter.error,
                letter.attempts,
                plugin_digest,
            ],
        )
        .map(drop)
    }

    fn schema_version(&mut self) -> Result<SchemaVersion, SqlError> {
        // The write lock of BEGIN IMMEDIATE is what the other partitions wait for.
        self.ensure_begun()?;
        let sql = "SELECT coalesce(max(schema_version), 0) FROM _projectionist_projections WHERE projection = ?1";
        let version = self.connection().query_row(sql, [&self.slot.projection], |row| row.get(0));
        version.map(SchemaVersion).map_err(|error| sql_error(&error))
    }

    fn set_schema_version(&mut self, version: u32) -> Result<(), SqlError> {
        self.host(
            "INSERT INTO _projectionist_projections (projection, schema_version) VALUES (?1, ?2)
             ON CONFLICT (projection) DO UPDATE SET schema_version = excluded.schema_version,
                 migrated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
            params![self.slot.projection, version],
        )
        .map(drop)
    }

    fn verify(&mut self) -> Result<(), CommitError> {
        match self.found()? {
            Some(found) if found.is(self.epoch, self.position) => Ok(()),
            found => Err(self.fenced(found, 0)),
        }
    }

    fn is_paused(&mut self) -> Result<bool, SqlError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM _projectionist_pauses WHERE projection = ?1)";
        let ask = || self.connection().prepare_cached(sql)?.query_row([&self.slot.projection], |row| row.get(0));
        ask().map_err(|error| sql_error(&error))
    }

    fn commit(&mut self, advance: &Advance) -> Result<(), CommitError> {
        let moved = self.ensure_begun().and_then(|()| {
            self.host(
                "UPDATE _projectionist_checkpoints SET position = ?1, events_applied = events_applied + ?2,
                     plugin_version = ?3, plugin_digest = ?4, updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'),
                     lineage = CASE WHEN ?1 >= ?10 THEN NULL ELSE lineage END
                 WHERE projection = ?5 AND total_partitions = ?6 AND partition_key = ?7 AND epoch = ?8 AND position = ?9
                   AND EXISTS (SELECT 1 FROM _projectionist_projections WHERE projection = ?5 AND schema_version = ?3)",
                params![
                    advance.to.to_sql(),
                    advance.applied.cast_signed(),
                    advance.plugin_version,
                    &*advance.plugin_digest,
                    self.slot.projection,
                    self.slot.partition.total(),
                    self.slot.partition.key(),
                    self.epoch.0,
                    self.position.to_sql(),
                    self.known_until.to_sql(),
                ],
            )
        });
        match moved {
            Ok(1) => self.host("COMMIT", params![]).map(drop).map_err(|error| {
                self.rollback().ok();
                error.into()
            }),
            Ok(_) => {
                self.rollback().ok();
                let found = self.found()?;
                Err(self.fenced(found, advance.plugin_version))
            }
            Err(error) => {
                self.rollback().ok();
                Err(error.into())
            }
        }?;
        self.position = advance.to;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), SqlError> {
        self.begin_pending = false;
        // SQLite rolls back by itself after some errors (a full disk), and then there is nothing to roll back.
        if self.connection().is_autocommit() { Ok(()) } else { self.host("ROLLBACK", params![]).map(drop) }
    }
}
