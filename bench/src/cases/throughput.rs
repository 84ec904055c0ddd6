//! How fast a log is caught up with: the host against a loop by hand.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use projectionist_tests::Kind;

use super::{Bench, Log};
use crate::native::{postgres, sqlite};
use crate::report::{Figure, Rates, Target};
use crate::trial;

/// What is timed: the plugin, its log, and how many events there are in it.
struct Subject {
    /// The case.
    name: &'static str,
    /// Which database.
    kind: Kind,
    /// Which log.
    log: Log,
    /// How many events that is.
    events: u32,
    /// The plugin.
    plugin: &'static str,
    /// What is to be reached.
    target: f64,
}

/// Times a subject against a loop by hand.
fn compare(bench: &mut Bench, subject: &Subject, by_hand: &dyn Fn(&Bench, &str)) -> Vec<Figure> {
    let setup = bench.log(subject.kind, subject.log);
    let names: Vec<String> = (0..=bench.rounds).map(|_| bench.fresh_name(subject.plugin)).collect();
    let url = setup.source().url();
    let pairs = trial::pairs(
        bench.rounds,
        |round| trial::host(&setup, &trial::once(&names[round], subject.plugin)),
        |_| {
            let began = Instant::now();
            by_hand(bench, &url);
            began.elapsed()
        },
    );
    let rate = |time: Duration| f64::from(subject.events) / time.as_secs_f64();
    let ratio = trial::median(pairs.iter().map(|(host, hand)| hand.as_secs_f64() / host.as_secs_f64()).collect());
    let rates = Rates {
        host: trial::median(pairs.iter().map(|(host, _)| rate(*host)).collect()),
        by_hand: trial::median(pairs.iter().map(|(_, hand)| rate(*hand)).collect()),
    };
    vec![Figure::ratio(subject.name, ratio, Target::AtLeast(subject.target)).with_rates(rates)]
}

/// One upsert an event, against a loop that awaits one statement an event.
pub(super) fn postgres_per_event(bench: &mut Bench) -> Vec<Figure> {
    let subject = Subject {
        name: "postgres_per_event",
        kind: Kind::Postgres,
        log: Log::Users,
        events: 200_000,
        plugin: "user_count",
        target: 5.0,
    };
    compare(bench, &subject, &|bench, url| postgres::run(&bench.runtime, url, postgres::USERS, postgres::per_event))
}

/// Folded in memory, against a loop that folds and writes with UNNEST.
pub(super) fn postgres_folded(bench: &mut Bench) -> Vec<Figure> {
    let subject = Subject {
        name: "postgres_folded",
        kind: Kind::Postgres,
        log: Log::Flights,
        events: 200_000,
        plugin: "aircraft_log",
        target: 0.9,
    };
    compare(bench, &subject, &|bench, url| postgres::run(&bench.runtime, url, postgres::AIRCRAFT, postgres::folded))
}

/// Nothing done with an event, against a loop that only reads and moves its checkpoint.
pub(super) fn postgres_noop(bench: &mut Bench) -> Vec<Figure> {
    let subject = Subject {
        name: "postgres_noop",
        kind: Kind::Postgres,
        log: Log::Million,
        events: 1_000_000,
        plugin: "noop",
        target: 0.7,
    };
    compare(bench, &subject, &|bench, url| postgres::run(&bench.runtime, url, postgres::NOTHING, postgres::read))
}

/// One upsert an event, against rusqlite with cached statements.
pub(super) fn sqlite_per_event(bench: &mut Bench) -> Vec<Figure> {
    let subject = Subject {
        name: "sqlite_per_event",
        kind: Kind::Sqlite,
        log: Log::ManyUsers,
        events: 500_000,
        plugin: "user_count",
        target: 0.6,
    };
    compare(bench, &subject, &|_, url| sqlite::run(&file(url), sqlite::USERS, sqlite::per_event))
}

/// Folded in memory, against rusqlite doing the same.
pub(super) fn sqlite_folded(bench: &mut Bench) -> Vec<Figure> {
    let subject = Subject {
        name: "sqlite_folded",
        kind: Kind::Sqlite,
        log: Log::Million,
        events: 1_000_000,
        plugin: "aircraft_log",
        target: 0.7,
    };
    compare(bench, &subject, &|_, url| sqlite::run(&file(url), sqlite::AIRCRAFT, sqlite::folded))
}

/// The file of a URL.
fn file(url: &str) -> PathBuf {
    url.strip_prefix("sqlite://").expect("a file").into()
}
