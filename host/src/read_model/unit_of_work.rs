//! The transaction as a guest sees it: SQL that is judged, counted and bounded, and that cannot be saved once it
//! has failed.
//!
//! **A failed statement fails the batch**, whatever the guest makes of the error: Postgres aborts its transaction
//! then, SQLite does not, and both shall behave alike. What the host refuses before the database sees it (the
//! guard, a limit on a text) is the guest's to handle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoint::Advance;
use super::dead_letter::DeadLetter;
use super::grants::{Grant, Others};
use super::guard::{Guard, Phase};
use super::request::Replays;
use super::store::{CommitError, SchemaVersion, StatementLimits, Store};
use super::value::{Dialect, Rowset, SqlError, Value, sqlstate};

/// What a guest may ask of the database.
#[derive(Clone, Copy, Debug)]
pub struct SqlLimits {
    /// Statements in one transaction.
    pub statements: u64,
    /// Bytes of one statement's text.
    pub text: usize,
    /// Bytes of one statement's parameters.
    pub parameters: usize,
    /// What only the database can keep.
    pub statement: StatementLimits,
}

impl Default for SqlLimits {
    /// 100,000 statements, 64 KiB of text, 32 MiB of parameters; results of 10,000 rows and 16 MiB; 30 s a statement, 5 min a
    /// transaction.
    fn default() -> Self {
        Self {
            statements: 100_000,
            text: 64 << 10,
            parameters: 32 << 20,
            statement: StatementLimits {
                rows: 10_000,
                result_bytes: 16 << 20,
                time: Duration::from_secs(30),
                transaction: Duration::from_secs(300),
            },
        }
    }
}

/// When statements go to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Many at once: the fast path.
    Buffered,
    /// Each as it comes: the careful path, where a failure must point at its event.
    AtOnce,
}

/// The transaction of one batch.
pub struct UnitOfWork {
    /// The database.
    store: Box<dyn Store>,
    /// Judges the guest's SQL.
    guard: Guard,
    /// What a guest may ask.
    limits: SqlLimits,
    /// Which call runs.
    phase: Phase,
    /// When statements go to the database.
    sending: Sending,
    /// Statements of this transaction so far.
    statements: u64,
    /// Until when it may be open, once it is.
    open_until: Option<Instant>,
    /// The first failure since the transaction, or the savepoint, began.
    failed: Option<SqlError>,
    /// Time spent in the database for the guest, so that it does not count as the guest's own.
    waited: Duration,
    /// The same, of the whole transaction.
    in_database: Duration,
    /// When its first statement began, and its last one ended.
    statements_ran: Option<(Instant, Instant)>,
}

