//! What became of each request, for people, for scripts, and as an exit code.

use std::time::Duration;

use serde::Serialize;

use crate::cli::exit::{Ended, FAILED};
use crate::event::Position;
use crate::partition::{Partition, fnv1a32};
use crate::read_model::checkpoint::Slot;
use crate::read_model::dead_letter::Aggregate;
use crate::read_model::request::{Action, Answer, Outcome};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// In the order in which they were asked.
    pub(super) results: Vec<Asked>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its number; nothing when the aggregate was not parked any more.
    pub(super) request: Option<i64>,
    /// Of which projection.
    pub(super) projection: String,
    /// Whose letters.
    pub(super) aggregate: Aggregate,
    /// What was asked.
    action: Action,
    /// How far it is.
    pub(super) state: State,
    /// Why it waits, as whoever tried it says.
    pub(super) note: String,
}

/// How far a request is.
#[derive(Debug)]
pub(super) enum State {
    /// It waits, and so do we.
    Waits,
    /// It was carried out.
    Answered(Answer),
    /// It was only to be asked.
    Queued,
    /// It waits still.
    TimedOut(Duration),
    /// Nobody works on the partition.
    Unattended(Partition),
    /// It could not be carried out now.
    Unable(String),
    /// Somebody has removed it.
    Gone,
}

/// One request, as `--json` prints it. Fields are added, never changed.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Its number.
    request: Option<i64>,
    /// Of which projection.
    projection: &'a str,
    /// Which aggregate.
    bounded_context: &'a str,
    /// Its kind.
    aggregate_type: &'a str,
    /// Its id.
    aggregate_id: &'a str,
    /// `retry` or `skip`.
    action: &'static str,
    /// The event that was to be skipped.
    skipped_position: Option<Position>,
    /// `applied`, `failed`, `nothing`, or `queued`.
    outcome: &'static str,
    /// How many events were applied.
    applied: u64,
    /// The event that failed.
    failed_position: Option<Position>,
    /// For people.
    message: String,
    /// Who carried it out.
    done_by: Option<&'a str>,
}

impl Report {
    /// Whether nothing waits any more.
    pub(super) fn is_answered(&self) -> bool {
        !self.results.iter().any(Asked::waits)
    }

    /// Stops waiting.
    pub(super) fn leave(&mut self, state: impl Fn(&Asked) -> State) {
        for result in self.results.iter_mut().filter(|result| result.waits()) {
            result.state = state(result);
        }
    }

    /// Stops waiting for one.
    pub(super) fn leave_one(&mut self, request: i64, why: String) {
        if let Some(result) = self.results.iter_mut().find(|result| result.request == Some(request)) {
            result.state = State::Unable(why);
        }
    }

    /// Stops waiting for those of a partition.
    pub(super) fn leave_slot(&mut self, slot: &Slot, why: &str) {
        for result in self.results.iter_mut().filter(|result| result.waits() && result.is_of(slot)) {
            result.state = State::Unable(why.to_owned());
        }
    }

    /// Prints what came through, or as JSON everything.
    pub(super) fn print(&self, json: Json) -> anyhow::Result<()> {
        if json == Json::Yes {
            let results: Vec<Line<'_>> = self.results.iter().map(Asked::line).collect();
            let text = serde_json::to_string_pretty(&serde_json::json!({ "results": results }))?;
            crate::cli::print_line(&text)?;
            return Ok(());
        }
        if self.results.is_empty() {
            crate::cli::print_line("nothing is parked there")?;
        }
        for result in self.results.iter().filter(|result| !result.failed()) {
            crate::cli::print_line(&format!("{}: {}", result.name(), result.message()))?;
        }
        Ok(())
    }

    /// As the result of the command.
    pub(super) fn result(&self) -> anyhow::Result<()> {
        let failed: Vec<&Asked> = self.results.iter().filter(|result| result.failed()).collect();
        if failed.is_empty() {
            return Ok(());
        }
        let messages: Vec<String> =
            failed.iter().map(|result| format!("{}: {}", result.name(), result.message())).collect();
        let mut hints: Vec<String> = failed.iter().filter_map(|result| result.hint()).collect();
        hints.dedup();
        Err(Ended::new(messages.join("\n"), hints.first().cloned(), FAILED).into())
    }
}

