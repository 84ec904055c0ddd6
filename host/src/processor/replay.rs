//! Replaying a parked aggregate: its events in order, in one transaction, with its letters removed and the request
//! answered in the same one. Then the aggregate is live again.
//!
//! Each event has its SQL sent at once and `flush` behind it, as on the careful path, so that the one that fails is
//! named, and limits count for each. But nothing is committed before the last of them: an aggregate is wholly up to
//! date or parked where it was, never in between.
//!
//! Each event meets a fresh instance, which costs some 10 µs: what the one before has left in memory counts for nobody,
//! and what the worker's own instance knows of the rows may not be true any more behind a replay.
//!
//! **When one fails**, everything rolls back, and a second transaction writes what is known now. The event that failed
//! becomes the one that the aggregate is parked for, also when another was before: that one came through this time.
//! A *skip* stands in any case. It is the operator's decision about one event, whatever those behind it do; if it fell
//! with them, an aggregate with two bad events could never be mended, because each skip would fail at the other. So
//! one skip after the other, or a mended projection in between, always leads to the end.
//!
//! **A broken environment is no answer**: the letters stay as they are, and the request waits.

use std::time::Instant;

use super::backoff::Backoff;
use super::batch::Applier;
use super::careful::ERROR;
use super::failure::{ApplyError, Kind};
use super::policy::Options;
use super::stop::{Slept, Stop};
use super::worker::Trouble;
use crate::database::DatabaseError;
use crate::event::{Event, Position};
use crate::read_model::dead_letter::Reason;
use crate::read_model::guard::Phase;
use crate::read_model::request::{Action, Amendment, Answer, Asked, Letter, Outcome, Request};
use crate::read_model::unit_of_work::Sending;
use crate::read_model::value::SqlError;
use crate::source::Source;

/// How often something that may pass is tried, at most: meanwhile the others of the partition wait, and whoever has
/// asked is there to ask again.
const TRIES: u32 = 5;

/// How many events are read at a time: an aggregate may have been parked for long.
const PAGE: usize = 500;

/// What became of a request.
#[derive(Debug)]
pub enum Carried {
    /// It is answered.
    Answered(Answer),
    /// It waits for something to be mended: why.
    Waits(String),
}

/// Who replays, and how.
#[derive(Clone, Copy)]
pub struct Replaying<'worker> {
    /// Where the events are.
    pub source: &'worker dyn Source,
    /// How often something that may pass is tried.
    pub options: &'worker Options,
    /// When to end.
    pub stop: &'worker Stop,
    /// Who it is, for the answer.
    pub by: &'worker str,
}

impl std::fmt::Debug for Replaying<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replaying").field("by", &self.by).finish_non_exhaustive()
    }
}

/// When constraints are checked that the projection has deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deferred {
    /// At the commit, which cannot say whose fault it is.
    AtCommit,
    /// Behind each event, to name the one whose fault it is.
    EachEvent,
}

/// Why a replay was rolled back.
#[derive(Debug)]
enum Failed {
    /// This event cannot be applied.
    At(Position, ApplyError),
    /// This event is not in the log any more.
    Missing(Position),
    /// The transaction failed as a whole.
    Whole(ApplyError),
    /// The events cannot be read.
    Unreadable(DatabaseError),
}

impl From<ApplyError> for Failed {
    fn from(error: ApplyError) -> Self {
        Self::Whole(error)
    }
}

impl From<SqlError> for Failed {
    fn from(error: SqlError) -> Self {
        Self::Whole(error.into())
    }
}

