//! When a worker looks whether an operator has paused its projection: between two batches, twice a second. That is a read
//! of an empty table, some 0.02 % of a worker's time.

use std::time::{Duration, Instant};

use super::batch::Applier;
use super::failure::ApplyError;

/// The time between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// What a worker knows of it.
#[derive(Debug, Default)]
pub(super) struct Pausing {
    /// When to look again; nothing before the first look.
    next: Option<Instant>,
    /// Whether it was paused then.
    paused: bool,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It runs, as before.
    Running,
    /// It was paused since the last look.
    NowPaused,
    /// It is paused still.
    Paused,
    /// It was resumed since the last look.
    NowRunning,
}

impl Pausing {
    /// Looks, if it is time to.
    ///
    /// # Errors
    /// When the connection fails.
    pub(super) fn look(&mut self, applier: &Applier) -> Result<Found, ApplyError> {
        let before = self.paused;
        if self.next.is_none_or(|next| Instant::now() >= next) {
            self.paused = applier.work().is_paused()?;
            self.next = Some(Instant::now() + LOOK);
        }
        Ok(match (before, self.paused) {
            (false, false) => Found::Running,
            (false, true) => Found::NowPaused,
            (true, true) => Found::Paused,
            (true, false) => Found::NowRunning,
        })
    }
}
