//! The feed: what the workers of a process read, read once for all of them, and ahead of them.
//!
//! Four partitions of three projections are twelve workers, and each wants the same pages of the log, or some of their
//! events. Reading them twelve times is the largest cost there is. So a process has one **shared stream** of pages:
//! whoever comes first reads the next page, with a filter wide enough for every worker of the process, and the others
//! find it there and pick what is theirs. While they work on it, the pages behind it are read already.
//!
//! # Who is where
//!
//! The shared stream follows the **foremost** worker. It keeps what it has read for as long as somebody is behind it,
//! within a bound in bytes ([`window::KEPT`]). At the bound the foremost waits for the others, but not for ever
//! ([`patience`]): then the page is let go, and who has not read it goes on **alone**, on a stream of its own with its own
//! filter. So a slow projection delays the others once by some seconds, and hardly again until it has caught up. Alone is
//! also who starts far behind. A stream of one's own ends where the shared one goes on: there its reader joins the others.
//!
//! # Why nothing is lost or doubled
//!
//! A stream hands out *stretches*: all events of its filter with `after < position ≤ through`, where `through` is not
//! above the horizon. A worker asks with the position it has read through, and is given the stretch that holds the next
//! one, if that was read with a filter that covers its own; it skips what is not behind its position. Which stream it
//! came from makes no difference, and nothing here is remembered beyond the process.

mod patience;
mod stream;
mod window;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fnv::FnvHashMap;
use tokio::runtime::Handle;

use self::stream::{Given, Stream};
pub use self::window::Stretch;
use super::{Filter, Source};
use crate::database::DatabaseError;
use crate::event::Position;

/// How many bytes of events all workers of a process together may hold for what they have begun and not committed, about.
const HELD: usize = 48 << 20;

/// How many of them one worker may hold.
const MOST_HELD: usize = 16 << 20;

/// How many of them one may hold however many there are. Those who are together hold the same pages, so this counts most of
/// them more than once.
const LEAST_HELD: usize = 4 << 20;

/// What tells readers apart.
type ReaderId = u64;

/// The events of a process, for all of its workers.
#[derive(Clone)]
pub struct Feed {
    /// Where they come from.
    source: Arc<dyn Source>,
    /// Where pages are read ahead.
    runtime: Handle,
    /// What all read together.
    shared: Arc<Stream>,
    /// What each reader wants.
    wishes: Arc<Mutex<FnvHashMap<ReaderId, Filter>>>,
    /// The number of the next reader.
    next: Arc<AtomicU64>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("wishes", &self.wishes).finish_non_exhaustive()
    }
}

impl Feed {
    /// A feed from this source, reading ahead on the threads of `runtime` that may block.
    #[must_use]
    pub fn new(source: Arc<dyn Source>, runtime: Handle) -> Self {
        let shared = Stream::shared(Arc::clone(&source), runtime.clone());
        Self { source, runtime, shared, wishes: Arc::default(), next: Arc::default() }
    }

    /// Where the events come from.
    #[must_use]
    pub fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// Somebody who is going to read: from now on the shared stream has what it wants, and waits a moment for it.
    #[must_use]
    pub fn subscribe(&self, filter: Filter) -> Subscription {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.wish(id, Some(filter.clone()));
        self.shared.expect(id);
        Subscription { feed: self.clone(), id, filter: Arc::new(filter), own: None }
    }

    /// Notes what a reader wants, or that it wants nothing any more.
    fn wish(&self, id: ReaderId, filter: Option<Filter>) {
        let mut wishes = self.wishes();
        match filter {
            Some(filter) => drop(wishes.insert(id, filter)),
            None => drop(wishes.remove(&id)),
        }
        let mut each = wishes.values();
        let mut widest = each.next().cloned().unwrap_or_default();
        each.for_each(|filter| widest.widen(filter));
        self.shared.read_with(widest);
    }

    /// The wishes.
    fn wishes(&self) -> MutexGuard<'_, FnvHashMap<ReaderId, Filter>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's place in the feed.
#[derive(Debug)]
pub struct Subscription {
    /// The feed.
    feed: Feed,
    /// Which reader this is.
    id: ReaderId,
    /// What it wants.
    filter: Arc<Filter>,
    /// What it reads while it is away from the others.
    own: Option<Arc<Stream>>,
}

impl Subscription {
    /// Wants something else from now on: the projection was replaced.
    pub fn want(&mut self, filter: Filter) {
        if *self.filter != filter {
            self.feed.wish(self.id, Some(filter.clone()));
            self.filter = Arc::new(filter);
            self.own = None;
        }
    }

    /// How many bytes of events a batch may hold, about: the fewer workers share the process's memory, the more.
    #[must_use]
    pub fn share(&self) -> usize {
        (HELD / self.feed.wishes().len().max(1)).clamp(LEAST_HELD, MOST_HELD)
    }

    /// Does not read for now (it stands by, or its database is gone): nobody has to wait for it.
    pub fn pause(&mut self) {
        self.feed.shared.leave(self.id);
        self.own = None;
    }

    /// The stretch that holds the next position behind `from`; nothing when that is above the horizon, which was
    /// looked for after this was called.
    ///
    /// # Errors
    /// When the database fails.
    pub fn next(&mut self, from: Position) -> Result<Option<Arc<Stretch>>, DatabaseError> {
        let joins = match self.feed.shared.next(self.id, from, &self.filter, None)? {
            Given::Stretch(stretch) => {
                self.own = None;
                return Ok(Some(stretch));
            }
            Given::Nothing => return Ok(None),
            Given::Elsewhere { joins } => joins,
        };
        let own = self.own.get_or_insert_with(|| {
            Stream::alone(Arc::clone(&self.feed.source), self.feed.runtime.clone(), Filter::clone(&self.filter))
        });
        match own.next(self.id, from, &self.filter, Some(joins))? {
            Given::Stretch(stretch) => Ok(Some(stretch)),
            Given::Nothing | Given::Elsewhere { .. } => Ok(None),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.pause();
        self.feed.wish(self.id, None);
    }
}

#[cfg(test)]
mod tests;
