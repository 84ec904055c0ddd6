//! Who may work on a partition, and how it comes to the next worker.
//!
//! Three things stand together, and only the last one has to hold for the data to be right:
//!
//! - A **lock** that ends with its owner (a session's advisory lock on Postgres, a locked file on SQLite) says that
//!   somebody works. Whoever finds it taken stands by, and has the partition as soon as it is free.
//! - A **sign of life** ([`super::heartbeat`]) tells a worker that is frozen, or cut off, from one that is busy. Such a
//!   worker still holds its lock; so whoever stands by for it *deposes* it, after a time that the operator chose: the
//!   partition gets another [`Term`], whose lock is free. How long the beat has stood still is measured by the clock of
//!   whoever waits, and by nothing else, so clocks that differ or jump do not matter.
//! - The **epoch** ([`super::checkpoint`]) is raised by each claim, and each commit has to name the last one. Whatever
//!   went wrong with lock and beat (a worker was deposed that was only slow, say), no two can commit.
//!
//! A claim is one transaction, and those of a projection run one after the other (the projection's row is locked on
//! Postgres, a file on SQLite). In it the worker reads the projection's checkpoints. If they are for another number of
//! partitions, and no lock of theirs is held, they are replaced by rows for the wanted one ([`super::super::partition::lineage`]):
//! whoever believes to own an old row finds it gone. If one is held, the worker stands by for its owner.

use std::fmt;

use super::checkpoint::{Epoch, Slot, Term};
use crate::event::Position;
use crate::partition::Partition;
use crate::partition::lineage::{self, Lineage, Row};
use crate::telemetry::metrics;

/// A worker that has a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which partition.
    pub slot: Slot,
    /// What it calls itself.
    pub owner: String,
    /// Its claim; nothing while it is about to make its first.
    pub epoch: Option<Epoch>,
    /// Its sign of life, which is another each second; nothing when it gives none.
    pub beat: Option<u64>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}, which is held by {}", self.slot.partition, self.owner)
    }
}

/// What to call a holder who has not written its name yet.
pub(super) const UNNAMED: &str = "another process";

/// What a claim found out.
#[derive(Debug)]
pub(super) enum Written {
    /// The partition is ours.
    Claimed(Claimed),
    /// Another lock stands for it than the one that we hold.
    OtherTerm(Term),
    /// Others work on partitions that this one would take the place of.
    Held(Vec<Holder>),
}

/// A claim that was written.
#[derive(Debug)]
pub(super) struct Claimed {
    /// How far the partition is.
    pub(super) position: Position,
    /// What is done above.
    pub(super) lineage: Lineage,
    /// The claim.
    pub(super) epoch: Epoch,
}

/// A checkpoint as a claim finds it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// What a rescale takes over.
    pub(super) row: Row,
    /// Who claimed it last.
    pub(super) owner: String,
    /// Which lock stands for it.
    pub(super) term: Term,
    /// The version of the projection that committed last.
    pub(super) plugin_version: u32,
    /// The digest of its component.
    pub(super) plugin_digest: String,
}

/// The columns of a [`Found`], as both databases read them: total, key, position, epoch, lineage, events applied,
/// owner, term, version, digest.
pub(super) type Columns = (u32, u32, i64, i64, Option<String>, i64, String, u32, u32, String);

impl Found {
    /// From its columns.
    ///
    /// # Errors
    /// When its lineage is none.
    pub(super) fn new(columns: Columns) -> Result<Self, serde_json::Error> {
        let (total, key, position, epoch, lineage, applied, owner, term, plugin_version, plugin_digest) = columns;
        // The database checks that a key is below its total.
        let partition = Partition::new(key, total).unwrap_or(Partition::WHOLE);
        let lineage = Lineage::parse(lineage.as_deref())?;
        let position = Position::from_sql(position);
        let row = Row { partition, position, lineage, epoch, events_applied: applied.unsigned_abs() };
        Ok(Self { row, owner, term: Term(term), plugin_version, plugin_digest })
    }
}

