//! Real events, and what they add up to.
//!
//! The events are the first flights of 2013 from New York, one event each, in the import format. What a projection of
//! them must show is computed here from the same lines in plain Rust, so that no bug of a plugin, the SDK or the host
//! can be in the expectation too.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Event, event};

/// The compressed NDJSON file: the slice that `host demo` bundles.
#[must_use]
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/assets/flights-demo.ndjson.gz")
}

/// Its lines.
///
/// # Panics
/// When the file is missing or damaged.
#[must_use]
pub fn lines() -> Vec<Value> {
    let path = file();
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("a whole gzip file of UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Its events, to insert past the host.
#[must_use]
pub fn events() -> Vec<Event> {
    lines().iter().map(as_event).collect()
}

/// A line as an event to insert.
fn as_event(line: &Value) -> Event {
    let mut made = event(text(line, "event_type"), text(line, "aggregate_type"), text(line, "aggregate_id"));
    made.event_id = text(line, "event_id").parse().expect("a UUID");
    made.payload(&line["payload"])
}

/// What `SELECT * FROM carrier_delays ORDER BY carrier` must give: carrier, departed, cancelled, minutes of departure
/// delay, minutes of arrival delay, arrivals known, miles.
#[must_use]
pub fn carrier_delays() -> Vec<Vec<String>> {
    let mut carriers: BTreeMap<String, [i64; 6]> = BTreeMap::new();
    for line in lines() {
        let payload = &line["payload"];
        let sums = carriers.entry(text(payload, "carrier").to_owned()).or_default();
        if line["event_type"] == "FlightCancelled" {
            sums[1] += 1;
            continue;
        }
        sums[0] += 1;
        sums[2] += number(payload, "dep_delay_min");
        if let Some(minutes) = payload["arr_delay_min"].as_i64() {
            sums[3] += minutes;
            sums[4] += 1;
        }
        sums[5] += number(payload, "distance_miles");
    }
    carriers
        .into_iter()
        .map(|(carrier, sums)| std::iter::once(carrier).chain(sums.map(|sum| sum.to_string())).collect())
        .collect()
}

/// What `SELECT aircraft, flights, miles, last_airport FROM aircraft_log ORDER BY aircraft` must give.
#[must_use]
pub fn aircraft_log() -> Vec<Vec<String>> {
    let mut aircraft: BTreeMap<String, (i64, i64, String)> = BTreeMap::new();
    for line in lines().iter().filter(|line| line["event_type"] == "FlightDeparted") {
        let payload = &line["payload"];
        let log = aircraft.entry(text(line, "aggregate_id").to_owned()).or_default();
        log.0 += 1;
        log.1 += number(payload, "distance_miles");
        text(payload, "dest").clone_into(&mut log.2);
    }
    aircraft
        .into_iter()
        .map(|(name, (flights, miles, airport))| vec![name, flights.to_string(), miles.to_string(), airport])
        .collect()
}

/// A field that is text.
fn text<'line>(line: &'line Value, field: &str) -> &'line str {
    line[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {line}"))
}

/// A field that is a number.
fn number(line: &Value, field: &str) -> i64 {
    line[field].as_i64().unwrap_or_else(|| panic!("{field} is no whole number in {line}"))
}
