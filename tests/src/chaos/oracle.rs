//! The independent oracle: what the projections should hold, from the events table alone, against what they hold.
//!
//! It knows nothing of checkpoints, epochs or partitions. Of each event that a projection wants, it asks: was it
//! applied once, after the earlier ones of its aggregate and before the later ones? Or is it a dead letter, and with it
//! every later one of its aggregate?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use super::report::Verdict;
use crate::{Kind, Setup};

/// How many offenders are told of in full.
const TOLD: usize = 12;

/// An event as it stands in the table.
#[derive(Clone, Debug)]
struct Stored {
    /// Context, type and id of its aggregate.
    aggregate: String,
    /// Its version.
    version: u64,
    /// What it adds to its aggregate's total.
    amount: i64,
    /// How it fails, if it does.
    poison: Option<String>,
}

/// An event that was applied.
#[derive(Clone, Debug)]
struct Application {
    /// Its number in the order of applications.
    number: u64,
    /// The event's position.
    position: u64,
    /// The aggregate, as the projection saw it.
    aggregate: String,
    /// The version, as the projection saw it.
    version: u64,
    /// The build that applied it.
    build: String,
}

/// The events that a projection wants, by position.
#[derive(Clone, Debug)]
pub struct Events {
    /// Those that are wanted.
    wanted: BTreeMap<u64, Stored>,
    /// How many there are of all types.
    pub all: u64,
}

impl Events {
    /// Reads the events table.
    #[must_use]
    pub fn read(setup: &Setup) -> Self {
        let payload = match setup.source().kind() {
            Kind::Postgres => "convert_from(payload, 'UTF8')",
            Kind::Sqlite => "CAST(payload AS TEXT)",
        };
        let sql = format!(
            "SELECT global_position, bounded_context || '/' || aggregate_type || '/' || aggregate_id, aggregate_version,
                    event_type, {payload} FROM events ORDER BY global_position"
        );
        let rows = setup.connect().rows(&sql);
        let all = rows.len() as u64;
        let stored = |row: Vec<String>| {
            let payload: Value = serde_json::from_str(&row[4]).expect("a payload in JSON");
            let poison = payload["poison"].as_str().map(str::to_owned);
            let amount = payload["amount"].as_i64().unwrap_or(0);
            (number(&row[0]), Stored { aggregate: row[1].clone(), version: number(&row[2]), amount, poison })
        };
        let wanted = rows.into_iter().filter(|row| row[3] == "Recorded").map(stored).collect();
        Self { wanted, all }
    }

    /// How many are wanted.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted.len() as u64
    }

    /// How many of those are poison.
    #[must_use]
    pub fn poison(&self) -> u64 {
        self.wanted.values().filter(|event| event.poison.is_some()).count() as u64
    }
}

/// What a projection holds.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// Its name.
    projection: String,
    /// What it has applied, in order.
    applications: Vec<Application>,
    /// Its totals, by aggregate: events and their amounts.
    totals: BTreeMap<String, (u64, i64)>,
    /// Its dead letters, by position: aggregate and reason.
    letters: BTreeMap<u64, (String, String)>,
}

impl Holdings {
    /// Reads a projection's tables.
    #[must_use]
    pub fn read(setup: &Setup, projection: &str) -> Self {
        let rows = |sql: &str| setup.rows(projection, sql);
        let applications =
            rows("SELECT application, position, aggregate, version, build FROM chronicle ORDER BY application");
        let application = |row: Vec<String>| Application {
            number: number(&row[0]),
            position: number(&row[1]),
            aggregate: row[2].clone(),
            version: number(&row[3]),
            build: row[4].clone(),
        };
        let total = |row: Vec<String>| {
            let amount = row[2].parse().expect("a total");
            (row[0].clone(), (number(&row[1]), amount))
        };
        let letters = format!(
            "SELECT global_position, bounded_context || '/' || aggregate_type || '/' || aggregate_id, reason
             FROM {} WHERE projection = '{projection}'",
            setup.own_table("dead_letters")
        );
        Self {
            projection: projection.to_owned(),
            applications: applications.into_iter().map(application).collect(),
            totals: rows("SELECT aggregate, events, amount FROM totals").into_iter().map(total).collect(),
            letters: rows(&letters)
                .into_iter()
                .map(|row| (number(&row[0]), (row[1].clone(), row[2].clone())))
                .collect(),
        }
    }

    /// How many dead letters it has.
    #[must_use]
    pub fn letters(&self) -> u64 {
        self.letters.len() as u64
    }

