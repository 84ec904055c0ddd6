//! What each event adds to its carrier.

use projectionist_sdk::testing::{EventBuilder, TestHost, event, json, values};

use super::CarrierDelays;

/// A flight of an aircraft that departed.
fn departed(carrier: &str, dep_delay_min: i64, arr_delay_min: Option<i64>) -> EventBuilder {
    event("FlightDeparted").aggregate("Aircraft", "N14228").payload(json!({
        "carrier": carrier, "flight": 1545, "origin": "EWR", "dest": "IAH", "distance_miles": 1400,
        "dep_delay_min": dep_delay_min, "arr_delay_min": arr_delay_min, "air_time_min": 227,
    }))
}

/// A flight that did not.
fn cancelled(carrier: &str) -> EventBuilder {
    event("FlightCancelled").aggregate("Aircraft", "unknown").payload(json!({
        "carrier": carrier, "flight": 4308, "origin": "EWR", "dest": "RDU", "distance_miles": 416,
    }))
}

#[test]
fn flights_add_up_by_carrier() {
    let mut host = TestHost::<CarrierDelays>::new();
    host.apply([departed("UA", 2, Some(11)), departed("AA", -3, Some(-20)), departed("UA", 10, Some(-1))]);
    host.apply([departed("UA", 0, Some(0))]);
    assert_eq!(
        host.rows("SELECT * FROM carrier_delays ORDER BY carrier"),
        [values!["AA", 1, 0, -3, -20, 1, 1400], values!["UA", 3, 0, 12, 10, 3, 4200]]
    );
}

#[test]
fn an_arrival_that_was_never_reported_has_no_delay() {
    let mut host = TestHost::<CarrierDelays>::new();
    host.apply([departed("UA", 2, None), departed("UA", 2, Some(5))]);
    assert_eq!(host.rows("SELECT departed, arr_delay_min, arr_delay_known FROM carrier_delays"), [values![2, 5, 1]]);
}

#[test]
fn a_cancelled_flight_is_counted_and_flies_no_miles() {
    let mut host = TestHost::<CarrierDelays>::new();
    host.apply([cancelled("UA"), departed("UA", 2, Some(11)), cancelled("UA")]);
    assert_eq!(host.rows("SELECT departed, cancelled, distance_miles FROM carrier_delays"), [values![1, 2, 1400]]);
}
