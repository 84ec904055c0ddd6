//! A value as an untyped literal of `EXECUTE prepared(…)`, or as an element of one that is an array.
//!
//! An untyped literal takes the type that the statement expects at its place, so Postgres itself does the
//! binding: `'5'` is an INTEGER here and a NUMERIC there. What would be read as something else (bytes as text,
//! text as bytes) is refused before, against the types that Postgres inferred.

use std::fmt::Write as _;

use super::super::value::{SqlError, Value, sqlstate};
use crate::timestamp;

/// Type OIDs of `pg_type`, which never change.
pub(super) mod oid {
    /// boolean
    pub(in super::super) const BOOL: u32 = 16;
    /// bytea
    pub(in super::super) const BYTEA: u32 = 17;
    /// name
    pub(in super::super) const NAME: u32 = 19;
    /// bigint
    pub(in super::super) const INT8: u32 = 20;
    /// smallint
    pub(in super::super) const INT2: u32 = 21;
    /// integer
    pub(in super::super) const INT4: u32 = 23;
    /// text
    pub(in super::super) const TEXT: u32 = 25;
    /// oid
    pub(in super::super) const OID: u32 = 26;
    /// json
    pub(in super::super) const JSON: u32 = 114;
    /// real
    pub(in super::super) const FLOAT4: u32 = 700;
    /// double precision
    pub(in super::super) const FLOAT8: u32 = 701;
    /// character
    pub(in super::super) const BPCHAR: u32 = 1042;
    /// character varying
    pub(in super::super) const VARCHAR: u32 = 1043;
    /// date
    pub(in super::super) const DATE: u32 = 1082;
    /// timestamp
    pub(in super::super) const TIMESTAMP: u32 = 1114;
    /// timestamp with time zone
    pub(in super::super) const TIMESTAMPTZ: u32 = 1184;
    /// numeric
    pub(in super::super) const NUMERIC: u32 = 1700;
    /// uuid
    pub(in super::super) const UUID: u32 = 2950;
    /// jsonb
    pub(in super::super) const JSONB: u32 = 3802;
    /// The first OID of types that users make: enums, domains.
    pub(in super::super) const FIRST_OF_USERS: u32 = 16_384;
}

/// Whether a value may be written where a type is expected.
fn fits(value: &Value, expected: u32) -> bool {
    let is_text = matches!(expected, oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME);
    let is_number =
        matches!(expected, oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8 | oid::OID);
    match value {
        Value::Null => true,
        Value::Boolean(_) => expected == oid::BOOL,
        Value::Int64(_) => is_number,
        Value::Float64(_) => matches!(expected, oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC),
        // Text may be anything that parses, but bytes: `\x41` in a bytea would be the letter A.
        Value::Text(_) => expected != oid::BYTEA,
        Value::Bytes(_) => expected == oid::BYTEA,
        Value::Numeric(_) => is_number,
        Value::Timestamp(_) => matches!(expected, oid::TIMESTAMPTZ | oid::TIMESTAMP | oid::DATE),
        Value::Uuid(_) => expected == oid::UUID || is_text,
        Value::Json(_) => matches!(expected, oid::JSON | oid::JSONB) || is_text,
    }
}

/// Whether a value of this type is another one wherever it is written differently.
pub(super) fn is_exact(value: &Value, expected: u32) -> bool {
    match value {
        Value::Int64(_) => matches!(expected, oid::INT2 | oid::INT4 | oid::INT8),
        Value::Text(_) => expected == oid::TEXT,
        // They are written in one way before they come here.
        Value::Uuid(_) => expected == oid::UUID,
        _ => false,
    }
}

/// Whether values of this type can be an array's elements, and come out of it again as they were: all that are known
/// here, and those that users make. An array cannot: PostgreSQL takes arrays apart down to what is in the innermost.
pub(super) fn is_element(expected: u32, name: &str) -> bool {
    let known = [
        oid::BOOL,
        oid::BYTEA,
        oid::NAME,
        oid::INT8,
        oid::INT2,
        oid::INT4,
        oid::TEXT,
        oid::OID,
        oid::JSON,
        oid::FLOAT4,
        oid::FLOAT8,
        oid::BPCHAR,
        oid::VARCHAR,
        oid::DATE,
        oid::TIMESTAMP,
        oid::TIMESTAMPTZ,
        oid::NUMERIC,
        oid::UUID,
        oid::JSONB,
    ];
    known.contains(&expected) || (expected >= oid::FIRST_OF_USERS && !name.ends_with(']'))
}

/// What a value is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A literal: `'it''s'`.
    Literal,
    /// An element of an array that is one, between `E'{` and `}'`: `"it''s"`.
    Element,
}

impl Form {
    /// What stands around it.
    fn quote(self) -> char {
        match self {
            Self::Literal => '\'',
            Self::Element => '"',
        }
    }
}

/// Writes a value for the place `number` (from 1) of a statement that expects the type `expected`.
///
/// # Errors
/// When it does not fit there.
pub(super) fn write(
    into: &mut String,
    form: Form,
    number: usize,
    value: &Value,
    expected: u32,
    name: &str,
) -> Result<(), SqlError> {
    // Of a type that users made only its name is known here; Postgres refuses what does not parse.
    if expected < oid::FIRST_OF_USERS && !fits(value, expected) {
        let message =
            format!("parameter ${number} is {} {}, and the statement expects {name}", article(value), value.kind());
        return Err(SqlError::permanent(sqlstate::PARAMETER_TYPE, message));
    }
    let quote = form.quote();
    match value {
        Value::Null => into.push_str("NULL"),
        Value::Boolean(true) => written(write!(into, "{quote}t{quote}")),
        Value::Boolean(false) => written(write!(into, "{quote}f{quote}")),
        Value::Int64(number) => written(write!(into, "{quote}{number}{quote}")),
        Value::Float64(number) => {
            into.push(quote);
            write_float(into, *number);
            into.push(quote);
        }
        Value::Timestamp(micros) => {
            into.push(quote);
            into.push_str(&timestamp::format(*micros));
            into.push(quote);
        }
        Value::Bytes(bytes) => write_bytes(into, form, bytes),
        Value::Text(text) | Value::Numeric(text) | Value::Uuid(text) | Value::Json(text) => match form {
            Form::Literal => write_text(into, text),
            Form::Element => write_element(into, text),
        },
    }
    Ok(())
}

