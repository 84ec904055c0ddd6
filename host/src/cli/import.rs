//! `host import`: stores the events of a file, in chunks, each a transaction.
//!
//! It holds one chunk at a time, and a chunk ends at so many events or so many bytes, whichever comes first:
//! memory does not grow with the file.

use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::num::NonZeroUsize;
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
    #[arg(long, env = "CHUNK_SIZE", value_name = "EVENTS", default_value = "1000")]
    chunk_size: NonZeroUsize,
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
}

impl Import {
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
        let mut first_line = 1;
        loop {
            let event = reader.next().transpose()?;
            let ended = event.is_none();
            if let Some(event) = event {
                bytes += event.payload.len() + event.metadata.len();
                chunk.push(event);
            }
            let full = chunk.len() >= self.chunk_size.get() || bytes >= CHUNK_BYTES;
            if full || ended && !chunk.is_empty() {
                let appended = store.append(&chunk, ExpectedVersion::Any, Duplicates::Skip).map_err(|error| {
                    anyhow::Error::new(error)
                        .context(format!("the events of lines {first_line} to {} were not stored", reader.line()))
                })?;
                tally.stored += appended.stored();
                tally.skipped += appended.skipped();
                progress.set_message(format!("{} events", tally.stored + tally.skipped));
                chunk.clear();
                bytes = 0;
                first_line = reader.line() + 1;
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
        let file = file.display();
        match self {
            Self { stored: 0, skipped: 0 } => format!("nothing of {file} was imported"),
            Self { stored, skipped: 0 } => {
                format!("the import of {file} stopped: {stored} events are stored, and importing again skips them")
            }
            Self { stored, skipped } => format!(
                "the import of {file} stopped: {stored} events are stored, {skipped} were already, and importing \
                 again skips them all"
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
        let import = Import { file: "x".into(), chunk_size: NonZeroUsize::new(10).unwrap(), allow_any_payload: false };
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
        assert!(tally.stopped(Path::new("x")).contains("10 events are stored, and importing again skips them"));
    }

    #[test]
    fn large_events_end_a_chunk_early() {
        let (chunks, ..) = import(5, CHUNK_BYTES / 2, "");
        assert_eq!(chunks, [2, 2, 1]);
    }
}
