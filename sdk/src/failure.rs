//! Why a projection could not do its work.

use std::{error::Error, fmt};

use crate::{SqlError, bindings};

/// Why a call did not succeed. Nothing of its event is kept, and the host decides what happens next.
///
/// `?` turns any error into one: an [`SqlError`] that may pass by itself (a deadlock, a lost connection)
/// becomes transient, everything else permanent. Like `anyhow::Error`, and for the same reason, this type
/// does not implement [`Error`] itself: that is what leaves room for `?` on every type that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// May pass by itself: the host tries again, with back-off.
    Transient(String),
    /// Will happen again for the same event: the host's `--on-error` decides.
    Permanent(String),
}

impl Failure {
    /// A failure that may pass by itself.
    pub fn transient(message: impl fmt::Display) -> Self {
        Self::Transient(message.to_string())
    }

    /// A failure that will happen again for the same event.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Self::Permanent(message.to_string())
    }

    /// What happened.
    pub fn message(&self) -> &str {
        match self {
            Self::Transient(message) | Self::Permanent(message) => message,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: &(dyn Error + 'static) = &error;
        let chain = || std::iter::successors(Some(error), |&error| error.source());
        let message = chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let sql = chain().find_map(|error| error.downcast_ref::<SqlError>());
        if sql.is_some_and(SqlError::is_retryable) { Self::Transient(message) } else { Self::Permanent(message) }
    }
}

// The other way round would meet the conversion of every error above.
#[expect(clippy::from_over_into, reason = "From<Failure> is taken by From<E: Error>")]
impl Into<bindings::Failure> for Failure {
    fn into(self) -> bindings::Failure {
        match self {
            Self::Transient(message) => bindings::Failure::Transient(message),
            Self::Permanent(message) => bindings::Failure::Permanent(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::projectionist::projection::types;

    /// What `?` makes of an error of the database.
    fn failure_of(retryable: bool) -> Failure {
        let error = types::SqlError { code: "40P01".into(), message: "deadlock".into(), retryable };
        SqlError::from(error).into()
    }

    #[test]
    fn an_error_of_the_database_is_transient_when_it_may_pass_by_itself() {
        assert_eq!(failure_of(true), Failure::transient("deadlock (SQLSTATE 40P01)"));
        assert_eq!(failure_of(false), Failure::permanent("deadlock (SQLSTATE 40P01)"));
    }

    #[test]
    fn any_other_error_is_permanent_and_tells_its_causes() {
        fn parse() -> Result<u8, Failure> {
            Ok("300".parse()?)
        }
        let message = "number too large to fit in target type";
        assert_eq!(parse(), Err(Failure::permanent(message)));
    }

    #[test]
    fn a_database_error_stays_transient_inside_another_error() {
        #[derive(Debug)]
        struct Wrapped(SqlError);
        impl fmt::Display for Wrapped {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("while counting")
            }
        }
        impl Error for Wrapped {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = types::SqlError { code: "40001".into(), message: "again".into(), retryable: true };
        let failure = Failure::from(Wrapped(error.into()));
        assert_eq!(failure, Failure::transient("while counting: again (SQLSTATE 40001)"));
    }
}
