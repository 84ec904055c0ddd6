//! `host run`: runs projections until it is told to stop, or (`--once`) until they have caught up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use super::exit::{Ended, UsageError};
use super::http::HttpOptions;
use super::loading::{Loading, PluginArgument, Setting, load, refuse_strangers, settings_of};
use super::overrides;
use super::rebuild::background::{self, Rebuilds};
use super::replica_set::{ReplicaOptions, Shared};
use crate::database::DatabaseUrl;
use crate::http::{Bound, Served};
use crate::operations::health::MaxLag;
use crate::operations::observer::Observer;
use crate::partition::Partition;
use crate::plugin::PluginSlot;
use crate::plugin::load::Loader;
use crate::plugin::watch::{self, Watched};
use crate::processor::policy::Until;
use crate::processor::progress::Crew;
use crate::processor::replica::Replica;
use crate::processor::standby::Frozen;
use crate::processor::worker::Worker;
use crate::processor::{LiveOptions, OnError, Options, Outcome, Priority, Progress, Stop, Supervisor};
use crate::read_model::heartbeat::Heartbeat;
use crate::read_model::{CONNECTIONS, ReadModel};
use crate::source::{self, Feed, Source};
use crate::telemetry::metrics::Meter;
use crate::telemetry::traces::otlp;

/// `host run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host run --plugin user_count.wasm\n  \
    host run --plugin user_count.wasm --plugin delays=carrier_delays.wasm --workers 4\n  \
    host run --plugin carrier_delays.wasm --partition-key 0 --total-partitions 4\n  \
    host run --plugin carrier_delays.wasm --once --database-url postgres://localhost/shop\n  \
    host run --plugin bought.wasm --require-signature --trusted-keys keys.txt\n  \
    host run --plugin user_count.wasm --replica-set main\n\n\
    Each partition is claimed: a second process for the same partition stands by, and takes over when the first one\n\
    ends, however it ends. With --replica-set the processes find out by themselves who works on what. SIGTERM and Ctrl-C\n\
    finish the batch and release the partitions.")]
pub struct Run {
    /// A projection: a component or a core module; NAME runs it under another name than its own, and a digest behind it
    /// pins it to exactly that file
    #[arg(long = "plugin", value_name = "[NAME=]FILE[@sha256:DIGEST]", required = true)]
    plugins: Vec<PluginArgument>,
    /// Which partitions.
    #[command(flatten)]
    partitions: Partitions,
    /// Or with whom they are shared.
    #[command(flatten)]
    replicas: ReplicaOptions,
    /// Stop when everything that was there at the start has been applied
    #[arg(long)]
    once: bool,
    /// Load a plugin's file again when it changes, while events flow
    #[arg(long, env = "WATCH", value_parser = clap::builder::BoolishValueParser::new())]
    watch: bool,
    /// How workers work.
    #[command(flatten)]
    loop_options: LoopOptions,
    /// What is served.
    #[command(flatten)]
    http: HttpOptions,
    /// A setting for the projections, as config::get reads it; PLUGIN.KEY=VALUE is for one of them
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
    /// Connections to write read models with, at most, however many projections and partitions there are
    #[arg(long, env = "CONNECTIONS", value_name = "N", default_value_t = CONNECTIONS, value_parser = parse_connections)]
    connections: usize,
    /// How long workers may take to finish their batch when the process is told to stop
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "SECONDS", default_value_t = 30)]
    shutdown_timeout: u64,
    /// On which terms.
    #[command(flatten)]
    loading: Loading,
}

/// Which partitions this process works on.
#[derive(Clone, Debug, Args)]
pub struct Partitions {
    /// Which partition, from 0
    #[arg(long, env = "PARTITION_KEY", value_name = "K")]
    partition_key: Option<u32>,
    /// Out of how many
    #[arg(long, env = "TOTAL_PARTITIONS", value_name = "T")]
    total_partitions: Option<u32>,
    /// How many partitions in this process, from the key on; without --total-partitions, all of that many
    #[arg(long, env = "WORKERS", value_name = "N")]
    workers: Option<u32>,
}

