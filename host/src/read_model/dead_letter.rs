//! What becomes of an event that cannot be applied: a dead letter, written in the transaction that passes over it.
//!
//! A parked aggregate stays parked, whoever works on it: its later events follow it, in order, so that none is
//! applied on top of one that is missing.

use fnv::FnvHashSet;

pub use crate::event::Aggregate;
use crate::event::Event;

/// Why an event is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It failed; its aggregate is parked.
    Poison,
    /// Its aggregate is parked.
    Behind,
    /// It failed, and its aggregate goes on without it.
    Skipped,
}

impl Reason {
    /// As the databases store it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::Behind => "behind",
            Self::Skipped => "skipped",
        }
    }

    /// From the column that stores it, which the databases keep to these three.
    pub(super) fn stored(reason: &str) -> Self {
        match reason {
            "behind" => Self::Behind,
            "skipped" => Self::Skipped,
            _ => Self::Poison,
        }
    }
}

/// An event that was not applied.
#[derive(Debug)]
pub struct DeadLetter<'event> {
    /// The event.
    pub event: &'event Event,
    /// Why.
    pub reason: Reason,
    /// What went wrong.
    pub error: &'event str,
    /// How often it was tried.
    pub attempts: u32,
}

/// The aggregates that are parked, as a worker keeps them.
#[derive(Clone, Debug, Default)]
pub struct Parked(FnvHashSet<Aggregate>);

impl Parked {
    /// Whether this event has to follow its aggregate. Costs nothing while nothing is parked.
    #[must_use]
    pub fn holds(&self, event: &Event) -> bool {
        !self.0.is_empty() && self.0.contains(&Aggregate::of(event))
    }

    /// Whether nothing is parked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parks an aggregate.
    pub fn park(&mut self, aggregate: Aggregate) {
        self.0.insert(aggregate);
    }

    /// Lets an aggregate's events through again.
    pub fn release(&mut self, aggregate: &Aggregate) {
        self.0.remove(aggregate);
    }
}

impl FromIterator<Aggregate> for Parked {
    fn from_iter<I: IntoIterator<Item = Aggregate>>(aggregates: I) -> Self {
        Self(aggregates.into_iter().collect())
    }
}
