//! `host export`: stored events as lines that `host import` reads.
//!
//! It reads as a worker does, up to the horizon: an event whose transaction is still open when the export begins is
//! not missed, but waited for. `output` is where the lines go.

mod output;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use self::output::Output;
use super::{Context, exit::UsageError};
use crate::event::{Aggregate, DEFAULT_CONTEXT, Event, Position};
use crate::ndjson::{WriteError, Writer};
use crate::source::{Filter, PageLimit, Source, Wanted};

/// How many rows are read at a time.
const PAGE: PageLimit = PageLimit { rows: 1_000, bytes: 4 << 20 };

/// How long to wait before looking again whether the horizon has moved.
const WAIT: Duration = Duration::from_millis(20);

/// `host export`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host export backup.ndjson.gz\n  \
    host export --aggregate User/u1 --aggregate billing/Account/a7\n  \
    host export --from 1001 --to 2000 --event-type UserCreated --event-type UserDeactivated users.ndjson\n  \
    host export - --database-url postgres://localhost/shop | host import - --database-url sqlite://copy.db\n\n\
    Importing the file into an empty database gives the same events in the same order, with new positions and\n\
    versions. A file appears under its name only when it is whole. An event has to pass every filter; of what one filter\n\
    is told several times, it has to be one.")]
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
    /// Only this aggregate: TYPE/ID in the context `default`, or CONTEXT/TYPE/ID (may be said again)
    #[arg(long, value_name = "[CONTEXT/]TYPE/ID")]
    aggregate: Vec<AggregateArgument>,
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

/// `TYPE/ID` or `CONTEXT/TYPE/ID`. An id that holds a slash needs the context, or it is taken for one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AggregateArgument(Aggregate);

impl FromStr for AggregateArgument {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.splitn(3, '/').collect();
        let (bounded_context, aggregate_type, aggregate_id) = match parts[..] {
            [kind, id] => (DEFAULT_CONTEXT, kind, id),
            [context, kind, id] => (context, kind, id),
            _ => return Err("an aggregate is TYPE/ID, such as User/u1, or CONTEXT/TYPE/ID"),
        };
        let [bounded_context, aggregate_type, aggregate_id] =
            [bounded_context, aggregate_type, aggregate_id].map(str::to_owned);
        Ok(Self(Aggregate { bounded_context, aggregate_type, aggregate_id }))
    }
}

impl Export {
    /// Runs it.
    ///
    /// # Errors
    /// When the events cannot be read, or the file cannot be written.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let source = context.existing_events()?;
        let output = Output::create(&self.file).map_err(|error| {
            UsageError::new(
                format!("cannot write {}: {error}", self.name()),
                "check that the folder exists and that this user may write there",
            )
        })?;
        let mut writer = Writer::new(output);
        let result = self.export(&*source, &mut writer).and_then(|events| {
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
            Err(error) => Err(error.context(format!("the export to {} stopped", self.name()))),
        }
    }

    /// What to call the file in messages.
    fn name(&self) -> String {
        if self.file == Path::new("-") { "stdout".into() } else { self.file.display().to_string() }
    }

    /// Writes what the filters take, and says how many events that was.
    fn export(&self, source: &dyn Source, writer: &mut Writer<Output>) -> anyhow::Result<u64> {
        let to = source.last()?.min(Position::new(self.to.unwrap_or(u64::MAX)));
        let (event_types, aggregate_types) = (self.event_type.clone(), self.aggregate_type.clone());
        let wanted = Wanted {
            filter: Filter { event_types, aggregate_types, ..Filter::default() },
            aggregates: self.aggregate.iter().map(|AggregateArgument(aggregate)| aggregate.clone()).collect(),
        };
        let mut after = Position::new(self.from.saturating_sub(1));
        let mut events = 0;
        while after < to {
            let horizon = source.horizon()?.min(to);
            if horizon <= after {
                std::thread::sleep(WAIT);
                continue;
            }
            let page = source.page(after, horizon, &wanted, PAGE)?;
            after = page.through;
            for event in page.events.iter().filter(|event| self.takes(event)) {
                writer.write(event)?;
                events += 1;
            }
        }
        Ok(events)
    }

    /// Whether the filter that the database does not know takes an event.
    fn takes(&self, event: &Event) -> bool {
        self.aggregate_id.is_empty() || self.aggregate_id.contains(&event.aggregate_id)
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
    use super::*;

    #[test]
    fn an_aggregate_is_named_with_its_context_or_without() {
        let parse = |text: &str| text.parse::<AggregateArgument>().map(|AggregateArgument(one)| one.to_string());
        assert_eq!(parse("User/u1").unwrap(), "default/User/u1");
        assert_eq!(parse("billing/Account/a/7").unwrap(), "billing/Account/a/7");
        assert!(parse("u1").is_err());
    }
}