/// How workers work.
#[derive(Clone, Debug, Args)]
pub struct LoopOptions {
    /// Events in one transaction, at most: live it is what has come, catching up the host takes as many as a transaction
    /// applies in a quarter of a second
    #[arg(long, env = "BATCH_SIZE", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_size: u32,
    /// What becomes of an event that cannot be applied
    #[arg(long, env = "ON_ERROR", value_enum, default_value_t = OnError::Park)]
    on_error: OnError,
    /// How often something that may pass is tried
    #[arg(long, env = "MAX_ATTEMPTS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// The longest pause between two looks for new events when no notification comes
    #[arg(long, env = "POLL_INTERVAL", value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    poll_interval: u64,
    /// After how long without a sign of life whoever holds the partition is replaced: a frozen process, or one that
    /// is cut off; 0 is never
    #[arg(long, env = "STALE_AFTER", value_name = "SECONDS", default_value_t = 30, value_parser = parse_stale_after)]
    stale_after: u64,
}

/// A server has room for some hundreds.
fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(connections @ 1..=1_000) => Ok(connections),
        _ => Err("say 1 to 1000".to_owned()),
    }
}

/// A sign of life comes each second: less than three say nothing.
fn parse_stale_after(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds @ (0 | 3..=86_400)) => Ok(seconds),
        _ => Err("say 3 to 86400 seconds, or 0 for never".to_owned()),
    }
}

impl LoopOptions {
    /// For the processor.
    #[must_use]
    pub fn options(&self, until: Until) -> Options {
        Options {
            batch_size: self.batch_size as usize,
            poll_interval: Duration::from_millis(self.poll_interval),
            on_error: self.on_error,
            max_attempts: self.max_attempts,
            stale_after: (self.stale_after > 0).then(|| Duration::from_secs(self.stale_after)),
            until,
            priority: Priority::Normal,
            niceness: 0,
        }
    }
}

impl Partitions {
    /// The partitions of this process.
    ///
    /// # Errors
    /// When there are no such partitions.
    pub fn list(&self) -> anyhow::Result<Vec<Partition>> {
        let hint = "keys are from 0: with --total-partitions 4 they are 0, 1, 2 and 3";
        let workers = self.workers.unwrap_or(1);
        if workers == 0 {
            return Err(UsageError::new("--workers is 0", "say how many partitions this process is to work on").into());
        }
        let total = self.total_partitions.or(self.workers).unwrap_or(1);
        let first = self.partition_key.unwrap_or(0);
        if self.partition_key.is_some() && self.total_partitions.is_none() {
            let message = format!("--partition-key {first} without --total-partitions");
            return Err(UsageError::new(message, "say out of how many, such as --total-partitions 4").into());
        }
        (first..first.saturating_add(workers))
            .map(|key| Partition::new(key, total).map_err(|error| UsageError::new(error.to_string(), hint).into()))
            .collect()
    }
}

/// Projections that were started.
pub struct Started {
    /// Their workers.
    pub supervisor: Supervisor,
    /// How far each worker is.
    pub progress: Vec<Arc<Progress>>,
    /// Says that this process lives.
    pub heartbeat: Heartbeat,
    /// Where events come from.
    pub source: Arc<dyn Source>,
    /// Where read models are.
    pub read_model: ReadModel,
}

