//! What the dashboard can do, and the payloads that it shows: only with the token, and each action leaves a line in the log.
//!
//! Nothing here is another way than that of the commands: a pause is `host pause`, a retry `host dlq retry`. So it holds
//! across processes, and what cannot be done there cannot be done here.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use crate::event::{Event, Position};
use crate::operations::observer::Observer;
use crate::read_model::dead_letter::Aggregate;
use crate::read_model::dead_letters::{Cursor, Listed, Page, Selection};
use crate::read_model::pause::Paused;
use crate::read_model::request::Action;
use crate::timestamp;

/// How many parked aggregates are shown at a time: their payloads are read each time somebody looks.
const MOST: usize = 20;

/// Behind which parked aggregate a page begins; the first without.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Behind {
    /// Of which projection.
    after_projection: Option<String>,
    /// The event that it is parked for.
    after_position: Option<u64>,
}

/// A page of what is parked.
#[derive(Debug, Serialize)]
struct ParkedPage {
    /// The aggregates.
    parked: Vec<Parked>,
    /// Where the next page begins, if there is one.
    next: Option<Cursor>,
}

/// A parked aggregate, as the page shows it.
#[derive(Debug, Serialize)]
struct Parked {
    /// Of which projection.
    projection: String,
    /// Which.
    bounded_context: String,
    /// Which.
    aggregate_type: String,
    /// Which.
    aggregate_id: String,
    /// The event that it is parked for.
    position: Position,
    /// What happened.
    event_type: String,
    /// What went wrong.
    error: String,
    /// How often it was tried.
    attempts: u32,
    /// How many events wait, this one among them.
    letters: u64,
    /// Since when, RFC 3339.
    since: String,
    /// The payload as text, or in base64 where it is none; nothing when the event is not in the log any more.
    payload: Option<String>,
    /// What was asked and is not done yet.
    asked: Option<String>,
}

/// Which aggregate is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meant {
    /// Of which projection.
    projection: String,
    /// Which.
    bounded_context: String,
    /// Which.
    aggregate_type: String,
    /// Which.
    aggregate_id: String,
    /// The event to give up on; nothing to try all again.
    position: Option<u64>,
}

/// Runs what asks a database on a thread that may wait.
async fn blocking<T: Serialize + Send + 'static>(
    app: &App,
    work: impl FnOnce(&Observer) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Response> {
    let observer = Arc::clone(&app.observer);
    let failed = |message: String| (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": message}))).into_response();
    match tokio::task::spawn_blocking(move || work(&observer)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("it has panicked: this is a bug of the host".to_owned())),
    }
}

/// `GET /api/dead-letters`: a page of what is parked, with payloads.
pub(super) async fn dead_letters(State(app): State<App>, Query(behind): Query<Behind>) -> Response {
    let after = behind.after_projection.zip(behind.after_position);
    let after = after.map(|(projection, position)| Cursor { projection, position: Position::new(position) });
    let read = blocking(&app, move |observer| {
        let page = Page { after, most: MOST };
        let Listed { items: parked, next } =
            observer.read_model().dead_letters()?.parked(&Selection::default(), &page)?;
        let mut positions: Vec<Position> = parked.iter().map(|parked| parked.poison.position).collect();
        positions.sort_unstable();
        positions.dedup();
        let events = observer.source().events_at(&positions)?;
        let shown = parked.into_iter().map(|parked| {
            let event = events.iter().find(|event| event.position() == parked.poison.position);
            Parked {
                projection: parked.group.projection,
                bounded_context: parked.group.aggregate.bounded_context,
                aggregate_type: parked.group.aggregate.aggregate_type,
                aggregate_id: parked.group.aggregate.aggregate_id,
                position: parked.poison.position,
                event_type: parked.poison.event_type,
                error: parked.poison.error,
                attempts: parked.poison.attempts,
                letters: parked.group.letters,
                since: timestamp::format(parked.group.since),
                payload: event.map(payload),
                asked: parked.waiting.map(|waiting| format!("{} {}", waiting.action.as_str(), waiting.note)),
            }
        });
        Ok(ParkedPage { parked: shown.collect(), next })
    });
    read.await.map_or_else(|response| response, |page| Json(page).into_response())
}

/// A payload as text.
fn payload(event: &Event) -> String {
    match std::str::from_utf8(&event.payload) {
        Ok(text) => text.to_owned(),
        Err(_) => base64::engine::general_purpose::STANDARD.encode(&event.payload),
    }
}

/// `POST /api/dead-letters`: retry, or skip where a position is said.
pub(super) async fn ask(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Json(meant): Json<Meant>,
) -> Response {
    let action = meant.position.map_or(Action::Retry, |position| Action::Skip(Position::new(position)));
    let Meant { projection, bounded_context, aggregate_type, aggregate_id, .. } = meant;
    let aggregate = Aggregate { bounded_context, aggregate_type, aggregate_id };
    let (name, told) = (projection.clone(), aggregate.to_string());
    let asked = blocking(&app, move |observer| {
        let mut letters = observer.read_model().dead_letters()?;
        Ok(letters.ask(&projection, &aggregate, action, &format!("projectionist dashboard, {from}"))?)
    });
    let asked = asked.await;
    let result = match &asked {
        Ok(Some(_)) => "asked",
        Ok(None) => "not parked",
        Err(_) => "failed",
    };
    tracing::info!(target: "audit", action = action.as_str(), projection = name, aggregate = told, %from, result, "dashboard");
    match asked {
        Ok(Some(request)) => Json(json!({"request": request})).into_response(),
        Ok(None) => (StatusCode::CONFLICT, Json(json!({"error": format!("{told} is not parked")}))).into_response(),
        Err(response) => response,
    }
}

/// `POST /api/projections/NAME/pause`
pub(super) async fn pause(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(projection): Path<String>,
) -> Response {
    let name = projection.clone();
    let by = format!("dashboard, {from}");
    let done = blocking(&app, move |observer| {
        refuse_unknown(observer, &projection)?;
        Ok(observer.read_model().pause(&projection, &by)? == Paused::Done)
    });
    done_with("pause", &name, from, done.await)
}

/// `POST /api/projections/NAME/resume`
pub(super) async fn resume(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(projection): Path<String>,
) -> Response {
    let name = projection.clone();
    let done = blocking(&app, move |observer| {
        refuse_unknown(observer, &projection)?;
        Ok(observer.read_model().resume(&projection)? == Paused::Done)
    });
    done_with("resume", &name, from, done.await)
}

/// Refuses a projection that has never run there: its file would be made.
fn refuse_unknown(observer: &Observer, projection: &str) -> anyhow::Result<()> {
    let known = observer.read_model().overview()?;
    anyhow::ensure!(
        known.iter().any(|overview| overview.projection == projection),
        "there is no projection {projection}"
    );
    Ok(())
}

/// Logs an action and answers.
fn done_with(action: &str, projection: &str, from: SocketAddr, done: Result<bool, Response>) -> Response {
    let result = match &done {
        Ok(true) => "done",
        Ok(false) => "was so already",
        Err(_) => "failed",
    };
    tracing::info!(target: "audit", action, projection, %from, result, "dashboard");
    done.map_or_else(|response| response, |changed| Json(json!({"changed": changed})).into_response())
}
