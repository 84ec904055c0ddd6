//! What a database has to do for a worker that has claimed a partition.
//!
//! [`Store`] is the whole difference between Postgres and SQLite as far as the loop knows: transactions, the
//! statements of a projection, and a commit that moves the checkpoint or is refused.

use std::time::{Duration, Instant};

use super::checkpoint::{Advance, Epoch, Slot};
use super::claim::Holder;
use super::dead_letter::{DeadLetter, Parked};
use super::grants::{Grant, Others};
use super::guard::Judged;
use super::request::Replays;
use super::value::{Dialect, Rowset, SqlError, Value};
use crate::database::DatabaseError;
use crate::event::Position;
use crate::partition::lineage::Lineage;

/// A claimed partition.
pub struct Claim {
    /// How far it is.
    pub position: Position,
    /// What is done above `position` since a change of the number of partitions.
    pub lineage: Lineage,
    /// The number of this claim.
    pub epoch: Epoch,
    /// Which aggregates are parked.
    pub parked: Parked,
    /// Its database. The claim ends when this is dropped.
    pub store: Box<dyn Store>,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("position", &self.position).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Why a partition could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody works on it, or on partitions of another number of partitions that it would take the place of.
    #[error("partition {} of {} waits for {}", slot.partition, slot.projection, list(holders))]
    Held {
        /// Which was asked for.
        slot: Slot,
        /// Who works, and on what. Never empty.
        holders: Vec<Holder>,
    },
    /// The database fails.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Holders for people.
fn list(holders: &[Holder]) -> String {
    let mut list: Vec<String> = holders.iter().take(4).map(ToString::to_string).collect();
    if holders.len() > list.len() {
        list.push(format!("{} more", holders.len() - list.len()));
    }
    list.join(", ")
}

/// Why a transaction was not committed. It is rolled back.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else has claimed the partition since.
    #[error("fenced: partition {} of {} was taken over by {owner}, epoch {epoch}", slot.partition, slot.projection)]
    Fenced {
        /// Which.
        slot: Slot,
        /// Who took it.
        owner: String,
        /// Their epoch.
        epoch: Epoch,
    },
    /// The number of partitions was changed since.
    #[error("fenced: partition {} of {} is no more: {by} runs another number of partitions", slot.partition, slot.projection)]
    Retired {
        /// Which.
        slot: Slot,
        /// Who.
        by: String,
    },
    /// A tool of the host has changed the checkpoint: a rebuild has put other tables in place, say. The worker claims
    /// again.
    #[error("the checkpoint of partition {} of {} was changed by {by}", slot.partition, slot.projection)]
    Rewritten {
        /// Which.
        slot: Slot,
        /// By which tool, and whose.
        by: String,
    },
    /// The projection's tables have another version than the projection that wrote into them.
    #[error(
        "the tables of {projection} were brought to version {found}, and this worker runs version {ours}: start it with the new plugin"
    )]
    OtherVersion {
        /// Which projection.
        projection: String,
        /// The version of the tables.
        found: u32,
        /// The version of the projection.
        ours: u32,
    },
    /// A buffered statement failed, or the commit itself.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// The version of a projection's tables, read under a lock that lasts until the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion(pub u32);

/// Limits that only the database can keep.
#[derive(Clone, Copy, Debug)]
pub struct StatementLimits {
    /// How many rows one result may have.
    pub rows: usize,
    /// How many bytes one result may have.
    pub result_bytes: usize,
    /// How long one statement may run.
    pub time: Duration,
    /// How long a transaction may be open.
    pub transaction: Duration,
}

/// The database of one claimed partition.
///
/// Between [`Store::begin`] and [`Store::commit`] or [`Store::rollback`] there is one transaction. After an error
/// of `execute`, `query` or `send` nothing more can be done with it than to roll back, to a savepoint or whole.
pub trait Store: Replays {
    /// Which SQL it speaks.
    fn dialect(&self) -> Dialect;

