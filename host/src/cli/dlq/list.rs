//! `host dlq list`: which aggregates are parked, and which events were skipped.

use clap::Args;
use clap::builder::RangedU64ValueParser;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::selection::{Chosen, parked_of};
use crate::cli::Context;
use crate::event::Position;
use crate::read_model::ReadModel;
use crate::read_model::dead_letter::{Aggregate, Reason};
use crate::read_model::dead_letters::{ParkedAggregate, StoredLetter, Waiting, Which, up_to};
use crate::timestamp;

/// How many rows a table has when nothing is said: more than anybody reads.
const SHORT_ENOUGH: usize = 1_000;

/// How many characters of an error the table shows.
const SHOWN: usize = 60;

/// `host dlq list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  host dlq list\n  host dlq list --projection balances --json | jq '.parked[].error'"
)]
pub(super) struct List {
    /// As JSON, stable for scripts
    #[arg(long)]
    json: bool,
    /// How many parked aggregates and skipped events at most [default: 1000, and all with --json]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000_000))]
    limit: Option<usize>,
    /// Which letters.
    #[command(flatten)]
    chosen: Chosen,
}

/// What `--json` prints. Fields are added, never changed.
#[derive(Debug, Serialize)]
struct Report {
    /// Aggregates that wait for `retry` or `skip`.
    parked: Vec<ParkedReport>,
    /// Events that were given up.
    skipped: Vec<SkippedReport>,
}

/// A parked aggregate.
#[derive(Debug, Serialize)]
struct ParkedReport {
    /// Of which projection.
    projection: String,
    /// Which aggregate.
    bounded_context: String,
    /// Its kind.
    aggregate_type: String,
    /// Its id.
    aggregate_id: String,
    /// Its first event that waits.
    first_position: Position,
    /// Its last.
    last_position: Position,
    /// The event that it is parked for.
    poison_position: Position,
    /// What happened in it.
    event_type: String,
    /// Why it cannot be applied.
    error: String,
    /// How often it was tried.
    attempts: u32,
    /// The component that failed.
    plugin_digest: String,
    /// How many events wait with it.
    waiting: u64,
    /// Since when, RFC 3339.
    since: String,
    /// What was asked and not carried out yet.
    request: Option<RequestReport>,
}

/// A request that waits.
#[derive(Debug, Serialize)]
struct RequestReport {
    /// Its number.
    id: i64,
    /// `retry` or `skip`.
    action: &'static str,
    /// Who asked.
    requested_by: String,
    /// When, RFC 3339.
    requested_at: String,
    /// Why it waits, where that is known; else empty.
    message: String,
}

/// A skipped event.
#[derive(Debug, Serialize)]
struct SkippedReport {
    /// Of which projection.
    projection: String,
    /// Of which aggregate.
    bounded_context: String,
    /// Its kind.
    aggregate_type: String,
    /// Its id.
    aggregate_id: String,
    /// Which event.
    position: Position,
    /// Its UUID.
    event_id: String,
    /// What happened in it.
    event_type: String,
    /// Why it could not be applied.
    error: String,
    /// How often it was tried.
    attempts: u32,
    /// The component that failed.
    plugin_digest: String,
    /// Since when, RFC 3339.
    since: String,
}

impl List {
    /// Runs it.
    ///
    /// # Errors
    /// When there is no such projection, or a database cannot be read.
    pub(super) fn run(&self, context: &Context) -> anyhow::Result<()> {
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        self.chosen.check_projection(&read_model)?;
        let mut letters = read_model.dead_letters()?;
        let selection = self.chosen.selection();
        let most = self.limit.unwrap_or(if self.json { usize::MAX } else { SHORT_ENOUGH });
        let (parked, more_parked) = match selection.position {
            None => up_to(most, |page| letters.parked(&selection, page))?,
            Some(_) => {
                let (at, more) = up_to(most, |page| letters.letters(&selection, Which::All, page))?;
                let waits = at.iter().filter(|letter| letter.reason != Reason::Skipped);
                let parked = waits.map(|letter| parked_of(&mut *letters, letter));
                (parked.filter_map(Result::transpose).collect::<Result<_, _>>()?, more)
            }
        };
        let (skipped, more_skipped) =
            up_to(most, |page| letters.letters(&selection, Which::Only(Reason::Skipped), page))?;
        let report = Report {
            parked: parked.into_iter().map(parked_report).collect(),
            skipped: skipped.into_iter().map(skipped_report).collect(),
        };
        let mut text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { for_people(&report) };
        if !self.json && (more_parked || more_skipped) {
            text.push_str(&format!(
                "There are more than these {most}: --limit N shows more; --projection, --aggregate-type and others choose\n"
            ));
        }
        crate::cli::print(&text)?;
        Ok(())
    }
}

