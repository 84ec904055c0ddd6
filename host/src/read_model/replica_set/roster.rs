//! Who is in a replica set, and whose each slot is. No database, no clock: only the rules.
//!
//! Each projection has the same number of slots, and each of its slots belongs to one of the members that run it. A
//! **fair share** is what that number divided by them gives, one more or less. When somebody comes or goes, only those
//! slots move that must: the ones of who is gone, and what somebody has above a fair share.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Somebody who works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The process: its owner's name as in claims, `#`, and a number that no other process of that name has.
    pub name: String,
    /// Which projections it runs.
    pub projections: Vec<String>,
}

impl Member {
    /// What it calls itself in its claims.
    #[must_use]
    pub fn owner(&self) -> &str {
        owner_of(&self.name)
    }
}

/// What a member of this name calls itself in its claims.
#[must_use]
pub fn owner_of(name: &str) -> &str {
    name.rsplit_once('#').map_or(name, |(owner, _)| owner)
}

/// The members of a set and their slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// How many slots each projection has: the partitions of its checkpoints.
    pub slots: u32,
    /// Who works, in the order in which they came.
    pub members: Vec<Member>,
    /// Of each projection that somebody runs, whose each slot is.
    pub projections: BTreeMap<String, Vec<String>>,
}

/// What makes a roster another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Somebody comes; with a number of slots if it was told one.
    Joins(Member, Option<u32>),
    /// Somebody goes, as it was told to.
    Leaves(String),
    /// Somebody's process or connection has ended.
    Ended(String),
    /// Somebody gives no sign of life.
    Frozen(String),
}

/// The roster after some changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next {
    /// The roster.
    pub roster: Roster,
    /// Why it is another.
    pub reason: String,
    /// How many slots went from one member to another.
    pub moved: u32,
}

/// How many slots a projection has when nobody has said.
pub const SLOTS: u32 = 16;

impl Roster {
    /// Whether somebody of this name is in it.
    #[must_use]
    pub fn has(&self, member: &str) -> bool {
        self.members.iter().any(|other| other.name == member)
    }

