//! A deadline on this side for what the server does not end by itself.
//!
//! `statement_timeout` ends a statement where the server looks at the clock: between the steps of a plan. One call of a
//! function that never does (`strpos`, `replace`, `LIKE` on megabytes) holds its transaction for as long as it takes, which can
//! be minutes; and a projection that got past the guard can lift the setting, which is its session's. So each message that holds
//! statements of a projection has a [`Deadline`] here: what all of its statements may take, and a grace in which the server may
//! still do it by itself. It is one timer a message, looked at only while there is no answer.
//!
//! **When it has passed**, the server is asked in the session that holds the claims ([`Locks`]), which shows at the same time
//! who is to blame:
//! - That session gets no answer either: the server is silent, or the way to it is cut. The claims are lost with it, each worker
//!   is told, and no event is blamed.
//! - The server has answered already, or knows no such process: what is missing is on its way, or that way is broken. It is
//!   waited for a little, and then the connection counts as lost, like any other.
//! - It commits, and waits for a standby: that is the operator's wish, and takes as long as it takes. What is to be ended is not
//!   there any more.
//! - It works on the message. The statement is cancelled; if that does not help (a projection can catch a cancellation in
//!   a function of its own), its process is told to end. The event fails with an error that says so, like any that ran
//!   into a limit.
//!
//! **What does not even end then** is in the middle of something that looks at no signal, and ends when that does. The
//! connection is closed. What its process may still do is what it has in its message, and a commit is only there with the fence
//! before it: it moves the checkpoint from where it is, or nothing at all. So it can at most do what this worker was about to do;
//! one that was in the middle of its commit is found by where the checkpoint stands. It also has its rows locked. So
//! **the worker waits until it is gone** ([`Lease`](super::lease::Lease)), and has no other session meanwhile: its place in the
//! pool is free for others, and there are never more connections than the pool may have and one for each worker that waits so.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use sqlx::PgConnection;

use super::super::store::StatementLimits;
use super::super::unit_of_work::out_of_time;
use super::super::value::{SqlError, sqlstate};
use super::locks::{Locks, PATIENCE};
use super::session::SendError;

/// How long the server may take, past what is allowed, to end something by itself and say so.
const GRACE: Duration = Duration::from_secs(2);

/// How long a cancelled statement may take to end, and then a process that was told to.
const TO_END: Duration = Duration::from_secs(2);

/// A process of the server: its number, and when it began (microseconds since 1970), because numbers are given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    /// Its number.
    pid: i32,
    /// When it began.
    since: i64,
}

/// What `pg_stat_activity` says when a process began.
const SINCE: &str = "(extract(epoch FROM backend_start) * 1000000)::bigint";

/// How a process is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Its statement fails.
    Cancel,
    /// It ends.
    Terminate,
}

/// What was found when one was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It works on a message, and was asked.
    Working,
    /// It has committed, and waits for a standby.
    Committing,
    /// It does not work on anything, or is not there.
    Resting,
}

impl Backend {
    /// That of a connection.
    ///
    /// # Errors
    /// When the connection fails.
    pub(super) async fn of(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let find = format!("SELECT pid, {SINCE} FROM pg_stat_activity WHERE pid = pg_backend_pid()");
        let find = sqlx::query_as(sqlx::AssertSqlSafe(find)).persistent(false);
        find.fetch_one(connection).await.map(|(pid, since)| Self { pid, since })
    }

    /// Waits until it is gone.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(super) async fn gone(self, locks: &Locks, owner: &str) -> Result<(), SqlError> {
        let find = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND {SINCE} = $2");
        loop {
            let find = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(find.clone())).bind(self.pid).bind(self.since);
            let look = async |connection: &mut PgConnection| find.fetch_one(connection).await;
            match locks.with(owner, "waiting for a statement that does not end", look).await {
                Ok(0) => return Ok(()),
                Ok(_) => tokio::time::sleep(Duration::from_millis(250)).await,
                Err(error) => return Err(SqlError::retryable(sqlstate::CONNECTION_FAILURE, error.to_string())),
            }
        }
    }

    /// Asks it to stop, if it is in the middle of something that can be.
    async fn stop(self, how: Stop, locks: &Locks, owner: &str) -> Result<Found, crate::database::DatabaseError> {
        let function = match how {
            Stop::Cancel => "pg_cancel_backend",
            Stop::Terminate => "pg_terminate_backend",
        };
        // Seen and done in one statement, so that hardly anything can change between the two.
        let ask = format!(
            "SELECT wait_event = 'SyncRep', CASE WHEN wait_event IS DISTINCT FROM 'SyncRep' THEN {function}(pid) END
             FROM pg_stat_activity WHERE pid = $1 AND {SINCE} = $2 AND state IN ('active', 'fastpath function call', 'disabled')"
        );
        let ask = sqlx::query_as::<_, (Option<bool>, Option<bool>)>(sqlx::AssertSqlSafe(ask));
        let ask = ask.bind(self.pid).bind(self.since);
        let asked = async |connection: &mut PgConnection| ask.fetch_optional(connection).await;
        Ok(match locks.with(owner, "ending a statement that takes too long", asked).await? {
            None => Found::Resting,
            Some((Some(true), _)) => Found::Committing,
            Some(_) => Found::Working,
        })
    }
}

