//! Every committed event is read exactly once and in the order of positions, and none of a transaction that was rolled
//! back: random interleavings of transactions on real connections, against a model that knows which were committed.
//!
//! The steps come from a seed, which a failure names together with the steps; `HORIZON_SEED` repeats it. A reader with
//! the host's own source reads all the while on a thread of its own, so its two looks at the database fall between
//! any two steps, and into them. Now and then it starts anew, as a host does that was restarted.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use projectionist_host::event::Position;
use projectionist_host::source::{self, PageLimit, Wanted};
use projectionist_tests::chaos::random::Random;
use projectionist_tests::{Cluster, Connection, Event, Kind, Setup, event, wait_for};

/// How many connections write at the same time.
const SESSIONS: usize = 5;

/// How many steps a case has.
const STEPS: usize = 60;

/// How many cases there are.
const CASES: u64 = 25;

/// What a session has inserted since its last savepoint, by event id.
type Layer = Vec<String>;

/// A connection, and what the model knows of its transaction.
struct Session {
    /// The connection.
    connection: Connection,
    /// A layer for the transaction and each of its savepoints; none when it is idle.
    layers: Vec<Layer>,
}

/// The writers and what they should have left.
struct Model<'setup> {
    /// Where they write.
    setup: &'setup Setup,
    /// Into which tables: the events table, or its partitions as well.
    tables: &'setup [&'setup str],
    /// Who writes.
    sessions: Vec<Session>,
    /// Transactions that are prepared: their names and events.
    prepared: Vec<(String, Layer)>,
    /// Events that were committed.
    committed: BTreeSet<String>,
    /// How many events were inserted, whatever became of them.
    inserted: u64,
    /// What was done, for the message of a failure.
    history: Vec<String>,
    /// What is done next.
    random: Random,
}

impl<'setup> Model<'setup> {
    /// Nobody has written yet.
    fn new(setup: &'setup Setup, tables: &'setup [&'setup str], random: Random) -> Self {
        let session = || Session { connection: setup.connect(), layers: Vec::new() };
        let sessions = (0..SESSIONS).map(|_| session()).collect();
        let (committed, prepared, history) = (BTreeSet::new(), Vec::new(), Vec::new());
        Self { setup, tables, sessions, prepared, committed, inserted: 0, history, random }
    }

    /// Whether the database is a server.
    fn on_postgres(&self) -> bool {
        self.setup.source().kind() == Kind::Postgres
    }

    /// Runs statements for a session.
    fn execute(&mut self, session: usize, sql: &str) {
        self.history.push(format!("{session}: {sql}"));
        self.sessions[session].connection.execute(sql);
    }

    /// One step of one session.
    fn step(&mut self) {
        let session = self.pick();
        if self.sessions[session].layers.is_empty() {
            match self.random.below(10) {
                0..4 => self.begin(session),
                4..7 => self.insert_at_once(session),
                7 => self.fail(session),
                _ => self.end_a_prepared_one(session),
            }
        } else {
            match self.random.below(20) {
                0..8 => self.insert(session),
                8..10 => self.savepoint(session),
                10..12 => self.back_to_savepoint(session),
                12..15 => self.commit(session),
                15..17 => self.roll_back(session),
                17 => self.kill(session),
                _ => self.prepare(session),
            }
        }
    }

    /// Whose turn it is. SQLite has one writer at a time: while one is at it, the others would wait.
    fn pick(&mut self) -> usize {
        let writes = self.sessions.iter().position(|session| !session.layers.is_empty());
        match writes.filter(|_| !self.on_postgres()) {
            Some(session) => session,
            None => usize::try_from(self.random.below(SESSIONS as u64)).expect("an index fits"),
        }
    }

    /// Begins a transaction.
    fn begin(&mut self, session: usize) {
        let begin = if self.on_postgres() { "BEGIN" } else { "BEGIN IMMEDIATE" };
        self.execute(session, begin);
        self.sessions[session].layers.push(Layer::new());
    }

    /// Inserts some events in one statement; gives their ids. Each is of an aggregate of its own, so that no writer
    /// waits for another.
    fn store(&mut self, session: usize) -> Layer {
        let table = *self.random.one_of(self.tables);
        let events: Vec<Event> = (0..self.random.between(1, 3)).map(|_| event("Happened", "Thing", "")).collect();
        let ids: Layer = events.iter().map(|event| event.event_id.to_string()).collect();
        let row = |id: &String| {
            format!("('default', 'Thing', 'thing-{id}', 1, '{id}', 'Happened', '{{}}', '2026-06-15T12:00:00Z')")
        };
        let rows: Vec<String> = ids.iter().map(row).collect();
        let sql = format!(
            "INSERT INTO {table} (bounded_context, aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
                                  payload, created_at) VALUES {}",
            rows.join(", ")
        );
        self.history.push(format!("{session}: inserts {ids:?} into {table}"));
        self.sessions[session].connection.execute(&sql);
        self.inserted += ids.len() as u64;
        ids
    }

