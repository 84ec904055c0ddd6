//! What a process counts of its own work, for Prometheus.
//!
//! Counting costs nothing on the fast path: a worker counts once a batch, with atomics of its own that it looked up when
//! it started. There is one set of metrics a process, and it is always there; only `--http` shows it. What is no count but a
//! state of the databases (lag, horizon, dead letters) is read when somebody asks: see
//! [`crate::operations`]. `docs/metrics.md` lists all of them.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use super::traces::batch::Spans;

/// A partition of a projection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// The projection.
    pub projection: String,
    /// The partition, as `0 of 4`.
    pub partition: String,
}

/// A projection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProjection {
    /// Its name.
    projection: String,
}

/// A failure of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    /// The projection.
    projection: String,
    /// The partition.
    partition: String,
    /// What kind of failure.
    kind: &'static str,
}

/// A change of a projection's component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReload {
    /// The projection.
    projection: String,
    /// What became of it.
    result: &'static str,
}

/// Connections by what they are for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDatabase {
    /// `events` or `read_model`.
    database: &'static str,
}

/// What became of a changed component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It is to run from the next batch on.
    Taken,
    /// It was not taken, or given back; the last good one goes on.
    Refused,
}

/// All that is counted.
#[derive(Debug)]
struct Metrics {
    /// What they are called and mean.
    registry: Registry,
    /// Events applied.
    events: Family<Of, Counter>,
    /// Transactions that applied events.
    batches: Family<Of, Counter>,
    /// Their time, from BEGIN to COMMIT.
    batch: Family<Of, Histogram>,
    /// Of that: in the guest.
    guest: Family<Of, Histogram>,
    /// In the guest's statements.
    sql: Family<Of, Histogram>,
    /// At the commit.
    commit: Family<Of, Histogram>,
    /// Failures.
    failures: Family<OfFailure, Counter>,
    /// Attempts after a failure.
    retries: Family<Of, Counter>,
    /// Dead letters written.
    dead_letters: Family<Of, Counter>,
    /// Claims of partitions.
    claims: Family<Of, Counter>,
    /// Memory of the running instance.
    memory: Family<Of, Gauge>,
    /// Changes of components.
    reloads: Family<OfReload, Counter>,
    /// Changes of the number of partitions.
    rescales: Family<OfProjection, Counter>,
    /// Connections.
    connections: Family<OfDatabase, Gauge>,
    /// Workers that wait for one.
    waiting: Family<OfProjection, Gauge>,
    /// For how long they have, together.
    waited: Family<OfProjection, Counter<f64, AtomicU64>>,
    /// Spans that nobody took.
    spans_lost: Counter,
}

/// The metrics of this process.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// From 0.1 ms to 26 s, each bucket four times the one before.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 4.0, 10))
}

/// A family of histograms of times.
type Durations = Family<Of, Histogram>;