impl std::fmt::Debug for UnitOfWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnitOfWork")
            .field("statements", &self.statements)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl UnitOfWork {
    /// For a projection's claimed partition, which may read these tables besides its own.
    ///
    /// # Errors
    /// When the database cannot keep the limits, or give what is granted.
    pub fn new(
        mut store: Box<dyn Store>,
        projection: &str,
        limits: SqlLimits,
        grants: &[Grant],
        others: Others,
    ) -> Result<Self, SqlError> {
        store.limit(limits.statement)?;
        store.grant_read(grants, others)?;
        let guard = Guard::new(store.dialect(), projection).granting(grants.to_vec());
        Ok(Self {
            store,
            guard,
            limits,
            phase: Phase::Rows,
            sending: Sending::Buffered,
            statements: 0,
            open_until: None,
            failed: None,
            waited: Duration::ZERO,
            in_database: Duration::ZERO,
            statements_ran: None,
        })
    }

    /// Which SQL it speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.store.dialect()
    }

    /// The guest's `execute`.
    ///
    /// # Errors
    /// When the statement is refused, or (buffered or not) one has failed.
    pub fn execute(&mut self, sql: &str, mut parameters: Vec<Value>) -> Result<(), SqlError> {
        let judged = self.admit(sql, &mut parameters)?;
        let at_once = self.sending == Sending::AtOnce;
        self.timed(|store| {
            store.execute(&judged, parameters)?;
            if at_once { store.send() } else { Ok(()) }
        })
    }

    /// The guest's `query`.
    ///
    /// # Errors
    /// As [`UnitOfWork::execute`], and when the result is past a limit.
    pub fn query(&mut self, sql: &str, mut parameters: Vec<Value>) -> Result<Rowset, SqlError> {
        let judged = self.admit(sql, &mut parameters)?;
        self.timed(|store| store.query(&judged, parameters))
    }

    /// Whether a guest's statement may go to the database now.
    fn admit(&mut self, sql: &str, parameters: &mut [Value]) -> Result<Arc<super::guard::Judged>, SqlError> {
        if let Some(failed) = &self.failed {
            let message = format!("the transaction has failed already: {}", failed.message);
            return Err(SqlError::permanent(sqlstate::FAILED_TRANSACTION, message));
        }
        if sql.contains('\0') {
            return Err(SqlError::permanent(sqlstate::UNTRANSLATABLE_TEXT, "the statement holds U+0000"));
        }
        if sql.len() > self.limits.text {
            let message = format!("the statement has {} bytes, and {} are allowed", sql.len(), self.limits.text);
            return Err(SqlError::permanent(sqlstate::LIMIT, message));
        }
        let size: usize = parameters.iter().map(Value::size).sum();
        if size > self.limits.parameters {
            let message = format!("the parameters have {size} bytes, and {} are allowed", self.limits.parameters);
            return Err(SqlError::permanent(sqlstate::LIMIT, message));
        }
        for (at, parameter) in parameters.iter_mut().enumerate() {
            check_storable(at + 1, parameter)?;
        }
        self.statements += 1;
        if self.statements > self.limits.statements {
            // Past this the guest could only waste time: nothing of the batch is kept.
            let message = format!("more than {} statements in one transaction", self.limits.statements);
            let error = SqlError::permanent(sqlstate::LIMIT, message);
            self.failed = Some(error.clone());
            return Err(error);
        }
        self.guard.judge(sql, self.phase).inspect_err(|error| {
            // A rebuild whose statements name the live schema: every event would fail like this one, whatever the
            // guest makes of the error, so none is to be given up on for it.
            if error.code == sqlstate::NO_SUCH_SCHEMA {
                self.failed = Some(error.clone());
            }
        })
    }

    /// Runs something on the store, on the database's time, and remembers a failure.
    fn timed<T>(&mut self, run: impl FnOnce(&mut dyn Store) -> Result<T, SqlError>) -> Result<T, SqlError> {
        let began = Instant::now();
        let result = run(&mut *self.store);
        let ended = Instant::now();
        if self.open_until.is_none() {
            self.open_until = self.store.begun().and_then(|begun| begun.checked_add(self.limits.statement.transaction));
        }
        let result = result.and_then(|done| if self.is_late(ended) { Err(self.out_of_time()) } else { Ok(done) });
        let took = ended - began;
        self.statements_ran = Some((self.statements_ran.map_or(began, |(first, _)| first), ended));
        self.waited += took;
        self.in_database += took;
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }

    /// Whether the transaction has been open for too long at this time.
    fn is_late(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now > until)
    }

    /// What is said then.
    fn out_of_time(&self) -> SqlError {
        out_of_time(self.limits.statement.transaction)
    }

    /// Fails if the transaction has been open for too long at this time: also a projection that computes, and asks nothing of
    /// the database, keeps locked what it has written.
    pub fn keep_time(&mut self, now: Instant) {
        if self.is_late(now) {
            let error = self.out_of_time();
            self.failed.get_or_insert(error);
        }
    }

    /// The time spent in the database for the guest since this was last asked.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// The time of this transaction that was spent in the database for the guest.
    #[must_use]
    pub fn in_database(&self) -> Duration {
        self.in_database
    }

    /// When the first statement of this transaction began, and the last one ended; nothing without any.
    #[must_use]
    pub fn statements_ran(&self) -> Option<(Instant, Instant)> {
        self.statements_ran
    }

    /// The first failure since the transaction, or the savepoint, began. A batch with one is not committed.
    #[must_use]
    pub fn failure(&self) -> Option<&SqlError> {
        self.failed.as_ref()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn begin(&mut self, phase: Phase, sending: Sending) -> Result<(), SqlError> {
        self.phase = phase;
        self.sending = sending;
        self.statements = 0;
        self.failed = None;
        self.open_until = None;
        (self.in_database, self.statements_ran) = (Duration::ZERO, None);
        self.store.begin()
    }

    /// From now on, keeps out of the way of the projection's other workers.
    pub fn take_turns(&mut self) {
        self.store.take_turns();
    }

    /// Runs whatever is buffered.
    ///
    /// # Errors
    /// When a statement fails, or had failed.
    pub fn send(&mut self) -> Result<(), SqlError> {
        match &self.failed {
            Some(failed) => Err(failed.clone()),
            None => self.timed(|store| store.send()),
        }
    }

    /// Sets the savepoint.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn savepoint(&mut self) -> Result<(), SqlError> {
        // On the careful path the limit is for an event: a large batch is nobody's fault.
        self.statements = 0;
        self.store.savepoint()
    }

    /// Keeps what was done since the savepoint.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn release(&mut self) -> Result<(), SqlError> {
        self.store.release()
    }

    /// Undoes what was done since the savepoint, the failure included.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn rollback_to_savepoint(&mut self) -> Result<(), SqlError> {
        self.failed = None;
        self.store.rollback_to_savepoint()
    }

    /// Writes a dead letter.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn bury(&mut self, letter: &DeadLetter<'_>, plugin_digest: &str) -> Result<(), SqlError> {
        self.store.bury(letter, plugin_digest)
    }

    /// Requests and letters, for a replay.
    pub fn replays(&mut self) -> &mut dyn Replays {
        &mut *self.store
    }

    /// The version of the projection's tables, under a lock.
    ///
    /// # Errors
    /// When the connection fails, or the projection's name is taken.
    pub fn schema_version(&mut self) -> Result<SchemaVersion, SqlError> {
        self.store.schema_version()
    }

    /// The tables are of this version now: the transaction goes on with rows.
    ///
    /// # Errors
    /// When a statement fails, or had failed.
    pub fn go_on_with_rows(&mut self, version: u32, sending: Sending) -> Result<(), SqlError> {
        self.send()?;
        self.store.set_schema_version(version)?;
        (self.phase, self.sending) = (Phase::Rows, sending);
        Ok(())
    }

    /// Writes the version of the projection's tables and commits, with the same fence as any other commit.
    ///
    /// # Errors
    /// When a statement fails or the worker is fenced.
    pub fn commit_migration(&mut self, in_place: &Advance) -> Result<(), CommitError> {
        self.refuse_failed()?;
        self.store.set_schema_version(in_place.plugin_version)?;
        self.store.commit(in_place)
    }

    /// Sees that the checkpoint is still this worker's, and where it has left it.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn verify(&mut self) -> Result<(), CommitError> {
        self.store.verify()
    }

    /// Whether an operator has paused the projection.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn is_paused(&mut self) -> Result<bool, SqlError> {
        self.store.is_paused()
    }

    /// Runs whatever is buffered, moves the checkpoint, commits.
    ///
    /// # Errors
    /// When a statement fails, or had failed, or the worker is fenced; then everything is rolled back.
    pub fn commit(&mut self, advance: &Advance) -> Result<(), CommitError> {
        self.refuse_failed()?;
        self.store.commit(advance)
    }

    /// Rolls everything back.
    ///
    /// # Errors
    /// When the connection fails; then the server has rolled back.
    pub fn rollback(&mut self) -> Result<(), SqlError> {
        self.failed = None;
        self.store.rollback()
    }

    /// What has failed is never committed, even if the guest went on as if nothing had happened.
    fn refuse_failed(&mut self) -> Result<(), CommitError> {
        match &self.failed {
            None => Ok(()),
            Some(failed) => {
                let failed = failed.clone();
                self.rollback().ok();
                Err(CommitError::Sql(failed))
            }
        }
    }
}