/// Whether JSON is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// For scripts.
    Yes,
    /// For people.
    No,
}

impl Asked {
    /// What was asked.
    pub(super) fn new(projection: &str, aggregate: &Aggregate, action: Action, request: Option<i64>) -> Self {
        let gone = || Answer {
            outcome: Outcome::Nothing,
            applied: 0,
            failed: None,
            message: "it was not parked any more".to_owned(),
            by: String::new(),
        };
        Self {
            request,
            projection: projection.to_owned(),
            aggregate: aggregate.clone(),
            action,
            state: if request.is_some() { State::Waits } else { State::Answered(gone()) },
            note: String::new(),
        }
    }

    /// Whether it waits.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, State::Waits)
    }

    /// Whether it belongs to a partition.
    pub(super) fn is_of(&self, slot: &Slot) -> bool {
        let partition = slot.partition;
        slot.projection == self.projection
            && fnv1a32(self.aggregate.aggregate_id.as_bytes()) % partition.total() == partition.key()
    }

    /// What to call it.
    fn name(&self) -> String {
        format!("{}: {}", self.projection, self.aggregate)
    }

    /// Whether it is not what was asked for.
    fn failed(&self) -> bool {
        match &self.state {
            State::Queued => false,
            State::Answered(answer) => answer.outcome == Outcome::Failed,
            State::Waits | State::TimedOut(_) | State::Unattended(_) | State::Unable(_) | State::Gone => true,
        }
    }

    /// What became of it.
    fn message(&self) -> String {
        let request = self.request.unwrap_or_default();
        match &self.state {
            State::Answered(answer) => match answer.outcome {
                Outcome::Applied => format!("live again, {}", answer.message),
                Outcome::Failed => format!("stays parked, {}", answer.message),
                Outcome::Nothing => answer.message.clone(),
            },
            State::Waits | State::Queued => format!("queued as request {request}"),
            State::TimedOut(time) => {
                let why = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
                format!("not done within {} s, request {request} stays queued{why}", time.as_secs())
            }
            State::Unattended(partition) => {
                format!("nobody works on partition {partition}, request {request} is queued until somebody does")
            }
            State::Unable(why) => format!("not done, request {request} stays queued: {why}"),
            State::Gone => {
                format!("request {request} is gone, and with it the dead letters that it was about: a rebuild, say")
            }
        }
    }

    /// What to do next.
    fn hint(&self) -> Option<String> {
        let (action, aggregate) = (self.action.as_str(), &self.aggregate);
        Some(match &self.state {
            State::Answered(answer) if answer.failed.is_some() => format!(
                "mend the projection and `host dlq retry {aggregate}`, or give up on the event with `host dlq skip {aggregate}`"
            ),
            State::Unattended(_) => {
                format!("start a worker (host run), or do it now: host dlq {action} {aggregate} --plugin FILE")
            }
            State::TimedOut(_) => {
                "`host status` shows who works on its partition, and their log what they wait for".to_owned()
            }
            State::Unable(_) => {
                "nothing was changed; mend the cause, and whoever works on the partition next does it".to_owned()
            }
            State::Gone => super::super::selection::LOOK.to_owned(),
            State::Answered(_) | State::Waits | State::Queued => return None,
        })
    }

    /// As `--json` prints it.
    fn line(&self) -> Line<'_> {
        let answer = match &self.state {
            State::Answered(answer) => Some(answer),
            _ => None,
        };
        Line {
            request: self.request,
            projection: &self.projection,
            bounded_context: &self.aggregate.bounded_context,
            aggregate_type: &self.aggregate.aggregate_type,
            aggregate_id: &self.aggregate.aggregate_id,
            action: self.action.as_str(),
            skipped_position: self.action.position(),
            outcome: answer.map_or("queued", |answer| answer.outcome.as_str()),
            applied: answer.map_or(0, |answer| answer.applied),
            failed_position: answer.and_then(|answer| answer.failed),
            message: self.message(),
            done_by: answer.map(|answer| &*answer.by).filter(|by| !by.is_empty()),
        }
    }
}