impl Metrics {
    /// Nothing has happened yet.
    fn new() -> Self {
        let durations = || Durations::new_with_constructor(durations);
        let mut metrics = Self {
            registry: Registry::with_prefix("projectionist"),
            events: Family::default(),
            batches: Family::default(),
            batch: durations(),
            guest: durations(),
            sql: durations(),
            commit: durations(),
            failures: Family::default(),
            retries: Family::default(),
            dead_letters: Family::default(),
            claims: Family::default(),
            memory: Family::default(),
            reloads: Family::default(),
            rescales: Family::default(),
            connections: Family::default(),
            waiting: Family::default(),
            waited: Family::default(),
            spans_lost: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("events_applied", "Events applied", metrics.events.clone());
        registry.register("batches", "Transactions that applied events", metrics.batches.clone());
        let timed = [
            ("batch", "Time of a batch, from its begin to its commit", &metrics.batch),
            ("guest", "Time of a batch in the projection", &metrics.guest),
            (
                "sql",
                "Time of a batch in the projection's statements, those that wait for the commit left out",
                &metrics.sql,
            ),
            ("commit", "Time of a commit, with the statements that were kept for it", &metrics.commit),
        ];
        for (name, help, family) in timed {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        registry.register("failures", "Failures by kind", metrics.failures.clone());
        registry.register("retries", "Attempts after a failure", metrics.retries.clone());
        registry.register("dead_letters_written", "Events that became dead letters", metrics.dead_letters.clone());
        registry.register("claims", "Claims of the partition", metrics.claims.clone());
        registry.register_with_unit("guest_memory", "Memory of the instance", Unit::Bytes, metrics.memory.clone());
        registry.register("reloads", "Changed components, by whether they were taken", metrics.reloads.clone());
        registry.register("rescales", "Changes of the number of partitions", metrics.rescales.clone());
        registry.register("connections", "Open connections of workers and readers", metrics.connections.clone());
        registry.register("connection_waiting", "Workers that wait for a connection", metrics.waiting.clone());
        let help = "Time that workers have waited for a connection, together";
        registry.register_with_unit("connection_wait", help, Unit::Seconds, metrics.waited.clone());
        registry.register("spans_lost", "Spans that were not taken where they are sent to", metrics.spans_lost.clone());
        metrics
    }
}

/// Writes what was counted, as OpenMetrics has it, without its end.
///
/// # Errors
/// When the buffer takes no more, which a string always does.
pub fn write(buffer: &mut String) -> std::fmt::Result {
    prometheus_client::encoding::text::encode_registry(buffer, &METRICS.registry)
}

/// A changed component was taken, or not.
pub fn reloaded(projection: &str, result: Reload) {
    let result = match result {
        Reload::Taken => "taken",
        Reload::Refused => "refused",
    };
    METRICS.reloads.get_or_create(&OfReload { projection: projection.to_owned(), result }).inc();
}

/// The number of a projection's partitions was changed.
pub fn rescaled(projection: &str) {
    METRICS.rescales.get_or_create(&OfProjection { projection: projection.to_owned() }).inc();
}

/// Counts a worker's connection to its read model for as long as it lives.
#[derive(Debug)]
pub struct OpenConnection(());

impl OpenConnection {
    /// One more.
    #[must_use]
    pub fn count() -> Self {
        connections("read_model").inc();
        Self(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        connections("read_model").dec();
    }
}

/// Counts a worker that waits for a connection for as long as it does.
#[derive(Debug)]
pub struct WaitForConnection {
    /// The projection it works for.
    of: OfProjection,
    /// Since when.
    since: Instant,
}

impl WaitForConnection {
    /// It begins to wait.
    #[must_use]
    pub fn begin(projection: &str) -> Self {
        let of = OfProjection { projection: projection.to_owned() };
        METRICS.waiting.get_or_create(&of).inc();
        Self { of, since: Instant::now() }
    }
}

impl Drop for WaitForConnection {
    fn drop(&mut self) {
        METRICS.waiting.get_or_create(&self.of).dec();
        METRICS.waited.get_or_create(&self.of).inc_by(self.since.elapsed().as_secs_f64());
    }
}

/// So many spans were not taken where they are sent to.
pub fn spans_were_lost(count: usize) {
    METRICS.spans_lost.inc_by(count as u64);
}

/// Notes how many connections events are read on.
pub fn events_are_read_on(count: usize) {
    connections("events").set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// How many there are.
fn connections(database: &'static str) -> Gauge {
    METRICS.connections.get_or_create_owned(&OfDatabase { database })
}

/// A transaction that was committed.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// Events it applied.
    pub applied: u64,
    /// From its begin to here.
    pub whole: Duration,
    /// Of that: in statements of the projection's.
    pub sql: Duration,
    /// At the commit.
    pub commit: Duration,
    /// Bytes that the running instance has; nothing when there is none.
    pub memory: Option<usize>,
}

/// What a worker's batches have cost so far, for who wants no Prometheus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Transactions that applied events.
    pub batches: u64,
    /// Their seconds in the projection.
    pub guest_seconds: f64,
    /// In its statements.
    pub sql_seconds: f64,
    /// At the commit.
    pub commit_seconds: f64,
    /// Bytes that the running instance has.
    pub memory: usize,
}

/// What one worker counts.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Which.
    of: Of,
    /// See [`Metrics`], as all below.
    events: Counter,
    /// Transactions.
    batches: Counter,
    /// Times.
    batch: Histogram,
    /// Times.
    guest: Histogram,
    /// Times.
    sql: Histogram,
    /// Times.
    commit: Histogram,
    /// Attempts.
    retries: Counter,
    /// Letters.
    dead_letters: Counter,
    /// Claims.
    claims: Counter,
    /// Bytes.
    memory: Gauge,
    /// The same, to be read.
    cost: Arc<Mutex<Cost>>,
    /// And what makes spans of its batches, where they are wanted.
    spans: Option<Spans>,
}

impl Meter {
    /// Of a partition. From now on its counts are shown, if only as 0.
    #[must_use]
    pub fn new(projection: &str, partition: impl std::fmt::Display) -> Self {
        let of = Of { projection: projection.to_owned(), partition: partition.to_string() };
        let metrics = &*METRICS;
        Self {
            events: metrics.events.get_or_create_owned(&of),
            batches: metrics.batches.get_or_create_owned(&of),
            batch: metrics.batch.get_or_create_owned(&of),
            guest: metrics.guest.get_or_create_owned(&of),
            sql: metrics.sql.get_or_create_owned(&of),
            commit: metrics.commit.get_or_create_owned(&of),
            retries: metrics.retries.get_or_create_owned(&of),
            dead_letters: metrics.dead_letters.get_or_create_owned(&of),
            claims: metrics.claims.get_or_create_owned(&of),
            memory: metrics.memory.get_or_create_owned(&of),
            cost: Arc::default(),
            spans: Spans::of(&of.projection, &of.partition),
            of,
        }
    }

