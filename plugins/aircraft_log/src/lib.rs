//! Where each aircraft has been: folded in memory in `handle`, written once an aircraft in `flush`.
//!
//! A batch of 500 flights has perhaps 300 aircraft, an `unknown` one among them many times: that many
//! statements fewer. Nothing can be lost on the way, because memory rolls back with the transaction.

use std::collections::HashMap;

use projectionist_sdk::prelude::*;
use serde::Deserialize;

/// Keeps `aircraft_log`.
#[derive(Default)]
struct AircraftLog {
    /// What this batch adds, by aircraft.
    legs: HashMap<String, Legs>,
}

/// What one aircraft flew in one batch.
#[derive(Default)]
struct Legs {
    /// Flights that departed.
    flights: i64,
    /// Their distance.
    miles: i64,
    /// The last one's place in the log.
    last_position: u64,
    /// Where the last one went.
    last_airport: String,
}

/// What is read of `FlightDeparted`. A cancelled flight moves no aircraft.
#[derive(Deserialize)]
struct Departed {
    /// From origin to destination.
    distance_miles: i64,
    /// Three letters, such as `IAH`.
    dest: String,
}

impl Projection for AircraftLog {
    fn name() -> &'static str {
        "aircraft_log"
    }

    fn event_types() -> &'static [&'static str] {
        &["FlightDeparted"]
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute(
            "CREATE TABLE aircraft_log (
                 aircraft TEXT PRIMARY KEY, flights BIGINT NOT NULL, miles BIGINT NOT NULL,
                 last_position BIGINT NOT NULL, last_airport TEXT NOT NULL)",
            params![],
        )?;
        Ok(())
    }

    fn handle(&mut self, _tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let flight: Departed = event.payload()?;
        let legs = self.legs.entry(event.aggregate_id().to_owned()).or_default();
        legs.flights += 1;
        legs.miles += flight.distance_miles;
        legs.last_position = event.position();
        legs.last_airport = flight.dest;
        Ok(())
    }

    fn flush(&mut self, tx: &Transaction) -> Result<(), Failure> {
        for (aircraft, legs) in self.legs.drain() {
            tx.execute(
                "INSERT INTO aircraft_log (aircraft, flights, miles, last_position, last_airport)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (aircraft) DO UPDATE SET
                     flights = aircraft_log.flights + excluded.flights,
                     miles = aircraft_log.miles + excluded.miles,
                     last_position = excluded.last_position,
                     last_airport = excluded.last_airport",
                params![aircraft, legs.flights, legs.miles, legs.last_position, legs.last_airport],
            )?;
        }
        Ok(())
    }
}

export_projection!(AircraftLog);

#[cfg(test)]
mod tests;
