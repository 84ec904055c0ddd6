//! `counter` with a bug: it cannot count an event of type `Odd`. To be replaced by `counter`, which is mended.

use projectionist_sdk::prelude::*;

/// Keeps `counter`.
#[derive(Default)]
struct Counter;

impl Projection for Counter {
    fn name() -> &'static str {
        "counter"
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute("CREATE TABLE counter (aggregate TEXT PRIMARY KEY, events BIGINT NOT NULL)", params![])?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        if event.event_type() == "Odd" {
            return Err(Failure::permanent("this counter knows no odd events"));
        }
        tx.execute(
            "INSERT INTO counter (aggregate, events) VALUES ($1, 1)
             ON CONFLICT (aggregate) DO UPDATE SET events = counter.events + 1",
            params![event.aggregate_id()],
        )?;
        Ok(())
    }
}

export_projection!(Counter);
