//! The horizon on Postgres: how far the log may be read without losing an event that commits late.
//!
//! Postgres hands out `global_position` while the writer's transaction still runs, so a lower position can
//! become visible after a higher one was read. A reader that goes by `position > checkpoint` alone never comes
//! back for it. The horizon `H` is a position such that everything at or below it is visible or will never be.
//!
//! It moves in two ways ([`Tracker::step`] is pure, so that a test can drive it; the queries are its caller's):
//!
//! 1. Let `M` be the greatest visible position. If the visible rows between `H` and `M` number `M − H`, there is
//!    no hole, and `H := M`.
//! 2. Else let `V` be the transactions that hold RowExclusiveLock on the events table, read *after* `M`. An
//!    INSERT takes that lock before it draws its position, and positions are drawn in order. So whoever may still
//!    fill a hole below `M` drew before `M` was drawn, hence locked before `M` was visible, hence is in `V` or has
//!    ended. When all of `V` have ended, `H := M`, and the holes that remain are dead: rolled back.
//!
//! `V` is fixed when the wait begins, so writers that come later cannot keep the horizon back.
//!
//! A transaction that is *prepared* (two-phase commit) goes on holding its lock. Current servers show it under its
//! old virtual id; older ones (before 14.1, 13.5, …), and all after a restart, under another (`-1/…`). So when an id
//! vanishes, every prepared transaction that was not in `V` from the beginning may be it, and is waited for as well;
//! also one that was seen beside the id before, because pg_locks reads its two halves one after the other and can
//! show a transaction under both ids. A prepared id can only end, so this adds to the wait at most once for each of
//! `V`, and a steady stream of two-phase commits does not starve it.
//!
//! A sequence with CACHE above 1 hands positions to sessions in blocks, out of order, and breaks the argument;
//! [`super::postgres`] refuses it. So does a writer that draws positions before it inserts, with a `nextval` of
//! its own; that cannot be seen from here.

use std::collections::BTreeSet;

use crate::event::Position;

/// A virtual transaction id as pg_locks shows it: `3/1871`, or `-1/742` for a prepared one that got another.
pub type VirtualId = String;

/// What one look at the database showed: first the rows, then, in a later statement, the locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The greatest visible position, `M`; the horizon itself when nothing stands behind it.
    pub last: Position,
    /// How many rows are visible behind the horizon and not behind `last`.
    pub rows: u64,
    /// Who holds the lock; `None` when it was not asked because `rows` leaves no hole.
    pub writers: Option<BTreeSet<VirtualId>>,
}

/// Waiting for writers to end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wait {
    /// Where the horizon goes when they have.
    goal: Position,
    /// Who is still waited for.
    pending: BTreeSet<VirtualId>,
    /// `V` as it was when the wait began: a prepared transaction that is not in it may be one of `V` under its
    /// new id.
    at_first: BTreeSet<VirtualId>,
}

/// Moves the horizon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracker {
    /// Everything at or below is visible or never will be.
    horizon: Position,
    /// Who is waited for, when there are holes.
    wait: Option<Wait>,
}

/// Whether this is a prepared transaction.
fn is_prepared(id: &VirtualId) -> bool {
    id.starts_with("-1/")
}

impl Default for Tracker {
    fn default() -> Self {
        Self { horizon: Position::START, wait: None }
    }
}

impl Tracker {
    /// Where it stands.
    #[must_use]
    pub fn horizon(&self) -> Position {
        self.horizon
    }

    /// Whether rows between the horizon and `last` leave a hole, so that the writers have to be asked for.
    ///
    /// At the very start every log has an unknown number of holes behind it, and counting all its rows costs
    /// more than asking for the writers once; so there, everything counts as a hole.
    #[must_use]
    pub fn has_holes(&self, last: Position, rows: u64) -> bool {
        last > self.horizon && (self.horizon == Position::START || rows < last.get() - self.horizon.get())
    }