    /// Inserts in the open transaction.
    fn insert(&mut self, session: usize) {
        let ids = self.store(session);
        self.sessions[session].layers.last_mut().expect("a transaction is open").extend(ids);
    }

    /// Inserts without a transaction around it.
    fn insert_at_once(&mut self, session: usize) {
        let ids = self.store(session);
        self.committed.extend(ids);
    }

    /// Draws positions that nobody will ever see: the statement fails after it has drawn them.
    fn fail(&mut self, session: usize) {
        let id = "00000000-0000-0000-0000-000000000000";
        let row = format!("('default', 'Thing', 'twice', 1, '{id}', 'Happened', '{{}}', '2026-06-15T12:00:00Z')");
        let sql = format!(
            "INSERT INTO events (bounded_context, aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
                                 payload, created_at) VALUES {row}, {row}"
        );
        self.history.push(format!("{session}: fails"));
        self.sessions[session].connection.try_execute(&sql).expect_err("the same id twice");
    }

    /// Makes a savepoint.
    fn savepoint(&mut self, session: usize) {
        let name = format!("s{}", self.sessions[session].layers.len());
        self.execute(session, &format!("SAVEPOINT {name}"));
        self.sessions[session].layers.push(Layer::new());
    }

    /// Takes back what came after the last savepoint, which stays.
    fn back_to_savepoint(&mut self, session: usize) {
        let depth = self.sessions[session].layers.len();
        if depth < 2 {
            return self.insert(session);
        }
        self.execute(session, &format!("ROLLBACK TO SAVEPOINT s{}", depth - 1));
        self.sessions[session].layers[depth - 1].clear();
    }

    /// Commits.
    fn commit(&mut self, session: usize) {
        self.execute(session, "COMMIT");
        let layers = std::mem::take(&mut self.sessions[session].layers);
        self.committed.extend(layers.into_iter().flatten());
    }

    /// Rolls back.
    fn roll_back(&mut self, session: usize) {
        self.execute(session, "ROLLBACK");
        self.sessions[session].layers.clear();
    }

    /// The connection ends, by the writer's death or by the server's hand.
    fn kill(&mut self, session: usize) {
        self.history.push(format!("{session}: is killed"));
        if self.on_postgres() && self.random.percent(50) {
            let pid = self.sessions[session].connection.value("SELECT pg_backend_pid()");
            self.setup.connect().execute(&format!("SELECT pg_terminate_backend({pid})"));
        }
        self.sessions[session] = Session { connection: self.setup.connect(), layers: Vec::new() };
    }

    /// Prepares the transaction for the second phase.
    fn prepare(&mut self, session: usize) {
        if !self.on_postgres() || self.prepared.len() >= 4 {
            return self.commit(session);
        }
        let name = format!("model {}", self.random.draw());
        self.execute(session, &format!("PREPARE TRANSACTION '{name}'"));
        let layers = std::mem::take(&mut self.sessions[session].layers);
        self.prepared.push((name, layers.into_iter().flatten().collect()));
    }

    /// The second phase, from whatever connection.
    fn end_a_prepared_one(&mut self, session: usize) {
        if self.prepared.is_empty() {
            return self.insert_at_once(session);
        }
        let at = usize::try_from(self.random.below(self.prepared.len() as u64)).expect("an index fits");
        let (name, events) = self.prepared.swap_remove(at);
        if self.random.percent(60) {
            self.execute(session, &format!("COMMIT PREPARED '{name}'"));
            self.committed.extend(events);
        } else {
            self.execute(session, &format!("ROLLBACK PREPARED '{name}'"));
        }
    }

    /// Ends whatever is open.
    fn end(&mut self) {
        for session in 0..SESSIONS {
            match self.sessions[session].layers.is_empty() {
                true => {}
                false if self.random.percent(50) => self.commit(session),
                false => self.roll_back(session),
            }
        }
        while !self.prepared.is_empty() {
            self.end_a_prepared_one(0);
        }
    }
}

