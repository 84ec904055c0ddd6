//! Another number of partitions, exactly: nothing is applied twice, nothing is left out, in any order of scaling.
//!
//! # The argument
//!
//! A checkpoint of partition `j` of `T` at position `p` states a **fact**: *every event of that partition at or below
//! `p` is done* (applied, or a dead letter). Facts are about events, not about workers, so they stay true whatever the
//! number of partitions becomes later. A rescale from `T` to `T'` keeps them: in one transaction the old rows go, and
//! each new row gets
//!
//! - a **position** below which all its events are done. Which old partitions hold events of the new partition `k`?
//!   Both are remainders of one hash `h`: `h mod T = j` and `h mod T' = k` have a common solution exactly if
//!   `j ≡ k (mod gcd(T, T'))`. So the new row starts at the lowest position of those old ones (from 4 to 8 that is a
//!   single one, and the new partition goes on as if nothing had happened);
//! - its **lineage**: the facts that reach above that position. The worker reads on from the position and leaves out
//!   each event that a fact says is done.
//!
//! *Not twice:* an event that was applied before the rescale was committed with a checkpoint at or above it in its old
//! partition (they are one transaction), so the fact of that partition holds it, and it is left out. *Not left out:*
//! an event that no fact holds is above the position of each old partition it was in, so above the position from which
//! its new partition reads. *In order:* an aggregate is in one partition before and in one after, both go in order,
//! and of its events those that are done are its first ones.
//!
//! Rescaling again before the facts are used up just collects more of them. A row drops a fact when its own position
//! has passed it; for its events nothing is lost with that, because the fact of the row itself then says as much. So
//! the facts of all rows together are complete at any time. Two facts about the same partition of the same total (2, then
//! 3, then 2 partitions again) are one: the greater position.
//!
//! What is not here is who may do it and when: see `read_model`, whose claims retire the old rows only when nobody works
//! on them, under a fence that refuses whoever still believes to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Partition, fnv1a32};
use crate::event::Position;

/// Facts about what was done under other totals: for each total, the position up to which each of its partitions is
/// done. As JSON, `[[4,[10,20,30,40]],[3,[0,15,0]]]`; 0 is where nothing is known, or nothing that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, Vec<Position>)>", into = "Vec<(u32, Vec<Position>)>")]
pub struct Lineage {
    /// By total; each list has as many positions as there are partitions.
    facts: BTreeMap<u32, Vec<Position>>,
    /// The greatest position among them: behind it, nothing is left out.
    until: Position,
}

/// A list that is no lineage.
#[derive(Debug, thiserror::Error)]
#[error("a lineage has {found} positions for {total} partitions")]
pub struct Malformed {
    /// The total.
    total: u32,
    /// How many positions there are.
    found: usize,
}

impl TryFrom<Vec<(u32, Vec<Position>)>> for Lineage {
    type Error = Malformed;

    fn try_from(list: Vec<(u32, Vec<Position>)>) -> Result<Self, Malformed> {
        let mut lineage = Self::default();
        for (total, positions) in list {
            if total == 0 || positions.len() != total as usize {
                return Err(Malformed { total, found: positions.len() });
            }
            lineage.add(total, &positions);
        }
        Ok(lineage)
    }
}

impl From<Lineage> for Vec<(u32, Vec<Position>)> {
    fn from(lineage: Lineage) -> Self {
        lineage.facts.into_iter().collect()
    }
}

impl Lineage {
    /// From the column of a checkpoint.
    ///
    /// # Errors
    /// When the text is no lineage, which would be a fault of ours or of whoever wrote into the table.
    pub fn parse(json: Option<&str>) -> Result<Self, serde_json::Error> {
        json.map_or_else(|| Ok(Self::default()), serde_json::from_str)
    }

