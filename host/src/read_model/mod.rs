//! Where writes go: one transaction for a projection's rows, its dead letters and its checkpoint.
//!
//! Read in this order: [`value`] is what SQL takes and gives; [`checkpoint`] is how far a partition is, and the
//! epoch that fences it; [`claim`] who may work on it, and how it comes to the next; [`heartbeat`] a worker's sign of
//! life, and [`life`] a server's; [`store`] is what a database has to do for us, done by [`postgres`] and [`sqlite`];
//! [`guard`] judges a projection's SQL before it gets there, with the [`grants`] of the operator, and what holds if it is wrong is the [`isolation`], and [`multi_row`] says which of it can be sent in runs;
//! [`unit_of_work`] is the transaction as a guest
//! sees it, with limits; [`dead_letter`] is what becomes of an event that cannot be applied, [`request`] how an
//! operator has it replayed, and [`dead_letters`] the operator's side of both; [`overview`] reads all checkpoints for
//! `status`; [`pause`] is how an operator keeps a projection from applying events; [`rebuild`] builds a read model afresh
//! beside the live one, and swaps it in; [`replica_set`] is who of many processes works on what.

pub mod checkpoint;
pub mod claim;
pub mod dead_letter;
pub mod dead_letters;
pub mod grants;
pub mod guard;
pub mod heartbeat;
pub mod isolation;
pub mod life;
pub mod multi_row;
pub mod overview;
pub mod pause;
pub mod postgres;
pub mod rebuild;
pub mod replica_set;
pub mod request;
pub mod sqlite;
pub mod store;
pub mod unit_of_work;
pub mod value;

pub use postgres::CONNECTIONS;
use tokio::runtime::Handle;

use crate::database::{DatabaseError, DatabaseUrl, Postgres};
use crate::processor::Priority;
use checkpoint::Slot;
use claim::Holder;
use heartbeat::Heartbeat;
use isolation::Isolation;
use life::Life;
use store::{Claim, ClaimError};

/// A database that holds read models. Cheap to clone.
#[derive(Clone, Debug)]
pub enum ReadModel {
    /// A schema a projection, and what the workers of this process share.
    Postgres(Postgres, postgres::Shared),
    /// A file a projection, beside this one, and the lock files that this process holds.
    Sqlite(std::path::PathBuf, Handle, sqlite::Locks),
}

impl ReadModel {
    /// The database of this URL. Connects when it is first needed.
    #[must_use]
    pub fn new(url: &DatabaseUrl, runtime: &Handle) -> Self {
        match url {
            DatabaseUrl::Postgres(options) => {
                let database = Postgres::new(options, runtime.clone());
                Self::Postgres(database.clone(), postgres::Shared::new(database))
            }
            DatabaseUrl::Sqlite(path) => Self::Sqlite(path.clone(), runtime.clone(), sqlite::Locks::default()),
        }
    }

    /// With at most so many connections for the workers to write with, where there is a server to connect to.
    #[must_use]
    pub fn with_connections(self, connections: usize) -> Self {
        match self {
            Self::Postgres(database, shared) => Self::Postgres(database, shared.with_connections(connections)),
            sqlite @ Self::Sqlite(..) => sqlite,
        }
    }

    /// Sees that read models can be kept there.
    ///
    /// # Errors
    /// When the database cannot be reached, or its tables are not of this host's version.
    pub fn check(&self) -> Result<(), DatabaseError> {
        match self {
            Self::Postgres(database, _) => postgres::check(database),
            Self::Sqlite(base, ..) => sqlite::check(base),
        }
    }

    /// Claims a partition of a projection for `owner`: a claim outlives no connection and no process, and raises
    /// the epoch, so that whoever held it before cannot commit any more. Where the projection has checkpoints for
    /// another number of partitions and nobody works on those, they are replaced first ([`crate::partition::lineage`]).
    /// By its priority it comes to a connection before others of the process, where there are too few. On Postgres, `isolation`
    /// says whose sessions write; a file of its own is all that there is of it on SQLite.
    ///
    /// # Errors
    /// When somebody holds it, or the database fails.
    pub fn claim(
        &self,
        slot: &Slot,
        owner: &str,
        priority: Priority,
        isolation: Isolation,
    ) -> Result<Claim, ClaimError> {
        match self {
            Self::Postgres(_, shared) => postgres::PostgresStore::claim(shared, slot, owner, priority, isolation),
            Self::Sqlite(base, runtime, locks) => sqlite::SqliteStore::claim(base, slot, owner, runtime, locks),
        }
    }

    /// Replaces a worker that gives no sign of life, though its connection or its process is still there: from now on
    /// its claim is over, and what it may try to commit is refused. Says whether it was still the last to claim.
    ///
    /// # Errors
    /// When the database fails.
    pub fn depose(&self, holder: &Holder, by: &str) -> Result<bool, DatabaseError> {
        match self {
            Self::Postgres(database, _) => postgres::depose(database, holder, by),
            Self::Sqlite(base, runtime, _) => sqlite::depose(base, holder, by, runtime),
        }
    }

    /// What is to be seen of the life of the server; nothing where there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub fn life(&self, owner: &str) -> Result<Option<Life>, DatabaseError> {
        match self {
            Self::Postgres(_, shared) => postgres::life(shared, owner).map(Some),
            Self::Sqlite(..) => Ok(None),
        }
    }

    /// Gives a sign of life of `owner`, until what is returned is dropped.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn beat(&self, owner: &str) -> std::io::Result<Heartbeat> {
        match self {
            Self::Postgres(_, shared) => postgres::beat(shared, owner),
            Self::Sqlite(_, _, locks) => sqlite::beat(locks.clone()),
        }
    }
}
