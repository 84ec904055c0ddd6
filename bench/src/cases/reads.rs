//! How often the rows of the log are read.

use projectionist_tests::{Kind, plugin};

use super::{Bench, Log};
use crate::report::{Figure, Target};
use crate::trial;

/// Four partitions of three projections in one process, catching up together, one of them several times slower than
/// another: how many rows of the events table the server read for them, for each that is there.
pub(super) fn four_partitions(bench: &mut Bench) -> Vec<Figure> {
    let setup = bench.log(Kind::Postgres, Log::Flights);
    let read = || -> f64 {
        let sql = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'events'";
        setup.connect().value(sql).parse().expect("a number")
    };
    let (before, names) = (read(), [0, 1, 2].map(|_| bench.fresh_name("together")));
    let mut arguments: Vec<String> = ["run", "--once", "--log", "warn", "--workers", "4"].map(str::to_owned).into();
    for (name, plugin_name) in names.iter().zip(["aircraft_log", "aircraft_log", "noop"]) {
        arguments.extend(["--plugin".to_owned(), format!("{name}={}", plugin(plugin_name))]);
    }
    trial::host(&setup, &arguments);
    // The counts of a session are there when it has ended, or a moment later.
    let (mut after, mut seen) = (read(), 0.0);
    while after - before < 200_000.0 || (after - seen).abs() > 0.5 {
        seen = after;
        std::thread::sleep(std::time::Duration::from_millis(500));
        after = read();
    }
    vec![Figure::ratio("postgres_four_partitions_reads", (after - before) / 200_000.0, Target::AtMost(1.1))]
}
