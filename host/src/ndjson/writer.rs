//! [`Writer`]: stored events as lines that a [`Reader`](super::Reader) takes as they are.
//!
//! What is read back is what was written, byte for byte of the payload. So a payload goes out as `payload` only
//! if reading would give the same bytes and not refuse it: a JSON object without line breaks or space around
//! it. Anything else goes out as `payload_base64`.

use std::borrow::Cow;
use std::io::Write;

use base64::Engine as _;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{json, json_object};
use crate::event::{DEFAULT_CONTEXT, Event, Position};
use crate::timestamp;

/// Why an event was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Its metadata cannot stand in a line of JSON.
    #[error("the metadata of the event at position {0} is not JSON")]
    Metadata(Position),
    /// The system could not write.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Writes events to a stream.
#[derive(Debug)]
pub struct Writer<W> {
    /// The stream.
    output: W,
}

/// The fields of a line, in the order in which they are written. Defaults are left out.
#[derive(Serialize)]
#[cfg_attr(
    not(test),
    expect(clippy::missing_docs_in_private_items, reason = "the format's fields, which the module above documents")
)]
struct Line<'a> {
    event_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bounded_context: Option<&'a str>,
    aggregate_type: &'a str,
    aggregate_id: &'a str,
    event_type: &'a str,
    event_version: u32,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation_id: Option<&'a str>,
}

impl<W: Write> Writer<W> {
    /// Writes to this stream, in small pieces: it should be buffered.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// Writes one event.
    ///
    /// # Errors
    /// When the stream takes no more, or the event has no line.
    pub fn write(&mut self, event: &Event) -> Result<(), WriteError> {
        let payload = json_object(&event.payload).filter(|json| {
            json.get().len() == event.payload.len() && !event.payload.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
        });
        let encode = || base64::engine::general_purpose::STANDARD.encode(&event.payload);
        let line = Line {
            event_id: &event.event_id,
            bounded_context: Some(event.bounded_context.as_str()).filter(|context| *context != DEFAULT_CONTEXT),
            aggregate_type: &event.aggregate_type,
            aggregate_id: &event.aggregate_id,
            event_type: &event.event_type,
            event_version: event.event_version,
            created_at: timestamp::format(event.created_at),
            payload,
            payload_base64: payload.is_none().then(encode),
            metadata: metadata(event)?,
            trace_id: event.trace_id.as_deref(),
            correlation_id: event.correlation_id.as_deref(),
            causation_id: event.causation_id.as_deref(),
        };
        serde_json::to_writer(&mut self.output, &line).map_err(std::io::Error::from)?;
        self.output.write_all(b"\n")?;
        Ok(())
    }

    /// The stream.
    pub fn into_inner(self) -> W {
        self.output
    }
}

