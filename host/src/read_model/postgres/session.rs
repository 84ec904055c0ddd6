//! The connection of a claimed partition, and a message that is on its way while the projection goes on.
//!
//! A projection computes while Postgres does what it was sent before: of a batch that writes a row an event, half of the
//! time is the one's and half the other's. So what is kept goes off as soon as Postgres has nothing to do and there are some
//! [`AHEAD_FROM`] bytes of it, and at [`AHEAD_AT`] bytes in any case, when the piece before is done. Whoever is slower is never
//! waiting for the other then: a slow component is followed in small pieces, and a slow server is given large ones, which cost it
//! less. While a message is on its way the connection is with the task that waits for the answer; whoever needs
//! it waits for that first, and is told if it failed. Nothing overtakes: there is one connection, and one message at a
//! time.

use std::future::Future;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Column as _, Connection as _, Either, Executor as _, PgConnection, Row as _, ValueRef as _};
use tokio::task::JoinHandle;

use super::super::isolation::Isolation;
use super::super::store::StatementLimits;
use super::super::value::{Rowset, SqlError, Value, sqlstate};
use super::last_words::heard;
use super::locks::{PATIENCE, silent};
use super::overdue::{Backend, Deadline, Missed, OfSql};
use super::pool::Room;
use super::prepared::Known;
use super::role::Role;
use super::statements::{Message, Part};
use super::store::HOSTS_PATH;
use super::takeover::sessions_key;
use super::{decode, login, sql_error};
use crate::database::{DatabaseError, Postgres};

/// How many bytes are worth a message when the server has nothing to do: a hundred rows, against what a message costs.
pub(super) const AHEAD_FROM: usize = 8 << 10;

/// How many bytes are kept at most while the server is busy.
pub(super) const AHEAD_AT: usize = 64 << 10;

/// Why a message came back.
#[derive(Debug)]
pub(super) struct SendError {
    /// What failed.
    pub(super) error: SqlError,
    /// Which part of the message, from 0.
    pub(super) at: usize,
    /// Which statement that was; nothing for the host's own, or for a part that was not reached.
    pub(super) part: Option<Part>,
}

impl SendError {
    /// Of a message that was not sent.
    pub(super) fn before(error: SqlError) -> Self {
        Self { error, at: 0, part: None }
    }
}

/// Whether somebody asked for the rows of a message's last statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// `query` did.
    Wanted,
    /// They are read and dropped.
    Unwanted,
}

/// A message that is on its way: the connection comes back with its answer.
struct OnItsWay(JoinHandle<(Box<PgConnection>, Answered)>);

/// What comes back.
type Answered = Result<Rowset, Missed<SendError>>;

impl Drop for OnItsWay {
    /// Whoever does not wait for it any more closes the connection with it.
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection.
pub(super) struct Session {
    /// Its server, for the runtime.
    database: Postgres,
    /// The connection; with `on_its_way` otherwise, or gone for good.
    connection: Option<Box<PgConnection>>,
    /// Its process on the server.
    backend: Backend,
    /// Whether that was given up, in the middle of something.
    is_left: bool,
    /// A message.
    on_its_way: Option<OnItsWay>,
    /// What it is set to.
    settings: Settings,
    /// What is prepared in it.
    pub(super) known: Known,
    /// What the projection's tables were like when that was prepared.
    pub(super) tables: String,
    /// Whether it is gone, or cannot be told to be what it was.
    is_lost: bool,
    /// Since when nobody has it.
    pub(super) rests_since: Instant,
    /// Its place among the sessions of the process.
    room: Room,
}

/// What a session is set to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// Where names are looked up.
    pub(super) schema: String,
    /// The process that it works for.
    pub(super) owner: String,
    /// What it is called in `pg_stat_activity`: the worker that has it.
    pub(super) application: String,
    /// Whom the projection's statements run as; nobody yet.
    pub(super) role: Option<Role>,
    /// Whether that role has logged in itself.
    pub(super) isolation: Isolation,
    /// How long a statement may run.
    pub(super) time: Option<Duration>,
}

