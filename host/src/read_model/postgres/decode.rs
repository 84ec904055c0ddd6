//! Columns of a text-format result as values, by the type that Postgres says they have.

use super::super::value::{SqlError, Value, sqlstate};
use super::literal::oid;
use crate::timestamp;

/// One column of one row.
///
/// # Errors
/// When a text is not what its type promises, which would be a fault of ours or the server's.
pub(super) fn decode(text: &str, of: u32) -> Result<Value, SqlError> {
    let wrong = || SqlError::permanent(sqlstate::OTHER, format!("cannot read `{text}` as type {of}"));
    Ok(match of {
        oid::BOOL => Value::Boolean(text == "t"),
        oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => Value::Int64(text.parse().map_err(|_| wrong())?),
        oid::FLOAT4 | oid::FLOAT8 => Value::Float64(text.parse().map_err(|_| wrong())?),
        oid::NUMERIC => Value::Numeric(text.to_owned()),
        oid::BYTEA => Value::Bytes(text.strip_prefix("\\x").and_then(from_hex).ok_or_else(wrong)?),
        // `infinity` and years past 9999 stay text.
        oid::TIMESTAMPTZ | oid::TIMESTAMP => {
            timestamp::parse(text).map_or_else(|| Value::Text(text.to_owned()), Value::Timestamp)
        }
        oid::UUID => Value::Uuid(text.to_owned()),
        oid::JSON | oid::JSONB => Value::Json(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    })
}

/// Bytes from their hex digits.
fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_back_as_the_types_they_have() {
        assert_eq!(decode("t", oid::BOOL), Ok(Value::Boolean(true)));
        assert_eq!(decode("-7", oid::INT2), Ok(Value::Int64(-7)));
        assert_eq!(decode("-Infinity", oid::FLOAT8), Ok(Value::Float64(f64::NEG_INFINITY)));
        assert_eq!(decode("\\x00ff", oid::BYTEA), Ok(Value::Bytes(vec![0, 255])));
        assert_eq!(decode("12.50", oid::NUMERIC), Ok(Value::Numeric("12.50".into())));
        assert_eq!(decode("1970-01-01 00:00:01.5+00", oid::TIMESTAMPTZ), Ok(Value::Timestamp(1_500_000)));
        assert_eq!(decode("infinity", oid::TIMESTAMPTZ), Ok(Value::Text("infinity".into())));
    }
}
