//! How far every partition is, who works on it, and what holds the horizon back: what `host status` prints, and what
//! metrics, health and dashboard are made of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fnv::FnvHashMap;
use serde::Serialize;

use crate::database::DatabaseError;
use crate::event::Position;
use crate::read_model::ReadModel;
use crate::read_model::checkpoint::{Checkpoint, Epoch};
use crate::read_model::isolation::Isolation;
use crate::read_model::overview::Overview;
use crate::read_model::pause::Pause;
use crate::read_model::rebuild;
use crate::read_model::replica_set::roster::Member;
use crate::read_model::replica_set::{self, Generation, Life, Look};
use crate::source::{Backlog, Blocker, Source};

/// How long to wait for writers that are in flight just now, before they count as holding the horizon back.
const PATIENCE: Duration = Duration::from_millis(300);

/// A longer backlog is not counted when it is looked at again and again.
const MOST: u64 = 100_000;

/// How a backlog is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// Event by event, which takes some time for millions.
    Exactly,
    /// Up to 100,000 event by event. Beyond, positions are counted, so numbers that no event has got count, too.
    Bounded,
}

/// What `--json` prints. Fields are added, never changed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How far events may be read.
    pub horizon: HorizonReport,
    /// How many months behind the current one have a partition of the events table; null where events do not lie in months.
    pub months_ahead: Option<u32>,
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
    /// The age of the first event that waits for it to move; 0 when none does.
    pub age_seconds: f64,
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
    /// Who has paused it, and since when; null while it is not.
    pub paused: Option<Pause>,
    /// Aggregates that wait for `dlq retry`.
    pub parked_aggregates: u64,
    /// Tables that are not its own and that it may read, as `schema.table`.
    pub grants: Vec<String>,
    /// What holds its SQL if the guard is wrong: `role` or `login`; null on SQLite.
    pub isolation: Option<&'static str>,
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

/// Reads everything there is to report.
///
/// # Errors
/// When a database cannot be read.
pub fn report(source: &dyn Source, read_model: &ReadModel, counting: Counting) -> Result<Report, DatabaseError> {
    let (overviews, replica_sets) = (read_model.overview()?, read_model.replica_sets()?);
    let mut backlogs = Backlogs { source, counting, known: FnvHashMap::default() };
    let checkpoints = overviews.iter().flat_map(|overview| &overview.checkpoints).map(|checkpoint| checkpoint.position);
    let horizon = horizon(source, checkpoints.max().unwrap_or_default())?;
    let is_rebuild = |overview: &Overview| rebuild::projection_of(&overview.projection).is_some();
    let (rebuilds, overviews): (Vec<_>, Vec<_>) = overviews.into_iter().partition(is_rebuild);
    let projections = overviews.into_iter().map(|overview| {
        let name = rebuild::name_of(&overview.projection);
        let begun = rebuilds.iter().find(|rebuild| rebuild.projection == name);
        projection(&mut backlogs, overview, begun, horizon.last_position)
    });
    let replica_sets = replica_sets.into_iter().map(replica_set).collect();
    let projections = projections.collect::<Result<_, DatabaseError>>()?;
    Ok(Report { horizon, months_ahead: source.months_ahead()?, projections, replica_sets })
}

/// One replica set.
fn replica_set(overview: replica_set::Overview) -> ReplicaSetReport {
    let replica_set::Overview { name, look: Look { generation, roster, lives, .. }, last } = overview;
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

/// Backlogs that were asked for: partitions often stand at the same place.
struct Backlogs<'look> {
    /// Where the events are.
    source: &'look dyn Source,
    /// How they are counted.
    counting: Counting,
    /// What is known already.
    known: FnvHashMap<(Position, Position), Backlog>,
}

impl Backlogs<'_> {
    /// What stands behind `after` and not behind `upto`.
    fn between(&mut self, after: Position, upto: Position) -> Result<Backlog, DatabaseError> {
        if let Some(known) = self.known.get(&(after, upto)) {
            return Ok(*known);
        }
        let positions = upto.get().saturating_sub(after.get());
        let backlog = if self.counting == Counting::Exactly || positions <= MOST {
            self.source.backlog(after, upto)?
        } else {
            let first = self.source.backlog(after, Position::new(after.get() + MOST))?;
            // Where so many positions in a row hold nothing, the oldest stands behind them.
            let oldest = if first.events == 0 { self.source.backlog(after, upto)?.oldest } else { first.oldest };
            Backlog { events: positions, oldest }
        };
        self.known.insert((after, upto), backlog);
        Ok(backlog)
    }
}

/// The age of a backlog's oldest event, in seconds.
fn age(backlog: &Backlog) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a microsecond more or less in 300 years")]
    backlog.oldest.map_or(0.0, |oldest| (now - oldest as f64 / 1e6).max(0.0))
}

/// The horizon, and who blocks it. Whatever a worker has committed is below it.
fn horizon(source: &dyn Source, reached: Position) -> Result<HorizonReport, DatabaseError> {
    let began = Instant::now();
    loop {
        let position = source.horizon()?.max(reached);
        let last_position = source.last()?;
        if position >= last_position {
            return Ok(HorizonReport { position, last_position, age_seconds: 0.0, blockers: Vec::new() });
        }
        if began.elapsed() >= PATIENCE {
            let first = source.backlog(position, Position::new(last_position.get().min(position.get() + MOST)))?;
            let (age_seconds, blockers) = (age(&first), source.blockers()?);
            return Ok(HorizonReport { position, last_position, age_seconds, blockers });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One projection.
fn projection(
    backlogs: &mut Backlogs<'_>,
    overview: Overview,
    begun: Option<&Overview>,
    last: Position,
) -> Result<ProjectionReport, DatabaseError> {
    let partitions = overview.checkpoints.into_iter().map(|checkpoint| partition(backlogs, checkpoint, last));
    Ok(ProjectionReport {
        name: overview.projection,
        paused: overview.paused,
        dead_letters: overview.dead_letters,
        parked_aggregates: overview.parked_aggregates,
        grants: overview.grants.iter().map(ToString::to_string).collect(),
        isolation: overview.isolation.map(Isolation::name),
        partitions: partitions.collect::<Result<_, DatabaseError>>()?,
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
fn partition(
    backlogs: &mut Backlogs<'_>,
    checkpoint: Checkpoint,
    last: Position,
) -> Result<PartitionReport, DatabaseError> {
    let backlog = backlogs.between(checkpoint.position, last)?;
    Ok(PartitionReport {
        partition_key: checkpoint.partition.key(),
        total_partitions: checkpoint.partition.total(),
        position: checkpoint.position,
        lag_events: backlog.events,
        lag_seconds: age(&backlog),
        rescale: rescale(backlogs, &checkpoint)?,
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
fn rescale(backlogs: &mut Backlogs<'_>, checkpoint: &Checkpoint) -> Result<Option<RescaleReport>, DatabaseError> {
    let (from_partitions, until_position) = (checkpoint.lineage.totals(), checkpoint.lineage.until());
    if until_position <= checkpoint.position {
        return Ok(None);
    }
    let events_left = backlogs.between(checkpoint.position, until_position)?.events;
    Ok(Some(RescaleReport { from_partitions, until_position, events_left }))
}
