//! Records each application of an event in a table that only grows, without any uniqueness: an event that is applied
//! twice leaves two rows, and the ever growing number of a row shows the order in which events were applied.
//!
//! Beside it, totals are folded in memory and written in `flush`, so memory that outlives a rollback would show, too.
//! An event may be [`Poison`]: it fails for as long as the table `cured` does not reach its position.

use std::collections::BTreeMap;

use projectionist_sdk::{Dialect, prelude::*};
use serde::Deserialize;

/// Which of the two builds this is; written into each row.
const BUILD: &str = env!("CARGO_PKG_NAME");

/// Keeps `chronicle` and `totals`; obeys `cured`, which a test writes.
#[derive(Default)]
struct Chronicle {
    /// What this batch adds to `totals`, by aggregate: events and their amounts.
    folded: BTreeMap<String, (i64, i64)>,
    /// Whether the next `flush` has to fail.
    fails_in_flush: bool,
}

/// The payload of an event.
#[derive(Deserialize)]
struct Recorded {
    /// Added to the aggregate's total.
    amount: i64,
    /// How long to compute, in rounds of about a microsecond.
    #[serde(default)]
    work: u32,
    /// How it fails, if it does.
    poison: Option<Poison>,
}

/// How an event fails.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Poison {
    /// With a failure that will not pass.
    Permanent,
    /// With one that might.
    Transient,
    /// With a statement that the database refuses.
    Sql,
    /// When the batch is flushed.
    Flush,
    /// With a panic.
    Panic,
    /// It does not come back.
    Spin,
    /// It asks for memory without end.
    Allocate,
}

impl Projection for Chronicle {
    fn name() -> &'static str {
        "chronicle"
    }

    fn event_types() -> &'static [&'static str] {
        &["Recorded"]
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        let number = match tx.dialect() {
            Dialect::Postgres => "BIGINT GENERATED ALWAYS AS IDENTITY",
            Dialect::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
        };
        let chronicle = format!(
            "CREATE TABLE chronicle (application {number}, position BIGINT NOT NULL, aggregate TEXT NOT NULL,
                                     version BIGINT NOT NULL, amount BIGINT NOT NULL, build TEXT NOT NULL)"
        );
        tx.execute(&chronicle, params![])?;
        tx.execute(
            "CREATE TABLE totals (aggregate TEXT PRIMARY KEY, events BIGINT NOT NULL, amount BIGINT NOT NULL)",
            params![],
        )?;
        tx.execute("CREATE TABLE cured (upto BIGINT NOT NULL)", params![])?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let recorded: Recorded = event.payload()?;
        let aggregate = format!("{}/{}/{}", event.bounded_context(), event.aggregate_type(), event.aggregate_id());
        compute(recorded.work);
        tx.execute(
            "INSERT INTO chronicle (position, aggregate, version, amount, build) VALUES ($1, $2, $3, $4, $5)",
            params![event.position(), aggregate.as_str(), event.aggregate_version(), recorded.amount, BUILD],
        )?;
        let total = self.folded.entry(aggregate).or_default();
        *total = (total.0 + 1, total.1 + recorded.amount);
        // Last, so that whatever came before has to be undone.
        match recorded.poison {
            Some(poison) => self.fail(tx, event, poison),
            None => Ok(()),
        }
    }

    fn flush(&mut self, tx: &Transaction) -> Result<(), Failure> {
        if self.fails_in_flush {
            return Err(Failure::permanent("poison in flush"));
        }
        for (aggregate, (events, amount)) in std::mem::take(&mut self.folded) {
            tx.execute(
                "INSERT INTO totals VALUES ($1, $2, $3)
                 ON CONFLICT (aggregate) DO UPDATE SET events = totals.events + excluded.events,
                                                       amount = totals.amount + excluded.amount",
                params![aggregate, events, amount],
            )?;
        }
        Ok(())
    }
}

impl Chronicle {
    /// Fails in the way of this poison, unless it is cured.
    fn fail(&mut self, tx: &Transaction, event: &Event, poison: Poison) -> Result<(), Failure> {
        let cured: i64 = tx.query_one("SELECT coalesce(max(upto), 0) AS upto FROM cured", params![])?.get("upto")?;
        if event.position() <= cured.unsigned_abs() {
            return Ok(());
        }
        match poison {
            Poison::Permanent => return Err(Failure::permanent("poison")),
            Poison::Transient => return Err(Failure::transient("poison that might pass")),
            Poison::Sql => tx.execute("INSERT INTO totals (aggregate) VALUES (NULL)", params![])?,
            Poison::Flush => self.fails_in_flush = true,
            Poison::Panic => panic!("poison"),
            Poison::Spin => loop {
                std::hint::black_box(self.fails_in_flush);
            },
            Poison::Allocate => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
        }
        Ok(())
    }
}

/// Computes for about so many microseconds.
fn compute(rounds: u32) {
    for round in 0..rounds.saturating_mul(1_000) {
        std::hint::black_box(round);
    }
}

export_projection!(Chronicle);
