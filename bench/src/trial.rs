//! Runs, timed: of the host as a whole process, of a hand-written loop in this one, and of both in turn.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use projectionist_tests::{Host, Setup};

/// Runs a host to its end, and gives the time from its start to its end: with loading the plugin, connecting, making
/// the tables and everything else.
///
/// # Panics
/// When it does not end well; the message has its log.
pub(crate) fn host(setup: &Setup, arguments: &[String]) -> Duration {
    let log = setup.folder().join("host.log");
    let mut command = setup.command(arguments);
    let file = File::create(&log).expect("a log file in the working folder");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    let began = Instant::now();
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let took = began.elapsed();
    let log = || std::fs::read_to_string(&log).unwrap_or_default();
    assert!(status.success(), "{arguments:?}: {status}\n{}", log());
    took
}

/// The arguments of a run that ends when it has caught up, of this plugin under this name.
pub(crate) fn once(name: &str, plugin: &str) -> Vec<String> {
    ["run", "--once", "--log", "warn", "--plugin"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("{name}={}", projectionist_tests::plugin(plugin))])
        .collect()
}

/// A host that goes on.
pub(crate) fn start(setup: &Setup, arguments: &[&str]) -> Host {
    let mut command: Command = setup.command(arguments);
    command.stdout(Stdio::null());
    Host::spawn(command)
}

/// One and the other in turn, `rounds` times, and once before without counting: the caches are to be warm for both.
pub(crate) fn pairs(
    rounds: usize,
    mut one: impl FnMut(usize) -> Duration,
    mut other: impl FnMut(usize) -> Duration,
) -> Vec<(Duration, Duration)> {
    (0..=rounds).map(|round| (one(round), other(round))).skip(1).collect()
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that so many hundredths are below.
pub(crate) fn percentile(mut values: Vec<f64>, hundredths: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * hundredths / 100).min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Waits until a condition holds, looking again every half millisecond.
///
/// # Panics
/// When it does not in five minutes.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(300), "{what}: not in five minutes");
        std::thread::sleep(Duration::from_micros(500));
    }
}
