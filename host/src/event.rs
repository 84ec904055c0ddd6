//! What travels: a stored [`Event`], a [`NewEvent`] on its way in, and the numbers that place them.
//!
//! [`Event`] has the shape of the WIT record `event`, field for field and in its order, so that a row goes
//! from the database into the guest's memory without being copied into a second struct on the way.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wasmtime::component::{ComponentType, Lower};

/// A place in the whole log: the event at `global_position`, or the point just behind it.
///
/// 0 is before the first event. Positions grow and may have holes, so a difference is an upper bound of
/// a number of events, never the number itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The position with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As the databases store it. Both number from 1 in a signed 64-bit column, so nothing is lost.
    #[must_use]
    pub const fn to_sql(self) -> i64 {
        self.0.cast_signed()
    }

    /// From a signed 64-bit column; what is below 0 counts as the start.
    #[must_use]
    pub const fn from_sql(number: i64) -> Self {
        Self(if number < 0 { 0 } else { number.cast_unsigned() })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One stored event. The fields are those of `wit/projection.wit`, documented there.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Event {
    /// Where it stands in the log.
    #[component(name = "global-position")]
    pub global_position: u64,
    /// Its UUID, in 36 characters.
    #[component(name = "event-id")]
    pub event_id: String,
    /// The bounded context it was written in.
    #[component(name = "bounded-context")]
    pub bounded_context: String,
    /// The kind of aggregate.
    #[component(name = "aggregate-type")]
    pub aggregate_type: String,
    /// Which aggregate of that kind.
    #[component(name = "aggregate-id")]
    pub aggregate_id: String,
    /// Its number within the aggregate, from 1.
    #[component(name = "aggregate-version")]
    pub aggregate_version: u64,
    /// What happened.
    #[component(name = "event-type")]
    pub event_type: String,
    /// The version of the payload's schema.
    #[component(name = "event-version")]
    pub event_version: u32,
    /// What the writer stored.
    pub payload: Vec<u8>,
    /// JSON.
    pub metadata: Vec<u8>,
    /// The trace in which it was written.
    #[component(name = "trace-id")]
    pub trace_id: Option<String>,
    /// What it belongs to.
    #[component(name = "correlation-id")]
    pub correlation_id: Option<String>,
    /// What made it happen.
    #[component(name = "causation-id")]
    pub causation_id: Option<String>,
    /// Microseconds since 1970, UTC.
    #[component(name = "created-at")]
    pub created_at: i64,
}

impl Event {
    /// Where it stands in the log.
    #[must_use]
    pub fn position(&self) -> Position {
        Position(self.global_position)
    }

    /// What it takes in memory, in bytes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + self.event_id.len()
            + self.bounded_context.len()
            + self.aggregate_type.len()
            + self.aggregate_id.len()
            + self.event_type.len()
            + self.payload.len()
            + self.metadata.len()
            + optional(&self.trace_id)
            + optional(&self.correlation_id)
            + optional(&self.causation_id)
    }
}

/// The bounded context of whoever says nothing.
pub const DEFAULT_CONTEXT: &str = "default";

/// An event on its way into the log. Its position and its version are given by the append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The bounded context, [`DEFAULT_CONTEXT`] where nothing is said.
    pub bounded_context: String,
    /// The kind of aggregate.
    pub aggregate_type: String,
    /// Which aggregate of that kind.
    pub aggregate_id: String,
    /// Unique in the log; appending it twice is how a writer repeats itself safely.
    pub event_id: Uuid,
    /// What happened.
    pub event_type: String,
    /// The version of the payload's schema.
    pub event_version: u32,
    /// Any bytes; JSON in most systems.
    pub payload: Vec<u8>,
    /// A JSON text.
    pub metadata: String,
    /// The trace in which it is written.
    pub trace_id: Option<String>,
    /// What it belongs to.
    pub correlation_id: Option<String>,
    /// What made it happen.
    pub causation_id: Option<String>,
    /// Microseconds since 1970, UTC.
    pub created_at: i64,
}

