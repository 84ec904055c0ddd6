//! The state of the databases and of this process's workers, as metrics. Of projections and partitions only those that
//! this process runs: else each of ten processes would tell the lag of all.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::observer::Observer;
use super::report::Report;
use crate::processor::progress::State;
use crate::telemetry::metrics::Of;

/// A projection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProjection {
    /// Its name.
    projection: String,
}

/// A replica set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSet {
    /// Its name.
    replica_set: String,
}

/// A worker's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    /// What workers are about.
    state: &'static str,
}

/// A number with a fraction.
type Real = Gauge<f64, AtomicU64>;

/// A count as a gauge's number.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What metrics and pages call a state.
#[must_use]
pub fn name_of(state: &State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::StandingBy { .. } => "standing_by",
        State::Running => "running",
        State::Paused => "paused",
        State::Waiting { .. } => "waiting",
        State::Done => "done",
        State::Failed { .. } => "failed",
    }
}

/// Writes them, without the end of the text. Without a report (the databases are away) only what the process itself
/// knows, and `projectionist_up` is 0.
///
/// # Errors
/// When the buffer takes no more, which a string always does.
pub fn write(buffer: &mut String, observer: &Observer, report: Option<&Report>) -> fmt::Result {
    let mut registry = Registry::with_prefix("projectionist");
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "The host", Info::new(Vec::from(build)));
    let workers = Family::<OfState, Gauge>::default();
    for worker in observer.workers() {
        workers.get_or_create(&OfState { state: name_of(&worker.state()) }).inc();
    }
    registry.register("workers", "Workers of this process, by what they are about", workers);
    let up = Gauge::<i64>::default();
    up.set(i64::from(report.is_some()));
    registry.register("up", "Whether the databases could be read", up);
    if let Some(report) = report {
        of_report(&mut registry, observer, report);
    }
    prometheus_client::encoding::text::encode_registry(buffer, &registry)
}

/// What a report holds.
fn of_report(registry: &mut Registry, observer: &Observer, report: &Report) {
    let horizon = &report.horizon;
    let (position, last, age) = (Gauge::<i64>::default(), Gauge::<i64>::default(), Real::default());
    position.set(whole(horizon.position.get()));
    last.set(whole(horizon.last_position.get()));
    age.set(horizon.age_seconds);
    registry.register("horizon_position", "How far events may be read", position);
    registry.register("last_position", "The last event that is visible", last);
    registry.register_with_unit("horizon_age", "Age of the first event above the horizon", Unit::Seconds, age);
    if let Some(months) = report.months_ahead {
        let ahead = Gauge::<i64>::default();
        ahead.set(months.into());
        registry.register("events_months_ahead", "Months behind the current one that have a partition", ahead);
    }
    let ours = observer.workers();
    let (parked, letters, paused) = (Family::default(), Family::default(), Family::default());
    let (lag, behind) = (Family::<Of, Gauge>::default(), Family::<Of, Real>::default());
    let (reached, claimed) = (Family::<Of, Gauge>::default(), Family::<Of, Gauge>::default());
    for projection in report.projections.iter().filter(|projection| observer.runs(&projection.name)) {
        let of = OfProjection { projection: projection.name.clone() };
        let set = |family: &Family<OfProjection, Gauge>, count| {
            family.get_or_create(&of).set(count);
        };
        set(&parked, whole(projection.parked_aggregates));
        set(&letters, whole(projection.dead_letters));
        set(&paused, i64::from(projection.paused.is_some()));
        for partition in &projection.partitions {
            let is_it = |of: crate::partition::Partition| {
                (of.key(), of.total()) == (partition.partition_key, partition.total_partitions)
            };
            let mut workers = ours.iter();
            let Some(worker) =
                workers.find(|worker| worker.projection() == projection.name && is_it(worker.partition()))
            else {
                continue;
            };
            let of = Of { projection: projection.name.clone(), partition: worker.partition().to_string() };
            lag.get_or_create(&of).set(whole(partition.lag_events));
            behind.get_or_create(&of).set(partition.lag_seconds);
            reached.get_or_create(&of).set(whole(partition.position.get()));
            let is_here = matches!(worker.state(), State::Running | State::Paused);
            claimed.get_or_create(&of).set(i64::from(is_here));
        }
    }
    let (generation, members, slots) = (Family::default(), Family::default(), Family::default());
    for set in &report.replica_sets {
        let of = OfSet { replica_set: set.name.clone() };
        let set_to = |family: &Family<OfSet, Gauge>, count| {
            family.get_or_create(&of).set(count);
        };
        set_to(&generation, whole(set.generation));
        set_to(&members, whole(set.members.len() as u64));
        set_to(&slots, i64::from(set.slots));
    }
    registry.register("replica_set_generation", "How often the roster has changed", generation);
    registry.register("replica_set_members", "Processes on the roster", members);
    registry.register("replica_set_slots", "Slots of each projection", slots);
    registry.register("parked_aggregates", "Aggregates that wait for a retry", parked);
    registry.register("dead_letters", "Events that were not applied", letters);
    registry.register("paused", "Whether an operator has paused the projection", paused);
    registry.register("lag_events", "Events behind the checkpoint", lag);
    registry.register_with_unit("lag", "Age of the oldest event behind the checkpoint", Unit::Seconds, behind);
    registry.register("position", "The checkpoint", reached);
    registry.register("claimed", "Whether this process works on the partition", claimed);
}
