//! A worker's hold on its read model, and the fast path: a batch in one transaction, without savepoints and without
//! a round trip an event.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::failure::ApplyError;
use super::reader::{Batch, Taken};
use super::trial::Trial;
use crate::event::{Event, Position};
use crate::plugin::{CallError, Instance, Plugin};
use crate::read_model::checkpoint::Advance;
use crate::read_model::dead_letter::{DeadLetter, Parked, Reason};
use crate::read_model::guard::Phase;
use crate::read_model::unit_of_work::{Sending, UnitOfWork};
use crate::telemetry::metrics::{Committed, Meter};
use crate::telemetry::traces::batch::{Done, Interval, Path};

/// How many calls pass between two looks at the clock, to see whether the transaction has been open for too long. Each
/// statement looks as well; to look at each call would cost more than this is worth.
const CALLS_PER_LOOK: u32 = 16;

/// A claimed partition with the projection that works on it.
#[derive(Debug)]
pub struct Applier {
    /// The projection.
    pub plugin: Arc<Plugin>,
    /// The read model.
    work: Arc<Mutex<UnitOfWork>>,
    /// The running instance; nothing after a rollback.
    instance: Option<Instance>,
    /// Which aggregates are parked.
    pub parked: Parked,
    /// Where the checkpoint stands.
    pub position: Position,
    /// Whether the projection has yet to prove itself.
    pub(super) trial: Trial,
    /// When the transaction began.
    pub(super) began: Instant,
    /// When its commit was asked for, if it came to that.
    pub(super) asked: Option<Instant>,
    /// When the batch was read that was traced last.
    traced: Option<Instant>,
    /// How often the projection was called.
    calls: u32,
    /// Counts.
    pub meter: Meter,
}

impl Applier {
    /// Works from `position` on.
    #[must_use]
    pub fn new(plugin: Arc<Plugin>, work: UnitOfWork, parked: Parked, position: Position, meter: Meter) -> Self {
        let (work, trial, began) = (Arc::new(Mutex::new(work)), Trial::default(), Instant::now());
        Self {
            plugin,
            work,
            instance: None,
            parked,
            position,
            trial,
            began,
            asked: None,
            traced: None,
            calls: 0,
            meter,
        }
    }

    /// The unit of work. Only this thread uses it; the lock is there for the guest's store.
    pub fn work(&self) -> MutexGuard<'_, UnitOfWork> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running instance, or a fresh one.
    pub fn instance(&mut self) -> Result<&mut Instance, CallError> {
        match &mut self.instance {
            Some(instance) => Ok(instance),
            empty => Ok(empty.insert(Instance::new(&self.plugin, Arc::clone(&self.work))?)),
        }
    }

    /// Another component does the work from the next batch on.
    pub fn swap(&mut self, plugin: Arc<Plugin>) {
        self.plugin = plugin;
        self.instance = None;
    }

    /// Undoes the transaction, and with it the memory of the instance.
    pub fn roll_back(&mut self) {
        self.instance = None;
        // When this fails the connection is gone, and the server has rolled back.
        self.work().rollback().ok();
    }

    /// Drops the instance: its memory is ahead of the transaction.
    pub fn forget(&mut self) {
        self.instance = None;
    }

    /// There is nothing to do: an instance that has grown need not keep its memory until there is.
    pub fn rest(&mut self) {
        if self.instance.as_ref().is_some_and(Instance::has_grown) {
            tracing::debug!("nothing to do: the memory that the projection had taken is given back");
            self.forget();
        }
    }

    /// Calls the projection; a statement that has failed counts, whatever the projection made of it.
    pub fn call(&mut self, call: impl FnOnce(&mut Instance) -> Result<(), CallError>) -> Result<(), ApplyError> {
        let called = self.instance().and_then(call);
        self.calls = self.calls.wrapping_add(1);
        let mut work = self.work();
        if self.calls.is_multiple_of(CALLS_PER_LOOK) {
            work.keep_time(Instant::now());
        }
        // The statement's error is the cause, and what the projection says of it the consequence.
        if let Some(failure) = work.failure() {
            return Err(failure.clone().into());
        }
        drop(work);
        Ok(called?)
    }

