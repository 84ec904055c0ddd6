//! Whether all is well, and if not, why: for probes, load balancers and people.
//!
//! *Degraded* is what works but wants somebody's attention: an aggregate is parked, a projection is late, somebody holds
//! the horizon back. *Unhealthy* is what does not work: a worker has ended that should run, or what it needs is away. A
//! worker that stands by is healthy: that is its task.

use serde::Serialize;

use super::report::Report;
use crate::plugin::filter::Addressed;
use crate::processor::Progress;
use crate::processor::progress::State;

/// From which age on an event above the horizon counts as held back. Below, a writer is simply in flight.
const BLOCKED: f64 = 5.0;

/// How well it is. The greater, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Healthy,
    /// It works, and wants attention.
    Degraded,
    /// It does not work.
    Unhealthy,
}

/// Why it is not well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    /// How bad that is.
    pub status: Status,
    /// What it is, for scripts: `parked`, `paused`, `lag`, `horizon`, `months`, `worker`, `database`.
    pub kind: &'static str,
    /// Of which projection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection: Option<String>,
    /// Of which of its partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// What happened, and what to do next.
    pub message: String,
}

/// How well it is, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// The worst of the reasons.
    pub status: Status,
    /// Without any, all is well.
    pub reasons: Vec<Reason>,
}

/// How late projections may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MaxLag(pub Vec<Addressed<f64>>);

impl MaxLag {
    /// How many seconds a projection may be late: what was said of it, else of all.
    #[must_use]
    pub fn of(&self, projection: &str) -> Option<f64> {
        let said =
            |name: Option<&str>| self.0.iter().rev().find(|lag| lag.projection.as_deref() == name).map(|lag| lag.value);
        said(Some(projection)).or_else(|| said(None))
    }
}

impl Health {
    /// Judges the workers of a process, and what the databases say, or why they say nothing.
    #[must_use]
    pub fn judge(workers: &[impl AsRef<Progress>], report: Result<&Report, &str>, max_lag: &MaxLag) -> Self {
        let mut reasons: Vec<Reason> = workers.iter().filter_map(|worker| of_worker(worker.as_ref())).collect();
        match report {
            Err(error) => reasons.push(Reason {
                status: Status::Unhealthy,
                kind: "database",
                projection: None,
                partition: None,
                message: error.to_owned(),
            }),
            Ok(report) => {
                let is_ours = |name: &str| workers.iter().any(|worker| worker.as_ref().projection() == name);
                of_report(report, max_lag, is_ours, &mut reasons);
            }
        }
        let status = reasons.iter().map(|reason| reason.status).max().unwrap_or(Status::Healthy);
        Self { status, reasons }
    }
}

/// What is wrong with a worker.
fn of_worker(worker: &Progress) -> Option<Reason> {
    let message = match worker.state() {
        State::Failed { reason } => format!("a worker has ended: {reason}"),
        State::Waiting { reason } => format!("a worker tries again and again: {reason}"),
        State::Starting | State::StandingBy { .. } | State::Running | State::Paused | State::Done => return None,
    };
    Some(Reason {
        status: Status::Unhealthy,
        kind: "worker",
        projection: Some(worker.projection().to_owned()),
        partition: Some(worker.partition().to_string()),
        message,
    })
}

/// What is wrong with the projections of this process.
fn of_report(report: &Report, max_lag: &MaxLag, is_ours: impl Fn(&str) -> bool, reasons: &mut Vec<Reason>) {
    let horizon = &report.horizon;
    if horizon.age_seconds >= BLOCKED {
        let (position, age) = (horizon.position, horizon.age_seconds);
        let by: Vec<String> = horizon.blockers.iter().map(ToString::to_string).collect();
        reasons.push(Reason {
            status: Status::Degraded,
            kind: "horizon",
            projection: None,
            partition: None,
            message: format!("events above {position} have waited {age:.0} s for writers: {}", by.join("; ")),
        });
    }
    if report.months_ahead == Some(0) {
        reasons.push(Reason {
            status: Status::Degraded,
            kind: "months",
            projection: None,
            partition: None,
            message: "events of the next month have no partition: `host migrate` makes it".to_owned(),
        });
    }
    for projection in report.projections.iter().filter(|projection| is_ours(&projection.name)) {
        let name = &projection.name;
        let mut add = |kind, partition, message| {
            let projection = Some(name.clone());
            reasons.push(Reason { status: Status::Degraded, kind, projection, partition, message });
        };
        if let Some(pause) = &projection.paused {
            let (by, since) = (&pause.by, &pause.since);
            add("paused", None, format!("paused by {by} since {since}: `host resume {name}` lets it go on"));
        }
        if projection.parked_aggregates > 0 {
            let parked = projection.parked_aggregates;
            let message = format!("{parked} parked: `host dlq list --projection {name}` shows why");
            add("parked", None, message);
        }
        let Some(allowed) = max_lag.of(name) else { continue };
        for partition in projection.partitions.iter().filter(|partition| partition.lag_seconds > allowed) {
            let (behind, events) = (partition.lag_seconds, partition.lag_events);
            let of = format!("{} of {}", partition.partition_key, partition.total_partitions);
            add("lag", Some(of), format!("{behind:.0} s and {events} events behind, {allowed} s are allowed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projections_own_limit_of_lag_counts_before_that_of_all() {
        let lag = |projection: Option<&str>, value| Addressed { projection: projection.map(str::to_owned), value };
        let max = MaxLag(vec![lag(Some("a"), 1.0), lag(None, 60.0)]);
        assert_eq!((max.of("a"), max.of("b")), (Some(1.0), Some(60.0)));
        assert_eq!(MaxLag(vec![lag(Some("a"), 1.0)]).of("b"), None);
    }
}
