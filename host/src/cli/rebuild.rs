//! `host rebuild`: builds a read model afresh beside the live one, follows the events until it has caught up, and
//! swaps the two.
//!
//! It works in rounds. A round is workers that run until they have applied what was there when they began
//! (`host run --once`, under the name of a rebuild); the next one applies what has come meanwhile. Each is shorter
//! than the one before, and when next to nothing is left the swap follows. `progress` says how far a round is.

mod progress;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use self::progress::Watcher;
use super::Context;
use super::exit::{Ended, UsageError};
use super::loading::{Loading, PluginArgument, Setting, load, refuse_strangers};
use super::run::{self, Job, LoopOptions};
use crate::event::Position;
use crate::partition::Partition;
use crate::plugin::{Plugin, PluginSlot};
use crate::processor::Stop;
use crate::processor::policy::Until;
use crate::processor::stop::Slept;
use crate::read_model::overview::Overview;
use crate::read_model::rebuild::{self, Rebuild, Swap};
use crate::read_model::{CONNECTIONS, ReadModel};
use crate::source::Source;

/// A round that took no longer has caught up, and so has one after which no more than a batch is left: that is done by
/// the live workers.
const SHORT: Duration = Duration::from_secs(1);

/// How long the first attempt to swap waits for those who use the live tables. It is a pause for whoever comes after.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// No attempt waits longer.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// For how long to try before another round applies what has come meanwhile, and says who is in the way.
const FOLLOW_AGAIN: Duration = Duration::from_secs(5);

/// `host rebuild`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host rebuild --plugin user_count.wasm\n  \
    host rebuild --plugin user_count.wasm --workers 4 --database-url postgres://localhost/shop\n  \
    host rebuild --plugin user_count.wasm --discard\n\n\
    The live read model is read and written as before until the swap, which takes a moment: readers see the old\n\
    tables or the new ones. Workers that run go on with the new ones by themselves. Interrupted, however that was, the\n\
    live one is untouched, and the same command goes on where it stopped; with another component it starts over.\n\
    What an operator has added to the tables by hand (indexes, triggers) is not carried over; grants are.")]
pub struct RebuildCommand {
    /// The projection to rebuild; NAME when it runs under another name than its own
    #[arg(long, value_name = "[NAME=]FILE[@sha256:DIGEST]")]
    plugin: PluginArgument,
    /// How many partitions build at the same time [default: as many as the live one has]
    #[arg(long, env = "WORKERS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    workers: Option<u32>,
    /// Drop the live tables first and build them in their place: for readers they are gone at once, then incomplete
    /// until it has caught up
    #[arg(long)]
    in_place: bool,
    /// Throw away a rebuild that was begun and not finished
    #[arg(long, conflicts_with = "in_place")]
    discard: bool,
    /// How workers work.
    #[command(flatten)]
    loop_options: LoopOptions,
    /// A setting for the projection, as config::get reads it
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
    /// How long workers may take to finish their batch when the process is told to stop
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "SECONDS", default_value_t = 30)]
    shutdown_timeout: u64,
    /// On which terms.
    #[command(flatten)]
    loading: Loading,
}

/// Where a rebuild works.
struct Ground<'run> {
    /// The databases.
    context: &'run Context,
    /// Where the read models are.
    read_model: ReadModel,
    /// The events.
    source: Arc<dyn Source>,
    /// The projection.
    projection: String,
    /// Where it is built.
    place: Place,
    /// When to end.
    stop: Stop,
}

/// Where a read model is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Beside the live one.
    Beside,
    /// Where the live one was.
    InPlace,
}

