//! The connection of a claimed partition, and a message that is on its way while the projection goes on.
//!
//! A projection computes while Postgres does what it was sent before: of a batch that writes a row an event, half of the
//! time is the one's and half the other's. So what is kept goes off in pieces of [`AHEAD_AT`] bytes, each when the one before
//! it is done. While a message is on its way the connection is with the task that waits for the answer; whoever needs
//! it waits for that first, and is told if it failed. Nothing overtakes: there is one connection, and one message at a
//! time.

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Column as _, Either, PgConnection, Row as _, ValueRef as _};
use tokio::task::JoinHandle;

use super::super::store::StatementLimits;
use super::super::value::{Rowset, SqlError, Value, sqlstate};
use super::statements::{Message, Part};
use super::{decode, sql_error};
use crate::database::Postgres;
use crate::telemetry::metrics::OpenConnection;

/// How many bytes are kept before they go off: some hundred rows, a few milliseconds of work for the server.
pub(super) const AHEAD_AT: usize = 32 << 10;

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

/// Whether somebody asked for the rows of a message's last statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// `query` did.
    Wanted,
    /// They are read and dropped.
    Unwanted,
}

/// A message that is on its way: the connection comes back with its answer.
type OnItsWay = JoinHandle<(Box<PgConnection>, Result<Rowset, SendError>)>;

/// A connection.
pub(super) struct Session {
    /// Its server, for the runtime.
    database: Postgres,
    /// The connection; with `on_its_way` otherwise, or gone for good.
    connection: Option<Box<PgConnection>>,
    /// A message.
    on_its_way: Option<OnItsWay>,
    /// Counts it.
    _open: OpenConnection,
}

impl Session {
    /// A session on this connection.
    pub(super) fn new(database: Postgres, connection: PgConnection) -> Self {
        let open = OpenConnection::count();
        Self { database, connection: Some(Box::new(connection)), on_its_way: None, _open: open }
    }

    /// Runs something on the connection.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, SqlError> {
        self.try_run(async |connection| work(connection).await.map_err(|error| sql_error(&error)))
    }

    /// As [`Session::run`], for what words its own errors.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn try_run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.arrive().map_err(|failed| failed.error)?;
        let connection = self.connection.as_mut().ok_or_else(gone)?;
        self.database.block_on(work(connection))
    }

    /// Sends a message and waits; gives the result of its last statement, if somebody asked for it.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn send(
        &mut self,
        message: Message,
        answer: Answer,
        limits: StatementLimits,
    ) -> Result<Rowset, SendError> {
        self.arrive()?;
        let connection = self.connection.as_mut().ok_or_else(lost)?;
        self.database.block_on(exchange(connection, message, answer, limits))
    }

    /// Sends a message, and does not wait for it, but for the one before it.
    ///
    /// # Errors
    /// When the one before it has failed.
    pub(super) fn send_ahead(&mut self, message: Message, limits: StatementLimits) -> Result<(), SendError> {
        self.arrive()?;
        let mut connection = self.connection.take().ok_or_else(lost)?;
        self.on_its_way = Some(self.database.runtime().spawn(async move {
            let answer = exchange(&mut connection, message, Answer::Unwanted, limits).await;
            (connection, answer)
        }));
        Ok(())
    }

    /// Waits for the message that is on its way, if there is one.
    ///
    /// # Errors
    /// When it has failed.
    pub(super) fn arrive(&mut self) -> Result<(), SendError> {
        let Some(on_its_way) = self.on_its_way.take() else { return Ok(()) };
        // A panic in there is a bug of ours, and the connection went with it.
        let (connection, answer) = self.database.block_on(on_its_way).map_err(|_| lost())?;
        self.connection = Some(connection);
        answer.map(drop)
    }
}

/// The error of a connection that is gone.
fn gone() -> SqlError {
    SqlError::retryable(sqlstate::CONNECTION_FAILURE, "the connection is gone")
}

/// The same, of a message.
fn lost() -> SendError {
    SendError { error: gone(), at: 0, part: None }
}

/// Sends a message and receives its answer: the result of its last statement, if somebody asked for it.
async fn exchange(
    connection: &mut PgConnection,
    message: Message,
    answer: Answer,
    limits: StatementLimits,
) -> Result<Rowset, SendError> {
    let Message { text, parts } = message;
    let wanted = parts.len().saturating_sub(1);
    let failed = |error: SqlError, at: usize| SendError { error, at, part: parts.get(at).copied() };
    let mut results = sqlx::raw_sql(AssertSqlSafe(text)).fetch_many(connection);
    let (mut rowset, mut bytes, mut at) = (Ok(Rowset::default()), 0, 0);
    while let Some(result) = results.try_next().await.map_err(|error| failed(sql_error(&error), at))? {
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
