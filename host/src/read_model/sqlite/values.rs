//! How values go into SQLite and come back, so that a projection sees the same as on Postgres.
//!
//! In: a boolean is 0 or 1, a timestamp TEXT in RFC 3339 (UTC, microseconds: it sorts, and people can read it), a
//! UUID, a JSON text and a decimal TEXT. Out: the declared type of the column says which of them a value is;
//! without one (an expression) it is what is stored.

use rusqlite::Statement;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::super::value::{SqlError, Value, sqlstate};
use crate::timestamp;

/// Which parameter of the projection's each of a statement's takes: `$3` and `?3` by their number, a bare `?` by its place.
pub(super) fn numbers(statement: &Statement<'_>) -> Result<Vec<usize>, SqlError> {
    let of = |index| match statement.parameter_name(index) {
        None => Ok(index),
        Some(name) => name[1..].parse().ok().filter(|number| *number > 0).ok_or_else(|| {
            let message = format!("parameters are called $1, $2 and so on, and this statement has {name}");
            SqlError::permanent(sqlstate::PARAMETER_COUNT, message)
        }),
    };
    (1..=statement.parameter_count()).map(of).collect()
}

/// Binds the parameters of a statement.
pub(super) fn bind(statement: &mut Statement<'_>, numbers: &[usize], parameters: &[Value]) -> Result<(), SqlError> {
    for (index, number) in (1..).zip(numbers) {
        let Some(value) = parameters.get(number - 1) else { continue };
        let bound = to_sqlite(*number, value)?;
        statement.raw_bind_parameter(index, bound).map_err(|error| super::sql_error(&error))?;
    }
    let expected = numbers.iter().copied().max().unwrap_or(0);
    if expected == parameters.len() {
        return Ok(());
    }
    let message = format!("the statement takes {expected} parameters, and {} were given", parameters.len());
    Err(SqlError::permanent(sqlstate::PARAMETER_COUNT, message))
}

/// A value as SQLite stores it.
fn to_sqlite(number: usize, value: &Value) -> Result<ToSqlOutput<'_>, SqlError> {
    Ok(match value {
        Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
        Value::Boolean(value) => ToSqlOutput::Borrowed(ValueRef::Integer((*value).into())),
        Value::Int64(value) => ToSqlOutput::Borrowed(ValueRef::Integer(*value)),
        Value::Float64(value) if value.is_nan() => {
            let message = format!("parameter ${number} is NaN, which SQLite stores as NULL");
            return Err(SqlError::permanent(sqlstate::NUMBER_OUT_OF_RANGE, message));
        }
        Value::Float64(value) => ToSqlOutput::Borrowed(ValueRef::Real(*value)),
        Value::Text(text) | Value::Numeric(text) | Value::Uuid(text) | Value::Json(text) => {
            ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes()))
        }
        Value::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        Value::Timestamp(micros) => ToSqlOutput::Owned(rusqlite::types::Value::Text(timestamp::format(*micros))),
    })
}

/// Which of our types a column's declared type stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    /// Nothing that says more than the stored value.
    Other,
    /// BOOLEAN.
    Boolean,
    /// TIMESTAMP, TIMESTAMPTZ, DATETIME.
    Timestamp,
    /// UUID.
    Uuid,
    /// JSON, JSONB.
    Json,
    /// NUMERIC, DECIMAL.
    Numeric,
}

/// The declared types of a statement's columns.
pub(super) fn declared(statement: &Statement<'_>) -> Vec<Declared> {
    let of = |declared: &str| {
        let name = declared.split(['(', ' ']).next().unwrap_or_default().to_ascii_uppercase();
        match &*name {
            "BOOL" | "BOOLEAN" => Declared::Boolean,
            "TIMESTAMP" | "TIMESTAMPTZ" | "DATETIME" => Declared::Timestamp,
            "UUID" => Declared::Uuid,
            "JSON" | "JSONB" => Declared::Json,
            "NUMERIC" | "DECIMAL" => Declared::Numeric,
            _ => Declared::Other,
        }
    };
    statement.columns().iter().map(|column| column.decl_type().map_or(Declared::Other, of)).collect()
}

/// A stored value as a projection sees it.
pub(super) fn from_sqlite(value: ValueRef<'_>, declared: Declared) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (value, declared) {
        (ValueRef::Null, _) => Value::Null,
        (ValueRef::Integer(value), Declared::Boolean) => Value::Boolean(value != 0),
        (ValueRef::Integer(value), Declared::Numeric) => Value::Numeric(value.to_string()),
        (ValueRef::Integer(value), _) => Value::Int64(value),
        (ValueRef::Real(value), Declared::Numeric) => Value::Numeric(value.to_string()),
        (ValueRef::Real(value), _) => Value::Float64(value),
        (ValueRef::Blob(bytes), _) => Value::Bytes(bytes.to_vec()),
        (ValueRef::Text(bytes), Declared::Timestamp) => {
            let text = text(bytes);
            timestamp::parse(&text).map_or(Value::Text(text), Value::Timestamp)
        }
        (ValueRef::Text(bytes), Declared::Uuid) => Value::Uuid(text(bytes)),
        (ValueRef::Text(bytes), Declared::Json) => Value::Json(text(bytes)),
        (ValueRef::Text(bytes), Declared::Numeric) => Value::Numeric(text(bytes)),
        (ValueRef::Text(bytes), Declared::Boolean | Declared::Other) => Value::Text(text(bytes)),
    }
}
