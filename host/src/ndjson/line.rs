//! One line, one event: the fields by name, and an error that names the field.
//!
//! The visitor is written by hand for the sake of the messages: what serde derives says "invalid type: integer
//! `5`, expected a string" and not of which field.

use std::fmt;

use base64::Engine as _;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{LineProblem, is_object, kind};
use crate::event::{DEFAULT_CONTEXT, NewEvent};
use crate::timestamp;

/// Which payloads are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payloads {
    /// JSON objects: what nearly every system writes, and a payload that is none is nearly always a mistake.
    Objects,
    /// Any JSON.
    Any,
}

/// Where the id of an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// The line said it, so the event is known when it comes again.
    Given,
    /// It was made up, so the same line is another event the next time.
    New,
}

/// The event of a line.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &str, payloads: Payloads) -> Result<(NewEvent, Id), LineProblem> {
    let fields: Fields<'_> = serde_json::from_str(line).map_err(|error| problem(line, &error))?;
    let aggregate_type = fields.aggregate_type.ok_or(LineProblem::Missing("aggregate_type"))?;
    let aggregate_id = fields.aggregate_id.ok_or(LineProblem::Missing("aggregate_id"))?;
    let event_type = fields.event_type.ok_or(LineProblem::Missing("event_type"))?;
    let payload = match (fields.payload, fields.payload_base64.flatten()) {
        (Some(_), Some(_)) => return Err(LineProblem::TwoPayloads),
        (None, None) => return Err(LineProblem::Missing("payload")),
        (Some(json), None) if payloads == Payloads::Objects && !is_object(json) => {
            return Err(LineProblem::PayloadNotAnObject { found: kind(json) });
        }
        (Some(json), None) => json.get().as_bytes().to_vec(),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD.decode(text).map_err(LineProblem::Base64)?,
    };
    let (event_id, id) = match fields.event_id.flatten() {
        Some(text) => (Uuid::parse_str(&text).map_err(|_| LineProblem::EventId(quoted(&text)))?, Id::Given),
        None => (Uuid::now_v7(), Id::New),
    };
    let created_at = match fields.created_at.flatten() {
        Some(text) => timestamp::parse_rfc3339(&text).ok_or_else(|| LineProblem::CreatedAt(quoted(&text)))?,
        None => timestamp::now(),
    };
    let metadata = fields.metadata.map(RawValue::get).filter(|json| *json != "null");
    let event = NewEvent {
        bounded_context: fields.bounded_context.flatten().unwrap_or_else(|| DEFAULT_CONTEXT.to_owned()),
        aggregate_type,
        aggregate_id,
        event_id,
        event_type,
        event_version: fields.event_version.flatten().unwrap_or(1),
        payload,
        metadata: metadata.unwrap_or("{}").to_owned(),
        trace_id: fields.trace_id.flatten(),
        correlation_id: fields.correlation_id.flatten(),
        causation_id: fields.causation_id.flatten(),
        created_at,
    };
    event.check()?;
    Ok((event, id))
}

/// What was said on a line. The outer `Option` is whether the field is there, an inner one whether it is `null`.
#[derive(Default)]
#[cfg_attr(
    not(test),
    expect(clippy::missing_docs_in_private_items, reason = "the format's fields, which the module above documents")
)]
struct Fields<'a> {
    event_id: Option<Option<String>>,
    bounded_context: Option<Option<String>>,
    aggregate_type: Option<String>,
    aggregate_id: Option<String>,
    event_type: Option<String>,
    event_version: Option<Option<u32>>,
    created_at: Option<Option<String>>,
    payload: Option<&'a RawValue>,
    payload_base64: Option<Option<String>>,
    metadata: Option<&'a RawValue>,
    trace_id: Option<Option<String>>,
    correlation_id: Option<Option<String>>,
    causation_id: Option<Option<String>>,
}

/// A field's name; serde words the error of an unknown one.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
#[cfg_attr(
    not(test),
    expect(clippy::missing_docs_in_private_items, reason = "the format's fields, which the module above documents")
)]
enum Field {
    EventId,
    BoundedContext,
    AggregateType,
    AggregateId,
    EventType,
    EventVersion,
    CreatedAt,
    Payload,
    #[serde(rename = "payload_base64")]
    PayloadBase64,
    Metadata,
    TraceId,
    CorrelationId,
    CausationId,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Reads [`Fields`].
struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event, which is a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::EventId => value(&mut map, "event_id", &mut fields.event_id)?,
                Field::BoundedContext => value(&mut map, "bounded_context", &mut fields.bounded_context)?,
                Field::AggregateType => value(&mut map, "aggregate_type", &mut fields.aggregate_type)?,
                Field::AggregateId => value(&mut map, "aggregate_id", &mut fields.aggregate_id)?,
                Field::EventType => value(&mut map, "event_type", &mut fields.event_type)?,
                Field::EventVersion => value(&mut map, "event_version", &mut fields.event_version)?,
                Field::CreatedAt => value(&mut map, "created_at", &mut fields.created_at)?,
                Field::Payload => value(&mut map, "payload", &mut fields.payload)?,
                Field::PayloadBase64 => value(&mut map, "payload_base64", &mut fields.payload_base64)?,
                Field::Metadata => value(&mut map, "metadata", &mut fields.metadata)?,
                Field::TraceId => value(&mut map, "trace_id", &mut fields.trace_id)?,
                Field::CorrelationId => value(&mut map, "correlation_id", &mut fields.correlation_id)?,
                Field::CausationId => value(&mut map, "causation_id", &mut fields.causation_id)?,
            }
        }
        Ok(fields)
    }
}

