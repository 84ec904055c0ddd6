//! One event, as its writer stored it.

use std::{any::type_name, error::Error, fmt};

use serde::Deserialize;

use crate::{Timestamp, bindings};

/// One stored event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event(bindings::Event);

impl Event {
    /// Wraps what came over the boundary.
    pub(crate) fn new(event: bindings::Event) -> Self {
        Self(event)
    }

    /// What happened, such as `UserCreated`.
    pub fn event_type(&self) -> &str {
        &self.0.event_type
    }

    /// The version of the payload's schema, from 1.
    pub fn event_version(&self) -> u32 {
        self.0.event_version
    }

    /// Where the event stands in the whole log. Grows; may have holes.
    pub fn position(&self) -> u64 {
        self.0.global_position
    }

    /// The kind of aggregate, such as `User`.
    pub fn aggregate_type(&self) -> &str {
        &self.0.aggregate_type
    }

    /// Which aggregate of that kind.
    pub fn aggregate_id(&self) -> &str {
        &self.0.aggregate_id
    }

    /// The event's number within its aggregate, from 1.
    pub fn aggregate_version(&self) -> u64 {
        self.0.aggregate_version
    }

    /// The bounded context it was written in; `default` where the writer said nothing.
    pub fn bounded_context(&self) -> &str {
        &self.0.bounded_context
    }

    /// The event's UUID, in the usual 36 characters.
    pub fn event_id(&self) -> &str {
        &self.0.event_id
    }

    /// When it was written. With the feature `chrono`, `DateTime::<Utc>::from` takes it.
    pub fn created_at(&self) -> Timestamp {
        Timestamp::from_micros(self.0.created_at)
    }

    /// The trace in which it was written.
    pub fn trace_id(&self) -> Option<&str> {
        self.0.trace_id.as_deref()
    }

    /// What it belongs to.
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.correlation_id.as_deref()
    }

    /// What made it happen.
    pub fn causation_id(&self) -> Option<&str> {
        self.0.causation_id.as_deref()
    }

    /// The payload as JSON: `event.payload::<UserCreated>()?`.
    ///
    /// A type may borrow from the event (`struct Flight<'a> { carrier: &'a str }`), which saves copies;
    /// JSON strings with escapes need a `String` or a `Cow` instead.
    ///
    /// # Errors
    ///
    /// When it is not JSON or not such a `T`; the error names the event's type and position.
    pub fn payload<'de, T: Deserialize<'de>>(&'de self) -> Result<T, PayloadError> {
        self.read("payload", &self.0.payload)
    }

    /// The payload as it was stored, for payloads that are not JSON.
    pub fn payload_bytes(&self) -> &[u8] {
        &self.0.payload
    }

    /// The metadata, which is always JSON.
    ///
    /// # Errors
    ///
    /// When it is not such a `T`; the error names the event's type and position.
    pub fn metadata<'de, T: Deserialize<'de>>(&'de self) -> Result<T, PayloadError> {
        self.read("metadata", &self.0.metadata)
    }

    /// Reads one of the two JSON texts.
    fn read<'de, T: Deserialize<'de>>(&self, part: &'static str, json: &'de [u8]) -> Result<T, PayloadError> {
        serde_json::from_slice(json).map_err(|source| PayloadError {
            event_type: self.event_type().to_owned(),
            position: self.position(),
            part,
            wanted: type_name::<T>(),
            source,
        })
    }
}

/// A payload, or metadata, that is not what the projection expects.
#[derive(Debug)]
pub struct PayloadError {
    /// The event's type.
    event_type: String,
    /// The event's position.
    position: u64,
    /// `payload` or `metadata`.
    part: &'static str,
    /// The Rust type that was asked for.
    wanted: &'static str,
    /// What serde_json says.
    source: serde_json::Error,
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event_type, position, part, wanted, .. } = self;
        write!(f, "the {part} of {event_type} at position {position} is no {wanted}")
    }
}

impl Error for PayloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Failure, testing::event};

    /// A payload that borrows.
    #[derive(Deserialize)]
    struct UserCreated<'a> {
        /// A slice of the event's bytes.
        email: &'a str,
    }

    #[test]
    fn a_payload_may_borrow_from_its_event() {
        let event = Event::from(event("UserCreated").payload(json!({"email": "a@b.c", "more": 1})));
        assert_eq!(event.payload::<UserCreated<'_>>().unwrap().email, "a@b.c");
    }

    #[test]
    fn a_payload_that_does_not_read_is_a_permanent_failure_that_names_its_event() {
        let event = Event::from(event("UserCreated").position(42).payload(json!("a@b.c")));
        let failure = Failure::from(event.payload::<u32>().unwrap_err());
        let message = "the payload of UserCreated at position 42 is no u32: \
                       invalid type: string \"a@b.c\", expected u32 at line 1 column 7";
        assert_eq!(failure, Failure::permanent(message));
    }

    #[test]
    fn metadata_reads_as_json_and_is_empty_by_default() {
        let with = Event::from(event("X").metadata(json!({"tenant": "t1"})));
        assert_eq!(with.metadata::<serde_json::Value>().unwrap(), json!({"tenant": "t1"}));
        assert_eq!(Event::from(event("X")).metadata::<serde_json::Value>().unwrap(), json!({}));
    }
}