impl Session {
    /// Opens one, and makes it what the rest of this module relies on.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(super) fn open(database: &Postgres, room: Room, settings: Settings) -> Result<Self, DatabaseError> {
        database.block_on(async {
            let mut connection = match settings.login() {
                None => database.connect_for_projections(&settings.application).await?,
                Some(role) => {
                    // One after the other, so for as long as all of them take.
                    let open = login::open(database, role, &settings.schema, &settings.application);
                    let opened = tokio::time::timeout(6 * PATIENCE, open).await;
                    opened.unwrap_or_else(|_| Err(database.error("logging in", silent(6 * PATIENCE))))?
                }
            };
            let set = connection.execute(sqlx::raw_sql(AssertSqlSafe(settings.all())));
            let set = tokio::time::timeout(PATIENCE, set).await.unwrap_or_else(|_| Err(silent(PATIENCE)));
            let failed = |source| database.error("setting up a session", source);
            set.map_err(failed)?;
            let backend = patiently(Backend::of(&mut connection)).await.map_err(failed)?;
            Ok(Self {
                database: database.clone(),
                connection: Some(Box::new(connection)),
                backend,
                is_left: false,
                on_its_way: None,
                settings,
                known: Known::default(),
                tables: String::new(),
                is_lost: false,
                rests_since: Instant::now(),
                room,
            })
        })
    }

    /// Makes it what its next owner wants it to be. Most of the time, it is.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn set(&mut self, settings: &Settings) -> Result<(), SqlError> {
        if self.settings == *settings {
            return Ok(());
        }
        let change = self.settings.change_to(settings);
        let is_emptied = change == Change::Everything;
        let known = &mut self.known;
        let connection = self.connection.as_mut().ok_or_else(gone)?;
        let set = self.database.block_on(patiently(async {
            if is_emptied {
                // What another projection has left in the session goes, and what the driver remembers of it.
                known.forget();
                connection.clear_cached_statements().await?;
                connection.execute("DISCARD ALL").await?;
            }
            let sql = match change {
                Change::Everything => settings.all(),
                Change::Some(sql) => sql,
            };
            if sql.is_empty() {
                return Ok(());
            }
            connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(drop)
        }));
        match set {
            Ok(()) => {
                // What works as the host alone leaves the role for who comes next.
                let role = settings.role.clone().or_else(|| self.settings.role.take().filter(|_| !is_emptied));
                self.settings = Settings { role, ..settings.clone() };
                Ok(())
            }
            Err(error) => {
                self.is_lost = true;
                Err(sql_error(&error))
            }
        }
    }

    /// Forgets all that was prepared.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn forget_prepared(&mut self) -> Result<(), SqlError> {
        let silence = async { tokio::time::sleep(PATIENCE).await };
        self.try_run(silence, None, async |connection, known| known.deallocate(connection).await)
    }

    /// Whether it has logged in as these want it to.
    pub(super) fn has_login_of(&self, settings: &Settings) -> bool {
        self.settings.login() == settings.login()
    }

    /// Closes it; gives its room to another.
    pub(super) fn close(self) -> Room {
        self.room
    }

    /// Whose names it looks up.
    pub(super) fn schema(&self) -> &str {
        &self.settings.schema
    }

    /// Who had it last.
    pub(super) fn application(&self) -> &str {
        &self.settings.application
    }

    /// Whether it can be given to somebody else: nothing is on its way in it.
    pub(super) fn is_well(&self) -> bool {
        !self.is_lost && !self.known.is_doubtful() && self.on_its_way.is_none() && self.connection.is_some()
    }

    /// Runs something on the connection, and what is prepared there, for as long as the claim lasts, until the deadline.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn try_run<T>(
        &mut self,
        lost: impl Future<Output = ()>,
        deadline: Option<Deadline>,
        work: impl AsyncFnOnce(&mut PgConnection, &mut Known) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.arrive().map_err(|failed| failed.error)?;
        let connection = self.connection.as_mut().ok_or_else(gone)?;
        let (known, backend) = (&mut self.known, self.backend);
        let done = self.database.block_on(async {
            let work = work(connection, known);
            let work = async {
                match deadline {
                    Some(deadline) => deadline.keep(backend, work).await,
                    None => work.await.map_err(Missed::Failed),
                }
            };
            tokio::select! {
                biased;
                done = work => done,
                () = lost => Err(Missed::Failed(gone())),
            }
        });
        self.take_note(done)
    }

    /// Runs the host's own work of a claim. After an error nobody knows what state it is in.
    ///
    /// # Errors
    /// When the work fails.
    pub(super) fn as_host<T>(
        &mut self,
        lost: impl Future<Output = ()>,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let Some(connection) = self.connection.as_mut() else { unreachable!("nothing is on its way") };
        let database = &self.database;
        let done = database.block_on(async {
            let doing = "claiming a partition";
            // It may have rested for a while, and a claim may wait for others: so it is seen that it is there.
            patiently(connection.ping()).await.map_err(|error| database.error(doing, error))?;
            tokio::select! {
                // First, so that nothing is asked of a connection for claims that has come since, and whose answer nobody hears.
                biased;
                () = lost => Err(database.error(doing, silent(PATIENCE))),
                done = work(connection) => done,
            }
        });
        self.is_lost |= done.is_err();
        done
    }

    /// Sends a message and waits; gives the result of its last statement, if somebody asked for it.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn send(
        &mut self,
        lost: impl Future<Output = ()>,
        message: Message,
        answer: Answer,
        limits: StatementLimits,
        deadline: Deadline,
    ) -> Result<Rowset, SendError> {
        self.arrive()?;
        let backend = self.backend;
        let connection = self.connection.as_mut().ok_or_else(lost_message)?;
        let sent = self.database.block_on(async {
            tokio::select! {
                biased;
                sent = deadline.keep(backend, heard(exchange(connection, message, answer, limits))) => sent,
                () = lost => Err(Missed::Failed(lost_message())),
            }
        });
        self.take_note(sent)
    }

    /// Sends a message, and does not wait for it, but for the one before it.
    ///
    /// # Errors
    /// When the one before it has failed.
    pub(super) fn send_ahead(
        &mut self,
        lost: impl Future<Output = ()> + Send + 'static,
        message: Message,
        limits: StatementLimits,
        deadline: Deadline,
    ) -> Result<(), SendError> {
        self.arrive()?;
        let backend = self.backend;
        let mut connection = self.connection.take().ok_or_else(lost_message)?;
        self.on_its_way = Some(OnItsWay(self.database.runtime().spawn(async move {
            let answer = tokio::select! {
                biased;
                answer = deadline.keep(backend, heard(exchange(&mut connection, message, Answer::Unwanted, limits))) => answer,
                () = lost => Err(Missed::Failed(lost_message())),
            };
            (connection, answer)
        })));
        Ok(())
    }

    /// Whether the server has nothing to do for it.
    pub(super) fn is_free(&self) -> bool {
        self.on_its_way.as_ref().is_none_or(|message| message.0.is_finished())
    }

    /// Waits for the message that is on its way, if there is one.
    ///
    /// # Errors
    /// When it has failed.
    pub(super) fn arrive(&mut self) -> Result<(), SendError> {
        let Some(mut on_its_way) = self.on_its_way.take() else { return Ok(()) };
        // A panic in there is a bug of ours, and the connection went with it.
        let (connection, answer) = self.database.block_on(&mut on_its_way.0).map_err(|_| lost_message())?;
        self.connection = Some(connection);
        self.take_note(answer).map(drop)
    }

    /// Its process, if that was given up in the middle of something and may still be there.
    pub(super) fn left(&self) -> Option<Backend> {
        self.is_left.then_some(self.backend)
    }

    /// Takes note of what an answer says of the session.
    fn take_note<T, E: OfSql>(&mut self, answer: Result<T, Missed<E>>) -> Result<T, E> {
        answer.map_err(|missed| {
            let error = match missed {
                Missed::Failed(error) => error,
                Missed::Left(error) => {
                    // Nothing can be said in it any more.
                    (self.connection, self.is_left) = (None, true);
                    error
                }
            };
            self.heed(error.sql());
            error
        })
    }

    /// Takes note of an error after which the session is of no use to anybody: it is gone, or somebody who mends what it
    /// met (no room, read-only: `ALTER DATABASE … SET`) can mend it for new sessions only.
    fn heed(&mut self, error: &SqlError) {
        let ends = |code: &str| {
            let class = code.get(..2).unwrap_or_default();
            matches!(class, "08" | "53" | "58") || matches!(code, "57P01" | "57P02" | "57P03" | "25006")
        };
        self.is_lost |= ends(&error.code);
    }
}