/// The error of a transaction that has been open for longer than this.
pub(super) fn out_of_time(limit: Duration) -> SqlError {
    SqlError::permanent(
        sqlstate::OUT_OF_TIME,
        format!("the transaction was open for longer than {limit:?} (--max-batch-time)"),
    )
}

/// Refuses what one of the databases would store as something else, so that both behave alike.
fn check_storable(number: usize, value: &mut Value) -> Result<(), SqlError> {
    match value {
        Value::Text(text) | Value::Json(text) if text.contains('\0') => Err(SqlError::permanent(
            sqlstate::UNTRANSLATABLE_TEXT,
            format!("parameter ${number} holds U+0000, which no text column stores"),
        )),
        // One way of writing it: Postgres knows them to be the same, SQLite would not.
        Value::Uuid(text) => match uuid::Uuid::try_parse(text) {
            Ok(uuid) => {
                *text = uuid.hyphenated().to_string();
                Ok(())
            }
            Err(_) => Err(SqlError::permanent("22P02", format!("parameter ${number} is not a UUID"))),
        },
        Value::Numeric(text) if !is_decimal(text) => {
            Err(SqlError::permanent("22P02", format!("parameter ${number} is not a decimal number")))
        }
        Value::Json(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() => {
            Err(SqlError::permanent("22P02", format!("parameter ${number} is not a JSON text")))
        }
        _ => Ok(()),
    }
}

/// Whether a text is a decimal number: sign, digits with at most one point, exponent.
fn is_decimal(text: &str) -> bool {
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = number.split_once(['e', 'E']).map_or((number, None), |(m, e)| (m, Some(e)));
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let points = mantissa.bytes().filter(|byte| *byte == b'.').count();
    let whole = exponent.is_none_or(|e| e.parse::<i16>().is_ok());
    digits > 0 && points <= 1 && digits + points == mantissa.len() && whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_told_from_other_text() {
        for text in ["0", "-12.50", "+.5", "5.", "1e10", "1.5E-3"] {
            assert!(is_decimal(text), "{text}");
        }
        for text in ["", ".", "1.2.3", "NaN", "1e", "0x10", "1_000", " 1", "--1"] {
            assert!(!is_decimal(text), "{text}");
        }
    }

    #[test]
    fn a_parameter_that_one_database_would_change_is_refused_by_number() {
        let error = check_storable(2, &mut Value::Text("a\0b".into())).unwrap_err();
        assert_eq!(error.code, "22021");
        assert!(error.message.contains("$2"), "{error}");
        assert!(check_storable(1, &mut Value::Uuid("no".into())).is_err());
        assert!(check_storable(1, &mut Value::Json("{".into())).is_err());
        assert!(check_storable(1, &mut Value::Json("{\"a\":[1]}".into())).is_ok());
    }
}