    /// Moves the horizon as far as this look allows.
    pub fn step(&mut self, look: &Look) -> Position {
        let Some(writers) = &look.writers else {
            if look.last > self.horizon {
                self.horizon = look.last;
                self.wait = None;
            }
            return self.horizon;
        };
        if let Some(wait) = &mut self.wait {
            let may_have_prepared = wait.pending.iter().any(|id| !is_prepared(id) && !writers.contains(id));
            wait.pending.retain(|id| writers.contains(id));
            if may_have_prepared {
                let successors = writers.iter().filter(|id| is_prepared(id) && !wait.at_first.contains(*id));
                wait.pending.extend(successors.cloned());
            }
            if wait.pending.is_empty() {
                self.horizon = self.horizon.max(wait.goal);
                self.wait = None;
            }
        }
        if self.wait.is_none() && look.last > self.horizon {
            if writers.is_empty() {
                self.horizon = look.last;
            } else {
                self.wait = Some(Wait { goal: look.last, pending: writers.clone(), at_first: writers.clone() });
            }
        }
        self.horizon
    }

    /// Whether a hole below the last position keeps it back.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.wait.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look that asked for writers.
    fn look(last: u64, rows: u64, writers: &[&str]) -> Look {
        Look { last: Position::new(last), rows, writers: Some(writers.iter().map(|id| (*id).to_owned()).collect()) }
    }

    /// A tracker that has come to `horizon`.
    fn at(horizon: u64) -> Tracker {
        Tracker { horizon: Position::new(horizon), wait: None }
    }

    #[test]
    fn without_holes_it_moves_at_once() {
        let mut tracker = at(10);
        assert!(!tracker.has_holes(Position::new(15), 5));
        assert_eq!(tracker.step(&Look { last: Position::new(15), rows: 5, writers: None }).get(), 15);
    }

    #[test]
    fn with_a_hole_it_waits_for_everyone_who_may_fill_it() {
        let mut tracker = at(10);
        assert!(tracker.has_holes(Position::new(15), 4));
        assert_eq!(tracker.step(&look(15, 4, &["3/1", "4/1"])).get(), 10);
        assert_eq!(tracker.step(&look(16, 5, &["4/1", "5/9"])).get(), 10, "4/1 still runs");
        assert_eq!(tracker.step(&look(17, 6, &["5/9"])).get(), 15, "5/9 came later, and cannot keep it back");
    }

    #[test]
    fn a_writer_that_prepares_is_waited_for_under_its_new_id() {
        let mut tracker = at(10);
        tracker.step(&look(15, 4, &["3/1", "-1/50"]));
        assert_eq!(tracker.step(&look(15, 4, &["-1/50", "-1/77"])).get(), 10, "3/1 may be -1/77 now");
        assert_eq!(tracker.step(&look(15, 4, &["-1/77"])).get(), 10);
        assert_eq!(tracker.step(&look(15, 4, &[])).get(), 15);
    }

    #[test]
    fn a_transaction_seen_under_both_its_ids_at_once_is_waited_for() {
        let mut tracker = at(10);
        tracker.step(&look(15, 4, &["3/1"]));
        tracker.step(&look(15, 4, &["3/1", "-1/77"]));
        assert_eq!(tracker.step(&look(15, 4, &["-1/77"])).get(), 10);
        assert_eq!(tracker.step(&look(15, 4, &[])).get(), 15);
    }

    #[test]
    fn a_stream_of_two_phase_commits_does_not_keep_it_back_for_ever() {
        let mut tracker = at(10);
        tracker.step(&look(15, 4, &["3/1"]));
        assert_eq!(tracker.step(&look(15, 4, &["-1/77"])).get(), 10);
        assert_eq!(tracker.step(&look(15, 4, &["-1/78"])).get(), 15, "-1/77 ended; -1/78 came later");
    }

    #[test]
    fn at_the_start_it_asks_for_writers_once_instead_of_counting() {
        let mut tracker = Tracker::default();
        assert!(tracker.has_holes(Position::new(3), 3));
        assert_eq!(tracker.step(&look(5_000_000, 0, &[])).get(), 5_000_000);
    }
}
