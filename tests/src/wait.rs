//! Awaiting conditions. A test never sleeps and hopes, and never asserts how long something took: a loaded machine is
//! slow, and that is no error.

use std::time::{Duration, Instant};

/// How long a condition may take. Far more than it ever should, so that only what never happens fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `look` finds something, and gives it.
///
/// # Panics
/// When it finds nothing in two minutes; the message says `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for this: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not in two minutes; the message says `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