/// Until when a message has to be answered.
pub(super) struct Deadline {
    /// What its statements may take.
    allowed: Duration,
    /// What is said of those that take longer.
    error: fn(Duration) -> SqlError,
    /// What that says.
    limit: Duration,
    /// The session that the server is asked in.
    locks: Locks,
    /// Whose it is.
    owner: String,
}

/// What a statement is told that took too long.
fn too_long(limit: Duration) -> SqlError {
    let message = format!(
        "the statement took longer than {limit:?}, and the server did not end it: the host did (--max-statement-time)"
    );
    SqlError::permanent(sqlstate::CANCELED, message)
}

/// Why there is no answer, or not the wanted one.
#[derive(Debug)]
pub(super) enum Missed<E> {
    /// It failed, and the session is as it is after any error.
    Failed(E),
    /// It took too long, and its session was given up.
    Left(E),
}

/// An error that one of SQL is in.
pub(super) trait OfSql: From<SqlError> {
    /// That one.
    fn sql(&self) -> &SqlError;
}

impl OfSql for SqlError {
    fn sql(&self) -> &SqlError {
        self
    }
}

impl OfSql for SendError {
    fn sql(&self) -> &SqlError {
        &self.error
    }
}

impl From<SqlError> for SendError {
    fn from(error: SqlError) -> Self {
        Self::before(error)
    }
}

impl Deadline {
    /// For so many statements, each of which may take its time, of a transaction that has been open for so long. What is left
    /// of the transaction's time is enough for one of them in any case: what was begun in time may come to its end, and what was
    /// applied before it was over may be committed.
    pub(super) fn new(
        statements: u32,
        limits: StatementLimits,
        open_for: Duration,
        locks: &Locks,
        owner: &str,
    ) -> Self {
        let StatementLimits { time, transaction, .. } = limits;
        let of_statements = time.saturating_mul(statements.max(1));
        let of_transaction = transaction.saturating_sub(open_for).max(time);
        let (allowed, error, limit): (_, fn(Duration) -> SqlError, _) = match of_statements <= of_transaction {
            true => (of_statements, too_long, time),
            false => (of_transaction, out_of_time, transaction),
        };
        Self { allowed, error, limit, locks: locks.clone(), owner: owner.to_owned() }
    }

    /// Waits for an answer of this process until the deadline, and if there is none sees to it that there will be no other.
    ///
    /// # Errors
    /// When the work fails, or takes too long.
    pub(super) async fn keep<T, E: OfSql>(
        self,
        backend: Backend,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Missed<E>> {
        let mut work = pin!(work);
        tokio::select! {
            // What has come has come.
            biased;
            done = &mut work => return done.map_err(Missed::Failed),
            () = tokio::time::sleep(self.allowed + GRACE) => {}
        }
        for how in [Stop::Cancel, Stop::Terminate] {
            let found = backend.stop(how, &self.locks, &self.owner).await;
            tracing::debug!(?backend, ?how, ?found, "no answer to a message");
            match found {
                Ok(Found::Working) => {}
                Ok(Found::Committing) => return work.await.map_err(Missed::Failed),
                Ok(Found::Resting) => {
                    let late = tokio::time::timeout(PATIENCE, &mut work).await;
                    let lost =
                        || SqlError::retryable(sqlstate::CONNECTION_FAILURE, "the server's answer did not arrive");
                    return late.unwrap_or_else(|_| Err(lost().into())).map_err(Missed::Failed);
                }
                // Whoever waits is told that the claims are lost, and waits no longer.
                Err(error) if error.is_lost_connection() => std::future::pending().await,
                Err(error) => {
                    tracing::warn!(%error, "a statement that takes too long cannot be ended");
                    break;
                }
            }
            tokio::select! {
                biased;
                done = &mut work => return self.judge(done, how),
                () = tokio::time::sleep(TO_END) => {}
            }
        }
        Err(Missed::Left(self.error().into()))
    }

    /// What an answer means that came when its process had been asked to stop.
    fn judge<T, E: OfSql>(&self, done: Result<T, E>, asked: Stop) -> Result<T, Missed<E>> {
        match done {
            Err(error) if error.sql().code == sqlstate::CANCELED => Err(Missed::Failed(self.error().into())),
            Err(error) if asked == Stop::Terminate && error.sql().is_lost_connection() => {
                Err(Missed::Left(self.error().into()))
            }
            // It came to its end just then, or failed for another reason.
            done => done.map_err(Missed::Failed),
        }
    }

    /// What is said.
    fn error(&self) -> SqlError {
        (self.error)(self.limit)
    }
}
