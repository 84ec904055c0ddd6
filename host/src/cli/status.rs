//! `host status`: how far every partition is, who works on it, and what holds the horizon back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Context;
use crate::event::Position;
use crate::read_model::ReadModel;
use crate::read_model::checkpoint::{Checkpoint, Epoch};
use crate::read_model::overview::Overview;
use crate::read_model::rebuild;
use crate::read_model::replica_set::roster::Member;
use crate::read_model::replica_set::{self, Generation, Life, Look};
use crate::source::{Blocker, Source};

/// How long to wait for writers that are in flight just now, before they count as holding the horizon back.
const PATIENCE: Duration = Duration::from_millis(300);

/// `host status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  host status\n  host status --json | jq '.projections[].partitions[].lag_events'\n\n\
    Lag counts the events of all types behind the checkpoint, those of other partitions too, as the loop will read\n\
    them. Its seconds are the age of the oldest of them. An owner in (brackets) does not run any more."
)]
pub struct Status {
    /// As JSON, stable for scripts
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Fields are added, never changed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How far events may be read.
    pub horizon: HorizonReport,
    /// The projections, by name.
    pub projections: Vec<ProjectionReport>,
    /// The replica sets, by name.
    pub replica_sets: Vec<ReplicaSetReport>,
}

/// A replica set.
#[derive(Debug, Serialize)]
pub struct ReplicaSetReport {
    /// Its name.
    pub name: String,
    /// How many slots each of its projections has.
    pub slots: u32,
    /// How often its roster has changed.
    pub generation: u64,
    /// The last change, and why.
    pub last_change: Option<Generation>,
    /// Who works, in the order in which they came.
    pub members: Vec<MemberReport>,
}

/// A member of a replica set.
#[derive(Debug, Serialize)]
pub struct MemberReport {
    /// Its name: its owner's name as in claims, and a number.
    pub name: String,
    /// Whether its process and its connection are there.
    pub running: bool,
    /// Its slots, of each projection.
    pub slots: BTreeMap<String, Vec<u32>>,
}

/// The horizon.
#[derive(Debug, Serialize)]
pub struct HorizonReport {
    /// Everything at or below is visible, or never will be. Where writers are in flight, at least this.
    pub position: Position,
    /// The last position that is visible.
    pub last_position: Position,
    /// Who keeps the one from the other.
    pub blockers: Vec<Blocker>,
}

/// A projection.
#[derive(Debug, Serialize)]
pub struct ProjectionReport {
    /// Its name.
    pub name: String,
    /// Events that were not applied.
    pub dead_letters: u64,
    /// Aggregates that wait for `dlq retry`.
    pub parked_aggregates: u64,
    /// Tables that are not its own and that it may read, as `schema.table`.
    pub grants: Vec<String>,
    /// Its partitions, by key.
    pub partitions: Vec<PartitionReport>,
    /// The rebuild that was begun and is not swapped in yet; null when there is none.
    pub rebuild: Option<RebuildReport>,
}