    /// How many of its events each build of the plugin has applied.
    #[must_use]
    pub fn builds(&self) -> BTreeMap<&str, u64> {
        let mut builds = BTreeMap::new();
        for application in &self.applications {
            *builds.entry(application.build.as_str()).or_default() += 1;
        }
        builds
    }

    /// Judges it by the events there are.
    pub fn judge(&self, events: &Events, verdict: &mut Verdict) {
        verdict.applications += self.applications.len() as u64;
        verdict.letters += self.letters();
        let mut bench = Bench { holdings: self, events, offenders: &mut verdict.offenders };
        let (mut applied, mut doubled) = (BTreeSet::new(), BTreeSet::new());
        let mut last: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for application in &self.applications {
            let Application { position, aggregate, version, .. } = application;
            let known = events.wanted.get(position);
            if known.is_none_or(|event| event.aggregate != *aggregate || event.version != *version) {
                verdict.wrong += 1;
                bench.accuse(*position, "applied, but there is no such event");
                continue;
            }
            if !applied.insert(*position) {
                doubled.insert(*position);
                continue;
            }
            let before = last.insert(aggregate, (*position, *version));
            if before.is_some_and(|before| before.0 > *position || before.1 > *version) {
                verdict.out_of_order += 1;
                bench.accuse(*position, "applied after a later event of its aggregate");
            }
        }
        for position in self.letters.keys() {
            if applied.contains(position) {
                doubled.insert(*position);
            }
        }
        for position in &doubled {
            bench.accuse(*position, "applied more than once, or applied and parked");
        }
        verdict.doubled += doubled.len() as u64;
        for position in events.wanted.keys() {
            if !applied.contains(position) && !self.letters.contains_key(position) {
                verdict.lost += 1;
                bench.accuse(*position, "neither applied nor parked");
            }
        }
        verdict.wrong += bench.letters(&last);
        verdict.wrong += bench.totals(&applied);
    }
}

/// Where offenders are told of.
struct Bench<'case> {
    /// What the projection holds.
    holdings: &'case Holdings,
    /// What there is.
    events: &'case Events,
    /// Who is told of.
    offenders: &'case mut Vec<String>,
}

impl Bench<'_> {
    /// That dead letters are those that they have to be: the first of an aggregate is poison, and none of its later
    /// events was applied. Gives how many are not.
    fn letters(&mut self, last: &BTreeMap<&str, (u64, u64)>) -> u64 {
        let mut first: BTreeMap<&str, u64> = BTreeMap::new();
        for (position, (aggregate, _)) in &self.holdings.letters {
            first.entry(aggregate.as_str()).or_insert(*position);
        }
        let mut wrong = 0;
        for (position, (aggregate, reason)) in &self.holdings.letters {
            let poison = self.events.wanted.get(position).is_some_and(|event| event.poison.is_some());
            let is_first = first.get(aggregate.as_str()) == Some(position);
            let problem = match reason.as_str() {
                "poison" if !poison => "parked as poison, which it is not",
                "behind" if is_first => "parked behind an event that is not parked",
                "poison" | "behind" => match last.get(aggregate.as_str()) {
                    Some((applied, _)) if applied > position => {
                        "parked, and a later event of its aggregate was applied"
                    }
                    _ => continue,
                },
                _ => "a dead letter of a kind that nobody asked for",
            };
            wrong += 1;
            self.accuse(*position, problem);
        }
        wrong
    }

    /// That each total is that of the events which were applied. Gives how many are not.
    fn totals(&mut self, applied: &BTreeSet<u64>) -> u64 {
        let mut expected: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        for (_, event) in self.events.wanted.iter().filter(|(position, _)| applied.contains(position)) {
            let total = expected.entry(event.aggregate.clone()).or_default();
            *total = (total.0 + 1, total.1 + event.amount);
        }
        let totals = &self.holdings.totals;
        let aggregates: BTreeSet<&String> = expected.keys().chain(totals.keys()).collect();
        let wrong: Vec<String> = aggregates
            .into_iter()
            .filter(|aggregate| expected.get(*aggregate) != totals.get(*aggregate))
            .map(|aggregate| {
                let (should, is) = (expected.get(aggregate), totals.get(aggregate));
                format!("{}: the total of {aggregate} is {is:?}, not {should:?}", self.holdings.projection)
            })
            .collect();
        let count = wrong.len() as u64;
        self.offenders.extend(wrong.into_iter().take(TOLD));
        count
    }

    /// Tells of an event and its neighbours.
    fn accuse(&mut self, position: u64, problem: &str) {
        if self.offenders.len() >= TOLD {
            return;
        }
        let Holdings { projection, applications, letters, .. } = self.holdings;
        let event = self.events.wanted.get(&position);
        let mut told = format!("{projection}: event {position}: {problem}\n    it is {event:?}");
        for application in applications.iter().filter(|application| application.position == position) {
            write!(told, "\n    applied: {application:?}").expect("a string takes it all");
        }
        if let Some(letter) = letters.get(&position) {
            write!(told, "\n    parked: {letter:?}").expect("a string takes it all");
        }
        if let Some(event) = event {
            let same = applications.iter().filter(|application| application.aggregate == event.aggregate);
            let near: Vec<_> = same.filter(|other| other.position.abs_diff(position) < 200).collect();
            let near: Vec<_> = near.iter().map(|other| format!("#{} {}", other.number, other.position)).collect();
            write!(told, "\n    applications of its aggregate around it: {}", near.join(", ")).expect("a string");
        }
        self.offenders.push(told);
    }
}

