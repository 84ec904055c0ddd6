//! The rules of an append, without a database: which events are new, and which version each gets.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::{AppendError, Appended, Duplicates, Placement};
use crate::event::{ExpectedVersion, NewEvent, Position};

/// Which aggregate. Its order is the one in which all appenders take the heads, so that two of them never wait
/// for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Aggregate<'a> {
    /// The bounded context.
    pub(super) context: &'a str,
    /// The kind of aggregate.
    pub(super) kind: &'a str,
    /// Which of that kind.
    pub(super) id: &'a str,
}

impl<'a> Aggregate<'a> {
    /// That of an event.
    pub(super) fn of(event: &'a NewEvent) -> Self {
        Self { context: &event.bounded_context, kind: &event.aggregate_type, id: &event.aggregate_id }
    }

    /// What to call it in messages.
    pub(super) fn name(&self) -> String {
        let Self { context, kind, id } = self;
        if *context == crate::event::DEFAULT_CONTEXT {
            format!("{kind} {id}")
        } else {
            format!("{kind} {id} in {context}")
        }
    }
}

/// The events of an append that are not in the log, before their versions are known.
pub(super) struct Fresh<'a> {
    /// Those events.
    pub(super) events: Vec<&'a NewEvent>,
    /// For every event of the append whether it is one of them.
    is_fresh: Vec<bool>,
}

/// Leaves out what is stored already.
///
/// # Errors
/// When an id is taken and `duplicates` refuses that, when expected version and aggregates do not go together,
/// or when an event is none.
pub(super) fn fresh<'a>(
    events: &'a [NewEvent],
    expected: ExpectedVersion,
    duplicates: Duplicates,
    stored: &HashMap<Uuid, Position>,
) -> Result<Fresh<'a>, AppendError> {
    for event in events {
        event.check()?;
    }
    if expected != ExpectedVersion::Any
        && let Some(first) = events.first()
        && let Some(other) = events.iter().find(|event| Aggregate::of(event) != Aggregate::of(first))
    {
        let (one, other) = (Aggregate::of(first).name(), Aggregate::of(other).name());
        return Err(AppendError::SeveralAggregates { expected, one, other });
    }
    let mut seen = HashSet::with_capacity(events.len());
    let mut fresh = Fresh { events: Vec::with_capacity(events.len()), is_fresh: Vec::with_capacity(events.len()) };
    for event in events {
        let event_id = event.event_id;
        let (first, position) = (seen.insert(event_id), stored.get(&event_id));
        match (duplicates, first, position) {
            (_, true, None) => fresh.events.push(event),
            (Duplicates::Skip, ..) => {}
            (Duplicates::Refuse, _, Some(&position)) => {
                return Err(AppendError::DuplicateEventId { event_id, position });
            }
            (Duplicates::Refuse, false, None) => return Err(AppendError::RepeatedEventId { event_id }),
        }
        fresh.is_fresh.push(first && position.is_none());
    }
    Ok(fresh)
}

