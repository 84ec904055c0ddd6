//! When a worker looks for requests of an operator: between two batches, and only while something is parked, because
//! nobody can ask for anything else. So a healthy projection pays nothing, and one with a parked aggregate a query
//! of an index that is nearly always empty, four times a second.
//!
//! Polling is enough: a person waits for the answer. Nothing has to be woken that way, and a request that was made
//! while nobody worked on the partition is found by whoever claims it next, before its first batch.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::batch::Applier;
use super::failure::{ApplyError, Kind};
use super::losses::{IN_A_ROW, Losses};
use super::replay::{Carried, Replaying};
use super::worker::Trouble;
use crate::read_model::request::Request;

/// The time between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What is answered to a request that is lost each time.
const LOST: &str = "the connection was lost each time that it was tried";

/// Where a worker's requests come in.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// When to look again; nothing before the first look.
    next: Option<Instant>,
    /// How often in a row something had to be mended first.
    backoff: Backoff,
}

impl Requests {
    /// How long a worker that has nothing to do may sleep.
    pub(super) fn pause(applier: &Applier, pause: Duration) -> Duration {
        if applier.parked.is_empty() { pause } else { pause.min(LOOK) }
    }

    /// Carries out what was asked, if it is time to look; gives how many events were applied.
    ///
    /// # Errors
    /// When somebody else has the partition, the connection is lost, or it is time to end.
    pub(super) fn serve(
        &mut self,
        applier: &mut Applier,
        replaying: Replaying<'_>,
        losses: &mut Losses,
    ) -> Result<u64, Trouble> {
        if applier.parked.is_empty() || self.next.is_some_and(|next| Instant::now() < next) {
            return Ok(0);
        }
        self.next = Some(Instant::now() + LOOK);
        let requests = applier.work().replays().requests();
        let requests = match requests.map_err(ApplyError::from) {
            Ok(requests) => requests,
            Err(error) if matches!(error.kind(), Kind::Fenced | Kind::Rewritten | Kind::Lost) => {
                return Err(error.into());
            }
            Err(error) => {
                // What is broken for this is broken for the next batch, too; that one knows what to do.
                tracing::warn!(%error, "cannot look for requests of `host dlq`");
                return Ok(0);
            }
        };
        if !requests.is_empty() {
            applier.bring_up().map_err(Trouble::Trial)?;
        }
        let (mut applied, mut waits) = (0, false);
        for request in &requests {
            if replaying.stop.is_requested() {
                break;
            }
            let carried = match losses.is_past_trying(request.id) {
                false => applier.carry_out(request, replaying),
                // Whatever the reason is: it is parked already, so nothing is decided by that.
                true => applier.stays_parked(request, None, LOST, IN_A_ROW, replaying),
            };
            let carried = carried.inspect_err(|trouble| {
                if matches!(trouble, Trouble::Lost(_)) {
                    losses.lost_in_replay(request.id);
                }
            });
            match carried? {
                Carried::Answered(answer) => applied += answer.applied,
                Carried::Waits(why) => {
                    waits = true;
                    tell(applier, request, &why)?;
                }
            }
        }
        if waits {
            self.next = Some(Instant::now() + self.backoff.fail().max(LOOK));
        } else {
            self.backoff.reset();
        }
        Ok(applied)
    }
}

/// Says why a request waits, in the log and to whoever asked.
///
/// # Errors
/// When the connection was lost over it: then nobody knows whether it was said.
fn tell(applier: &Applier, request: &Request, why: &str) -> Result<(), Trouble> {
    tracing::warn!(aggregate = %request.aggregate, reason = why, request = request.id, "a replay waits; nothing is lost");
    match applier.work().replays().note(request.id, why) {
        Err(error) if error.is_lost_connection() => Err(ApplyError::from(error).into()),
        // It may be the disk that is full.
        Ok(()) | Err(_) => Ok(()),
    }
}