impl NewEvent {
    /// Whether both kinds of database can hold it, so that a log can always move from one to the other.
    ///
    /// # Errors
    /// [`UnfitEvent`], with the field that is wrong.
    pub fn check(&self) -> Result<(), UnfitEvent> {
        let unfit = |field, reason| Err(UnfitEvent { field, reason });
        let required = [
            ("bounded_context", &self.bounded_context),
            ("aggregate_type", &self.aggregate_type),
            ("aggregate_id", &self.aggregate_id),
            ("event_type", &self.event_type),
        ];
        if let Some((field, _)) = required.iter().find(|(_, text)| text.is_empty()) {
            return unfit(field, "is empty");
        }
        let optional = [
            ("trace_id", &self.trace_id),
            ("correlation_id", &self.correlation_id),
            ("causation_id", &self.causation_id),
        ];
        let optional = optional.iter().filter_map(|(field, text)| text.as_ref().map(|text| (*field, text)));
        if let Some((field, _)) = required.into_iter().chain(optional).find(|(_, text)| text.contains('\0')) {
            return unfit(field, "has a NUL character, which Postgres cannot store");
        }
        if required[..3].iter().map(|(_, text)| text.len()).sum::<usize>() > LONGEST_KEY {
            return unfit("aggregate_id", "is too long: with context and type it may have 2,600 bytes");
        }
        if self.event_version > i32::MAX.cast_unsigned() {
            return unfit("event_version", "is larger than 2147483647");
        }
        if let Some(reason) = unfit_metadata(&self.metadata) {
            return unfit("metadata", reason);
        }
        Ok(())
    }
}

/// What an index entry of Postgres holds, a third of a page, less what the version takes.
const LONGEST_KEY: usize = 2_600;

/// What is wrong with a metadata text: it has to be JSON that JSONB takes.
fn unfit_metadata(text: &str) -> Option<&'static str> {
    if text == "{}" {
        return None;
    }
    // Only escapes make a difference between JSON and JSONB, and only then is a tree worth building.
    if !text.contains("\\u") {
        let valid = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
        return (!valid).then_some("is not JSON");
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) if has_nul(&value) => Some("has a NUL character, which Postgres cannot store in JSONB"),
        Ok(_) => None,
        Err(_) => Some("is not JSON"),
    }
}

/// Whether a NUL character is anywhere in it.
fn has_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(has_nul),
        serde_json::Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// An event that a log cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct UnfitEvent {
    /// Which field.
    pub field: &'static str,
    /// What about it.
    pub reason: &'static str,
}

/// What a writer believes about the aggregate it appends to (optimistic concurrency).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Nothing: append behind whatever is there.
    Any,
    /// That the aggregate has no events yet.
    NoStream,
    /// That its last event has this version, from 1.
    Exactly(u64),
}

/// Text that is none of `any`, `no-stream` or a version from 1.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not an expected version: say `any`, `no-stream`, or the version of the aggregate's last event, from 1"
)]
pub struct NotAnExpectedVersion(String);

impl std::str::FromStr for ExpectedVersion {
    type Err = NotAnExpectedVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => Ok(Self::Any),
            "no-stream" => Ok(Self::NoStream),
            number => match number.parse() {
                Ok(version) if version > 0 => Ok(Self::Exactly(version)),
                _ => Err(NotAnExpectedVersion(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::NoStream => f.write_str("no-stream"),
            Self::Exactly(version) => version.fmt(f),
        }
    }
}

/// One aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Aggregate {
    /// Its bounded context.
    pub bounded_context: String,
    /// Its kind.
    pub aggregate_type: String,
    /// Which of that kind.
    pub aggregate_id: String,
}

impl Aggregate {
    /// The aggregate of an event.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self {
            bounded_context: event.bounded_context.clone(),
            aggregate_type: event.aggregate_type.clone(),
            aggregate_id: event.aggregate_id.clone(),
        }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.bounded_context, self.aggregate_type, self.aggregate_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::tests::event;

    #[test]
    fn what_one_of_the_databases_cannot_hold_is_refused_by_field() {
        let reason = |change: fn(&mut NewEvent)| {
            let mut event = event(1, "u1");
            change(&mut event);
            event.check().map_err(|unfit| unfit.to_string())
        };
        assert_eq!(reason(|_| {}), Ok(()));
        assert_eq!(reason(|event| event.aggregate_id.clear()), Err("`aggregate_id` is empty".into()));
        assert!(reason(|event| event.event_type.push('\0')).unwrap_err().starts_with("`event_type` has a NUL"));
        assert!(reason(|event| event.trace_id = Some("\0".into())).unwrap_err().starts_with("`trace_id` has a NUL"));
        assert!(reason(|event| event.aggregate_id = "x".repeat(3_000)).unwrap_err().contains("too long"));
        assert!(reason(|event| event.event_version = u32::MAX).unwrap_err().contains("2147483647"));
        assert_eq!(reason(|event| event.metadata = "{".into()), Err("`metadata` is not JSON".into()));
        assert!(reason(|event| event.metadata = r#"{"a":["\u0000"]}"#.into()).unwrap_err().contains("NUL"));
        assert_eq!(reason(|event| event.metadata = r#"{"a":"\\u0000 \u00e9"}"#.into()), Ok(()));
        assert_eq!(reason(|event| event.metadata = r#"{"a":"\ud800"}"#.into()), Err("`metadata` is not JSON".into()));
    }
}
