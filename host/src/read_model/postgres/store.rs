//! The transaction of a worker on Postgres: statements kept, and sent many at once.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};

use super::super::checkpoint::{Advance, Epoch, Found, Mine, Slot};
use super::super::dead_letter::DeadLetter;
use super::super::grants::{Grant, Others};
use super::super::guard::{Judged, Kind};
use super::super::multi_row;
use super::super::rebuild::projection_of;
use super::super::store::{CommitError, SchemaVersion, StatementLimits, Store};
use super::super::unit_of_work::SqlLimits;
use super::super::value::{Dialect, Rowset, SqlError, Value, sqlstate};
use super::fence::Fence;
use super::lease::Lease;
use super::role::{self, Role};
use super::seal::Mark;
use super::session::{AHEAD_AT, AHEAD_FROM, Answer, SendError};
use super::statements::{Message, Statements};
use super::{grants, quote_identifier, sealed, sql_error, storable};
use crate::event::Position;

/// Where the host's own statements look names up. In a projection's schema they could find an operator or a function of the
/// projection's that fits better than the catalogue's, and would run it as the host.
pub(super) const HOSTS_PATH: &str = "SET search_path = pg_catalog, pg_temp";

/// Looks names up in a projection's schema, and in nobody's temporary tables before. Said whenever the projection is to act.
fn search_path(projection: &str) -> String {
    format!("SET search_path = {}, pg_temp", quote_identifier(projection))
}

/// What `1 / count(*)` fails with when no checkpoint was moved.
const DIVISION_BY_ZERO: &str = "22012";

/// Who runs a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acting {
    /// The host's login.
    Host,
    /// The projection's role.
    Projection,
}

/// A claimed partition in Postgres.
pub struct PostgresStore {
    /// Its sessions, and its claim.
    pub(super) session: Lease,
    /// Which partition.
    pub(super) slot: Slot,
    /// What moves its checkpoint.
    pub(super) fence: Fence,
    /// Where the projection's names are looked up.
    search_path: String,
    /// Where the checkpoint stands, as this worker knows it.
    position: Position,
    /// The claim.
    epoch: Epoch,
    /// Whether a BEGIN was sent and not ended.
    open: bool,
    /// When it was sent.
    begun: Option<Instant>,
    /// Whom the projection's statements run as.
    role: Role,
    /// Who runs what is kept next.
    acting: Acting,
    /// Who did when the savepoint was set, and what had been sealed.
    at_savepoint: (Acting, Mark),
    /// Whether the projection has run anything in this transaction.
    has_run: bool,
    /// What results may be.
    pub(super) limits: StatementLimits,
    /// What was prepared and kept.
    statements: Statements,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field("slot", &self.slot)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Takes over a claim.
    pub(super) fn new(mut lease: Lease, slot: Slot, position: Position, fence: Fence, role: Role) -> Self {
        let limits = SqlLimits::default().statement;
        lease.limit(limits);
        Self {
            session: lease,
            search_path: search_path(&slot.projection),
            epoch: fence.epoch,
            fence,
            slot,
            position,
            open: false,
            begun: None,
            role,
            acting: Acting::Host,
            at_savepoint: (Acting::Host, Mark::default()),
            has_run: false,
            limits,
            statements: Statements::default(),
        }
    }

    /// Whether its sessions are the projection's own, from their login on.
    pub(super) fn is_own_login(&self) -> bool {
        self.fence.is_sealed()
    }

    /// Sends a message and waits; gives the result of its last statement, if somebody asked for it.
    fn send_message(&mut self, message: Message, answer: Answer) -> Result<Rowset, SendError> {
        if message.parts.is_empty() {
            return self.arrive().map(|()| Rowset::default());
        }
        let open_for = self.opens().map_err(SendError::before)?;
        let sent = self.session.send(message, answer, self.limits, open_for);
        sent.map_err(|failed| self.explain(failed))
    }

