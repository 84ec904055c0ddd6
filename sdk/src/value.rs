//! Which Rust type is which SQL type.
//!
//! | Rust | parameter ([`ToValue`]) | column ([`FromValue`]) |
//! |---|---|---|
//! | `bool` | boolean | boolean; int64 0 and 1 |
//! | `i8`–`i64`, `u8`–`u64`, `isize`, `usize` | int64, where it fits | int64, and whole numerics, where they fit |
//! | `f32`, `f64` | float64 | float64, int64, numeric |
//! | `String`, `&str`, `Cow<str>` | text | `String`: text, uuid, json, numeric |
//! | `Vec<u8>`, `&[u8]` | bytes | `Vec<u8>`: bytes |
//! | [`Numeric`] | numeric | numeric, int64, float64, text |
//! | [`Timestamp`](crate::Timestamp) | timestamp | timestamp; text that parses |
//! | `serde_json::Value`, [`Json<T>`] | json | json; text that parses; int64, float64 |
//! | `Option<T>` | null for `None` | `None` for null |
//! | `chrono::DateTime<Utc>` (feature `chrono`) | timestamp | timestamp; text that parses |
//! | `uuid::Uuid` (feature `uuid`) | uuid | uuid; text that parses |
//!
//! Columns are read generously because the two databases answer differently: SQLite knows five kinds of
//! value and has `int64` where Postgres has a boolean; the sum of BIGINTs is a numeric on Postgres and an
//! int64 on SQLite. Nothing is ever rounded, wrapped or cut off silently: what does not fit is an error.

use std::{any::type_name, error::Error, fmt};

use crate::SqlError;
/// A value of SQL, as it crosses the boundary.
pub use crate::bindings::projectionist::projection::types::Value;

mod extra;
mod json;
mod numeric;
mod standard;

pub use json::Json;
pub use numeric::Numeric;

/// What can be a parameter.
pub trait ToValue {
    /// Its value in SQL.
    ///
    /// # Errors
    ///
    /// When SQL has no such value, such as a `u64` beyond a BIGINT.
    fn to_value(&self) -> Result<Value, ValueError>;
}

/// What a column can be read as.
pub trait FromValue: Sized {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When the value is of another type or does not fit.
    fn from_value(value: &Value) -> Result<Self, ValueError>;
}

/// A value that does not convert; reads as the end of a sentence that names its parameter or column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError(String);

impl ValueError {
    /// The error that says so; for implementations of the two traits on types of your own.
    pub fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }

    /// The error of a value of the wrong type.
    fn mismatch<T>(value: &Value) -> Self {
        Self(format!("is {} and does not read as {}", kind(value), type_name::<T>()))
    }

    /// The error of a value of the right type that is too large, or does not parse.
    fn unfit<T>(value: impl fmt::Display) -> Self {
        Self(format!("is {value} and does not fit into {}", type_name::<T>()))
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ValueError {}

/// A value's type, named as in the WIT.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Boolean(_) => "boolean",
        Value::Int64(_) => "int64",
        Value::Float64(_) => "float64",
        Value::Text(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::Numeric(_) => "numeric",
        Value::Timestamp(_) => "timestamp",
        Value::Uuid(_) => "uuid",
        Value::Json(_) => "json",
    }
}

/// The parameters of one statement: made by [`params!`](crate::params), or from a `Vec<Value>` where
/// their number is only known at run time.
#[derive(Clone, Debug)]
pub struct Params(Result<Vec<Value>, SqlError>);

impl Params {
    /// Parameters in order; the first that has no value is the error of the statement they are for.
    #[doc(hidden)]
    pub fn collect(values: Vec<Result<Value, ValueError>>) -> Self {
        let numbered = |(index, value): (usize, Result<Value, ValueError>)| {
            value.map_err(|error| SqlError::new("22003", format!("parameter ${} {error}", index + 1)))
        };
        Self(values.into_iter().enumerate().map(numbered).collect())
    }

    /// The values, or the error of the statement.
    pub(crate) fn into_values(self) -> Result<Vec<Value>, SqlError> {
        self.0
    }
}

impl From<Vec<Value>> for Params {
    fn from(values: Vec<Value>) -> Self {
        Self(Ok(values))
    }
}

/// The parameters `$1`, `$2`, … of a statement: `params![event.aggregate_id(), 42, None::<i64>]`.
///
/// Takes whatever is [`ToValue`], by reference. A value that SQL does not have is the statement's error.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        $crate::Params::collect(::std::vec![$($crate::ToValue::to_value(&$value)),*])
    };
}