    /// What makes spans of its batches; nothing where traces are off.
    #[must_use]
    pub fn spans(&self) -> Option<&Spans> {
        self.spans.as_ref()
    }

    /// A transaction was committed.
    pub fn committed(&self, committed: Committed) {
        let Committed { applied, whole, sql, commit, memory } = committed;
        self.commit.observe(commit.as_secs_f64());
        if let Some(memory) = memory {
            self.memory.set(i64::try_from(memory).unwrap_or(i64::MAX));
        }
        // One that only passes over events says nothing about the projection.
        if applied > 0 {
            self.events.inc_by(applied);
            self.batches.inc();
            self.batch.observe(whole.as_secs_f64());
            self.sql.observe(sql.as_secs_f64());
            let guest = whole.saturating_sub(sql + commit);
            self.guest.observe(guest.as_secs_f64());
            let mut cost = self.cost.lock().unwrap_or_else(PoisonError::into_inner);
            cost.batches += 1;
            cost.guest_seconds += guest.as_secs_f64();
            cost.sql_seconds += sql.as_secs_f64();
            cost.commit_seconds += commit.as_secs_f64();
            cost.memory = memory.unwrap_or(cost.memory);
        }
    }

    /// What its batches have cost so far.
    #[must_use]
    pub fn cost(&self) -> Cost {
        *self.cost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something failed.
    pub fn failed(&self, kind: &'static str) {
        let Of { projection, partition } = self.of.clone();
        METRICS.failures.get_or_create(&OfFailure { projection, partition, kind }).inc();
    }

    /// It is tried again.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// An event became a dead letter.
    pub fn buried(&self) {
        self.dead_letters.inc();
    }

    /// The partition was claimed.
    pub fn claimed(&self) {
        self.claims.inc();
    }
}
