//! Cuts the log into batches.
//!
//! The feed gives stretches of the log; a batch is events of this worker, of which a stretch may hold few (four
//! partitions share it) or none (a filter). So stretches are taken until a batch is full, or the horizon is reached.
//! An event stays where it was read: a batch points at it, and so do the batches of the other workers.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use crate::database::DatabaseError;
use crate::event::{Event, Position};
use crate::partition::Partition;
use crate::partition::lineage::Lineage;
use crate::source::feed::{Stretch, Subscription};
use crate::source::{Feed, Filter};
use crate::telemetry::traces::batch::Interval;

/// How many stretches are looked through for one batch at most, so that a projection whose events are rare still
/// moves its checkpoint, and hears that it should stop.
const STRETCHES: usize = 32;

/// An event in its stretch.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The stretch.
    stretch: Arc<Stretch>,
    /// Where in it.
    at: usize,
}

impl Deref for Taken {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.stretch.events[self.at]
    }
}

/// What one transaction applies.
#[derive(Debug)]
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Taken>,
    /// Where the checkpoint stands when they are applied: at the last of them, or behind it, over events that are
    /// somebody else's.
    pub to: Position,
    /// Whether more is known to stand behind `to`.
    pub more: bool,
    /// When it was read, for whoever traces it.
    pub read: Interval,
}

impl Batch {
    /// The same in batches of at most `size` events.
    pub fn pieces(&self, size: usize) -> impl Iterator<Item = Self> {
        let count = self.events.len().div_ceil(size);
        self.events.chunks(size).enumerate().map(move |(number, events)| {
            let is_last = number + 1 == count;
            let to = events.last().filter(|_| !is_last).map_or(self.to, |last| last.position());
            Self { events: events.to_vec(), to, more: self.more || !is_last, read: self.read }
        })
    }
}

/// Reads one worker's events.
#[derive(Debug)]
pub struct Reader {
    /// Where they come from.
    feed: Subscription,
    /// Which of them, by type and context.
    filter: Filter,
    /// Whose of them.
    partition: Partition,
    /// Which of them are done already, since the number of partitions was changed.
    done: Lineage,
    /// The stretch that is being taken from, and the next event in it.
    current: Option<Taken>,
    /// How far the log was looked through.
    read: Position,
}

impl Reader {
    /// A reader that has not begun: for the partition of a worker that still has to claim it.
    #[must_use]
    pub fn new(feed: &Feed, filter: Filter, partition: Partition) -> Self {
        let feed = feed.subscribe(filter.clone());
        Self { feed, filter, partition, done: Lineage::default(), current: None, read: Position::START }
    }

    /// Begins behind `from`, and leaves out what is `done`.
    pub fn begin(&mut self, from: Position, done: Lineage) {
        self.done = done;
        self.current = None;
        self.read = from;
    }

    /// Does not read for now: no other worker has to wait for this one.
    pub fn pause(&mut self) {
        self.current = None;
        self.feed.pause();
    }

    /// Wants other events from `from` on: the projection was replaced.
    pub fn want(&mut self, filter: Filter, from: Position) {
        self.feed.want(filter.clone());
        self.filter = filter;
        self.current = None;
        self.read = from;
    }

    /// The next batch, of at most `size` events. Without events, its `to` says how far there is nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub fn next(&mut self, size: usize) -> Result<Batch, DatabaseError> {
        let from = Instant::now();
        let (events, to, more) = self.cut(size)?;
        Ok(Batch { events, to, more, read: Interval { from, to: Instant::now() } })
    }

    /// What the next batch holds, where it ends, and whether more is behind.
    fn cut(&mut self, size: usize) -> Result<(Vec<Taken>, Position, bool), DatabaseError> {
        // A batch keeps whole stretches until its commit, whoever's the other events in them are.
        let (mut events, mut bytes, most) = (Vec::new(), 0, self.feed.share());
        let mut through = self.read;
        for _ in 0..STRETCHES {
            let Some(current) = self.current()? else {
                return Ok((events, self.read, false));
            };
            let Taken { stretch, mut at } = current;
            if !events.is_empty() && bytes + stretch.bytes > most {
                self.current = Some(Taken { stretch, at });
                return Ok((events, through, true));
            }
            let taken = events.len();
            while let Some(event) = stretch.events.get(at) {
                if events.len() >= size {
                    self.current = Some(Taken { stretch, at });
                    return Ok((events, through, true));
                }
                if event.position() > self.read && self.takes(event) {
                    events.push(Taken { stretch: Arc::clone(&stretch), at });
                }
                through = event.position().max(through);
                at += 1;
            }
            through = stretch.through;
            self.read = through;
            if events.len() > taken {
                bytes += stretch.bytes;
            }
            // What is there is applied at once; whether there is more is looked for afterwards.
            if !events.is_empty() && stretch.is_last {
                break;
            }
        }
        Ok((events, through, true))
    }

    /// What is to be taken from next; nothing when the horizon is reached.
    fn current(&mut self) -> Result<Option<Taken>, DatabaseError> {
        match self.current.take() {
            Some(current) => Ok(Some(current)),
            None => Ok(self.feed.next(self.read)?.map(|stretch| Taken { stretch, at: 0 })),
        }
    }

    /// Whether an event is this worker's, and still to do.
    fn takes(&self, event: &Event) -> bool {
        self.partition.owns(&event.aggregate_id)
            && self.filter.takes(event)
            && !self.done.is_done(&event.aggregate_id, event.position())
    }
}
