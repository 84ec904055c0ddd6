//! A stream of stretches: read once, by whoever needs the next one first, and ahead of the foremost reader.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::ReaderId;
use super::patience::{Hindmost, Patience};
use super::window::{AHEAD, AHEAD_ALONE, Stretch, Window};
use crate::database::DatabaseError;
use crate::event::{Event, Position};
use crate::source::{Filter, PageLimit, Source, Wanted};

/// How many rows one page has at most. A round trip more or less for a thousand rows is a few percent.
const ROWS: u32 = 1_000;

/// How many bytes of events one page has at most, about.
const BYTES: usize = 2 << 20;

/// What a reader is given.
#[derive(Debug)]
pub(super) enum Given {
    /// The stretch that holds the next position.
    Stretch(Arc<Stretch>),
    /// There is nothing behind that position now.
    Nothing,
    /// This stream has gone past that position, or has read it with too narrow a filter.
    Elsewhere {
        /// Where it goes on, and whoever reads alone can join.
        joins: Position,
    },
}

/// How many readers a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    /// One.
    One,
    /// As many as there are workers.
    Many,
}

/// A stream.
pub(super) struct Stream {
    /// Where events come from.
    source: Arc<dyn Source>,
    /// Where pages are read ahead.
    runtime: Handle,
    /// Whether it has one reader, or more who wait for each other.
    readers: Readers,
    /// What is there, and who reads on.
    state: Mutex<State>,
    /// Something in it has changed.
    changed: Condvar,
}

/// What is there, and who reads on.
#[derive(Debug)]
struct State {
    /// What was read.
    window: Window,
    /// How long the foremost still waits for those behind it.
    patience: Patience,
    /// What to read with.
    filter: Arc<Filter>,
    /// How far may be read, when that was last looked for.
    horizon: Position,
    /// Whether to stop before the horizon.
    until: Option<Position>,
    /// Rows of the next page, so that it has about [`BYTES`].
    rows: u32,
    /// Whether somebody reads on just now.
    reading: bool,
    /// Looks that have begun, and the last of them that found nothing: a look that began after a question answers it.
    looks: u64,
    /// See `looks`.
    in_vain: u64,
    /// Raised when the window begins somewhere else: what is read just now is not for it any more.
    restarts: u64,
}

