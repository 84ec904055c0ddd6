//! Lineage against a model: a log, workers that commit or crash, zombies, and totals that change at any moment.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A row of these.
fn row(key: u32, total: u32, position: u64) -> Row {
    let partition = Partition::new(key, total).unwrap();
    Row { partition, position: Position::new(position), lineage: Lineage::default(), epoch: 3, events_applied: 10 }
}

#[test]
fn doubling_the_partitions_starts_each_where_its_old_one_stood() {
    let rows = rescale(&[row(0, 2, 100), row(1, 2, 7)], 4);
    let starts: Vec<_> = rows.iter().map(|row| row.position.get()).collect();
    assert_eq!(starts, [100, 7, 100, 7]);
    assert!(rows.iter().all(|row| row.lineage.is_empty() && row.epoch == 4), "{rows:?}");
    assert_eq!(rows.iter().map(|row| row.events_applied).sum::<u64>(), 20);
}

#[test]
fn totals_without_a_common_divisor_start_at_the_lowest_and_know_what_is_done_above() {
    let rows = rescale(&[row(0, 2, 100), row(1, 2, 7)], 3);
    assert!(rows.iter().all(|row| row.position.get() == 7 && row.lineage.until().get() == 100), "{rows:?}");
    assert_eq!(rows[0].lineage.to_json().as_deref(), Some("[[2,[100,0]]]"));
    assert_eq!(Lineage::parse(Some("[[2,[100,0]]]")).unwrap(), rows[0].lineage);
}

#[test]
fn a_partition_that_nobody_ever_claimed_has_done_nothing() {
    let rows = rescale(&[row(1, 2, 50)], 1);
    assert_eq!((rows[0].position, rows[0].lineage.until()), (Position::START, Position::new(50)));
}

#[test]
fn what_is_no_lineage_is_refused() {
    assert!(Lineage::parse(Some("[[2,[1]]]")).unwrap_err().to_string().contains("1 positions for 2 partitions"));
    assert!(Lineage::parse(Some("[[0,[]]]")).is_err());
    assert!(Lineage::parse(None).unwrap().is_empty());
}

/// What happens to a projection.
#[derive(Clone, Debug)]
enum Step {
    /// The worker of a partition reads its row and applies so many events, then commits.
    Work {
        /// Which, modulo the total.
        key: u32,
        /// How many of its events.
        events: usize,
        /// Whether the batch ends at its last event, or reaches over the others' events behind it.
        passes: bool,
    },
    /// As [`Step::Work`], and it crashes before the commit.
    Crash {
        /// Which, modulo the total.
        key: u32,
        /// How many of its events.
        events: usize,
    },
    /// A worker reads its row, and is frozen before its commit; a later [`Step::Thaw`] wakes it up.
    Freeze {
        /// Which, modulo the total.
        key: u32,
        /// How many of its events.
        events: usize,
    },
    /// All frozen workers wake up and commit.
    Thaw,
    /// The log grows.
    Append {
        /// Of which aggregates.
        aggregates: Vec<u8>,
    },
    /// The number of partitions changes.
    Rescale {
        /// To this.
        total: u32,
    },
}

/// Any step.
fn step() -> impl Strategy<Value = Step> {
    let (key, events) = (0..8_u32, 0..12_usize);
    prop_oneof![
        6 => (key.clone(), events.clone(), any::<bool>()).prop_map(|(key, events, passes)| Step::Work { key, events, passes }),
        1 => (key.clone(), events.clone()).prop_map(|(key, events)| Step::Crash { key, events }),
        1 => (key, events).prop_map(|(key, events)| Step::Freeze { key, events }),
        1 => Just(Step::Thaw),
        2 => prop::collection::vec(0..20_u8, 0..20).prop_map(|aggregates| Step::Append { aggregates }),
        2 => (1..8_u32).prop_map(|total| Step::Rescale { total }),
    ]
}

/// A batch on its way to its commit.
#[derive(Clone, Debug)]
struct Batch {
    /// Whose.
    partition: Partition,
    /// The claim it was made under.
    epoch: i64,
    /// Where the row stood.
    from: Position,
    /// Where it is to stand.
    to: Position,
    /// What was applied.
    events: Vec<usize>,
}

