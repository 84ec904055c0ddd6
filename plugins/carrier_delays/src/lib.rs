//! What each carrier flew and how late: sums, one row a carrier, one statement an event.
//!
//! Everything is a sum, so an event that was lost or counted twice shows at once.

use projectionist_sdk::prelude::*;
use serde::Deserialize;

/// Keeps `carrier_delays`. It has no state: everything is in the table.
#[derive(Default)]
struct CarrierDelays;

/// What is read of `FlightDeparted`.
#[derive(Deserialize)]
struct Departed<'a> {
    /// Two letters, such as `UA`.
    carrier: &'a str,
    /// Negative for an early departure.
    dep_delay_min: i64,
    /// Null where the arrival was never reported.
    arr_delay_min: Option<i64>,
    /// From origin to destination.
    distance_miles: i64,
}

/// What is read of `FlightCancelled`. Its distance was not flown, and does not count.
#[derive(Deserialize)]
struct Cancelled<'a> {
    /// Two letters, such as `UA`.
    carrier: &'a str,
}

impl Projection for CarrierDelays {
    fn name() -> &'static str {
        "carrier_delays"
    }

    fn event_types() -> &'static [&'static str] {
        &["FlightDeparted", "FlightCancelled"]
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute(
            "CREATE TABLE carrier_delays (
                 carrier TEXT PRIMARY KEY, departed BIGINT NOT NULL, cancelled BIGINT NOT NULL,
                 dep_delay_min BIGINT NOT NULL, arr_delay_min BIGINT NOT NULL,
                 arr_delay_known BIGINT NOT NULL, distance_miles BIGINT NOT NULL)",
            params![],
        )?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        match event.event_type() {
            "FlightDeparted" => {
                let flight: Departed = event.payload()?;
                let (arrival, known) = flight.arr_delay_min.map_or((0, 0), |delay| (delay, 1));
                tx.execute(
                    "INSERT INTO carrier_delays VALUES ($1, 1, 0, $2, $3, $4, $5)
                     ON CONFLICT (carrier) DO UPDATE SET
                         departed = carrier_delays.departed + 1,
                         dep_delay_min = carrier_delays.dep_delay_min + excluded.dep_delay_min,
                         arr_delay_min = carrier_delays.arr_delay_min + excluded.arr_delay_min,
                         arr_delay_known = carrier_delays.arr_delay_known + excluded.arr_delay_known,
                         distance_miles = carrier_delays.distance_miles + excluded.distance_miles",
                    params![flight.carrier, flight.dep_delay_min, arrival, known, flight.distance_miles],
                )?;
            }
            "FlightCancelled" => tx.execute(
                "INSERT INTO carrier_delays VALUES ($1, 0, 1, 0, 0, 0, 0)
                 ON CONFLICT (carrier) DO UPDATE SET cancelled = carrier_delays.cancelled + 1",
                params![event.payload::<Cancelled>()?.carrier],
            )?,
            _ => {}
        }
        Ok(())
    }
}

export_projection!(CarrierDelays);

#[cfg(test)]
mod tests;
