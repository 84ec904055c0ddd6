//! `host import`: stores the events of a file, in chunks, each a transaction.
//!
//! It holds one chunk at a time, and a chunk ends at so many events or so many bytes, whichever comes first:
//! memory does not grow with the file.

use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Context, exit::UsageError};
use crate::append::{self, Duplicates, EventStore};
use crate::event::{ExpectedVersion, NewEvent};
use crate::ndjson::{Payloads, Reader};

/// After how many bytes of payloads a chunk ends.
const CHUNK_BYTES: usize = 32 << 20;

/// `host import`.
#[derive(Debug, Args)]
#[command(after_help = "Each line is an event, a JSON object with the fields\n  \
    aggregate_type, aggregate_id, event_type   text\n  \
    payload                                    a JSON object, kept byte for byte\n\
    and, where they are known,\n  \
    event_id          a UUID; importing an event again skips it by this id [default: a new one]\n  \
    created_at        RFC 3339, with any offset [default: now]\n  \
    bounded_context   [default: default]      event_version   a number [default: 1]\n  \
    metadata          any JSON                trace_id, correlation_id, causation_id   text\n  \
    payload_base64    instead of payload, for bytes that are not JSON\n\n\
    Examples:\n  \
    host import flights-2013-h1.ndjson.gz\n  \
    host import events.ndjson --database-url postgres://localhost/shop\n  \
    gunzip -c old.gz | jq -c 'select(.aggregate_type == \"User\")' | host import -\n\n\
    A mistake stops the import with the number of its line. Whole chunks are stored and nothing of the others, and\n\
    importing again skips what is stored, as long as the lines have an event_id.")]
pub struct Import {
    /// The file, compressed by gzip or not; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How many events are stored in a transaction, at most; fewer when they are large
    #[arg(long, env = "CHUNK_SIZE", value_name = "EVENTS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    chunk_size: u32,
    /// Take payloads that are JSON, and not an object
    #[arg(long)]
    allow_any_payload: bool,
}

/// How far an import is.
#[derive(Debug, Default)]
struct Tally {
    /// Events that were stored.
    stored: usize,
    /// Events that were in the log already.
    skipped: usize,
    /// How many of the stored ones have no id in the file, so that they are others the next time.
    without_id: u64,
    /// The last line of the last chunk that is stored.
    line: u64,
}

impl Import {
    /// Of a file, as the command does it without options.
    pub(super) fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), chunk_size: 1_000, allow_any_payload: false }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When a line is no event, or the events cannot be stored.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let (input, progress) = open(&self.file)?;
        let mut store = append::open(&context.events, context.runtime.handle())?;
        let mut tally = Tally::default();
        let result = self.import(progress.wrap_read(input), store.as_mut(), &mut tally, &progress);
        progress.finish_and_clear();
        result.map_err(|error| error.context(tally.stopped(&self.file)))?;
        super::print_line(&format!("imported {}, skipped {} already stored", tally.stored, tally.skipped))?;
        Ok(())
    }

    /// Stores chunk after chunk.
    fn import(
        &self,
        input: impl Read,
        store: &mut dyn EventStore,
        tally: &mut Tally,
        progress: &ProgressBar,
    ) -> anyhow::Result<()> {
        let payloads = if self.allow_any_payload { Payloads::Any } else { Payloads::Objects };
        let mut reader = Reader::new(input, payloads)?;
        let mut chunk: Vec<NewEvent> = Vec::new();
        let mut bytes = 0;
        loop {
            let event = reader.next().transpose()?;
            let ended = event.is_none();
            if let Some(event) = event {
                bytes += event.payload.len() + event.metadata.len();
                chunk.push(event);
            }
            let full = chunk.len() as u64 >= u64::from(self.chunk_size) || bytes >= CHUNK_BYTES;
            if full || ended && !chunk.is_empty() {
                let appended = store.append(&chunk, ExpectedVersion::Any, Duplicates::Skip).map_err(|error| {
                    anyhow::Error::new(error).context(format!(
                        "storing the events of lines {} to {} failed",
                        tally.line + 1,
                        reader.line()
                    ))
                })?;
                tally.stored += appended.stored();
                tally.skipped += appended.skipped();
                progress.set_message(format!("{} events", tally.stored + tally.skipped));
                chunk.clear();
                bytes = 0;
                tally.line = reader.line();
                tally.without_id = reader.without_id();
            }
            if ended {
                return Ok(());
            }
        }
    }
}

