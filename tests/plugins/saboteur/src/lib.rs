//! Does whatever an event tells it, most of it harmful: the payload is an [`Order`].
//!
//! What comes through leaves a row in `notes`, so that a test sees which events were applied. It wants `Order`s of
//! `Saboteur`s in the contexts `default` and `stage`, so that filters have something to leave out.

use std::collections::BTreeMap;

use projectionist_sdk::prelude::*;
use projectionist_sdk::{Dialect, Value};
use serde::Deserialize;

/// Keeps `notes` and `totals`; obeys `switches`, which a test writes.
#[derive(Default)]
struct Saboteur {
    /// Events that this instance has seen.
    seen: i64,
    /// What this batch adds to `totals`, by name.
    folded: BTreeMap<String, i64>,
    /// Memory that this instance never gives back.
    hoard: Vec<Vec<u8>>,
    /// Events of this batch whose note `flush` writes: position and aggregate.
    pondered: Vec<(u64, String)>,
    /// Whether the next `flush` has to fail.
    fails_in_flush: bool,
}

/// The payload of an event.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Order {
    /// Writes its note, and nothing else.
    Note,
    /// Writes a note of how many events this instance has seen.
    NoteSeen,
    /// Writes a note of a setting.
    NoteSetting {
        /// Its key.
        key: String,
    },
    /// Writes a note of the payload, as it was shown to it.
    NotePayload,
    /// Writes a note of how many notes there are, its own transaction's included.
    NoteCount,
    /// Adds to a total, in memory; `flush` writes it.
    Fold {
        /// Which total.
        name: String,
        /// How much.
        amount: i64,
    },
    /// Logs a line.
    Log {
        /// The line.
        message: String,
    },
    /// Says so in the log, computes for a while, and leaves its note to `flush`.
    Ponder,
    /// Fails transiently for as long as `switches` has no row of this name.
    FailUntil {
        /// The name.
        switch: String,
    },
    /// Fails permanently unless a setting is there, as if the projection was mended by then.
    FailUnless {
        /// Its key.
        setting: String,
        /// A statement to run when it is there.
        then: Option<String>,
    },
    /// Says so in the log and takes long, unless `switches` has a row of this name.
    Linger {
        /// The name.
        switch: String,
        /// How long: so many millions of rows are counted, each some 0.1 s.
        millions: u32,
    },
    /// Fails transiently, always.
    FailTransiently,
    /// Fails permanently.
    FailPermanently,
    /// Fails when the batch is flushed.
    FailInFlush,
    /// Panics.
    Panic,
    /// Computes for ever.
    Spin,
    /// Allocates without end.
    Allocate,
    /// Allocates, and never gives it back.
    Hoard {
        /// How much.
        mebibytes: usize,
    },
    /// Calls itself without end.
    Recurse,
    /// Runs a statement.
    Execute {
        /// The statement.
        sql: String,
    },
    /// Runs a statement with one text, named as a parameter so many times: little memory here, much for a host that
    /// would copy each.
    Alias {
        /// How long the text is.
        mebibytes: usize,
        /// How often it is named.
        times: usize,
    },
    /// Runs a statement and asks for its answer.
    Query {
        /// The statement.
        sql: String,
    },
    /// Runs a statement, asks for its answer, and says that all is well whatever that was.
    Swallow {
        /// The statement.
        sql: String,
    },
}

impl Projection for Saboteur {
    fn name() -> &'static str {
        "saboteur"
    }

    fn event_types() -> &'static [&'static str] {
        &["Order"]
    }

    fn aggregate_types() -> &'static [&'static str] {
        &["Saboteur"]
    }

    fn bounded_contexts() -> &'static [&'static str] {
        &["default", "stage"]
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        if config::get("fail_in_migrate").is_some() {
            return Err(Failure::permanent("told to fail in migrate"));
        }
        for table in [
            "CREATE TABLE notes (position BIGINT PRIMARY KEY, aggregate TEXT NOT NULL, note TEXT NOT NULL)",
            "CREATE TABLE totals (name TEXT PRIMARY KEY, amount BIGINT NOT NULL)",
            "CREATE TABLE switches (name TEXT PRIMARY KEY)",
        ] {
            tx.execute(table, params![])?;
        }
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        self.seen += 1;
        let order = event.payload()?;
        if matches!(order, Order::Ponder) {
            log::info!("pondering");
            ponder();
            self.pondered.push((event.position(), event.aggregate_id().to_owned()));
            return Ok(());
        }
        let note = match order {
            Order::NotePayload => Some(String::from_utf8_lossy(event.payload_bytes()).into_owned()),
            order => self.obey(tx, order)?,
        };
        let note = note.unwrap_or_else(|| event.aggregate_version().to_string());
        tx.execute("INSERT INTO notes VALUES ($1, $2, $3)", params![event.position(), event.aggregate_id(), note])?;
        Ok(())
    }

    fn flush(&mut self, tx: &Transaction) -> Result<(), Failure> {
        if self.fails_in_flush {
            return Err(Failure::permanent("told to fail in flush"));
        }
        for (position, aggregate) in std::mem::take(&mut self.pondered) {
            tx.execute("INSERT INTO notes VALUES ($1, $2, 'pondered')", params![position, aggregate])?;
        }
        for (name, amount) in std::mem::take(&mut self.folded) {
            tx.execute(
                "INSERT INTO totals VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET amount = totals.amount + excluded.amount",
                params![name, amount],
            )?;
        }
        Ok(())
    }
}

