//! Runs a projection natively, on an in-memory SQLite database, with events made in the test.
//!
//! ```
//! # use projectionist_sdk::prelude::*;
//! # #[derive(Default)]
//! # struct Visits;
//! # impl Projection for Visits {
//! #     fn name() -> &'static str { "visits" }
//! #     fn migrate(&mut self, tx: &Transaction<'_>, _: u32) -> Result<(), Failure> {
//! #         Ok(tx.execute("CREATE TABLE visits (page TEXT PRIMARY KEY, n BIGINT)", params![])?)
//! #     }
//! #     fn handle(&mut self, tx: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
//! #         let page: serde_json::Value = event.payload()?;
//! #         let page = page["page"].as_str().ok_or(Failure::permanent("no page"))?;
//! #         Ok(tx.execute("INSERT INTO visits VALUES ($1, 1) ON CONFLICT (page) DO UPDATE SET n = visits.n + 1", params![page])?)
//! #     }
//! # }
//! # use projectionist_sdk::serde_json;
//! use projectionist_sdk::testing::{TestHost, event, json, values};
//!
//! let mut host = TestHost::<Visits>::new();
//! host.apply([
//!     event("PageVisited").payload(json!({"page": "/"})),
//!     event("PageVisited").payload(json!({"page": "/"})),
//! ]);
//! assert_eq!(host.rows("SELECT page, n FROM visits"), [values!["/", 2]]);
//!
//! // What fails leaves nothing, and names its event.
//! let error = host.try_apply([event("PageVisited").payload(json!({}))]).unwrap_err();
//! assert_eq!(error.to_string(), "handle of PageVisited at position 3: permanent failure: no page");
//! ```
//!
//! It does what the host does with an embedded read model: filters, parameters, column types, buffered
//! statements, one transaction a batch, a new instance after each rollback. What it does not do is the
//! host's alone: limits of time and memory, retries, dead letters, Postgres.
//!
//! There is no feature to switch it on. A plugin that is built natively is built for its tests, so the module
//! is there on every target but WebAssembly, where it would never be called.

mod database;
mod event;
mod host;
#[cfg(test)]
mod tests;

pub use event::{EventBuilder, event};
pub use host::{BatchFailure, TestHost};
pub use serde_json::json;

/// A row to compare with: `assert_eq!(host.rows("SELECT …"), [values!["u1", true, None::<&str>]])`.
///
/// # Panics
///
/// For a value that SQL does not have.
#[doc(inline)]
pub use crate::values;

/// See [`testing::values`](crate::testing::values).
#[doc(hidden)]
#[macro_export]
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        ::std::vec![$($crate::ToValue::to_value(&$value).expect("a value that SQL has")),*]
    };
}
