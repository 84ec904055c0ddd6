//! How far a partition is, who works on it, and what a commit must prove.
//!
//! A commit carries `UPDATE checkpoints … WHERE epoch = mine AND position = what I read`. A claim raises the
//! epoch, so a worker that was frozen while another took over finds no row, rolls back and leaves: it is
//! *fenced*. The position in the condition makes the same true of a worker that lost track of itself. A third
//! condition is that the projection's tables are of the version that wrote: a process that still runs the old
//! plugin, after another has migrated, would otherwise park events that are not to blame.

use serde::Serialize;

use super::store::CommitError;
use crate::event::Position;
use crate::partition::Partition;

/// A partition of a projection: what one worker claims.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The projection's name.
    pub projection: String,
    /// Which part of its events.
    pub partition: Partition,
}

/// The number of a claim. The greatest is the one that may commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker believes about its checkpoint when it commits.
pub(super) struct Mine<'worker> {
    /// Its partition.
    pub(super) slot: &'worker Slot,
    /// Its claim.
    pub(super) epoch: Epoch,
    /// Where it has read the checkpoint to be.
    pub(super) position: Position,
    /// The version of its projection.
    pub(super) version: u32,
}

/// What the database says instead.
pub(super) struct Found {
    /// Who made the last claim.
    pub(super) owner: String,
    /// Its epoch.
    pub(super) epoch: Epoch,
    /// Where the checkpoint stands.
    pub(super) position: Position,
    /// The version of the projection's tables.
    pub(super) version: u32,
}

impl Mine<'_> {
    /// Why a commit was refused: which of the conditions does not hold.
    pub(super) fn refused(&self, found: Option<Found>) -> CommitError {
        match found {
            Some(found) if found.epoch == self.epoch && found.position == self.position => CommitError::OtherVersion {
                projection: self.slot.projection.clone(),
                found: found.version,
                ours: self.version,
            },
            Some(found) => CommitError::Fenced { slot: self.slot.clone(), owner: found.owner, epoch: found.epoch },
            None => {
                let owner = "somebody who has removed its checkpoint".to_owned();
                CommitError::Fenced { slot: self.slot.clone(), owner, epoch: Epoch(0) }
            }
        }
    }
}

/// What a commit moves a checkpoint by.
#[derive(Clone, Debug)]
pub struct Advance {
    /// To where.
    pub to: Position,
    /// How many events were applied on the way.
    pub applied: u64,
    /// The version of the projection that applied them.
    pub plugin_version: u32,
    /// The digest of its component.
    pub plugin_digest: std::sync::Arc<str>,
}

/// A checkpoint as `status` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The partition.
    pub partition: Partition,
    /// How far it is.
    pub position: Position,
    /// The last claim.
    pub epoch: Epoch,
    /// Who made it.
    pub owner: String,
    /// Whether they hold it still.
    pub running: bool,
    /// How many events it has applied, over all its life.
    pub events_applied: u64,
    /// The version of the projection that committed last.
    pub plugin_version: u32,
    /// The digest of its component.
    pub plugin_digest: String,
    /// When it was written: microseconds since 1970, UTC.
    pub updated_at: i64,
}
