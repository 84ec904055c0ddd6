//! [`ReadError`]: what can be wrong with a file of events, with the line on which it is wrong.

use crate::event::UnfitEvent;

/// Why reading stopped. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A line is no event.
    #[error("line {line}: {problem}")]
    Line {
        /// Which line.
        line: u64,
        /// What about it.
        problem: LineProblem,
    },
    /// The gzip stream ends before its end.
    #[error("the file is cut off: its gzip stream ends in the middle, after {lines} whole lines")]
    CutOff {
        /// How many lines were read.
        lines: u64,
    },
    /// The gzip stream does not decompress.
    #[error("the file is damaged: its gzip stream cannot be read behind line {lines} ({source})")]
    Damaged {
        /// How many lines were read.
        lines: u64,
        /// What the decompressor said.
        source: std::io::Error,
    },
    /// The system could not read it.
    #[error("cannot read behind line {lines}: {source}")]
    Io {
        /// How many lines were read.
        lines: u64,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a line is no event.
#[derive(Debug, thiserror::Error)]
pub enum LineProblem {
    /// It is longer than a line may be.
    #[error("it is longer than {} MiB", limit >> 20)]
    TooLong {
        /// How many bytes a line may have.
        limit: usize,
    },
    /// It is not text.
    #[error("byte {0} is not UTF-8")]
    NotUtf8(usize),
    /// It is not JSON.
    #[error("malformed JSON: {reason}, column {column}")]
    Malformed {
        /// What the parser said.
        reason: String,
        /// At which byte of the line.
        column: usize,
    },
    /// It ends in the middle of its JSON.
    #[error("malformed JSON: the line ends in the middle of it, at column {column}")]
    Unfinished {
        /// At which byte of the line.
        column: usize,
    },
    /// It is JSON, and not of the fields or types of an event.
    #[error("{reason}, column {column}")]
    Mismatch {
        /// What the parser said, with the field's name.
        reason: String,
        /// At which byte of the line.
        column: usize,
    },
    /// A field is not there.
    #[error("missing field `{0}`")]
    Missing(&'static str),
    /// Two fields that exclude each other.
    #[error("both `payload` and `payload_base64`: an event has one of them")]
    TwoPayloads,
    /// The payload is JSON, and no object.
    #[error("`payload` is {found}, not a JSON object (`--allow-any-payload` takes any JSON)")]
    PayloadNotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// The payload's bytes cannot be decoded.
    #[error("`payload_base64` is not base64: {0}")]
    Base64(base64::DecodeError),
    /// The id is none.
    #[error("`event_id` is not a UUID: {0}")]
    EventId(String),
    /// The time is none.
    #[error("`created_at` is not an RFC 3339 time such as 2013-01-01T05:15:00-05:00: {0}")]
    CreatedAt(String),
    /// A log cannot hold it.
    #[error(transparent)]
    Unfit(#[from] UnfitEvent),
}

impl ReadError {
    /// What to do next, where there is something to say that the message does not.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Line { problem: LineProblem::Mismatch { .. } | LineProblem::Missing(_), .. } => Some(
                "a line is {\"aggregate_type\":…,\"aggregate_id\":…,\"event_type\":…,\"payload\":{…}}; \
                 `host import --help` has all fields",
            ),
            Self::Line { problem: LineProblem::PayloadNotAnObject { .. }, .. } => {
                Some("correct the line, or import with --allow-any-payload")
            }
            Self::Line { .. } => Some("correct the line and import the file again"),
            Self::CutOff { .. } | Self::Damaged { .. } => {
                Some("get the file again (a download or copy that stopped?) and import it again")
            }
            Self::Io { .. } => None,
        }
    }
}
