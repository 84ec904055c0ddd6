//! A harness for end-to-end tests: real databases, the real binary `host` as a process of its own, real plugins.
//!
//! It is public because whoever writes projections needs it as much as we do. The promises of the host itself are
//! tested with it in `tests/promises/`.
//!
//! ```no_run
//! use projectionist_tests::{Kind, Setup, event, plugin};
//!
//! let setup = Setup::new(Kind::Sqlite);
//! setup.insert(&[event("UserCreated", "User", "u1").payload(r#"{"email": "a@example.org"}"#)]);
//! setup.run(["run", "--once", "--plugin", &plugin("user_count")]).success();
//! assert_eq!(setup.rows("user_count", "SELECT user_id, email FROM user_stats"), [["u1", "a@example.org"]]);
//! ```
//!
//! # The parts, in reading order
//!
//! - [`Setup`]: a fresh place to run hosts in: events, read models, a folder, an environment.
//! - [`Database`] and [`Connection`]: SQL past the host, on either kind of database, also in an open transaction.
//! - [`Event`]: events to insert past the host.
//! - [`Host`]: a process that runs, can be stopped, frozen and killed, and whose log can be waited for; [`Output`]: one
//!   that has ended.
//! - [`http`]: asking a host over HTTP; [`browser`]: looking at its pages.
//! - [`Cluster`]: a temporary Postgres server, which is gone when the test process is, however that ends.
//! - [`SmallDisk`]: a file system that is soon full.
//! - [`flights`]: real events, and what they add up to, computed without any plugin.
//! - [`wait_for`] and [`wait_until`]: conditions are awaited, times never asserted.
//! - [`chaos`]: all of it tormented at random, for minutes, and judged by an independent oracle.
//! - [`on_both_databases!`] and [`on_all_combinations!`]: a test written once, run everywhere.
//!
//! # What it needs
//!
//! The binary `host` and the plugins, built before: `make test` does, and [`programs`] says where they are looked for.
//! Postgres' server programs, or a server named by `DATABASE_URL` whose user may create databases; a few tests restart
//! the server or need its password files, and use a temporary one in any case.

pub mod browser;
pub mod chaos;
pub mod cluster;
pub mod database;
mod event;
pub mod flights;
mod host;
pub mod http;
mod macros;
mod output;
pub mod programs;
mod setup;
mod small_disk;
mod wait;

pub use cluster::Cluster;
pub use database::{Connection, Database, Kind};
pub use event::{Event, event};
pub use host::Host;
pub use output::Output;
pub use programs::plugin;
pub use setup::{Checkpoint, DeadLetter, Setup};
pub use small_disk::SmallDisk;
pub use wait::{wait_for, wait_until};

use projectionist_host as _; // of the tests in tests/, and of the program `unguarded`
// Only the tests in tests/ make guests by hand.
#[cfg(test)]
use {
    opentelemetry_proto as _, prost as _, rcgen as _, rustls as _, wasm_encoder as _, wat as _, wit_component as _,
    wit_parser as _,
};
