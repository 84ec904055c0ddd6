//! Read models in SQLite: a file a projection, and in it the projection's tables beside the host's.
//!
//! [`store`] is the transaction, [`mod@file`] what a projection's statements are compiled to, [`claim`] the locked file that says who works, [`values`] how parameters bind
//! and columns read, [`authorizer`] what SQLite itself refuses, beneath the guard, [`functions`] what the host computes in its
//! place because it would take minutes, [`deadline`] how what takes too long is interrupted.
//! [`replays`] is what a replay does to the host's tables, [`dead_letters`] the operator's side of it.

mod authorizer;
mod claim;
mod dead_letters;
mod deadline;
mod file;
mod functions;
mod replays;
mod store;
mod values;

pub use claim::{Locks, beat, check, depose};
pub(super) use claim::{found, is_held, no_lineage, one_at_a_time};
pub use dead_letters::SqliteLetters;
pub use store::SqliteStore;

use super::value::{SqlError, sqlstate};

/// An error of SQLite with the SQLSTATE that Postgres would give.
fn sql_error(error: &rusqlite::Error) -> SqlError {
    use rusqlite::ErrorCode as Code;
    use rusqlite::ffi;
    let (failure, message) = match error {
        rusqlite::Error::SqliteFailure(failure, message) => (failure, message.clone()),
        // Where SQLite knows at which character the statement is wrong.
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, Some(msg.clone())),
        _ => return SqlError::permanent(sqlstate::OTHER, error.to_string()),
    };
    let message = message.unwrap_or_else(|| error.to_string());
    let code = match (failure.extended_code, failure.code) {
        (ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY, _) => "23505",
        (ffi::SQLITE_CONSTRAINT_NOTNULL, _) => "23502",
        (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, _) => "23503",
        (ffi::SQLITE_CONSTRAINT_CHECK, _) => "23514",
        (_, Code::ConstraintViolation) => "23000",
        (_, Code::DatabaseBusy | Code::DatabaseLocked) => return SqlError::retryable("55P03", message),
        (_, Code::DiskFull) => "53100",
        (_, Code::SystemIoFailure | Code::CannotOpen) => "58030",
        (_, Code::ReadOnly) => "25006",
        (_, Code::DatabaseCorrupt | Code::NotADatabase) => "XX001",
        (_, Code::OutOfMemory) => "53200",
        (_, Code::OperationInterrupted) => "57014",
        // The projection's own fault, unlike the 42501 of a missing privilege.
        (_, Code::AuthorizationForStatementDenied) => "42000",
        (_, Code::TypeMismatch) => "42804",
        (_, Code::TooBig) => sqlstate::LIMIT,
        _ if message.starts_with("no such table") => "42P01",
        _ if message.starts_with("no such column") || message.contains(" has no column named ") => "42703",
        _ => sqlstate::SYNTAX,
    };
    SqlError::permanent(code, message)
}
