//! Asking workers to end, and sleeping so that the question is heard.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Shared by everybody who has to end together.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

/// What they share.
#[derive(Debug, Default)]
struct Shared {
    /// Whether it is time to end, and who ends then, too.
    state: Mutex<State>,
    /// Wakes those who sleep.
    wake: Condvar,
}

/// Whether it is time to end.
#[derive(Debug, Default)]
struct State {
    /// It is.
    requested: bool,
    /// Parts that may end before, and do so then at the latest.
    parts: Vec<Weak<Shared>>,
}

/// Whether the sleep was slept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slept {
    /// Go on.
    Out,
    /// It is time to end.
    Stopped,
}

impl Stop {
    /// The state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks everybody to end at the next batch boundary.
    pub fn request(&self) {
        let parts = {
            let mut state = self.lock();
            state.requested = true;
            std::mem::take(&mut state.parts)
        };
        self.0.wake.notify_all();
        for part in parts.iter().filter_map(Weak::upgrade) {
            Self(part).request();
        }
    }

    /// For a part that may be asked to end by itself, and ends with the whole.
    #[must_use]
    pub fn part(&self) -> Self {
        let part = Self::default();
        let mut state = self.lock();
        if state.requested {
            part.request();
        } else {
            state.parts.retain(|part| part.strong_count() > 0);
            state.parts.push(Arc::downgrade(&part.0));
        }
        part
    }

    /// Whether it is time to end.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.lock().requested
    }

    /// Sleeps, unless and until it is time to end.
    #[must_use]
    pub fn sleep(&self, time: Duration) -> Slept {
        let asleep = |state: &mut State| !state.requested;
        let (state, _) =
            self.0.wake.wait_timeout_while(self.lock(), time, asleep).unwrap_or_else(PoisonError::into_inner);
        if state.requested { Slept::Stopped } else { Slept::Out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_the_whole_and_the_whole_not_with_a_part() {
        let whole = Stop::default();
        let (one, other) = (whole.part(), whole.part());
        one.request();
        assert_eq!([&whole, &one, &other].map(Stop::is_requested), [false, true, false]);
        whole.request();
        assert!(other.is_requested() && whole.part().is_requested());
    }
}
