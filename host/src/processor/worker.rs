//! The life of one worker: claim its partition or stand by, bring the projection's tables up, then batch after batch
//! until it is stopped, done, fenced, or stopped by policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::batch::Applier;
use super::failure::{ApplyError, Kind};
use super::losses::{IN_A_ROW, Losses};
use super::pace::Pace;
use super::paths::WentBack;
use super::pausing::{self, Found, Pausing};
use super::policy::{LiveOptions, Options, Until};
use super::progress::{Progress, State};
use super::reader::Reader;
use super::replay::Replaying;
use super::requests::Requests;
use super::standby::{Frozen, Standby};
use super::stop::{Slept, Stop};
use crate::database::DatabaseError;
use crate::event::Position;
use crate::partition::Partition;
use crate::plugin::PluginSlot;
use crate::read_model::ReadModel;
use crate::read_model::checkpoint::Slot;
use crate::read_model::claim::Holder;
use crate::read_model::grants::Others;
use crate::read_model::guard::Phase;
use crate::read_model::store::{Claim, ClaimError, CommitError};
use crate::read_model::unit_of_work::{Sending, UnitOfWork};
use crate::source::Feed;
use crate::source::wake::Seen;
use crate::telemetry::metrics::Meter;

/// How often whoever stands by asks whether the partition is free.
const STANDBY: Duration = Duration::from_millis(250);

/// The first pause of a worker that has nothing to do; it doubles up to `--poll-interval`.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// How often a checkpoint moves over events that are all somebody else's. A commit for each would cost more than
/// reading a few of them again after a restart.
const PASS_EVERY: Duration = Duration::from_secs(1);

/// How often a worker that has nothing to do sees that its checkpoint is still where it has left it. A commit would
/// show, but it has none to make: a rebuild that put the checkpoint back would go unnoticed until the next event.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// After how long without events a projection's memory is given back. Live, with an event now and then, it is not: what
/// it has cached would be read again for each.
const REST_AFTER: Duration = Duration::from_secs(5);

/// How a worker ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was stopped, or had nothing more to do.
    Done,
    /// An event could not be applied, and the policy was to stop.
    StoppedByPolicy(String),
    /// Somebody else has its partition.
    Fenced(String),
    /// It cannot work as it is configured.
    Misconfigured {
        /// Why.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// It gave up.
    Failed(String),
}

/// Why a worker's session with its read model ended.
#[derive(Debug)]
pub enum Trouble {
    /// It was told to stop.
    Stopped,
    /// Somebody else has the partition.
    Fenced(String),
    /// The projection's tables were brought to another version than this worker runs.
    Outdated {
        /// Their version.
        found: u32,
        /// What happened.
        reason: String,
    },
    /// A tool of the host has changed the checkpoint.
    Rewritten(String),
    /// A plugin that has replaced another has failed before it has applied anything.
    Trial(ApplyError),
    /// The connection is gone.
    Lost(String),
    /// Something around the projection is broken.
    Environment(String),
    /// It ends here.
    End(Outcome),
}

impl From<ApplyError> for Trouble {
    fn from(error: ApplyError) -> Self {
        if let ApplyError::Commit(CommitError::OtherVersion { found, .. }) = &error {
            return Self::Outdated { found: *found, reason: error.to_string() };
        }
        match error.kind() {
            Kind::Fenced => Self::Fenced(error.to_string()),
            Kind::Rewritten => Self::Rewritten(error.to_string()),
            Kind::Lost => Self::Lost(error.to_string()),
            Kind::Environment | Kind::Transient | Kind::Permanent => Self::Environment(error.to_string()),
        }
    }
}

impl From<DatabaseError> for Trouble {
    fn from(error: DatabaseError) -> Self {
        if error.is_lost_connection() { Self::Lost(error.to_string()) } else { Self::Environment(error.to_string()) }
    }
}

/// A worker, before it runs.
#[derive(Debug)]
pub struct Worker {
    /// Which partition.
    pub partition: Partition,
    /// Its projection, which may be replaced while it runs.
    pub plugin: Arc<PluginSlot>,
    /// Where events come from.
    pub feed: Feed,
    /// Where writes go.
    pub read_model: ReadModel,
    /// What it calls itself in its claim.
    pub owner: String,
    /// How it works.
    pub options: LiveOptions,
    /// Who is known to be frozen.
    pub frozen: Frozen,
    /// When to end.
    pub stop: Stop,
    /// Where others see how far it is.
    pub progress: Arc<Progress>,
    /// Where it counts.
    pub meter: Meter,
}