impl Applier {
    /// Carries a request out, and answers it.
    ///
    /// # Errors
    /// When somebody else has the partition, the connection is lost, or it is time to end. The request waits then.
    pub fn carry_out(&mut self, request: &Request, replaying: Replaying<'_>) -> Result<Carried, Trouble> {
        let mut backoff = Backoff::default();
        let mut deferred = Deferred::AtCommit;
        loop {
            let (at, error) = match self.replay(request, replaying, deferred) {
                Ok(answer) => {
                    if answer.outcome != Outcome::Failed {
                        self.parked.release(&request.aggregate);
                    }
                    return Ok(Carried::Answered(answer));
                }
                Err(Failed::Unreadable(error)) => {
                    self.roll_back();
                    return Ok(Carried::Waits(error.to_string()));
                }
                Err(Failed::Missing(position)) => {
                    self.roll_back();
                    return self.stays_parked(request, Some(position), "it is not in the log any more", 1, replaying);
                }
                // All of them together took too long, and not the one that was at it.
                Err(Failed::At(_, error)) if error.is_out_of_time() => {
                    self.roll_back();
                    return self.stays_parked(request, None, &error.to_string(), 1, replaying);
                }
                Err(Failed::At(position, error)) => (Some(position), error),
                Err(Failed::Whole(error)) => (None, error),
            };
            self.roll_back();
            match error.kind() {
                Kind::Fenced | Kind::Rewritten | Kind::Lost => return Err(error.into()),
                Kind::Environment => return Ok(Carried::Waits(error.to_string())),
                Kind::Transient if backoff.failures() + 1 < replaying.options.max_attempts.min(TRIES) => {
                    if matches!(error, ApplyError::Sql(_) | ApplyError::Commit(_)) {
                        self.work().take_turns();
                    }
                    let wait = backoff.fail();
                    tracing::info!(aggregate = %request.aggregate, %error, ?wait, "trying the replay again");
                    if replaying.stop.sleep(wait) == Slept::Stopped {
                        return Err(Trouble::Stopped);
                    }
                }
                // The commit has failed, which any of them may have caused.
                Kind::Transient | Kind::Permanent if at.is_none() && deferred == Deferred::AtCommit => {
                    deferred = Deferred::EachEvent;
                }
                Kind::Transient | Kind::Permanent => {
                    let attempts = backoff.failures() + 1;
                    return self.stays_parked(request, at, &error.to_string(), attempts, replaying);
                }
            }
        }
    }

    /// The transaction of a replay, up to and with the commit. When it fails, the caller rolls back.
    fn replay(&mut self, request: &Request, replaying: Replaying<'_>, deferred: Deferred) -> Result<Answer, Failed> {
        self.began = Instant::now();
        self.work().begin(Phase::Rows, Sending::AtOnce)?;
        let letters = self.work().replays().letters(&request.aggregate)?;
        let skipped = match request.action {
            Action::Retry => None,
            Action::Skip(position) => match culprit(&letters) {
                Some(culprit) if culprit.position == position => Some(culprit),
                Some(culprit) => return self.refuse_skip(request, position, culprit.position, replaying),
                None => None,
            },
        };
        let positions: Vec<Position> = letters
            .iter()
            .map(|letter| letter.position)
            .filter(|position| skipped.is_none_or(|skipped| skipped.position != *position))
            .collect();
        let mut applied = 0;
        for positions in positions.chunks(PAGE) {
            applied += self.replay_page(positions, replaying, deferred)?;
        }
        if let Some(skipped) = skipped {
            self.work().replays().amend(&given_up(skipped, &self.plugin.digest))?;
        }
        let passed = positions.len() as u64 - applied;
        let answer = Answer {
            outcome: if letters.is_empty() { Outcome::Nothing } else { Outcome::Applied },
            applied,
            failed: None,
            message: told(request, letters.len(), applied, passed),
            by: replaying.by.to_owned(),
        };
        self.work().replays().unpark(&request.aggregate)?;
        self.work().replays().answer(Asked::About(&request.aggregate), &answer)?;
        self.commit(self.position, applied)?;
        tracing::info!(aggregate = %request.aggregate, applied, request = request.id, "a parked aggregate is live again");
        Ok(answer)
    }

    /// Applies some of an aggregate's events; gives how many. What the projection does not want any more is passed over.
    fn replay_page(
        &mut self,
        positions: &[Position],
        replaying: Replaying<'_>,
        deferred: Deferred,
    ) -> Result<u64, Failed> {
        let events = replaying.source.events_at(positions).map_err(Failed::Unreadable)?;
        let wanted = self.plugin.descriptor.filter();
        let mut events = events.iter().peekable();
        let mut applied = 0;
        for position in positions {
            let Some(event) = events.next_if(|event| event.position() == *position) else {
                return Err(Failed::Missing(*position));
            };
            if wanted.takes(event) {
                self.forget();
                self.replay_one(event, deferred).map_err(|error| Failed::At(*position, error))?;
                applied += 1;
            }
        }
        Ok(applied)
    }

    /// Applies one event.
    fn replay_one(&mut self, event: &Event, deferred: Deferred) -> Result<(), ApplyError> {
        self.apply_one(event)?;
        if deferred == Deferred::EachEvent {
            self.work().replays().check_deferred()?;
        }
        Ok(())
    }

    /// Answers a request to skip an event that the aggregate is not parked for any more: nobody has looked at the one
    /// that is there now.
    fn refuse_skip(
        &mut self,
        request: &Request,
        asked: Position,
        found: Position,
        replaying: Replaying<'_>,
    ) -> Result<Answer, Failed> {
        let aggregate = &request.aggregate;
        let answer = Answer {
            outcome: Outcome::Failed,
            applied: 0,
            failed: Some(found),
            message: format!("{aggregate} is parked for event {found} now, not for {asked}: nothing was skipped"),
            by: replaying.by.to_owned(),
        };
        self.work().replays().answer(Asked::One(request.id), &answer)?;
        self.commit(self.position, 0)?;
        Ok(answer)
    }