/// A projection and its log.
#[derive(Default)]
struct Model {
    /// The aggregate of each event; its position is its place, from 1.
    log: Vec<String>,
    /// The checkpoints, by key. They are all of one total.
    rows: BTreeMap<u32, Row>,
    /// The total, from the first claim on.
    total: u32,
    /// In the order in which they were committed: which events.
    applied: Vec<usize>,
    /// Batches of frozen workers.
    frozen: Vec<Batch>,
}

impl Model {
    /// Claims a partition, and applies so many of its events, up to but not with the commit.
    fn read(&mut self, key: u32, events: usize, passes: bool) -> Batch {
        let partition = Partition::new(key % self.total, self.total).unwrap();
        let row = self.rows.entry(partition.key()).or_insert_with(|| Row {
            partition,
            position: Position::START,
            lineage: Lineage::default(),
            epoch: 0,
            events_applied: 0,
        });
        row.epoch += 1;
        let from = row.position;
        let mut batch = Batch { partition, epoch: row.epoch, from, to: from, events: Vec::new() };
        for (at, aggregate) in self.log.iter().enumerate().skip(usize::try_from(from.get()).unwrap()) {
            let position = Position::new(at as u64 + 1);
            let mine = partition.owns(aggregate) && !row.lineage.is_done(aggregate, position);
            if batch.events.len() == events && (mine || !passes) {
                break;
            }
            if mine {
                batch.events.push(at);
            }
            batch.to = position;
        }
        batch
    }

    /// Commits, if the row is still as the batch found it.
    fn commit(&mut self, batch: &Batch) -> bool {
        let Some(row) = self
            .rows
            .get_mut(&batch.partition.key())
            .filter(|row| row.partition == batch.partition && row.epoch == batch.epoch && row.position == batch.from)
        else {
            return false;
        };
        row.position = batch.to;
        row.events_applied += batch.events.len() as u64;
        if row.position >= row.lineage.until() {
            row.lineage = Lineage::default();
        }
        self.applied.extend(&batch.events);
        true
    }

    /// Does a step.
    fn take(&mut self, step: Step) {
        match step {
            Step::Work { key, events, passes } => {
                let batch = self.read(key, events, passes);
                assert!(self.commit(&batch), "nobody else has claimed since: {batch:?}");
            }
            Step::Crash { key, events } => drop(self.read(key, events, true)),
            Step::Freeze { key, events } => {
                let batch = self.read(key, events, true);
                self.frozen.push(batch);
            }
            Step::Thaw => {
                for batch in std::mem::take(&mut self.frozen) {
                    self.commit(&batch);
                }
            }
            Step::Append { aggregates } => {
                self.log.extend(aggregates.iter().map(|number| format!("aggregate-{number}")))
            }
            Step::Rescale { total } if total == self.total || self.rows.is_empty() => self.total = total,
            Step::Rescale { total } => {
                let rows: Vec<Row> = self.rows.values().cloned().collect();
                let rows = rescale(&rows, total);
                self.rows = rows.into_iter().map(|row| (row.partition.key(), row)).collect();
                self.total = total;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn however_it_is_scaled_every_event_is_applied_once_and_in_the_order_of_its_aggregate(
        aggregates in prop::collection::vec(0..20_u8, 0..60),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut model = Model { total: 2, ..Model::default() };
        model.take(Step::Append { aggregates });
        for step in steps {
            model.take(step);
        }
        for key in 0..model.total {
            model.take(Step::Work { key, events: usize::MAX, passes: true });
        }
        let mut sorted = model.applied.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..model.log.len()).collect::<Vec<_>>(), "each event once");
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for event in &model.applied {
            let before = last.insert(&model.log[*event], *event);
            prop_assert!(before.is_none_or(|before| before < *event), "{event} after {before:?}");
        }
        let counted: u64 = model.rows.values().map(|row| row.events_applied).sum();
        prop_assert_eq!(counted, model.log.len() as u64);
        prop_assert!(model.rows.values().all(|row| row.lineage.is_empty()), "no facts are left when all is done");
    }
}
