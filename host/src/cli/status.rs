//! `host status`: how far every partition is, who works on it, and what holds the horizon back. [`watch`] shows it live.

mod watch;

use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use self::watch::Rates;
use super::Context;
use crate::operations::report::{self, Counting, MemberReport, RebuildReport, ReplicaSetReport, Report};
use crate::read_model::ReadModel;
use crate::read_model::isolation::Isolation;
use crate::read_model::pause::Pause;
use crate::read_model::replica_set::Generation;

/// `host status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  host status\n  host status --watch\n  host status --json | jq '.projections[].partitions[].lag_events'\n\n\
    Lag counts the events of all types behind the checkpoint, those of other partitions too, as the loop will read\n\
    them. Its seconds are the age of the oldest of them. An owner in (brackets) does not run any more."
)]
pub struct Status {
    /// As JSON, stable for scripts; with --watch, a report a line
    #[arg(long)]
    json: bool,
    /// Look again and again, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// The time between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval, requires = "watch")]
    interval: f64,
}

/// A time between two looks.
fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("say 0.1 to 86400 seconds".to_owned()),
    }
}

impl Status {
    /// Runs it.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        if self.watch {
            return watch::run(context, Duration::from_secs_f64(self.interval), self.json);
        }
        let report = report(context)?;
        let text = if self.json { serde_json::to_string_pretty(&report)? + "\n" } else { for_people(&report) };
        super::print(&text)?;
        Ok(())
    }
}

/// Reads everything there is to report.
///
/// # Errors
/// When a database cannot be read.
pub fn report(context: &Context) -> anyhow::Result<Report> {
    let source = context.existing_events()?;
    let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
    Ok(report::report(&*source, &read_model, Counting::Exactly)?)
}

/// The report as a table.
#[must_use]
pub fn for_people(report: &Report) -> String {
    table(report, None)
}

/// The report as a table, with how many events a second each projection applies, if that is known.
fn table(report: &Report, rates: Option<&Rates>) -> String {
    let mut text = String::new();
    if report.projections.is_empty() {
        text.push_str("No projection has run yet. Start one: host run --plugin FILE\n");
    } else {
        let mut table = Table::new();
        let mut header = vec![
            "projection",
            "partition",
            "position",
            "lag",
            "behind",
            "applied",
            "parked",
            "epoch",
            "owner",
            "plugin",
        ];
        if rates.is_some() {
            header.push("events/s");
        }
        table.load_preset(presets::NOTHING).set_header(header);
        for projection in &report.projections {
            for partition in &projection.partitions {
                let mut row = vec![
                    projection.name.clone(),
                    format!("{} of {}", partition.partition_key, partition.total_partitions),
                    partition.position.to_string(),
                    partition.lag_events.to_string(),
                    duration(partition.lag_seconds),
                    partition.events_applied.to_string(),
                    projection.parked_aggregates.to_string(),
                    partition.epoch.to_string(),
                    match (partition.running, &*partition.owner) {
                        (_, "") => "nobody yet".to_owned(),
                        (true, owner) => owner.to_owned(),
                        (false, owner) => format!("({owner})"),
                    },
                    format!("v{} {}", partition.plugin_version, partition.plugin_digest.get(..8).unwrap_or("-")),
                ];
                if let Some(rates) = rates {
                    row.push(rates.of(&projection.name, partition).map_or("-".to_owned(), |rate| format!("{rate:.0}")));
                }
                table.add_row(row);
            }
        }
        for column in [2, 3, 4, 5, 6, 7, 10] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        text.push_str(&table.to_string());
        text.push('\n');
        text.push_str(&rescales(report));
    }
    for projection in report.projections.iter().filter(|one| !one.grants.is_empty()) {
        let (name, grants) = (&projection.name, &projection.grants);
        text.push_str(&format!("{name} may also read {}\n", grants.join(", ")));
    }
    for projection in report.projections.iter().filter(|one| one.isolation == Some(Isolation::Login.name())) {
        text.push_str(&format!("{} logs in by itself (--isolation login)\n", projection.name));
    }
    for projection in &report.projections {
        if let Some(Pause { by, since }) = &projection.paused {
            let name = &projection.name;
            text.push_str(&format!("{name} is paused, by {by} since {since}: `host resume {name}` lets it go on\n"));
        }
        if let Some(rebuild) = &projection.rebuild {
            let RebuildReport { position, percent, owner, plugin_digest, .. } = rebuild;
            let digest = plugin_digest.get(..8).unwrap_or("-");
            let owner = if rebuild.running { format!("by {owner}") } else { format!("interrupted, last by {owner}") };
            let name = &projection.name;
            text.push_str(&format!("rebuild of {name}: position {position} ({percent} %), {owner}, plugin {digest}\n"));
        }
    }
    for ReplicaSetReport { name, slots, generation, last_change, members } in &report.replica_sets {
        text.push_str(&format!(
            "replica set {name}: {} members, {slots} slots, generation {generation}",
            members.len()
        ));
        if let Some(Generation { reason, written_at, .. }) = last_change {
            text.push_str(&format!(" ({reason}, {written_at})"));
        }
        text.push('\n');
        for MemberReport { name, running, slots } in members {
            let slots: Vec<String> = slots.iter().map(|(name, slots)| format!("{} of {name}", slots.len())).collect();
            let (slots, gone) = (slots.join(", "), if *running { "" } else { ", ended" });
            text.push_str(&format!("  {name}: {}{gone}\n", if slots.is_empty() { "nothing" } else { &*slots }));
        }
    }
    let horizon = &report.horizon;
    if horizon.position >= horizon.last_position {
        text.push_str(&format!("horizon {}, the last event\n", horizon.position));
    } else {
        text.push_str(&format!(
            "horizon {} of {}: events above wait for writers\n",
            horizon.position, horizon.last_position
        ));
        for blocker in &horizon.blockers {
            let pid = blocker.pid.map_or("prepared".to_owned(), |pid| format!("pid {pid}"));
            let age = duration(blocker.age_seconds);
            text.push_str(&format!("  {pid} ({}), open for {age}: {}\n", blocker.application, blocker.query));
        }
    }
    text
}