    /// A message is about to be sent; gives for how long the transaction has been open then. It begins when there is a session:
    /// who waits for one holds nobody up.
    fn opens(&mut self) -> Result<Duration, SqlError> {
        self.session.known()?;
        self.open = true;
        Ok(self.begun.get_or_insert_with(Instant::now).elapsed())
    }

    /// What is kept next runs as the projection.
    pub(super) fn act_as_projection(&mut self) {
        if self.acting == Acting::Host {
            if !self.is_own_login() {
                let enter = self.role.enter();
                self.statements.keep_own(&enter);
            }
            self.statements.keep_own(&self.search_path);
            self.acting = Acting::Projection;
        }
        self.has_run = true;
    }

    /// What is kept next runs as the host, if the role is still the projection's.
    fn act_as_host(&mut self) {
        if self.acting == Acting::Projection {
            // Before the host's first word: a setting outlives a role.
            self.statements.keep_own(HOSTS_PATH);
            if !self.is_own_login() {
                self.statements.keep_own(role::LEAVE);
            }
            self.acting = Acting::Host;
        }
    }

    /// Sends what was kept; what runs next is the host's.
    pub(super) fn send_as_host(&mut self) -> Result<(), SqlError> {
        let checked = self.acting == Acting::Projection && !self.is_own_login();
        // What fails of it is not what is checked below.
        self.arrive().map_err(|failed| failed.error)?;
        self.act_as_host();
        let message = self.statements.take();
        let check = message.parts.len().checked_sub(1).filter(|_| checked);
        self.send_message(message, Answer::Unwanted).map(drop).map_err(|failed| role_lost(failed, check))
    }

    /// Which transaction this is, and as whom. What was kept is sent before.
    fn identity(&mut self) -> Result<(String, String), SqlError> {
        self.send_kept(Answer::Unwanted)?;
        let identity =
            sqlx::query_as("SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text, current_user::pg_catalog.text")
                .persistent(false);
        self.session.run(async |connection| identity.fetch_one(connection).await)
    }

    /// Sends what was kept, and goes on.
    fn send_ahead(&mut self) -> Result<(), SqlError> {
        let message = self.statements.take();
        let open_for = self.opens()?;
        let sent = self.session.send_ahead(message, self.limits, open_for);
        sent.map_err(|failed| self.explain(failed).error)
    }

    /// Waits for what is on its way.
    fn arrive(&mut self) -> Result<(), SendError> {
        let arrived = self.session.arrive();
        arrived.map_err(|failed| self.explain(failed))
    }

    /// Says in which statement something failed.
    fn explain(&mut self, failed: SendError) -> SendError {
        // Without a session nothing was sent.
        let Some(known) = self.session.known_now() else { return failed };
        if failed.error.code == multi_row::TWICE {
            known.never_several(failed.part.as_ref());
        }
        SendError { error: known.explain(failed.error, failed.part.as_ref()), ..failed }
    }

    /// Sends what was kept.
    fn send_kept(&mut self, answer: Answer) -> Result<Rowset, SqlError> {
        let message = self.statements.take();
        self.send_message(message, answer).map_err(|failed| failed.error)
    }

    /// Prepares a guest's statement, once. What is kept goes first: a statement that cannot be prepared aborts the
    /// transaction, and a savepoint that was not set yet could not bring it back.
    fn prepare(&mut self, judged: &Judged) -> Result<(), SqlError> {
        let known = self.session.known()?;
        if known.knows(judged) {
            if !known.wants_several(judged) {
                return Ok(());
            }
            self.send_kept(Answer::Unwanted)?;
            return self
                .session
                .prepare(None, async |connection, known| known.prepare_several(connection, judged).await);
        }
        self.send_kept(Answer::Unwanted)?;
        self.session.prepare(None, async |connection, known| known.prepare(connection, judged).await)
    }

