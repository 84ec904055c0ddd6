//! A process's part in a replica set: it takes its place, looks at the roster five times a second, and sees that exactly
//! those slots have a worker here that the roster says are its own.
//!
//! What a roster is, and why none of this can lose or double an event, stands in [`crate::read_model::replica_set`]. So
//! this is written for what is quick and what is seen: a slot that goes elsewhere is released at the next batch boundary; one
//! that comes is stood by for; and whatever fails here is tried again while the workers go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::policy::Options;
use super::progress::{Crew, Progress};
use super::standby::Frozen;
use super::stop::{Slept, Stop};
use super::supervisor::spawn;
use super::worker::{Outcome, Worker};
use crate::database::DatabaseError;
use crate::partition::Partition;
use crate::plugin::PluginSlot;
use crate::read_model::ReadModel;
use crate::read_model::replica_set::roster::{Change, Member, Next, Roster, owner_of};
use crate::read_model::replica_set::{Life, Look, Membership};
use crate::source::Feed;
use crate::telemetry::metrics::Meter;

/// How often the roster is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// After the database was away, how long the others may take to come back: a restart of the server moves no slot.
const GRACE: Duration = Duration::from_secs(3);

/// The most that one look adds to how long somebody has stood still: a pause of this process ages nobody.
const ONE_LOOK: Duration = Duration::from_secs(1);

/// What a worker is for.
type Place = (String, Partition);

/// A process's part in a replica set, before it runs.
#[derive(Debug)]
pub struct Replica {
    /// Which set.
    pub set: String,
    /// How many slots its projections are to have; as many as they have without.
    pub slots: Option<u32>,
    /// The projections, and how the workers of each work.
    pub plugins: Vec<(Arc<PluginSlot>, Options)>,
    /// Where events come from.
    pub feed: Feed,
    /// Where writes go, and the roster is.
    pub read_model: ReadModel,
    /// What this process calls itself in its claims.
    pub owner: String,
    /// After how long without a sign of life a member is taken out.
    pub stale_after: Option<Duration>,
    /// Where its workers are seen.
    pub crew: Crew,
    /// When to end.
    pub stop: Stop,
}

/// A worker that runs.
#[derive(Debug)]
struct Running {
    /// When it is to end.
    stop: Stop,
    /// How far it is.
    progress: Arc<Progress>,
}

/// A member that gave the same sign of life at the last look.
#[derive(Clone, Copy, Debug)]
struct Still {
    /// Which.
    beat: Option<u64>,
    /// For how long.
    since: Duration,
}

/// A part that runs.
struct Part {
    /// What it is.
    replica: Replica,
    /// What it is called on the roster.
    member: Member,
    /// Its place, when it has one.
    place: Option<Box<dyn Membership>>,
    /// How many slots to ask for when it joins: once, so that who joins again does not undo what others have asked for.
    slots: Option<u32>,
    /// The workers.
    running: BTreeMap<Place, Running>,
    /// Events that were applied by those that have ended.
    applied: u64,
    /// How long the others have stood still.
    still: BTreeMap<String, Still>,
    /// Whom this or another process has taken out for that.
    frozen: Frozen,
    /// The last look.
    looked: Instant,
    /// The roster that is followed.
    generation: u64,
    /// Whether the last look failed, which is told once.
    failing: bool,
    /// When the place was taken again, after it was lost.
    retaken: Option<Instant>,
    /// Whether it was on the roster before.
    was_on: bool,
    /// Its own sign of life when it found that it had been taken out.
    taken_out: Option<Option<u64>>,
    /// How workers end.
    ended: Receiver<(Place, Outcome)>,
    /// For their threads.
    sender: Sender<(Place, Outcome)>,
}

/// Says that this process has written a roster, and why.
fn tell(generation: u64, next: &Next) {
    tracing::info!(generation, reason = next.reason, moved = next.moved, "new roster");
}

impl Replica {
    /// Works until it is told to stop, or a worker cannot go on; gives how that one ended. Workers have `patience` to finish
    /// their batch.
    #[must_use]
    pub fn run(self, patience: Duration) -> Vec<Outcome> {
        let span = tracing::info_span!("replica_set", name = self.set);
        let _entered = span.enter();
        let projections = self.plugins.iter().map(|(plugin, _)| plugin.get().descriptor.name.clone()).collect();
        // Another process of this machine may have had this one's number, and its place may still be there.
        let member = Member { name: format!("{}#{:06x}", self.owner, rand::random::<u32>() >> 8), projections };
        let (sender, ended) = channel();
        let slots = self.slots;
        let part = Part {
            replica: self,
            member,
            place: None,
            slots,
            running: BTreeMap::new(),
            applied: 0,
            still: BTreeMap::new(),
            frozen: Frozen::default(),
            looked: Instant::now(),
            generation: 0,
            failing: false,
            retaken: None,
            was_on: false,
            taken_out: None,
            ended,
            sender,
        };
        part.run(patience)
    }
}