impl Tally {
    /// What became of an import that stopped.
    fn stopped(&self, file: &Path) -> String {
        let file = if file == Path::new("-") { "stdin".into() } else { file.display().to_string() };
        let Self { stored, skipped, without_id, line } = self;
        let next = line + 1;
        match (stored, skipped, without_id) {
            (0, 0, _) => format!("nothing of {file} was imported"),
            (_, 0, 0) => {
                format!("the import of {file} stopped: {stored} events are stored; importing again skips them")
            }
            (_, _, 0) => format!(
                "the import of {file} stopped: {stored} events were stored now, {skipped} before; importing again \
                 skips them"
            ),
            _ => format!(
                "the import of {file} stopped: {stored} events are stored, and {without_id} of them have no event_id \
                 in the file, so importing it again would store those twice: import from line {next} on"
            ),
        }
    }
}

/// The file, and a bar that follows the reading of it where somebody looks.
fn open(path: &Path) -> Result<(Box<dyn Read>, ProgressBar), UsageError> {
    let failed = |reason: &str| {
        UsageError::new(format!("cannot import {}: {reason}", path.display()), "name a file of events, or - for stdin")
    };
    let (input, length): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(std::io::stdin().lock()), None)
    } else {
        let file = File::open(path).map_err(|error| failed(&error.to_string()))?;
        let metadata = file.metadata().map_err(|error| failed(&error.to_string()))?;
        if metadata.is_dir() {
            return Err(failed("it is a folder"));
        }
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    if !std::io::stderr().is_terminal() {
        return Ok((input, ProgressBar::hidden()));
    }
    let progress = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = match length {
        Some(_) => "{wide_bar} {bytes}/{total_bytes}  {msg}  {eta} left",
        None => "{spinner} {bytes}  {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    Ok((input, progress))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::{AppendError, Appended, Placement};
    use crate::event::Position;

    /// A log that only counts what each append was given.
    #[derive(Debug, Default)]
    struct Counting(Vec<usize>);

    impl EventStore for Counting {
        fn append(
            &mut self,
            events: &[NewEvent],
            _expected: ExpectedVersion,
            _duplicates: Duplicates,
        ) -> Result<Appended, AppendError> {
            self.0.push(events.len());
            let stored = Placement::Stored { position: Position::new(1), version: 1 };
            Ok(Appended { placements: vec![stored; events.len()] })
        }
    }

    /// Imports so many lines of so many bytes, then this text, in chunks of 10; gives the chunks and the error.
    fn import(lines: usize, bytes: usize, last: &str) -> (Vec<usize>, Tally, Option<String>) {
        let payload = "x".repeat(bytes);
        let line = format!(
            r#"{{"aggregate_type":"A","aggregate_id":"a","event_type":"T","payload":{{"x":"{payload}"}}}}{}"#,
            '\n'
        );
        let text = line.repeat(lines) + last;
        let import = Import { file: "x".into(), chunk_size: 10, allow_any_payload: false };
        let (mut store, mut tally) = (Counting::default(), Tally::default());
        let result = import.import(text.as_bytes(), &mut store, &mut tally, &ProgressBar::hidden());
        (store.0, tally, result.err().map(|error| error.to_string()))
    }

    #[test]
    fn a_chunk_has_so_many_events_and_the_last_one_the_rest() {
        let (chunks, tally, error) = import(25, 0, "");
        assert_eq!((chunks, tally.stored, error), (vec![10, 10, 5], 25, None));
        assert_eq!(import(20, 0, "\n\n").0, [10, 10]);
    }

    #[test]
    fn only_whole_chunks_are_stored_before_a_bad_line() {
        let (chunks, tally, error) = import(15, 0, "{}\n");
        assert_eq!((chunks, tally.stored), (vec![10], 10));
        assert_eq!(error.unwrap(), "line 16: missing field `aggregate_type`");
        assert_eq!((tally.without_id, tally.line), (10, 10));
    }

    #[test]
    fn an_import_that_stopped_says_what_another_one_would_do() {
        let stopped =
            |stored, skipped, without_id| Tally { stored, skipped, without_id, line: 10 }.stopped(Path::new("x"));
        assert_eq!(stopped(0, 0, 0), "nothing of x was imported");
        assert_eq!(stopped(9, 0, 0), "the import of x stopped: 9 events are stored; importing again skips them");
        assert!(stopped(0, 9, 0).contains("0 events were stored now, 9 before; importing again skips them"));
        assert!(stopped(9, 1, 3).contains("3 of them have no event_id"));
        assert!(stopped(9, 1, 3).ends_with("import from line 11 on"));
    }

    #[test]
    fn large_events_end_a_chunk_early() {
        let (chunks, ..) = import(5, CHUNK_BYTES / 2, "");
        assert_eq!(chunks, [2, 2, 1]);
    }
}
