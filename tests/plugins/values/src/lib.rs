//! Writes a value of each type, as its events say, in the two ways in which the host sends values: many rows in one
//! statement, and each by itself.

use projectionist_sdk::prelude::*;
use projectionist_sdk::{Params, Value};
use serde::Deserialize;

/// Keeps `found`.
#[derive(Default)]
struct Values;

/// The payload of an event. What JSON cannot say exactly is a text.
#[derive(Deserialize)]
struct Row {
    /// Which row.
    id: i64,
    /// A boolean.
    flag: Option<bool>,
    /// An integer of 64 bits.
    integer: Option<String>,
    /// The bits of a float.
    float: Option<String>,
    /// A text.
    text: Option<String>,
    /// Bytes, each as two hexadecimal digits.
    bytes: Option<String>,
    /// How often the bytes are repeated.
    times: usize,
    /// A decimal number.
    numeric: Option<String>,
    /// A UUID.
    uuid: Option<String>,
    /// A JSON text.
    json: Option<String>,
    /// Microseconds since 1970.
    timestamp: Option<String>,
}

/// A value, or NULL.
fn value<T, U>(text: Option<T>, of: impl Fn(U) -> Value, read: impl Fn(T) -> Option<U>) -> Result<Value, Failure> {
    match text {
        None => Ok(Value::Null),
        Some(text) => read(text).map(of).ok_or_else(|| Failure::permanent("the payload says no such value")),
    }
}

/// Bytes from their digits.
fn bytes(digits: &str, times: usize) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    Some(bytes?.repeat(times))
}

impl Projection for Values {
    fn name() -> &'static str {
        "values_of_each_type"
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute(
            "CREATE TABLE found (
                 id BIGINT PRIMARY KEY, flag BOOLEAN, small SMALLINT, medium INTEGER, large BIGINT, single REAL,
                 double DOUBLE PRECISION, text TEXT, short VARCHAR(200), bytes BYTEA, exact NUMERIC, uuid UUID, json JSON,
                 jsonb JSONB, at TIMESTAMPTZ)",
            params![],
        )?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let row: Row = event.payload()?;
        let id = Value::Int64(row.id);
        let integer: Option<i64> = row.integer.map(|text| text.parse()).transpose().map_err(Failure::permanent)?;
        #[expect(clippy::cast_possible_truncation, reason = "its last bits are as good as any")]
        let (small, medium) = (integer.map(|all| i64::from(all as i16)), integer.map(|all| i64::from(all as i32)));
        let float: Option<u64> = row.float.map(|text| text.parse()).transpose().map_err(Failure::permanent)?;
        let double = float.map(f64::from_bits);
        #[expect(clippy::cast_possible_truncation, reason = "the nearest one")]
        let single = double.map(|double| f64::from(double as f32));
        let integers = [small, medium, integer].map(|number| number.map_or(Value::Null, Value::Int64));
        let floats = [single, double].map(|number| number.map_or(Value::Null, Value::Float64));
        let short = row.text.as_ref().map(|text| text.chars().take(200).collect::<String>());
        let texts = [row.text, short].map(|text| text.map_or(Value::Null, Value::Text));
        let times = row.times;
        let rest = [
            value(row.bytes, Value::Bytes, |digits| bytes(&digits, times))?,
            value(row.numeric, Value::Numeric, Some)?,
            value(row.uuid, Value::Uuid, Some)?,
            value(row.json.clone(), Value::Json, Some)?,
            value(row.json, Value::Json, Some)?,
            value(row.timestamp, Value::Timestamp, |text| text.parse().ok())?,
        ];
        let flag = row.flag.map_or(Value::Null, Value::Boolean);
        let all: Vec<Value> =
            [vec![id.clone(), flag], integers.into(), floats.into(), texts.into(), rest.into()].concat();
        if row.id % 2 == 0 {
            tx.execute(
                "INSERT INTO found (id, flag, small, medium, large, single, double, text, short, bytes, exact, uuid, json,
                     jsonb, at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
                Params::from(all),
            )?;
        } else {
            tx.execute("INSERT INTO found (id) VALUES ($1)", Params::from(vec![id]))?;
            tx.execute(
                "UPDATE found SET flag = $2, small = $3, medium = $4, large = $5, single = $6, double = $7, text = $8,
                     short = $9, bytes = $10, exact = $11, uuid = $12, json = $13, jsonb = $14, at = $15
                 WHERE id = $1",
                Params::from(all),
            )?;
        }
        Ok(())
    }
}

export_projection!(Values);
