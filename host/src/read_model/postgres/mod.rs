//! Read models in Postgres: a schema a projection; the host's tables in the schema `projectionist`.
//!
//! [`claim`] is who works, [`locks`] the connection that holds it, [`takeover`] how a frozen worker is replaced. [`store`] is the
//! transaction, [`fence`] what moves the checkpoint in it. It runs in a [`session`] that a worker has on [`lease`] from the
//! [`pool`], and [`turns`] is who does so one after the other; [`shared`] is all of that, of a process. [`prepared`] are the
//! statements that a session knows, [`statements`] those that are kept until they go off, [`decode`] how columns are read.
//! [`overdue`] is what becomes of a statement that the server does not end by itself, [`last_words`] what is known of a process
//! that has ended over one.
//! [`role`] is whom a projection's statements run as; where that is to hold against everything, [`login`] opens a session that is its
//! own, in which the host's tables move by [`seal`], through the functions of [`sealed`]. [`grants`] what it may read besides its own. [`replays`] is what a replay does to the host's tables, [`dead_letters`] the operator's side of it.

mod claim;
mod dead_letters;
mod decode;
mod fence;
mod grants;
mod last_words;
mod lease;
mod literal;
mod locks;
mod login;
mod overdue;
mod pool;
mod prepared;
mod replays;
mod role;
mod seal;
mod sealed;
mod session;
mod shared;
mod statements;
mod store;
mod takeover;
mod turns;

pub use claim::check;
pub(super) use claim::{found_and_deleted, held, lock_key};
pub use dead_letters::PostgresLetters;
pub(super) use grants::all as all_grants;
pub use pool::CONNECTIONS;
pub use shared::Shared;
pub use store::PostgresStore;
pub use takeover::{beat, depose, life};

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::value::{SqlError, sqlstate};

/// Where the server finds that a prepared statement does not fit its tables any more. Its SQLSTATE says less.
const REVALIDATION: &str = "RevalidateCachedQuery";

/// An error of the driver, as a projection sees it.
fn sql_error(error: &sqlx::Error) -> SqlError {
    match error {
        // A table that a prepared statement reads has other columns now. The server would say so for as long as the session
        // lives; a new one prepares it anew.
        sqlx::Error::Database(error)
            if error
                .try_downcast_ref::<PgDatabaseError>()
                .is_some_and(|error| error.routine() == Some(REVALIDATION)) =>
        {
            SqlError::retryable(sqlstate::CONNECTION_FAILURE, format!("a new session is needed: {}", error.message()))
        }
        // Whatever the reason, the session has ended: `idle_session_timeout`, say.
        sqlx::Error::Database(error)
            if error
                .try_downcast_ref::<PgDatabaseError>()
                .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)) =>
        {
            SqlError::retryable(sqlstate::CONNECTION_FAILURE, error.message())
        }
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default().into_owned();
            // Serialization failures, deadlocks and lock timeouts pass; and so does whatever a restart causes.
            let retryable =
                matches!(&*code, "40001" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03") || code.starts_with("08");
            SqlError { code, message: error.message().to_owned(), retryable }
        }
        lost if crate::database::error::is_lost(lost) => {
            SqlError::retryable(sqlstate::CONNECTION_FAILURE, lost.to_string())
        }
        other => SqlError::permanent(sqlstate::OTHER, other.to_string()),
    }
}

/// Text as Postgres stores it.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A name as an SQL identifier.
pub(super) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
