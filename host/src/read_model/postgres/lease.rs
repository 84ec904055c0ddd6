//! A worker's hold on a session: taken from the pool when there is something to say, and kept until the transaction ends.

use std::future::Future;

use sqlx::{Connection as _, PgConnection};

use super::super::checkpoint::Slot;
use super::super::isolation::Isolation;
use super::super::store::StatementLimits;
use super::super::value::{Rowset, SqlError, sqlstate};
use super::locks::Lock;
use super::pool::Found;
use super::prepared::Known;
use super::role::Role;
use super::session::{Answer, SendError, Session, Settings};
use super::shared::Shared;
use super::sql_error;
use super::statements::Message;
use super::turns::{Alone, Turn};
use crate::database::DatabaseError;
use crate::processor::Priority;

/// A worker's hold.
pub(super) struct Lease {
    /// The session, while it has one.
    session: Option<Session>,
    /// Whether it stays until [`Lease::end`].
    in_transaction: bool,
    /// Who comes before others where there are too few.
    priority: Priority,
    /// What it is to be set to.
    settings: Settings,
    /// What the tables were like when a session's statements may have been prepared.
    tables: String,
    /// What they are like again if the transaction is rolled back that is changing them.
    tables_before: Option<String>,
    /// Whether the projection's workers take turns.
    pub(super) turn: Turn,
    /// It is this worker's.
    alone: Option<Alone>,
    /// Where sessions come from.
    shared: Shared,
    /// The claim, once there is one. Behind the session: whatever is in there is over before the next one claims.
    lock: Option<Lock>,
}

impl Lease {
    /// For the worker of a partition.
    pub(super) fn new(shared: &Shared, slot: &Slot, owner: &str, priority: Priority) -> Self {
        let settings = Settings {
            schema: slot.projection.clone(),
            owner: owner.to_owned(),
            application: application(slot),
            ..Settings::default()
        };
        Self {
            session: None,
            in_transaction: false,
            priority,
            settings,
            tables: String::new(),
            tables_before: None,
            turn: shared.turns.of(&slot.projection),
            alone: None,
            shared: shared.clone(),
            lock: None,
        }
    }

    /// From now on it works for a claim, as this role.
    pub(super) fn claimed(&mut self, lock: Lock, role: Role, isolation: Isolation) {
        self.lock = Some(lock);
        self.settings.role = Some(role);
        self.settings.isolation = isolation;
    }

    /// Sees that a session can be had, and has it ready.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not let the role in.
    pub(super) fn log_in(&self) -> Result<(), DatabaseError> {
        self.take().map(|session| self.shared.pool.give_back(session))
    }

