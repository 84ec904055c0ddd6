//! Why a statement was refused.

use std::{error::Error, fmt};

use crate::bindings::projectionist::projection::types;

/// Why the database, the host in front of it, or the conversion of a parameter refused a statement.
///
/// Use `?`: what one statement leaves undone is undone for the whole event. [`code`](Self::code) is for the
/// message; a projection that goes on after an error finds its batch rolled back all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// The SQLSTATE.
    code: String,
    /// What happened.
    message: String,
    /// Whether another try may succeed.
    retryable: bool,
}

impl SqlError {
    /// An error that will happen again.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable: false }
    }

    /// The SQLSTATE, five characters, on both databases: `23505` for a key that is already there.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What happened, for the log.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same statement may succeed when the batch is run again.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

impl Error for SqlError {}

impl From<types::SqlError> for SqlError {
    fn from(error: types::SqlError) -> Self {
        Self { code: error.code, message: error.message, retryable: error.retryable }
    }
}
