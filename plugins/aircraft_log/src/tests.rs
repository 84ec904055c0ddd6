//! What a batch of flights leaves of each aircraft.

use projectionist_sdk::testing::{EventBuilder, TestHost, event, json, values};

use super::AircraftLog;

/// A flight of `aircraft` to `dest`.
fn departed(aircraft: &str, dest: &str, distance_miles: i64) -> EventBuilder {
    event("FlightDeparted")
        .aggregate("Aircraft", aircraft)
        .payload(json!({"carrier": "UA", "dest": dest, "distance_miles": distance_miles}))
}

/// The table's query.
const LOG: &str = "SELECT * FROM aircraft_log ORDER BY aircraft";

#[test]
fn the_flights_of_a_batch_are_folded_by_aircraft() {
    let mut host = TestHost::<AircraftLog>::new();
    host.apply([departed("N1", "IAH", 1400), departed("N2", "MIA", 1089), departed("N1", "EWR", 1400)]);
    assert_eq!(host.rows(LOG), [values!["N1", 2, 2800, 3, "EWR"], values!["N2", 1, 1089, 2, "MIA"]]);
}

#[test]
fn a_batch_adds_to_the_batches_before_it_once() {
    let mut host = TestHost::<AircraftLog>::new();
    host.apply([departed("N1", "IAH", 1400)]);
    host.apply([departed("N2", "MIA", 1089)]);
    host.apply([departed("N1", "ORD", 925)]);
    assert_eq!(host.rows(LOG), [values!["N1", 2, 2325, 3, "ORD"], values!["N2", 1, 1089, 2, "MIA"]]);
}

#[test]
fn what_was_folded_for_a_failed_batch_is_gone() {
    let mut host = TestHost::<AircraftLog>::new();
    let broken = event("FlightDeparted").aggregate("Aircraft", "N1").payload(json!({"dest": "IAH"}));
    host.try_apply([departed("N1", "IAH", 1400), broken]).unwrap_err();
    host.apply([departed("N1", "MIA", 1089)]);
    assert_eq!(host.rows(LOG), [values!["N1", 1, 1089, 3, "MIA"]]);
}

#[test]
fn a_cancelled_flight_moves_no_aircraft() {
    let mut host = TestHost::<AircraftLog>::new();
    host.apply([departed("N1", "IAH", 1400), event("FlightCancelled").aggregate("Aircraft", "N1")]);
    assert_eq!(host.rows(LOG), [values!["N1", 1, 1400, 1, "IAH"]]);
}
