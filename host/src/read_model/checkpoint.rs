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
use crate::partition::lineage::Lineage;

/// How the owner begins that the host's own tools write when they change a checkpoint under a worker that runs. The
/// worker has done nothing wrong and still holds its lock, so it claims again instead of leaving. No host name holds
/// a blank.
pub const OWN_TOOL: &str = "projectionist ";

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

/// Which lock stands for a partition. It is raised when a worker is replaced that still holds the lock: the frozen
/// one goes on holding that of the old term, which stands for nothing any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u32);

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

impl Found {
    /// Whether it is the row that a worker left, under its claim.
    pub(super) fn is(&self, epoch: Epoch, position: Position) -> bool {
        self.epoch == epoch && self.position == position
    }
}

impl Mine<'_> {
    /// Why a commit was refused: which of the conditions does not hold. Where the row is gone, `last` is who made the
    /// last claim of any partition: the number of partitions was changed.
    pub(super) fn refused(&self, found: Option<Found>, last: impl FnOnce() -> Option<String>) -> CommitError {
        match found {
            Some(found) if found.is(self.epoch, self.position) => CommitError::OtherVersion {
                projection: self.slot.projection.clone(),
                found: found.version,
                ours: self.version,
            },
            Some(found) if found.owner.starts_with(OWN_TOOL) => {
                CommitError::Rewritten { slot: self.slot.clone(), by: found.owner }
            }
            Some(found) => CommitError::Fenced { slot: self.slot.clone(), owner: found.owner, epoch: found.epoch },
            None => match last().filter(|owner| !owner.is_empty()) {
                Some(tool) if tool.starts_with(OWN_TOOL) => {
                    CommitError::Rewritten { slot: self.slot.clone(), by: tool }
                }
                last => {
                    let by = last.unwrap_or_else(|| "somebody who has removed its checkpoint".to_owned());
                    CommitError::Retired { slot: self.slot.clone(), by }
                }
            },
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
    /// Which lock stands for it.
    pub term: Term,
    /// Whether they hold it still.
    pub running: bool,
    /// What is done above `position` since a change of the number of partitions.
    pub lineage: Lineage,
    /// How many events it has applied, over all its life.
    pub events_applied: u64,
    /// The version of the projection that committed last.
    pub plugin_version: u32,
    /// The digest of its component.
    pub plugin_digest: String,
    /// When it was written: microseconds since 1970, UTC.
    pub updated_at: i64,
}
