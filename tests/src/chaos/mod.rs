//! Chaos: hosts, databases and writers are tormented at random, and an independent oracle says whether every event was
//! applied once, in its aggregate's order.
//!
//! `make chaos` runs it for long, and a bounded version runs with the tests. A run is named by its seed, which it says
//! first and which gives the same schedule of faults again.
//!
//! # The parts, in reading order
//!
//! - [`faults`]: what is done, and the schedule of a seed.
//! - [`fleet`]: to whom: the hosts, and what they may and may not do when they end.
//! - [`journal`]: what a host's log tells, such as whether it was killed in the middle of a batch.
//! - [`writers`]: those who append meanwhile.
//! - [`oracle`]: what should have come of it, from the events table alone.
//! - [`report`]: the figures.
//! - [`random`]: numbers from a seed.

pub mod faults;
pub mod fleet;
pub mod journal;
pub mod oracle;
pub mod random;
pub mod report;
pub mod writers;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use faults::{PROJECTIONS, Schedule, Stage};
use fleet::Fleet;
use oracle::{Events, Holdings};
use projectionist_host::read_model::isolation::Isolation;
use random::Random;
use report::{Figures, Verdict};
use writers::{Closing, Office, Writer};

use crate::{Cluster, Kind, Setup, plugin};

/// How many writers there are.
const WRITERS: usize = 6;

/// Out of how many partitions the hosts begin to work.
const PARTITIONS: u32 = 3;

/// How many events the hosts may be behind before the writers wait for them.
const BEHIND: u64 = 3_000;

/// How long the hosts may make no progress at all, once nothing harms them any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many seconds there may be for each fault that has to hit the middle of a batch.
const SECONDS_A_HIT: u64 = 30;

/// How many faults that end, freeze or cut off a process there may be for each that has to hit the middle of a batch.
const FAULTS_A_HIT: u64 = 7;

/// A run to make.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What the schedule of faults is made of.
    pub seed: u64,
    /// Where events and read models are.
    pub kind: Kind,
    /// Whose sessions write, on Postgres.
    pub isolation: Isolation,
    /// For how long faults are inflicted.
    pub time: Duration,
}

impl Plan {
    /// What the database is called in a command.
    #[must_use]
    pub fn database(&self) -> &'static str {
        match self.kind {
            Kind::Postgres => "postgres",
            Kind::Sqlite => "sqlite",
        }
    }

    /// Whether the projections log in by themselves: SQLite knows no logins.
    fn is_login(&self) -> bool {
        self.kind == Kind::Postgres && self.isolation == Isolation::Login
    }

    /// The command that makes the run again.
    #[must_use]
    pub fn command(&self) -> String {
        let minutes = self.time.as_secs().div_ceil(60);
        let isolation = if self.is_login() { " ISOLATION=login" } else { "" };
        format!("make chaos SEED={} DATABASE={} MINUTES={minutes}{isolation}", self.seed, self.database())
    }

    /// Makes it.
    ///
    /// # Panics
    /// When a promise was broken, a host ended as it must not, or the faults were too harmless to prove anything. The
    /// message has the seed; the folder with the logs and the tables is kept, and named.
    #[must_use]
    pub fn run(&self) -> Figures {
        // What was committed has to be there after a crash: that much a reader has to rely on. Writers deadlock on
        // purpose, and are not to wait for long.
        let settings = "synchronous_commit = on\ndeadlock_timeout = 100ms\n";
        let cluster = (self.kind == Kind::Postgres).then(|| Cluster::start_with(settings));
        let mut setup = cluster.as_ref().map_or_else(|| Setup::new(Kind::Sqlite), Setup::on);
        if self.is_login() {
            setup = setup.with_variable("ISOLATION", self.isolation.name());
        }
        let run = std::panic::catch_unwind(AssertUnwindSafe(|| self.torment(&setup, cluster.as_ref())));
        match run {
            Ok(figures) if figures.verdict.is_clean() && self.hits_enough(&figures) => figures,
            Ok(figures) => {
                keep_tables(&setup);
                let folder = setup.keep();
                let offenders = figures.verdict.offenders.join("\n");
                let few = if self.hits_enough(&figures) { "" } else { "too few faults in mid-batch\n" };
                panic!("{figures}\n{few}{offenders}\nrepeat with: {}\nkept: {}", self.command(), folder.display());
            }
            Err(panic) => {
                let folder = setup.keep();
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let text = text.unwrap_or_default();
                panic!("{text}\nrepeat with: {}\nkept: {}", self.command(), folder.display());
            }
        }
    }

    /// Whether enough faults have hit somebody in the middle of a batch to prove something: for the length of the run,
    /// and for how many there were.
    fn hits_enough(&self, figures: &Figures) -> bool {
        let hits = figures.mid_batch();
        hits >= self.time.as_secs() / SECONDS_A_HIT && hits * FAULTS_A_HIT >= figures.disruptions()
    }

    /// Torments, lets everything come to rest, and judges.
    fn torment(&self, setup: &Setup, cluster: Option<&Cluster>) -> Figures {
        let mut random = Random::new(self.seed);
        if random.percent(75) {
            // Two-phase commits are possible only then, and hosts have to poll.
            setup.run(["migrate", "--notify", "off"]).success();
        }
        let mut schedule = Schedule::new(random.fork(), self.kind);
        let builds = ["chronicle", "chronicle_swap"].map(|name| std::fs::read(plugin(name)).expect("a plugin"));
        let file = setup.file("plugin.wasm", &builds[0]);
        let fleet = Fleet::new(setup, arguments(), PARTITIONS);
        let mut stage = Stage { setup, cluster, fleet, plugin: file, builds, build: 0, rebuild: None };
        let office = Office::default();
        let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
        std::thread::scope(|scope| {
            let _closing = Closing(&office);
            let writers: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let writer = Writer { setup, office: &office, random: random.fork(), number };
                    scope.spawn(move || writer.work())
                })
                .collect();
            stage.fleet.start_all();
            let (start, mut diary) = (Instant::now(), Vec::new());
            while start.elapsed() < self.time {
                let Some((pause, fault, mut random)) = schedule.next() else { break };
                stage.fleet.tend_for(pause);
                stage.tend_the_rebuild();
                let began = Instant::now();
                (fault.inflict)(&mut stage, &mut random);
                diary.push(format!("{:?}\t{}\t{:?}", began - start, fault.name, began.elapsed()));
                drop(setup.file("faults.tsv", diary.join("\n")));
                *faults.entry(fault.name).or_default() += 1;
                writers::settle(setup, &mut random, Duration::from_secs(2));
                let behind = stage.behind();
                office.paused.store(behind > BEHIND, Ordering::Relaxed);
            }
            office.closed.store(true, Ordering::Relaxed);
            // They may wait for what somebody prepared and forgot.
            while writers.iter().any(|writer| !writer.is_finished()) {
                writers::settle(setup, &mut random, Duration::ZERO);
                stage.fleet.tend_for(Duration::from_millis(50));
            }
        });
        writers::settle(setup, &mut random, Duration::ZERO);
        let events = Events::read(setup);
        stage.come_to_rest();
        let mut verdict = Verdict::default();
        // With letters, and without.
        let mut before = Verdict::default();
        judge(setup, &events, &mut before);
        if !before.is_clean() {
            verdict = before;
        }
        stage.resolve_letters(&mut random);
        stage.come_to_rest();
        stage.fleet.stop_all();
        judge(setup, &events, &mut verdict);
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            seed: self.seed,
            database: self.database(),
            seconds: self.time.as_secs(),
            faults: faults.into_iter().collect(),
            events: (events.all, events.wanted()),
            poison: events.poison(),
            appends: load(&office.appends),
            rolled_back: load(&office.rolled_back),
            cut_off: load(&office.cut_off),
            prepared: load(&office.prepared),
            long: load(&office.long),
            verdict,
            ..stage.fleet.conclude()
        }
    }
}

