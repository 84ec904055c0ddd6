//! `--replica-set` and `--slots`: which projections of this process are shared with others, and in how many slots.

use std::str::FromStr;

use clap::Args;

use super::exit::UsageError;
use crate::plugin::descriptor::check_name;

/// The replica sets of a process.
#[derive(Clone, Debug, Args)]
pub struct ReplicaOptions {
    /// Share the work with every process that says the same name: no partition keys, and any number of processes at any
    /// time. Without PROJECTIONs, all those that no other --replica-set names
    #[arg(long = "replica-set", env = "REPLICA_SET", value_name = "NAME[=PROJECTION,…]",
          conflicts_with_all = ["partition_key", "total_partitions", "workers", "once"])]
    sets: Vec<SetArgument>,
    /// How many slots each projection of a replica set has, and so how many processes can share it; 16 at first, and then
    /// as many as it has. Another number is an exact rescale
    #[arg(long, env = "SLOTS", value_name = "[NAME=]N", requires = "sets")]
    slots: Vec<SlotsArgument>,
}

/// `NAME[=PROJECTION,…]`
#[derive(Clone, Debug, PartialEq, Eq)]
struct SetArgument {
    /// What the set is called.
    name: String,
    /// Its projections; empty for the rest.
    projections: Vec<String>,
}

impl FromStr for SetArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, projections) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        check_name(name).map_err(|error| error.to_string())?;
        let projections = projections.map(|list| list.split(',').map(|one| one.trim().to_owned()).collect());
        let projections: Vec<String> = projections.unwrap_or_default();
        if projections.iter().any(String::is_empty) {
            return Err("say which projections, separated by commas, or leave out the = for all".to_owned());
        }
        Ok(Self { name: name.to_owned(), projections })
    }
}

/// `[NAME=]N`
#[derive(Clone, Debug, PartialEq, Eq)]
struct SlotsArgument {
    /// Of which set; of all without.
    set: Option<String>,
    /// How many.
    slots: u32,
}

impl FromStr for SlotsArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (set, number) = text.split_once('=').map_or((None, text), |(set, number)| (Some(set.to_owned()), number));
        match number.parse() {
            Ok(slots @ 1..=1_024) => Ok(Self { set, slots }),
            _ => Err("say 1 to 1024 slots".to_owned()),
        }
    }
}

/// A replica set, with the projections that this process runs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// What it is called.
    pub set: String,
    /// How many slots, if anything was said.
    pub slots: Option<u32>,
    /// Its projections.
    pub projections: Vec<String>,
}

impl ReplicaOptions {
    /// The sets that are asked for, each once: those that name projections may stand there several times, as the sections of a
    /// configuration say them. Projections that are configured and do not run here are left out, and sets with no others.
    fn sets(&self, projections: &[String], configured: &[String]) -> Vec<SetArgument> {
        let mut sets: Vec<SetArgument> = Vec::new();
        for SetArgument { name, projections: named } in &self.sets {
            let is_here = |one: &&String| projections.contains(one) || !configured.contains(one);
            let here: Vec<String> = named.iter().filter(is_here).cloned().collect();
            if here.is_empty() && !named.is_empty() {
                continue;
            }
            let same = sets.iter_mut().find(|set| set.name == *name && !set.projections.is_empty() && !here.is_empty());
            match same {
                Some(same) => same.projections.extend(here),
                None => sets.push(SetArgument { name: name.clone(), projections: here }),
            }
        }
        sets
    }