impl Run {
    /// Runs it.
    ///
    /// # Errors
    /// When the configuration does not work, or a worker did not end well.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let stop = Stop::default();
        let patience = Duration::from_secs(self.shutdown_timeout);
        stop_on_signals(context, &stop, Some(patience));
        let hangups = hangups(context);
        let http = self.http.bind()?;
        let (loader, watched) = self.load()?;
        let jobs = self.jobs(&loader, &watched, (&context.events, &context.read_model), context.configured())?;
        let names: Vec<_> = jobs.iter().map(|job| job.slot.get().descriptor.name.clone()).collect();
        let shared = self.replicas.shared(&names, context.configured())?;
        let rebuilds = Rebuilds::new(context, &jobs, self.connections, patience, &stop);
        let outcomes = if shared.is_empty() {
            let started = start(context, &jobs, self.connections, &stop)?;
            let crew = Crew::of(started.progress.clone());
            serve(context, (http, hangups), (&started.source, &started.read_model), (crew, &rebuilds), &jobs)?;
            let _watcher = if self.watch { Some(watch::start(loader, watched)?) } else { None };
            started.supervisor.wait(patience)
        } else {
            overrides::refuse_workers(&self.loading.overrides(), &shared)?;
            let ground = Ground::new(context, self.connections)?;
            let crew = Crew::default();
            serve(context, (http, hangups), (&ground.source, &ground.read_model), (crew.clone(), &rebuilds), &jobs)?;
            let _watcher = if self.watch { Some(watch::start(loader, watched)?) } else { None };
            let stale_after = self.loop_options.options(self.until()).stale_after;
            share(&ground, &jobs, shared, (stale_after, &crew), &stop, patience)?
        };
        rebuilds.finish();
        Ended::result(Ended::of(outcomes))
    }

    /// When the workers are done.
    fn until(&self) -> Until {
        if self.once { Until::CaughtUp } else { Until::Stopped }
    }

    /// Loads the plugins.
    fn load(&self) -> anyhow::Result<(Arc<Loader>, Vec<Watched>)> {
        let loader = Arc::new(self.loading.loader()?);
        let mut watched = Vec::new();
        for plugin in &self.plugins {
            let loaded = load(&loader, plugin, &self.settings)?;
            let settings = settings_of(&loaded.descriptor.name, &self.settings);
            let file = plugin.file.clone();
            watched.push(Watched { file, settings, slot: Arc::new(PluginSlot::new(loaded)) });
        }
        Ok((loader, watched))
    }

    /// What each projection's workers do. Projections that are configured and do not run here are known as well.
    fn jobs(
        &self,
        loader: &Loader,
        watched: &[Watched],
        databases: (&DatabaseUrl, &DatabaseUrl),
        configured: &[String],
    ) -> anyhow::Result<Vec<Job>> {
        let slots: Vec<_> = watched.iter().map(|watched| Arc::clone(&watched.slot)).collect();
        refuse_doubles(&slots)?;
        let names: Vec<_> = slots.iter().map(|slot| slot.get().descriptor.name.clone()).collect();
        refuse_strangers(loader, databases, &names, configured)?;
        self.http.refuse_strangers(&names, configured)?;
        overrides::refuse_strangers(&self.loading.overrides(), &names, configured)?;
        let usual = self.partitions.list()?;
        let options = self.loop_options.options(self.until());
        let several = self.partitions.total_partitions.is_some();
        let overrides = self.loading.overrides();
        let of = |name: &String| overrides::apply(&overrides, name, (usual.clone(), options), several);
        let each: Vec<_> = names.iter().map(of).collect::<anyhow::Result<_>>()?;
        let highest = each.iter().map(|(_, options)| options.priority).min().unwrap_or_default();
        let job = |(slot, (partitions, options)): (_, (_, Options))| {
            let options = Options { niceness: options.priority.niceness(highest), ..options };
            Job { slot, partitions, options: options.into() }
        };
        Ok(slots.into_iter().zip(each).map(job).collect())
    }

    /// How these arguments have the workers of some projections work, as far as that can change while they do.
    ///
    /// # Errors
    /// When the arguments make no sense.
    pub fn changes_of(&self, jobs: &[Job]) -> anyhow::Result<Vec<(LiveOptions, Options)>> {
        let names: Vec<_> = jobs.iter().map(|job| job.slot.get().descriptor.name.clone()).collect();
        let usual = (vec![], self.loop_options.options(self.until()));
        let overrides = self.loading.overrides();
        let of = |(job, name): (&Job, &String)| {
            let (_, options) = overrides::apply(&overrides, name, usual.clone(), false)?;
            Ok((job.options.clone(), options))
        };
        jobs.iter().zip(&names).map(of).collect()
    }

    /// Sees that all of it can be run, as far as that can be told without a database; gives the projections with what
    /// their workers do.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(
        &self,
        databases: (&DatabaseUrl, &DatabaseUrl),
        configured: &[String],
    ) -> anyhow::Result<Vec<(String, String)>> {
        let (loader, watched) = self.load()?;
        let jobs = self.jobs(&loader, &watched, databases, configured)?;
        let told = jobs.iter().map(|Job { slot, partitions, options }| {
            let plugin = slot.get();
            let (version, digest) = (plugin.descriptor.version, plugin.digest.get(..12).unwrap_or_default().to_owned());
            let (workers, size) = (partitions.len(), options.get().batch_size);
            let told = format!("version {version}, {digest}, {workers} partitions, batches of {size} events at most");
            (plugin.descriptor.name.clone(), told)
        });
        Ok(told.collect())
    }

    /// How late projections may be.
    #[must_use]
    pub fn max_lag(&self) -> MaxLag {
        self.http.max_lag()
    }
}

