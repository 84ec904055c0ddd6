//! What is measured.
//!
//! - [`throughput`]: the host against the loops by hand, on both databases.
//! - [`reads`]: how often the rows of the log are read when many workers run in one process.
//! - [`scale`]: whether a long log costs more an event than a short one, and what memory it takes.
//! - [`latency`]: from the append to the read model.
//! - [`start`]: from the start of the process to the first commit, and the pause of a hot reload.

mod latency;
mod reads;
mod scale;
mod start;
mod throughput;

use std::rc::Rc;

use projectionist_tests::{Cluster, Kind, Setup};
use tokio::runtime::Runtime;

use crate::events;
use crate::report::Figure;

/// A case.
pub(crate) struct Case {
    /// Its name, which its first figure has too.
    pub(crate) name: &'static str,
    /// Measures it.
    pub(crate) run: fn(&mut Bench) -> Vec<Figure>,
}

/// All of them, in the order in which they run.
pub(crate) const ALL: &[Case] = &[
    Case { name: "postgres_per_event", run: throughput::postgres_per_event },
    Case { name: "postgres_folded", run: throughput::postgres_folded },
    Case { name: "postgres_noop", run: throughput::postgres_noop },
    Case { name: "sqlite_per_event", run: throughput::sqlite_per_event },
    Case { name: "sqlite_folded", run: throughput::sqlite_folded },
    Case { name: "postgres_four_partitions_reads", run: reads::four_partitions },
    Case { name: "scale_cost", run: scale::cost },
    Case { name: "rss_mb", run: scale::memory },
    Case { name: "latency_p50_ms", run: latency::both },
    Case { name: "cold_start_ms", run: start::cold },
    Case { name: "swap_pause_ms", run: start::swap },
];

/// A log that cases share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// None.
    Empty,
    /// 200,000 events of 5,000 users.
    Users,
    /// 500,000 events of 12,500 users.
    ManyUsers,
    /// 200,000 flights.
    Flights,
    /// 1,000,000 flights.
    Million,
    /// 5,000,000 flights.
    Long,
}

/// What the cases run on: a server of their own with a server's usual settings, and databases on it and in files, made
/// when they are first asked for.
pub(crate) struct Bench {
    /// How often a pair is run.
    pub(crate) rounds: usize,
    /// Where sqlx runs.
    pub(crate) runtime: Rc<Runtime>,
    /// The server.
    cluster: Option<Rc<Cluster>>,
    /// Databases by what is in them.
    logs: Vec<((Kind, Log), Rc<Setup>)>,
    /// For names that were not used before.
    names: usize,
}

impl Bench {
    /// Nothing is made yet.
    pub(crate) fn new(rounds: usize) -> Self {
        let runtime = Rc::new(Runtime::new().expect("a runtime"));
        Self { rounds, runtime, cluster: None, logs: Vec::new(), names: 0 }
    }

    /// The server. What a test's server leaves out for speed is on: this measures what a user gets.
    fn cluster(&mut self) -> Rc<Cluster> {
        let start = || {
            Rc::new(Cluster::start_with(
                "fsync = on\nsynchronous_commit = on\nfull_page_writes = on\nshared_buffers = 256MB\n\
                 max_wal_size = 4GB\nautovacuum = off\n",
            ))
        };
        Rc::clone(self.cluster.get_or_insert_with(start))
    }

    /// A database with this log.
    pub(crate) fn log(&mut self, kind: Kind, log: Log) -> Rc<Setup> {
        if let Some((_, setup)) = self.logs.iter().find(|(key, _)| *key == (kind, log)) {
            return Rc::clone(setup);
        }
        let setup = match kind {
            Kind::Postgres => Setup::on(&self.cluster()),
            Kind::Sqlite => Setup::new(Kind::Sqlite),
        };
        let events: Box<dyn Iterator<Item = events::Stored>> = match log {
            Log::Empty => Box::new(std::iter::empty()),
            Log::Users => Box::new(events::users(200_000)),
            Log::ManyUsers => Box::new(events::users(500_000)),
            Log::Flights => Box::new(events::flights(200_000)),
            Log::Million => Box::new(events::flights(1_000_000)),
            Log::Long => Box::new(events::flights(5_000_000)),
        };
        match kind {
            Kind::Postgres => events::store_in_postgres(&self.runtime, &setup, events),
            Kind::Sqlite => events::store_in_sqlite(&setup, events),
        }
        let setup = Rc::new(setup);
        self.logs.push(((kind, log), Rc::clone(&setup)));
        setup
    }

    /// A projection's name that nobody has had: whoever starts under it starts from nothing.
    pub(crate) fn fresh_name(&mut self, base: &str) -> String {
        self.names += 1;
        format!("{base}_{}", self.names)
    }
}