    /// Runs a statement of `migrate`: it cannot be prepared, and what comes after it needs what it makes.
    fn define(&mut self, judged: &Judged, parameters: &[Value]) -> Result<(), SqlError> {
        if !parameters.is_empty() {
            return Err(SqlError::permanent(sqlstate::PARAMETER_COUNT, "CREATE, ALTER and DROP take no parameters"));
        }
        self.act_as_projection();
        self.session.tables_change();
        let before = self.identity()?;
        // The extended protocol takes one statement and no more.
        self.session.prepare(Some(self.limits), async |connection, known| {
            let run = sqlx::query(AssertSqlSafe(judged.sql.clone())).persistent(false).execute(&mut *connection);
            run.await.map_err(|error| sql_error(&error))?;
            known.deallocate(connection).await
        })?;
        if self.identity()? == before {
            return Ok(());
        }
        // The guard lets no such statement through. What it has committed is in the projection's own schema.
        Err(SqlError::permanent(
            sqlstate::OTHER,
            "the statement ended the transaction, or left its role: both are the host's",
        ))
    }

    /// What the checkpoint says, if it is there.
    fn found(&mut self) -> Result<Option<Found>, SqlError> {
        if self.is_own_login() {
            return self.own_checkpoint();
        }
        let find = sqlx::query_as::<_, (String, i64, i64, i32)>(
            "SELECT owner, epoch, position, schema_version FROM projectionist.checkpoints
             JOIN projectionist.projections USING (projection)
             WHERE projection = $1 AND total_partitions = $2 AND partition_key = $3",
        )
        .persistent(false)
        .bind(&self.slot.projection)
        .bind(self.slot.partition.total().cast_signed())
        .bind(self.slot.partition.key().cast_signed());
        let found = self.session.run(async |connection| find.fetch_optional(connection).await)?;
        Ok(found.map(|(owner, epoch, position, version)| Found {
            owner,
            epoch: Epoch(epoch),
            position: Position::from_sql(position),
            version: version.unsigned_abs(),
        }))
    }

    /// The transaction is committed.
    fn committed(&mut self, advance: &Advance) {
        self.position = advance.to;
        if let Some(sealer) = self.fence.sealer() {
            sealer.committed();
        }
    }

    /// Why the checkpoint was not moved, or may not be.
    fn fenced(&mut self, found: Option<Found>, ours: u32) -> CommitError {
        let mine = Mine { slot: &self.slot, epoch: self.epoch, position: self.position, version: ours };
        let last = sqlx::query_scalar::<_, Option<String>>(if self.is_own_login() {
            "SELECT projectionist.own_last_owner($1)"
        } else {
            "SELECT owner FROM projectionist.checkpoints WHERE projection = $1 ORDER BY (owner = ''), updated_at DESC LIMIT 1"
        }).persistent(false)
        .bind(&self.slot.projection);
        let session = &mut self.session;
        mine.refused(found, || {
            session.run(async |connection| last.fetch_optional(connection).await).ok().flatten().flatten()
        })
    }
}

/// The error of a worker whose claim went with the connection that held it.
fn claim_lost() -> SqlError {
    SqlError::retryable(sqlstate::CONNECTION_FAILURE, "the connection that holds the claim was lost")
}

/// The error of a commit of which nothing but a new claim can tell how it ended.
fn claim_again() -> SqlError {
    SqlError::retryable(sqlstate::CONNECTION_FAILURE, "nobody knows how the commit ended")
}

/// What tells a projection's tables from those that it had before: when they were last brought to a version, and the schema
/// they are in, which a rebuild changes.
fn tables(migrated_at: Option<String>, schema: Option<String>) -> String {
    format!("{} {}", migrated_at.unwrap_or_default(), schema.unwrap_or_default())
}

/// The error of a message, in words where it is that of the part which checks the role.
fn role_lost(failed: SendError, check: Option<usize>) -> SqlError {
    if check == Some(failed.at) && failed.error.code == DIVISION_BY_ZERO {
        return SqlError::permanent(
            sqlstate::OTHER,
            "a statement of the projection has left its role; nothing of it is kept",
        );
    }
    failed.error
}

impl Store for PostgresStore {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn limit(&mut self, limits: StatementLimits) -> Result<(), SqlError> {
        self.limits = limits;
        self.session.limit(limits);
        Ok(())
    }

