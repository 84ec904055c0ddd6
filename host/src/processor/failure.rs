//! What kind of failure it is: that decides what happens next.

use crate::plugin::instance::{CallError, Failure};
use crate::read_model::store::CommitError;
use crate::read_model::value::{SqlError, sqlstate};

/// Why a batch, or an event, was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The projection failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The transaction was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody else has the partition, or has brought the tables to another version: leave.
    Fenced,
    /// The checkpoint was changed by a tool of the host: claim again, and go on from there.
    Rewritten,
    /// The connection is gone: claim again, for as long as it takes.
    Lost,
    /// Something around the projection is broken: wait until it is mended. No event is to blame.
    Environment,
    /// It may pass: try again, so many times.
    Transient,
    /// It will happen again: the policy decides.
    Permanent,
}

impl Kind {
    /// What metrics call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fenced => "fenced",
            Self::Rewritten => "rewritten",
            Self::Lost => "lost",
            Self::Environment => "environment",
            Self::Transient => "transient",
            Self::Permanent => "permanent",
        }
    }
}

impl ApplyError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Commit(
                CommitError::Fenced { .. } | CommitError::Retired { .. } | CommitError::OtherVersion { .. },
            ) => Kind::Fenced,
            Self::Commit(CommitError::Rewritten { .. }) => Kind::Rewritten,
            Self::Sql(error) | Self::Commit(CommitError::Sql(error)) => of_sql(error),
            Self::Call(CallError::Failure(Failure::Transient(_))) => Kind::Transient,
            Self::Call(_) => Kind::Permanent,
        }
    }
}

impl ApplyError {
    /// The error of SQL, if it is one.
    fn sql(&self) -> Option<&SqlError> {
        match self {
            Self::Sql(error) | Self::Commit(CommitError::Sql(error)) => Some(error),
            Self::Call(_) | Self::Commit(_) => None,
        }
    }

    /// Whether a statement was cancelled because it took too long.
    #[must_use]
    pub fn took_too_long(&self) -> bool {
        self.sql().is_some_and(|error| error.code == sqlstate::CANCELED)
    }

    /// Whether the connection ended while a statement was on its way, and nobody said why.
    #[must_use]
    pub fn is_without_a_word(&self) -> bool {
        self.sql().is_some_and(|error| error.code == sqlstate::WITHOUT_A_WORD)
    }

    /// Whether it went past a limit on what a transaction may take, of which a smaller one takes less.
    #[must_use]
    pub fn is_past_a_limit(&self) -> bool {
        self.sql().is_some_and(|error| error.code == sqlstate::LIMIT) || self.is_out_of_time()
    }

    /// Whether the transaction took longer than it may, whichever of its events was at it just then.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        self.sql().is_some_and(|error| error.code == sqlstate::OUT_OF_TIME)
    }
}

/// What to do about an error of SQL.
fn of_sql(error: &SqlError) -> Kind {
    if error.is_lost_connection() {
        Kind::Lost
    } else if error.is_environment() {
        Kind::Environment
    } else if error.retryable {
        Kind::Transient
    } else {
        Kind::Permanent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_environment_is_no_poison_event() {
        for code in ["42P01", "42501", "53100", "58030", "25006", "55P03"] {
            assert_eq!(ApplyError::Sql(SqlError::permanent(code, "")).kind(), Kind::Environment, "{code}");
        }
        assert_eq!(ApplyError::Sql(SqlError::permanent("23505", "")).kind(), Kind::Permanent);
        assert_eq!(ApplyError::Sql(SqlError::retryable("40001", "")).kind(), Kind::Transient);
        assert_eq!(ApplyError::Sql(SqlError::retryable("08006", "")).kind(), Kind::Lost);
    }
}
