//! The hand-written loops: what somebody who knows Rust and SQL well would write for one projection, without a host,
//! without WebAssembly.
//!
//! Each reads pages of 1,000 of the columns that it needs, writes in one transaction a page, and moves a checkpoint
//! in it. None of them handles a gap in the positions, a second worker, a poison event or a plugin: that is what the
//! host is for, and what it must not cost much for.

pub(crate) mod postgres;
pub(crate) mod sqlite;

/// Events in one page, and in one transaction.
pub(crate) const PAGE: i64 = 1_000;

/// The payload of `UserCreated`.
#[derive(serde::Deserialize)]
struct UserCreated {
    /// Where to write to.
    email: String,
}

/// The payload of `EmailVerified`.
#[derive(serde::Deserialize)]
struct EmailVerified {
    /// The verified address.
    email: Option<String>,
}

/// What is read of `FlightDeparted`.
#[derive(serde::Deserialize)]
struct Departed {
    /// From origin to destination.
    distance_miles: i64,
    /// Where it went.
    dest: String,
}

/// What one aircraft flew in one page.
#[derive(Default)]
struct Legs {
    /// Flights that departed.
    flights: i64,
    /// Their distance.
    miles: i64,
    /// The last one's place in the log.
    last_position: i64,
    /// Where the last one went.
    last_airport: String,
}

/// A payload.
fn parse<'payload, T: serde::Deserialize<'payload>>(payload: &'payload [u8]) -> T {
    serde_json::from_slice(payload).expect("a payload as this benchmark wrote it")
}
