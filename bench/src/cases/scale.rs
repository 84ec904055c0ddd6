//! What a long log costs: time an event, and memory.

use std::time::Duration;

use projectionist_tests::{Host, Kind, plugin};

use super::{Bench, Log};
use crate::report::{Figure, Target};
use crate::trial;

/// The time an event of a log of 5,000,000, against that of a log of 200,000. Where both start and end costs the same,
/// so the short log would look dear only for that; what is compared is the time beyond a log without events.
pub(super) fn cost(bench: &mut Bench) -> Vec<Figure> {
    let empty = bench.log(Kind::Postgres, Log::Empty);
    let short = bench.log(Kind::Postgres, Log::Flights);
    let long = bench.log(Kind::Postgres, Log::Long);
    let rounds = bench.rounds.min(3);
    let mut run = |setup: &projectionist_tests::Setup| {
        let name = bench.fresh_name("scale");
        trial::host(setup, &trial::once(&name, "noop")).as_secs_f64()
    };
    let ratios = (0..rounds).map(|_| {
        let nothing = run(&empty);
        // The short one is over in a second: several, so that one hiccup does not decide.
        let short = trial::median((0..5).map(|_| run(&short)).collect()) - nothing;
        let long = run(&long) - nothing;
        (long / 5_000_000.0) / (short / 200_000.0)
    });
    vec![Figure::ratio("scale_cost", trial::median(ratios.collect()), Target::AtMost(1.15))]
}

/// The memory of a process with three projections of four partitions each, over 5,000,000 events: the most it had, and
/// how much more in the second half than in the first.
pub(super) fn memory(bench: &mut Bench) -> Vec<Figure> {
    let setup = bench.log(Kind::Postgres, Log::Long);
    let names = [0, 1, 2].map(|_| bench.fresh_name("memory"));
    let plugins: Vec<String> = names
        .iter()
        .zip(["aircraft_log", "carrier_delays", "noop"])
        .map(|(name, of)| format!("{name}={}", plugin(of)))
        .collect();
    let mut arguments = vec!["run", "--log", "warn", "--workers", "4"];
    for plugin in &plugins {
        arguments.extend(["--plugin", plugin]);
    }
    let host = trial::start(&setup, &arguments);
    let mut reader = setup.connect();
    let sql = format!(
        "SELECT coalesce(min(position), 0) FROM projectionist.checkpoints WHERE projection IN ('{}')",
        names.join("', '")
    );
    let (mut first, mut second) = (0.0_f64, 0.0_f64);
    trial::until("three projections are through five million events", || {
        std::thread::sleep(Duration::from_millis(50));
        let position: f64 = reader.value(&sql).parse().expect("a position");
        let half = if position < 2_500_000.0 { &mut first } else { &mut second };
        *half = half.max(resident(&host));
        position >= 5_000_000.0
    });
    host.terminate();
    host.wait().success();
    vec![
        Figure::measure("rss_mb", first.max(second), Target::AtMost(150.0)),
        Figure::ratio("rss_growth", second / first, Target::AtMost(1.1)),
    ]
}

/// The resident memory of a process, in MB.
fn resident(host: &Host) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0 / 1_000_000.0
}
