//! A fresh place to run hosts in.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Cluster, Connection, Database, Event, Host, Kind, Output, programs};

/// A folder, a database with events, one with read models (perhaps the same), and the environment in which hosts run
/// there. Everything in it is gone when it is dropped.
#[derive(Debug)]
pub struct Setup {
    /// Where the events are.
    source: Database,
    /// Where the read models are, if not there too.
    read_model: Option<Database>,
    /// The hosts' working folder.
    folder: TempDir,
    /// Variables of the hosts' environment.
    variables: Vec<(&'static str, String)>,
}

/// A checkpoint, as the read model's database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Out of how many partitions.
    pub total: u32,
    /// Which.
    pub key: u32,
    /// How far it is.
    pub position: u64,
    /// The number of its last claim.
    pub epoch: u64,
    /// Who made it.
    pub owner: String,
    /// How many events were applied.
    pub events_applied: u64,
}

/// A dead letter, as the read model's database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which event.
    pub position: u64,
    /// Whose.
    pub aggregate_id: String,
    /// `poison`, `behind` or `skipped`.
    pub reason: String,
    /// What went wrong.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
}

impl Setup {
    /// Events and read models in one database of this kind, with the host's tables in it.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let setup = Self::empty(kind);
        setup.run(["migrate"]).success();
        setup
    }

    /// Events in one kind of database, read models in another, with the host's tables in both.
    #[must_use]
    pub fn combined(source: Kind, read_model: Kind) -> Self {
        let mut setup = Self::empty(source);
        setup.read_model = Some(Database::new(read_model, setup.folder.path()));
        setup.run(["migrate"]).success();
        setup
    }

    /// Events and read models in one database, of a server of the test's own, with the host's tables in it.
    #[must_use]
    pub fn on(cluster: &Cluster) -> Self {
        let setup = Self::empty_on(cluster);
        setup.run(["migrate"]).success();
        setup
    }

    /// One database of a server of the test's own, without any table.
    #[must_use]
    pub fn empty_on(cluster: &Cluster) -> Self {
        Self { source: Database::on(cluster), read_model: None, folder: folder(), variables: Vec::new() }
    }

    /// Events in one kind of database, read models in one that is there already, with the host's tables in both.
    #[must_use]
    pub fn with_read_model(source: Kind, read_model: Database) -> Self {
        let mut setup = Self::empty(source);
        setup.read_model = Some(read_model);
        setup.run(["migrate"]).success();
        setup
    }

    /// One database of this kind, without any table.
    #[must_use]
    pub fn empty(kind: Kind) -> Self {
        let folder = folder();
        Self { source: Database::new(kind, folder.path()), read_model: None, folder, variables: Vec::new() }
    }

    /// The same, with a variable in the environment of every host.
    #[must_use]
    pub fn with_variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// The database with the events.
    #[must_use]
    pub fn source(&self) -> &Database {
        &self.source
    }

    /// The database with the read models.
    #[must_use]
    pub fn read_model(&self) -> &Database {
        self.read_model.as_ref().unwrap_or(&self.source)
    }

    /// The hosts' working folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder when this is dropped; gives it.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder().to_owned()
    }

    /// A file in the hosts' working folder, with this content.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// A command of the host, not yet started: the URLs are set, and nothing else of this process's environment but
    /// `PATH`, and `ISOLATION`, so that whatever is promised can be tried with another: `ISOLATION=login cargo test …
    /// postgres`.
    #[must_use]
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = Command::new(programs::host());
        self.prepare(&mut command);
        command.args(arguments);
        command
    }

    /// As [`Setup::command`], of the host with its guard switched off: whatever a projection says goes to its database.
    #[must_use]
    pub fn unguarded<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = Command::new(programs::unguarded());
        self.prepare(&mut command);
        command.args(arguments);
        command
    }

    /// As [`Setup::command`], without the power of root to open what its permissions forbid.
    #[must_use]
    pub fn unprivileged<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.command(arguments);
        }
        let mut command = Command::new("setpriv");
        self.prepare(&mut command);
        command.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(programs::host()).args(arguments);
        command
    }

    /// As [`Setup::command`], ignoring the signal that a file has grown past a limit: the write fails instead, as
    /// [`Host::limit_files`] wants it.
    #[must_use]
    pub fn told_of_limits<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = Command::new("sh");
        self.prepare(&mut command);
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(programs::host()).args(arguments);
        command
    }

    /// Gives a command its folder and its environment.
    fn prepare(&self, command: &mut Command) {
        command.current_dir(self.folder()).env_clear();
        for name in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE", "ISOLATION"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("PROJECTIONIST_CACHE", programs::cache()).env("DATABASE_URL", self.source.url());
        if let Some(read_model) = &self.read_model {
            command.env("READ_MODEL_URL", read_model.url());
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// Starts a host: `start(["run", …])`.
    #[must_use]
    pub fn start<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Host {
        Host::spawn(self.command(arguments))
    }

    /// Runs a host to its end.
    #[track_caller]
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Output {
        self.start(arguments).wait()
    }

    /// Inserts events past the host, and commits them together.
    #[track_caller]
    pub fn insert(&self, events: &[Event]) {
        self.source.connect().insert(events);
    }

    /// The rows of a query on a projection's tables, as text.
    #[must_use]
    #[track_caller]
    pub fn rows(&self, projection: &str, sql: &str) -> Vec<Vec<String>> {
        self.read_model().connect_to(projection).rows(sql)
    }

    /// As [`Setup::rows`], in the order of the rows' text, which is the same on every database.
    #[must_use]
    #[track_caller]
    pub fn sorted_rows(&self, projection: &str, sql: &str) -> Vec<Vec<String>> {
        let mut rows = self.rows(projection, sql);
        rows.sort();
        rows
    }

    /// How many rows a projection's table has; 0 while there is none.
    ///
    /// # Panics
    /// When it cannot be read for another reason.
    #[must_use]
    #[track_caller]
    pub fn count(&self, projection: &str, table: &str) -> u64 {
        if self.checkpoints(projection).is_empty() {
            return 0;
        }
        let sql = format!("SELECT count(*) FROM {table}");
        match self.read_model().connect_to(projection).try_rows(&sql) {
            Ok(rows) => number(&rows[0][0]),
            // Not yet, or between a rebuild in place and its first batch.
            Err(error) if error.contains("no such table") || error.contains("does not exist") => 0,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// The greatest position among the events; 0 without any.
    #[must_use]
    pub fn last_position(&self) -> u64 {
        number(&self.source.connect().value("SELECT coalesce(max(global_position), 0) FROM events"))
    }

    /// A projection's checkpoints, by key; none before it was ever claimed.
    #[must_use]
    pub fn checkpoints(&self, projection: &str) -> Vec<Checkpoint> {
        let database = self.read_model();
        if !database.has(projection) {
            return Vec::new();
        }
        let sql = format!(
            "SELECT total_partitions, partition_key, position, epoch, owner, events_applied FROM {}
             WHERE projection = '{projection}' ORDER BY total_partitions, partition_key",
            self.own_table("checkpoints")
        );
        let rows = database.connect_to(projection).rows(&sql);
        let checkpoint = |row: Vec<String>| Checkpoint {
            total: number(&row[0]).try_into().expect("a total"),
            key: number(&row[1]).try_into().expect("a key"),
            position: number(&row[2]),
            epoch: number(&row[3]),
            owner: row[4].clone(),
            events_applied: number(&row[5]),
        };
        rows.into_iter().map(checkpoint).collect()
    }

    /// How far a projection is, that runs undivided; 0 before it was ever claimed.
    ///
    /// # Panics
    /// When it has several partitions.
    #[must_use]
    #[track_caller]
    pub fn position(&self, projection: &str) -> u64 {
        match &self.checkpoints(projection)[..] {
            [] => 0,
            [checkpoint] => checkpoint.position,
            several => panic!("{projection} has several partitions: {several:?}"),
        }
    }

    /// How many events a projection has applied, in all its partitions.
    #[must_use]
    pub fn events_applied(&self, projection: &str) -> u64 {
        self.checkpoints(projection).iter().map(|checkpoint| checkpoint.events_applied).sum()
    }

    /// A projection's dead letters, by position.
    #[must_use]
    pub fn dead_letters(&self, projection: &str) -> Vec<DeadLetter> {
        let sql = format!(
            "SELECT global_position, aggregate_id, reason, error, attempts FROM {}
             WHERE projection = '{projection}' ORDER BY global_position",
            self.own_table("dead_letters")
        );
        let letter = |row: Vec<String>| DeadLetter {
            position: number(&row[0]),
            aggregate_id: row[1].clone(),
            reason: row[2].clone(),
            error: row[3].clone(),
            attempts: number(&row[4]).try_into().expect("a number of attempts"),
        };
        self.rows(projection, &sql).into_iter().map(letter).collect()
    }

    /// The name of a table of the host's own in a read model.
    #[must_use]
    pub fn own_table(&self, table: &str) -> String {
        match self.read_model().kind() {
            Kind::Postgres => format!("projectionist.{table}"),
            Kind::Sqlite => format!("_projectionist_{table}"),
        }
    }

    /// A connection to the events.
    #[must_use]
    pub fn connect(&self) -> Connection {
        self.source.connect()
    }
}

/// A temporary folder.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("projectionist-test-").tempdir().expect("a temporary folder")
}

/// A number that a database gave.
#[track_caller]
fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}
