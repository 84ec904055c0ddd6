//! Asking workers to end, and sleeping so that the question is heard.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Shared by everybody who has to end together.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

/// Whether the sleep was slept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// Go on.
    Out,
    /// It is time to end.
    Stopped,
}

impl Stop {
    /// Asks everybody to end at the next batch boundary.
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether it is time to end.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, unless and until it is time to end.
    #[must_use]
    pub fn sleep(&self, time: Duration) -> Slept {
        let stopped = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) =
            self.0.1.wait_timeout_while(stopped, time, |stopped| !*stopped).unwrap_or_else(PoisonError::into_inner);
        if *stopped { Slept::Stopped } else { Slept::Out }
    }
}
