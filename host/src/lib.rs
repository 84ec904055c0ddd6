//! Projectionist runs event-sourcing projections that are WebAssembly components.
//!
//! One sentence holds it together: *a projection's writes, its dead letters and its checkpoint commit in one
//! transaction, fenced.* So every event is applied exactly once, whatever dies.
//!
//! # The map
//!
//! In the order in which an event travels. Imports run downwards; only [`processor`] uses the parts above it, which it
//! ties, and [`cli`] all of them:
//!
//! - [`cli`] – one file a command. Parses, calls what is below, words the errors.
//! - [`event`] – what travels, and the numbers that place it.
//! - [`database`] – URLs, connections, the host's own tables, for both kinds of database.
//! - [`source`] – where events come from: pages, the horizon, waking up, the feed that workers share; and [`append`], where they come in.
//! - [`ndjson`] – events as lines of text, for import and export.
//! - [`partition`] – which worker an event belongs to, and how that changes exactly.
//! - [`plugin`] – loading, checking, caching, limiting and swapping components.
//! - [`read_model`] – where writes go: the unit of work on both databases, claims, checkpoints.
//! - [`processor`] – the loop that ties them.
//! - [`operations`] – what an operator sees: how far everything is, and how well; and [`http`], where it is served.
//! - [`telemetry`] – logs, what is counted, and traces.
//!
//! And used by all of them: [`timestamp`], instants as text.
//!
//! # Not goals
//!
//! The host sends no mail and calls no web service for a plugin: such an effect cannot be rolled back, so it
//! cannot be exactly once. It is no message broker either: it reads one events table, in its order.

use mimalloc as _; // the allocator of the binary

pub mod append;
pub mod cli;
pub mod database;
pub mod event;
pub mod http;
pub mod ndjson;
pub mod operations;
pub mod partition;
pub mod plugin;
pub mod processor;
pub mod read_model;
pub mod source;
pub mod telemetry;
pub mod timestamp;