    /// Applies a batch: everything, or nothing.
    ///
    /// # Errors
    /// When anything fails; then everything is rolled back.
    pub fn apply(&mut self, batch: &Batch) -> Result<u64, ApplyError> {
        let applied = self.run(batch);
        if applied.is_err() {
            self.roll_back();
        }
        let attempt = Attempt { events: &batch.events, to: batch.to, path: Path::Fast, read: Some(batch.read) };
        match &applied {
            Ok(applied) => self.trace(attempt, *applied, None),
            Err(error) => self.trace(attempt, 0, Some(error)),
        }
        applied
    }

    /// Applies a batch up to and with the commit.
    fn run(&mut self, batch: &Batch) -> Result<u64, ApplyError> {
        self.begin(Sending::Buffered)?;
        let mut applied = 0;
        for event in &batch.events {
            if self.parked.holds(event) {
                self.bury_behind(event)?;
            } else {
                self.call(|instance| instance.handle(event))?;
                applied += 1;
            }
        }
        if applied > 0 {
            self.call(Instance::flush)?;
        }
        self.commit(batch.to, applied)?;
        Ok(applied)
    }

    /// Parks an event behind the one that its aggregate is parked for.
    pub fn bury_behind(&mut self, event: &Event) -> Result<(), ApplyError> {
        let error = "an earlier event of its aggregate is parked";
        let letter = DeadLetter { event, reason: Reason::Behind, error, attempts: 0 };
        self.work().bury(&letter, &self.plugin.digest)?;
        self.meter.buried();
        Ok(())
    }

    /// What moves the checkpoint.
    #[must_use]
    pub fn advance(&self, to: Position, applied: u64) -> Advance {
        advance(&self.plugin, to, applied)
    }

    /// Moves the checkpoint and commits.
    pub fn commit(&mut self, to: Position, applied: u64) -> Result<(), ApplyError> {
        let advance = self.advance(to, applied);
        let (asked, sql) = (Instant::now(), self.work().in_database());
        self.asked = Some(asked);
        self.work().commit(&advance)?;
        self.position = to;
        self.meter.committed(Committed {
            applied,
            whole: self.began.elapsed(),
            sql,
            commit: asked.elapsed(),
            memory: self.instance.as_ref().map(Instance::memory),
        });
        self.trial.committed(applied);
        if self.instance.as_mut().is_some_and(Instance::has_had_enough) {
            tracing::debug!("the memory that the projection had taken is given back");
            self.forget();
        }
        Ok(())
    }

    /// Tells what became of an attempt, where traces are wanted.
    pub(super) fn trace(&mut self, attempt: Attempt<'_>, applied: u64, error: Option<&dyn Error>) {
        let Some(spans) = self.meter.spans() else { return };
        let Attempt { events, to, path, read } = attempt;
        // It is read once, however often it is tried.
        let read = read.filter(|read| self.traced != Some(read.from));
        let sql = {
            let work = self.work();
            work.statements_ran().map(|(from, to)| (Interval { from, to }, work.in_database()))
        };
        let (began, asked, ended) = (self.began, self.asked, Instant::now());
        spans.done(
            events.iter().map(|event| &**event),
            &Done { read, began, sql, asked, ended, path, to, applied, error },
        );
        self.traced = read.map(|read| read.from).or(self.traced);
    }

    /// Moves the checkpoint over events that are somebody else's.
    ///
    /// # Errors
    /// When the worker is fenced or the database fails.
    pub fn pass(&mut self, to: Position) -> Result<(), ApplyError> {
        let by = Arc::clone(self.trial.on_record().unwrap_or(&self.plugin));
        self.work().begin(Phase::Rows, Sending::Buffered)?;
        self.work().commit(&advance(&by, to, 0))?;
        self.position = to;
        Ok(())
    }
}

/// What a transaction was to apply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'batch> {
    /// These events.
    pub(super) events: &'batch [Taken],
    /// Up to here.
    pub(super) to: Position,
    /// How.
    pub(super) path: Path,
    /// When they were read.
    pub(super) read: Option<Interval>,
}

/// What moves a checkpoint on behalf of a plugin.
fn advance(by: &Plugin, to: Position, applied: u64) -> Advance {
    Advance { to, applied, plugin_version: by.descriptor.version, plugin_digest: Arc::clone(&by.digest) }
}
