//! Write a projection as a WebAssembly component for the Projectionist host.
//!
//! A projection turns events into tables. It implements [`Projection`] and hands the type to
//! [`export_projection!`]; the host calls it for each event, inside the transaction that also moves its
//! checkpoint, so each event counts once, whatever crashes.
//!
//! ```
//! use projectionist_sdk::prelude::*;
//!
//! /// Counts the orders of each customer.
//! #[derive(Default)]
//! struct Orders;
//!
//! impl Projection for Orders {
//!     fn name() -> &'static str {
//!         "orders"
//!     }
//!
//!     fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
//!         tx.execute(
//!             "CREATE TABLE orders (customer TEXT PRIMARY KEY, placed BIGINT NOT NULL)",
//!             params![],
//!         )?;
//!         Ok(())
//!     }
//!
//!     fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
//!         match event.event_type() {
//!             "OrderPlaced" => tx.execute(
//!                 "INSERT INTO orders VALUES ($1, 1)
//!                  ON CONFLICT (customer) DO UPDATE SET placed = orders.placed + 1",
//!                 params![event.aggregate_id()],
//!             )?,
//!             _ => {}
//!         }
//!         Ok(())
//!     }
//! }
//!
//! export_projection!(Orders);
//!
//! // Natively, in a test:
//! use projectionist_sdk::testing::{TestHost, event, values};
//!
//! let mut host = TestHost::<Orders>::new();
//! host.apply([event("OrderPlaced").aggregate("Customer", "c1")]);
//! assert_eq!(host.rows("SELECT customer, placed FROM orders"), [values!["c1", 1]]);
//! ```
//!
//! # The parts, in reading order
//!
//! - [`Projection`]: what to implement, and [`export_projection!`], which makes a component of it.
//! - [`Event`]: what happened. [`Transaction`]: where to write, with [`params!`], [`Rows`] and [`Row`].
//! - [`Value`], [`ToValue`], [`FromValue`]: which Rust type is which SQL type.
//! - [`Failure`]: what to return when it cannot be done, and what the host does then.
//! - [`config`], [`log`]: what the operator set, and the host's log.
//! - [`testing`]: the same projection on an in-memory SQLite, without a host.
//!
//! # What it is not
//!
//! Not a database client: there is no connection, no commit and no rollback, because those are the host's.
//! Not asynchronous: a call runs to its end. Statements that need no answer are sent many at a time anyway.

#[doc(hidden)]
pub mod bindings;
pub mod config;
mod event;
mod export;
mod failure;
#[cfg(target_family = "wasm")]
mod logging;
mod projection;
mod sql_error;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod timestamp;
mod transaction;
mod value;

pub use event::{Event, PayloadError};
pub use failure::Failure;
pub use log;
pub use projection::Projection;
pub use serde_json;
pub use sql_error::SqlError;
pub use timestamp::{Timestamp, TimestampError};
pub use transaction::{ColumnError, ColumnIndex, Dialect, Row, Rows, Transaction};
pub use value::{FromValue, Json, Numeric, Params, ToValue, Value, ValueError};

/// The guide's examples are compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-a-projection.md")]
struct Guide;

/// What nearly every projection uses: `use projectionist_sdk::prelude::*`.
pub mod prelude {
    pub use crate::{Event, Failure, Projection, Timestamp, Transaction, config, export_projection, log, params};
}

/// What [`export_projection!`] expands to. No part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::Exported;
}
