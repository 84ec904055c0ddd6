//! The careful path: a batch that failed is applied again event by event, each in a savepoint with its SQL sent at
//! once and `flush` after it. The culprit shows itself, what stands before it is committed, and the policy decides
//! about it; then the rest goes on.

use super::batch::{Applier, Attempt};
use super::failure::{ApplyError, Kind};
use super::losses::{IN_A_ROW, Losses};
use super::policy::{OnError, Options};
use super::reader::{Batch, Taken};
use super::stop::{Slept, Stop};
use super::worker::{Outcome, Trouble};
use crate::event::{Event, Position};
use crate::plugin::Instance;
use crate::processor::backoff::Backoff;
use crate::read_model::dead_letter::{Aggregate, DeadLetter, Reason};
use crate::read_model::unit_of_work::Sending;
use crate::telemetry::traces::batch::Path;

/// How many characters of an error a dead letter keeps.
pub(super) const ERROR: usize = 4_096;

/// An event that could not be applied.
struct Culprit {
    /// Where it stands among the events that were tried; nothing when the transaction failed as a whole.
    at: Option<usize>,
    /// Why.
    error: ApplyError,
}

/// Which events share a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    /// All the rest of the batch, each in a savepoint.
    Together,
    /// The next event has its own; then the rest shares one again.
    ThisOneAlone,
    /// Each of the rest has its own.
    EachAlone,
}

impl Company {
    /// How it goes on when an event is done with.
    fn after_an_event(self) -> Self {
        match self {
            Self::EachAlone => Self::EachAlone,
            Self::Together | Self::ThisOneAlone => Self::Together,
        }
    }
}

impl Applier {
    /// Applies a batch event by event; gives how many events were applied.
    ///
    /// Nobody is given up on for what others did: an event that failed among others (the transaction's limits count
    /// them all, and a deferred constraint fails at the commit without saying whose it is) is tried alone first,
    /// in a transaction of its own up to and with the commit.
    ///
    /// # Errors
    /// When somebody else has the partition, the connection is lost, something around the projection is broken,
    /// or the policy is to stop.
    pub fn apply_carefully(
        &mut self,
        batch: &Batch,
        options: &Options,
        stop: &Stop,
        losses: &mut Losses,
    ) -> Result<u64, Trouble> {
        let events = &batch.events;
        let (mut applied, mut start) = (0, 0);
        let mut company = if losses.is_one_by_one(self.position) { Company::EachAlone } else { Company::Together };
        let mut backoff = Backoff::default();
        while start < events.len() {
            if let Some(error) = losses.verdict(events[start].position()) {
                let to = events.get(start + 1).map_or(batch.to, |_| events[start].position());
                self.meter.failed(Kind::Permanent.name());
                self.give_up_on(&events[start], to, &error, IN_A_ROW, options)?;
                start += 1;
                continue;
            }
            let end = if company == Company::Together { events.len() } else { start + 1 };
            let to = if end == events.len() { batch.to } else { events[end - 1].position() };
            let done = self.run_carefully(&events[start..end], to);
            let attempt = Attempt { events: &events[start..end], to, path: Path::Careful, read: None };
            match &done {
                Ok(count) => self.trace(attempt, *count, None),
                Err((count, culprit)) => self.trace(attempt, *count, Some(&culprit.error)),
            }
            let (count, culprit) = match done {
                Ok(count) => {
                    applied += count;
                    start = end;
                    company = company.after_an_event();
                    backoff.reset();
                    continue;
                }
                Err(failed) => failed,
            };
            applied += count;
            let before = culprit.at.unwrap_or(0);
            if before > 0 {
                backoff.reset();
            }
            start += before;
            let event = &events[start];
            let error = culprit.error;
            self.meter.failed(error.kind().name());
            match error.kind() {
                Kind::Lost => {
                    if end == start + 1 {
                        losses.lost_alone(event.position(), &error);
                    }
                    return Err(Trouble::from(error));
                }
                Kind::Fenced | Kind::Rewritten | Kind::Environment => return Err(Trouble::from(error)),
                Kind::Transient if backoff.failures() + 1 < options.max_attempts => {
                    let wait = backoff.fail();
                    let attempts = backoff.failures();
                    tracing::warn!(position = event.global_position, %error, attempts, ?wait, "trying an event again");
                    self.meter.retried();
                    if stop.sleep(wait) == Slept::Stopped {
                        return Err(Trouble::Stopped);
                    }
                }
                Kind::Transient | Kind::Permanent if company == Company::Together => {
                    // When the transaction failed as a whole, any of them may be the one: each goes alone.
                    company = if culprit.at.is_none() { Company::EachAlone } else { Company::ThisOneAlone };
                }
                Kind::Transient | Kind::Permanent => {
                    let attempts = backoff.failures() + 1;
                    let to = events.get(start + 1).map_or(batch.to, |_| event.position());
                    self.give_up_on(event, to, &error, attempts, options)?;
                    backoff.reset();
                    start += 1;
                    company = company.after_an_event();
                }
            }
        }
        Ok(applied)
    }

