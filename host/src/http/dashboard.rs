//! The dashboard: one page, which holds its style and its script, and a stream of what it shows.
//!
//! The page itself tells nothing and is served to everybody; what it shows it asks for, with the token where one is needed.
//! Its policy lets the browser run this script and no other, so that text from an event can never become one.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse as _, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::connections::Followed;
use super::rebuilds::Seen;
use super::{App, FOLLOWERS};
use crate::operations::gauges::name_of;
use crate::operations::health::Health;
use crate::operations::report::Report;
use crate::processor::Progress;
use crate::processor::progress::State as WorkerState;
use crate::telemetry::reloads::{self, Reloaded};

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// The style of the page.
const STYLE: &str = include_str!("dashboard/style.css");
/// Its script.
const SCRIPT: &str = include_str!("dashboard/script.js");

/// The page, and the policy it is served with.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let page = include_str!("dashboard/page.html").replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
    let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    (page, policy)
});

/// What the page shows.
#[derive(Debug, Serialize)]
struct Shown {
    /// What this process calls itself.
    owner: String,
    /// Whether a token is set, so that something can be done.
    actions: bool,
    /// How well it is.
    health: Health,
    /// How far everything is; nothing while the databases are away.
    report: Option<Arc<Report>>,
    /// The workers of this process.
    workers: Vec<Worker>,
    /// Components that were changed, the last first.
    reloads: Vec<Reloaded>,
    /// The projections that this process can build afresh.
    rebuildable: Vec<String>,
    /// What it has begun to build.
    rebuilds: Vec<Seen>,
}

/// A worker.
#[derive(Debug, Serialize)]
struct Worker {
    /// Of which projection.
    projection: String,
    /// Which of its partitions.
    partition: String,
    /// What it is about.
    state: &'static str,
    /// More of that.
    detail: String,
    /// Events it has applied.
    events: u64,
    /// What they cost.
    cost: crate::telemetry::metrics::Cost,
}

impl Worker {
    /// As it is now.
    fn of(progress: &Progress) -> Self {
        let state = progress.state();
        let detail = match &state {
            WorkerState::StandingBy { behind: text }
            | WorkerState::Waiting { reason: text }
            | WorkerState::Failed { reason: text } => text.clone(),
            WorkerState::Starting | WorkerState::Running | WorkerState::Paused | WorkerState::Done => String::new(),
        };
        Self {
            projection: progress.projection().to_owned(),
            partition: progress.partition().to_string(),
            state: name_of(&state),
            detail,
            events: progress.events(),
            cost: progress.cost(),
        }
    }
}

/// `/`
pub(super) async fn page() -> Response {
    let (page, policy) = &*PAGE;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(page.as_str())).into_response()
}

/// `/api/state`: what the page shows, once.
pub(super) async fn state(State(app): State<App>) -> Response {
    Json(shown(&app).await).into_response()
}

/// `/api/events`: the same each second, for as long as the token that it was asked for with is the right one.
pub(super) async fn events(State(app): State<App>, headers: HeaderMap) -> Response {
    let Ok(room) = Arc::clone(&app.followers).try_acquire_owned() else {
        let message = format!("{FOLLOWERS} dashboards of this host are open already: close one\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], message).into_response();
    };
    let stream =
        futures_util::stream::unfold((app, headers, Duration::ZERO, room), |(app, headers, wait, room)| async move {
            tokio::time::sleep(wait).await;
            if !app.still_lets(&headers) {
                return None;
            }
            let event = Event::default().json_data(shown(&app).await).unwrap_or_default();
            Some((Ok::<_, Infallible>(event), (app, headers, EVERY, room)))
        });
    (Extension(Followed), Sse::new(stream).keep_alive(KeepAlive::default())).into_response()
}

/// What there is to show now.
async fn shown(app: &App) -> Shown {
    let report = app.observer.look().await;
    Shown {
        owner: crate::cli::run::owner(),
        actions: app.has_token(),
        health: Health::judge(&app.observer.workers(), report.as_deref().map_err(String::as_str), &app.max_lag()),
        report: report.ok(),
        workers: app.observer.workers().iter().map(|progress| Worker::of(progress)).collect(),
        reloads: reloads::all(),
        rebuildable: app.rebuilder.projections(),
        rebuilds: app.rebuilder.seen(),
    }
}
