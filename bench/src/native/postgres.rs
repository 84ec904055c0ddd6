//! The loops on Postgres, through sqlx.

use std::collections::HashMap;

use sqlx::types::chrono::{DateTime, Utc};
use sqlx::types::{Json, Uuid};
use sqlx::{Connection as _, FromRow, PgConnection};
use tokio::runtime::Runtime;

use super::{Departed, EmailVerified, Legs, PAGE, UserCreated, parse};

/// Runs a loop to the end of the log, from the start, in a schema of its own.
pub(crate) fn run<F>(runtime: &Runtime, url: &str, tables: &'static str, work: F)
where
    F: AsyncFnOnce(&mut PgConnection) -> sqlx::Result<()>,
{
    let done = runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(
            "DROP SCHEMA IF EXISTS by_hand CASCADE; CREATE SCHEMA by_hand;
             CREATE TABLE by_hand.checkpoint (position BIGINT NOT NULL); INSERT INTO by_hand.checkpoint VALUES (0)",
        )
        .execute(&mut connection)
        .await?;
        sqlx::raw_sql(tables).execute(&mut connection).await?;
        work(&mut connection).await?;
        connection.close().await
    });
    done.unwrap_or_else(|error| panic!("the loop by hand: {error}"));
}

/// Moves the checkpoint.
async fn checkpoint(connection: &mut PgConnection, position: i64) -> sqlx::Result<()> {
    sqlx::query("UPDATE by_hand.checkpoint SET position = $1").bind(position).execute(connection).await.map(drop)
}

/// A whole event, as any framework hands it on.
#[derive(FromRow)]
#[expect(dead_code, reason = "decoding the columns is what is measured")]
struct Event {
    /// Its place in the log.
    global_position: i64,
    /// Its id.
    event_id: Uuid,
    /// Its context.
    bounded_context: String,
    /// The kind of aggregate.
    aggregate_type: String,
    /// Which aggregate.
    aggregate_id: String,
    /// Its number in the aggregate.
    aggregate_version: i64,
    /// What happened.
    event_type: String,
    /// The version of the payload.
    event_version: i32,
    /// What the writer stored.
    payload: Vec<u8>,
    /// JSON.
    metadata: Option<Json<Box<serde_json::value::RawValue>>>,
    /// Its trace.
    trace_id: Option<String>,
    /// What it belongs to.
    correlation_id: Option<String>,
    /// What made it happen.
    causation_id: Option<String>,
    /// When.
    created_at: DateTime<Utc>,
}

/// No table.
pub(crate) const NOTHING: &str = "SELECT 1";

/// Only reads pages, and moves the checkpoint.
pub(crate) async fn read(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut position = 0;
    loop {
        let events: Vec<Event> = sqlx::query_as(
            "SELECT global_position, event_id, bounded_context, aggregate_type, aggregate_id, aggregate_version,
                    event_type, event_version, payload, metadata, trace_id, correlation_id, causation_id, created_at
             FROM events WHERE global_position > $1 ORDER BY global_position LIMIT $2",
        )
        .bind(position)
        .bind(PAGE)
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = events.last() else { return Ok(()) };
        position = last.global_position;
        std::hint::black_box(&events);
        checkpoint(connection, position).await?;
    }
}

/// What the loops below need of an event.
#[derive(FromRow)]
struct Slim {
    /// Its place in the log.
    global_position: i64,
    /// Whose.
    aggregate_id: String,
    /// What happened.
    event_type: String,
    /// JSON.
    payload: Vec<u8>,
    /// When.
    created_at: DateTime<Utc>,
}

/// A page of them.
async fn page(connection: &mut PgConnection, after: i64, types: &[&str]) -> sqlx::Result<Vec<Slim>> {
    sqlx::query_as(
        "SELECT global_position, aggregate_id, event_type, payload, created_at FROM events
         WHERE global_position > $1 AND event_type = ANY($2) ORDER BY global_position LIMIT $3",
    )
    .bind(after)
    .bind(types)
    .bind(PAGE)
    .fetch_all(connection)
    .await
}