/// A parked aggregate, reported.
fn parked_report(parked: ParkedAggregate) -> ParkedReport {
    let ParkedAggregate { group, poison, waiting } = parked;
    let Aggregate { bounded_context, aggregate_type, aggregate_id } = group.aggregate;
    ParkedReport {
        projection: group.projection,
        bounded_context,
        aggregate_type,
        aggregate_id,
        first_position: group.first,
        last_position: group.last,
        poison_position: poison.position,
        event_type: poison.event_type,
        error: poison.error,
        attempts: poison.attempts,
        plugin_digest: poison.plugin_digest,
        waiting: group.letters.saturating_sub(1),
        since: timestamp::format(group.since),
        request: waiting.map(|Waiting { id, action, by, at, note, .. }| RequestReport {
            id,
            action: action.as_str(),
            requested_by: by,
            requested_at: timestamp::format(at),
            message: note,
        }),
    }
}

/// A skipped event, reported.
fn skipped_report(letter: StoredLetter) -> SkippedReport {
    let Aggregate { bounded_context, aggregate_type, aggregate_id } = letter.aggregate;
    SkippedReport {
        projection: letter.projection,
        bounded_context,
        aggregate_type,
        aggregate_id,
        position: letter.position,
        event_id: letter.event_id,
        event_type: letter.event_type,
        error: letter.error,
        attempts: letter.attempts,
        plugin_digest: letter.plugin_digest,
        since: timestamp::format(letter.created_at),
    }
}

/// The report as tables.
fn for_people(report: &Report) -> String {
    if report.parked.is_empty() && report.skipped.is_empty() {
        return "There are no dead letters.\n".to_owned();
    }
    let mut text = String::new();
    if !report.parked.is_empty() {
        let mut table =
            new_table(["projection", "parked", "event", "type", "waiting", "tries", "since", "plugin", "error"]);
        for parked in &report.parked {
            let aggregate = format!("{}/{}/{}", parked.bounded_context, parked.aggregate_type, parked.aggregate_id);
            table.add_row([
                parked.projection.clone(),
                aggregate,
                parked.poison_position.to_string(),
                parked.event_type.clone(),
                parked.waiting.to_string(),
                parked.attempts.to_string(),
                second(&parked.since),
                short(&parked.plugin_digest),
                beginning(&parked.error),
            ]);
        }
        align(&mut table, &[2, 4, 5]);
        text.push_str(&format!("{table}\n"));
        for parked in &report.parked {
            if let Some(RequestReport { id, action, requested_by, message, .. }) = &parked.request {
                let ParkedReport { projection, bounded_context, aggregate_type, aggregate_id, .. } = parked;
                let why = if message.is_empty() { String::new() } else { format!(": {}", beginning(message)) };
                text.push_str(&format!(
                    "{projection} {bounded_context}/{aggregate_type}/{aggregate_id}: {action} asked for by {requested_by} \
                     (request {id}) waits{why}\n"
                ));
            }
        }
    }
    if !report.skipped.is_empty() {
        let mut table = new_table(["projection", "skipped", "event", "type", "tries", "since", "plugin", "error"]);
        for skipped in &report.skipped {
            let aggregate = format!("{}/{}/{}", skipped.bounded_context, skipped.aggregate_type, skipped.aggregate_id);
            table.add_row([
                skipped.projection.clone(),
                aggregate,
                skipped.position.to_string(),
                skipped.event_type.clone(),
                skipped.attempts.to_string(),
                second(&skipped.since),
                short(&skipped.plugin_digest),
                beginning(&skipped.error),
            ]);
        }
        align(&mut table, &[2, 4]);
        text.push_str(&format!("{table}\n"));
    }
    text
}

/// A table with this header.
fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// Numbers stand on the right.
fn align(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A time without its fraction.
fn second(time: &str) -> String {
    time.split('.').next().unwrap_or(time).to_owned() + "Z"
}

/// The beginning of a digest.
pub(super) fn short(digest: &str) -> String {
    digest.get(..8).unwrap_or("-").to_owned()
}

/// The beginning of an error, on one line.
fn beginning(error: &str) -> String {
    let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        None => line,
        Some((at, _)) => format!("{}…", &line[..at]),
    }
}
