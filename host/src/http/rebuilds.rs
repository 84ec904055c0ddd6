//! Building a projection afresh from the dashboard: what the page asks for, and what it is shown of it.

use std::fmt;
use std::net::SocketAddr;

use axum::Json;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::App;

/// What builds projections afresh beside the live ones, as `host rebuild` does, within this process.
pub trait Rebuilder: fmt::Debug + Send + Sync {
    /// The projections that it can build: those whose component this process has.
    fn projections(&self) -> Vec<String>;

    /// Begins, or goes on where it was interrupted. What becomes of it is seen in [`Rebuilder::seen`].
    ///
    /// # Errors
    /// When it cannot: why.
    fn start(&self, projection: &str) -> Result<(), String>;

    /// Ends what was begun; says whether there was anything. What was built stays, and is gone on with.
    fn interrupt(&self, projection: &str) -> bool;

    /// What was begun since the process started, by projection.
    fn seen(&self) -> Vec<Seen>;
}

/// What is known of a rebuild.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Of which projection.
    pub projection: String,
    /// How far it is.
    pub stage: Stage,
    /// How it has ended, in words; empty while it runs.
    pub told: String,
    /// When it was begun, or has ended: RFC 3339.
    pub at: String,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is built.
    Running,
    /// It was swapped in.
    Done,
    /// It has failed or was interrupted, and the live one is as it was.
    Failed,
}

/// `POST /api/projections/NAME/rebuild`
pub(super) async fn start(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(projection): Path<String>,
) -> Response {
    let started = app.rebuilder.start(&projection);
    let result = if started.is_ok() { "started" } else { "refused" };
    tracing::info!(target: "audit", action = "rebuild", projection, %from, result, "dashboard");
    match started {
        Ok(()) => (StatusCode::ACCEPTED, Json(json!({"started": true}))).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(json!({"error": error}))).into_response(),
    }
}

/// `POST /api/projections/NAME/interrupt`
pub(super) async fn interrupt(
    State(app): State<App>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(projection): Path<String>,
) -> Response {
    let was_there = app.rebuilder.interrupt(&projection);
    let result = if was_there { "asked" } else { "nothing to interrupt" };
    tracing::info!(target: "audit", action = "interrupt", projection, %from, result, "dashboard");
    if was_there {
        return Json(json!({"interrupted": true})).into_response();
    }
    let error = format!("this process is not rebuilding {projection}");
    (StatusCode::CONFLICT, Json(json!({"error": error}))).into_response()
}