    /// Writes down that a replay has failed, and at which event; where it cannot be told, at the one that the
    /// aggregate was parked for.
    pub(super) fn stays_parked(
        &mut self,
        request: &Request,
        at: Option<Position>,
        error: &str,
        attempts: u32,
        replaying: Replaying<'_>,
    ) -> Result<Carried, Trouble> {
        let error: String = error.chars().take(ERROR).collect();
        match self.write_failure(request, at, &error, attempts, replaying) {
            Ok(answer) => {
                tracing::warn!(aggregate = %request.aggregate, reason = answer.message, request = request.id,
                    "a replay failed and was rolled back: the aggregate stays parked");
                Ok(Carried::Answered(answer))
            }
            Err(error) => {
                self.roll_back();
                match error.kind() {
                    Kind::Fenced | Kind::Rewritten | Kind::Lost => Err(error.into()),
                    Kind::Environment | Kind::Transient | Kind::Permanent => Ok(Carried::Waits(error.to_string())),
                }
            }
        }
    }

    /// The transaction of [`Applier::stays_parked`].
    fn write_failure(
        &mut self,
        request: &Request,
        at: Option<Position>,
        error: &str,
        attempts: u32,
        replaying: Replaying<'_>,
    ) -> Result<Answer, ApplyError> {
        self.began = Instant::now();
        self.work().begin(Phase::Rows, Sending::AtOnce)?;
        let letters = self.work().replays().letters(&request.aggregate)?;
        let skipped = culprit(&letters).filter(|culprit| request.action.position() == Some(culprit.position));
        let rest = letters.iter().filter(|letter| skipped.is_none_or(|skipped| skipped.position != letter.position));
        let first = culprit(&letters).filter(|_| skipped.is_none()).or(rest.clone().next().copied());
        let at = at.or(first.map(|letter| letter.position));
        let digest = std::sync::Arc::clone(&self.plugin.digest);
        if let Some(skipped) = skipped {
            self.work().replays().amend(&given_up(skipped, &digest))?;
        }
        // One event at a time is what the aggregate is parked for.
        for letter in rest {
            let amendment = if Some(letter.position) == at {
                let attempts = letter.attempts.saturating_add(attempts);
                Amendment {
                    position: letter.position,
                    reason: Reason::Poison,
                    error: Some(error),
                    attempts,
                    plugin_digest: &digest,
                }
            } else if letter.reason == Reason::Poison {
                let came_through = at.is_some_and(|at| letter.position < at);
                Amendment {
                    position: letter.position,
                    reason: Reason::Behind,
                    error: came_through
                        .then_some("it came through, and was rolled back with a later event that failed"),
                    attempts: letter.attempts.saturating_add(u32::from(came_through)),
                    plugin_digest: &digest,
                }
            } else {
                continue;
            };
            self.work().replays().amend(&amendment)?;
        }
        let event = at.map_or_else(String::new, |at| format!("event {at} "));
        let message = match skipped {
            Some(skipped) => format!("event {} is skipped, and behind it {event}failed: {error}", skipped.position),
            None => format!("{event}failed: {error}"),
        };
        let answer = Answer { outcome: Outcome::Failed, applied: 0, failed: at, message, by: replaying.by.to_owned() };
        self.work().replays().answer(Asked::One(request.id), &answer)?;
        self.commit(self.position, 0)?;
        Ok(answer)
    }
}

/// The event that an aggregate is parked for. There is one; should somebody have changed the table, the first.
fn culprit(letters: &[Letter]) -> Option<Letter> {
    letters.iter().find(|letter| letter.reason == Reason::Poison).or(letters.first()).copied()
}

/// What a letter becomes when its event is given up; its error stays.
fn given_up(letter: Letter, plugin_digest: &str) -> Amendment<'_> {
    let Letter { position, attempts, .. } = letter;
    Amendment { position, reason: Reason::Skipped, error: None, attempts, plugin_digest }
}

/// How a replay went, for people.
fn told(request: &Request, letters: usize, applied: u64, passed: u64) -> String {
    if letters == 0 {
        return "it was not parked any more".to_owned();
    }
    let mut told = String::new();
    if let Some(position) = request.action.position() {
        told.push_str(&format!("event {position} is skipped, "));
    }
    told.push_str(&match applied {
        1 => "1 event applied".to_owned(),
        applied => format!("{applied} events applied"),
    });
    if passed > 0 {
        told.push_str(&format!(", {passed} passed over, which the projection does not want any more"));
    }
    told
}