    /// Which set shares which of these projections; empty where no replica set is asked for. Others may be configured that do
    /// not run here.
    ///
    /// # Errors
    /// When a projection is in none or in two, or a name is of nothing.
    pub fn shared(&self, projections: &[String], configured: &[String]) -> Result<Vec<Shared>, UsageError> {
        let mut left: Vec<String> = projections.to_vec();
        let mut shared: Vec<Shared> = Vec::new();
        for SetArgument { name, projections } in self.sets(projections, configured) {
            if shared.iter().any(|other| other.set == name) {
                let hint = "name all of its projections at once: --replica-set NAME=ONE,OTHER";
                return Err(UsageError::new(format!("the replica set {name} is there twice"), hint));
            }
            for projection in &projections {
                let Some(at) = left.iter().position(|other| other == projection) else {
                    let message = format!("the replica set {name} has no projection {projection} to share");
                    return Err(UsageError::new(message, "name one that a --plugin runs, and in one set only"));
                };
                left.remove(at);
            }
            let slots = |slots: &&SlotsArgument| slots.set.as_ref().is_none_or(|set| *set == name);
            let slots = self.slots.iter().rfind(slots).map(|slots| slots.slots);
            shared.push(Shared { set: name, slots, projections });
        }
        let known = |set: &String| shared.iter().any(|other| other.set == *set);
        if let Some(set) = self.slots.iter().filter_map(|slots| slots.set.as_ref()).find(|set| !known(set)) {
            let hint = "name one of a --replica-set, or say --slots N for all";
            return Err(UsageError::new(format!("--slots is for {set}, and no replica set is called that"), hint));
        }
        let open: Vec<usize> = (0..shared.len()).filter(|at| shared[*at].projections.is_empty()).collect();
        match open[..] {
            [one, other, ..] => {
                let (one, other) = (&shared[one].set, &shared[other].set);
                let message = format!("the replica sets {one} and {other} are both for all projections");
                return Err(UsageError::new(message, "say which projections: --replica-set NAME=ONE,OTHER"));
            }
            [rest] if left.is_empty() => {
                let message = format!("no projection is left for the replica set {}", shared[rest].set);
                return Err(UsageError::new(message, "leave it out, or name fewer in the others"));
            }
            [rest] => shared[rest].projections = left,
            [] if !shared.is_empty() && !left.is_empty() => {
                let message = format!("no replica set is for {}", left.join(", "));
                return Err(UsageError::new(message, "add it to one, or another --replica-set NAME for the rest"));
            }
            [] => {}
        }
        Ok(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What these arguments make of two projections.
    fn shared(sets: &[&str], slots: &[&str]) -> Result<Vec<Shared>, String> {
        let options = ReplicaOptions {
            sets: sets.iter().map(|set| set.parse().unwrap()).collect(),
            slots: slots.iter().map(|slots| slots.parse().unwrap()).collect(),
        };
        options.shared(&["p".to_owned(), "q".to_owned()], &["away".to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_set_is_for_those_it_names_or_for_the_rest() {
        let of = |set: &str, slots, list: &[&str]| Shared {
            set: set.to_owned(),
            slots,
            projections: list.iter().map(|one| (*one).to_owned()).collect(),
        };
        assert_eq!(shared(&[], &[]).unwrap(), []);
        assert_eq!(shared(&["main"], &["4"]).unwrap(), [of("main", Some(4), &["p", "q"])]);
        let two = shared(&["main", "big=q"], &["4", "big=32"]).unwrap();
        assert_eq!(two, [of("main", Some(4), &["p"]), of("big", Some(32), &["q"])]);
        // As the sections of a configuration say it, of which one does not run here.
        let sections = shared(&["main=p", "other=away", "main=away", "main=q"], &[]).unwrap();
        assert_eq!(sections, [of("main", None, &["p", "q"])]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (sets, slots, expected) in [
            (&["main", "main"][..], &[][..], "the replica set main is there twice"),
            (&["main", "other"], &[], "the replica sets main and other are both for all projections"),
            (&["main=p"], &[], "no replica set is for q"),
            (&["main=p,r"], &[], "the replica set main has no projection r to share"),
            (&["main=p", "other=p,q"], &[], "the replica set other has no projection p to share"),
            (&["main=p,q", "other"], &[], "no projection is left for the replica set other"),
            (&["main"], &["mian=4"], "--slots is for mian, and no replica set is called that"),
        ] {
            assert_eq!(shared(sets, slots).unwrap_err(), expected);
        }
        assert!("Main".parse::<SetArgument>().is_err() && "main=".parse::<SetArgument>().is_err());
        assert!("0".parse::<SlotsArgument>().is_err() && "1025".parse::<SlotsArgument>().is_err());
    }
}
