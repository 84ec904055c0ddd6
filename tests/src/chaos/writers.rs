//! Those who append while everything breaks: several connections at once, in every way in which an application may
//! write, and in some in which it should not.
//!
//! They keep no book of what they stored: the events table is the truth, and who was cut off while committing does not
//! know anyway. They count what they have tried.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use super::random::Random;
use crate::{Connection, Event, Kind, Setup, event};

/// How many aggregates there are.
const AGGREGATES: u64 = 150;

/// The first so many of them are the ones that catch poison, so that the others always have something to prove.
const SICKLY: u64 = 20;

/// The longest pause of a writer between two appends, in milliseconds.
const PACE: u64 = 40;

/// What the writers share.
#[derive(Debug, Default)]
pub struct Office {
    /// Whether they are to go home.
    pub closed: AtomicBool,
    /// Whether they are to wait: the hosts are far behind.
    pub paused: AtomicBool,
    /// Appends that were committed, or probably so.
    pub appends: AtomicU64,
    /// Appends that were rolled back, by intention or by an error.
    pub rolled_back: AtomicU64,
    /// Transactions that ended with their connection.
    pub cut_off: AtomicU64,
    /// Two-phase commits.
    pub prepared: AtomicU64,
    /// Transactions that were left open for long.
    pub long: AtomicU64,
}

impl Office {
    /// Counts one.
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Closes the office when dropped, also by a panic, so that nobody waits for the writers for ever.
#[derive(Debug)]
pub struct Closing<'office>(pub &'office Office);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

/// An event of one of the aggregates.
#[must_use]
pub fn some_event(random: &mut Random) -> Event {
    let number = random.below(AGGREGATES);
    // Not all events are of a type that the projection wants.
    let event_type = if random.percent(15) { "Noise" } else { "Recorded" };
    let work = if random.percent(10) { random.below(3_000) } else { 0 };
    of_aggregate(number, event_type).payload(json!({"amount": random.below(1_000), "work": work}))
}

/// An event that cannot be applied before it is cured.
#[must_use]
pub fn poison(random: &mut Random) -> Event {
    let kinds =
        [(6, "permanent"), (4, "sql"), (3, "flush"), (3, "panic"), (2, "transient"), (1, "spin"), (1, "allocate")];
    let kind = *random.weighted(&kinds);
    let number = random.below(SICKLY);
    of_aggregate(number, "Recorded").payload(json!({"amount": random.below(1_000), "poison": kind}))
}

/// An event of this aggregate. Two types and two contexts share their ids.
fn of_aggregate(number: u64, event_type: &str) -> Event {
    let aggregate_type = if number.is_multiple_of(2) { "Ledger" } else { "Account" };
    let context = if number.is_multiple_of(5) { "stage" } else { "default" };
    event(event_type, aggregate_type, &format!("stream-{}", number / 2)).context(context)
}

/// Several events.
fn some_events(random: &mut Random, most: u64) -> Vec<Event> {
    (0..random.between(1, most)).map(|_| some_event(random)).collect()
}

/// A writer with a connection of its own.
#[derive(Debug)]
pub struct Writer<'stage> {
    /// Where the events are.
    pub setup: &'stage Setup,
    /// What he shares with the others.
    pub office: &'stage Office,
    /// What he does next.
    pub random: Random,
    /// His number.
    pub number: usize,
}

/// How a transaction went: the error is the database's.
type Result = std::result::Result<(), String>;

/// A way to append.
type Way<Writer> = fn(&mut Writer, &mut Connection) -> Result;