impl<'a> Fresh<'a> {
    /// The aggregates of these events, in their order.
    pub(super) fn aggregates(&self) -> Vec<Aggregate<'a>> {
        let mut aggregates: Vec<_> = self.events.iter().map(|event| Aggregate::of(event)).collect();
        aggregates.sort_unstable();
        aggregates.dedup();
        aggregates
    }

    /// Gives each event its version, given the heads of all its aggregates, which are then moved on.
    ///
    /// # Errors
    /// When the aggregate is not at the expected version.
    pub(super) fn number(
        &self,
        expected: ExpectedVersion,
        heads: &mut BTreeMap<Aggregate<'a>, u64>,
    ) -> Result<Vec<u64>, AppendError> {
        if let (false, Some((aggregate, &found))) = (expected == ExpectedVersion::Any, heads.first_key_value()) {
            let wanted = match expected {
                ExpectedVersion::Exactly(version) => version,
                ExpectedVersion::Any | ExpectedVersion::NoStream => 0,
            };
            if found != wanted {
                return Err(AppendError::VersionConflict { aggregate: aggregate.name(), expected, found });
            }
        }
        Ok(self
            .events
            .iter()
            .map(|event| {
                let head = heads.entry(Aggregate::of(event)).or_insert(0);
                *head += 1;
                *head
            })
            .collect())
    }

    /// What the append did, given where its fresh events went.
    pub(super) fn appended(&self, placed: impl IntoIterator<Item = (Position, u64)>) -> Appended {
        let mut placed = placed.into_iter();
        let place = |is_fresh: &bool| {
            let stored = if *is_fresh { placed.next() } else { None };
            stored.map_or(Placement::Skipped, |(position, version)| Placement::Stored { position, version })
        };
        Appended { placements: self.is_fresh.iter().map(place).collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::append::tests::event;

    /// What is stored and what is expected; gives the versions.
    fn numbered(events: &[NewEvent], head: u64, expected: ExpectedVersion) -> Result<Vec<u64>, AppendError> {
        let fresh = fresh(events, expected, Duplicates::Refuse, &HashMap::new())?;
        let mut heads = fresh.aggregates().into_iter().map(|aggregate| (aggregate, head)).collect();
        fresh.number(expected, &mut heads)
    }

    #[test]
    fn versions_go_on_from_the_head_of_each_aggregate() {
        let events = [event(1, "a"), event(2, "b"), event(3, "a")];
        assert_eq!(numbered(&events, 0, ExpectedVersion::Any).unwrap(), [1, 1, 2]);
        assert_eq!(numbered(&events, 7, ExpectedVersion::Any).unwrap(), [8, 8, 9]);
    }

    #[test]
    fn a_conflict_says_what_was_expected_and_what_is_there() {
        let message = |head, expected| {
            numbered(&[event(1, "u1")], head, expected).map_err(|error| error.to_string()).unwrap_err()
        };
        assert_eq!(message(3, ExpectedVersion::NoStream), "User u1 is at version 3, and it was expected to have none");
        assert_eq!(message(3, ExpectedVersion::Exactly(2)), "User u1 is at version 3, and version 2 was expected");
        assert_eq!(message(0, ExpectedVersion::Exactly(2)), "User u1 has no events yet, and version 2 was expected");
        assert_eq!(numbered(&[event(1, "u1")], 2, ExpectedVersion::Exactly(2)).unwrap(), [3]);
    }

    #[test]
    fn an_expected_version_is_that_of_one_aggregate() {
        let error = numbered(&[event(1, "a"), event(2, "b")], 0, ExpectedVersion::NoStream).unwrap_err();
        assert!(matches!(error, AppendError::SeveralAggregates { .. }), "{error}");
    }

    #[test]
    fn an_id_that_is_stored_or_repeated_is_refused_by_name() {
        let stored = HashMap::from([(event(1, "a").event_id, Position::new(9))]);
        let refuse = |events: &[NewEvent]| {
            fresh(events, ExpectedVersion::Any, Duplicates::Refuse, &stored).map(|_| ()).unwrap_err().to_string()
        };
        let id = event(1, "a").event_id;
        assert_eq!(refuse(&[event(1, "a")]), format!("event {id} is stored already, at position 9"));
        assert!(refuse(&[event(2, "a"), event(2, "b")]).contains("same id"));
    }

    proptest! {
        #[test]
        fn skipping_stores_each_new_id_once_and_leaves_no_hole_in_a_version(
            ids in prop::collection::vec((0_u8..20, 0_u8..4), 0..40), known in prop::collection::hash_set(0_u8..20, 0..10)
        ) {
            let events: Vec<_> = ids.iter().map(|(id, aggregate)| event(*id, &aggregate.to_string())).collect();
            let stored = known.iter().map(|id| (event(*id, "").event_id, Position::new(1))).collect();
            let fresh = fresh(&events, ExpectedVersion::Any, Duplicates::Skip, &stored).unwrap();
            let wanted: HashSet<_> = ids.iter().map(|(id, _)| *id).filter(|id| !known.contains(id)).collect();
            prop_assert_eq!(fresh.events.len(), wanted.len());

            let mut heads = fresh.aggregates().into_iter().map(|aggregate| (aggregate, 0)).collect();
            let versions = fresh.number(ExpectedVersion::Any, &mut heads).unwrap();
            for (aggregate, head) in heads {
                let of_it: Vec<_> = fresh.events.iter().zip(&versions)
                    .filter(|(event, _)| Aggregate::of(event) == aggregate).map(|(_, version)| *version).collect();
                prop_assert_eq!(of_it, (1..=head).collect::<Vec<_>>());
            }
            let appended = fresh.appended(versions.iter().map(|version| (Position::new(1), *version)));
            prop_assert_eq!(appended.placements.len(), events.len());
            prop_assert_eq!(appended.stored(), wanted.len());
        }
    }
}
