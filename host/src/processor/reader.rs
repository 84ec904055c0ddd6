//! Cuts the log into batches.
//!
//! A page is rows of the log; a batch is events of this worker, of which a page may hold few (four partitions share
//! the rows) or none (a filter). So pages are read until a batch is full, or the horizon is reached.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::database::DatabaseError;
use crate::event::{Event, Position};
use crate::partition::lineage::Lineage;
use crate::source::{Source, Wanted};

/// How many rows one page has at most.
const PAGE: u32 = 1_000;

/// How many pages are read for one batch at most, so that a projection whose events are rare still moves its
/// checkpoint, and hears that it should stop.
const PAGES: usize = 32;

/// What one transaction applies.
#[derive(Debug)]
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Event>,
    /// Where the checkpoint stands when they are applied: at the last of them, or behind it, over events that are
    /// somebody else's.
    pub to: Position,
    /// Whether more is known to stand behind `to`.
    pub more: bool,
}

/// Reads one worker's events.
pub struct Reader {
    /// Where they come from.
    source: Arc<dyn Source>,
    /// Which.
    wanted: Wanted,
    /// Which of them are done already, since the number of partitions was changed.
    done: Lineage,
    /// Events that were read and not yet given out.
    ahead: VecDeque<Event>,
    /// How far the log was read.
    read: Position,
    /// How far it may be read.
    horizon: Position,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("read", &self.read).field("horizon", &self.horizon).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads behind `from`, and leaves out what is `done`.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, wanted: Wanted, from: Position, done: Lineage) -> Self {
        Self { source, wanted, done, ahead: VecDeque::new(), read: from, horizon: Position::START }
    }

    /// Wants other events from `from` on: the projection was replaced.
    pub fn want(&mut self, wanted: Wanted, from: Position) {
        self.wanted = wanted;
        self.ahead.clear();
        self.read = from;
    }

    /// The next batch, of at most `size` events. Without events, its `to` says how far there is nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub fn next(&mut self, size: usize) -> Result<Batch, DatabaseError> {
        for _ in 0..PAGES {
            if self.ahead.len() >= size {
                break;
            }
            if self.read >= self.horizon {
                self.horizon = self.source.horizon()?;
                if self.read >= self.horizon {
                    break;
                }
            }
            let page = self.source.page(self.read, self.horizon, &self.wanted, PAGE)?;
            self.read = page.through;
            let todo =
                page.events.into_iter().filter(|event| !self.done.is_done(&event.aggregate_id, event.position()));
            self.ahead.extend(todo);
        }
        let size = size.min(self.ahead.len());
        let events: Vec<Event> = self.ahead.drain(..size).collect();
        let to = match events.last() {
            Some(last) if !self.ahead.is_empty() => last.position(),
            _ => self.read,
        };
        Ok(Batch { events, to, more: to < self.horizon })
    }
}
