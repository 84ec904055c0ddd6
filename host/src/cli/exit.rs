//! How a command ends: the exit codes, which are a contract with scripts, and the one place that turns an
//! error into what the user reads.
//!
//! An error reads `error: what happened, to what`, then the causes that the message does not hold already,
//! then `hint: what to do next`. A user's mistake never shows a backtrace.

use std::io::Write as _;
use std::process::ExitCode;

use crate::append::AppendError;
use crate::database::DatabaseError;
use crate::ndjson::ReadError;

/// 0: done.
pub const DONE: ExitCode = ExitCode::SUCCESS;
/// 1: it failed; the same command may succeed later.
pub const FAILED: u8 = 1;
/// 2: wrong usage or configuration; the command has to change. clap's own errors use it too.
pub const USAGE: u8 = 2;

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
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors quote their cause already.
        if !last.contains(&cause) {
            text.push_str("  because: ");
            text.push_str(&cause);
            text.push('\n');
        }
        last = cause;
    }
    if let Some(hint) = hint(error) {
        text.push_str("hint: ");
        text.push_str(&hint);
        text.push('\n');
    }
    // A closed stderr is no reason to panic while reporting.
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
    ExitCode::from(code(error))
}

/// What to do next, as the first error of the chain that knows it says.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(usage) = cause.downcast_ref::<UsageError>() {
            return usage.hint.clone();
        }
        let advice = (cause.downcast_ref::<DatabaseError>().and_then(DatabaseError::advice))
            .or_else(|| cause.downcast_ref::<AppendError>().and_then(AppendError::advice))
            .or_else(|| cause.downcast_ref::<ReadError>().and_then(ReadError::advice));
        advice.map(str::to_owned)
    })
}

/// The exit code of an error.
fn code(error: &anyhow::Error) -> u8 {
    let configuration = error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.downcast_ref::<DatabaseError>().is_some_and(DatabaseError::is_configuration)
            || cause.downcast_ref::<AppendError>().is_some_and(AppendError::is_usage)
    });
    if configuration { USAGE } else { FAILED }
}