/// A number that a database gave.
fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three events of one aggregate at 1, 2 and 4, and one of another at 3; the second is poison.
    fn events() -> Events {
        let event = |aggregate: &str, version, poison: Option<&str>| Stored {
            aggregate: aggregate.to_owned(),
            version,
            amount: 10,
            poison: poison.map(str::to_owned),
        };
        let wanted = [
            (1, event("a", 1, None)),
            (2, event("a", 2, Some("sql"))),
            (3, event("b", 1, None)),
            (4, event("a", 3, None)),
        ];
        Events { wanted: wanted.into(), all: 4 }
    }

    /// What it says of these applications (position, aggregate, version) and letters.
    fn verdict(applied: &[(u64, &str, u64)], letters: &[(u64, &str)], totals: &[(&str, u64, i64)]) -> [u64; 4] {
        let applications = applied.iter().zip(1..).map(|((position, aggregate, version), number)| Application {
            number,
            position: *position,
            aggregate: (*aggregate).to_owned(),
            version: *version,
            build: String::new(),
        });
        let holdings = Holdings {
            projection: "p".to_owned(),
            applications: applications.collect(),
            totals: totals.iter().map(|(name, events, amount)| ((*name).to_owned(), (*events, *amount))).collect(),
            letters: letters.iter().map(|(at, reason)| (*at, ("a".to_owned(), (*reason).to_owned()))).collect(),
        };
        let mut verdict = Verdict::default();
        holdings.judge(&events(), &mut verdict);
        assert_eq!(verdict.is_clean(), verdict.offenders.is_empty(), "{verdict:?}");
        [verdict.lost, verdict.doubled, verdict.out_of_order, verdict.wrong]
    }

    const ALL: [(u64, &str, u64); 4] = [(1, "a", 1), (3, "b", 1), (2, "a", 2), (4, "a", 3)];
    const TOTALS: [(&str, u64, i64); 2] = [("a", 3, 30), ("b", 1, 10)];

    #[test]
    fn what_is_applied_once_and_in_order_is_clean() {
        assert_eq!(verdict(&ALL, &[], &TOTALS), [0; 4]);
    }

    #[test]
    fn what_is_parked_behind_its_poison_is_clean() {
        let totals = [("a", 1, 10), ("b", 1, 10)];
        assert_eq!(verdict(&ALL[..2], &[(2, "poison"), (4, "behind")], &totals), [0; 4]);
        assert_eq!(verdict(&ALL[..2], &[(2, "poison"), (4, "poison")], &totals)[3], 1, "4 is no poison");
        assert_eq!(verdict(&ALL[..2], &[(2, "poison")], &totals), [1, 0, 0, 0], "4 is lost");
        assert_eq!(verdict(&ALL, &[(2, "poison")], &TOTALS)[1], 1, "applied and parked");
    }

    #[test]
    fn losses_doubles_disorder_and_wrong_totals_are_told() {
        assert_eq!(verdict(&ALL[1..], &[], &[("a", 2, 20), ("b", 1, 10)]), [1, 0, 0, 0]);
        assert_eq!(verdict(&[&ALL[..], &ALL[..1]].concat(), &[], &TOTALS), [0, 1, 0, 0]);
        assert_eq!(verdict(&[ALL[1], ALL[2], ALL[0], ALL[3]], &[], &TOTALS), [0, 0, 1, 0]);
        assert_eq!(verdict(&ALL, &[], &[("a", 4, 40), ("b", 1, 10)]), [0, 0, 0, 1]);
        assert_eq!(verdict(&[&ALL[..], &[(9, "a", 9)]].concat(), &[], &TOTALS), [0, 0, 0, 1]);
    }
}