/// Reads the value of a field into its slot.
fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    name: &'static str,
    slot: &mut Option<T>,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    let value = map.next_value().map_err(|error| A::Error::custom(format_args!("`{name}`: {error}")))?;
    *slot = Some(value);
    Ok(())
}

/// What is wrong with a line that serde_json does not take.
fn problem(line: &str, error: &serde_json::Error) -> LineProblem {
    // Inside of a field's value every error arrives as one of ours, so whether it is JSON at all is asked anew.
    match serde_json::from_str::<IgnoredAny>(line) {
        Err(error) if error.is_eof() => LineProblem::Unfinished { column: error.column() },
        Err(error) => LineProblem::Malformed { reason: reason(&error), column: error.column() },
        Ok(_) => LineProblem::Mismatch { reason: reason(error), column: error.column() },
    }
}

/// What serde_json says, without its line number, which is always 1 here.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason).to_owned()
}

/// For a message: not longer than a line of it.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a line.
    fn wrong(line: &str) -> String {
        parse(line, Payloads::Objects).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_line_with_the_least_that_is_needed_gets_the_rest() {
        let line = r#"{"aggregate_type":"User","aggregate_id":"u1","event_type":"UserCreated","payload":{}}"#;
        let before = timestamp::now();
        let (event, id) = parse(line, Payloads::Objects).unwrap();
        assert_eq!((event.bounded_context.as_str(), event.event_version), ("default", 1));
        assert_eq!((event.metadata.as_str(), &event.trace_id), ("{}", &None));
        assert_eq!((id, event.event_id.get_version_num()), (Id::New, 7));
        assert!((before..=timestamp::now()).contains(&event.created_at));
    }

    #[test]
    fn the_payload_is_kept_byte_for_byte() {
        let line =
            r#"{"aggregate_type":"A","aggregate_id":"a","event_type":"T","payload": { "x" : 1.0e2, "x":"\u00e9" } }"#;
        assert_eq!(parse(line, Payloads::Objects).unwrap().0.payload, r#"{ "x" : 1.0e2, "x":"\u00e9" }"#.as_bytes());
    }

    #[test]
    fn a_line_with_an_unknown_field_is_refused_by_name() {
        assert!(
            wrong(r#"{"agregate_id":"u1"}"#).starts_with("unknown field `agregate_id`, expected one of `event_id`")
        );
    }

    #[test]
    fn a_mistake_is_named_with_its_field() {
        let with =
            |field: &str| wrong(&format!(r#"{{{field},"aggregate_type":"A","aggregate_id":"a","event_type":"T"}}"#));
        for (field, reason) in [
            (r#""payload":[1]"#, "`payload` is an array, not a JSON object (`--allow-any-payload` takes any JSON)"),
            (r#""payload":null"#, "`payload` is null, not a JSON object (`--allow-any-payload` takes any JSON)"),
            (r#""trace_id":null"#, "missing field `payload`"),
            (r#""payload":{},"payload_base64":"""#, "both `payload` and `payload_base64`: an event has one of them"),
            (
                r#""payload":{},"event_version":-1"#,
                "`event_version`: invalid value: integer `-1`, expected u32, column 32",
            ),
            (r#""payload":{},"event_id":"7""#, "`event_id` is not a UUID: \"7\""),
            (r#""payload":{},"trace_id":5"#, "`trace_id`: invalid type: integer `5`, expected a string, column 26"),
            (r#""payload":{},"payload":{}"#, "duplicate field `payload`, column 23"),
            (r#""payload":{},"bounded_context":"""#, "`bounded_context` is empty"),
        ] {
            assert_eq!(with(field), reason);
        }
        assert!(with(r#""payload":{},"created_at":"2013-01-01 05:15""#).contains(": \"2013-01-01 05:15\""));
        assert!(with(r#""payload_base64":"?""#).starts_with("`payload_base64` is not base64: "));
        assert_eq!(wrong(r#"{"aggregate_id":"a","event_type":"T","payload":{}}"#), "missing field `aggregate_type`");
        assert!(wrong(r#"{"aggregate_id":7}"#).starts_with("`aggregate_id`: invalid type: integer `7`"));
    }

    #[test]
    fn what_is_not_json_is_refused_with_the_place() {
        assert_eq!(wrong(r#"{"aggregate_id" 7}"#), "malformed JSON: expected `:`, column 17");
        assert_eq!(wrong(r#"{"payload":{"a":1"#), "malformed JSON: the line ends in the middle of it, at column 17");
        assert!(wrong("[]").starts_with("invalid type: sequence, expected an event, which is a JSON object"));
        assert!(wrong(r#"{"aggregate_id":"a"} x"#).starts_with("malformed JSON: trailing characters"));
        assert!(wrong(r#"{"payload":{"a":01}}"#).starts_with("malformed JSON: invalid number"));
    }

    #[test]
    fn any_json_is_a_payload_where_that_is_asked_for() {
        let line = r#"{"aggregate_type":"A","aggregate_id":"a","event_type":"T","payload":[1, 2]}"#;
        assert_eq!(parse(line, Payloads::Any).unwrap().0.payload, b"[1, 2]");
    }

    #[test]
    fn an_offset_is_counted_into_utc() {
        let line = r#"{"aggregate_type":"A","aggregate_id":"a","event_type":"T","payload":{},"created_at":"2013-01-01T00:15:00-05:00"}"#;
        assert_eq!(parse(line, Payloads::Objects).unwrap().0.created_at, 1_357_017_300_000_000);
    }
}
