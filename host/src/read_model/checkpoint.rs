//! How far a partition is, who works on it, and what a commit must prove.
//!
//! A commit carries `UPDATE checkpoints … WHERE epoch = mine AND position = what I read`. A claim raises the
//! epoch, so a worker that was frozen while another took over finds no row, rolls back and leaves: it is
//! *fenced*. The position in the condition makes the same true of a worker that lost track of itself.

use serde::Serialize;

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