/// Reads with the host's own source until `done`, and then up to the last event: positions and ids, as they came.
fn read(setup: &Setup, done: &AtomicBool, mut random: Random, from: u64) -> Vec<(u64, String)> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let url = setup.source().url().parse().expect("a URL");
    let open = || source::open(&url, runtime.handle()).expect("the events");
    let (mut source, mut position, mut seen) = (open(), Position::new(from), Vec::new());
    loop {
        if random.percent(2) {
            source = open();
        }
        // Before the look: what was committed before `done` is below the last position, and has to be read.
        let is_done = done.load(Ordering::SeqCst);
        let last = source.last().expect("the last position");
        let horizon = source.horizon().expect("the horizon");
        // Small pages end anywhere.
        let limit = u32::try_from(random.between(1, 20)).expect("a small number");
        let page = source
            .page(position, horizon.max(position), &Wanted::everything(), PageLimit::rows(limit))
            .expect("a page");
        seen.extend(page.events.iter().map(|event| (event.global_position, event.event_id.clone())));
        position = page.through;
        if is_done && position >= last {
            return seen;
        }
        if page.events.is_empty() {
            std::thread::sleep(Duration::from_micros(random.below(500)));
        }
    }
}

/// A seed: the one asked for, or a new one.
fn seed() -> u64 {
    let asked = std::env::var("HORIZON_SEED").ok();
    asked.map_or_else(
        || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").subsec_nanos().into(),
        |seed| seed.parse().expect("HORIZON_SEED is a number"),
    )
}

/// Runs the cases on these tables.
fn agrees_with_the_model(setup: &Setup, tables: &[&str]) {
    let first = seed();
    let (mut committed, mut inserted) = (0, 0);
    for seed in first..first + CASES {
        let mut random = Random::new(seed);
        let (mut model, reading) = (Model::new(setup, tables, random.fork()), random.fork());
        let (from, done) = (setup.last_position(), AtomicBool::new(false));
        let (seen, step) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(setup, &done, reading, from));
            let steps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                (0..STEPS).for_each(|_| model.step());
                model.end();
            }));
            done.store(true, Ordering::SeqCst);
            (reader.join(), steps)
        });
        let story = |model: &Model<'_>| format!("HORIZON_SEED={seed}\n{}", model.history.join("\n"));
        assert!(step.is_ok(), "a step failed; {}", story(&model));
        let seen = seen.unwrap_or_else(|_| panic!("the reader failed; {}", story(&model)));
        let ascending = seen.windows(2).all(|pair| pair[0].0 < pair[1].0);
        assert!(ascending, "positions do not ascend: {seen:?}; {}", story(&model));
        let read: BTreeSet<String> = seen.iter().map(|(_, id)| id.clone()).collect();
        assert_eq!(read.len(), seen.len(), "an event was read twice; {}", story(&model));
        let lost: Vec<_> = model.committed.difference(&read).collect();
        assert!(lost.is_empty(), "lost: {lost:?}; {}", story(&model));
        let phantoms: Vec<_> = read.difference(&model.committed).collect();
        assert!(phantoms.is_empty(), "read, but never committed: {phantoms:?}; {}", story(&model));
        committed += model.committed.len() as u64;
        inserted += model.inserted;
    }
    assert!(committed > CASES * 10 && inserted > committed + CASES * 4, "{committed} of {inserted}: too few to tell");
}

#[test]
fn each_committed_event_is_read_once_on_postgres() {
    let setup = Setup::on(Cluster::shared());
    setup.run(["migrate", "--notify", "off"]).success();
    agrees_with_the_model(&setup, &["events"]);
}

#[test]
fn each_committed_event_is_read_once_from_a_partitioned_table() {
    let setup = crate::foreign_events::partitioned(Cluster::shared());
    setup.run(["migrate", "--notify", "off"]).success();
    agrees_with_the_model(&setup, &["events", "events_2026_06"]);
}

#[test]
fn each_committed_event_is_read_once_on_sqlite() {
    agrees_with_the_model(&Setup::new(Kind::Sqlite), &["events"]);
}

#[test]
fn a_reader_that_starts_in_the_middle_of_a_long_transaction_waits_for_it() {
    let setup = Setup::new(Kind::Postgres);
    let mut late = setup.connect();
    late.execute("BEGIN");
    late.insert(&[event("Happened", "Thing", "late")]);
    setup.insert(&[event("Happened", "Thing", "early")]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&setup, &done, Random::new(1), 0));
        // It looks at the horizon, again and again.
        let looks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'projectionist source'";
        wait_for("it reads", || (setup.connect().value(looks) != "0").then_some(()));
        late.execute("COMMIT");
        done.store(true, Ordering::SeqCst);
        let seen: Vec<u64> = reader.join().expect("the reader").into_iter().map(|(position, _)| position).collect();
        assert_eq!(seen, [1, 2]);
    });
}
