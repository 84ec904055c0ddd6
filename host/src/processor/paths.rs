//! Which way a batch goes: at once, in pieces, event by event; and with which component.

use std::sync::Arc;
use std::time::Instant;

use super::backoff::Backoff;
use super::batch::Applier;
use super::failure::{ApplyError, Kind};
use super::losses::Losses;
use super::pace::Pace;
use super::reader::{Batch, Reader};
use super::stop::Slept;
use super::worker::{Trouble, Worker};
use crate::plugin::slot::Origin;
use crate::telemetry::reloads;

/// How many events of a batch that failed are tried together.
const PIECE: usize = 250;

impl Worker {
    /// Applies a batch on the fast path, or else carefully.
    pub(super) fn apply(
        &self,
        applier: &mut Applier,
        reader: &mut Reader,
        batch: &Batch,
        pace: &mut Pace,
        losses: &mut Losses,
    ) -> Result<(), Trouble> {
        if losses.is_one_by_one(applier.position) {
            tracing::info!(events = batch.events.len(), "lost here again and again: applying events one by one");
            let applied = applier.apply_carefully(batch, &self.options.get(), &self.stop, losses)?;
            self.progress.applied(applied);
            return Ok(());
        }
        let at = applier.position;
        self.apply_at_once(applier, reader, batch, pace, losses).inspect_err(|trouble| {
            if matches!(trouble, Trouble::Lost(_)) {
                losses.lost(at, batch.to);
            }
        })
    }

    /// Applies a batch that was not lost before.
    fn apply_at_once(
        &self,
        applier: &mut Applier,
        reader: &mut Reader,
        batch: &Batch,
        pace: &mut Pace,
        losses: &mut Losses,
    ) -> Result<(), Trouble> {
        let (began, mut backoff) = (Instant::now(), Backoff::default());
        let migrates = applier.trial.on_record().is_some();
        tracing::debug!(to = batch.to.get(), events = batch.events.len(), "batch begins");
        let applied = loop {
            let error = match applier.apply(batch) {
                Ok(applied) => {
                    if migrates {
                        self.plugin.insist(&applier.plugin);
                    }
                    pace.took(batch.events.len(), began.elapsed());
                    break applied;
                }
                Err(error) => error,
            };
            if error.is_past_a_limit() {
                pace.too_much(batch.events.len());
            } else {
                pace.failed();
            }
            self.meter.failed(error.kind().name());
            match error.kind() {
                Kind::Fenced | Kind::Rewritten | Kind::Lost => return Err(error.into()),
                // A deadlock is nobody's fault: partitions write the same rows, each in its own order. It would come
                // again, and each costs the server's deadlock_timeout; so who meets one takes turns from then on.
                Kind::Transient
                    if matches!(error, ApplyError::Sql(_) | ApplyError::Commit(_)) && backoff.failures() < 2 =>
                {
                    applier.work().take_turns();
                    let wait = backoff.fail();
                    tracing::info!(%error, ?wait, "trying the batch again");
                    self.meter.retried();
                    if self.stop.sleep(wait) == Slept::Stopped {
                        return Err(Trouble::Stopped);
                    }
                }
                // What it was to apply is read again, because the last good one may want other events.
                _ if self.go_back(applier, reader, &error) == WentBack::Yes => return Ok(()),
                Kind::Transient | Kind::Permanent | Kind::Environment => {
                    tracing::warn!(%error, events = batch.events.len(), "a batch failed: applying its events one by one");
                    return self.apply_in_pieces(applier, batch, losses);
                }
            }
        };
        self.progress.applied(applied);
        tracing::debug!(position = applier.position.get(), applied, "batch committed");
        Ok(())
    }

    /// Finds the piece of a failed batch that fails, and applies only that one event by event: most of a large batch
    /// is as good as before.
    fn apply_in_pieces(&self, applier: &mut Applier, batch: &Batch, losses: &mut Losses) -> Result<(), Trouble> {
        let is_small = batch.events.len() <= PIECE;
        for piece in batch.pieces(PIECE) {
            if self.stop.is_requested() {
                return Err(Trouble::Stopped);
            }
            let fast = match is_small {
                true => None,
                false => match applier.apply(&piece) {
                    Ok(applied) => Some(applied),
                    // Nobody knows whether it was committed: only a new claim says where the partition stands.
                    Err(error) if matches!(error.kind(), Kind::Fenced | Kind::Rewritten | Kind::Lost) => {
                        return Err(error.into());
                    }
                    Err(_) => None,
                },
            };
            let applied = match fast {
                Some(applied) => applied,
                // Whatever it was, it comes again, and is dealt with there.
                None => applier.apply_carefully(&piece, &self.options.get(), &self.stop, losses)?,
            };
            self.progress.applied(applied);
            tracing::debug!(position = applier.position.get(), applied, "batch committed");
        }
        Ok(())
    }

    /// Goes on with another component, if one has come. One that was put back is known to be good.
    pub(super) fn swap(&self, applier: &mut Applier, reader: &mut Reader) {
        let (plugin, origin) = self.plugin.get_with_origin();
        if Arc::ptr_eq(&plugin, &applier.plugin) {
            return;
        }
        let (from, to) = (short(&applier.plugin.digest), short(&plugin.digest));
        tracing::info!(from, to, "the projection was replaced");
        reader.want(plugin.descriptor.filter(), applier.position);
        match origin {
            Origin::New => applier.try_out(plugin),
            Origin::PutBack => applier.swap(plugin),
        }
    }

    /// Goes back to the last good component, if the one at work is on trial and this error is its own.
    pub(super) fn go_back(&self, applier: &mut Applier, reader: &mut Reader, error: &ApplyError) -> WentBack {
        let failed = Arc::clone(&applier.plugin);
        let Some(last_good) = applier.go_back(error) else { return WentBack::No };
        let (digest, back_to) = (short(&failed.digest), short(&last_good.digest));
        tracing::error!(%error, digest, back_to, "the new plugin failed in its first batch; the last good one goes on");
        let (name, why) = (&last_good.descriptor.name, error.to_string());
        reloads::note(name, &last_good.digest, &failed.digest, Some(&why));
        self.plugin.take_back(&failed, &last_good);
        reader.want(last_good.descriptor.filter(), applier.position);
        WentBack::Yes
    }
}

/// Whether the last good component is at work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WentBack {
    /// It is.
    Yes,
    /// There is none, or the error has nothing to do with the new one.
    No,
}

/// The beginning of a digest, for people.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