impl RebuildCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When there is nothing to rebuild, somebody else does it, or it does not come to its end.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let stop = Stop::default();
        run::stop_on_signals(context, &stop, Some(Duration::from_secs(self.shutdown_timeout)));
        let loader = self.loading.loader()?;
        let plugin = load(&loader, &self.plugin, &self.settings)?;
        let own = std::slice::from_ref(&plugin.descriptor.name);
        refuse_strangers(&loader, (&context.events, &context.read_model), own, context.configured())?;
        let source = context.existing_events()?;
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        read_model.check()?;
        let projection = plugin.descriptor.name.clone();
        let place = if self.in_place { Place::InPlace } else { Place::Beside };
        let ground = Ground { context, read_model, source, projection, place, stop };
        let mut rebuild = ground.read_model.rebuild(&ground.projection, &run::owner())?;
        if self.discard {
            return ground.discard(&mut rebuild);
        }
        let Some(live) = ground.overview(&ground.projection)? else {
            let message = format!("{} has no read model in {} yet", ground.projection, context.read_model);
            let hint = "`host run --plugin` makes it; or correct the URL, or the name with --plugin NAME=FILE";
            return Err(UsageError::new(message, hint).into());
        };
        rebuild.check()?;
        if place == Place::InPlace {
            return self.in_place(&ground, &mut rebuild, plugin, &live);
        }
        let begun = ground.resume(&mut rebuild, &plugin)?;
        rebuild.prepare()?;
        let total = self.workers.unwrap_or_else(|| total_of(begun.as_ref().unwrap_or(&live)));
        self.beside(&ground, &mut rebuild, plugin, total)
    }

    /// Builds beside the live one, and swaps.
    fn beside(&self, ground: &Ground<'_>, rebuild: &mut Rebuild, plugin: Plugin, total: u32) -> anyhow::Result<()> {
        let name = rebuild::name_of(&ground.projection);
        let slot = Arc::new(PluginSlot::new(under(plugin, &name)));
        let mut wait = FIRST_WAIT;
        loop {
            self.follow(ground, &slot, total)?;
            if !ground.swap(rebuild, &mut wait)? {
                continue;
            }
            super::print_line(&format!("{} was rebuilt: {}", ground.projection, ground.summary()?))?;
            return Ok(());
        }
    }

    /// Runs the projection round after round, until next to nothing is left.
    fn follow(&self, ground: &Ground<'_>, slot: &Arc<PluginSlot>, total: u32) -> anyhow::Result<()> {
        let partitions: Vec<Partition> = (0..total).map(|key| Partition::new(key, total)).collect::<Result<_, _>>()?;
        let options = self.loop_options.options(Until::CaughtUp);
        let patience = Duration::from_secs(self.shutdown_timeout);
        loop {
            let began = Instant::now();
            let job = Job { slot: Arc::clone(slot), partitions: partitions.clone(), options };
            let started = run::start(ground.context, std::slice::from_ref(&job), CONNECTIONS, &ground.stop)?;
            let watcher = Watcher::start(&ground.projection, started.progress, ground.source.last()?);
            let outcomes = started.supervisor.wait(patience);
            watcher.finish();
            if let Some(ended) = Ended::of(outcomes) {
                return Err(anyhow::Error::new(ended).context(ground.so_far("stopped")?));
            }
            if ground.stop.is_requested() {
                return Err(ground.interrupted()?);
            }
            // On a slow machine no round is short; then it counts that no more than a batch has come meanwhile.
            let left = ground.source.last()?.get().saturating_sub(ground.reached()?.get());
            if began.elapsed() < SHORT || left <= options.batch_size as u64 {
                return Ok(());
            }
        }
    }

    /// Empties the live one, and leaves it to its workers or builds it.
    fn in_place(
        &self,
        ground: &Ground<'_>,
        rebuild: &mut Rebuild,
        plugin: Plugin,
        live: &Overview,
    ) -> anyhow::Result<()> {
        let mut wait = FIRST_WAIT;
        let mut told = Instant::now();
        while let Swap::Busy { by } = rebuild.empty(wait)? {
            tell_of(&by, "emptied", &mut told);
            wait = (wait * 2).min(LONGEST_WAIT);
            if ground.stop.sleep(wait) == Slept::Stopped {
                let message =
                    format!("the rebuild of {} was interrupted before anything was changed", ground.projection);
                return Err(Ended::failed(message, "run it again to go on").into());
            }
        }
        if live.checkpoints.iter().any(|checkpoint| checkpoint.running) {
            let message = format!("{} was emptied: the workers that run build it again", ground.projection);
            return Ok(super::print_line(&message)?);
        }
        let total = self.workers.unwrap_or_else(|| total_of(live));
        self.follow(ground, &Arc::new(PluginSlot::new(plugin)), total)?;
        super::print_line(&format!("{} was rebuilt in place: {}", ground.projection, ground.summary()?))?;
        Ok(())
    }
}

