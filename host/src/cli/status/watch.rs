//! `host status --watch`: the same report again and again, with how fast each partition is. On a terminal each takes the
//! place of the one before; elsewhere they follow each other. A database that is away is said, and looked for again.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use fnv::FnvHashMap;

use crate::cli::{Context, run};
use crate::operations::report::{self, Counting, PartitionReport, Report};
use crate::processor::Stop;
use crate::processor::stop::Slept;
use crate::read_model::ReadModel;

/// Clears the terminal from its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// A partition: projection, key, total.
type Key = (String, u32, u32);

/// How fast partitions are.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Events applied, and when that was read.
    before: Option<(Instant, FnvHashMap<Key, u64>)>,
    /// Events a second since.
    rates: FnvHashMap<Key, f64>,
}

impl Rates {
    /// Of a partition; nothing before the second look.
    pub(super) fn of(&self, projection: &str, partition: &PartitionReport) -> Option<f64> {
        self.rates.get(&key(projection, partition)).copied()
    }

    /// A report has come.
    fn note(&mut self, report: &Report, now: Instant) {
        let partitions = report.projections.iter().flat_map(|projection| {
            projection.partitions.iter().map(|partition| (key(&projection.name, partition), partition.events_applied))
        });
        let applied: FnvHashMap<Key, u64> = partitions.collect();
        if let Some((at, before)) = &self.before {
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            // A rebuild that was swapped in counts anew.
            let rate = |(key, applied): (&Key, &u64)| {
                let more = applied.checked_sub(*before.get(key)?)?;
                #[expect(clippy::cast_precision_loss, reason = "it is shown without a fraction")]
                Some((key.clone(), more as f64 / seconds))
            };
            self.rates = applied.iter().filter_map(rate).collect();
        }
        self.before = Some((now, applied));
    }
}

/// The key of a partition.
fn key(projection: &str, partition: &PartitionReport) -> Key {
    (projection.to_owned(), partition.partition_key, partition.total_partitions)
}

/// Looks until it is told to stop, or nobody reads any more.
///
/// # Errors
/// When the databases cannot be opened at the start.
pub(super) fn run(context: &Context, interval: Duration, json: bool) -> anyhow::Result<()> {
    let stop = Stop::default();
    run::stop_on_signals(context, &stop, None);
    let source = context.existing_events()?;
    let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
    let terminal = std::io::stdout().is_terminal() && !json;
    let mut rates = Rates::default();
    loop {
        let report = report::report(&*source, &read_model, Counting::Bounded);
        if let Ok(report) = &report {
            rates.note(report, Instant::now());
        }
        let text = match report {
            Ok(report) if json => serde_json::to_string(&report)? + "\n",
            Ok(report) => super::table(&report, Some(&rates)),
            Err(error) if json => serde_json::json!({"error": error.to_string()}).to_string() + "\n",
            Err(error) => format!("cannot look just now: {error}\n"),
        };
        let text = if terminal { format!("{CLEAR}{text}") } else { text };
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        drop(stdout);
        if stop.sleep(interval) == Slept::Stopped {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::report::{HorizonReport, ProjectionReport};
    use crate::read_model::checkpoint::Epoch;

    /// A report of one partition that has applied so many events.
    fn report(events_applied: u64) -> Report {
        let partition = PartitionReport {
            partition_key: 0,
            total_partitions: 1,
            position: Default::default(),
            lag_events: 0,
            lag_seconds: 0.0,
            rescale: None,
            epoch: Epoch(1),
            owner: String::new(),
            running: true,
            events_applied,
            plugin_version: 1,
            plugin_digest: String::new(),
            updated_at: String::new(),
        };
        let projection = ProjectionReport {
            name: "x".to_owned(),
            paused: None,
            dead_letters: 0,
            parked_aggregates: 0,
            grants: vec![],
            isolation: None,
            partitions: vec![partition],
            rebuild: None,
        };
        let horizon = HorizonReport {
            position: Default::default(),
            last_position: Default::default(),
            age_seconds: 0.0,
            blockers: vec![],
        };
        Report { horizon, months_ahead: None, projections: vec![projection], replica_sets: vec![] }
    }

    #[test]
    fn a_rate_is_known_from_the_second_look_on_and_not_across_a_rebuild() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut look = |applied, second| {
            let report = report(applied);
            rates.note(&report, start + Duration::from_secs(second));
            rates.of("x", &report.projections[0].partitions[0])
        };
        assert_eq!(look(100, 0), None);
        assert_eq!(look(300, 2), Some(100.0));
        assert_eq!(look(50, 3), None, "it was built anew");
        assert_eq!(look(60, 4), Some(10.0));
    }
}
