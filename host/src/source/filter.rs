//! Which events somebody wants.

use crate::event::{Aggregate, Event};

/// What a projection says it wants, in three lists; an event has to be in each. Empty is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// What happened.
    pub event_types: Vec<String>,
    /// Kinds of aggregates.
    pub aggregate_types: Vec<String>,
    /// Bounded contexts.
    pub bounded_contexts: Vec<String>,
}

impl Filter {
    /// Whether it takes an event.
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        let among = |list: &[String], value: &String| list.is_empty() || list.contains(value);
        among(&self.event_types, &event.event_type)
            && among(&self.aggregate_types, &event.aggregate_type)
            && among(&self.bounded_contexts, &event.bounded_context)
    }

    /// Whether whatever `other` takes is taken by this one, too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.lists()
            .iter()
            .zip(other.lists())
            .all(|(all, some)| all.is_empty() || (!some.is_empty() && some.iter().all(|value| all.contains(value))))
    }

    /// Takes whatever `other` takes as well, and perhaps more: types of the one in contexts of the other.
    pub fn widen(&mut self, other: &Self) {
        for (all, some) in [
            (&mut self.event_types, &other.event_types),
            (&mut self.aggregate_types, &other.aggregate_types),
            (&mut self.bounded_contexts, &other.bounded_contexts),
        ] {
            if all.is_empty() || some.is_empty() {
                all.clear();
            } else {
                let more = some.iter().filter(|value| !all.contains(value)).cloned().collect::<Vec<_>>();
                all.extend(more);
            }
        }
    }

    /// The three lists.
    fn lists(&self) -> [&Vec<String>; 3] {
        [&self.event_types, &self.aggregate_types, &self.bounded_contexts]
    }
}

/// What is asked of a database.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// By type and context.
    pub filter: Filter,
    /// Only of these aggregates; empty for all.
    pub aggregates: Vec<Aggregate>,
}

impl Wanted {
    /// Every event there is.
    #[must_use]
    pub fn everything() -> Self {
        Self::of(Filter::default())
    }

    /// Whatever a filter takes.
    #[must_use]
    pub fn of(filter: Filter) -> Self {
        Self { filter, aggregates: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter for some types of events.
    fn types(names: &[&str]) -> Filter {
        Filter { event_types: names.iter().map(|name| (*name).to_owned()).collect(), ..Filter::default() }
    }

    #[test]
    fn a_filter_covers_what_is_narrower() {
        let everything = Filter::default();
        assert!(everything.covers(&types(&["A"])));
        assert!(!types(&["A"]).covers(&everything), "it leaves out B");
        assert!(types(&["A", "B"]).covers(&types(&["B"])));
        assert!(!types(&["A"]).covers(&types(&["A", "B"])));
    }

    #[test]
    fn widened_it_covers_both() {
        let mut filter = types(&["A"]);
        filter.widen(&types(&["B", "A"]));
        assert_eq!(filter, types(&["A", "B"]));
        filter.widen(&Filter { aggregate_types: vec!["User".into()], ..types(&["A"]) });
        assert!(filter.covers(&types(&["A"])), "all kinds of aggregates, as the first wanted");
        filter.widen(&Filter::default());
        assert_eq!(filter, Filter::default());
    }
}
