//! Rebuilds within a host that runs, as the dashboard asks for them: the way of `host rebuild`, on a thread of its own, with
//! the component that the projection's workers run. It has connections of its own, and its workers leave the cores to the
//! live ones, as a low priority does. It ends with the process, which costs nothing: begun again, it goes on from there.
//! When the component was replaced meanwhile, it ends as well: what the old one has built is not swapped in under the new one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::Context;
use super::super::exit;
use super::super::run::Job;
use super::ground::{Ground, How, Place, Tell};
use crate::http::rebuilds::{Rebuilder, Seen, Stage};
use crate::plugin::PluginSlot;
use crate::processor::policy::Until;
use crate::processor::{Options, Priority, Stop};
use crate::read_model::ReadModel;
use crate::timestamp;

/// The rebuilds of a process.
pub struct Rebuilds {
    /// The databases.
    context: Context,
    /// What can be built: the projections of this process.
    jobs: Vec<Job>,
    /// How many connections one may write with.
    connections: usize,
    /// How long workers may take to finish their batch.
    patience: Duration,
    /// When the process ends.
    stop: Stop,
    /// What was begun, by projection.
    begun: Mutex<BTreeMap<String, Begun>>,
    /// Wakes who waits for them to end.
    ended: Condvar,
}

/// A rebuild that was begun.
struct Begun {
    /// What is known of it.
    seen: Seen,
    /// Ends it.
    stop: Stop,
}

impl fmt::Debug for Rebuilds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebuilds").finish_non_exhaustive()
    }
}

impl Rebuilds {
    /// Nothing is built yet.
    #[must_use]
    pub fn new(context: &Context, jobs: &[Job], connections: usize, patience: Duration, stop: &Stop) -> Arc<Self> {
        Arc::new(Self {
            context: context.clone(),
            jobs: jobs.to_vec(),
            connections,
            patience,
            stop: stop.clone(),
            begun: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// What was begun.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interrupts whatever is built, and waits until its batches are finished or time is up.
    pub fn finish(&self) {
        let begun = self.lock();
        begun.values().for_each(|begun| begun.stop.request());
        let runs = |begun: &mut BTreeMap<String, Begun>| begun.values().any(|one| one.seen.stage == Stage::Running);
        drop(self.ended.wait_timeout_while(begun, self.patience, runs));
    }

    /// Builds a projection with the component that is in its slot now.
    fn build(&self, live: Arc<PluginSlot>, options: Options, stop: Stop) -> anyhow::Result<String> {
        let plugin = live.get();
        let context = &self.context;
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        let niceness = Priority::Low.niceness(Priority::Normal);
        let options = Options { until: Until::CaughtUp, priority: Priority::Normal, niceness, ..options };
        let (patience, connections) = (self.patience, self.connections);
        let how = How { workers: None, options, patience, connections, tell: Tell::Log };
        let (projection, source) = (plugin.descriptor.name.clone(), context.existing_events()?);
        Ground { context, read_model, source, projection, place: Place::Beside, how, stop, live: Some(live) }
            .rebuild(&plugin)
    }

    /// Takes note of how one has ended.
    fn end(&self, projection: &str, done: std::thread::Result<anyhow::Result<String>>) {
        let (stage, told) = match done {
            Ok(Ok(summary)) => (Stage::Done, summary),
            Ok(Err(error)) => (Stage::Failed, exit::told(&error)),
            Err(_) => (Stage::Failed, "it has panicked: this is a bug of the host".to_owned()),
        };
        match stage {
            Stage::Done => tracing::info!("{told}"),
            Stage::Running | Stage::Failed => tracing::error!(reason = told, "not rebuilt"),
        }
        if let Some(begun) = self.lock().get_mut(projection) {
            let projection = projection.to_owned();
            begun.seen = Seen { projection, stage, told, at: timestamp::format(timestamp::now()) };
        }
        self.ended.notify_all();
    }
}

/// What the dashboard is given.
#[derive(Clone, Debug)]
pub struct Handle(pub Arc<Rebuilds>);

impl Rebuilder for Handle {
    fn projections(&self) -> Vec<String> {
        self.0.jobs.iter().map(|job| job.slot.get().descriptor.name.clone()).collect()
    }

    fn start(&self, projection: &str) -> Result<(), String> {
        let rebuilds = &self.0;
        let job = rebuilds.jobs.iter().find(|job| job.slot.get().descriptor.name == projection);
        let job = job.ok_or_else(|| format!("this process does not run {projection}: `host rebuild` builds it"))?;
        let mut begun = rebuilds.lock();
        if begun.get(projection).is_some_and(|begun| begun.seen.stage == Stage::Running) {
            return Err(format!("{projection} is being rebuilt already, by this process"));
        }
        let (stop, live, options) = (rebuilds.stop.part(), Arc::clone(&job.slot), job.options.get());
        let (all, name, asked) = (Arc::clone(rebuilds), projection.to_owned(), stop.clone());
        let build = move || {
            let span = tracing::info_span!("rebuild", projection = name);
            let _entered = span.enter();
            let build = || all.build(live, options, asked);
            all.end(&name, std::panic::catch_unwind(std::panic::AssertUnwindSafe(build)));
        };
        let thread = std::thread::Builder::new().name(format!("rebuild {projection}"));
        thread.spawn(build).map_err(|error| format!("no thread for a rebuild: {error}"))?;
        let at = timestamp::format(timestamp::now());
        let seen = Seen { projection: projection.to_owned(), stage: Stage::Running, told: String::new(), at };
        begun.insert(projection.to_owned(), Begun { seen, stop });
        Ok(())
    }

    fn interrupt(&self, projection: &str) -> bool {
        let begun = self.0.lock();
        let runs = begun.get(projection).filter(|begun| begun.seen.stage == Stage::Running);
        runs.inspect(|begun| begun.stop.request()).is_some()
    }

    fn seen(&self) -> Vec<Seen> {
        self.0.lock().values().map(|begun| begun.seen.clone()).collect()
    }
}