impl Part {
    /// See [`Replica::run`].
    fn run(mut self, patience: Duration) -> Vec<Outcome> {
        let outcome = loop {
            if let Some(outcome) = self.reap() {
                break outcome;
            }
            match self.turn() {
                Ok(()) => self.failing = false,
                Err(error) => {
                    // What was taken is let go of with the connection; it is taken again at the next look.
                    self.place = None;
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "the roster cannot be read for now: the workers go on");
                    }
                }
            }
            if self.replica.stop.sleep(EVERY) == Slept::Stopped {
                break Outcome::Done;
            }
        };
        let mut outcomes = self.leave(patience);
        outcomes.push(outcome);
        outcomes
    }

    /// Takes note of workers that have ended; gives an outcome that ends this part, too.
    fn reap(&mut self) -> Option<Outcome> {
        let mut ends = None;
        while let Ok((place, outcome)) = self.ended.try_recv() {
            if let Some(running) = self.running.remove(&place) {
                self.replica.crew.remove(&running.progress);
                self.applied += running.progress.events();
            }
            let (projection, partition) = &place;
            match outcome {
                Outcome::Done => tracing::info!(projection, %partition, "slot released"),
                // The next roster says who works on it.
                Outcome::Fenced(reason) => tracing::warn!(projection, %partition, reason, "slot lost"),
                // Somebody who can should have the slots: all of them, because what stands in the way of one does so for
                // each of its projection.
                other => {
                    tracing::error!(projection, %partition, outcome = ?other, "this process leaves the replica set");
                    ends = Some(other);
                }
            }
        }
        ends
    }

    /// One look at the roster, and what follows from it.
    fn turn(&mut self) -> Result<(), DatabaseError> {
        loop {
            let place = match &mut self.place {
                Some(place) => place,
                None => {
                    let place = self.replica.read_model.take_place(&self.replica.set, &self.member.name)?;
                    self.retaken = self.failing.then(Instant::now);
                    self.place.insert(place)
                }
            };
            let look = place.look()?;
            let changes = self.changes(&look);
            let Some(next) = look.roster.after(&changes) else {
                self.follow(look.generation, &look.roster);
                return Ok(());
            };
            let Some(place) = &mut self.place else { return Ok(()) };
            if place.write(look.generation, &next)? {
                tell(look.generation + 1, &next);
                if next.roster.has(&self.member.name) {
                    self.slots = None;
                }
            }
            // Whether this was written or another: it is looked at next.
        }
    }

    /// What has to change: this process is not on the roster, or somebody is who does not live.
    fn changes(&mut self, look: &Look) -> Vec<Change> {
        let now = Instant::now();
        let passed = (now - std::mem::replace(&mut self.looked, now)).min(ONE_LOOK);
        let mut changes = Vec::new();
        let mut still = BTreeMap::new();
        for (name, life) in look.lives.iter().filter(|(name, _)| **name != self.member.name) {
            match life {
                Life::Ended if self.retaken.is_some_and(|at| now - at < GRACE) => {}
                Life::Ended => changes.push(Change::Ended(name.clone())),
                Life::Beats(beat) => {
                    let last = self.still.get(name).filter(|last| last.beat == *beat);
                    let since = last.map_or(Duration::ZERO, |last| last.since + passed);
                    if last.is_none() && self.still.contains_key(name) {
                        // It lives: from now on it is waited for like anybody else.
                        self.frozen.remove(owner_of(name));
                    }
                    still.insert(name.clone(), Still { beat: *beat, since });
                    if beat.is_some() && self.replica.stale_after.is_some_and(|after| since >= after) {
                        changes.push(Change::Frozen(name.clone()));
                    }
                }
            }
        }
        // Who was taken out by another process is as frozen as who is taken out by this one.
        for (name, last) in &self.still {
            let was_frozen = last.since * 2 >= self.replica.stale_after.unwrap_or(Duration::MAX);
            let is_taken_out = !look.roster.has(name) || changes.contains(&Change::Frozen(name.clone()));
            if is_taken_out && was_frozen {
                self.frozen.add(owner_of(name), last.beat);
            }
        }
        self.still = still;
        if look.roster.has(&self.member.name) {
            (self.was_on, self.taken_out) = (true, None);
        } else if self.may_join(look.own_beat) {
            changes.push(Change::Joins(self.member.clone(), self.slots));
        }
        changes
    }

    /// Whether to come to the roster, or back to it. Who was taken out while it lives was not seen to live: it waits until its
    /// sign of life gets through, or it would be taken out again each time, and its slots would move there and back.
    fn may_join(&mut self, own_beat: Option<u64>) -> bool {
        if !self.was_on {
            return true;
        }
        if self.taken_out.is_none() {
            tracing::warn!("taken out of the replica set: this process comes back when its sign of life gets through");
        }
        *self.taken_out.get_or_insert(own_beat) != own_beat
    }

    /// Sees that exactly this process's slots have a worker here.
    fn follow(&mut self, generation: u64, roster: &Roster) {
        let mine: Vec<Place> = roster
            .slots_of(&self.member.name)
            .filter_map(|(projection, slot)| Some((projection.to_owned(), Partition::new(slot, roster.slots).ok()?)))
            .collect();
        if self.generation != generation {
            self.generation = generation;
            tracing::info!(generation, members = roster.members.len(), slots = mine.len(), "following the roster");
        }
        for (place, running) in &self.running {
            if !mine.contains(place) {
                running.stop.request();
            }
        }
        let missing: Vec<Place> = mine.into_iter().filter(|place| !self.running.contains_key(place)).collect();
        let workers = missing.into_iter().filter_map(|place| {
            let of_place = |of: &&(Arc<PluginSlot>, Options)| of.0.get().descriptor.name == place.0;
            let (plugin, options) = self.replica.plugins.iter().find(of_place)?;
            let (stop, meter) = (Stop::default(), Meter::new(&place.0, place.1));
            let progress = Arc::new(Progress::new(&place.0, place.1, meter.clone()));
            let worker = Worker {
                partition: place.1,
                plugin: Arc::clone(plugin),
                feed: self.replica.feed.clone(),
                read_model: self.replica.read_model.clone(),
                owner: self.replica.owner.clone(),
                options: *options,
                frozen: self.frozen.clone(),
                stop: stop.clone(),
                progress: Arc::clone(&progress),
                meter,
            };
            Some((place, worker, Running { stop, progress }))
        });
        let workers: Vec<_> = workers.collect();
        // All readers first: what is read for one is read for all.
        let readers: Vec<_> = workers.iter().map(|(_, worker, _)| worker.reader()).collect();
        for ((place, worker, running), reader) in workers.into_iter().zip(readers) {
            let (sender, told) = (self.sender.clone(), place.clone());
            match spawn(worker, reader, move |outcome| drop(sender.send((told, outcome)))) {
                Ok(()) => {
                    self.replica.crew.add(Arc::clone(&running.progress));
                    self.running.insert(place, running);
                }
                Err(error) => {
                    tracing::warn!(projection = place.0, partition = %place.1, %error, "no thread for a slot")
                }
            }
        }
    }

    /// Leaves: the others are told first, so that they stand by for what is released.
    fn leave(mut self, patience: Duration) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let deadline = Instant::now() + patience;
        for running in self.running.values() {
            running.stop.request();
        }
        if let Err(error) = self.tell_that_it_leaves() {
            tracing::warn!(%error, "the roster could not be changed: the others will see that this process has ended");
        }
        while !self.running.is_empty() {
            let Ok((place, outcome)) = self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            else {
                tracing::warn!(workers = self.running.len(), "not finished in time: their batches are rolled back");
                break;
            };
            if let Some(running) = self.running.remove(&place) {
                self.applied += running.progress.events();
            }
            match outcome {
                // Whoever has taken the slot over already has it.
                Outcome::Done | Outcome::Fenced(_) => {}
                other => {
                    tracing::error!(projection = place.0, partition = %place.1, outcome = ?other, "a worker ended");
                    outcomes.push(other);
                }
            }
        }
        tracing::info!(member = self.member.name, events = self.applied, "left the replica set");
        outcomes
    }

    /// Writes a roster without this process.
    fn tell_that_it_leaves(&mut self) -> Result<(), DatabaseError> {
        let Some(place) = &mut self.place else { return Ok(()) };
        loop {
            let look = place.look()?;
            let Some(next) = look.roster.after(&[Change::Leaves(self.member.name.clone())]) else { return Ok(()) };
            if place.write(look.generation, &next)? {
                tell(look.generation + 1, &next);
                return Ok(());
            }
        }
    }
}