    fn grant_read(&mut self, wanted: &[Grant], others: Others) -> Result<(), SqlError> {
        // A rebuild has the role of the live one, whose workers may have been told more.
        let others = if projection_of(&self.slot.projection).is_some() { Others::Kept } else { others };
        let (role, schema) = (&self.role, &self.slot.projection);
        if self.is_own_login() {
            let settle =
                async |connection: &mut PgConnection| grants::settle(connection, role, schema, wanted, others).await;
            return self.session.as_host(settle);
        }
        self.session.try_run(async |connection| grants::settle(connection, role, schema, wanted, others).await)
    }

    fn begin(&mut self) -> Result<(), SqlError> {
        // Sent with the first statement; a batch that writes nothing costs nothing until its checkpoint moves.
        self.statements.forget();
        (self.acting, self.has_run) = (Acting::Host, false);
        self.begun = None;
        self.session.begin();
        self.statements.keep_own("BEGIN");
        if let Some(lock) = self.session.turn.lock() {
            self.statements.keep_lasting(&format!("SELECT pg_advisory_xact_lock({lock})"));
        }
        Ok(())
    }

    fn begun(&self) -> Option<Instant> {
        self.begun
    }

    fn take_turns(&mut self) {
        if self.session.turn.take() {
            tracing::info!("partitions of this projection write the same rows: from now on they take turns");
        }
    }

    fn execute(&mut self, statement: &Judged, parameters: Vec<Value>) -> Result<(), SqlError> {
        if statement.kind == Kind::Definition {
            return self.define(statement, &parameters);
        }
        self.act_as_projection();
        self.prepare(statement)?;
        self.statements.keep(self.session.known()?, statement, &parameters)?;
        let kept = self.statements.kept();
        let is_due = kept >= AHEAD_AT || (kept >= AHEAD_FROM && self.session.is_free());
        if is_due { self.send_ahead() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), SqlError> {
        self.send_kept(Answer::Unwanted).map(drop)
    }

    fn query(&mut self, statement: &Judged, parameters: Vec<Value>) -> Result<Rowset, SqlError> {
        if statement.kind == Kind::Definition {
            return self.define(statement, &parameters).map(|()| Rowset::default());
        }
        self.act_as_projection();
        self.prepare(statement)?;
        self.statements.keep_alone(self.session.known()?, statement, &parameters)?;
        let mut rowset = self.send_kept(Answer::Wanted)?;
        if statement.kind == Kind::Reading {
            rowset.affected = 0;
        }
        Ok(rowset)
    }

    fn savepoint(&mut self) -> Result<(), SqlError> {
        let sealed = self.fence.sealer().map(|sealer| sealer.mark()).unwrap_or_default();
        self.at_savepoint = (self.acting, sealed);
        self.statements.keep_own("SAVEPOINT one_event");
        Ok(())
    }

    fn release(&mut self) -> Result<(), SqlError> {
        self.statements.keep_own("RELEASE one_event");
        Ok(())
    }

    fn rollback_to_savepoint(&mut self) -> Result<(), SqlError> {
        // What is kept may hold the savepoint itself: without sending it there would be nothing to go back to. It
        // may also fail; going back undoes that too, as long as the savepoint was reached.
        let kept = self.statements.take();
        self.send_message(kept, Answer::Unwanted).ok();
        self.statements.keep_own("ROLLBACK TO one_event");
        // The role is a setting like any other, and goes back with the rest.
        let (acting, sealed) = self.at_savepoint;
        self.acting = acting;
        if let Some(sealer) = self.fence.sealer() {
            sealer.back_to(sealed);
        }
        self.statements.keep_own("RELEASE one_event");
        self.send()
    }

    fn bury(&mut self, letter: &DeadLetter<'_>, plugin_digest: &str) -> Result<(), SqlError> {
        self.send_as_host()?;
        if self.done_sealed("bury", || sealed::letter(letter, plugin_digest))? {
            return Ok(());
        }
        let event = letter.event;
        let insert = sqlx::query(
            "INSERT INTO projectionist.dead_letters (projection, global_position, bounded_context, aggregate_type,
                 aggregate_id, aggregate_version, event_id, event_type, reason, error, attempts, plugin_digest)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (projection, global_position) DO UPDATE SET reason = excluded.reason, error = excluded.error,
                 attempts = excluded.attempts, plugin_digest = excluded.plugin_digest, created_at = now()",
        )
        .persistent(false)
        .bind(&self.slot.projection)
        .bind(event.position().to_sql())
        .bind(&event.bounded_context)
        .bind(&event.aggregate_type)
        .bind(&event.aggregate_id)
        .bind(event.aggregate_version.cast_signed())
        .bind(&event.event_id)
        .bind(&event.event_type)
        .bind(letter.reason.as_str())
        .bind(storable(letter.error))
        .bind(letter.attempts.cast_signed())
        .bind(plugin_digest);
        self.session.run(async |connection| insert.execute(connection).await).map(drop)
    }