/// What the workers of one projection do.
#[derive(Clone, Debug)]
pub struct Job {
    /// The projection.
    pub slot: Arc<PluginSlot>,
    /// On which partitions.
    pub partitions: Vec<Partition>,
    /// How.
    pub options: LiveOptions,
}

/// Two projections of one name would fight for one read model.
fn refuse_doubles(slots: &[Arc<PluginSlot>]) -> anyhow::Result<()> {
    let mut names: Vec<_> = slots.iter().map(|slot| slot.get().descriptor.name.clone()).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let message = format!("two plugins are called {}", pair[0]);
            Err(UsageError::new(message, "give one of them another name: --plugin NAME=FILE").into())
        }
    }
}

/// What workers stand on.
struct Ground {
    /// Where events are.
    source: Arc<dyn Source>,
    /// Where events come from.
    feed: Feed,
    /// Where writes go.
    read_model: ReadModel,
    /// What this process calls itself in its claims.
    owner: String,
    /// Says that this process lives.
    heartbeat: Heartbeat,
}

impl Ground {
    /// Opens the databases.
    ///
    /// # Errors
    /// When one of them cannot be used.
    fn new(context: &Context, connections: usize) -> anyhow::Result<Self> {
        let runtime = context.runtime.handle();
        let source = source::open(&context.events, runtime)?;
        let feed = Feed::new(Arc::clone(&source), runtime.clone());
        let read_model = ReadModel::new(&context.read_model, runtime).with_connections(connections);
        read_model.check()?;
        let owner = owner();
        let heartbeat = read_model.beat(&owner)?;
        Ok(Self { source, feed, read_model, owner, heartbeat })
    }
}

/// Starts the workers of some projections.
///
/// # Errors
/// When a database cannot be used.
pub fn start(context: &Context, jobs: &[Job], connections: usize, stop: &Stop) -> anyhow::Result<Started> {
    let Ground { source, feed, read_model, owner, heartbeat } = Ground::new(context, connections)?;
    let mut supervisor = Supervisor::new(stop.clone());
    let (mut all, mut workers) = (Vec::new(), Vec::new());
    for Job { slot, partitions, options } in jobs {
        for partition in partitions {
            let name = slot.get().descriptor.name.clone();
            let meter = Meter::new(&name, partition);
            let progress = Arc::new(Progress::new(&name, *partition, meter.clone()));
            all.push(Arc::clone(&progress));
            workers.push(Worker {
                partition: *partition,
                plugin: Arc::clone(slot),
                feed: feed.clone(),
                read_model: read_model.clone(),
                owner: owner.clone(),
                options: options.clone(),
                frozen: Frozen::default(),
                stop: stop.clone(),
                progress,
                meter,
            });
        }
    }
    supervisor.start(workers)?;
    Ok(Started { supervisor, progress: all, heartbeat, source, read_model })
}

/// Listens for SIGHUP. From when this returns on it does not end the process; one that comes before there is something to
/// apply it to is kept.
fn hangups(context: &Context) -> Option<Signal> {
    let _in_the_runtime = context.runtime.enter();
    signal(SignalKind::hangup()).ok()
}

/// Serves what was asked for, and does what SIGHUP asks for.
fn serve(
    context: &Context,
    (http, hangups): (Option<Bound>, Option<Signal>),
    (source, read_model): (&Arc<dyn Source>, &ReadModel),
    (crew, rebuilds): (Crew, &Arc<Rebuilds>),
    jobs: &[Job],
) -> std::io::Result<()> {
    let observer = Arc::new(Observer::new(Arc::clone(source), read_model.clone(), crew));
    let rebuilder = Arc::new(background::Handle(Arc::clone(rebuilds)));
    let served = http.map(|http| http.serve(observer, rebuilder)).transpose()?;
    reload_on_hangup(context, served, hangups, jobs.to_vec());
    Ok(())
}

