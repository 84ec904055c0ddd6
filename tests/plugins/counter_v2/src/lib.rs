//! Version 2 of `counter`: also knows how many of the events it has seen itself. It traps at an event of type `Trap`, and
//! its migration fails when `--set migrate_v2=fail` says so: what the version before it could do, it cannot.

use projectionist_sdk::{Dialect, prelude::*};

/// Keeps `counter` with the column `seen_by_v2`.
#[derive(Default)]
struct Counter;

impl Projection for Counter {
    fn name() -> &'static str {
        "counter"
    }

    fn version() -> u32 {
        2
    }

    fn migrate(&mut self, tx: &Transaction, from_version: u32) -> Result<(), Failure> {
        if from_version < 1 {
            tx.execute("CREATE TABLE counter (aggregate TEXT PRIMARY KEY, events BIGINT NOT NULL)", params![])?;
        }
        tx.execute("ALTER TABLE counter ADD COLUMN seen_by_v2 BIGINT NOT NULL DEFAULT 0", params![])?;
        // On SQLite a column takes whatever it is given.
        if config::get("tally").is_some() && tx.dialect() == Dialect::Postgres {
            tx.execute("ALTER TABLE tally ALTER COLUMN n TYPE TEXT", params![])?;
        }
        if config::get("migrate_v2").as_deref() == Some("fail") {
            return Err(Failure::permanent("told to fail in migrate"));
        }
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        if config::get("tally").is_some() {
            tx.execute("INSERT INTO tally (n) VALUES ($1)", params!["one"])?;
        }
        if event.event_type() == "Trap" {
            panic!("version 2 cannot count this");
        }
        tx.execute(
            "INSERT INTO counter (aggregate, events, seen_by_v2) VALUES ($1, 1, 1)
             ON CONFLICT (aggregate) DO UPDATE SET events = counter.events + 1, seen_by_v2 = counter.seen_by_v2 + 1",
            params![event.aggregate_id()],
        )?;
        Ok(())
    }
}

export_projection!(Counter);