    /// Does what is the host's to do outside of the projection's sessions, in a connection for this alone.
    ///
    /// # Errors
    /// When the server cannot be reached, or the work fails.
    pub(super) fn as_host<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let database = &self.shared.database;
        database.block_on(async {
            let gone = |error: DatabaseError| SqlError::retryable(sqlstate::CONNECTION_FAILURE, error.to_string());
            let mut connection = database.connect("projectionist host").await.map_err(gone)?;
            let done = work(&mut connection).await;
            connection.close().await.ok();
            done
        })
    }

    /// Keeps these limits from now on.
    pub(super) fn limit(&mut self, limits: StatementLimits) {
        self.settings.time = Some(limits.time);
    }

    /// What was prepared before the tables were like this is to be forgotten.
    pub(super) fn tables_are(&mut self, tables: String) -> Result<(), SqlError> {
        self.tables = tables;
        match &mut self.session {
            Some(session) => renew(session, &self.tables),
            None => Ok(()),
        }
    }

    /// The transaction changes the tables: what is prepared from now on is for what they become, if it commits.
    pub(super) fn tables_change(&mut self) {
        if self.tables_before.is_none() {
            self.tables_before = Some(self.tables.clone());
        }
    }

    /// Whether the transaction is changing the tables, and so the session is of no use to anybody when it is rolled back.
    pub(super) fn tables_were_changing(&mut self) -> bool {
        match self.tables_before.take() {
            Some(before) => {
                self.tables = before;
                true
            }
            None => false,
        }
    }

    /// From now on the session stays.
    pub(super) fn begin(&mut self) {
        self.in_transaction = true;
    }

    /// The transaction is over, and the session is whoever's wants it; unless the server does not know that it is over.
    pub(super) fn end(&mut self, is_over: bool) {
        self.in_transaction = false;
        self.tables_before = None;
        if is_over {
            self.give_back();
        } else {
            self.session = None;
        }
        self.alone = None;
    }

    /// Waits until no other worker of the projection in this process is alone, and is, until the transaction ends.
    pub(super) fn be_alone(&mut self) {
        // Who waits with a session would keep it from the one that is waited for.
        if self.alone.is_none() && self.session.is_none() {
            self.alone = Some(self.turn.alone(&self.shared.database));
        }
    }

    /// Whether the claim is held, as far as anybody knows.
    pub(super) fn is_held(&self) -> bool {
        self.lock.as_ref().is_none_or(Lock::is_held)
    }

    /// Asks the server whether the claim is held.
    pub(super) fn is_held_for_sure(&self) -> bool {
        self.lock.as_ref().is_none_or(|lock| self.shared.database.block_on(lock.is_held_for_sure()))
    }

    /// What is prepared in the session.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) fn known(&mut self) -> Result<&mut Known, SqlError> {
        self.session().map(|session| &mut session.known)
    }

    /// The same, if there is a session.
    pub(super) fn known_now(&mut self) -> Option<&mut Known> {
        self.session.as_mut().map(|session| &mut session.known)
    }

    /// Runs something in a session.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, SqlError> {
        self.try_run(async |connection| work(connection).await.map_err(|error| sql_error(&error)))
    }

    /// As [`Lease::run`], for what words its own errors.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn try_run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.prepare(async |connection, _| work(connection).await)
    }

    /// As [`Lease::try_run`], for what prepares statements.
    ///
    /// # Errors
    /// When it fails, or a message that was on its way has.
    pub(super) fn prepare<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection, &mut Known) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let lost = self.lost();
        let done = self.session()?.try_run(lost, work);
        self.rest();
        done
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
        let lost = self.lost();
        self.session().map_err(SendError::before)?.send(lost, message, answer, limits)
    }

    /// Sends a message, and does not wait for it, but for the one before it.
    ///
    /// # Errors
    /// When the one before it has failed.
    pub(super) fn send_ahead(&mut self, message: Message, limits: StatementLimits) -> Result<(), SendError> {
        let lost = self.lost();
        self.session().map_err(SendError::before)?.send_ahead(lost, message, limits)
    }

    /// Whether the server has nothing to do for it.
    pub(super) fn is_free(&self) -> bool {
        self.session.as_ref().is_none_or(Session::is_free)
    }

    /// Waits for the message that is on its way, if there is one.
    ///
    /// # Errors
    /// When it has failed.
    pub(super) fn arrive(&mut self) -> Result<(), SendError> {
        self.session.as_mut().map_or(Ok(()), Session::arrive)
    }

    /// Ends when the claim is lost.
    fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let lost = self.lock.as_ref().map(Lock::lost);
        async move {
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        }
    }

    /// The session, taken if need be.
    fn session(&mut self) -> Result<&mut Session, SqlError> {
        if self.session.is_none() {
            if !self.is_held() {
                return Err(SqlError::retryable(
                    sqlstate::CONNECTION_FAILURE,
                    "the connection that holds the claim was lost",
                ));
            }
            if self.in_transaction && self.turn.is_taken() && self.alone.is_none() {
                self.alone = Some(self.turn.alone(&self.shared.database));
            }
            let gone = |error: DatabaseError| SqlError::retryable(sqlstate::CONNECTION_FAILURE, error.to_string());
            let session = self.take().map_err(gone)?;
            self.session = Some(session);
        }
        let Some(session) = &mut self.session else { unreachable!("it was taken") };
        Ok(session)
    }

    /// A session from the pool, set as it is to be.
    ///
    /// # Errors
    /// When a new one is needed, and the server cannot be reached.
    fn take(&self) -> Result<Session, DatabaseError> {
        loop {
            let room = match self.shared.pool.take(&self.settings, self.priority) {
                Found::Room(room) => room,
                // Nobody becomes another's login, or the host's again.
                Found::Own(session) | Found::Other(session) if !session.has_login_of(&self.settings) => session.close(),
                Found::Own(mut session) | Found::Other(mut session) => {
                    let ready = session.set(&self.settings).and_then(|()| renew(&mut session, &self.tables));
                    match ready {
                        Ok(()) => return Ok(session),
                        // It was lost while nobody had it; the others may have been, too.
                        Err(_) => {
                            drop(session);
                            self.shared.pool.forget_idle();
                            continue;
                        }
                    }
                }
            };
            let mut session = Session::open(&self.shared.database, room, self.settings.clone())?;
            session.tables.clone_from(&self.tables);
            return Ok(session);
        }
    }

    /// Runs the host's own work of a claim in a session, which stays until [`Lease::end`].
    ///
    /// # Errors
    /// When the server cannot be reached, or the work fails.
    pub(super) fn claim<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.take()?,
        };
        let lost = self.shared.locks.next_loss();
        self.session.insert(session).as_host(lost, work)
    }

    /// Gives a session back that was only needed for a moment.
    fn rest(&mut self) {
        if !self.in_transaction {
            self.give_back();
        }
    }

    /// Gives the session back, if it is of use to anybody.
    fn give_back(&mut self) {
        let Some(mut session) = self.session.take() else { return };
        session.arrive().ok();
        if session.is_well() {
            self.shared.pool.give_back(session);
        } else {
            drop(session);
            self.shared.pool.forget_idle();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Whatever it was in the middle of ends with the session.
        let is_over = !self.in_transaction;
        self.end(is_over);
    }
}

/// Forgets what a session has prepared for tables that are not those any more.
fn renew(session: &mut Session, tables: &String) -> Result<(), SqlError> {
    if session.tables != *tables {
        session.forget_prepared()?;
        session.tables.clone_from(tables);
    }
    Ok(())
}

/// What a worker's session is called in `pg_stat_activity`; Postgres keeps 63 bytes of it.
fn application(slot: &Slot) -> String {
    format!("projectionist {} {}", slot.projection, slot.partition)
}
