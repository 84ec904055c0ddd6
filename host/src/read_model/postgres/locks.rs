//! The one connection of a process that holds its claims, and gives its sign of life.
//!
//! Who works on a partition holds an advisory lock ([`super::claim`]). All locks of a process are in one session, which does
//! nothing else but beat: they end with the process, with its connection, with the server. So a process has one such
//! session, however many partitions of however many projections it works on, and those it writes with
//! ([`super::pool`]) come and go.
//!
//! **When it is lost, so are all claims at once**, and each worker is told ([`Lock::is_held`], [`Lock::lost`]): also one that
//! waits for an answer that never comes, because a beat must arrive within [`PATIENCE`]. What a worker does that has not
//! heard of it yet is refused by the epoch, which is what the promise stands on; the lock is only what keeps others away.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fnv::FnvHashSet;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;

use super::takeover::end_sessions;
use crate::database::error::is_lost;
use crate::database::{DatabaseError, Postgres};

/// How long the server may take to answer. One that is gone does not answer, and does not say so either.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The locks of a process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Locks(Arc<Inner>);

/// What the clones share.
struct Inner {
    /// The server.
    database: Postgres,
    /// The session, and which backend it had before.
    session: tokio::sync::Mutex<Holding>,
    /// Which locks it holds. Never kept locked while anybody waits for the server.
    keys: Mutex<Keys>,
    /// How often a session was lost.
    lost: watch::Sender<u64>,
}

/// A session that holds locks.
#[derive(Default)]
struct Holding {
    /// The session.
    connection: Option<PgConnection>,
    /// Its backend on the server, or that of the one before: number and start.
    backend: Option<(i32, String)>,
}

/// Which locks are held.
#[derive(Default)]
struct Keys {
    /// How often a session was lost. What was held in one that is lost counts for nothing.
    of: u64,
    /// By a worker. A session may take a lock twice, and two workers may not.
    held: FnvHashSet<i64>,
    /// By nobody any more, and not let go yet.
    leaving: FnvHashSet<i64>,
}

/// A lock, for as long as it lives.
pub(super) struct Lock {
    /// Whose.
    locks: Locks,
    /// Which.
    key: i64,
    /// How often a session had been lost when it was taken.
    of: u64,
    /// Says when that changes.
    lost: watch::Receiver<u64>,
}

impl Locks {
    /// Holds none yet, and connects when it is to.
    pub(super) fn new(database: Postgres) -> Self {
        let inner = Inner {
            database,
            session: tokio::sync::Mutex::default(),
            keys: Mutex::default(),
            lost: watch::Sender::new(0),
        };
        Self(Arc::new(inner))
    }

    /// Takes a lock for `owner`, if it is free.
    ///
    /// # Errors
    /// When the server cannot be reached, or fails.
    pub(super) async fn try_lock(&self, owner: &str, key: i64) -> Result<Option<Lock>, DatabaseError> {
        self.with(owner, "claiming a partition", async |connection| {
            {
                let mut keys = self.keys();
                // Somebody of this process has just let go of it: it need not leave at all.
                if keys.leaving.remove(&key) {
                    return Ok(Some(self.lock(key, keys.of)));
                }
                if keys.held.contains(&key) {
                    return Ok(None);
                }
            }
            let is_free: bool =
                sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(key).fetch_one(connection).await?;
            if !is_free {
                return Ok(None);
            }
            let mut keys = self.keys();
            keys.held.insert(key);
            Ok(Some(self.lock(key, keys.of)))
        })
        .await
    }

    /// A lock that the session holds now.
    fn lock(&self, key: i64, of: u64) -> Lock {
        Lock { locks: self.clone(), key, of, lost: self.0.lost.subscribe() }
    }