/// What a claim has to do, going by the projection's checkpoints.
#[derive(Debug)]
pub(super) enum Plan {
    /// There are none yet, or they are for the wanted number of partitions.
    Claim {
        /// The lock that stands for the partition.
        term: Term,
    },
    /// They are for another one: they have to be replaced, unless somebody works on them.
    Replace(Replacement),
}

/// Rows that take the place of others.
#[derive(Debug)]
pub(super) struct Replacement {
    /// The old partitions, with the lock that stands for each, and its last owner. Also those that nobody has
    /// claimed yet: somebody may be about to.
    pub(super) old: Vec<(Partition, Term, Option<Found>)>,
    /// The new rows.
    pub(super) rows: Vec<Row>,
    /// The lock that stands for each of them. Terms never go down: if the old number of partitions comes back, a
    /// frozen worker of the first time must not hold the lock of the second.
    pub(super) term: Term,
    /// The version of the projection that committed last.
    pub(super) plugin_version: u32,
    /// The digest of its component.
    pub(super) plugin_digest: String,
}

impl Plan {
    /// For a worker that wants `partition`.
    pub(super) fn new(partition: Partition, found: Vec<Found>) -> Self {
        let Some(last) = found.first() else { return Self::Claim { term: Term::default() } };
        let old_total = last.row.partition.total();
        if old_total == partition.total() {
            let own = found.iter().find(|found| found.row.partition == partition);
            return Self::Claim { term: own.map_or(Term::default(), |own| own.term) };
        }
        let rows: Vec<Row> = found.iter().map(|found| found.row.clone()).collect();
        let term = found.iter().map(|found| found.term).max().unwrap_or_default();
        // One that has committed nothing knows of no plugin.
        let newest = found.iter().max_by_key(|found| found.plugin_version).unwrap_or(last);
        let (plugin_version, plugin_digest) = (newest.plugin_version, newest.plugin_digest.clone());
        let mut by_key: Vec<Option<Found>> = vec![None; old_total as usize];
        for found in found {
            let key = found.row.partition.key() as usize;
            by_key[key] = Some(found);
        }
        let old = (0..old_total).zip(by_key).filter_map(|(key, found)| {
            let term = found.as_ref().map_or(Term::default(), |found| found.term);
            Partition::new(key, old_total).ok().map(|partition| (partition, term, found))
        });
        let rows = lineage::rescale(&rows, partition.total());
        Self::Replace(Replacement { old: old.collect(), rows, term, plugin_version, plugin_digest })
    }
}

impl Replacement {
    /// Who works on the old partitions, by `beat`: the sign of life of a partition's holder, if there is one.
    pub(super) fn holders(
        &self,
        projection: &str,
        mut is_held: impl FnMut(&Slot, Term) -> bool,
        mut beat: impl FnMut(&Slot, Term, &str) -> Option<u64>,
    ) -> Vec<Holder> {
        let mut holders = Vec::new();
        for (partition, term, found) in &self.old {
            let slot = Slot { projection: projection.to_owned(), partition: *partition };
            if !is_held(&slot, *term) {
                continue;
            }
            let named = found.as_ref().filter(|found| !found.owner.is_empty());
            let owner = named.map_or(UNNAMED.to_owned(), |found| found.owner.clone());
            let epoch = found.as_ref().map(|found| Epoch(found.row.epoch));
            let beat = beat(&slot, *term, &owner);
            holders.push(Holder { slot, owner, epoch, beat });
        }
        holders
    }

    /// Says in the log what was done.
    pub(super) fn tell(&self, projection: &str) {
        metrics::rescaled(projection);
        let (from, to) = (self.old.len(), self.rows.len());
        let (start, until) =
            (self.rows.iter().map(|row| row.position).min(), self.rows.iter().map(|row| row.lineage.until()).max());
        tracing::info!(
            projection,
            from,
            to,
            start = start.unwrap_or_default().get(),
            known_until = until.unwrap_or_default().get(),
            "the number of partitions was changed: events that are done already are left out"
        );
    }
}