/// A rebuild.
#[derive(Debug, Serialize)]
pub struct RebuildReport {
    /// How far the last of its partitions is.
    pub position: Position,
    /// How far all of them are, of the last position.
    pub percent: u64,
    /// Whether somebody works on it.
    pub running: bool,
    /// Who did last.
    pub owner: String,
    /// Its component's digest.
    pub plugin_digest: String,
    /// Events that were not applied.
    pub dead_letters: u64,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct PartitionReport {
    /// Which.
    pub partition_key: u32,
    /// Out of how many.
    pub total_partitions: u32,
    /// Its checkpoint.
    pub position: Position,
    /// Events behind the checkpoint.
    pub lag_events: u64,
    /// The age of the oldest of them.
    pub lag_seconds: f64,
    /// A change of the number of partitions that is not through yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale: Option<RescaleReport>,
    /// The last claim.
    pub epoch: Epoch,
    /// Who made it.
    pub owner: String,
    /// Whether they hold it still.
    pub running: bool,
    /// Events it has applied.
    pub events_applied: u64,
    /// The version of the projection that committed last.
    pub plugin_version: u32,
    /// Its component's digest.
    pub plugin_digest: String,
    /// When it was committed, RFC 3339.
    pub updated_at: String,
}

/// A change of the number of partitions that is not through yet: up to `until_position` the partition leaves out what
/// was done before.
#[derive(Debug, Serialize)]
pub struct RescaleReport {
    /// How many partitions there were before, each number once.
    pub from_partitions: Vec<u32>,
    /// Where it is through.
    pub until_position: Position,
    /// Events of the log up to there.
    pub events_left: u64,
}

impl Status {
    /// Runs it.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
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
    let (overviews, replica_sets) = (read_model.overview()?, read_model.replica_sets()?);
    let checkpoints = overviews.iter().flat_map(|overview| &overview.checkpoints).map(|checkpoint| checkpoint.position);
    let horizon = horizon(&*source, checkpoints.max().unwrap_or_default())?;
    let is_rebuild = |overview: &Overview| rebuild::projection_of(&overview.projection).is_some();
    let (rebuilds, overviews): (Vec<_>, Vec<_>) = overviews.into_iter().partition(is_rebuild);
    let projections = overviews.into_iter().map(|overview| {
        let name = rebuild::name_of(&overview.projection);
        let begun = rebuilds.iter().find(|rebuild| rebuild.projection == name);
        projection(&*source, overview, begun, horizon.last_position)
    });
    let replica_sets = replica_sets.into_iter().map(replica_set).collect();
    Ok(Report { projections: projections.collect::<anyhow::Result<_>>()?, horizon, replica_sets })
}

/// One replica set.
fn replica_set(overview: replica_set::Overview) -> ReplicaSetReport {
    let replica_set::Overview { name, look: Look { generation, roster, lives }, last } = overview;
    let member = |member: &Member| {
        let mut slots: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (projection, slot) in roster.slots_of(&member.name) {
            slots.entry(projection.to_owned()).or_default().push(slot);
        }
        let running = !matches!(lives.get(&member.name), Some(Life::Ended) | None);
        MemberReport { name: member.name.clone(), running, slots }
    };
    let members = roster.members.iter().map(member).collect();
    ReplicaSetReport { name, slots: roster.slots, generation, last_change: last, members }
}

/// The horizon, and who blocks it. Whatever a worker has committed is below it.
fn horizon(source: &dyn Source, reached: Position) -> anyhow::Result<HorizonReport> {
    let began = Instant::now();
    loop {
        let position = source.horizon()?.max(reached);
        let last_position = source.last()?;
        if position >= last_position {
            return Ok(HorizonReport { position, last_position, blockers: Vec::new() });
        }
        if began.elapsed() >= PATIENCE {
            return Ok(HorizonReport { position, last_position, blockers: source.blockers()? });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One projection.
fn projection(
    source: &dyn Source,
    overview: Overview,
    begun: Option<&Overview>,
    last: Position,
) -> anyhow::Result<ProjectionReport> {
    let partitions = overview.checkpoints.into_iter().map(|checkpoint| partition(source, checkpoint, last));
    Ok(ProjectionReport {
        name: overview.projection,
        dead_letters: overview.dead_letters,
        parked_aggregates: overview.parked_aggregates,
        grants: overview.grants.iter().map(ToString::to_string).collect(),
        partitions: partitions.collect::<anyhow::Result<_>>()?,
        rebuild: begun.and_then(|begun| rebuild_report(begun, last)),
    })
}

/// A rebuild.
fn rebuild_report(begun: &Overview, last: Position) -> Option<RebuildReport> {
    let checkpoints = &begun.checkpoints;
    let slowest = checkpoints.iter().min_by_key(|checkpoint| checkpoint.position)?;
    let passed: u64 = checkpoints.iter().map(|checkpoint| checkpoint.position.get()).sum();
    let whole = last.get() * checkpoints.len() as u64;
    // A partition that was claimed and has committed nothing knows of no component.
    let digest = checkpoints.iter().map(|checkpoint| &checkpoint.plugin_digest).max()?;
    Some(RebuildReport {
        position: slowest.position,
        percent: (passed * 100).checked_div(whole).unwrap_or(100).min(100),
        running: checkpoints.iter().any(|checkpoint| checkpoint.running),
        owner: slowest.owner.clone(),
        plugin_digest: digest.clone(),
        dead_letters: begun.dead_letters,
    })
}

/// One partition.
fn partition(source: &dyn Source, checkpoint: Checkpoint, last: Position) -> anyhow::Result<PartitionReport> {
    let backlog = source.backlog(checkpoint.position, last)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a microsecond more or less in 300 years")]
    let age = backlog.oldest.map_or(0.0, |oldest| (now - oldest as f64 / 1e6).max(0.0));
    Ok(PartitionReport {
        partition_key: checkpoint.partition.key(),
        total_partitions: checkpoint.partition.total(),
        position: checkpoint.position,
        lag_events: backlog.events,
        lag_seconds: age,
        rescale: rescale(source, &checkpoint)?,
        epoch: checkpoint.epoch,
        owner: checkpoint.owner,
        running: checkpoint.running,
        events_applied: checkpoint.events_applied,
        plugin_version: checkpoint.plugin_version,
        plugin_digest: checkpoint.plugin_digest,
        updated_at: crate::timestamp::format(checkpoint.updated_at),
    })
}

/// What is left of a rescale.
fn rescale(source: &dyn Source, checkpoint: &Checkpoint) -> anyhow::Result<Option<RescaleReport>> {
    let (from_partitions, until_position) = (checkpoint.lineage.totals(), checkpoint.lineage.until());
    if until_position <= checkpoint.position {
        return Ok(None);
    }
    let events_left = source.backlog(checkpoint.position, until_position)?.events;
    Ok(Some(RescaleReport { from_partitions, until_position, events_left }))
}

/// The report as a table.
#[must_use]
pub fn for_people(report: &Report) -> String {
    let mut text = String::new();
    if report.projections.is_empty() {
        text.push_str("No projection has run yet. Start one: host run --plugin FILE\n");
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header([
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
        ]);
        for projection in &report.projections {
            for partition in &projection.partitions {
                table.add_row([
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
                ]);
            }
        }
        for column in [2, 3, 4, 5, 6, 7] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        text.push_str(&table.to_string());
        text.push('\n');
        text.push_str(&rescales(report));
    }
    for ProjectionReport { name, grants, .. } in report.projections.iter().filter(|one| !one.grants.is_empty()) {
        text.push_str(&format!("{name} may also read {}\n", grants.join(", ")));
    }
    for projection in &report.projections {
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
        let horizon =
            HorizonReport { position: Position::new(4), last_position: Position::new(9), blockers: vec![blocker] };
        let text = for_people(&Report { horizon, projections: vec![], replica_sets: vec![] });
        assert!(text.contains("horizon 4 of 9"), "{text}");
        assert!(text.contains("pid 7 (billing), open for 1.0 min: INSERT INTO events"), "{text}");
    }
}