    fn schema_version(&mut self) -> Result<SchemaVersion, SqlError> {
        // Another worker's `migrate` may take its time.
        self.session.be_alone();
        self.send_as_host()?;
        // It writes nothing, so it need not be in any order.
        let sealed = self.fence.sealer().map(|sealer| sealer.seal("lock_version", &json!({})));
        let (projection, role) = (&self.slot.projection, &self.role);
        let (time, wait) = (self.limits.time.as_millis(), (self.limits.time / 2).as_millis().max(1));
        let timeout = format!("SET LOCAL statement_timeout = {time}; SET LOCAL lock_timeout = {wait}");
        let run = async |connection: &mut PgConnection| {
            // Another worker's `migrate` may take its time, and waiting for it is no failure.
            sqlx::raw_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
                .execute(&mut *connection)
                .await?;
            let found: Option<(i32, Option<String>)> = match &sealed {
                Some(sealed) => Self::lock_version(&mut *connection, sealed).await?,
                None => {
                    let sql = "SELECT schema_version, migrated_at::text FROM projectionist.projections
                               WHERE projection = $1 FOR UPDATE";
                    sqlx::query_as(sql).persistent(false).bind(projection).fetch_optional(&mut *connection).await?
                }
            };
            // Whoever has claimed the partition since has another key.
            let Some((version, migrated_at)) = found else { return Ok(Err(claim_lost())) };
            sqlx::raw_sql(AssertSqlSafe(timeout)).execute(&mut *connection).await?;
            // Its own was made at the claim, where its sessions are its own.
            let schema: Option<(String, bool)> = sqlx::query_as(
                "SELECT oid::text, nspowner IN (SELECT oid FROM pg_roles WHERE rolname = $2)
                 FROM pg_namespace WHERE nspname = $1",
            )
            .persistent(false)
            .bind(projection)
            .bind(role.name())
            .fetch_optional(&mut *connection)
            .await?;
            if version == 0 && matches!(schema, Some((_, false))) {
                return Ok(Err(SqlError::permanent(
                    "42P06",
                    format!(
                        "the schema {projection} is there already and is not this projection's; \
                         run the projection under another name (--plugin NAME=FILE), or drop the schema"
                    ),
                )));
            }
            if version == 0 && schema.is_none() {
                let create = format!("CREATE SCHEMA {} AUTHORIZATION {}", quote_identifier(projection), role.quoted());
                sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *connection).await?;
            }
            Ok(Ok((SchemaVersion(version.unsigned_abs()), tables(migrated_at, schema.map(|(oid, _)| oid)))))
        };
        let (version, tables) = self.session.run(run)??;
        // Whoever migrated may have changed what statements were prepared for.
        self.session.tables_are(tables)?;
        Ok(version)
    }

    fn set_schema_version(&mut self, version: u32) -> Result<(), SqlError> {
        self.send_as_host()?;
        self.session.tables_change();
        if let Some(sealed) = self.sealed("set_version", || json!({"version": version})) {
            let (migrated_at, schema) = self.set_version_sealed(sealed)?;
            return self.session.tables_are(tables(migrated_at, schema));
        }
        let update = sqlx::query_as::<_, (String, Option<String>)>(
            "UPDATE projectionist.projections SET schema_version = $2, migrated_at = now() WHERE projection = $1
             RETURNING migrated_at::text, (SELECT oid::text FROM pg_namespace WHERE nspname = $1)",
        )
        .persistent(false)
        .bind(&self.slot.projection)
        .bind(version.cast_signed());
        let (migrated_at, schema) = self.session.run(async |connection| update.fetch_one(connection).await)?;
        self.session.tables_are(tables(Some(migrated_at), schema))
    }

    fn verify(&mut self) -> Result<(), CommitError> {
        if !self.session.is_held() {
            return Err(claim_lost().into());
        }
        match self.found()? {
            Some(found) if found.is(self.epoch, self.position) => Ok(()),
            found => Err(self.fenced(found, 0)),
        }
    }

    fn is_paused(&mut self) -> Result<bool, SqlError> {
        let sql = if self.is_own_login() {
            "SELECT projectionist.own_pause($1)"
        } else {
            "SELECT EXISTS (SELECT FROM projectionist.pauses WHERE projection = $1)"
        };
        let ask = sqlx::query_scalar(sql).persistent(false).bind(&self.slot.projection);
        self.session.run(async |connection| ask.fetch_one(connection).await)
    }

    fn commit(&mut self, advance: &Advance) -> Result<(), CommitError> {
        if self.has_run {
            // What was deferred runs as whoever set it off, and not as the host: constraints, and cursors that would outlive
            // the transaction and are read to their end at its commit.
            self.act_as_projection();
            self.statements.keep_lasting("SET CONSTRAINTS ALL IMMEDIATE");
            self.statements.keep_lasting("CLOSE ALL");
            self.act_as_host();
        }
        self.statements.keep_lasting(&self.fence.advance(self.position, advance));
        self.statements.keep_own("COMMIT");
        if let Err(SendError { error, .. }) = self.arrive() {
            self.rollback().ok();
            return Err(error.into());
        }
        let message = self.statements.take();
        let fence = message.parts.len() - 2;
        match self.send_message(message, Answer::Unwanted) {
            Ok(_) => {
                self.open = false;
                self.committed(advance);
                self.session.end(true);
                Ok(())
            }
            Err(SendError { error, at, .. }) => {
                let is_left = self.session.is_left();
                let sealed = self.fence.sealer().map(|sealer| sealer.mark());
                self.rollback().ok();
                // Its process was told to end, and nobody knows what it was at: it may have been its commit.
                if is_left && advance.to == self.position {
                    return Err(claim_again().into());
                }
                if is_left && self.found()?.is_some_and(|found| found.is(self.epoch, advance.to)) {
                    if let (Some(sealer), Some(sealed)) = (self.fence.sealer(), sealed) {
                        sealer.back_to(sealed);
                    }
                    self.committed(advance);
                    return Ok(());
                }
                let fenced = at == fence && error.code == DIVISION_BY_ZERO;
                if !fenced {
                    let check = fence.checked_sub(1).filter(|_| self.has_run && !self.is_own_login());
                    return Err(role_lost(SendError { error, at, part: None }, check).into());
                }
                // Who lost the connection that holds the claim has lost the claim, and claims again like anybody else.
                if !self.session.is_held_for_sure() {
                    return Err(claim_lost().into());
                }
                let found = self.found()?;
                Err(self.fenced(found, advance.plugin_version))
            }
        }
    }

    fn rollback(&mut self) -> Result<(), SqlError> {
        self.statements.forget();
        if let Some(sealer) = self.fence.sealer() {
            sealer.rolled_back();
        }
        // Whatever it was that failed there is undone with the rest.
        self.session.arrive().ok();
        let rolled_back = match std::mem::take(&mut self.open) {
            true => self.session.run(async |connection| sqlx::raw_sql("ROLLBACK").execute(connection).await).map(drop),
            false => Ok(()),
        };
        // What was prepared for tables that never came to be outlives the transaction, and not the session.
        let is_clean = !self.session.tables_were_changing();
        self.session.end(rolled_back.is_ok() && is_clean);
        rolled_back
    }
}
