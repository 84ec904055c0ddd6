//! `host export`: stored events as lines that `host import` reads.
//!
//! `output` is where they go, `log` where they come from.

mod log;
mod output;

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use clap::Args;

use self::log::Log;
use self::output::Output;
use super::{Context, exit::UsageError};
use crate::event::{Event, Position};
use crate::ndjson::{WriteError, Writer};

/// `host export`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host export backup.ndjson.gz\n  \
    host export --aggregate-type User --aggregate-id u1\n  \
    host export --from 1001 --to 2000 --event-type UserCreated --event-type UserDeactivated users.ndjson\n  \
    host export - --database-url postgres://localhost/shop | host import - --database-url sqlite://copy.db\n\n\
    Importing the file into an empty database gives the same events in the same order, with new positions and\n\
    versions. A file appears under its name only when it is whole.")]
pub struct Export {
    /// The file, compressed when its name ends in .gz; `-` is stdout
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// From this position on
    #[arg(long, value_name = "POSITION", default_value_t = 1)]
    from: u64,
    /// Up to and with this position [default: the last one when the export begins]
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// Only aggregates of this kind (may be said again)
    #[arg(long, value_name = "TYPE")]
    aggregate_type: Vec<String>,
    /// Only this aggregate (may be said again)
    #[arg(long, value_name = "ID")]
    aggregate_id: Vec<String>,
    /// Only events of this type (may be said again)
    #[arg(long, value_name = "TYPE")]
    event_type: Vec<String>,
}

impl Export {
    /// Runs it.
    ///
    /// # Errors
    /// When the events cannot be read, or the file cannot be written.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let mut log = Log::open(context)?;
        let output = Output::create(&self.file).map_err(|error| {
            UsageError::new(
                format!("cannot write {}: {error}", self.file.display()),
                "check that the folder exists and that this user may write there",
            )
        })?;
        let mut writer = Writer::new(output);
        let result = self.export(&mut log, &mut writer).and_then(|events| {
            let file = writer.into_inner().finish()?;
            Ok((events, file))
        });
        match result {
            Ok((_, None)) => Ok(()),
            Ok((events, Some(file))) => {
                super::print_line(&format!("exported {events} events to {}", file.display()))?;
                Ok(())
            }
            // Whoever reads has enough.
            Err(error) if is_broken_pipe(&error) => Ok(()),
            Err(error) => Err(error.context(format!("the export to {} stopped", self.file.display()))),
        }
    }

    /// Writes what the filters take, and says how many events that was.
    fn export(&self, log: &mut Log, writer: &mut Writer<Output>) -> anyhow::Result<u64> {
        let to = log.last()?.min(Position::new(self.to.unwrap_or(u64::MAX)));
        let mut after = Position::new(self.from.saturating_sub(1));
        let mut events = 0;
        while after < to {
            let page = log.page(after, to)?;
            let Some(last) = page.last() else { break };
            after = last.position();
            for event in page.iter().filter(|event| self.takes(event)) {
                writer.write(event)?;
                events += 1;
            }
        }
        Ok(events)
    }

    /// Whether the filters take an event. One that says nothing takes all.
    fn takes(&self, event: &Event) -> bool {
        let takes = |wanted: &[String], value: &String| wanted.is_empty() || wanted.contains(value);
        takes(&self.aggregate_type, &event.aggregate_type)
            && takes(&self.aggregate_id, &event.aggregate_id)
            && takes(&self.event_type, &event.event_type)
    }
}

/// Whether the reader of our stdout has gone.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = match error.downcast_ref::<WriteError>() {
        Some(WriteError::Io(error)) => Some(error.kind()),
        _ => error.downcast_ref::<io::Error>().map(io::Error::kind),
    };
    kind == Some(ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// The arguments alone.
    #[derive(Parser)]
    struct Line {
        /// As of `host export`.
        #[command(flatten)]
        export: Export,
    }

    #[test]
    fn a_filter_that_says_nothing_takes_all_and_several_take_what_all_of_them_do() {
        let takes = |arguments: &str| {
            let line = Line::parse_from(format!("export {arguments}").split_whitespace());
            line.export.takes(&Event {
                global_position: 1,
                event_id: String::new(),
                bounded_context: "default".into(),
                aggregate_type: "User".into(),
                aggregate_id: "u1".into(),
                aggregate_version: 1,
                event_type: "UserCreated".into(),
                event_version: 1,
                payload: Vec::new(),
                metadata: Vec::new(),
                trace_id: None,
                correlation_id: None,
                causation_id: None,
                created_at: 0,
            })
        };
        assert!(takes(""));
        assert!(takes("--aggregate-type User --event-type EmailVerified --event-type UserCreated"));
        assert!(!takes("--aggregate-type User --aggregate-id u2"));
        assert!(!takes("--event-type EmailVerified"));
    }
}
