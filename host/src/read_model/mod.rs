//! Where writes go: one transaction for a projection's rows, its dead letters and its checkpoint.
//!
//! Read in this order: [`value`] is what SQL takes and gives; [`checkpoint`] is how far a partition is, and the
//! epoch that fences it; [`store`] is what a database has to do for us, done by [`postgres`] and [`sqlite`];
//! [`guard`] judges a projection's SQL before it gets there; [`unit_of_work`] is the transaction as a guest
//! sees it, with limits; [`dead_letter`] is what becomes of an event that cannot be applied; [`overview`] reads
//! all checkpoints for `status`; [`rebuild`] builds a read model afresh beside the live one, and swaps it in.

pub mod checkpoint;
pub mod dead_letter;
pub mod guard;
pub mod overview;
pub mod postgres;
pub mod rebuild;
pub mod sqlite;
pub mod store;
pub mod unit_of_work;
pub mod value;

use tokio::runtime::Handle;

use crate::database::{DatabaseError, DatabaseUrl, Postgres};
use checkpoint::Slot;
use store::{Claim, ClaimError};

/// A database that holds read models. Cheap to clone.
#[derive(Clone, Debug)]
pub enum ReadModel {
    /// A schema a projection.
    Postgres(Postgres),
    /// A file a projection, beside this one.
    Sqlite(std::path::PathBuf, Handle),
}

impl ReadModel {
    /// The database of this URL. Connects when it is first needed.
    #[must_use]
    pub fn new(url: &DatabaseUrl, runtime: &Handle) -> Self {
        match url {
            DatabaseUrl::Postgres(options) => Self::Postgres(Postgres::new(options, runtime.clone())),
            DatabaseUrl::Sqlite(path) => Self::Sqlite(path.clone(), runtime.clone()),
        }
    }

    /// Sees that read models can be kept there.
    ///
    /// # Errors
    /// When the database cannot be reached, or its tables are not of this host's version.
    pub fn check(&self) -> Result<(), DatabaseError> {
        match self {
            Self::Postgres(database) => postgres::check(database),
            Self::Sqlite(base, _) => sqlite::check(base),
        }
    }

    /// Claims a partition of a projection for `owner`: a claim outlives no connection and no process, and raises
    /// the epoch, so that whoever held it before cannot commit any more.
    ///
    /// # Errors
    /// When somebody holds it, its projection runs with another number of partitions, or the database fails.
    pub fn claim(&self, slot: &Slot, owner: &str) -> Result<Claim, ClaimError> {
        match self {
            Self::Postgres(database) => postgres::PostgresStore::claim(database, slot, owner),
            Self::Sqlite(base, runtime) => sqlite::SqliteStore::claim(base, slot, owner, runtime),
        }
    }
}