impl Ground<'_> {
    /// Throws away what was built.
    fn discard(&self, rebuild: &mut Rebuild) -> anyhow::Result<()> {
        let projection = &self.projection;
        let begun = self.overview(&rebuild::name_of(projection))?;
        rebuild.discard()?;
        super::print_line(&if begun.is_some() {
            format!("the rebuild of {projection} was discarded")
        } else {
            format!("there was no rebuild of {projection} to discard")
        })?;
        Ok(())
    }

    /// Goes on with a rebuild that was begun, if it was by the same component.
    fn resume(&self, rebuild: &mut Rebuild, plugin: &Plugin) -> anyhow::Result<Option<Overview>> {
        let projection = &self.projection;
        let Some(begun) = self.overview(&rebuild::name_of(projection))? else { return Ok(None) };
        // Empty where a partition was claimed and nothing was committed.
        let other = begun.checkpoints.iter().map(|checkpoint| &checkpoint.plugin_digest);
        let other = other.filter(|digest| !digest.is_empty()).find(|digest| ***digest != *plugin.digest);
        match other {
            Some(other) => {
                let other = other.get(..8).unwrap_or(other);
                progress::say(&format!(
                    "starting over: the rebuild of {projection} was begun with another component, {other}"
                ));
                rebuild.discard()?;
                Ok(None)
            }
            None => {
                progress::say(&format!(
                    "going on with the rebuild of {projection} at position {} (--discard throws it away)",
                    position_of(&begun)
                ));
                Ok(Some(begun))
            }
        }
    }

    /// Tries to swap for a while. Whether it was done.
    fn swap(&self, rebuild: &mut Rebuild, wait: &mut Duration) -> anyhow::Result<bool> {
        let began = Instant::now();
        loop {
            let Swap::Busy { by } = rebuild.swap(*wait)? else { return Ok(true) };
            *wait = (*wait * 2).min(LONGEST_WAIT);
            if began.elapsed() >= FOLLOW_AGAIN {
                progress::say(&format!(
                    "{} is ready to be swapped in, and waits for those who use the live tables: {}",
                    self.projection,
                    if by.is_empty() { "nobody who can be seen".to_owned() } else { by.join("; ") }
                ));
                return Ok(false);
            }
            // As long as it waited, so that whoever had to wait behind it comes through.
            if self.stop.sleep(*wait) == Slept::Stopped {
                return Err(self.interrupted()?);
            }
        }
    }

    /// The error of a rebuild that was told to stop: it is not done, and a script must not take it to be.
    fn interrupted(&self) -> anyhow::Result<anyhow::Error> {
        let hint = match self.place {
            Place::Beside => "the same command goes on from there; --discard throws it away",
            Place::InPlace => "`host run` goes on from there; the same command would begin again",
        };
        Ok(Ended::failed(self.so_far("was interrupted")?, hint).into())
    }

    /// How far all partitions of what is built are.
    fn reached(&self) -> anyhow::Result<Position> {
        let name = match self.place {
            Place::Beside => rebuild::name_of(&self.projection),
            Place::InPlace => self.projection.clone(),
        };
        Ok(self.overview(&name)?.as_ref().map(position_of).unwrap_or_default())
    }

    /// What became of a rebuild that did not come to its end.
    fn so_far(&self, how: &str) -> anyhow::Result<String> {
        let (projection, reached) = (&self.projection, self.reached()?);
        let live = match self.place {
            Place::Beside => "as it was",
            Place::InPlace => "incomplete",
        };
        Ok(format!("the rebuild of {projection} {how} at position {reached}; the live one is {live}"))
    }

    /// What there is under a name, if anything has claimed it yet.
    fn overview(&self, name: &str) -> anyhow::Result<Option<Overview>> {
        let overviews = self.read_model.overview()?;
        let found = overviews.into_iter().find(|overview| overview.projection == name);
        Ok(found.filter(|found| !found.checkpoints.is_empty()))
    }

    /// What was built, in words.
    fn summary(&self) -> anyhow::Result<String> {
        let Some(built) = self.overview(&self.projection)? else { return Ok("it has no checkpoint".to_owned()) };
        let applied: u64 = built.checkpoints.iter().map(|checkpoint| checkpoint.events_applied).sum();
        let (position, letters) = (position_of(&built), built.dead_letters);
        Ok(format!("position {position}, {applied} events applied, {letters} dead letters"))
    }
}

/// A plugin under another name.
fn under(mut plugin: Plugin, name: &str) -> Plugin {
    name.clone_into(&mut plugin.descriptor.name);
    plugin
}

/// How many partitions a read model has.
fn total_of(overview: &Overview) -> u32 {
    overview.checkpoints.iter().map(|checkpoint| checkpoint.partition.total()).max().unwrap_or(1)
}

/// How far all partitions of a read model are.
fn position_of(overview: &Overview) -> Position {
    overview.checkpoints.iter().map(|checkpoint| checkpoint.position).min().unwrap_or_default()
}

/// Says now and then who is in the way.
fn tell_of(by: &[String], what: &str, told: &mut Instant) {
    if told.elapsed() >= FOLLOW_AGAIN && !by.is_empty() {
        progress::say(&format!("the live tables are to be {what}, and somebody uses them: {}", by.join("; ")));
        *told = Instant::now();
    }
}
