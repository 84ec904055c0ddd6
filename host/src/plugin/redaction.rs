//! Taking fields out of a JSON payload before a guest sees it.
//!
//! What is not taken out stays byte for byte as it was, numbers and the order of members included: the text is cut,
//! never parsed into numbers and written again, which would change a price of `12.10` and an id beyond 2⁵³.
//!
//! **Nothing leaks by form.** A field is taken out however its name is escaped and however often it is there; a path
//! goes through arrays, into each of their elements; and a name that holds dots itself is found as well as nested ones.
//! A payload that is no JSON cannot be searched, so the event is not shown at all: it fails, and becomes a dead letter
//! that says why. An emptied payload instead would be wrong without a word where no bytes mean something, as in
//! Protocol Buffers, whose empty message is valid.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::Event;

/// How deep arrays and objects are searched. JSON of this depth that anybody means is not known.
const DEEPEST: usize = 128;

/// Which field: its name, behind the names of those it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(Vec<String>);

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Text that is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field is a name, or names with dots between them, such as customer.email")]
pub struct NotAPath;

impl FromStr for FieldPath {
    type Err = NotAPath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names: Vec<_> = text.split('.').map(str::to_owned).collect();
        if names.iter().any(String::is_empty) { Err(NotAPath) } else { Ok(Self(names)) }
    }
}

/// What is taken out of payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction(Vec<FieldPath>);

/// A payload that cannot be searched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload is no JSON that {fields} could be taken out of, so the projection was not shown the event")]
pub struct Unsearchable {
    /// What should have been taken out.
    fields: String,
}

impl fmt::Display for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&fields.join(", "))
    }
}

impl Redaction {
    /// Of these fields; nothing where there are none.
    #[must_use]
    pub fn of(fields: Vec<FieldPath>) -> Option<Self> {
        if fields.is_empty() { None } else { Some(Self(fields)) }
    }

    /// The event as the projection may see it.
    ///
    /// # Errors
    /// When the payload cannot be searched. An empty one holds nothing, and passes.
    pub fn apply<'event>(&self, event: &'event Event) -> Result<Cow<'event, Event>, Unsearchable> {
        if event.payload.is_empty() {
            return Ok(Cow::Borrowed(event));
        }
        let unsearchable = || Unsearchable { fields: self.to_string() };
        let text = std::str::from_utf8(&event.payload).map_err(|_| unsearchable())?;
        // Seen to be whole here, once: below, what is not searched is copied unseen.
        let json: &RawValue = serde_json::from_str(text).map_err(|_| unsearchable())?;
        let paths: Vec<&[String]> = self.0.iter().map(|path| path.0.as_slice()).collect();
        let mut kept = String::with_capacity(text.len());
        match copy(json.get(), &paths, DEEPEST, &mut kept) {
            Some(Copied::Whole) => Ok(Cow::Borrowed(event)),
            Some(Copied::InPart) => Ok(Cow::Owned(with_payload(event, kept.into_bytes()))),
            None => Err(unsearchable()),
        }
    }
}

/// The event with another payload; the old one, which may be large, is not copied first.
fn with_payload(event: &Event, payload: Vec<u8>) -> Event {
    Event {
        payload,
        global_position: event.global_position,
        event_id: event.event_id.clone(),
        bounded_context: event.bounded_context.clone(),
        aggregate_type: event.aggregate_type.clone(),
        aggregate_id: event.aggregate_id.clone(),
        aggregate_version: event.aggregate_version,
        event_type: event.event_type.clone(),
        event_version: event.event_version,
        metadata: event.metadata.clone(),
        trace_id: event.trace_id.clone(),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
        created_at: event.created_at,
    }
}

/// Whether something was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    /// No.
    Whole,
    /// Yes.
    InPart,
}

