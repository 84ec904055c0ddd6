//! Events as lines of text, one JSON object a line: what `host import` reads and `host export` writes.
//!
//! | field | |
//! | --- | --- |
//! | `aggregate_type`, `aggregate_id`, `event_type` | text, required |
//! | `payload` | JSON, kept byte for byte; an object, unless the reader is told to take any JSON |
//! | `payload_base64` | instead of `payload`, for bytes that are not JSON |
//! | `event_id` | a UUID; a new one (version 7) where it is missing |
//! | `created_at` | RFC 3339, with any offset; now, where it is missing |
//! | `bounded_context` | `default`, where it is missing |
//! | `event_version` | a number; 1, where it is missing |
//! | `metadata` | any JSON; `{}`, where it is missing |
//! | `trace_id`, `correlation_id`, `causation_id` | text, or missing |
//!
//! A field that is not in this table is an error, because a misspelt one would otherwise be lost without a word.
//! Position and version are not part of it: the log that takes the events gives them.
//!
//! [`reader`] makes lines of a stream, compressed or not; [`line`](mod@line) makes an event of a line; [`writer`] is the way
//! back; [`error`] is what can be wrong with a file.

pub mod error;
pub mod line;
pub mod reader;
pub mod writer;

pub use error::{LineProblem, ReadError};
pub use line::Payloads;
pub use reader::Reader;
pub use writer::{WriteError, Writer};

use serde_json::value::RawValue;

/// The JSON in these bytes, without the space around it, or nothing when they are not JSON.
#[must_use]
pub fn json(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// As [`json`], and only an object.
#[must_use]
pub fn json_object(bytes: &[u8]) -> Option<&RawValue> {
    json(bytes).filter(|json| is_object(json))
}

/// Whether it is an object.
fn is_object(json: &RawValue) -> bool {
    json.get().starts_with('{')
}

/// What a JSON value is, for a message.
#[must_use]
pub fn kind(json: &RawValue) -> &'static str {
    match json.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}
