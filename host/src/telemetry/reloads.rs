//! The last components that were changed while workers ran, for whoever wants to know what was rolled out.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::metrics::{self, Reload};

/// How many are remembered.
const MOST: usize = 50;

/// A component that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// When, RFC 3339.
    pub at: String,
    /// Of which projection.
    pub projection: String,
    /// The digest of what ran.
    pub from: String,
    /// The digest of what has come.
    pub to: String,
    /// Whether it was taken.
    pub taken: bool,
    /// Why not.
    pub reason: String,
}

/// The last of this process, in order.
static LAST: Mutex<VecDeque<Reloaded>> = Mutex::new(VecDeque::new());

/// A changed component was taken (without a reason against it), or not.
pub fn note(projection: &str, from: &str, to: &str, refused: Option<&str>) {
    metrics::reloaded(projection, if refused.is_none() { Reload::Taken } else { Reload::Refused });
    let at = crate::timestamp::format(crate::timestamp::now());
    let (projection, from, to) = (projection.to_owned(), from.to_owned(), to.to_owned());
    let (taken, reason) = (refused.is_none(), refused.unwrap_or_default().to_owned());
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.truncate(MOST - 1);
    last.push_front(Reloaded { at, projection, from, to, taken, reason });
}

/// The last, the newest first.
#[must_use]
pub fn all() -> Vec<Reloaded> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}