    /// Keeps these limits from now on.
    ///
    /// # Errors
    /// When the connection fails.
    fn limit(&mut self, limits: StatementLimits) -> Result<(), SqlError>;

    /// Lets the projection read these tables besides its own, outside of a transaction.
    ///
    /// # Errors
    /// When one is not there, or cannot be granted, or the connection fails.
    fn grant_read(&mut self, wanted: &[Grant], others: Others) -> Result<(), SqlError>;

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the connection fails.
    fn begin(&mut self) -> Result<(), SqlError>;

    /// Since when the transaction is open in the database; nothing before its first statement is there. What a worker waits
    /// for before that (a connection, its turn, the lock of a file) holds nobody up.
    fn begun(&self) -> Option<Instant>;

    /// From now on, this and every other worker of the projection in this process begins a transaction only when none of
    /// them is in one.
    fn take_turns(&mut self);

    /// Runs a statement, or keeps it for [`Store::send`].
    ///
    /// # Errors
    /// When it, or one that was kept before, fails.
    fn execute(&mut self, statement: &Judged, parameters: Vec<Value>) -> Result<(), SqlError>;

    /// Runs whatever was kept.
    ///
    /// # Errors
    /// When one of them fails.
    fn send(&mut self) -> Result<(), SqlError>;

    /// Runs whatever was kept, then this.
    ///
    /// # Errors
    /// When one of them fails, or the result is past a limit.
    fn query(&mut self, statement: &Judged, parameters: Vec<Value>) -> Result<Rowset, SqlError>;

    /// Sets the savepoint. There is one at a time.
    ///
    /// # Errors
    /// When the connection fails.
    fn savepoint(&mut self) -> Result<(), SqlError>;

    /// Keeps what was done since the savepoint.
    ///
    /// # Errors
    /// When the connection fails.
    fn release(&mut self) -> Result<(), SqlError>;

    /// Undoes what was done since the savepoint; what was kept and not sent is forgotten.
    ///
    /// # Errors
    /// When the connection fails.
    fn rollback_to_savepoint(&mut self) -> Result<(), SqlError>;

    /// Writes a dead letter in the transaction.
    ///
    /// # Errors
    /// When the connection fails.
    fn bury(&mut self, letter: &DeadLetter<'_>, plugin_digest: &str) -> Result<(), SqlError>;

    /// Makes room for the projection's tables, if need be, and says which version they have. Other workers of
    /// the projection wait here until the transaction ends.
    ///
    /// # Errors
    /// When the connection fails, or the room is somebody else's.
    fn schema_version(&mut self) -> Result<SchemaVersion, SqlError>;

    /// Says which version the projection's tables have now.
    ///
    /// # Errors
    /// When the connection fails.
    fn set_schema_version(&mut self, version: u32) -> Result<(), SqlError>;

    /// Sees that the checkpoint is still as this worker knows it, outside of a transaction. A commit proves it anyway;
    /// this is for a worker that has nothing to commit.
    ///
    /// # Errors
    /// When the worker is fenced, a tool of the host has changed the checkpoint, or the connection fails.
    fn verify(&mut self) -> Result<(), CommitError>;

    /// Whether an operator has paused the projection. Outside of a transaction.
    ///
    /// # Errors
    /// When the connection fails.
    fn is_paused(&mut self) -> Result<bool, SqlError>;

    /// Runs whatever was kept, moves the checkpoint from where this worker knows it, and commits.
    ///
    /// # Errors
    /// When a statement fails, the worker is fenced, or the tables are another version's; then everything is rolled
    /// back.
    fn commit(&mut self, advance: &Advance) -> Result<(), CommitError>;

    /// Rolls everything back.
    ///
    /// # Errors
    /// When the connection fails; then the server has rolled back.
    fn rollback(&mut self) -> Result<(), SqlError>;
}
