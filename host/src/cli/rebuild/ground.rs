//! How a read model is built afresh.
//!
//! It goes in rounds. A round is workers that run until they have applied what was there when they began
//! (`host run --once`, under the name of a rebuild); the next one applies what has come meanwhile. Each is shorter
//! than the one before, and when next to nothing is left the swap follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::Context;
use super::super::exit::{Ended, UsageError};
use super::super::run::{self, Job};
use super::progress::{self, Watcher};
use crate::event::Position;
use crate::partition::Partition;
use crate::plugin::{Plugin, PluginSlot};
use crate::processor::stop::Slept;
use crate::processor::{Options, Stop};
use crate::read_model::ReadModel;
use crate::read_model::overview::Overview;
use crate::read_model::rebuild::{self, Rebuild, Swap};
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

/// Where a rebuild works.
pub(super) struct Ground<'run> {
    /// The databases.
    pub(super) context: &'run Context,
    /// Where the read models are.
    pub(super) read_model: ReadModel,
    /// The events.
    pub(super) source: Arc<dyn Source>,
    /// The projection.
    pub(super) projection: String,
    /// Where it is built.
    pub(super) place: Place,
    /// How.
    pub(super) how: How,
    /// When to end.
    pub(super) stop: Stop,
    /// What this process runs meanwhile, where it does: what another component has built is not swapped in under it.
    pub(super) live: Option<Arc<PluginSlot>>,
}

/// Where a read model is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Beside the live one.
    Beside,
    /// Where the live one was.
    InPlace,
}

/// How a read model is built.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// On how many partitions; as many as the live one has without.
    pub(super) workers: Option<u32>,
    /// How its workers work.
    pub(super) options: Options,
    /// How long they may take to finish their batch.
    pub(super) patience: Duration,
    /// How many connections to write with.
    pub(super) connections: usize,
    /// Who is told how far it is.
    pub(super) tell: Tell,
}

/// Who is told how far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Whoever has typed the command.
    People,
    /// The log.
    Log,
}

impl Tell {
    /// Tells something.
    fn say(self, line: &str) {
        match self {
            Self::People => progress::say(line),
            Self::Log => tracing::info!("{line}"),
        }
    }
}

