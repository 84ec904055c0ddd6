//! Standing by: who is waited for, and when one of them counts as frozen.
//!
//! A holder is stale when its sign of life has stood still for the operator's `--stale-after`, by this process's own
//! count. Each look adds the time since the last one, but never more than a second: a clock that jumps, or a pause of
//! this process itself, ages nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::read_model::claim::Holder;
use crate::read_model::heartbeat;

/// The most that one look adds to a holder's age.
const ONE_LOOK: Duration = Duration::from_secs(1);

/// Whom a replica set has taken out because they gave no sign of life, with their last one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Frozen(Arc<Mutex<BTreeMap<String, Option<u64>>>>);

impl Frozen {
    /// Takes note of an owner.
    pub fn add(&self, owner: &str, beat: Option<u64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(owner.to_owned(), beat);
    }

    /// An owner has given a sign of life since.
    pub fn remove(&self, owner: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(owner);
    }

    /// How long a holder has to stand still here before it counts as frozen; nothing when nobody has said so before.
    fn patience(&self, holder: &Holder) -> Option<Duration> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&holder.owner) {
            None => None,
            Some(beat) if *beat == holder.beat => Some(Duration::ZERO),
            // Each of its files may have another; or somebody lives who has that name now.
            Some(_) => Some(2 * heartbeat::EVERY + heartbeat::EVERY / 2),
        }
    }
}

/// A holder that is waited for.
#[derive(Debug)]
struct Waited {
    /// As it was at the last look.
    holder: Holder,
    /// For how long its sign of life has stood still.
    still: Duration,
}

/// What a worker that stands by knows.
#[derive(Debug)]
pub struct Standby {
    /// After how long a holder counts as frozen; never without.
    stale_after: Option<Duration>,
    /// Who is known to be.
    frozen: Frozen,
    /// Who is waited for.
    waited: Vec<Waited>,
    /// When that was last looked at.
    looked: Option<Instant>,
}

/// What a look has shown.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who is waited for, if that has changed.
    pub changed: Option<Vec<Holder>>,
    /// Who is frozen.
    pub stale: Vec<Holder>,
}

impl Standby {
    /// Waits for nobody yet.
    #[must_use]
    pub fn new(stale_after: Option<Duration>, frozen: Frozen) -> Self {
        Self { stale_after, frozen, waited: Vec::new(), looked: None }
    }

    /// Takes note of who holds what is wanted.
    pub fn look(&mut self, holders: Vec<Holder>, now: Instant) -> Seen {
        let since = self.looked.replace(now).map_or(Duration::ZERO, |looked| now - looked).min(ONE_LOOK);
        let same = |one: &Holder, other: &Holder| {
            (&one.slot, &one.owner, one.epoch) == (&other.slot, &other.owner, other.epoch)
        };
        let changed = holders.len() != self.waited.len()
            || holders.iter().zip(&self.waited).any(|(holder, waited)| !same(holder, &waited.holder));
        let still = |holder: &Holder| {
            let last = self.waited.iter().find(|waited| same(&waited.holder, holder));
            last.filter(|last| last.holder.beat == holder.beat).map_or(Duration::ZERO, |last| last.still + since)
        };
        self.waited = holders.into_iter().map(|holder| Waited { still: still(&holder), holder }).collect();
        let all = || self.waited.iter().map(|waited| waited.holder.clone());
        // Without any sign of life (a host of an older version, or one that has not begun) nothing can be said.
        let is_stale = |waited: &&Waited| {
            let patience =
                self.stale_after.map(|after| self.frozen.patience(&waited.holder).unwrap_or(after).min(after));
            waited.holder.beat.is_some() && patience.is_some_and(|patience| waited.still >= patience)
        };
        Seen {
            changed: changed.then(|| all().collect()),
            stale: self.waited.iter().filter(is_stale).map(|waited| waited.holder.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Partition;
    use crate::read_model::checkpoint::{Epoch, Slot};

    /// A holder with this sign of life.
    fn holder(beat: Option<u64>) -> Holder {
        let slot = Slot { projection: "p".into(), partition: Partition::WHOLE };
        Holder { slot, owner: "there/1".into(), epoch: Some(Epoch(1)), beat }
    }

    /// After which look, a quarter of a second apart, a holder counts as stale.
    fn stale_at(mut beat: impl FnMut(u32) -> Option<u64>) -> Option<u32> {
        let (mut standby, start) = (Standby::new(Some(Duration::from_secs(5)), Frozen::default()), Instant::now());
        (0..100).find(|look| {
            let now = start + Duration::from_millis(250) * *look;
            !standby.look(vec![holder(beat(*look))], now).stale.is_empty()
        })
    }

    #[test]
    fn whoever_gives_no_sign_of_life_for_so_long_is_stale_and_nobody_else() {
        assert_eq!(stale_at(|_| Some(7)), Some(20));
        assert_eq!(stale_at(|look| Some(u64::from(look / 19))), None, "it beats, if slowly");
        assert_eq!(stale_at(|_| None), None, "it never beat");
    }

    #[test]
    fn a_pause_of_the_one_who_looks_ages_nobody() {
        let (mut standby, start) = (Standby::new(Some(Duration::from_secs(5)), Frozen::default()), Instant::now());
        standby.look(vec![holder(Some(1))], start);
        let seen = standby.look(vec![holder(Some(1))], start + Duration::from_secs(3_600));
        assert_eq!(seen, Seen::default());
    }

    #[test]
    fn whoever_is_known_to_be_frozen_is_not_waited_for_again_and_who_lives_under_its_name_is() {
        let frozen = Frozen::default();
        frozen.add("there/1", Some(7));
        let stale_at = |beat: &dyn Fn(u32) -> Option<u64>| {
            let (mut standby, start) = (Standby::new(Some(Duration::from_secs(60)), frozen.clone()), Instant::now());
            (0..100).find(|look| {
                let now = start + Duration::from_millis(250) * *look;
                !standby.look(vec![holder(beat(*look))], now).stale.is_empty()
            })
        };
        assert_eq!(stale_at(&|_| Some(7)), Some(0));
        assert_eq!(stale_at(&|_| Some(8)), Some(10), "another file of its own");
        assert_eq!(stale_at(&|look| Some(8 + u64::from(look / 5))), None, "it beats");
        frozen.remove("there/1");
        assert_eq!(stale_at(&|_| Some(7)), None, "it has lived since, and is waited for like anybody else");
    }

    #[test]
    fn who_is_waited_for_is_told_when_it_changes() {
        let (mut standby, now) = (Standby::new(None, Frozen::default()), Instant::now());
        assert!(standby.look(vec![holder(Some(1))], now).changed.is_some());
        assert!(standby.look(vec![holder(Some(2))], now).changed.is_none());
        let next = Holder { epoch: Some(Epoch(2)), ..holder(Some(2)) };
        assert!(standby.look(vec![next], now).changed.is_some());
    }
}