    /// For the column of a checkpoint: NULL where there is nothing to say.
    #[must_use]
    pub fn to_json(&self) -> Option<String> {
        // A list of lists of numbers can always be written.
        (!self.is_empty()).then(|| serde_json::to_string(self).unwrap_or_default())
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Behind this position nothing is left out any more.
    #[must_use]
    pub fn until(&self) -> Position {
        self.until
    }

    /// The totals that it knows of.
    #[must_use]
    pub fn totals(&self) -> Vec<u32> {
        self.facts.keys().copied().collect()
    }

    /// Whether the event of this aggregate at this position is done.
    #[must_use]
    pub fn is_done(&self, aggregate_id: &str, position: Position) -> bool {
        if position > self.until {
            return false;
        }
        let hash = fnv1a32(aggregate_id.as_bytes());
        self.facts.iter().any(|(total, positions)| position <= positions[(hash % total) as usize])
    }

    /// Adds what is known of one total.
    fn add(&mut self, total: u32, positions: &[Position]) {
        let known = self.facts.entry(total).or_insert_with(|| vec![Position::START; positions.len()]);
        for (known, position) in known.iter_mut().zip(positions) {
            *known = (*known).max(*position);
            self.until = self.until.max(*known);
        }
    }

    /// Of these facts, those that say something about events of `partition` above `position`.
    fn about(&self, partition: Partition, position: Position) -> Self {
        let mut about = Self::default();
        for (total, positions) in &self.facts {
            let matters = |key: u32, done: Position| done > position && share_events(partition, key, *total);
            let keep = |(key, done): (u32, &Position)| if matters(key, *done) { *done } else { Position::START };
            let kept: Vec<Position> = (0..).zip(positions).map(keep).collect();
            if kept.iter().any(|done| *done > Position::START) {
                about.add(*total, &kept);
            }
        }
        about
    }
}

/// Whether an event can belong to `partition` and to partition `key` of `total`.
fn share_events(partition: Partition, key: u32, total: u32) -> bool {
    let divisor = greatest_common_divisor(partition.total(), total);
    partition.key() % divisor == key % divisor
}

/// Euclid's.
fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// What a rescale takes over from a checkpoint, and gives to a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which partition.
    pub partition: Partition,
    /// Everything of it at or below is done.
    pub position: Position,
    /// What is done above it.
    pub lineage: Lineage,
    /// The number of its last claim.
    pub epoch: i64,
    /// How many events it has applied, over all its life.
    pub events_applied: u64,
}

/// The rows of `total` partitions that take the place of `rows`, which are those of another total. A partition that
/// was never claimed has no row, and nothing of it is done.
///
/// The new epochs are above all old ones: should the old total come back, nobody who claimed one of its partitions
/// the first time can take the new row for his.
#[must_use]
pub fn rescale(rows: &[Row], total: u32) -> Vec<Row> {
    let mut facts = Lineage::default();
    let Some(old_total) = rows.first().map(|row| row.partition.total()) else { return Vec::new() };
    let mut done = vec![Position::START; old_total as usize];
    for row in rows {
        done[row.partition.key() as usize] = row.position;
        for (total, positions) in &row.lineage.facts {
            facts.add(*total, positions);
        }
    }
    facts.add(old_total, &done);
    let epoch = rows.iter().map(|row| row.epoch).max().unwrap_or(0) + 1;
    let applied: u64 = rows.iter().map(|row| row.events_applied).sum();
    let partitions = (0..total).filter_map(|key| Partition::new(key, total).ok());
    partitions
        .map(|partition| {
            let old = (0..).zip(&done).filter(|(key, _)| share_events(partition, *key, old_total));
            let position = old.map(|(_, done)| *done).min().unwrap_or_default();
            let lineage = facts.about(partition, position);
            // Their sum is what counts: how many events the projection has applied.
            let share = u64::from(total);
            let events_applied = applied / share + u64::from(u64::from(partition.key()) < applied % share);
            Row { partition, position, lineage, epoch, events_applied }
        })
        .collect()
}

#[cfg(test)]
mod tests;
