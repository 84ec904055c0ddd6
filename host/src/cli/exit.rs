//! How a command ends: the exit codes, which are a contract with scripts, and the one place that turns an
//! error into what the user reads.
//!
//! An error reads `error: what happened, to what`, then the causes that the message does not hold already,
//! then `hint: what to do next`. A user's mistake never shows a backtrace.

use std::io::Write as _;
use std::process::ExitCode;

use super::config::ConfigError;
use crate::append::AppendError;
use crate::database::DatabaseError;
use crate::http::TokenError;
use crate::ndjson::ReadError;
use crate::plugin::LoadError;
use crate::processor::Outcome;
use crate::read_model::rebuild::RebuildError;
use crate::telemetry::traces::otlp::TracesError;

/// 0: done.
pub const DONE: ExitCode = ExitCode::SUCCESS;
/// 1: it failed; the same command may succeed later.
pub const FAILED: u8 = 1;
/// 2: wrong usage or configuration; the command has to change. clap's own errors use it too.
pub const USAGE: u8 = 2;
/// 3: an event could not be applied, and the policy was to stop.
pub const STOPPED_BY_POLICY: u8 = 3;
/// 4: somebody else has taken the partition over.
pub const FENCED: u8 = 4;

/// Something that did not end well, such as workers: the worst of them gives the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Ended {
    /// What happened.
    message: String,
    /// What to do next.
    hint: Option<String>,
    /// The exit code.
    code: u8,
}

impl Ended {
    /// What happened, what to do next, and the exit code.
    #[must_use]
    pub fn new(message: String, hint: Option<String>, code: u8) -> Self {
        Self { message, hint, code }
    }

    /// What was not done, though nobody made a mistake, and what to do next.
    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), code: FAILED }
    }

    /// The outcome of a run: nothing unless somebody did not end well.
    #[must_use]
    pub fn of(outcomes: Vec<Outcome>) -> Option<Self> {
        let one = |outcome: Outcome| match outcome {
            Outcome::Done => None,
            Outcome::StoppedByPolicy(message) => Some(Self {
                message,
                hint: Some("nothing is lost: mend the projection, or run with --on-error park, and start again".into()),
                code: STOPPED_BY_POLICY,
            }),
            Outcome::Fenced(message) => {
                Some(Self { message, hint: Some("nothing was written by this process since".into()), code: FENCED })
            }
            Outcome::Misconfigured { message, hint } => Some(Self { message, hint: Some(hint), code: USAGE }),
            Outcome::Failed(message) => Some(Self { message, hint: None, code: FAILED }),
        };
        // 3 and 4 are what scripts act on; 1 and 2 are for people.
        outcomes.into_iter().filter_map(one).max_by_key(|ended| ended.code)
    }

    /// As the result of a command.
    ///
    /// # Errors
    /// When there is one.
    pub fn result(ended: Option<Self>) -> anyhow::Result<()> {
        ended.map_or(Ok(()), |ended| Err(ended.into()))
    }
}

/// A mistake in what the user typed or set, found after parsing.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    /// What is wrong, and with what.
    message: String,
    /// What to do next.
    hint: Option<String>,
}

impl UsageError {
    /// What is wrong, and what to do next.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// Prints the error for people and gives its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // A closed stderr is no reason to panic while reporting.
    std::io::stderr().lock().write_all(format!("error: {}\n", told(error)).as_bytes()).ok();
    ExitCode::from(code(error))
}

/// An error for people: what happened, its causes, and what to do next.
#[must_use]
pub fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors quote their cause already.
        if !last.contains(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause);
        }
        last = cause;
    }
    if let Some(hint) = hint(error) {
        text.push_str("\nhint: ");
        text.push_str(&hint);
    }
    text
}

/// What to do next, as the first error of the chain that knows it says.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(usage) = cause.downcast_ref::<UsageError>() {
            return usage.hint.clone();
        }
        if let Some(error) = cause.downcast_ref::<ConfigError>() {
            return Some(error.advice().to_owned());
        }
        if let Some(error) = cause.downcast_ref::<TokenError>() {
            return Some(error.advice().to_owned());
        }
        if let Some(error) = cause.downcast_ref::<TracesError>() {
            return Some(error.advice().to_owned());
        }
        if let Some(ended) = cause.downcast_ref::<Ended>() {
            return ended.hint.clone();
        }
        if let Some(error) = cause.downcast_ref::<LoadError>() {
            return error.advice().map(str::to_owned);
        }
        let advice = (cause.downcast_ref::<DatabaseError>().and_then(DatabaseError::advice))
            .or_else(|| cause.downcast_ref::<AppendError>().and_then(AppendError::advice))
            .or_else(|| cause.downcast_ref::<ReadError>().and_then(ReadError::advice))
            .or_else(|| cause.downcast_ref::<RebuildError>().and_then(RebuildError::advice));
        advice.map(str::to_owned)
    })
}

/// The exit code of an error.
fn code(error: &anyhow::Error) -> u8 {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return ended.code;
    }
    let configuration = error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.is::<TokenError>()
            || cause.is::<TracesError>()
            || cause.is::<ConfigError>()
            || cause.downcast_ref::<LoadError>().is_some_and(LoadError::is_configuration)
            || cause.downcast_ref::<DatabaseError>().is_some_and(DatabaseError::is_configuration)
            || cause.downcast_ref::<AppendError>().is_some_and(AppendError::is_usage)
            || cause.downcast_ref::<RebuildError>().is_some_and(RebuildError::is_configuration)
    });
    if configuration { USAGE } else { FAILED }
}
