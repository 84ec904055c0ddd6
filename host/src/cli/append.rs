//! `host append`: stores one event, for trying things out and for scripts.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use uuid::Uuid;

use super::{Context, exit::UsageError};
use crate::append::{self, Duplicates, Placement};
use crate::event::{DEFAULT_CONTEXT, ExpectedVersion, NewEvent};
use crate::{ndjson, timestamp};

/// `host append`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("carried").required(true)))]
#[command(after_help = "Examples:\n  \
    host append --aggregate-type User --aggregate-id u1 --event-type UserCreated \\\n      \
        --payload '{\"email\":\"ada@example.org\"}' --expected-version no-stream\n  \
    host append --aggregate-type User --aggregate-id u1 --event-type EmailVerified --payload '{}' --expected-version 1\n  \
    produce-event | host append --aggregate-type Order --aggregate-id 7 --event-type OrderPlaced --payload-file -\n\n\
    Prints where it was stored, such as `position 17, version 3`. When the aggregate is not at the expected version,\n\
    nothing is stored and the exit code is 1. With --event-id an append can be repeated safely: the second one is\n\
    refused, and says where the event is.")]
pub struct Append {
    /// The kind of aggregate that the event belongs to
    #[arg(long, value_name = "TYPE")]
    aggregate_type: String,
    /// Which aggregate of that kind
    #[arg(long, value_name = "ID")]
    aggregate_id: String,
    /// What happened
    #[arg(long, value_name = "TYPE")]
    event_type: String,
    /// What the event carries: a JSON object
    #[arg(long, value_name = "JSON", allow_hyphen_values = true, group = "carried")]
    payload: Option<String>,
    /// A file with the payload; `-` reads it from stdin
    #[arg(long, value_name = "FILE", group = "carried")]
    payload_file: Option<PathBuf>,
    /// Take a payload that is not a JSON object, whatever its bytes
    #[arg(long)]
    allow_any_payload: bool,
    /// Where the aggregate has to be: `any`, `no-stream`, or the version of its last event
    #[arg(long, value_name = "VERSION", default_value_t = ExpectedVersion::Any)]
    expected_version: ExpectedVersion,
    /// The event's UUID [default: a new one]
    #[arg(long, value_name = "UUID")]
    event_id: Option<Uuid>,
    /// The version of the payload's schema
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    event_version: u32,
    /// What else is known about the event: any JSON
    #[arg(long, value_name = "JSON", default_value = "{}", allow_hyphen_values = true)]
    metadata: String,
    /// The bounded context that the aggregate belongs to
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CONTEXT)]
    bounded_context: String,
    /// The trace in which it happened
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,
    /// What it belongs to, such as a request or a process
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// What made it happen, such as the id of another event
    #[arg(long, value_name = "ID")]
    causation_id: Option<String>,
    /// When it happened, in RFC 3339, such as 2013-01-01T05:15:00-05:00 [default: now]
    #[arg(long, value_name = "TIME", value_parser = created_at)]
    created_at: Option<i64>,
}

/// Reads `--created-at`.
fn created_at(text: &str) -> Result<i64, String> {
    timestamp::parse_rfc3339(text)
        .ok_or_else(|| "say date, time and offset, such as 2013-01-01T05:15:00-05:00 or 2013-01-01T10:15:00Z".into())
}

impl Append {
    /// Runs it.
    ///
    /// # Errors
    /// When the event is not stored.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let event = self.event()?;
        event.check().map_err(append::AppendError::from)?;
        let mut store = append::open(&context.events, context.runtime.handle())?;
        let appended = store.append(&[event], self.expected_version, Duplicates::Refuse)?;
        for placement in appended.placements {
            if let Placement::Stored { position, version } = placement {
                super::print_line(&format!("position {position}, version {version}"))?;
            }
        }
        Ok(())
    }

    /// The event that the arguments say.
    fn event(&self) -> anyhow::Result<NewEvent> {
        Ok(NewEvent {
            bounded_context: self.bounded_context.clone(),
            aggregate_type: self.aggregate_type.clone(),
            aggregate_id: self.aggregate_id.clone(),
            event_id: self.event_id.unwrap_or_else(Uuid::now_v7),
            event_type: self.event_type.clone(),
            event_version: self.event_version,
            payload: self.payload()?,
            metadata: self.metadata.clone(),
            trace_id: self.trace_id.clone(),
            correlation_id: self.correlation_id.clone(),
            causation_id: self.causation_id.clone(),
            created_at: self.created_at.unwrap_or_else(timestamp::now),
        })
    }

    /// The payload's bytes.
    fn payload(&self) -> Result<Vec<u8>, UsageError> {
        let bytes = match (&self.payload, &self.payload_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(path)) => read(path)?,
            // clap asks for one of them.
            (None, None) => Vec::new(),
        };
        if self.allow_any_payload {
            return Ok(bytes);
        }
        // Without the line break that most files end with.
        if let Some(object) = ndjson::json_object(&bytes) {
            return Ok(object.get().as_bytes().to_vec());
        }
        let what = ndjson::json(&bytes).map_or("not JSON", ndjson::kind);
        Err(UsageError::new(
            format!("the payload is {what}; it has to be a JSON object"),
            "write {…}, or say --allow-any-payload to store these bytes as they are",
        ))
    }
}

/// Everything in a file, or from stdin.
fn read(path: &Path) -> Result<Vec<u8>, UsageError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| {
        UsageError::new(format!("cannot read the payload from {}: {error}", path.display()), "check the file's name")
    })
}