    /// Applies events until one fails, and commits those before it. Gives how many were applied.
    fn run_carefully(&mut self, events: &[Taken], to: Position) -> Result<u64, (u64, Culprit)> {
        let whole = |error: ApplyError| (0, Culprit { at: None, error });
        if let Err(error) = self.begin(Sending::AtOnce) {
            self.roll_back();
            return Err(whole(error));
        }
        let mut applied = 0;
        for (at, event) in events.iter().enumerate() {
            if self.parked.holds(event) {
                if let Err(error) = self.bury_behind(event) {
                    self.roll_back();
                    return Err(whole(error));
                }
                continue;
            }
            let Err(error) = self.apply_one(event) else {
                applied += 1;
                continue;
            };
            // Its memory has seen the event that the transaction has not.
            self.forget();
            let undone = self.work().rollback_to_savepoint();
            if let Err(undoing) = undone {
                // SQLite rolls everything back by itself after some errors, and a lost connection has no savepoints.
                // Nothing before this event is left to commit.
                self.roll_back();
                // Unless the host has ended it for what the event did, or it is why the event has failed.
                let is_why = error.took_too_long() || error.kind() == Kind::Lost;
                let is_outage = undoing.is_lost_connection() && !is_why;
                let error = if is_outage { undoing.into() } else { error };
                return Err(whole(error));
            }
            if at == 0 {
                self.roll_back();
                return Err((0, Culprit { at: Some(0), error }));
            }
            let before = events[at - 1].position();
            return match self.commit(before, applied) {
                Ok(()) => Err((applied, Culprit { at: Some(at), error })),
                Err(error) => {
                    self.roll_back();
                    Err(whole(error))
                }
            };
        }
        self.commit(to, applied).map_err(|error| {
            self.roll_back();
            whole(error)
        })?;
        Ok(applied)
    }

    /// Applies one event in a savepoint.
    pub(super) fn apply_one(&mut self, event: &Event) -> Result<(), ApplyError> {
        self.work().savepoint()?;
        self.call(|instance| instance.handle(event))?;
        self.call(Instance::flush)?;
        let mut work = self.work();
        work.send()?;
        work.release()?;
        Ok(())
    }

    /// Does with an event what the policy says.
    fn give_up_on(
        &mut self,
        event: &Event,
        to: Position,
        error: &ApplyError,
        attempts: u32,
        options: &Options,
    ) -> Result<(), Trouble> {
        let reason = match options.on_error {
            OnError::Park => Reason::Poison,
            OnError::Skip => Reason::Skipped,
            OnError::Stop => {
                let (name, aggregate) = (&self.plugin.descriptor.name, Aggregate::of(event));
                let (position, event_type) = (event.position(), &event.event_type);
                let reason = format!("{name} cannot apply event {position} ({event_type} of {aggregate}): {error}");
                return Err(Trouble::End(Outcome::StoppedByPolicy(reason)));
            }
        };
        let aggregate = Aggregate::of(event);
        // What a projection says can be as long as its memory.
        let error: String = error.to_string().chars().take(ERROR).collect();
        let letter = DeadLetter { event, reason, error: &error, attempts };
        if let Err(error) = self.bury_and_pass(&letter, to) {
            self.roll_back();
            return Err(Trouble::from(error));
        }
        self.meter.buried();
        let position = event.global_position;
        let event_type = &event.event_type;
        match reason {
            Reason::Skipped => {
                tracing::error!(position, event_type, %aggregate, error, attempts, "event skipped: it is a dead letter now");
            }
            Reason::Poison | Reason::Behind => {
                tracing::error!(position, event_type, %aggregate, error, attempts, "aggregate parked: this event and its later ones are dead letters");
                self.parked.park(aggregate);
            }
        }
        Ok(())
    }

    /// Writes a dead letter and moves the checkpoint over its event, in one transaction.
    fn bury_and_pass(&mut self, letter: &DeadLetter<'_>, to: Position) -> Result<(), ApplyError> {
        self.begin(Sending::Buffered)?;
        self.work().bury(letter, &self.plugin.digest)?;
        self.commit(to, 0)
    }
}
