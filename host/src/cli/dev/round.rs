//! One build at work: on a read model of its own, from the first event on, and then with those that come.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::tables::{self, Snapshot};
use crate::cli::Context;
use crate::cli::exit::Ended;
use crate::cli::run::{self, Job};
use crate::database::{DatabaseUrl, sqlite};
use crate::event::Position;
use crate::partition::Partition;
use crate::plugin::{Plugin, PluginSlot};
use crate::processor::policy::Until;
use crate::processor::stop::Slept;
use crate::processor::{OnError, Options, Outcome, Priority, Progress, Stop};
use crate::read_model::CONNECTIONS;
use crate::read_model::heartbeat::Heartbeat;
use crate::source;

/// How often it is looked whether it has caught up.
const LOOK: Duration = Duration::from_millis(20);

/// How long its worker may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A build at work.
pub(super) struct Round {
    /// What works.
    plugin: Arc<Plugin>,
    /// Its read model's folder.
    folder: PathBuf,
    /// Its read model.
    file: PathBuf,
    /// Where the events end that were there at the start.
    goal: Position,
    /// Ends its worker.
    stop: Stop,
    /// How far it is.
    progress: Arc<Progress>,
    /// How its worker has ended, when it has.
    ended: Receiver<Vec<Outcome>>,
    /// Says that it lives.
    _heartbeat: Heartbeat,
    /// What was told last: how many events were applied, how many were not, and the tables.
    told: (u64, usize, Snapshot),
}

/// What a build has done, for people.
pub(super) struct Report {
    /// As text.
    pub(super) text: String,
    /// How many events could not be applied.
    pub(super) failed: usize,
}

impl Round {
    /// Starts it.
    pub(super) fn start(context: &Context, plugin: Plugin, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let base = folder.join("projectionist.db");
        let file = DatabaseUrl::projection_file(&base, &plugin.descriptor.name);
        let context = Context { read_model: DatabaseUrl::Sqlite(base), ..context.clone() };
        let goal = source::open(&context.events, context.runtime.handle())?.last()?;
        let options = Options {
            batch_size: 10_000,
            poll_interval: Duration::from_millis(200),
            on_error: OnError::Skip,
            max_attempts: 2,
            stale_after: None,
            priority: Priority::Normal,
            niceness: 0,
            until: Until::Stopped,
        };
        let slot = Arc::new(PluginSlot::new(plugin));
        let plugin = slot.get();
        let stop = Stop::default();
        let started = run::start(
            &context,
            &[Job { slot, partitions: vec![Partition::new(0, 1)?], options: options.into() }],
            CONNECTIONS,
            &stop,
        )?;
        let progress = started.progress.into_iter().next().context("no worker was started")?;
        let (sender, ended) = channel();
        std::thread::Builder::new().name("wait for the worker".into()).spawn(move || {
            // Nobody asks any more when this round is over.
            sender.send(started.supervisor.wait(PATIENCE)).ok();
        })?;
        let told = (0, 0, Snapshot::default());
        Ok(Self {
            plugin,
            folder: folder.to_owned(),
            file,
            goal,
            stop,
            progress,
            ended,
            _heartbeat: started.heartbeat,
            told,
        })
    }

    /// The digest of what works.
    pub(super) fn digest(&self) -> &str {
        &self.plugin.digest
    }

    /// Waits until it has applied what was there; says how long that took, or nothing when it was interrupted.
    ///
    /// # Errors
    /// When its worker ends before, with why.
    pub(super) fn catch_up(&self, stop: &Stop) -> anyhow::Result<Option<Duration>> {
        let began = Instant::now();
        // Also without any event: the tables are to be there.
        while self.progress.position() < self.goal || !self.is_claimed() {
            match self.ended.try_recv() {
                Ok(outcomes) => {
                    Ended::result(Ended::of(outcomes))?;
                    return Ok(None);
                }
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            if stop.sleep(LOOK) == Slept::Stopped {
                return Ok(None);
            }
        }
        Ok(Some(began.elapsed()))
    }

    /// Whether its tables are there.
    fn is_claimed(&self) -> bool {
        let version = || -> anyhow::Result<bool> {
            let sql = "SELECT count(*) FROM _projectionist_projections WHERE schema_version > 0";
            Ok(sqlite::open_existing(&self.file)?.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0)
        };
        self.file.exists() && version().unwrap_or(false)
    }

    /// What it has done, against what the one before it had.
    pub(super) fn report(&mut self, before: Option<&Self>, time: Duration) -> anyhow::Result<Report> {
        let snapshot = tables::read(&self.file)?;
        let letters = tables::dead_letters(&self.file, 0)?;
        let applied = self.progress.events();
        let (name, version) = (&self.plugin.descriptor.name, self.plugin.descriptor.version);
        let mut text = format!(
            "{name} version {version} ({}): {applied} events applied in {:.2} s\n",
            &self.plugin.digest[..12],
            time.as_secs_f64()
        );
        let empty = Snapshot::default();
        let old = before.map_or(&empty, |before| &before.told.2);
        text += &tables::changes(old, &snapshot);
        text += &failures(&letters);
        text += &format!("  read model: {}\n", self.file.display());
        let failed = letters.len();
        self.told = (applied, failed, snapshot);
        Ok(Report { text, failed })
    }

    /// What has happened since that was told, if anything.
    ///
    /// # Errors
    /// When its tables cannot be read.
    pub(super) fn news(&mut self) -> anyhow::Result<Option<String>> {
        let applied = self.progress.events();
        let letters = tables::dead_letters(&self.file, self.told.1)?;
        if applied == self.told.0 && letters.is_empty() {
            return Ok(None);
        }
        let snapshot = tables::read(&self.file)?;
        let mut text = format!("{} more events applied\n", applied - self.told.0);
        text += &tables::changes(&self.told.2, &snapshot);
        text += &failures(&letters);
        self.told = (applied, self.told.1 + letters.len(), snapshot);
        Ok(Some(text))
    }

    /// Ends it and removes what it has made.
    pub(super) fn discard(&self) {
        self.stop.request();
        // It ends within a batch; should it not, its files are in nobody's way.
        self.ended.recv_timeout(PATIENCE).ok();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Events that could not be applied, for people.
fn failures(letters: &[String]) -> String {
    let mut text = String::new();
    for letter in letters.iter().take(tables::SHOWN) {
        text += &format!("  not applied: {letter}\n");
    }
    if letters.len() > tables::SHOWN {
        text += &format!("  and {} more\n", letters.len() - tables::SHOWN);
    }
    text
}