/// Waits for what takes no time, unless the server is gone.
async fn patiently<T>(done: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| Err(silent(PATIENCE)))
}

/// What has to be done to a session.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// It was another projection's.
    Everything,
    /// These statements.
    Some(String),
}

impl Settings {
    /// The role that has logged in; nothing for the host's own login.
    fn login(&self) -> Option<&Role> {
        self.role.as_ref().filter(|_| self.isolation == Isolation::Login)
    }

    /// All that makes a new session this, whatever the server's or the user's defaults are.
    fn all(&self) -> String {
        let of = Self { schema: self.schema.clone(), owner: self.owner.clone(), ..Self::default() };
        let Change::Some(rest) = of.change_to(self) else { unreachable!("the schema is the same") };
        format!(
            "{HOSTS_PATH}; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'iso_8601';
             SET standard_conforming_strings = on; SET bytea_output = 'hex'; SET client_min_messages = warning;
             SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
             SELECT pg_advisory_lock_shared({}); {rest}",
            sessions_key(&self.owner)
        )
    }

    /// What makes one session the other.
    fn change_to(&self, to: &Self) -> Change {
        if self.schema != to.schema
            || self.owner != to.owner
            || (self.role.is_some() && to.role.is_some() && self.role != to.role)
        {
            return Change::Everything;
        }
        let mut sql = String::new();
        if self.application != to.application {
            sql.push_str(&format!("SET application_name = '{}';", to.application.replace('\'', "''")));
        }
        if to.time.is_none() && self.time.is_some() {
            // The limits are the projection's, and a claim may wait for another's `migrate`.
            sql.push_str("RESET statement_timeout; RESET lock_timeout;");
        }
        if let Some(time) = to.time
            && self.time != to.time
        {
            // Who waits for a lock that long waits for somebody else, and the event is not to blame: told apart by coming first.
            let (time, wait) = (time.as_millis(), (time / 2).as_millis().max(1));
            sql.push_str(&format!("SET statement_timeout = {time}; SET lock_timeout = {wait};"));
        }
        if let Some(role) = &to.role
            && self.role.is_none()
            && to.isolation == Isolation::Role
        {
            sql.push_str(&role.prepare_leave());
        }
        Change::Some(sql)
    }
}