/// At SIGHUP, reads the configuration again and applies what can be applied while workers run. Tells what else has changed.
fn reload_on_hangup(context: &Context, served: Option<Served>, hangups: Option<Signal>, jobs: Vec<Job>) {
    let Some(mut hangups) = hangups else { return };
    let mut last = context.config.clone();
    context.runtime.spawn(async move {
        while hangups.recv().await.is_some() {
            match super::config::reload(served.as_ref(), &jobs, last.as_ref()) {
                Ok(config) => last = config,
                Err(error) => tracing::error!(%error, "SIGHUP: the configuration cannot be used; all stays as it was"),
            }
        }
    });
}

/// Ends all workers of the process when it is dropped.
struct StopAll(Stop);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// Takes part in replica sets until the process is told to stop, or cannot go on in one of them: then it leaves them all,
/// and whoever watches over it starts it again.
fn share(
    ground: &Ground,
    jobs: &[Job],
    shared: Vec<Shared>,
    (stale_after, crew): (Option<Duration>, &Crew),
    stop: &Stop,
    patience: Duration,
) -> anyhow::Result<Vec<Outcome>> {
    let parts = shared.into_iter().map(|Shared { set, slots: number, projections }| {
        let of_set = |job: &&Job| projections.contains(&job.slot.get().descriptor.name);
        let replica = Replica {
            set: set.clone(),
            slots: number,
            plugins: jobs.iter().filter(of_set).map(|job| (Arc::clone(&job.slot), job.options.clone())).collect(),
            feed: ground.feed.clone(),
            read_model: ground.read_model.clone(),
            owner: ground.owner.clone(),
            stale_after,
            crew: crew.clone(),
            stop: stop.clone(),
        };
        let stop = stop.clone();
        std::thread::Builder::new().name(format!("replica set {set}")).spawn(move || {
            // Also when it panics: the other sets do not go on without it.
            let _all_end = StopAll(stop);
            replica.run(patience)
        })
    });
    let parts: Vec<_> = parts.collect::<std::io::Result<_>>()?;
    let panicked = |_| vec![Outcome::Failed("a replica set panicked: this is a bug of the host".to_owned())];
    Ok(parts.into_iter().flat_map(|part| part.join().unwrap_or_else(panicked)).collect())
}

/// What this process calls itself in its claims: host name and process id.
#[must_use]
pub fn owner() -> String {
    format!("{}/{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}

/// Ends the workers at SIGTERM and Ctrl-C. From when this returns on, neither of them ends the process by itself. Then spans that
/// wait to be sent have what `patience` leaves, of which the workers have the first part.
pub fn stop_on_signals(context: &Context, stop: &Stop, patience: Option<Duration>) {
    let stop = stop.clone();
    // Signals are listened for here and now: on a busy machine the runtime may come to it when a batch has long begun.
    let _in_the_runtime = context.runtime.enter();
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for signals: only a kill ends this process");
        return;
    };
    context.runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing the batch"),
            _ = interrupt.recv() => tracing::info!("interrupted: finishing the batch"),
        }
        if let Some(patience) = patience {
            otlp::end_by(Instant::now() + patience);
        }
        stop.request();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The partitions of some arguments, or the error.
    fn list(key: Option<u32>, total: Option<u32>, workers: Option<u32>) -> Result<Vec<String>, String> {
        let partitions = Partitions { partition_key: key, total_partitions: total, workers };
        let list = partitions.list().map_err(|error| error.to_string())?;
        Ok(list.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn partitions_are_one_or_all_or_some() {
        assert_eq!(list(None, None, None).unwrap(), ["0 of 1"]);
        assert_eq!(list(Some(2), Some(4), None).unwrap(), ["2 of 4"]);
        assert_eq!(list(None, None, Some(2)).unwrap(), ["0 of 2", "1 of 2"]);
        assert_eq!(list(Some(2), Some(4), Some(2)).unwrap(), ["2 of 4", "3 of 4"]);
        assert!(list(Some(4), Some(4), None).unwrap_err().contains("no partition 4 of 4"));
        assert!(list(Some(3), Some(4), Some(2)).is_err());
        assert!(list(Some(0), None, None).unwrap_err().contains("without --total-partitions"));
    }
}
