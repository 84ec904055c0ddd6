//! What the operator lets projections see, whatever they describe themselves: aggregates of some types only, payloads
//! without some fields, and tables that are not their own.
//!
//! Types narrow the projection's own description when it is loaded, so that every reader of it (workers, replays of
//! dead letters, rebuilds) goes by the same filter. Fields are taken out by a [`Redaction`] on the one way that an event has into a guest, [`super::Instance::handle`].

use std::sync::Arc;

use super::descriptor::{Descriptor, Printable};
use super::redaction::{FieldPath, Redaction};
use crate::read_model::grants::Grant;
use crate::read_model::isolation::Isolation;

/// Something that is set for all projections, or for one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressed<T> {
    /// The name it runs under; nothing for all.
    pub projection: Option<String>,
    /// What is set.
    pub value: T,
}

impl<T> Addressed<T> {
    /// What is set, if it is for this projection.
    fn of(&self, projection: &str) -> Option<&T> {
        self.projection.as_deref().is_none_or(|name| name == projection).then_some(&self.value)
    }
}

/// What the operator lets projections see.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Aggregates of these types only.
    pub only_aggregate_types: Vec<Addressed<String>>,
    /// Payloads without these fields.
    pub redacted_fields: Vec<Addressed<FieldPath>>,
    /// Tables that are not the projection's own.
    pub grants: Vec<Addressed<Grant>>,
    /// Whose session its SQL runs in.
    pub isolations: Vec<Addressed<Isolation>>,
}

/// A filter that leaves a projection nothing to see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{projection} would see no event: it wants aggregates of type {}, and --only-aggregate-type lets it see {}",
    Printable::list(described),
    allowed.join(", ")
)]
pub struct NothingLeft {
    /// Which projection.
    pub projection: String,
    /// What it wants.
    pub described: Vec<String>,
    /// What it may see.
    pub allowed: Vec<String>,
}

impl Filters {
    /// Leaves of what a projection wants what it may see.
    ///
    /// # Errors
    /// When that is nothing. An empty list would mean all.
    pub fn narrow(&self, descriptor: &mut Descriptor) -> Result<(), NothingLeft> {
        let allowed = self.only_aggregate_types.iter().filter_map(|only| only.of(&descriptor.name).cloned());
        let allowed: Vec<String> = allowed.collect();
        if allowed.is_empty() {
            return Ok(());
        }
        let wanted = &mut descriptor.aggregate_types;
        if wanted.is_empty() {
            *wanted = allowed;
        } else if wanted.iter().any(|of| allowed.contains(of)) {
            wanted.retain(|of| allowed.contains(of));
        } else {
            let (projection, described) = (descriptor.name.clone(), wanted.clone());
            return Err(NothingLeft { projection, described, allowed });
        }
        Ok(())
    }

    /// What a projection may not see of payloads.
    #[must_use]
    pub fn redaction_of(&self, projection: &str) -> Option<Arc<Redaction>> {
        let fields = self.redacted_fields.iter().filter_map(|field| field.of(projection).cloned());
        Redaction::of(fields.collect()).map(Arc::new)
    }

    /// What a projection may read besides its own tables.
    #[must_use]
    pub fn grants_of(&self, projection: &str) -> Vec<Grant> {
        self.grants.iter().filter_map(|grant| grant.of(projection).cloned()).collect()
    }

    /// Whose session a projection's SQL runs in. What is said of it by name counts, and else the last that is said of all.
    #[must_use]
    pub fn isolation_of(&self, projection: &str) -> Isolation {
        let said = self.isolations.iter().filter(|isolation| isolation.of(projection).is_some());
        said.max_by_key(|isolation| isolation.projection.is_some()).map_or_else(Isolation::default, |said| said.value)
    }

    /// A name that one of these is for, and that none of these projections has, with the option that says so.
    #[must_use]
    pub fn stranger(&self, projections: &[&str]) -> Option<(&'static str, &str)> {
        fn named<'a, T>(
            option: &'static str,
            list: &'a [Addressed<T>],
        ) -> impl Iterator<Item = (&'static str, &'a str)> {
            list.iter().filter_map(move |one| one.projection.as_deref().map(|name| (option, name)))
        }
        let mut all = named("--only-aggregate-type", &self.only_aggregate_types)
            .chain(named("--redact-payload", &self.redacted_fields))
            .chain(named("--isolation", &self.isolations))
            .chain(named("--grant-read", &self.grants));
        all.find(|(_, name)| !projections.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A projection `x` that wants these.
    fn wants(aggregate_types: &[&str]) -> Descriptor {
        Descriptor {
            name: "x".into(),
            version: 1,
            event_types: vec![],
            aggregate_types: aggregate_types.iter().map(|of| (*of).to_owned()).collect(),
            bounded_contexts: vec![],
        }
    }

    /// Filters with these types, for all or for one.
    fn only(types: &[(Option<&str>, &str)]) -> Filters {
        let addressed = |(name, value): &(Option<&str>, &str)| Addressed {
            projection: name.map(str::to_owned),
            value: (*value).to_owned(),
        };
        Filters { only_aggregate_types: types.iter().map(addressed).collect(), ..Filters::default() }
    }

    /// What is left.
    fn left(filters: &Filters, wanted: &[&str]) -> Result<Vec<String>, NothingLeft> {
        let mut descriptor = wants(wanted);
        filters.narrow(&mut descriptor).map(|()| descriptor.aggregate_types)
    }

    #[test]
    fn a_projection_sees_what_it_wants_and_may() {
        let filters = only(&[(None, "A"), (Some("x"), "B"), (Some("y"), "C")]);
        assert_eq!(left(&filters, &[]).unwrap(), ["A", "B"], "who wants all gets what it may");
        assert_eq!(left(&filters, &["B", "C"]).unwrap(), ["B"]);
        assert_eq!(left(&only(&[(Some("y"), "C")]), &[]).unwrap(), [""; 0], "what is for another changes nothing");
        let error = left(&filters, &["C", "D"]).unwrap_err().to_string();
        let expected =
            "x would see no event: it wants aggregates of type C, D, and --only-aggregate-type lets it see A, B";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_filter_for_nobody_is_found() {
        let filters = only(&[(None, "A"), (Some("x"), "B"), (Some("z"), "C")]);
        assert_eq!(filters.stranger(&["x", "y"]), Some(("--only-aggregate-type", "z")));
        assert_eq!(filters.stranger(&["x", "z"]), None);
    }
}