/// `a` or `an`.
fn article(value: &Value) -> &'static str {
    if matches!(value, Value::Int64(_)) { "an" } else { "a" }
}

/// Writing into a `String` cannot fail.
fn written(result: std::fmt::Result) {
    debug_assert!(result.is_ok(), "a String takes whatever is written");
}

/// A float so that it reads back the same: Rust prints the shortest text that does.
fn write_float(into: &mut String, number: f64) {
    if number.is_nan() {
        into.push_str("NaN");
    } else if number.is_infinite() {
        into.push_str(if number > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        written(write!(into, "{number:e}"));
    }
}

/// Text between quotes. With a backslash in it, it is written as `E'…'`, where a backslash is always doubled: what a
/// plain literal makes of one depends on a setting, and a text must never end its own quotes.
fn write_text(into: &mut String, text: &str) {
    into.reserve(text.len() + 2);
    into.push_str(if text.contains('\\') { "E'" } else { "'" });
    let mut rest = text;
    while let Some(at) = rest.find(['\'', '\\']) {
        into.push_str(&rest[..=at]);
        into.push_str(&rest[at..=at]);
        rest = &rest[at + 1..];
    }
    into.push_str(rest);
    into.push('\'');
}

/// Text as an element of an array: what means something there stands behind a backslash, and each backslash is doubled
/// because the array is written as `E'…'`.
fn write_element(into: &mut String, text: &str) {
    into.reserve(text.len() + 2);
    into.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(['\'', '\\', '"']) {
        into.push_str(&rest[..at]);
        into.push_str(match rest.as_bytes()[at] {
            b'\'' => "''",
            b'"' => r#"\\""#,
            _ => r"\\\\",
        });
        rest = &rest[at + 1..];
    }
    into.push_str(rest);
    into.push('"');
}

/// Bytes in the hex format of bytea.
fn write_bytes(into: &mut String, form: Form, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    into.reserve(bytes.len() * 2 + 8);
    into.push_str(match form {
        Form::Literal => r"E'\\x",
        Form::Element => r#""\\\\x"#,
    });
    for byte in bytes {
        into.push(char::from(DIGITS[usize::from(byte >> 4)]));
        into.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    into.push(form.quote());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written for a value where `expected` is expected.
    fn literal(value: Value, expected: u32) -> String {
        written_as(Form::Literal, value, expected)
    }

    /// As [`literal`], in this form.
    fn written_as(form: Form, value: Value, expected: u32) -> String {
        let mut text = String::new();
        match write(&mut text, form, 1, &value, expected, "that type") {
            Ok(()) => text,
            Err(error) => error.message,
        }
    }

    #[test]
    fn quotes_and_backslashes_are_doubled_so_that_no_setting_lets_a_text_out_of_its_quotes() {
        assert_eq!(literal(Value::Text(r"it's a \ and x".into()), oid::TEXT), r"E'it''s a \\ and x'");
        assert_eq!(literal(Value::Text("it's".into()), oid::TEXT), "'it''s'");
        assert_eq!(literal(Value::Text("'".into()), oid::TEXT), "''''");
        assert_eq!(literal(Value::Bytes(vec![0, 0xab, b'\'']), oid::BYTEA), r"E'\\x00ab27'");
    }

    #[test]
    fn an_element_of_an_array_cannot_leave_its_quotes_either() {
        let element = |value, expected| written_as(Form::Element, value, expected);
        assert_eq!(
            element(Value::Text(r#"it's a \ and "x", {NULL}"#.into()), oid::TEXT),
            r#""it''s a \\\\ and \\"x\\", {NULL}""#
        );
        assert_eq!(element(Value::Text(String::new()), oid::TEXT), r#""""#);
        assert_eq!(element(Value::Null, oid::TEXT), "NULL");
        assert_eq!(element(Value::Text("NULL".into()), oid::TEXT), r#""NULL""#);
        assert_eq!(element(Value::Bytes(vec![0, 0xab]), oid::BYTEA), r#""\\\\x00ab""#);
        assert_eq!(element(Value::Float64(f64::NAN), oid::FLOAT8), r#""NaN""#);
    }

    #[test]
    fn a_value_that_would_be_read_as_something_else_is_refused_by_number() {
        for (value, expected) in [
            (Value::Bytes(vec![1]), oid::TEXT),
            (Value::Text("x".into()), oid::BYTEA),
            (Value::Boolean(true), oid::INT4),
            (Value::Int64(1), oid::TEXT),
            (Value::Timestamp(0), oid::TEXT),
        ] {
            let message = literal(value, expected);
            assert!(message.starts_with("parameter $1 is a"), "{message}");
        }
    }

    #[test]
    fn extremes_are_written_so_that_they_read_back() {
        assert_eq!(literal(Value::Int64(i64::MIN), oid::INT8), "'-9223372036854775808'");
        assert_eq!(literal(Value::Float64(f64::MIN_POSITIVE), oid::FLOAT8), "'2.2250738585072014e-308'");
        assert_eq!(literal(Value::Float64(f64::NEG_INFINITY), oid::FLOAT8), "'-Infinity'");
    }
}