/// A line for each partition whose number was changed not long ago.
fn rescales(report: &Report) -> String {
    let mut text = String::new();
    for projection in &report.projections {
        for partition in &projection.partitions {
            let Some(rescale) = &partition.rescale else { continue };
            let from: Vec<String> = rescale.from_partitions.iter().map(ToString::to_string).collect();
            text.push_str(&format!(
                "rescale of {}, {} of {}: was {} partitions, through at position {}, {} events to look at\n",
                projection.name,
                partition.partition_key,
                partition.total_partitions,
                from.join(" and "),
                rescale.until_position,
                rescale.events_left
            ));
        }
    }
    text
}

/// A time for people.
fn duration(seconds: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(86_400.0 * 365.0, "y"), (86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    match UNITS.iter().find(|(length, _)| seconds >= *length) {
        Some((length, unit)) => format!("{:.1} {unit}", seconds / length),
        None if seconds > 0.0 => format!("{seconds:.1} s"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Position;
    use crate::operations::report::HorizonReport;
    use crate::source::Blocker;

    #[test]
    fn times_are_told_in_one_unit() {
        let told: Vec<_> = [0.0, 0.25, 59.0, 90.0, 7_200.0, 86_400.0 * 3.0].into_iter().map(duration).collect();
        assert_eq!(told, ["-", "0.2 s", "59.0 s", "1.5 min", "2.0 h", "3.0 d"]);
    }

    #[test]
    fn whoever_blocks_the_horizon_is_named() {
        let blocker = Blocker {
            pid: Some(7),
            age_seconds: 61.0,
            application: "billing".into(),
            query: "INSERT INTO events".into(),
        };
        let horizon = HorizonReport {
            position: Position::new(4),
            last_position: Position::new(9),
            age_seconds: 61.0,
            blockers: vec![blocker],
        };
        let text = for_people(&Report { horizon, months_ahead: None, projections: vec![], replica_sets: vec![] });
        assert!(text.contains("horizon 4 of 9"), "{text}");
        assert!(text.contains("pid 7 (billing), open for 1.0 min: INSERT INTO events"), "{text}");
    }
}
