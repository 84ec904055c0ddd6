//! Connections: how many there are at a time, and how long each may take.
//!
//! Whoever can connect can open many, say nothing, or say it byte by byte. None of that may cost a batch its time or the host
//! its memory and its file descriptors. So all of it happens on one thread, with a runtime of its own: what workers wait
//! for is elsewhere. There are never more than [`MOST`] connections, and a new one takes the place of the one
//! that has been silent for longest: who asks for something asks at once, and is not silent for long. What a request may
//! take has a bound each: its head [`HEAD`], its body [`BODY`] and [`ANSWER`], a connection as a whole [`LONGEST`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

/// How many connections there are at most.
const MOST: usize = 256;

/// How long the head of a request may take, and how long a connection that was answered may wait for its next one.
const HEAD: Duration = Duration::from_secs(10);

/// How large a head may be, and how much of an answer waits for whoever reads it slowly.
const BUFFER: usize = 32 << 10;

/// How large the body of a request may be: a few names.
pub(super) const BODY: usize = 64 << 10;

/// How long it may take from a request's head to its answer, with the body of the request.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a connection lives. A dashboard that is open connects anew.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How many requests may wait for a database at the same time.
const WAITING: usize = 8;

/// How long to wait when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_secs(1);

/// What connections are served on: one thread, and a few that wait for databases.
///
/// # Errors
/// When the system does not give it.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(WAITING).thread_name("http waits").build()
}

/// Marks an answer that goes on for as long as somebody follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed;

/// What a connection is about. The sooner it may be closed to make room, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It has not said what it wants.
    Silent,
    /// It has an answer, and reads it, or is silent since.
    Answered,
    /// It waits for an answer.
    Asking,
    /// Somebody follows what is shown.
    Following,
}

/// A connection.
#[derive(Debug)]
struct Connection {
    /// What it is about.
    stage: Stage,
    /// Since when.
    since: Instant,
    /// Ends it.
    task: AbortHandle,
}

/// The connections that are open, by number.
#[derive(Debug, Default)]
struct Open {
    /// The number of the last one.
    last: u64,
    /// All of them.
    connections: HashMap<u64, Connection>,
    /// Whether it was told that there are too many.
    told: bool,
}

impl Open {
    /// Which one is to go when there is no room: nothing when each is waiting for an answer or followed.
    fn least(&self) -> Option<u64> {
        let may_go = self.connections.iter().filter(|(_, connection)| connection.stage <= Stage::Answered);
        may_go.min_by_key(|(_, connection)| (connection.stage, connection.since)).map(|(number, _)| *number)
    }
}

/// The connections that are open.
#[derive(Clone, Debug, Default)]
struct Connections(Arc<Mutex<Open>>);

/// A connection's place among them, free again when it is dropped.
#[derive(Debug)]
struct Place {
    /// All of them.
    all: Connections,
    /// Its number.
    number: u64,
}

impl Place {
    /// It is about something else from now on.
    fn is(&self, stage: Stage) {
        if let Some(connection) = self.all.lock().connections.get_mut(&self.number) {
            (connection.stage, connection.since) = (stage, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.lock().connections.remove(&self.number);
    }
}

impl Connections {
    /// The connections.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one more, in the place of another if there are enough.
    fn admit(&self, stream: TcpStream, from: SocketAddr, router: &Router) -> Room {
        let mut open = self.lock();
        let mut room = Room::Was;
        if open.connections.len() >= MOST {
            room = Room::Made;
            if !std::mem::replace(&mut open.told, true) {
                tracing::warn!(
                    most = MOST,
                    "many connections over HTTP: those that ask for nothing make room for others"
                );
            }
            let Some(least) = open.least() else { return room };
            if let Some(connection) = open.connections.remove(&least) {
                connection.task.abort();
            }
        }
        open.last += 1;
        let number = open.last;
        let place = Place { all: self.clone(), number };
        let task = tokio::spawn(serve(stream, from, router.clone(), place)).abort_handle();
        open.connections.insert(number, Connection { stage: Stage::Silent, since: Instant::now(), task });
        room
    }
}

/// Where a connection has its room from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// It was there.
    Was,
    /// Another one has to end for it.
    Made,
}

/// Serves whoever connects, for as long as the process lives.
pub(super) async fn accept(listener: TcpListener, router: Router) -> Infallible {
    let connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if connections.admit(stream, from, &router) == Room::Made {
                    // The one that is to end does so when its turn comes, and not behind a hundred that connect.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection over HTTP");
                tokio::time::sleep(NO_ROOM).await;
            }
        }
    }
}

/// Serves one connection.
async fn serve(stream: TcpStream, from: SocketAddr, router: Router, place: Place) {
    // What is shown each second is not to wait for more.
    stream.set_nodelay(true).ok();
    let place = &place;
    let answers = service_fn(move |mut request: Request<Incoming>| {
        let router = TowerToHyperService::new(router.clone());
        async move {
            place.is(Stage::Asking);
            request.extensions_mut().insert(ConnectInfo(from));
            let Ok(answered) = tokio::time::timeout(ANSWER, router.call(request)).await else {
                place.is(Stage::Answered);
                return Ok::<_, Infallible>(too_slow());
            };
            let Ok(answer) = answered;
            let is_followed = answer.extensions().get::<Followed>().is_some();
            place.is(if is_followed { Stage::Following } else { Stage::Answered });
            Ok(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answers));
    // How it ends is the affair of whoever is at its other end.
    if tokio::time::timeout(LONGEST, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(HEAD, connection).await.ok();
    }
}

/// The answer to what takes too long.
fn too_slow() -> Response {
    let message = format!("this has taken longer than {ANSWER:?}");
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"error": message}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_silent_for_longest_makes_room_and_nobody_who_waits() {
        let runtime = runtime().unwrap();
        let now = Instant::now();
        let mut open = Open::default();
        for (number, (stage, age)) in (1..).zip([
            (Stage::Asking, 9),
            (Stage::Answered, 8),
            (Stage::Silent, 1),
            (Stage::Silent, 2),
            (Stage::Following, 7),
        ]) {
            let task = runtime.spawn(std::future::pending::<()>()).abort_handle();
            let since = now.checked_sub(Duration::from_secs(age)).unwrap();
            open.connections.insert(number, Connection { stage, since, task });
        }
        let mut gone = Vec::new();
        while let Some(least) = open.least() {
            open.connections.remove(&least);
            gone.push(least);
        }
        assert_eq!(gone, [4, 3, 2]);
    }
}