/// The metadata on one line, or nothing where it is `{}`.
fn metadata(event: &Event) -> Result<Option<Cow<'_, RawValue>>, WriteError> {
    if matches!(event.metadata.as_slice(), b"" | b"{}") {
        return Ok(None);
    }
    let json = json(&event.metadata).ok_or(WriteError::Metadata(event.position()))?;
    if !json.get().contains(['\n', '\r']) {
        return Ok(Some(Cow::Borrowed(json)));
    }
    // In JSON a line break is space between tokens, and never inside of one.
    let flat = RawValue::from_string(json.get().replace(['\n', '\r'], " "));
    flat.map(|json| Some(Cow::Owned(json))).map_err(|_| WriteError::Metadata(event.position()))
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ndjson::{Payloads, Reader};

    /// Payloads of all kinds.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[\\PC\n\r]{0,20}"
                .prop_map(|text| serde_json::json!({ "text": text, "n": [1, null, 2.5] }).to_string().into_bytes()),
            Just(b"{\n  \"a\": 1\r\n}".to_vec()),
            Just(b" {} ".to_vec()),
            Just(b"{\"a\":\"\\ud800\",\"a\":1e999}".to_vec()),
            Just(b"[1,2]".to_vec()),
            Just(b"null".to_vec()),
        ]
    }

    /// Any event that can be stored.
    fn event() -> impl Strategy<Value = Event> {
        let text = || "[^\0]{1,20}";
        let metadata = prop_oneof![Just("{}"), Just(r#"{"a":[1,"\n"]}"#), Just("7")];
        let names = (text(), text(), text(), text());
        let ids = (option::of(text()), option::of(text()), option::of(text()));
        let numbers = (any::<u128>(), 0_u32..=i32::MAX.cast_unsigned(), any::<i64>());
        (names, ids, numbers, payload(), metadata).prop_map(|(names, ids, numbers, payload, metadata)| Event {
            global_position: 1,
            event_id: Uuid::from_u128(numbers.0).to_string(),
            bounded_context: names.0,
            aggregate_type: names.1,
            aggregate_id: names.2,
            aggregate_version: 1,
            event_type: names.3,
            event_version: numbers.1,
            payload,
            metadata: metadata.into(),
            trace_id: ids.0,
            correlation_id: ids.1,
            causation_id: ids.2,
            created_at: numbers.2,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(events in prop::collection::vec(event(), 1..5)) {
            let mut writer = Writer::new(Vec::new());
            for event in &events {
                writer.write(event).unwrap();
            }
            let text = writer.into_inner();
            let read: Vec<_> = Reader::new(text.as_slice(), Payloads::Objects).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), events.len());
            for (read, written) in read.into_iter().zip(events) {
                prop_assert_eq!(read.event_id.to_string(), written.event_id);
                prop_assert_eq!(read.bounded_context, written.bounded_context);
                prop_assert_eq!(read.aggregate_type, written.aggregate_type);
                prop_assert_eq!(read.aggregate_id, written.aggregate_id);
                prop_assert_eq!(read.event_type, written.event_type);
                prop_assert_eq!(read.event_version, written.event_version);
                prop_assert_eq!(read.payload, written.payload);
                prop_assert_eq!(read.metadata.into_bytes(), written.metadata);
                prop_assert_eq!(read.trace_id, written.trace_id);
                prop_assert_eq!(read.correlation_id, written.correlation_id);
                prop_assert_eq!(read.causation_id, written.causation_id);
                prop_assert_eq!(read.created_at, written.created_at);
            }
        }
    }

    /// One event as its line.
    fn line(change: impl FnOnce(&mut Event)) -> Result<String, String> {
        let mut event = Event {
            global_position: 4,
            event_id: "8ece95ad-2113-5fd4-9d84-ad11ad3e8569".into(),
            bounded_context: "default".into(),
            aggregate_type: "User".into(),
            aggregate_id: "u1".into(),
            aggregate_version: 1,
            event_type: "UserCreated".into(),
            event_version: 1,
            payload: b"{\"a\": 1}".to_vec(),
            metadata: b"{}".to_vec(),
            trace_id: None,
            correlation_id: None,
            causation_id: None,
            created_at: 1_357_017_300_000_000,
        };
        change(&mut event);
        let mut writer = Writer::new(Vec::new());
        writer.write(&event).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(writer.into_inner()).unwrap())
    }

    #[test]
    fn a_line_has_what_was_said_and_no_defaults() {
        assert_eq!(
            line(|_| {}).unwrap(),
            "{\"event_id\":\"8ece95ad-2113-5fd4-9d84-ad11ad3e8569\",\"aggregate_type\":\"User\",\
             \"aggregate_id\":\"u1\",\"event_type\":\"UserCreated\",\"event_version\":1,\
             \"created_at\":\"2013-01-01T05:15:00.000000Z\",\"payload\":{\"a\": 1}}\n"
        );
    }

    #[test]
    fn bytes_that_are_no_json_object_go_out_as_base64() {
        assert!(line(|event| event.payload = vec![0, 255]).unwrap().contains("\"payload_base64\":\"AP8=\""));
    }

    #[test]
    fn metadata_over_several_lines_is_written_on_one() {
        let text = line(|event| event.metadata = b"{\n\"a\": 1}".to_vec()).unwrap();
        assert!(text.contains("\"metadata\":{ \"a\": 1}"));
        let error = line(|event| event.metadata = b"x".to_vec()).unwrap_err();
        assert_eq!(error, "the metadata of the event at position 4 is not JSON");
    }
}
