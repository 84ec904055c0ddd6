//! What is in the log: real flights and made-up users, in any number, written past the host.
//!
//! A flight of the bundled slice comes again and again, each time as a new event of its aircraft, so that payloads,
//! the number of aircraft and their shares are those of real data.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;

use projectionist_tests::{Setup, flights};
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Runtime;

/// An event to be stored.
pub(crate) struct Stored {
    /// The kind of aggregate.
    aggregate_type: &'static str,
    /// Which aggregate.
    aggregate_id: String,
    /// Its number within the aggregate.
    version: u64,
    /// What happened.
    event_type: String,
    /// JSON.
    payload: String,
}

/// A line of the bundled slice, as far as it matters here.
#[derive(serde::Deserialize)]
struct Line<'line> {
    /// The aircraft.
    aggregate_id: &'line str,
    /// What happened.
    event_type: &'line str,
    /// JSON.
    #[serde(borrow)]
    payload: &'line RawValue,
}

/// So many flights.
pub(crate) fn flights(count: usize) -> impl Iterator<Item = Stored> {
    let bytes = std::fs::read(flights::file()).expect("the bundled flights");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("a whole gzip file of UTF-8");
    let lines: Vec<(String, String, String)> = text
        .lines()
        .map(|line| {
            let line: Line<'_> = serde_json::from_str(line).expect("a line of JSON");
            (line.aggregate_id.to_owned(), line.event_type.to_owned(), line.payload.get().to_owned())
        })
        .collect();
    let mut versions: HashMap<String, u64> = HashMap::new();
    (0..count).map(move |number| {
        let (aggregate_id, event_type, payload) = &lines[number % lines.len()];
        let version = versions.entry(aggregate_id.clone()).and_modify(|version| *version += 1).or_insert(1);
        Stored {
            aggregate_type: "Aircraft",
            aggregate_id: aggregate_id.clone(),
            version: *version,
            event_type: event_type.clone(),
            payload: payload.clone(),
        }
    })
}

/// How many events a user has: as many as an aircraft has in the flights of half a year.
const EVENTS_A_USER: usize = 40;

/// So many events of users: each registers, and then verifies addresses, takes others, leaves and comes back, in turn with
/// all the others, and everybody is somewhere else in that.
pub(crate) fn users(count: usize) -> impl Iterator<Item = Stored> {
    let users = (count / EVENTS_A_USER).max(1);
    (0..count).map(move |number| {
        // A prime step, so that neighbours in the log are not neighbours in a table.
        let (user, version) = (number * 7_919 % users, number / users + 1);
        let (event_type, payload) = match (version, (version + user) % 4) {
            (1, _) | (_, 0) => {
                ("UserCreated", format!(r#"{{"email": "user{user}@example.org", "name": "User {user}"}}"#))
            }
            (_, 1) => ("EmailVerified", "{}".to_owned()),
            (_, 2) => ("EmailVerified", format!(r#"{{"email": "new{version}-{user}@example.org"}}"#)),
            _ => ("UserDeactivated", "{}".to_owned()),
        };
        Stored {
            aggregate_type: "User",
            aggregate_id: format!("user-{user}"),
            version: version as u64,
            event_type: event_type.to_owned(),
            payload,
        }
    })
}

/// Stores events in a database of a server, and leaves it as a server is that has had its time: vacuumed, analysed.
pub(crate) fn store_in_postgres(runtime: &Runtime, setup: &Setup, events: impl Iterator<Item = Stored>) {
    runtime.block_on(async {
        let mut connection = PgConnection::connect(&setup.source().url()).await.expect("the benchmark's own server");
        // A trigger that notifies once a row would only make this slower.
        run(&mut connection, "ALTER TABLE events DISABLE TRIGGER USER").await;
        let mut copy = connection
            .copy_in_raw(
                "COPY events (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, metadata)
                 FROM STDIN (FORMAT csv)",
            )
            .await
            .expect("COPY");
        let mut chunk = String::new();
        for (number, event) in events.enumerate() {
            let Stored { aggregate_type, aggregate_id, version, event_type, payload } = event;
            let payload = payload.replace('"', "\"\"");
            writeln!(
                chunk,
                "{},{aggregate_type},{aggregate_id},{version},{event_type},\"{payload}\",{{}}",
                uuid(number)
            )
            .expect("a String takes whatever is written");
            if chunk.len() > 1 << 20 {
                copy.send(std::mem::take(&mut chunk).into_bytes()).await.expect("COPY");
            }
        }
        copy.send(chunk.into_bytes()).await.expect("COPY");
        copy.finish().await.expect("COPY");
        run(&mut connection, "ALTER TABLE events ENABLE TRIGGER USER").await;
        run(&mut connection, "VACUUM (ANALYZE) events").await;
        run(&mut connection, "CHECKPOINT").await;
    });
}

/// Runs a statement.
async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Stores events in a file.
pub(crate) fn store_in_sqlite(setup: &Setup, events: impl Iterator<Item = Stored>) {
    let path = setup.source().url();
    let path = path.strip_prefix("sqlite://").expect("a file");
    let store = || {
        let mut connection = rusqlite::Connection::open(path)?;
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare(
                "INSERT INTO events (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                     metadata, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, '{}', '2026-01-01T00:00:00.000000Z')",
            )?;
            for (number, event) in events.enumerate() {
                insert.execute(rusqlite::params![
                    uuid(number),
                    event.aggregate_type,
                    event.aggregate_id,
                    event.version.cast_signed(),
                    event.event_type,
                    event.payload.as_bytes(),
                ])?;
            }
        }
        transaction.commit()?;
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); ANALYZE")
    };
    store().unwrap_or_else(|error: rusqlite::Error| panic!("{path}: {error}"));
}

/// A UUID for a number, scattered as random ones are.
fn uuid(number: usize) -> String {
    let bits = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