impl Worker {
    /// What this worker reads with. Those of a process are made before any of them runs, so that what is read first is
    /// for all of them.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(&self.feed, self.plugin.get().descriptor.filter(), self.partition)
    }

    /// Works until it ends, on what `reader` reads.
    #[must_use]
    pub fn run(self, mut reader: Reader) -> Outcome {
        let name = self.plugin.get().descriptor.name.clone();
        let span = tracing::info_span!("worker", projection = name, partition = %self.partition);
        let _entered = span.enter();
        let (mut backoff, mut losses) = (Backoff::default(), Losses::default());
        loop {
            let trouble = match self.session(&name, &mut reader, &mut backoff, &mut losses) {
                Ok(()) => return Outcome::Done,
                Err(trouble) => trouble,
            };
            let reason = match trouble {
                Trouble::Stopped => return Outcome::Done,
                Trouble::Fenced(reason) => return Outcome::Fenced(reason),
                // Its lock is still its own, so nobody else has the partition.
                Trouble::Rewritten(reason) => {
                    tracing::info!(reason, "claiming the partition again");
                    continue;
                }
                // Another worker of this process has migrated for the plugin that this one is about to take up.
                Trouble::Outdated { found, .. } if self.plugin.get().descriptor.version == found => continue,
                Trouble::Outdated { reason, .. } => return Outcome::Fenced(reason),
                Trouble::End(outcome) => return outcome,
                Trouble::Lost(reason) => {
                    self.meter.failed(Kind::Lost.name());
                    reason
                }
                Trouble::Environment(reason) => {
                    self.meter.failed(Kind::Environment.name());
                    reason
                }
                Trouble::Trial(error) => error.to_string(),
            };
            reader.pause();
            self.progress.is(State::Waiting { reason: reason.clone() });
            self.meter.retried();
            let wait = backoff.fail();
            let options = self.options.get();
            // A server that lost a process is back a few seconds later.
            let more = if losses.may_tell_more() { IN_A_ROW } else { 0 };
            if options.until == Until::CaughtUp && backoff.failures() >= options.max_attempts.saturating_add(more) {
                return Outcome::Failed(format!("{name}, partition {}: {reason}", self.partition));
            }
            tracing::warn!(reason, attempts = backoff.failures(), ?wait, "will try again; nothing is lost");
            if self.stop.sleep(wait) == Slept::Stopped {
                return Outcome::Done;
            }
        }
    }

    /// One claim, for as long as it lasts.
    fn session(
        &self,
        name: &str,
        reader: &mut Reader,
        backoff: &mut Backoff,
        losses: &mut Losses,
    ) -> Result<(), Trouble> {
        let goal = self.goal()?;
        let claim = self.claim(name, reader)?;
        losses.look(&self.read_model, &self.owner)?;
        if losses.may_tell_more() {
            backoff.reset();
        }
        tracing::info!(position = claim.position.get(), epoch = claim.epoch.0, "partition claimed");
        if !claim.lineage.is_empty() {
            let (until, totals) = (claim.lineage.until().get(), claim.lineage.totals());
            tracing::info!(until, ?totals, "leaving out what was done before the number of partitions was changed");
        }
        if let Some(last) = self.feed.source().taken_away(claim.position)? {
            tracing::warn!(
                position = claim.position.get(),
                last = last.get(),
                "events after this position, up to the last one, are not there any more: they went with their months, and will not be applied"
            );
        }
        self.progress.reached(claim.position);
        self.meter.claimed();
        let plugin = self.plugin.get();
        let limits = plugin.limits().sql;
        let work = UnitOfWork::new(claim.store, name, limits, plugin.grants(), Others::TakenAway);
        let work = work.map_err(ApplyError::from)?;
        reader.want(plugin.descriptor.filter(), claim.position);
        reader.begin(claim.position, claim.lineage);
        let mut applier = Applier::new(plugin, work, claim.parked, claim.position, self.meter.clone());
        self.migrate(&mut applier)?;
        self.progress.is(State::Running);
        self.follow(&mut applier, reader, goal, backoff, losses)
    }

    /// Where a worker that is to catch up is done: at the last event that is visible now.
    fn goal(&self) -> Result<Option<Position>, Trouble> {
        Ok(match self.options.get().until {
            Until::Stopped => None,
            Until::CaughtUp => Some(self.feed.source().last()?),
        })
    }

    /// Claims the partition, standing by for as long as somebody else has it.
    fn claim(&self, name: &str, reader: &mut Reader) -> Result<Claim, Trouble> {
        let slot = Slot { projection: name.to_owned(), partition: self.partition };
        let options = self.options.get();
        let mut standby = Standby::new(options.stale_after, self.frozen.clone());
        loop {
            let isolation = self.plugin.get().isolation();
            match self.read_model.claim(&slot, &self.owner, options.priority, isolation) {
                Ok(claim) => return Ok(claim),
                Err(ClaimError::Held { holders, .. }) => {
                    reader.pause();
                    if self.stand_by(&slot, &mut standby, holders)? {
                        continue;
                    }
                }
                Err(ClaimError::Database(error)) if error.is_configuration() => {
                    let hint = error.advice().unwrap_or("see the message").to_owned();
                    return Err(Trouble::End(Outcome::Misconfigured { message: error.to_string(), hint }));
                }
                Err(ClaimError::Database(error)) => return Err(error.into()),
            }
            if self.stop.sleep(STANDBY) == Slept::Stopped {
                return Err(Trouble::Stopped);
            }
        }
    }

    /// Waits for those who hold what this worker wants; says whether one of them was replaced, and the claim is worth
    /// another try at once.
    fn stand_by(&self, slot: &Slot, standby: &mut Standby, holders: Vec<Holder>) -> Result<bool, Trouble> {
        let seen = standby.look(holders, Instant::now());
        if let Some(holders) = seen.changed {
            let behind = holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            self.progress.is(State::StandingBy { behind });
            let others = holders.iter().find(|holder| holder.slot.partition.total() != slot.partition.total());
            for holder in holders.iter().take(8) {
                let (owner, partition) = (&holder.owner, holder.slot.partition);
                match others {
                    None => tracing::info!(%owner, "standing by: somebody else works on this partition"),
                    Some(_) => tracing::info!(
                        %owner,
                        holds = %partition,
                        "standing by: the number of partitions changes when those of the old number have ended"
                    ),
                }
            }
        }
        let mut replaced = false;
        for holder in seen.stale {
            let (owner, after) = (&holder.owner, self.options.get().stale_after.unwrap_or_default());
            if self.read_model.depose(&holder, &self.owner)? {
                tracing::warn!(%owner, partition = %holder.slot.partition, ?after, "no sign of life: replaced");
                replaced = true;
            }
        }
        Ok(replaced)
    }

    /// Brings the projection's tables to its version. Of all its workers one does it; the others wait, and find it
    /// done.
    fn migrate(&self, applier: &mut Applier) -> Result<(), Trouble> {
        let wanted = applier.plugin.descriptor.version;
        let migrated = self.try_migrate(applier, wanted);
        let Err(error) = migrated else { return Ok(()) };
        applier.roll_back();
        let name = &applier.plugin.descriptor.name;
        match error {
            MigrateError::Newer(found) => Err(Trouble::End(Outcome::Misconfigured {
                message: format!("the tables of {name} are at version {found}, and this plugin is version {wanted}"),
                hint: "run the newer plugin; there is no way back but a rebuild".to_owned(),
            })),
            MigrateError::Apply(error) => match error.kind() {
                Kind::Permanent => Err(Trouble::End(Outcome::Failed(format!("{name} failed in `migrate`: {error}")))),
                _ => Err(error.into()),
            },
        }
    }

    /// Runs `migrate` if the tables are older than the projection.
    fn try_migrate(&self, applier: &mut Applier, wanted: u32) -> Result<(), MigrateError> {
        applier.work().begin(Phase::Migrate, Sending::AtOnce).map_err(ApplyError::from)?;
        let found = applier.work().schema_version().map_err(ApplyError::from)?.0;
        if found > wanted {
            return Err(MigrateError::Newer(found));
        }
        if found == wanted {
            applier.work().rollback().map_err(ApplyError::from)?;
            return Ok(());
        }
        applier.call(|instance| instance.migrate(found))?;
        let in_place = applier.advance(applier.position, 0);
        applier.work().commit_migration(&in_place).map_err(ApplyError::from)?;
        self.plugin.insist(&applier.plugin);
        tracing::info!(from = found, to = wanted, "the projection's tables are up to date");
        Ok(())
    }

    /// Batch after batch.
    fn follow(
        &self,
        applier: &mut Applier,
        reader: &mut Reader,
        goal: Option<Position>,
        backoff: &mut Backoff,
        losses: &mut Losses,
    ) -> Result<(), Trouble> {
        let (mut seen, mut pause) = (Seen::default(), FIRST_PAUSE);
        let (mut passed, mut verified, mut worked) = (Instant::now(), Instant::now(), Instant::now());
        let (mut requests, mut pace) = (Requests::default(), Pace::new(self.options.get().batch_size));
        let mut pausing = Pausing::default();
        loop {
            if self.stop.is_requested() {
                return Ok(());
            }
            self.swap(applier, reader);
            let options = self.options.get();
            pace.allow(options.batch_size);
            match requests.serve(applier, self.replaying(&options), losses) {
                Err(Trouble::Trial(error)) => match self.go_back(applier, reader, &error) {
                    WentBack::Yes => continue,
                    WentBack::No => return Err(error.into()),
                },
                served => self.progress.applied(served?),
            }
            match pausing.look(applier)? {
                Found::Running => {}
                found @ (Found::NowPaused | Found::Paused) => {
                    if found == Found::NowPaused {
                        tracing::warn!("paused by an operator: no events are applied until `host resume`");
                        // No other worker has to wait for this one.
                        reader.pause();
                        self.progress.is(State::Paused);
                    }
                    if verified.elapsed() >= VERIFY_EVERY {
                        applier.work().verify().map_err(ApplyError::from)?;
                        verified = Instant::now();
                    }
                    if self.stop.sleep(Requests::pause(applier, pausing::LOOK)) == Slept::Stopped {
                        return Ok(());
                    }
                    continue;
                }
                Found::NowRunning => {
                    tracing::info!("resumed by an operator");
                    reader.want(applier.plugin.descriptor.filter(), applier.position);
                    self.progress.is(State::Running);
                }
            }
            // Before the look, so that what comes after it wakes us.
            seen = self.feed.source().wait(seen, Duration::ZERO);
            let batch = reader.next(pace.size())?;
            if !batch.events.is_empty() {
                self.apply(applier, reader, &batch, &mut pace, losses)?;
                self.progress.reached(applier.position);
                backoff.reset();
                (pause, worked) = (FIRST_PAUSE, Instant::now());
                // Also while more comes in all the time.
                if goal.is_some_and(|goal| applier.position >= goal) {
                    return Ok(());
                }
                continue;
            }
            let reached_goal = goal.is_some_and(|goal| batch.to >= goal);
            if batch.to > applier.position && (reached_goal || passed.elapsed() >= PASS_EVERY) {
                applier.pass(batch.to)?;
                self.progress.reached(applier.position);
                passed = Instant::now();
            }
            if reached_goal {
                return Ok(());
            }
            if batch.more {
                continue;
            }
            if verified.elapsed() >= VERIFY_EVERY {
                applier.work().verify().map_err(ApplyError::from)?;
                verified = Instant::now();
            }
            if worked.elapsed() >= REST_AFTER {
                applier.rest();
            }
            seen = self.feed.source().wait(seen, Requests::pause(applier, pause.min(pausing::LOOK)));
            pause = (pause * 2).min(options.poll_interval).max(FIRST_PAUSE);
        }
    }

    /// How it replays what an operator asks for.
    fn replaying<'a>(&'a self, options: &'a Options) -> Replaying<'a> {
        Replaying { source: self.feed.source(), options, stop: &self.stop, by: &self.owner }
    }
}

/// Why tables were not brought up.
enum MigrateError {
    /// They are newer than the projection.
    Newer(u32),
    /// It failed.
    Apply(ApplyError),
}

impl From<ApplyError> for MigrateError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(error)
    }
}
