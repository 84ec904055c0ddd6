//! The sessions that the workers of a process write with: as many as it may have (`--connections`), however many workers
//! there are.
//!
//! A worker has one for as long as a transaction lasts, and gives it back. Who comes next takes one of its own projection,
//! its own last one if it can, where its statements are prepared already; else a new one is opened; else whatever lies idle
//! the longest is emptied of everything that the projection before has left in it ([`Session::set`]). Where none is to be
//! had, workers wait: by their projection's priority, and then in the order in which they came.
//!
//! Nobody who has a session waits for another one, and who waits for a worker of its own process (to take turns, or for a
//! `migrate`) does so before it takes one ([`super::turns`]). So there is always one who goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::session::{Session, Settings};
use crate::processor::Priority;
use crate::telemetry::metrics::{OpenConnection, WaitForConnection};

/// How many sessions a process has for its workers, unless it is told.
pub const CONNECTIONS: usize = 16;

/// After how long a session that nobody has used is closed: before a firewall on the way forgets it, which nobody would notice.
const IDLE: Duration = Duration::from_secs(60);

/// The sessions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

/// What the clones share.
struct Inner {
    /// How many there may be.
    size: usize,
    /// How many there are, and who waits.
    state: Mutex<State>,
}

/// Sessions and who waits for one.
#[derive(Default)]
struct State {
    /// How many are open, idle ones too.
    open: usize,
    /// Those that nobody has, the last one given back at the end.
    idle: Vec<Session>,
    /// Who waits, in order.
    waiting: BTreeMap<(Priority, u64), Thread>,
    /// The number of who comes next.
    next: u64,
}

/// Room for one session. Given back when it is dropped.
pub(super) struct Room {
    /// Where. A session that rests in the pool does not keep it alive.
    pool: Weak<Inner>,
    /// Counts it.
    _open: OpenConnection,
}

/// What somebody who wants a session gets.
pub(super) enum Found {
    /// One of its own projection.
    Own(Session),
    /// One of another's, to be emptied.
    Other(Session),
    /// Room to open one.
    Room(Room),
}

impl Pool {
    /// Of at most so many sessions; of one at least.
    pub(super) fn new(size: usize) -> Self {
        Self(Arc::new(Inner { size: size.max(1), state: Mutex::default() }))
    }

    /// A session of this schema and login, best the one that was last used under this name, or room for it. Waits on this
    /// thread.
    pub(super) fn take(&self, wanted: &Settings, priority: Priority) -> Found {
        let mut state = self.state();
        let ticket = (priority, state.next);
        state.next += 1;
        let mut waits = None;
        loop {
            let is_next = state.waiting.keys().next().is_none_or(|first| *first >= ticket);
            if is_next && let Some(found) = self.find(&mut state, wanted) {
                state.waiting.remove(&ticket);
                self.wake(&state);
                return found;
            }
            state.waiting.insert(ticket, thread::current());
            drop(state);
            waits.get_or_insert_with(|| WaitForConnection::begin(&wanted.schema));
            thread::park();
            state = self.state();
        }
    }

    /// What there is for a schema now.
    fn find(&self, state: &mut State, wanted: &Settings) -> Option<Found> {
        let own = |session: &Session| session.schema() == wanted.schema && session.has_login_of(wanted);
        let last = state.idle.iter().rposition(|session| own(session) && session.application() == wanted.application);
        if let Some(at) = last.or_else(|| state.idle.iter().rposition(own)) {
            return Some(Found::Own(state.idle.remove(at)));
        }
        if state.open < self.0.size {
            state.open += 1;
            return Some(Found::Room(Room { pool: Arc::downgrade(&self.0), _open: OpenConnection::count() }));
        }
        (!state.idle.is_empty()).then(|| Found::Other(state.idle.remove(0)))
    }

    /// Wakes who is next, if there is anything for it.
    fn wake(&self, state: &State) {
        if (state.open < self.0.size || !state.idle.is_empty())
            && let Some(next) = state.waiting.values().next()
        {
            next.unpark();
        }
    }

    /// Takes a session back that is as it was.
    pub(super) fn give_back(&self, mut session: Session) {
        session.rests_since = Instant::now();
        let mut state = self.state();
        // The list is in the order of coming back.
        let tired = state.idle.iter().take_while(|session| session.rests_since.elapsed() >= IDLE).count();
        let closed: Vec<Session> = state.idle.drain(..tired).collect();
        state.idle.push(session);
        self.wake(&state);
        drop(state);
        // Its room is given back with each.
        drop(closed);
    }

    /// Closes what nobody has: a session was lost, and the others may have gone the same way.
    pub(super) fn forget_idle(&self) {
        let idle = std::mem::take(&mut self.state().idle);
        drop(idle);
    }

    /// What the clones share.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade().map(Pool) else { return };
        let mut state = pool.state();
        state.open -= 1;
        pool.wake(&state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What a worker of a projection wants.
    fn wanted() -> Settings {
        Settings { schema: "p".to_owned(), application: "p 0 of 1".to_owned(), ..Settings::default() }
    }

    #[test]
    fn there_are_never_more_than_the_pool_may_have_and_everybody_gets_one() {
        let pool = Pool::new(3);
        let (at_once, most, served) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Found::Room(room) = pool.take(&wanted(), Priority::Normal) else {
                            panic!("nothing was given back")
                        };
                        most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        at_once.fetch_sub(1, Ordering::SeqCst);
                        served.fetch_add(1, Ordering::SeqCst);
                        drop(room);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(served.load(Ordering::SeqCst), 12 * 200);
        assert_eq!(pool.state().open, 0);
        assert!(pool.state().waiting.is_empty());
    }

    #[test]
    fn who_has_priority_is_next_whoever_came_first() {
        let pool = Pool::new(1);
        let first = pool.take(&wanted(), Priority::Normal);
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for (number, priority) in
                [Priority::Low, Priority::Normal, Priority::High, Priority::Normal].into_iter().enumerate()
            {
                let (pool, order) = (&pool, &order);
                scope.spawn(move || {
                    let room = pool.take(&wanted(), priority);
                    order.lock().unwrap().push(number);
                    drop(room);
                });
                while pool.state().waiting.len() == number {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), [2, 1, 3, 0]);
    }

    #[test]
    fn a_pool_without_room_is_no_pool() {
        assert!(matches!(Pool::new(0).take(&wanted(), Priority::Normal), Found::Room(_)));
    }
}
