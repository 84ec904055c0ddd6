//! `host dlq show`: letters whole, with what the events database has of their events.

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use base64::Engine as _;

use super::list::short;
use super::selection::{Chosen, LOOK};
use crate::cli::Context;
use crate::cli::exit::UsageError;
use crate::event::{Event, Position};
use crate::read_model::ReadModel;
use crate::read_model::dead_letter::Reason;
use crate::read_model::dead_letters::{StoredLetter, Which, whole};
use crate::timestamp;

/// How many events are read at a time.
const PAGE: usize = 500;

/// `host dlq show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  host dlq show default/Account/eve\n  host dlq show --position 4 --json | jq '.letters[].payload'"
)]
pub(super) struct Show {
    /// As JSON, stable for scripts
    #[arg(long)]
    json: bool,
    /// Which letters.
    #[command(flatten)]
    chosen: Chosen,
}

/// What `--json` prints. Fields are added, never changed.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The letters, by projection and position.
    letters: Vec<LetterReport<'a>>,
}

/// A letter.
#[derive(Debug, Serialize)]
struct LetterReport<'a> {
    /// Of which projection.
    projection: &'a str,
    /// Which event.
    position: Position,
    /// Of which aggregate.
    bounded_context: &'a str,
    /// Its kind.
    aggregate_type: &'a str,
    /// Its id.
    aggregate_id: &'a str,
    /// The event's number within it.
    aggregate_version: u64,
    /// The event's UUID.
    event_id: &'a str,
    /// What happened.
    event_type: &'a str,
    /// Why it is a dead letter.
    reason: Reason,
    /// What went wrong.
    error: &'a str,
    /// How often it was tried.
    attempts: u32,
    /// The component that failed.
    plugin_digest: &'a str,
    /// Since when, RFC 3339.
    since: String,
    /// Whether the event is in the log still; what follows is only there then.
    in_log: bool,
    /// The version of the payload's schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_version: Option<u32>,
    /// When it was written, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    /// The payload, where it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    /// The payload, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// The metadata, where it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    /// The metadata, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
    /// The trace in which it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    /// What it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    /// What made it happen.
    #[serde(skip_serializing_if = "Option::is_none")]
    causation_id: Option<&'a str>,
}

impl Show {
    /// Runs it.
    ///
    /// # Errors
    /// When there is no such letter, or a database cannot be read.
    pub(super) fn run(&self, context: &Context) -> anyhow::Result<()> {
        if !self.chosen.is_of_aggregates() {
            let hint = "name an aggregate, such as default/Account/eve, or an event with --position";
            return Err(UsageError::new("that does not say which letters to show", hint).into());
        }
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        self.chosen.check_projection(&read_model)?;
        let (mut stored, selection) = (read_model.dead_letters()?, self.chosen.selection());
        let letters = whole(|page| stored.letters(&selection, Which::All, page))?;
        if letters.is_empty() {
            return Err(UsageError::new("there is no such dead letter", LOOK).into());
        }
        let source = context.existing_events()?;
        let mut positions: Vec<Position> = letters.iter().map(|letter| letter.position).collect();
        positions.sort_unstable();
        positions.dedup();
        let mut events = Vec::new();
        for page in positions.chunks(PAGE) {
            events.extend(source.events_at(page)?);
        }
        let report = Report { letters: letters.iter().map(|letter| report(letter, &events)).collect() };
        let text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { for_people(&report) };
        crate::cli::print(&text)?;
        Ok(())
    }
}

/// A letter, reported with its event.
fn report<'a>(letter: &'a StoredLetter, events: &'a [Event]) -> LetterReport<'a> {
    let event = events.binary_search_by_key(&letter.position, Event::position).ok().map(|at| &events[at]);
    let (payload, payload_base64) = event.map_or((None, None), |event| value(&event.payload));
    let (metadata, metadata_base64) = event.map_or((None, None), |event| value(&event.metadata));
    LetterReport {
        projection: &letter.projection,
        position: letter.position,
        bounded_context: &letter.aggregate.bounded_context,
        aggregate_type: &letter.aggregate.aggregate_type,
        aggregate_id: &letter.aggregate.aggregate_id,
        aggregate_version: letter.aggregate_version,
        event_id: &letter.event_id,
        event_type: &letter.event_type,
        reason: letter.reason,
        error: &letter.error,
        attempts: letter.attempts,
        plugin_digest: &letter.plugin_digest,
        since: timestamp::format(letter.created_at),
        in_log: event.is_some(),
        event_version: event.map(|event| event.event_version),
        created_at: event.map(|event| timestamp::format(event.created_at)),
        payload,
        payload_base64,
        metadata,
        metadata_base64,
        trace_id: event.and_then(|event| event.trace_id.as_deref()),
        correlation_id: event.and_then(|event| event.correlation_id.as_deref()),
        causation_id: event.and_then(|event| event.causation_id.as_deref()),
    }
}

/// Bytes as JSON where they are JSON, else in base64.
fn value(bytes: &[u8]) -> (Option<&RawValue>, Option<String>) {
    match serde_json::from_slice(bytes) {
        Ok(json) => (Some(json), None),
        Err(_) => (None, Some(base64::engine::general_purpose::STANDARD.encode(bytes))),
    }
}

/// The report as text, an event a paragraph.
fn for_people(report: &Report<'_>) -> String {
    let mut text = String::new();
    for letter in &report.letters {
        let LetterReport { projection, bounded_context, aggregate_type, aggregate_id, .. } = letter;
        let reason = match letter.reason {
            Reason::Poison => "it failed, and its aggregate is parked for it",
            Reason::Behind => "it waits with its aggregate",
            Reason::Skipped => "it failed and was skipped",
        };
        let payload = letter.payload.map(RawValue::get).map(str::to_owned).or_else(|| letter.payload_base64.clone());
        let metadata = letter.metadata.map(RawValue::get).map(str::to_owned).or_else(|| letter.metadata_base64.clone());
        let gone = || "(not in the log any more)".to_owned();
        let lines = [
            ("reason", reason.to_owned()),
            ("error", letter.error.to_owned()),
            ("attempts", letter.attempts.to_string()),
            ("plugin", short(letter.plugin_digest)),
            ("since", letter.since.clone()),
            ("event id", letter.event_id.to_owned()),
            ("payload", payload.unwrap_or_else(gone)),
            ("metadata", metadata.unwrap_or_else(gone)),
        ];
        text.push_str(&format!(
            "event {} of {projection}: {} of {bounded_context}/{aggregate_type}/{aggregate_id}, version {}\n",
            letter.position, letter.event_type, letter.aggregate_version
        ));
        for (name, value) in lines {
            text.push_str(&format!("  {name:<9} {}\n", value.replace('\n', "\n            ")));
        }
    }
    text
}
