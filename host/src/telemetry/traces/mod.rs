//! Traces: a span a batch, sent over OTLP where the standard's variables (`OTEL_…`) say so.
//!
//! [`otlp`] reads the variables, and sends on a thread of its own; [`client`] is what it sends with; [`batch`] makes the spans of
//! a batch. A batch is traced when it is done, from the times that its worker has taken anyway: nothing is kept or asked for
//! while it runs, and where traces are off a worker finds no tracer, once a batch. Spans wait in a queue that has a bound; what
//! does not fit is dropped, so no batch ever waits for whoever receives them.

pub mod batch;
mod client;
pub mod otlp;
