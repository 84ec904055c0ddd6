//! Carrying something from an event that failed into one that does not: memory has to roll back with the transaction.

use std::sync::atomic::{AtomicU64, Ordering};

use projectionist_sdk::prelude::*;
use serde::Deserialize;

/// What it would like to remember: outside of the projection's own state, where the SDK knows nothing of it.
static POISON: AtomicU64 = AtomicU64::new(0);

/// `{"attack": "remember", "and": "fail"}`
#[derive(Deserialize)]
pub(crate) struct Attack {
    /// What comes next.
    and: And,
}

/// How the event ends.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum And {
    /// With an error.
    Fail,
    /// With a trap.
    Trap,
    /// At its deadline.
    Spin,
    /// With a statement that the database refuses, whose error is kept to itself.
    FailInSql,
    /// Well: notes what is remembered.
    Tell,
}

impl Attack {
    /// Remembers, and ends as it says; gives what to note.
    pub(crate) fn run(&self, tx: &Transaction) -> Result<String, Failure> {
        if matches!(self.and, And::Tell) {
            return Ok(format!("remembers {}", POISON.load(Ordering::Relaxed)));
        }
        POISON.fetch_add(1, Ordering::Relaxed);
        match self.and {
            And::Fail => Err(Failure::permanent("failed on purpose")),
            And::Trap => panic!("trapped on purpose"),
            And::Spin => super::spin::spin(),
            And::FailInSql => {
                drop(tx.query("SELECT absent FROM survivors", params![]));
                Ok("went on after an error".to_owned())
            }
            And::Tell => Ok(String::new()),
        }
    }
}