/// Copies a JSON text without what the paths lead to. Nothing where it is too deep, or no JSON after all.
fn copy(json: &str, paths: &[&[String]], depth: usize, kept: &mut String) -> Option<Copied> {
    let depth = depth.checked_sub(1)?;
    let start = json.trim_start_matches([' ', '\t', '\n', '\r']);
    let mut copied = Copied::Whole;
    match start.as_bytes().first()? {
        b'{' => {
            let members: Members<'_> = serde_json::from_str(json).ok()?;
            kept.push('{');
            let mut first = true;
            for (name, value) in &members.0 {
                let below = below(paths, name);
                if below.iter().any(|path| path.is_empty()) {
                    copied = Copied::InPart;
                    continue;
                }
                if !std::mem::take(&mut first) {
                    kept.push(',');
                }
                kept.push_str(&serde_json::to_string(name).ok()?);
                kept.push(':');
                copied = copied.and(copy_value(value.get(), &below, depth, kept)?);
            }
            kept.push('}');
        }
        b'[' => {
            let elements: Elements<'_> = serde_json::from_str(json).ok()?;
            kept.push('[');
            for (at, element) in elements.0.iter().enumerate() {
                if at > 0 {
                    kept.push(',');
                }
                copied = copied.and(copy_value(element.get(), paths, depth, kept)?);
            }
            kept.push(']');
        }
        _ => kept.push_str(json),
    }
    Some(copied)
}

/// Copies the value of a member or an element: as it is where no path leads into it.
fn copy_value(json: &str, paths: &[&[String]], depth: usize, kept: &mut String) -> Option<Copied> {
    if paths.is_empty() {
        kept.push_str(json);
        return Some(Copied::Whole);
    }
    copy(json, paths, depth, kept)
}

impl Copied {
    /// Of two pieces.
    fn and(self, other: Self) -> Self {
        if self == Self::Whole { other } else { self }
    }
}

/// What is left of paths inside a member of this name; an empty one means the member itself.
fn below<'path>(paths: &[&'path [String]], name: &str) -> Vec<&'path [String]> {
    let mut below = Vec::new();
    for path in paths {
        // Not only the next name: this one may hold dots itself.
        let mut rest = Some(name);
        for (taken, piece) in (1..).zip(*path) {
            rest = rest.and_then(|rest| rest.strip_prefix(piece.as_str()));
            match rest {
                Some("") => below.push(&path[taken..]),
                Some(more) => rest = more.strip_prefix('.'),
                None => break,
            }
            if rest.is_none_or(str::is_empty) {
                break;
            }
        }
    }
    below
}

/// The members of an object, in their order, with their values as they are written.
struct Members<'json>(Vec<(Cow<'json, str>, &'json RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Reads them.
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reading)
    }
}

/// A member's name, as it is meant: without escapes.
#[derive(Deserialize)]
struct Name<'json>(#[serde(borrow)] Cow<'json, str>);