/// The error of a connection that is gone.
fn gone() -> SqlError {
    SqlError::retryable(sqlstate::CONNECTION_FAILURE, "the connection is gone")
}

/// The same, of a message.
fn lost_message() -> SendError {
    SendError { error: gone(), at: 0, part: None }
}

/// The error of a message. Of a connection that ended in the middle of the answer nobody has said why, as far as this goes.
fn unanswered(error: &sqlx::Error) -> SqlError {
    let sql = sql_error(error);
    match error {
        sqlx::Error::Io(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            SqlError { code: sqlstate::WITHOUT_A_WORD.to_owned(), ..sql }
        }
        _ => sql,
    }
}

/// Sends a message and receives its answer: the result of its last statement, if somebody asked for it.
async fn exchange(
    connection: &mut PgConnection,
    message: Message,
    answer: Answer,
    limits: StatementLimits,
) -> Result<Rowset, SendError> {
    let Message { text, parts, .. } = message;
    let wanted = parts.len().saturating_sub(1);
    let failed = |error: SqlError, at: usize| SendError { error, at, part: parts.get(at).copied() };
    let mut results = sqlx::raw_sql(AssertSqlSafe(text)).fetch_many(connection);
    let (mut rowset, mut bytes, mut at) = (Ok(Rowset::default()), 0, 0);
    while let Some(result) = results.try_next().await.map_err(|error| failed(unanswered(&error), at))? {
        match result {
            Either::Left(done) => {
                if at == wanted
                    && let Ok(rowset) = &mut rowset
                {
                    // The command's count includes the rows of a SELECT.
                    rowset.affected = done.rows_affected();
                }
                at += 1;
            }
            Either::Right(row) if at == wanted && answer == Answer::Wanted => {
                rowset = rowset.and_then(|rowset| read_row(rowset, &row, &mut bytes, &limits));
            }
            // An INSERT … RETURNING through `execute`: nobody asked for its rows.
            Either::Right(_) => {}
        }
    }
    rowset.map_err(|error| SendError { error, at: wanted, part: None })
}

/// Adds a row to a result.
fn read_row(mut rowset: Rowset, row: &PgRow, bytes: &mut usize, limits: &StatementLimits) -> Result<Rowset, SqlError> {
    if rowset.columns.is_empty() {
        rowset.columns = row.columns().iter().map(|column| column.name().to_owned()).collect();
    }
    let mut values = Vec::with_capacity(row.len());
    for column in 0..row.len() {
        let raw = row.try_get_raw(column).map_err(|error| sql_error(&error))?;
        let value = if raw.is_null() {
            Value::Null
        } else {
            let of = raw.type_info().oid().map_or(0, |oid| oid.0);
            let text = raw.as_str().map_err(|error| SqlError::permanent(sqlstate::OTHER, error.to_string()))?;
            decode::decode(text, of)?
        };
        *bytes += value.size();
        values.push(value);
    }
    rowset.rows.push(values);
    limits.check(rowset.rows.len(), *bytes)?;
    Ok(rowset)
}