/// What a look at the database gave.
enum Read {
    /// The next stretch.
    Stretch(Stretch),
    /// Nothing.
    Nothing,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Stream {
    /// For many readers.
    pub(super) fn shared(source: Arc<dyn Source>, runtime: Handle) -> Arc<Self> {
        Self::new(source, runtime, Readers::Many, Filter::default())
    }

    /// For one reader.
    pub(super) fn alone(source: Arc<dyn Source>, runtime: Handle, filter: Filter) -> Arc<Self> {
        Self::new(source, runtime, Readers::One, filter)
    }

    /// Nothing is read yet.
    fn new(source: Arc<dyn Source>, runtime: Handle, readers: Readers, filter: Filter) -> Arc<Self> {
        let state = State {
            window: Window::default(),
            patience: Patience::new(Instant::now()),
            filter: Arc::new(filter),
            horizon: Position::START,
            until: None,
            rows: ROWS,
            reading: false,
            looks: 0,
            in_vain: 0,
            restarts: 0,
        };
        Arc::new(Self { source, runtime, readers, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Reads with this filter from the next page on.
    pub(super) fn read_with(&self, filter: Filter) {
        let mut state = self.lock();
        if *state.filter != filter {
            state.filter = Arc::new(filter);
        }
    }

    /// Somebody will come.
    pub(super) fn expect(&self, reader: ReaderId) {
        self.lock().window.expect(reader);
    }

    /// A reader is not here any more.
    pub(super) fn leave(&self, reader: ReaderId) {
        self.lock().window.leave(reader);
        self.changed.notify_all();
    }

    /// What stands behind `from`, for a reader with this filter. Nothing behind `until` is read.
    pub(super) fn next(
        self: &Arc<Self>,
        reader: ReaderId,
        from: Position,
        filter: &Filter,
        until: Option<Position>,
    ) -> Result<Given, DatabaseError> {
        let mut state = self.lock();
        state.until = until;
        let asked = state.looks;
        loop {
            if let Some(stretch) = state.window.holding(from, filter).map(Arc::clone) {
                state.move_to(reader, from);
                self.read_ahead(&mut state);
                drop(state);
                // The foremost may wait for room.
                self.changed.notify_all();
                return Ok(Given::Stretch(stretch));
            }
            match state.window.end() {
                Some(end) if end == from => {}
                Some(end) if end > from && self.readers == Readers::Many => {
                    tracing::debug!(reader, from = from.get(), end = end.get(), "reads alone for now");
                    state.window.leave(reader);
                    return Ok(Given::Elsewhere { joins: end });
                }
                // The first to come, or one who is further than all the others.
                _ => {
                    tracing::debug!(reader, from = from.get(), "begins");
                    state.window.restart(from);
                    state.restarts += 1;
                    state.reading = false;
                }
            }
            state.move_to(reader, from);
            if state.reading {
                state = self.wait(state, None);
                continue;
            }
            if state.in_vain > asked {
                return Ok(Given::Nothing);
            }
            if !state.window.has_room() {
                match state.patience_left().filter(|_| self.readers == Readers::Many) {
                    Some(left) => state = self.wait(state, Some(left)),
                    None => {
                        tracing::debug!(reader, "goes on without those behind");
                        state.window.make_room();
                    }
                }
                continue;
            }
            state = self.read_on(state, from)?;
        }
    }

    /// Reads the next page on this thread.
    fn read_on<'stream>(
        &'stream self,
        mut state: MutexGuard<'stream, State>,
        from: Position,
    ) -> Result<MutexGuard<'stream, State>, DatabaseError> {
        state.reading = true;
        state.looks += 1;
        let (look, restarts) = (state.looks, state.restarts);
        let read = self.read(state, from);
        let mut state = self.lock();
        let read = if state.restarts == restarts {
            state.reading = false;
            match read {
                Ok(Read::Stretch(stretch)) => {
                    state.window.push(stretch);
                    Ok(())
                }
                Ok(Read::Nothing) => {
                    state.in_vain = look;
                    Ok(())
                }
                Err(error) => Err(error),
            }
        } else {
            read.map(drop)
        };
        // Also after an error: each of those who wait looks for itself, and meets its own.
        self.changed.notify_all();
        read.map(|()| state)
    }

    /// Reads on behind the end for as long as that is wanted, on a thread of the runtime's.
    fn read_ahead(self: &Arc<Self>, state: &mut State) {
        if state.reading || !state.is_worth_reading_ahead(self.ahead()) {
            return;
        }
        state.reading = true;
        let (stream, restarts) = (Arc::clone(self), state.restarts);
        self.runtime.spawn_blocking(move || {
            loop {
                let state = stream.lock();
                if state.restarts != restarts {
                    return;
                }
                let read = match state.window.end() {
                    Some(end) if state.is_worth_reading_ahead(stream.ahead()) => stream.read(state, end),
                    _ => {
                        drop(state);
                        break;
                    }
                };
                // An error is met again by whoever needs the page, and told by them.
                let Ok(Read::Stretch(stretch)) = read else { break };
                let mut state = stream.lock();
                if state.restarts != restarts {
                    return;
                }
                state.window.push(stretch);
                drop(state);
                stream.changed.notify_all();
            }
            let mut state = stream.lock();
            if state.restarts == restarts {
                state.reading = false;
                stream.changed.notify_all();
            }
        });
    }

    /// Reads a page behind `from`, without the lock.
    fn read(&self, state: MutexGuard<'_, State>, from: Position) -> Result<Read, DatabaseError> {
        let (filter, mut horizon, until, rows) = (Arc::clone(&state.filter), state.horizon, state.until, state.rows);
        drop(state);
        if from >= horizon {
            horizon = self.source.horizon()?;
            let mut state = self.lock();
            state.horizon = state.horizon.max(horizon);
        }
        if from >= horizon {
            return Ok(Read::Nothing);
        }
        let upto = until.filter(|until| *until > from).map_or(horizon, |until| until.min(horizon));
        let limit = PageLimit { rows, bytes: BYTES };
        let page = self.source.page(from, upto, &Wanted::of(Filter::clone(&filter)), limit)?;
        let bytes: usize = page.events.iter().map(Event::size).sum();
        if let Some(average) = bytes.checked_div(page.events.len()) {
            let fits = u32::try_from(BYTES / average.max(1)).unwrap_or(ROWS);
            self.lock().rows = fits.clamp(1, ROWS);
        }
        let (through, is_last) = (page.through, page.through >= horizon);
        Ok(Read::Stretch(Stretch { after: from, through, is_last, events: page.events, filter, bytes }))
    }

    /// How many bytes are read ahead.
    fn ahead(&self) -> usize {
        match self.readers {
            Readers::One => AHEAD_ALONE,
            Readers::Many => AHEAD,
        }
    }

    /// Takes up all the room there is, for a test.
    #[cfg(test)]
    pub(super) fn fill(&self) {
        self.lock().window.fill();
    }

    /// The state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something has changed, at most so long.
    fn wait<'stream>(
        &self,
        state: MutexGuard<'stream, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'stream, State> {
        match timeout {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0,
        }
    }
}

impl State {
    /// A reader has read through a position.
    fn move_to(&mut self, reader: ReaderId, position: Position) {
        if self.window.move_to(reader, position) {
            self.patience.moved(Instant::now());
        }
        if self.window.has_room() {
            self.patience.rest(Instant::now());
        }
    }

    /// How long the foremost should wait for room; nothing when it has waited long enough.
    fn patience_left(&mut self) -> Option<Duration> {
        let hindmost = if self.window.expects_somebody() { Hindmost::Coming } else { Hindmost::Reading };
        self.patience.wait(hindmost, Instant::now())
    }

    /// Whether more is known to stand behind the end, and there is use for it.
    fn is_worth_reading_ahead(&self, ahead: usize) -> bool {
        let upto = self.until.map_or(self.horizon, |until| until.min(self.horizon));
        self.window.end().is_some_and(|end| end < upto) && self.window.wants_more(ahead)
    }
}