/// The elements of an array, as they are written.
#[derive(Deserialize)]
struct Elements<'json>(#[serde(borrow)] Vec<&'json RawValue>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// An event with this payload.
    fn event(payload: &[u8]) -> Event {
        Event {
            global_position: 1,
            event_id: String::new(),
            bounded_context: String::new(),
            aggregate_type: String::new(),
            aggregate_id: String::new(),
            aggregate_version: 1,
            event_type: String::new(),
            event_version: 1,
            payload: payload.to_vec(),
            metadata: b"{}".to_vec(),
            trace_id: None,
            correlation_id: None,
            causation_id: None,
            created_at: 0,
        }
    }

    /// A payload without these fields.
    fn redacted(payload: &[u8], fields: &[&str]) -> Result<String, Unsearchable> {
        let redaction = Redaction::of(fields.iter().map(|field| field.parse().unwrap()).collect()).unwrap();
        let event = event(payload);
        let seen = redaction.apply(&event)?;
        Ok(String::from_utf8(seen.payload.clone()).unwrap())
    }

    #[test]
    fn a_field_is_taken_out_and_the_rest_stays_byte_for_byte() {
        let payload = br#"{"z": 12.10, "email": "a@b", "id": 12345678901234567890123, "a": {"email": [1 , 2]}}"#;
        let expected = r#"{"z":12.10,"id":12345678901234567890123,"a":{"email": [1 , 2]}}"#;
        assert_eq!(redacted(payload, &["email"]).unwrap(), expected);
        assert_eq!(redacted(payload, &["a.email", "id", "z"]).unwrap(), r#"{"email":"a@b","a":{}}"#);
        // Where there is nothing to take out, not a space is changed.
        assert_eq!(redacted(payload, &["absent", "a.absent", "z.deeper"]).unwrap().as_bytes(), payload);
    }

    #[test]
    fn no_spelling_of_a_field_leaks_it() {
        for payload in [
            r#"{"email":"SECRET"}"#,
            r#"{"em\u0061il":"SECRET"}"#,
            r#"{"email":1,"email":"SECRET"}"#,
            r#" [[{"email":"SECRET"}], {"email":{"SECRET":1}}] "#,
        ] {
            let seen = redacted(payload.as_bytes(), &["email"]).unwrap();
            assert!(!seen.contains("SECRET"), "{payload}: {seen}");
        }
        for payload in [
            r#"{"a":{"b":{"c":"SECRET"}}}"#,
            r#"{"a.b":{"c":"SECRET"}}"#,
            r#"{"a":{"b.c":"SECRET"}}"#,
            r#"{"a.b.c":"SECRET"}"#,
            r#"{"a":[{"b":[[{"c":"SECRET"}]]}]}"#,
        ] {
            let seen = redacted(payload.as_bytes(), &["a.b.c"]).unwrap();
            assert!(!seen.contains("SECRET"), "{payload}: {seen}");
        }
    }

    #[test]
    fn names_that_only_begin_alike_are_others() {
        let payload = r#"{"emails":1,"e":2,"a":{"bc":3},"a.":4,"ab":5}"#;
        assert_eq!(redacted(payload.as_bytes(), &["email", "a.b"]).unwrap(), payload);
    }

    #[test]
    fn what_is_no_json_is_not_shown() {
        let deep = [b"[".repeat(10_000), b"]".repeat(10_000)].concat();
        let cases: [&[u8]; 7] =
            [b"text", b"{", br#"{"email":1} {"email":2}"#, &[0xff], b"\0", br#"{"\ud800":1}"#, &deep];
        for payload in cases {
            let error = redacted(payload, &["email", "a.b"]).unwrap_err().to_string();
            let expected = "the payload is no JSON that email, a.b could be taken out of, so the projection was not \
                            shown the event";
            assert_eq!(error, expected);
        }
        for whole in ["", "null", " 1 ", "\"email\""] {
            assert_eq!(redacted(whole.as_bytes(), &["email"]).unwrap(), whole, "it has no fields");
        }
    }

    #[test]
    fn a_path_is_names_with_dots_between_them() {
        for wrong in ["", ".", "a.", ".a", "a..b"] {
            assert_eq!(wrong.parse::<FieldPath>(), Err(NotAPath), "{wrong}");
        }
        assert_eq!("a.b".parse::<FieldPath>().unwrap().to_string(), "a.b");
    }

    /// Any small JSON, with names that often meet the paths below.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(null)), any::<i32>().prop_map(Value::from), ".{0,3}".prop_map(Value::from)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ab]", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The same, by the book: the whole tree in memory.
    fn without(value: &mut Value, path: &[&str]) {
        match value {
            Value::Array(elements) => elements.iter_mut().for_each(|element| without(element, path)),
            Value::Object(members) => match path {
                [last] => drop(members.remove(*last)),
                [first, rest @ ..] => drop(members.get_mut(*first).map(|value| without(value, rest))),
                [] => {}
            },
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_redacted_as_its_tree_would_be(payload in any_json()) {
            let seen = redacted(payload.to_string().as_bytes(), &["a.b", "b"]).unwrap();
            let mut expected = payload;
            without(&mut expected, &["a", "b"]);
            without(&mut expected, &["b"]);
            prop_assert_eq!(serde_json::from_str::<Value>(&seen).unwrap(), expected);
        }
    }
}
