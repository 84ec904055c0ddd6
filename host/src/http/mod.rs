//! What a host serves over HTTP: metrics for Prometheus, health for probes and people, and a dashboard.
//!
//! [`connections`] is how many there are and how long each may take, [`access`] who may ask for what, [`dashboard`] the page
//! and what it shows, [`actions`] what can be done there, [`rebuilds`] the one that takes long. Nothing here is on the way of an event: a worker that is busy
//! answers nothing, and the pages are made of what [`crate::operations`] reads when somebody asks.

mod access;
mod actions;
mod connections;
mod dashboard;
pub mod rebuilds;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{DefaultBodyLimit, FromRef, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::json;
use tokio::sync::Semaphore;

pub use access::{Access, Token, TokenError};

use rebuilds::Rebuilder;

use crate::operations::gauges;
use crate::operations::health::{Health, MaxLag, Status};
use crate::operations::observer::Observer;
use crate::processor::progress;
use crate::telemetry::metrics;

/// How many may follow the dashboard at the same time. What each of them is shown is written anew each second.
const FOLLOWERS: usize = 32;

/// What OpenMetrics calls itself; Prometheus asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve at {address}: {source}")]
pub struct BindError {
    /// Where.
    address: SocketAddr,
    /// Why.
    source: std::io::Error,
}

/// An address that was taken, and how it is to be served.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    listener: TcpListener,
    /// Who may ask for what.
    access: Access,
    /// Where the token stands.
    token_file: Option<PathBuf>,
    /// How late projections may be.
    max_lag: MaxLag,
}

/// What the pages are made of.
#[derive(Clone, Debug)]
struct App {
    /// Workers and databases.
    observer: Arc<Observer>,
    /// How late projections may be.
    max_lag: Arc<RwLock<MaxLag>>,
    /// Who may ask for what.
    access: Arc<RwLock<Access>>,
    /// Builds projections afresh.
    rebuilder: Arc<dyn Rebuilder>,
    /// Room for those who follow the dashboard.
    followers: Arc<Semaphore>,
}

impl App {
    /// How late projections may be, now.
    fn max_lag(&self) -> MaxLag {
        self.max_lag.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is a token, so that something can be done.
    fn has_token(&self) -> bool {
        matches!(&*self.access.read().unwrap_or_else(PoisonError::into_inner), Access::Bearers(_))
    }
}

impl App {
    /// Whether what was asked for with these headers may still be shown: the token may have changed since.
    fn still_lets(&self, headers: &HeaderMap) -> bool {
        self.access.read().unwrap_or_else(PoisonError::into_inner).still_lets(headers)
    }
}

impl FromRef<App> for Arc<Observer> {
    fn from_ref(app: &App) -> Self {
        Self::clone(&app.observer)
    }
}

impl Bound {
    /// Takes the address.
    ///
    /// # Errors
    /// When somebody else has it, or this machine has no such address.
    pub fn new(
        address: SocketAddr,
        access: Access,
        token_file: Option<PathBuf>,
        max_lag: MaxLag,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, access, token_file, max_lag })
    }

    /// Serves for as long as the process lives.
    ///
    /// # Errors
    /// When the socket is of no use, or the system has no thread for it.
    pub fn serve(self, observer: Arc<Observer>, rebuilder: Arc<dyn Rebuilder>) -> std::io::Result<Served> {
        let address = self.listener.local_addr()?;
        let runtime = connections::runtime()?;
        let listener = {
            let _in_the_runtime = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let access = Arc::new(RwLock::new(self.access));
        let app = App {
            observer,
            max_lag: Arc::new(RwLock::new(self.max_lag)),
            access: Arc::clone(&access),
            rebuilder,
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        };
        let served =
            Served { access: Arc::clone(&access), token_file: self.token_file, max_lag: Arc::clone(&app.max_lag) };
        let open = Router::new().route("/", get(dashboard::page)).route("/live", get(live)).route("/ready", get(ready));
        let looking = Router::new()
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .route("/api/state", get(dashboard::state))
            .route("/api/events", get(dashboard::events))
            .route_layer(middleware::from_fn_with_state(Arc::clone(&access), access::check));
        let acting = Router::new()
            .route("/api/dead-letters", get(actions::dead_letters).post(actions::ask))
            .route("/api/projections/{name}/pause", post(actions::pause))
            .route("/api/projections/{name}/resume", post(actions::resume))
            .route("/api/projections/{name}/rebuild", post(rebuilds::start))
            .route("/api/projections/{name}/interrupt", post(rebuilds::interrupt))
            .route_layer(middleware::from_fn_with_state(access, access::check_token));
        let router = open.merge(looking).merge(acting).layer(DefaultBodyLimit::max(connections::BODY)).with_state(app);
        std::thread::Builder::new()
            .name("http".into())
            .spawn(move || match runtime.block_on(connections::accept(listener, router)) {})?;
        tracing::info!(%address, "serving the dashboard, metrics and health over HTTP");
        Ok(served)
    }
}

/// What is served, and what of it can change meanwhile.
#[derive(Debug)]
pub struct Served {
    /// Who may ask for what.
    access: Arc<RwLock<Access>>,
    /// Where the token stands.
    token_file: Option<PathBuf>,
    /// How late projections may be.
    max_lag: Arc<RwLock<MaxLag>>,
}

impl Served {
    /// Goes on with this limit, and with the token that its file has now.
    ///
    /// # Errors
    /// When the token cannot be used. Then nothing is changed.
    pub fn reload(&self, max_lag: MaxLag) -> Result<(), TokenError> {
        if let Some(file) = &self.token_file {
            let token = Token::read(file)?;
            *self.access.write().unwrap_or_else(PoisonError::into_inner) = Access::Bearers(token);
        }
        *self.max_lag.write().unwrap_or_else(PoisonError::into_inner) = max_lag;
        Ok(())
    }
}

/// The process answers.
async fn live() -> &'static str {
    "live\n"
}

/// Whether every worker has claimed its partition, or stands by for it.
async fn ready(State(observer): State<Arc<Observer>>) -> Response {
    use progress::State::{Failed, Starting, Waiting};
    let is_ready = |state| !matches!(state, Starting | Waiting { .. } | Failed { .. });
    let not_yet = observer.workers().iter().filter(|worker| !is_ready(worker.state())).count();
    if not_yet == 0 {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {not_yet} workers are starting, wait or have failed\n"))
        .into_response()
}

/// Health, with reasons. What is degraded still works, so only what is unhealthy is an error.
async fn health(State(app): State<App>) -> Response {
    let report = app.observer.look().await;
    let report = report.as_deref().map_err(String::as_str);
    let max_lag = app.max_lag();
    let health = Health::judge(&app.observer.workers(), report, &max_lag);
    let code = match health.status {
        Status::Healthy | Status::Degraded => StatusCode::OK,
        Status::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(health)).into_response()
}

/// What was counted, and how far everything is.
async fn metrics(State(observer): State<Arc<Observer>>) -> Response {
    let report = observer.look().await;
    metrics::events_are_read_on(observer.source().connections());
    let mut text = String::new();
    let written = metrics::write(&mut text)
        .and_then(|()| gauges::write(&mut text, &observer, report.as_deref().ok()))
        .and_then(|()| prometheus_client::encoding::text::encode_eof(&mut text));
    match written {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"error": error.to_string()}))).into_response(),
    }
}