    /// The slots of a member, of all projections.
    pub fn slots_of<'a>(&'a self, member: &'a str) -> impl Iterator<Item = (&'a str, u32)> {
        self.projections.iter().flat_map(move |(projection, slots)| {
            let mine = (0..).zip(slots).filter(move |(_, owner)| *owner == member);
            mine.map(move |(slot, _)| (&**projection, slot))
        })
    }

    /// The roster after these changes; nothing when they change nothing.
    #[must_use]
    pub fn after(&self, changes: &[Change]) -> Option<Next> {
        let (mut next, mut reason) = (self.clone(), String::new());
        for change in changes {
            let told = match change {
                Change::Joins(member, slots) => {
                    next.members.retain(|other| other.name != member.name);
                    next.members.push(member.clone());
                    let before = next.slots;
                    next.slots = slots.unwrap_or(if before == 0 { SLOTS } else { before });
                    match (before, next.slots) {
                        (0, slots) => format!("{} joined, with {slots} slots", member.name),
                        (before, slots) if before != slots => {
                            format!("{} joined, and changed {before} slots to {slots}", member.name)
                        }
                        _ => format!("{} joined", member.name),
                    }
                }
                Change::Leaves(name) if next.take_out(name) => format!("{name} left"),
                Change::Ended(name) if next.take_out(name) => format!("{name} ended"),
                Change::Frozen(name) if next.take_out(name) => format!("{name} gave no sign of life"),
                Change::Leaves(_) | Change::Ended(_) | Change::Frozen(_) => continue,
            };
            let separator = if reason.is_empty() { "" } else { "; " };
            // Writing into a `String` cannot fail.
            let _ = write!(reason, "{separator}{told}");
        }
        if reason.is_empty() {
            return None;
        }
        next.share_out(&self.projections);
        let moved = next.moved_since(&self.projections);
        Some(Next { roster: next, reason, moved })
    }

    /// Takes a member out; says whether it was in.
    fn take_out(&mut self, name: &str) -> bool {
        let before = self.members.len();
        self.members.retain(|member| member.name != name);
        self.members.len() < before
    }

    /// Gives each slot to somebody who runs its projection, moving as few as possible.
    fn share_out(&mut self, before: &BTreeMap<String, Vec<String>>) {
        let running: BTreeSet<&String> = self.members.iter().flat_map(|member| &member.projections).collect();
        let slots = self.slots as usize;
        // So that who has one more of one projection has not one more of each.
        let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
        let mut shared_out = BTreeMap::new();
        for projection in running {
            // Slots of another number are other slots.
            let before = before.get(projection).filter(|before| before.len() == slots).map_or(&[][..], Vec::as_slice);
            let has = |name: &str| before.iter().filter(|owner| *owner == name).count();
            let runs = self.members.iter().filter(|member| member.projections.contains(projection));
            let mut members: Vec<&str> = runs.map(|member| &*member.name).collect();
            // Who has most keeps one more, for then it moves nothing; then who has least of the other projections.
            members.sort_by_key(|name| (Reverse(has(name)), loads.get(name).copied().unwrap_or(0)));
            let (share, left) = (slots / members.len(), slots % members.len());
            let room = |(at, name): (usize, &&'_ str)| ((*name).to_owned(), share + usize::from(at < left));
            let mut rooms: BTreeMap<String, usize> = members.iter().enumerate().map(room).collect();
            let mut owners: Vec<Option<String>> = vec![None; slots];
            for (owner, before) in owners.iter_mut().zip(before) {
                if let Some(room) = rooms.get_mut(before).filter(|room| **room > 0) {
                    *room -= 1;
                    *owner = Some(before.clone());
                }
            }
            let mut takers = members.iter().flat_map(|name| std::iter::repeat_n(*name, rooms[*name]));
            let owners: Vec<String> = owners
                .into_iter()
                .map(|owner| owner.unwrap_or_else(|| takers.next().unwrap_or_default().to_owned()))
                .collect();
            for (name, load) in members.iter().map(|name| (*name, owners.iter().filter(|owner| *owner == name).count()))
            {
                *loads.entry(name).or_default() += load;
            }
            shared_out.insert(projection.clone(), owners);
        }
        self.projections = shared_out;
    }

    /// How many slots have another owner than before, of those that had one.
    fn moved_since(&self, before: &BTreeMap<String, Vec<String>>) -> u32 {
        let moved = self.projections.iter().map(|(projection, owners)| {
            let before = before.get(projection).filter(|before| before.len() == owners.len());
            before.map_or(0, |before| before.iter().zip(owners).filter(|(before, now)| before != now).count())
        });
        u32::try_from(moved.sum::<usize>()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// Somebody who runs these.
    fn member(name: &str, projections: &[&str]) -> Member {
        Member { name: name.to_owned(), projections: projections.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// A roster after these have joined, one after the other.
    fn joined(members: &[Member], slots: u32) -> Roster {
        members.iter().fold(Roster::default(), |roster, member| {
            roster.after(&[Change::Joins(member.clone(), Some(slots))]).unwrap().roster
        })
    }

    /// How many slots of a projection each member has.
    fn shares(roster: &Roster, projection: &str) -> Vec<usize> {
        let of = |member: &Member| roster.slots_of(&member.name).filter(|(name, _)| *name == projection).count();
        roster.members.iter().map(of).collect()
    }

    #[test]
    fn who_joins_takes_a_fair_share_and_nothing_else_moves() {
        let one = joined(&[member("a", &["p"])], 16);
        assert_eq!(shares(&one, "p"), [16]);
        let two = one.after(&[Change::Joins(member("b", &["p"]), None)]).unwrap();
        assert_eq!((shares(&two.roster, "p"), two.moved), (vec![8, 8], 8));
        let three = two.roster.after(&[Change::Joins(member("c", &["p"]), None)]).unwrap();
        assert_eq!((shares(&three.roster, "p"), three.moved), (vec![6, 5, 5], 5));
        assert_eq!(three.reason, "c joined");
    }

    #[test]
    fn the_slots_of_who_is_gone_are_shared_by_the_others_and_nothing_else_moves() {
        let three = joined(&["a", "b", "c"].map(|name| member(name, &["p"])), 16);
        let two = three.after(&[Change::Ended("b".into())]).unwrap();
        assert_eq!((shares(&two.roster, "p"), two.moved), (vec![8, 8], 5));
        assert_eq!(two.reason, "b ended");
        let none = two.roster.after(&[Change::Leaves("a".into()), Change::Frozen("c".into())]).unwrap();
        assert!(none.roster.projections.is_empty());
        assert_eq!(none.reason, "a left; c gave no sign of life");
        assert_eq!(none.roster.after(&[Change::Ended("a".into())]), None, "it is gone already");
    }

    #[test]
    fn a_projection_is_shared_by_those_who_run_it() {
        let roster = joined(&[member("a", &["p", "q"]), member("b", &["p"])], 4);
        assert_eq!((shares(&roster, "p"), shares(&roster, "q")), (vec![2, 2], vec![4, 0]));
    }

    #[test]
    fn who_has_one_more_of_one_projection_has_not_one_more_of_each() {
        let roster = joined(&["a", "b", "c"].map(|name| member(name, &["p", "q", "r"])), 1);
        let all: Vec<usize> = roster.members.iter().map(|member| roster.slots_of(&member.name).count()).collect();
        assert_eq!(all.iter().sum::<usize>(), 3);
        let fresh = Roster { projections: BTreeMap::new(), ..roster };
        let again = fresh.after(&[Change::Joins(member("c", &["p", "q", "r"]), None)]).unwrap().roster;
        let all: Vec<usize> = again.members.iter().map(|member| again.slots_of(&member.name).count()).collect();
        assert_eq!(all, [1, 1, 1]);
    }

    #[test]
    fn another_number_of_slots_is_shared_out_anew() {
        let two = joined(&["a", "b"].map(|name| member(name, &["p"])), 4);
        let next = two.after(&[Change::Joins(member("c", &["p"]), Some(6))]).unwrap();
        assert_eq!(shares(&next.roster, "p"), [2, 2, 2]);
        assert_eq!(next.reason, "c joined, and changed 4 slots to 6");
        let same = two.after(&[Change::Joins(member("c", &["p"]), None)]).unwrap();
        assert_eq!(same.roster.slots, 4);
    }

    #[test]
    fn at_random_every_slot_has_an_owner_the_shares_are_fair_and_no_more_moves_than_must() {
        let mut random = StdRng::seed_from_u64(11);
        let (mut roster, mut number) = (joined(&[member("m0", &["p", "q"])], 16), 0);
        for _ in 0..2_000 {
            let change = if roster.members.len() < 2 || (roster.members.len() < 20 && random.random_bool(0.5)) {
                number += 1;
                let projections: &[&str] = if random.random_bool(0.3) { &["p"] } else { &["p", "q"] };
                Change::Joins(member(&format!("m{number}"), projections), None)
            } else {
                let at = random.random_range(0..roster.members.len());
                Change::Ended(roster.members[at].name.clone())
            };
            let next = roster.after(std::slice::from_ref(&change)).unwrap();
            for (projection, owners) in &next.roster.projections {
                let run = |member: &&Member| member.projections.contains(projection);
                let counts: Vec<usize> = next
                    .roster
                    .members
                    .iter()
                    .filter(run)
                    .map(|member| owners.iter().filter(|owner| **owner == member.name).count())
                    .collect();
                assert_eq!(counts.iter().sum::<usize>(), 16, "{change:?}: {next:?}");
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{change:?}: {next:?}");
                // What moves: the slots of who is gone, and what the one who came has got. Between the others, nothing.
                let before = roster.projections.get(projection).cloned().unwrap_or_default();
                for (before, now) in before.iter().zip(owners).filter(|(before, now)| before != now) {
                    let must = match &change {
                        Change::Joins(member, _) => *now == member.name,
                        Change::Ended(name) => before == name,
                        Change::Leaves(_) | Change::Frozen(_) => false,
                    };
                    assert!(must, "{before} to {now} at {change:?}");
                }
            }
            roster = next.roster;
        }
    }
}