impl Ground<'_> {
    /// Builds, and says what was built.
    ///
    /// # Errors
    /// When there is nothing to rebuild, somebody else does it, or it does not come to its end.
    pub(super) fn rebuild(&self, plugin: &Plugin) -> anyhow::Result<String> {
        let mut rebuild = self.read_model.rebuild(&self.projection, &run::owner())?;
        let Some(live) = self.overview(&self.projection)? else {
            let message = format!("{} has no read model in {} yet", self.projection, self.context.read_model);
            let hint = "`host run --plugin` makes it; or correct the URL, or the name with --plugin NAME=FILE";
            return Err(UsageError::new(message, hint).into());
        };
        rebuild.check()?;
        if self.place == Place::InPlace {
            return self.in_place(&mut rebuild, plugin, &live);
        }
        let begun = self.resume(&mut rebuild, plugin)?;
        rebuild.prepare()?;
        let total = self.how.workers.unwrap_or_else(|| total_of(begun.as_ref().unwrap_or(&live)));
        self.beside(&mut rebuild, plugin, total)
    }

    /// Throws away what was built.
    ///
    /// # Errors
    /// When somebody builds, or the database fails.
    pub(super) fn discard(&self) -> anyhow::Result<String> {
        let projection = &self.projection;
        let mut rebuild = self.read_model.rebuild(projection, &run::owner())?;
        let begun = self.overview(&rebuild::name_of(projection))?;
        rebuild.discard()?;
        Ok(if begun.is_some() {
            format!("the rebuild of {projection} was discarded")
        } else {
            format!("there was no rebuild of {projection} to discard")
        })
    }

    /// Builds beside the live one, and swaps.
    fn beside(&self, rebuild: &mut Rebuild, plugin: &Plugin, total: u32) -> anyhow::Result<String> {
        let name = rebuild::name_of(&self.projection);
        let slot = Arc::new(PluginSlot::new(under(plugin, &name)));
        let mut wait = FIRST_WAIT;
        loop {
            self.follow(&slot, total)?;
            if self.swap(rebuild, plugin, &mut wait)? {
                return Ok(format!("{} was rebuilt: {}", self.projection, self.summary()?));
            }
        }
    }

    /// Runs the projection round after round, until next to nothing is left.
    fn follow(&self, slot: &Arc<PluginSlot>, total: u32) -> anyhow::Result<()> {
        let partitions: Vec<Partition> = (0..total).map(|key| Partition::new(key, total)).collect::<Result<_, _>>()?;
        let How { options, patience, connections, tell, .. } = self.how;
        loop {
            let began = Instant::now();
            let job = Job { slot: Arc::clone(slot), partitions: partitions.clone(), options: options.into() };
            let started = run::start(self.context, std::slice::from_ref(&job), connections, &self.stop)?;
            let goal = self.source.last()?;
            let watcher = (tell == Tell::People).then(|| Watcher::start(&self.projection, started.progress, goal));
            let outcomes = started.supervisor.wait(patience);
            if let Some(watcher) = watcher {
                watcher.finish();
            }
            if let Some(ended) = Ended::of(outcomes) {
                return Err(anyhow::Error::new(ended).context(self.so_far("stopped")?));
            }
            if self.stop.is_requested() {
                return Err(self.interrupted()?);
            }
            // On a slow machine no round is short; then it counts that no more than a batch has come meanwhile.
            let left = self.source.last()?.get().saturating_sub(self.reached()?.get());
            if began.elapsed() < SHORT || left <= options.batch_size as u64 {
                return Ok(());
            }
        }
    }

    /// Empties the live one, and leaves it to its workers or builds it.
    fn in_place(&self, rebuild: &mut Rebuild, plugin: &Plugin, live: &Overview) -> anyhow::Result<String> {
        let mut wait = FIRST_WAIT;
        let mut told = Instant::now();
        while let Swap::Busy { by } = rebuild.empty(wait)? {
            if told.elapsed() >= FOLLOW_AGAIN && !by.is_empty() {
                let by = by.join("; ");
                self.how.tell.say(&format!("the live tables are to be emptied, and somebody uses them: {by}"));
                told = Instant::now();
            }
            wait = (wait * 2).min(LONGEST_WAIT);
            if self.stop.sleep(wait) == Slept::Stopped {
                let message = format!("the rebuild of {} was interrupted before anything was changed", self.projection);
                return Err(Ended::failed(message, "run it again to go on").into());
            }
        }
        if live.checkpoints.iter().any(|checkpoint| checkpoint.running) {
            return Ok(format!("{} was emptied: the workers that run build it again", self.projection));
        }
        let total = self.how.workers.unwrap_or_else(|| total_of(live));
        self.follow(&Arc::new(PluginSlot::new(plugin.clone())), total)?;
        Ok(format!("{} was rebuilt in place: {}", self.projection, self.summary()?))
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
                self.how.tell.say(&format!(
                    "starting over: the rebuild of {projection} was begun with another component, {other}"
                ));
                rebuild.discard()?;
                Ok(None)
            }
            None => {
                self.how.tell.say(&format!(
                    "going on with the rebuild of {projection} at position {} (--discard throws it away)",
                    position_of(&begun)
                ));
                Ok(Some(begun))
            }
        }
    }

    /// Tries to swap for a while. Whether it was done.
    fn swap(&self, rebuild: &mut Rebuild, plugin: &Plugin, wait: &mut Duration) -> anyhow::Result<bool> {
        let began = Instant::now();
        loop {
            // Whatever comes after it finds the new tables, as any reload finds tables that another component has filled.
            let held = self.live.as_ref().map(|live| live.hold());
            self.refuse_replaced(plugin)?;
            let Swap::Busy { by } = rebuild.swap(*wait)? else { return Ok(true) };
            drop(held);
            *wait = (*wait * 2).min(LONGEST_WAIT);
            if began.elapsed() >= FOLLOW_AGAIN {
                self.how.tell.say(&format!(
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

    /// What was built by another component than runs by now would undo what that one has done, and nobody would be told.
    fn refuse_replaced(&self, plugin: &Plugin) -> anyhow::Result<()> {
        let now = match &self.live {
            Some(live) => live.get(),
            None => return Ok(()),
        };
        if now.digest == plugin.digest {
            return Ok(());
        }
        let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
        let (projection, from, to) = (&self.projection, short(&plugin.digest), short(&now.digest));
        let message = format!(
            "the rebuild of {projection} was not swapped in: its component was replaced meanwhile, {from} by {to}; the live one \
             is as it was"
        );
        Err(Ended::failed(message, "begin again: it starts over, with the component that runs now").into())
    }

    /// The error of a rebuild that was told to stop: it is not done, and a script must not take it to be.
    fn interrupted(&self) -> anyhow::Result<anyhow::Error> {
        let hint = match self.place {
            Place::Beside => match self.how.tell {
                Tell::People => "the same command goes on from there; --discard throws it away",
                Tell::Log => "begun again, it goes on from there; `host rebuild --discard` throws it away",
            },
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
fn under(plugin: &Plugin, name: &str) -> Plugin {
    let mut plugin = plugin.clone();
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
