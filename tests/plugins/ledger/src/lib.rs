//! Writes rows in ways where it shows in which order they were written: every statement adds its mark to what is there.
//!
//! The host sends such statements in runs, and some of them before others. This is how a test finds out whether anybody
//! can tell.

use projectionist_sdk::prelude::*;
use projectionist_sdk::{Dialect, Value};
use serde::Deserialize;

/// Keeps `marks`, `pairs`, `prices`, `seats` and `numbered`.
#[derive(Default)]
struct Ledger;

/// The payload of an event.
#[derive(Deserialize)]
struct Entry {
    /// Which statement.
    how: String,
    /// Which row.
    key: String,
    /// What it adds.
    mark: String,
}

impl Projection for Ledger {
    fn name() -> &'static str {
        "ledger"
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        let numbered = match tx.dialect() {
            Dialect::Postgres => {
                "CREATE TABLE numbered (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key TEXT UNIQUE, marks TEXT)"
            }
            Dialect::Sqlite => "CREATE TABLE numbered (id INTEGER PRIMARY KEY, key TEXT UNIQUE, marks TEXT)",
        };
        tx.execute("CREATE TABLE marks (key TEXT PRIMARY KEY, marks TEXT NOT NULL)", params![])?;
        tx.execute("CREATE TABLE pairs (a TEXT, b TEXT, marks TEXT NOT NULL, PRIMARY KEY (a, b))", params![])?;
        tx.execute("CREATE TABLE prices (price NUMERIC PRIMARY KEY, marks TEXT NOT NULL)", params![])?;
        tx.execute("CREATE TABLE seats (key TEXT PRIMARY KEY, seat TEXT NOT NULL UNIQUE)", params![])?;
        tx.execute(numbered, params![])?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let Entry { how, key, mark } = event.payload()?;
        match &*how {
            "append" => tx.execute(
                "INSERT INTO marks (key, marks) VALUES ($1, $2)
                 ON CONFLICT (key) DO UPDATE SET marks = marks.marks || excluded.marks",
                params![key, mark],
            )?,
            "wrap" => tx.execute(
                "INSERT INTO marks (marks, key) VALUES ($2, $1)
                 ON CONFLICT (key) DO UPDATE SET marks = excluded.marks || '<' || marks.marks || '>'",
                params![key, mark],
            )?,
            "if_new" => tx.execute(
                "INSERT INTO marks (key, marks) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING",
                params![key, mark],
            )?,
            "update" => tx.execute("UPDATE marks SET marks = marks || $2 WHERE key = $1", params![key, mark])?,
            "pair" | "pair_too" => {
                let (a, b) = key.split_once('/').ok_or_else(|| Failure::permanent("a pair is a/b"))?;
                match &*how {
                    "pair" => tx.execute(
                        "INSERT INTO pairs (a, b, marks) VALUES ($1, $2, $3)
                         ON CONFLICT (a, b) DO UPDATE SET marks = pairs.marks || excluded.marks",
                        params![a, b, mark],
                    )?,
                    _ => tx.execute(
                        "INSERT INTO pairs (b, a, marks) VALUES ($1, $2, $3)
                         ON CONFLICT (a, b) DO UPDATE SET marks = excluded.marks || '<' || pairs.marks || '>'",
                        params![b, a, mark],
                    )?,
                }
            }
            "price" => tx.execute(
                "INSERT INTO prices (price, marks) VALUES ($1, $2)
                 ON CONFLICT (price) DO UPDATE SET marks = prices.marks || excluded.marks",
                params![Value::Numeric(key), mark],
            )?,
            "price_too" => tx.execute(
                "INSERT INTO prices (price, marks) VALUES ($1, $2)
                 ON CONFLICT (price) DO UPDATE SET marks = excluded.marks || '<' || prices.marks || '>'",
                params![Value::Numeric(key), mark],
            )?,
            "sit" => tx.execute(
                "INSERT INTO seats (key, seat) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET seat = excluded.seat",
                params![key, mark],
            )?,
            "sit_too" => tx.execute(
                "INSERT INTO seats (seat, key) VALUES ($2, $1) ON CONFLICT (key) DO UPDATE SET seat = excluded.seat",
                params![key, mark],
            )?,
            "number" => tx.execute(
                "INSERT INTO numbered (key, marks) VALUES ($1, $2)
                 ON CONFLICT (key) DO UPDATE SET marks = numbered.marks || excluded.marks",
                params![key, mark],
            )?,
            "number_too" => tx.execute(
                "INSERT INTO numbered (key, marks) VALUES ($1, $2)
                 ON CONFLICT (key) DO UPDATE SET marks = excluded.marks || '<' || numbered.marks || '>'",
                params![key, mark],
            )?,
            other => return Err(Failure::permanent(format!("nobody knows how to {other}"))),
        }
        Ok(())
    }
}

export_projection!(Ledger);