    /// Gives a sign of life of `owner`.
    ///
    /// # Errors
    /// When the server cannot be reached, or fails.
    pub(super) async fn beat(&self, owner: &str) -> Result<(), DatabaseError> {
        self.with(owner, "giving a sign of life", async |connection| {
            sqlx::query(
                "INSERT INTO projectionist.workers (owner) VALUES ($1)
                 ON CONFLICT (owner) DO UPDATE SET beat = workers.beat + 1, beat_at = now()",
            )
            .bind(owner)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }

    /// Ends when the session is lost that is there now, or the next one.
    pub(super) fn next_loss(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut lost = self.0.lost.subscribe();
        async move {
            // The sender lives as long as anybody who waits for it.
            if lost.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Sees whether the server still has the session.
    async fn look(&self) {
        let mut holding = self.0.session.lock().await;
        if let Some(connection) = &mut holding.connection
            && !matches!(tokio::time::timeout(PATIENCE, connection.ping()).await, Ok(Ok(())))
        {
            self.lose(&mut holding);
        }
    }

    /// Runs something in the session, which is made if need be.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not answer in time, or the work fails. Where it was lost, so are the locks.
    pub(super) async fn with<T>(
        &self,
        owner: &str,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> Result<T, DatabaseError> {
        let mut holding = self.0.session.lock().await;
        if holding.connection.is_none() {
            let connected = tokio::time::timeout(2 * PATIENCE, self.connect(owner, &mut holding)).await;
            let connected = connected.unwrap_or_else(|_| Err(self.0.database.error(doing, silent(2 * PATIENCE))));
            if let Err(error) = connected {
                // Whoever waits for an answer elsewhere waits for the same server.
                self.lose(&mut holding);
                return Err(error);
            }
        }
        let Some(connection) = &mut holding.connection else { unreachable!("it was made") };
        let error = match tokio::time::timeout(PATIENCE, work(connection)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error,
            Err(_) => silent(PATIENCE),
        };
        if is_lost(&error) {
            self.lose(&mut holding);
        }
        Err(self.0.database.error(doing, error))
    }

    /// Makes the session.
    async fn connect(&self, owner: &str, holding: &mut Holding) -> Result<(), DatabaseError> {
        let failed = |source| self.0.database.error("beginning to give signs of life", source);
        let mut connection = self.0.database.connect(&format!("projectionist claims {owner}")).await?;
        // Where the way to the server was cut, it may hold the locks of the session before for hours, and those of the
        // transactions that were open.
        if let Some((backend, start)) = &holding.backend {
            sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2",
            )
            .bind(backend)
            .bind(start)
            .execute(&mut connection)
            .await
            .map_err(failed)?;
            // Whatever is open there has lost its claim, and its worker has given it up, or is about to.
            end_sessions(&mut connection, owner).await.map_err(failed)?;
        }
        sqlx::raw_sql("DELETE FROM projectionist.workers WHERE beat_at < now() - interval '1 day'")
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        let backend = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let backend = sqlx::query_as(backend).fetch_one(&mut connection).await.map_err(failed)?;
        *holding = Holding { connection: Some(connection), backend: Some(backend) };
        Ok(())
    }

    /// The session is gone, and every lock with it.
    fn lose(&self, holding: &mut Holding) {
        holding.connection = None;
        let of = {
            let mut keys = self.keys();
            *keys = Keys { of: keys.of + 1, ..Keys::default() };
            keys.of
        };
        self.0.lost.send_replace(of);
    }

    /// Lets go of a lock that nobody has any more, unless somebody has taken it up since.
    async fn unlock(&self, key: i64) {
        let mut holding = self.0.session.lock().await;
        {
            let mut keys = self.keys();
            if !keys.leaving.remove(&key) {
                return;
            }
            keys.held.remove(&key);
        }
        let Some(connection) = &mut holding.connection else { return };
        let unlock = sqlx::query("SELECT pg_advisory_unlock($1)").bind(key).execute(connection);
        // Else the server would hold it for nobody until the process ends.
        if !matches!(tokio::time::timeout(PATIENCE, unlock).await, Ok(Ok(_))) {
            self.lose(&mut holding);
        }
    }

    /// Which locks are held.
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a server that does not answer.
pub(super) fn silent(patience: Duration) -> sqlx::Error {
    let message = format!("the server has not answered for {patience:?}");
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message))
}

impl Lock {
    /// Whether it is held, as far as anybody knows.
    pub(super) fn is_held(&self) -> bool {
        *self.lost.borrow() == self.of
    }

    /// Asks the server whether it is held.
    pub(super) async fn is_held_for_sure(&self) -> bool {
        if self.is_held() {
            self.locks.look().await;
        }
        self.is_held()
    }

    /// Ends when it is not held any more.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut lost, of) = (self.lost.clone(), self.of);
        async move {
            // The sender lives as long as the lock; without it nobody could tell, and nobody is told.
            if lost.wait_for(|lost| *lost != of).await.is_err() {
                std::future::pending().await
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        {
            let mut keys = self.locks.keys();
            if keys.of != self.of {
                return;
            }
            keys.leaving.insert(self.key);
        }
        let (locks, key) = (self.locks.clone(), self.key);
        // When the runtime is gone, the connection is too.
        drop(self.locks.0.database.runtime().spawn(async move { locks.unlock(key).await }));
    }
}
