//! Counts events, one row an aggregate: version 1, to be replaced by `counter_v2` while events flow. With `--set tally=on` it
//! writes a row an event, too: a number, which in version 2 is a text.

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
        if config::get("tally").is_some() {
            tx.execute("CREATE TABLE tally (n BIGINT NOT NULL)", params![])?;
        }
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        tx.execute(
            "INSERT INTO counter (aggregate, events) VALUES ($1, 1)
             ON CONFLICT (aggregate) DO UPDATE SET events = counter.events + 1",
            params![event.aggregate_id()],
        )?;
        if config::get("tally").is_some() {
            tx.execute("INSERT INTO tally (n) VALUES ($1)", params![1_i64])?;
        }
        Ok(())
    }
}

export_projection!(Counter);