impl Writer<'_> {
    /// Writes until the office is closed.
    pub fn work(mut self) {
        let mut connection = None;
        while !self.office.closed.load(Ordering::Relaxed) {
            if self.office.paused.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let Some(open) = connection.take().or_else(|| self.setup.source().try_connect().ok()) else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            connection = self.append(open);
            std::thread::sleep(self.random.millis(0, PACE));
        }
    }

    /// One append, of some kind. Gives the connection back, if it is still of use.
    fn append(&mut self, mut connection: Connection) -> Option<Connection> {
        let two_phase = if self.setup.source().kind() == Kind::Postgres { 4 } else { 0 };
        let ways: [(u64, Way<Self>); 6] = [
            (35, Self::single),
            (20, Self::several_at_once),
            (16, Self::interleaved),
            (10, Self::with_savepoints),
            (3, Self::long),
            (two_phase, Self::two_phase),
        ];
        // Cut off in the middle of it.
        if self.random.percent(5) {
            self.begin(&mut connection).ok()?;
            connection.try_insert(&some_events(&mut self.random, 4)).ok();
            Office::count(&self.office.cut_off);
            return None;
        }
        let way = *self.random.weighted(&ways);
        match way(self, &mut connection) {
            Ok(()) => Some(connection),
            Err(_) => {
                Office::count(&self.office.rolled_back);
                // It may have been the connection, or the commit itself; a writer cannot tell, and looks anew.
                connection.try_execute("ROLLBACK").ok().map(|()| connection)
            }
        }
    }

    /// Begins a transaction that will write.
    fn begin(&self, connection: &mut Connection) -> Result {
        connection.try_execute(match connection {
            Connection::Postgres(_) => "BEGIN",
            Connection::Sqlite(_) => "BEGIN IMMEDIATE",
        })
    }

    /// Commits, or changes his mind.
    fn end(&mut self, connection: &mut Connection) -> Result {
        if self.random.percent(20) {
            Office::count(&self.office.rolled_back);
            return connection.try_execute("ROLLBACK");
        }
        connection.try_execute("COMMIT")?;
        Office::count(&self.office.appends);
        Ok(())
    }

    /// One event.
    fn single(&mut self, connection: &mut Connection) -> Result {
        self.begin(connection)?;
        connection.try_insert(&[some_event(&mut self.random)])?;
        connection.try_execute("COMMIT")?;
        Office::count(&self.office.appends);
        Ok(())
    }

    /// Several events in one statement.
    fn several_at_once(&mut self, connection: &mut Connection) -> Result {
        self.begin(connection)?;
        connection.try_insert(&some_events(&mut self.random, 20))?;
        connection.try_execute("COMMIT")?;
        Office::count(&self.office.appends);
        Ok(())
    }

    /// Several statements with pauses between them, in which others draw positions.
    fn interleaved(&mut self, connection: &mut Connection) -> Result {
        self.begin(connection)?;
        for _ in 0..self.random.between(2, 5) {
            connection.try_insert(&some_events(&mut self.random, 3))?;
            std::thread::sleep(self.random.millis(0, 15));
        }
        self.end(connection)
    }

    /// Takes back a part of it.
    fn with_savepoints(&mut self, connection: &mut Connection) -> Result {
        self.begin(connection)?;
        // Sometimes nothing but what is taken back has been written before.
        if self.random.percent(60) {
            connection.try_insert(&some_events(&mut self.random, 3))?;
        }
        connection.try_execute("SAVEPOINT here")?;
        connection.try_insert(&some_events(&mut self.random, 3))?;
        if self.random.percent(70) {
            connection.try_execute("ROLLBACK TO SAVEPOINT here")?;
            std::thread::sleep(self.random.millis(0, 15));
        }
        connection.try_insert(&some_events(&mut self.random, 3))?;
        self.end(connection)
    }

    /// Thinks for long with the transaction open.
    fn long(&mut self, connection: &mut Connection) -> Result {
        // SQLite lets nobody else write meanwhile.
        let most = if self.setup.source().kind() == Kind::Postgres { 3_000 } else { 400 };
        Office::count(&self.office.long);
        self.begin(connection)?;
        connection.try_insert(&some_events(&mut self.random, 3))?;
        std::thread::sleep(self.random.millis(most / 5, most));
        connection.try_insert(&[some_event(&mut self.random)])?;
        self.end(connection)
    }

    /// Commits in two phases, perhaps from another connection. While hosts are notified, Postgres refuses it.
    fn two_phase(&mut self, connection: &mut Connection) -> Result {
        let name = format!("chaos-{}-{}", self.number, self.random.draw());
        self.begin(connection)?;
        connection.try_insert(&some_events(&mut self.random, 3))?;
        connection.try_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
        Office::count(&self.office.prepared);
        std::thread::sleep(self.random.millis(0, 300));
        let commits = self.random.percent(70);
        // One that is not found again is settled at the end.
        connection.try_execute(&settlement(&name, commits))?;
        Office::count(if commits { &self.office.appends } else { &self.office.rolled_back });
        Ok(())
    }
}

/// Ends a prepared transaction.
fn settlement(name: &str, commits: bool) -> String {
    format!("{} PREPARED '{name}'", if commits { "COMMIT" } else { "ROLLBACK" })
}

/// Ends the transactions that were prepared so long ago and then forgotten, because their writer lost his connection:
/// the horizon waits for them.
pub fn settle(setup: &Setup, random: &mut Random, age: Duration) {
    if setup.source().kind() == Kind::Postgres {
        let mut connection = setup.connect();
        let forgotten = format!(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()
               AND prepared < clock_timestamp() - interval '{} seconds' ORDER BY gid",
            age.as_secs()
        );
        for row in connection.rows(&forgotten) {
            // Its writer may be faster after all.
            connection.try_execute(&settlement(&row[0], random.percent(50))).ok();
        }
    }
}
