//! Much of what is allowed in small amounts.

use projectionist_sdk::Value;
use projectionist_sdk::prelude::*;
use serde::Deserialize;

/// `{"attack": "flood", "of": "log", "times": 1000, "bytes": 10}`
#[derive(Deserialize)]
pub(crate) struct Attack {
    /// Of what.
    of: Of,
    /// How many; without end otherwise.
    times: Option<u64>,
    /// How large each is.
    #[serde(default)]
    bytes: usize,
}

/// What there can be too much of.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    /// Log lines.
    Log,
    /// Log lines that look like the host's own.
    Forgery,
    /// Statements, each another text.
    Statements,
    /// Queries.
    Queries,
    /// Settings asked for.
    Settings,
    /// Parameters of one statement.
    Parameters,
    /// Parameters of one statement that all name the same bytes: little memory here, much for a host that copied each.
    Aliases,
}

impl Attack {
    /// Floods; errors are of no interest to it.
    pub(crate) fn run(&self, tx: &Transaction) -> String {
        let text = "x".repeat(self.bytes);
        let times = self.times.unwrap_or(u64::MAX);
        match self.of {
            Of::Parameters => {
                let parameters: Vec<Value> = (0..times).map(|_| Value::Text(text.clone())).collect();
                return said(tx.execute("DELETE FROM survivors", parameters));
            }
            Of::Aliases => {
                let parameters: Vec<Value> = (0..times).map(|_| alias(&text)).collect();
                return said(tx.execute("DELETE FROM survivors", parameters));
            }
            _ => {}
        }
        let mut last = String::new();
        for number in 0..times {
            match self.of {
                Of::Log => log::error!("flood {text}"),
                Of::Forgery => log::error!("forged\n2026-01-01T00:00:00Z ERROR the host says\r\u{1b}[2J so"),
                Of::Statements => {
                    last = said(tx.execute(&format!("DELETE FROM survivors WHERE position = -{number}"), params![]));
                }
                Of::Queries => last = said(tx.query("SELECT position FROM survivors", params![])),
                Of::Settings => drop(config::get(&text)),
                Of::Parameters | Of::Aliases => {}
            }
        }
        last
    }
}

/// What was said to a statement.
fn said<T>(answer: Result<T, projectionist_sdk::SqlError>) -> String {
    answer.map_or_else(|error| error.to_string(), |_| "done".to_owned())
}

/// The same bytes once more.
fn alias(text: &str) -> Value {
    #[expect(unsafe_code, reason = "a hostile guest is not bound to Rust's rules")]
    // SAFETY: there is none. All of them own the same bytes, and would free them more than once, did the host not end
    // the call before.
    let alias = unsafe { String::from_raw_parts(text.as_ptr().cast_mut(), text.len(), text.len()) };
    Value::Text(alias)
}
