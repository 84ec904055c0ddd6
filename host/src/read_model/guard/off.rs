//! The guard switched off, so that a test sees what stands beneath it: whatever a projection says goes to its database.
//!
//! What is there can be thrown, so there is little of it. A release build has none of this module. A debug build has it, and
//! still the program `host` cannot be told to: no option, no variable and no file leads here, only a call, and the one program
//! that makes it is a test's (`unguarded`, in `tests/src/bin/`).

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Judged, Kind, number_of};

/// Whether it is off.
static OFF: AtomicBool = AtomicBool::new(false);

/// Lets everything through from now on, in the whole process.
pub fn switch_off() {
    OFF.store(true, Ordering::Relaxed);
}

/// Whether everything is let through.
pub(super) fn is_off() -> bool {
    OFF.load(Ordering::Relaxed)
}

/// A statement that nobody has judged. What it does is told by its first word, so that what reads or writes rows takes the same
/// way as always, and everything else that of a definition, which is sent as it is.
pub(super) fn unjudged(sql: &str) -> Judged {
    let word = sql.trim_start().split(|letter: char| !letter.is_ascii_alphabetic()).next().unwrap_or_default();
    let kind = match &*word.to_ascii_uppercase() {
        "SELECT" | "WITH" | "TABLE" | "VALUES" => Kind::Reading,
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" => Kind::Writing,
        _ => Kind::Definition,
    };
    Judged { sql: sql.to_owned(), kind, number: number_of(sql), multi_row: None }
}
