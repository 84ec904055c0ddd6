//! What `host doctor` looks at: whether a host can work here, and what will hurt it later. Nothing is changed.
//!
//! [`postgres`] and [`sqlite`] are what each kind of database can tell of itself; what is said of projections, workers and
//! dead letters is made of the report, the same for both.

mod postgres;
mod sqlite;

use serde::Serialize;
use tokio::runtime::Handle;

use super::report::{self, Counting, ProjectionReport, Report};
use crate::database::{DatabaseError, DatabaseUrl, Postgres};
use crate::read_model::ReadModel;
use crate::source;

/// From which age on, in seconds, a transaction is told of that keeps the horizon back.
const BLOCKING: f64 = 5.0;

/// How bad it is. The greater, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, and may not for long, or not as well as it could.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What was looked at, for scripts: `version`, `privileges`, `indexes`, …
    pub kind: &'static str,
    /// What was found.
    pub message: String,
    /// What to do; null where nothing has to be done.
    pub advice: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// All is as it should be.
    fn ok(&mut self, kind: &'static str, message: impl Into<String>) {
        self.0.push(Finding { grade: Grade::Ok, kind, message: message.into(), advice: None });
    }

    /// It may hurt.
    fn warn(&mut self, kind: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        let (message, advice) = (message.into(), Some(advice.into()));
        self.0.push(Finding { grade: Grade::Warning, kind, message, advice });
    }

    /// It does hurt.
    fn problem(&mut self, kind: &'static str, message: impl Into<String>, advice: impl Into<String>) {
        let (message, advice) = (message.into(), Some(advice.into()));
        self.0.push(Finding { grade: Grade::Problem, kind, message, advice });
    }

    /// An error of the database.
    fn error(&mut self, kind: &'static str, error: &DatabaseError) {
        self.problem(kind, error.to_string(), error.advice().unwrap_or("see the message"));
    }

    /// The worst.
    #[must_use]
    pub fn worst(&self) -> Grade {
        self.0.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok)
    }
}

/// What a database is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It has the events.
    Events,
    /// It has read models.
    ReadModel,
}

/// Looks at everything.
#[must_use]
pub fn examine(events: &DatabaseUrl, read_model: &DatabaseUrl, runtime: &Handle) -> Findings {
    let mut findings = Findings::default();
    findings.ok("version", format!("host {}", env!("CARGO_PKG_VERSION")));
    for (url, role) in [(events, Role::Events), (read_model, Role::ReadModel)] {
        match url {
            DatabaseUrl::Postgres(options) => {
                postgres::examine(&Postgres::new(options, runtime.clone()), role, &mut findings);
            }
            DatabaseUrl::Sqlite(path) => sqlite::examine(path, role, &mut findings),
        }
    }
    // What cannot be opened was told of above, where it is the database's fault.
    if let DatabaseUrl::Sqlite(path) = events
        && !path.exists()
    {
        return findings;
    }
    let source = match source::open(events, runtime) {
        Ok(source) => source,
        Err(error) => {
            findings.error("events", &error);
            return findings;
        }
    };
    match report::report(&*source, &ReadModel::new(read_model, runtime), Counting::Bounded) {
        Ok(report) => {
            of_report(&report, &mut findings);
            if report.months_ahead.is_some() {
                of_what_is_gone(&*source, &report, &mut findings);
            }
        }
        Err(error) => findings.error("read model", &error),
    }
    findings
}

/// What the report tells.
fn of_report(report: &Report, findings: &mut Findings) {
    let horizon = &report.horizon;
    if horizon.age_seconds >= BLOCKING {
        let by: Vec<String> = horizon.blockers.iter().map(ToString::to_string).collect();
        findings.problem(
            "horizon",
            format!(
                "events above {} have waited {:.0} s for: {}",
                horizon.position,
                horizon.age_seconds,
                by.join("; ")
            ),
            "end that transaction: commit it, roll it back, or SELECT pg_terminate_backend(pid)",
        );
    } else {
        findings.ok("horizon", format!("the horizon stands at {} of {}", horizon.position, horizon.last_position));
    }
    match report.months_ahead {
        None => {}
        Some(0) => findings.warn(
            "months",
            "the events of the next month have no partition, and would go to events_default",
            "host migrate makes the next three months; run it each week",
        ),
        Some(months) => findings.ok("months", format!("events have partitions for {months} months ahead")),
    }
    if report.projections.is_empty() {
        findings.ok("workers", "no projection has run yet");
    }
    for projection in &report.projections {
        of_projection(projection, findings);
    }
}

/// Projections that have not applied what went with its month.
fn of_what_is_gone(source: &dyn source::Source, report: &Report, findings: &mut Findings) {
    for projection in &report.projections {
        let Some(reached) = projection.partitions.iter().map(|partition| partition.position).min() else { continue };
        match source.taken_away(reached) {
            Ok(None) => {}
            Ok(Some(last)) => findings.problem(
                "months",
                format!(
                    "{} is at {reached}, and events after that, up to {last}, have been taken away with their months: it will not \
                     apply them",
                    projection.name
                ),
                "attach those months again until it has (ALTER TABLE events ATTACH PARTITION …), or do without what they say",
            ),
            Err(error) => findings.error("months", &error),
        }
    }
}

/// What it tells of one projection.
fn of_projection(projection: &ProjectionReport, findings: &mut Findings) {
    let (name, all) = (&projection.name, projection.partitions.len());
    let idle: Vec<_> = projection.partitions.iter().filter(|partition| !partition.running).collect();
    let late = idle.iter().filter(|partition| partition.lag_events > 0).count();
    let start = format!("start its workers: host run --plugin {name}=FILE");
    if late > 0 {
        findings.problem(
            "workers",
            format!("{name}: nobody runs {late} of {all} partitions that have events to apply"),
            start,
        );
    } else if !idle.is_empty() {
        findings.warn("workers", format!("{name}: nobody runs {} of {all} partitions", idle.len()), start);
    } else {
        findings.ok("workers", format!("{name}: all {all} partitions are run"));
    }
    if projection.parked_aggregates > 0 {
        let (parked, letters) = (projection.parked_aggregates, projection.dead_letters);
        findings.problem(
            "dead letters",
            format!("{name}: {parked} aggregates are parked, with {letters} dead letters"),
            format!("host dlq list --projection {name} shows why; mend the projection, then host dlq retry"),
        );
    } else {
        findings.ok("dead letters", format!("{name}: nothing is parked"));
    }
    if let Some(pause) = &projection.paused {
        let message = format!("{name} is paused, by {} since {}", pause.by, pause.since);
        findings.warn("pause", message, format!("host resume {name}"));
    }
    if let Some(rebuild) = projection.rebuild.as_ref().filter(|rebuild| !rebuild.running) {
        findings.warn(
            "rebuild",
            format!("{name}: a rebuild was interrupted at {} %, last by {}", rebuild.percent, rebuild.owner),
            "run the same host rebuild to go on, or with --discard to throw it away",
        );
    }
}
