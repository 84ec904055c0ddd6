//! The statement that moves the checkpoint, as an error when it may not.
//!
//! `1 / count(*)` fails where no row was moved, and a failure ends a message before the COMMIT that follows. So a batch,
//! its checkpoint and its commit are one message: one round trip, and still no commit without the fence.
//!
//! In a session of the projection's own the same is done by a function, which wants it [sealed](super::seal).
//!
//! It is sent as it stands here each time, and not prepared. What a session has prepared is the session's: a projection that
//! got past the guard could prepare something else under the same name, and the host would run it as itself.

use serde_json::json;

use super::super::checkpoint::{Advance, Epoch, Slot};
use super::seal::Sealer;
use crate::event::Position;
use crate::partition::lineage::Lineage;

/// What a claim's commits are held to.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    /// Which claim.
    pub(super) epoch: Epoch,
    /// Which checkpoint: a condition.
    of: String,
    /// Which projection, quoted.
    projection: String,
    /// From where on the checkpoint's lineage says nothing any more, if it says anything.
    known_until: Option<Position>,
    /// What seals it, where the session is the projection's own.
    sealer: Option<Sealer>,
}

impl Fence {
    /// Of a claim.
    pub(super) fn new(slot: &Slot, epoch: Epoch, lineage: &Lineage) -> Self {
        let projection = format!("'{}'", slot.projection.replace('\'', "''"));
        let (total, key) = (slot.partition.total(), slot.partition.key());
        let of = format!(
            "projection = {projection} AND total_partitions = {total} AND partition_key = {key} AND epoch = {epoch}"
        );
        let known_until = Some(lineage.until()).filter(|until| *until > Position::START);
        Self { epoch, of, projection, known_until, sealer: None }
    }

    /// The same with what seals it, in sessions of the projection's own.
    pub(super) fn sealed_by(self, sealer: Option<Sealer>) -> Self {
        Self { sealer, ..self }
    }

    /// What seals what is said in this session, if it is the projection's own.
    pub(super) fn sealer(&mut self) -> Option<&mut Sealer> {
        self.sealer.as_mut()
    }

    /// Whether this session is the projection's own.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealer.is_some()
    }

    /// Moves the checkpoint from where it was read to where a batch ends.
    pub(super) fn advance(&mut self, from: Position, advance: &Advance) -> String {
        let Self { of, projection, known_until, sealer, .. } = self;
        let (to, applied, version) = (advance.to.to_sql(), advance.applied, advance.plugin_version);
        let digest = advance.plugin_digest.replace('\'', "''");
        // Facts that the checkpoint has passed say nothing any more.
        let forgets = known_until.is_some_and(|until| advance.to >= until);
        if let Some(sealer) = sealer {
            let from = from.to_sql();
            let what = json!({"from": from, "to": to, "applied": applied, "version": version,
                              "digest": &*advance.plugin_digest, "forgets": forgets});
            return sealer.seal_next("advance", what).call("advance");
        }
        let lineage = if forgets { ", lineage = NULL" } else { "" };
        format!(
            "WITH moved AS (
                 UPDATE projectionist.checkpoints SET position = {to}, events_applied = events_applied + {applied},
                     plugin_version = {version}, plugin_digest = '{digest}', updated_at = now(){lineage}
                 WHERE {of} AND position = {from}
                   AND EXISTS (SELECT FROM projectionist.projections
                               WHERE projection = {projection} AND schema_version = {version})
                 RETURNING 1)
             SELECT 1 / count(*) FROM moved",
            from = from.to_sql(),
        )
    }
}
