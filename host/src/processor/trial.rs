//! A plugin that has replaced another while events flow is on trial until it has committed its first batch.
//!
//! What compiles and describes itself may still trap at the first event. Parking event after event for it would be the
//! wrong answer, because the one it has replaced could apply them. So until then the last good one is kept, and where the
//! new one fails, nothing of it is left: its batch is rolled back, and the last good one takes it.
//!
//! That holds for the tables, too: `migrate` of a higher version runs in the transaction of the first batch, and rolls back
//! with it. While the tables wait for that, a checkpoint that only passes over other people's events is still the last
//! good one's. Of several workers of a projection one migrates; when it has committed, there is no way back for the
//! others, whose first batches are then treated like any other.

use std::sync::Arc;
use std::time::Instant;

use super::batch::Applier;
use super::failure::{ApplyError, Kind};
use crate::plugin::Plugin;
use crate::read_model::guard::Phase;
use crate::read_model::multi_row::TWICE;
use crate::read_model::store::CommitError;
use crate::read_model::unit_of_work::Sending;

/// What is known of a plugin's first batch.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// The one it has replaced, for as long as there is a way back.
    last_good: Option<Arc<Plugin>>,
    /// Whether the tables may be older than it is.
    behind: bool,
}

impl Trial {
    /// Whose checkpoint it is when nothing is applied: the last good one's, while the tables are.
    pub(super) fn on_record(&self) -> Option<&Arc<Plugin>> {
        self.last_good.as_ref().filter(|_| self.behind)
    }

    /// Something was committed. It has proved itself by events that it has applied; and once the tables are its own,
    /// there is no way back anyway.
    pub(super) fn committed(&mut self, applied: u64) {
        if applied > 0 || self.behind {
            *self = Self::default();
        }
    }
}

impl Applier {
    /// Goes on with another plugin, on trial: from the next batch on.
    pub fn try_out(&mut self, plugin: Arc<Plugin>) {
        // One that was on trial itself has proved nothing.
        let last_good = self.trial.last_good.take().unwrap_or_else(|| Arc::clone(&self.plugin));
        let behind = self.trial.behind || plugin.descriptor.version != self.plugin.descriptor.version;
        self.trial = Trial { last_good: Some(last_good), behind };
        self.swap(plugin);
    }

    /// The last good plugin takes over again, if there is a way back from this error of the one on trial.
    ///
    /// What is broken around the projection, or may pass, is not the new one's fault: it is treated like in any other
    /// batch.
    pub fn go_back(&mut self, error: &ApplyError) -> Option<Arc<Plugin>> {
        let is_its_own = match error {
            ApplyError::Call(_) => true,
            // A table, a schema or a right that it takes for granted.
            ApplyError::Sql(error) | ApplyError::Commit(CommitError::Sql(error)) => {
                error.code.starts_with("42") || error.code == "3F000"
            }
            ApplyError::Commit(_) => false,
        };
        if !is_its_own && error.kind() != Kind::Permanent {
            return None;
        }
        // The host's own doing: it has sent rows together, and will not again.
        if matches!(error, ApplyError::Sql(error) | ApplyError::Commit(CommitError::Sql(error)) if error.code == TWICE)
        {
            return None;
        }
        let last_good = self.trial.last_good.take()?;
        self.trial = Trial::default();
        self.swap(Arc::clone(&last_good));
        Some(last_good)
    }

    /// Begins a transaction, and brings the tables up in it if they are older than the plugin.
    ///
    /// # Errors
    /// When the connection fails, the tables are newer, or `migrate` fails.
    pub fn begin(&mut self, sending: Sending) -> Result<(), ApplyError> {
        (self.began, self.asked) = (Instant::now(), None);
        if !self.trial.behind {
            return Ok(self.work().begin(Phase::Rows, sending)?);
        }
        let wanted = self.plugin.descriptor.version;
        self.work().begin(Phase::Migrate, Sending::AtOnce)?;
        let found = self.work().schema_version()?.0;
        if found > wanted {
            let projection = self.plugin.descriptor.name.clone();
            return Err(CommitError::OtherVersion { projection, found, ours: wanted }.into());
        }
        if found < wanted {
            self.call(|instance| instance.migrate(found))?;
            tracing::info!(from = found, to = wanted, "the projection's tables are brought up with its first batch");
        } else {
            // Another worker has done it, so its first batch is committed.
            self.trial = Trial { last_good: None, behind: true };
        }
        Ok(self.work().go_on_with_rows(wanted, sending)?)
    }

    /// Brings the tables up now, where something else than a batch is to be done.
    ///
    /// # Errors
    /// As [`Applier::begin`], and when it cannot be committed; then everything is rolled back.
    pub fn bring_up(&mut self) -> Result<(), ApplyError> {
        if !self.trial.behind {
            return Ok(());
        }
        let brought_up = self.begin(Sending::AtOnce).and_then(|()| self.commit(self.position, 0));
        if brought_up.is_err() {
            self.roll_back();
        }
        brought_up
    }
}
