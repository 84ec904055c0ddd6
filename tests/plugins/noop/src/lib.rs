//! Takes every event and does nothing with it: what the host itself costs.

use projectionist_sdk::prelude::*;

/// Keeps nothing.
#[derive(Default)]
struct Noop;

impl Projection for Noop {
    fn name() -> &'static str {
        "noop"
    }

    fn migrate(&mut self, _tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn handle(&mut self, _tx: &Transaction, event: &Event) -> Result<(), Failure> {
        // Looked at, so that no compiler may leave it out.
        std::hint::black_box(event.payload_bytes());
        Ok(())
    }
}

export_projection!(Noop);
