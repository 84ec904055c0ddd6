//! The host's loop, as far as a test needs it.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    fmt,
};

use super::{EventBuilder, database::Database};
use crate::{Event, Failure, FromValue, Params, Projection, Row, Rows, Transaction, Value, config::source};

/// Runs a projection on an in-memory SQLite database: migrates, applies batches of events, and answers
/// queries about what they made.
pub struct TestHost<P> {
    /// Its tables.
    database: Database,
    /// The instance, until something rolls back.
    projection: Option<P>,
    /// What `config` says.
    settings: BTreeMap<String, String>,
    /// The version of the tables as they are.
    version: u32,
    /// The last position given to an event.
    position: u64,
    /// The last version of each aggregate.
    versions: HashMap<(String, String, String), u64>,
}

impl<P: Projection> TestHost<P> {
    /// A host with an empty database. Migrates before the first batch.
    pub fn new() -> Self {
        Self {
            database: Database::new(),
            projection: None,
            settings: BTreeMap::new(),
            version: 0,
            position: 0,
            versions: HashMap::new(),
        }
    }

    /// Sets what `config` says, as `--set key=value` does.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.settings.insert(key.into(), value.to_string());
        self
    }

    /// Starts with tables of an older version, made by `sql`, so that the next batch migrates from there.
    ///
    /// # Panics
    ///
    /// When the statements fail.
    #[must_use]
    #[track_caller]
    pub fn at_version(mut self, version: u32, sql: &str) -> Self {
        if let Err(error) = self.database.run_freely(sql) {
            panic!("{error}");
        }
        self.version = version;
        self
    }

    /// Applies a batch of events, in one transaction: migrates if that is due, handles each event that the
    /// projection wants, flushes, and commits.
    ///
    /// # Panics
    ///
    /// When anything fails; see [`try_apply`](Self::try_apply).
    #[track_caller]
    pub fn apply(&mut self, events: impl IntoIterator<Item = EventBuilder>) {
        if let Err(failure) = self.try_apply(events) {
            panic!("{failure}");
        }
    }

    /// Applies a batch of events, or nothing: after a failure the database is as it was before, and the
    /// projection's memory is gone.
    ///
    /// # Errors
    ///
    /// The projection's failure, or the statement that failed, and in which call.
    pub fn try_apply(&mut self, events: impl IntoIterator<Item = EventBuilder>) -> Result<(), BatchFailure> {
        let events: Vec<Event> = events.into_iter().map(|event| self.store(event)).collect();
        self.database.begin();
        let mut projection = self.projection.take();
        match self.run_batch(&mut projection, &events) {
            Ok(()) => {
                self.version = P::version();
                self.projection = projection;
                Ok(())
            }
            Err(failure) => {
                self.database.roll_back();
                Err(failure)
            }
        }
    }

    /// Migrates, if that is due, without any event.
    ///
    /// # Panics
    ///
    /// When it fails.
    #[track_caller]
    pub fn migrate(&mut self) {
        self.apply([]);
    }

    /// Drops the projection's memory, as a restart of the host does between two batches.
    pub fn restart(&mut self) {
        self.projection = None;
    }

    /// The rows of a query, to be compared with [`values!`](crate::testing::values).
    ///
    /// # Panics
    ///
    /// When the query fails.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        self.query(sql, Vec::new()).into_iter().map(Row::into_values).collect()
    }

    /// The rows of a query with parameters, to be read by column.
    ///
    /// # Panics
    ///
    /// When the query fails.
    #[track_caller]
    pub fn query(&self, sql: &str, params: impl Into<Params>) -> Rows {
        let answer = params.into().into_values().and_then(|params| self.database.read(sql, &params));
        match answer {
            Ok(answer) => Rows::new(answer.columns, answer.rows, answer.affected),
            Err(error) => panic!("{error}"),
        }
    }

    /// The one value of a query: `host.value::<i64>("SELECT count(*) FROM users")`.
    ///
    /// # Panics
    ///
    /// When the query fails, has no row, or its first column is no `T`.
    #[track_caller]
    pub fn value<T: FromValue>(&self, sql: &str) -> T {
        let rows = self.query(sql, Vec::new());
        let Some(row) = rows.first() else { panic!("no row: {sql}") };
        match row.get(0) {
            Ok(value) => value,
            Err(error) => panic!("{error}, in: {sql}"),
        }
    }

    /// Gives an event what a store would give it.
    fn store(&mut self, event: EventBuilder) -> Event {
        let version = self.versions.entry(event.aggregate_key()).or_default();
        let event = event.stored(self.position + 1, *version + 1);
        *version = event.aggregate_version();
        self.position = event.position();
        event
    }

    /// Everything between begin and commit, and the commit.
    fn run_batch(&self, slot: &mut Option<P>, events: &[Event]) -> Result<(), BatchFailure> {
        source::install(&self.settings);
        let tx = Transaction::new(&self.database);
        let projection = match slot {
            Some(projection) => projection,
            None => {
                let projection = slot.insert(P::default());
                self.call("configure".into(), || projection.configure())?;
                projection
            }
        };
        if self.version < P::version() {
            let name = format!("migrate from version {}", self.version);
            self.database.permit_migration(|| {
                self.call(name, || {
                    projection.migrate(&tx, self.version)?;
                    // Sends what the migration holds, while tables may be made.
                    tx.query("SELECT 1", Vec::new())?;
                    Ok(())
                })
            })?;
        }
        for event in events.iter().filter(|event| wanted::<P>(event)) {
            let name = format!("handle of {} at position {}", event.event_type(), event.position());
            self.call(name, || projection.handle(&tx, event))?;
        }
        self.call("flush".into(), || projection.flush(&tx))?;
        self.database.commit().map_err(|(call, error)| BatchFailure { call, failure: error.into() })
    }

    /// Makes one call. A statement that was held may fail in a later call than its own; the failure then
    /// names the one it came from.
    fn call(&self, name: String, run: impl FnOnce() -> Result<(), Failure>) -> Result<(), BatchFailure> {
        self.database.begin_call(&name);
        run().map_err(|failure| {
            let call = self.database.failed_call().unwrap_or(name);
            BatchFailure { call, failure }
        })
    }
}

impl<P: Projection> Default for TestHost<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Projection> fmt::Debug for TestHost<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestHost").field("projection", &P::name()).finish_non_exhaustive()
    }
}

/// Whether the projection's filters let an event through.
fn wanted<P: Projection>(event: &Event) -> bool {
    let passes = |filter: &[&str], value| filter.is_empty() || filter.contains(&value);
    passes(P::event_types(), event.event_type())
        && passes(P::aggregate_types(), event.aggregate_type())
        && passes(P::bounded_contexts(), event.bounded_context())
}

/// Why a batch was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchFailure {
    /// Which call it was.
    call: String,
    /// What it said.
    failure: Failure,
}

impl BatchFailure {
    /// The call that failed: `configure`, `migrate from version 0`, `handle of UserCreated at position 3`,
    /// or `flush`.
    pub fn call(&self) -> &str {
        &self.call
    }

    /// What it failed with.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }
}

impl fmt::Display for BatchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.failure {
            Failure::Transient(_) => "transient",
            Failure::Permanent(_) => "permanent",
        };
        write!(f, "{}: {kind} failure: {}", self.call, self.failure)
    }
}

impl Error for BatchFailure {}