/// The arguments that all hosts have in common.
fn arguments() -> Vec<String> {
    let mut arguments = vec!["run".to_owned(), "--watch".to_owned()];
    for projection in PROJECTIONS {
        arguments.extend(["--plugin".to_owned(), format!("{projection}=plugin.wasm")]);
    }
    arguments.extend(
        ["--poll-interval", "100", "--max-attempts", "3", "--shutdown-timeout", "5", "--stale-after", "3"]
            .map(str::to_owned),
    );
    arguments
}

/// Judges all projections.
fn judge(setup: &Setup, events: &Events, verdict: &mut Verdict) {
    for projection in PROJECTIONS {
        Holdings::read(setup, projection).judge(events, verdict);
    }
}

impl Stage<'_> {
    /// How far each partition of each projection is, and how far it has to come.
    fn progress(&self) -> (Vec<u64>, u64) {
        let total = self.fleet.total();
        let mut positions = Vec::new();
        for projection in PROJECTIONS {
            let checkpoints = self.setup.checkpoints(projection);
            let current = checkpoints.iter().filter(|checkpoint| checkpoint.total == total);
            let current: Vec<u64> = current.map(|checkpoint| checkpoint.position).collect();
            let missing = (total as usize).saturating_sub(current.len());
            positions.extend(current);
            positions.extend(vec![0; missing]);
        }
        (positions, self.setup.last_position())
    }

    /// How many events the last of all is behind.
    fn behind(&self) -> u64 {
        let (positions, last) = self.progress();
        last - positions.into_iter().min().unwrap_or(0)
    }

    /// Waits until every partition has reached the last event.
    fn come_to_rest(&mut self) {
        self.fleet.thaw_all();
        let (mut seen, mut since) = (Vec::new(), Instant::now());
        while self.rebuild.is_some() {
            self.fleet.tend_for(Duration::from_millis(50));
            self.tend_the_rebuild();
            assert!(since.elapsed() < PATIENCE, "a rebuild does not end, although nothing harms it any more");
        }
        loop {
            self.fleet.tend_for(Duration::from_millis(50));
            let (positions, last) = self.progress();
            if positions.iter().all(|position| *position >= last) {
                return;
            }
            if positions != seen {
                (seen, since) = (positions, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                let status = self.setup.run(["status"]);
                panic!("nothing moves any more:\n{}{}", status.stdout, status.stderr);
            }
        }
    }
}

/// Writes the tables down where they can be looked at when the databases are gone.
fn keep_tables(setup: &Setup) {
    let keep = |name: String, rows: Vec<Vec<String>>| {
        let lines: Vec<String> = rows.into_iter().map(|row| row.join("\t")).collect();
        drop(setup.file(&name, lines.join("\n")));
    };
    keep("events.tsv".to_owned(), setup.connect().rows("SELECT * FROM events ORDER BY global_position"));
    for projection in PROJECTIONS {
        for (table, order) in [("chronicle", "application"), ("totals", "aggregate"), ("cured", "upto")] {
            let rows = setup.rows(projection, &format!("SELECT * FROM {table} ORDER BY {order}"));
            keep(format!("{projection}.{table}.tsv"), rows);
        }
        for table in ["checkpoints", "dead_letters"] {
            let rows = setup.rows(projection, &format!("SELECT * FROM {}", setup.own_table(table)));
            keep(format!("{projection}.{table}.tsv"), rows);
        }
    }
}
