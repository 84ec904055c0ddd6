//! The loops on SQLite, through rusqlite, with cached statements.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, params};

use super::{Departed, EmailVerified, Legs, PAGE, UserCreated, parse};

/// Two files, as the host has them: the events, and a read model beside them.
pub(crate) struct Files {
    /// The events.
    events: Connection,
    /// The read model.
    own: Connection,
}

/// Runs a loop to the end of the log, from the start, into a file of its own.
pub(crate) fn run(events: &Path, tables: &str, work: impl FnOnce(&mut Files) -> rusqlite::Result<()>) {
    let path = events.with_file_name("by_hand.db");
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", path.display())).ok();
    }
    let open = || -> rusqlite::Result<Files> {
        let events = Connection::open(events)?;
        let own = Connection::open(&path)?;
        own.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE checkpoint (position INTEGER NOT NULL); INSERT INTO checkpoint VALUES (0)",
        )?;
        own.execute_batch(tables)?;
        Ok(Files { events, own })
    };
    let run = || work(&mut open()?);
    run().unwrap_or_else(|error: rusqlite::Error| panic!("the loop by hand: {error}"));
}

/// What the loops need of an event.
struct Slim {
    /// Its place in the log.
    position: i64,
    /// Whose.
    aggregate_id: String,
    /// What happened.
    event_type: String,
    /// JSON.
    payload: Vec<u8>,
    /// When.
    created_at: String,
}

/// A page of them.
fn page(events: &Connection, after: i64, condition: &str) -> rusqlite::Result<Vec<Slim>> {
    let sql = format!(
        "SELECT global_position, aggregate_id, event_type, payload, created_at FROM events
         WHERE global_position > ?1 AND {condition} ORDER BY global_position LIMIT ?2"
    );
    let mut statement = events.prepare_cached(&sql)?;
    let rows = statement.query_map([after, PAGE], |row| {
        Ok(Slim {
            position: row.get(0)?,
            aggregate_id: row.get(1)?,
            event_type: row.get(2)?,
            payload: row.get(3)?,
            created_at: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// The tables of [`per_event`].
pub(crate) const USERS: &str =
    "CREATE TABLE user_stats (user_id TEXT PRIMARY KEY, email TEXT, created_at TEXT, active INTEGER NOT NULL)";

/// One statement an event.
pub(crate) fn per_event(files: &mut Files) -> rusqlite::Result<()> {
    let mut position = 0;
    loop {
        let events =
            page(&files.events, position, "+event_type IN ('UserCreated', 'EmailVerified', 'UserDeactivated')")?;
        let Some(last) = events.last() else { return Ok(()) };
        position = last.position;
        let transaction = files.own.transaction()?;
        for event in &events {
            match &*event.event_type {
                "UserCreated" => transaction
                    .prepare_cached(
                        "INSERT INTO user_stats (user_id, email, created_at, active) VALUES (?1, ?2, ?3, TRUE)
                         ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, active = TRUE,
                             created_at = COALESCE(user_stats.created_at, excluded.created_at)",
                    )?
                    .execute(params![
                        event.aggregate_id,
                        parse::<UserCreated>(&event.payload).email,
                        event.created_at
                    ])?,
                "EmailVerified" => transaction
                    .prepare_cached(
                        "INSERT INTO user_stats (user_id, email, active) VALUES (?1, ?2, TRUE)
                         ON CONFLICT (user_id) DO UPDATE SET email = COALESCE(excluded.email, user_stats.email)",
                    )?
                    .execute(params![event.aggregate_id, parse::<EmailVerified>(&event.payload).email])?,
                _ => transaction
                    .prepare_cached(
                        "INSERT INTO user_stats (user_id, active) VALUES (?1, FALSE)
                         ON CONFLICT (user_id) DO UPDATE SET active = FALSE",
                    )?
                    .execute(params![event.aggregate_id])?,
            };
        }
        transaction.prepare_cached("UPDATE checkpoint SET position = ?1")?.execute([position])?;
        transaction.commit()?;
    }
}

/// The tables of [`folded`].
pub(crate) const AIRCRAFT: &str = "CREATE TABLE aircraft_log (
    aircraft TEXT PRIMARY KEY, flights INTEGER NOT NULL, miles INTEGER NOT NULL,
    last_position INTEGER NOT NULL, last_airport TEXT NOT NULL)";

/// Folds a page in memory and writes one statement an aircraft.
pub(crate) fn folded(files: &mut Files) -> rusqlite::Result<()> {
    let mut position = 0;
    loop {
        let events = page(&files.events, position, "+event_type = 'FlightDeparted'")?;
        let Some(last) = events.last() else { return Ok(()) };
        position = last.position;
        let mut folded: HashMap<&str, Legs> = HashMap::new();
        for event in &events {
            let flight: Departed = parse(&event.payload);
            let legs = folded.entry(&event.aggregate_id).or_default();
            legs.flights += 1;
            legs.miles += flight.distance_miles;
            legs.last_position = event.position;
            legs.last_airport = flight.dest;
        }
        let transaction = files.own.transaction()?;
        for (aircraft, legs) in folded {
            transaction
                .prepare_cached(
                    "INSERT INTO aircraft_log VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (aircraft) DO UPDATE SET flights = aircraft_log.flights + excluded.flights,
                         miles = aircraft_log.miles + excluded.miles, last_position = excluded.last_position,
                         last_airport = excluded.last_airport",
                )?
                .execute(params![aircraft, legs.flights, legs.miles, legs.last_position, legs.last_airport])?;
        }
        transaction.prepare_cached("UPDATE checkpoint SET position = ?1")?.execute([position])?;
        transaction.commit()?;
    }
}
