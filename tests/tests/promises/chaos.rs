//! Whatever dies and whenever, every event is applied once and in order: random faults for most of a minute on each
//! database. `make chaos` does the same for as long as you like.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use projectionist_host::read_model::isolation::Isolation;
use projectionist_tests::Kind;
use projectionist_tests::chaos::Plan;

/// Torments this kind of database, with a seed that has not been tried before.
#[expect(clippy::print_stdout, reason = "the figures, for whoever asks with --nocapture")]
fn torment(kind: Kind) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let seed = u64::from(now.subsec_nanos()) << 12 | now.as_secs() & 0xfff;
    let figures = Plan { seed, kind, isolation: Isolation::Role, time: Duration::from_secs(45) }.run();
    assert!(figures.workers.len() >= 2, "several processes have worked:\n{figures}");
    assert!(figures.takeovers > 0, "a partition went to another process:\n{figures}");
    println!("{figures}");
}

#[test]
fn whatever_is_done_to_it_on_sqlite_every_event_counts_once() {
    torment(Kind::Sqlite);
}

#[test]
fn whatever_is_done_to_it_on_postgres_every_event_counts_once() {
    torment(Kind::Postgres);
}