/// The tables of [`per_event`].
pub(crate) const USERS: &str = "CREATE TABLE by_hand.user_stats (
    user_id TEXT PRIMARY KEY, email TEXT, created_at TIMESTAMPTZ, active BOOLEAN NOT NULL)";

/// One awaited statement an event: what people write.
pub(crate) async fn per_event(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut position = 0;
    loop {
        let events = page(connection, position, &["UserCreated", "EmailVerified", "UserDeactivated"]).await?;
        let Some(last) = events.last() else { return Ok(()) };
        position = last.global_position;
        let mut transaction = connection.begin().await?;
        for event in &events {
            let statement = match &*event.event_type {
                "UserCreated" => sqlx::query(
                    "INSERT INTO by_hand.user_stats (user_id, email, created_at, active) VALUES ($1, $2, $3, TRUE)
                     ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, active = TRUE,
                         created_at = COALESCE(user_stats.created_at, excluded.created_at)",
                )
                .bind(&event.aggregate_id)
                .bind(parse::<UserCreated>(&event.payload).email)
                .bind(event.created_at),
                "EmailVerified" => sqlx::query(
                    "INSERT INTO by_hand.user_stats (user_id, email, active) VALUES ($1, $2, TRUE)
                     ON CONFLICT (user_id) DO UPDATE SET email = COALESCE(excluded.email, user_stats.email)",
                )
                .bind(&event.aggregate_id)
                .bind(parse::<EmailVerified>(&event.payload).email),
                _ => sqlx::query(
                    "INSERT INTO by_hand.user_stats (user_id, active) VALUES ($1, FALSE)
                     ON CONFLICT (user_id) DO UPDATE SET active = FALSE",
                )
                .bind(&event.aggregate_id),
            };
            statement.execute(&mut *transaction).await?;
        }
        checkpoint(&mut transaction, position).await?;
        transaction.commit().await?;
    }
}

/// The tables of [`folded`].
pub(crate) const AIRCRAFT: &str = "CREATE TABLE by_hand.aircraft_log (
    aircraft TEXT PRIMARY KEY, flights BIGINT NOT NULL, miles BIGINT NOT NULL,
    last_position BIGINT NOT NULL, last_airport TEXT NOT NULL)";

/// Folds a page in memory and writes it with one statement: the fast way.
pub(crate) async fn folded(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut position = 0;
    loop {
        let events = page(connection, position, &["FlightDeparted"]).await?;
        let Some(last) = events.last() else { return Ok(()) };
        position = last.global_position;
        let mut folded: HashMap<&str, Legs> = HashMap::new();
        for event in &events {
            let flight: Departed = parse(&event.payload);
            let legs = folded.entry(&event.aggregate_id).or_default();
            legs.flights += 1;
            legs.miles += flight.distance_miles;
            legs.last_position = event.global_position;
            legs.last_airport = flight.dest;
        }
        let (mut aircraft, mut flights, mut miles, mut positions, mut airports) =
            (vec![], vec![], vec![], vec![], vec![]);
        for (name, legs) in folded {
            aircraft.push(name);
            flights.push(legs.flights);
            miles.push(legs.miles);
            positions.push(legs.last_position);
            airports.push(legs.last_airport);
        }
        let mut transaction = connection.begin().await?;
        sqlx::query(
            "INSERT INTO by_hand.aircraft_log
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
             ON CONFLICT (aircraft) DO UPDATE SET flights = aircraft_log.flights + excluded.flights,
                 miles = aircraft_log.miles + excluded.miles, last_position = excluded.last_position,
                 last_airport = excluded.last_airport",
        )
        .bind(aircraft)
        .bind(flights)
        .bind(miles)
        .bind(positions)
        .bind(airports)
        .execute(&mut *transaction)
        .await?;
        checkpoint(&mut transaction, position).await?;
        transaction.commit().await?;
    }
}
