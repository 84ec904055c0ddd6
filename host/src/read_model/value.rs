//! Values of SQL, rows of them, and why a statement was refused: the WIT records of `types`, field for field.

use std::fmt;

use wasmtime::component::{ComponentType, Lift, Lower};

/// A value of SQL. What binds to what is said in `wit/projection.wit` and docs/wit.md.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Value {
    /// NULL.
    #[component(name = "null")]
    Null,
    /// True or false.
    #[component(name = "boolean")]
    Boolean(bool),
    /// A whole number.
    #[component(name = "int64")]
    Int64(i64),
    /// A floating-point number.
    #[component(name = "float64")]
    Float64(f64),
    /// Text without U+0000.
    #[component(name = "text")]
    Text(String),
    /// Bytes.
    #[component(name = "bytes")]
    Bytes(Vec<u8>),
    /// An exact decimal number.
    #[component(name = "numeric")]
    Numeric(String),
    /// Microseconds since 1970, UTC.
    #[component(name = "timestamp")]
    Timestamp(i64),
    /// A UUID in 36 characters.
    #[component(name = "uuid")]
    Uuid(String),
    /// A JSON text.
    #[component(name = "json")]
    Json(String),
}

impl Value {
    /// Its name in WIT.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "boolean",
            Self::Int64(_) => "int64",
            Self::Float64(_) => "float64",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Numeric(_) => "numeric",
            Self::Timestamp(_) => "timestamp",
            Self::Uuid(_) => "uuid",
            Self::Json(_) => "json",
        }
    }

    /// Roughly how many bytes it takes on its way, for limits.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Boolean(_) | Self::Int64(_) | Self::Float64(_) | Self::Timestamp(_) => 8,
            Self::Text(text) | Self::Numeric(text) | Self::Uuid(text) | Self::Json(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// What a query answered.
#[derive(Clone, Debug, Default, PartialEq, ComponentType, Lower)]
#[component(record)]
pub struct Rowset {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
    /// How many rows were changed.
    pub affected: u64,
}

/// Which SQL a read model speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum Dialect {
    /// Postgres.
    #[component(name = "postgres")]
    Postgres,
    /// SQLite.
    #[component(name = "sqlite")]
    Sqlite,
}

/// Why a statement was refused, by the database or before it got there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, ComponentType, Lower)]
#[component(record)]
pub struct SqlError {
    /// The SQLSTATE.
    pub code: String,
    /// What happened.
    pub message: String,
    /// Whether the same batch may succeed when it is run again.
    pub retryable: bool,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.message[..self.message.floor_char_boundary(SHOWN)];
        write!(f, "{shown} (SQLSTATE {})", self.code)
    }
}

/// How many bytes of a message are shown. Databases quote the value that does not fit, however long a guest made it, and
/// what is shown is logged and kept with a dead letter.
const SHOWN: usize = 8 << 10;

/// SQLSTATEs that the host itself gives out.
pub mod sqlstate {
    /// The connection is gone.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// The same, while a statement was on its way, and the server did not say why.
    pub const WITHOUT_A_WORD: &str = "08X01";
    /// The number of parameters is not that of the statement.
    pub const PARAMETER_COUNT: &str = "07001";
    /// A parameter does not fit the type expected at its place.
    pub const PARAMETER_TYPE: &str = "42804";
    /// Text that no database here stores.
    pub const UNTRANSLATABLE_TEXT: &str = "22021";
    /// A number that the database cannot store.
    pub const NUMBER_OUT_OF_RANGE: &str = "22003";
    /// A statement that is not SQL, or not one statement.
    pub const SYNTAX: &str = "42601";
    /// A statement that a projection may not run.
    pub const NOT_ALLOWED: &str = "42501";
    /// A schema that is not there, or not for this.
    pub const NO_SUCH_SCHEMA: &str = "3F000";
    /// A limit of the sandbox.
    pub const LIMIT: &str = "54000";
    /// The transaction took longer than it may.
    pub const OUT_OF_TIME: &str = "54X01";
    /// A statement that nests too deep.
    pub const TOO_COMPLEX: &str = "54001";
    /// A statement was cancelled: it took too long.
    pub const CANCELED: &str = "57014";
    /// The transaction has failed already.
    pub const FAILED_TRANSACTION: &str = "25P02";
    /// Whatever has no better code.
    pub const OTHER: &str = "XX000";
}

impl SqlError {
    /// One that happens again for the same statement.
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable: false }
    }

    /// One that may pass.
    pub fn retryable(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable: true }
    }

    /// Whether the connection is gone, so that only a new one helps.
    #[must_use]
    pub fn is_lost_connection(&self) -> bool {
        self.code.starts_with("08") || matches!(&*self.code, "57P01" | "57P02" | "57P03")
    }

    /// Whether it says that something around the projection is broken (a table is gone, a permission is missing,
    /// the disk is full, somebody keeps a lock) rather than that this event cannot be applied. Parking events would not help.
    #[must_use]
    pub fn is_environment(&self) -> bool {
        self.code.starts_with("53")
            || self.code.starts_with("58")
            || matches!(&*self.code, "42P01" | "42501" | "3F000" | "25006" | "55P03" | "XX001" | "XX002")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_quotes_a_long_value_is_shown_in_part() {
        let error = SqlError::permanent("22P02", "ä".repeat(SHOWN));
        assert_eq!(error.to_string(), format!("{} (SQLSTATE 22P02)", "ä".repeat(SHOWN / 2)));
    }
}