impl Saboteur {
    /// How many notes there are.
    fn count(&self, tx: &Transaction) -> Result<String, Failure> {
        let notes: i64 = tx.query_one("SELECT count(*) AS notes FROM notes", params![])?.get("notes")?;
        Ok(notes.to_string())
    }

    /// Does what it is told; gives what to note, if not the event's version.
    fn obey(&mut self, tx: &Transaction, order: Order) -> Result<Option<String>, Failure> {
        match order {
            Order::Note | Order::NotePayload | Order::Ponder => {}
            Order::NoteSeen => return Ok(Some(self.seen.to_string())),
            Order::NoteSetting { key } => return Ok(Some(config::get(&key).unwrap_or_else(|| "unset".to_owned()))),
            Order::NoteCount => return self.count(tx).map(Some),
            Order::Fold { name, amount } => *self.folded.entry(name).or_default() += amount,
            Order::Log { message } => log::info!("{message}"),
            Order::FailUntil { switch } => {
                let row = tx.query_optional("SELECT name FROM switches WHERE name = $1", params![switch.as_str()])?;
                if row.is_none() {
                    return Err(Failure::transient(format!("the switch {switch} is off")));
                }
            }
            Order::FailUnless { setting, then } => {
                if config::get(&setting).is_none() {
                    return Err(Failure::permanent(format!("not mended: {setting} is not set")));
                }
                if let Some(sql) = then {
                    tx.execute(&sql, params![])?;
                }
                return self.count(tx).map(Some);
            }
            Order::Linger { switch, millions } => {
                let row = tx.query_optional("SELECT name FROM switches WHERE name = $1", params![switch.as_str()])?;
                if row.is_none() {
                    log::info!("lingering");
                    // Counts without keeping what it counts.
                    let sql = match tx.dialect() {
                        Dialect::Postgres => format!(
                            "SELECT count(*) AS n FROM generate_series(1, 1000) AS a (n), generate_series(1, 1000) AS b (n),
                                 generate_series(1, {millions}) AS c (n)"
                        ),
                        Dialect::Sqlite => format!(
                            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {millions}000000)
                             SELECT count(*) AS n FROM r"
                        ),
                    };
                    tx.query(&sql, params![])?;
                }
                return self.count(tx).map(Some);
            }
            Order::FailTransiently => return Err(Failure::transient("told to fail transiently")),
            Order::FailPermanently => return Err(Failure::permanent("told to fail permanently")),
            Order::FailInFlush => self.fails_in_flush = true,
            Order::Panic => panic!("told to panic"),
            Order::Spin => loop {
                std::hint::black_box(self.seen);
            },
            Order::Allocate => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            Order::Hoard { mebibytes } => self.hoard.push(vec![1; mebibytes << 20]),
            Order::Recurse => return Ok(Some(recurse(1).to_string())),
            Order::Execute { sql } => tx.execute(&sql, params![])?,
            Order::Alias { mebibytes, times } => {
                let text = "x".repeat(mebibytes << 20);
                let alias = || {
                    #[expect(unsafe_code, reason = "a hostile guest is not bound to Rust's rules")]
                    // SAFETY: there is none. All of them own the same bytes, and would free them more than once, did the
                    // host not end the call before.
                    let alias = unsafe { String::from_raw_parts(text.as_ptr().cast_mut(), text.len(), text.len()) };
                    Value::Text(alias)
                };
                let aliases: Vec<Value> = std::iter::repeat_with(alias).take(times).collect();
                tx.execute("DELETE FROM totals", aliases)?;
            }
            Order::Query { sql } => drop(tx.query(&sql, params![])?),
            Order::Swallow { sql } => drop(tx.query(&sql, params![])),
        }
        Ok(None)
    }
}

/// Some 50 milliseconds, far below the deadline of a call.
fn ponder() {
    for number in 0..50_000_000_u64 {
        std::hint::black_box(number);
    }
}

/// Calls itself until the stack is full.
#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    let frame = [depth; 64];
    std::hint::black_box(&frame);
    recurse(depth + 1) + std::hint::black_box(frame[63])
}

export_projection!(Saboteur);
