//! Which worker an event belongs to; and [`lineage`], how that changes without an event lost or doubled.
//!
//! `fnv1a32(aggregate_id) mod total`, over the UTF-8 bytes, so that all events of an aggregate go to one worker
//! in order, and the same one as in pupsourcing. FNV-1a is by Fowler, Noll and Vo; the `fnv` crate has only
//! its 64-bit variant, whose remainders would put aggregates elsewhere.

pub mod lineage;

use std::fmt;

/// The 32-bit FNV-1a hash.
#[must_use]
pub const fn fnv1a32(bytes: &[u8]) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash
}

/// One partition of a projection: its key, out of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// From 0.
    key: u32,
    /// At least 1.
    total: u32,
}

/// A key that no partition has.
#[derive(Debug, thiserror::Error)]
pub enum NoSuchPartition {
    /// There is nothing to divide among.
    #[error("the total of partitions is {0}, and it must be from 1 to 65536")]
    Total(u32),
    /// The key is past the last.
    #[error("there is no partition {key} of {total}: keys go from 0 to {}", total - 1)]
    Key {
        /// The key asked for.
        key: u32,
        /// Out of how many.
        total: u32,
    },
}

impl Partition {
    /// Everything, undivided.
    pub const WHOLE: Self = Self { key: 0, total: 1 };

    /// The partition `key` of `total`.
    ///
    /// # Errors
    /// Unless `key < total` and `1 ≤ total ≤ 65536`.
    pub const fn new(key: u32, total: u32) -> Result<Self, NoSuchPartition> {
        if total == 0 || total > 65_536 {
            return Err(NoSuchPartition::Total(total));
        }
        if key >= total {
            return Err(NoSuchPartition::Key { key, total });
        }
        Ok(Self { key, total })
    }

    /// Its key, from 0.
    #[must_use]
    pub const fn key(self) -> u32 {
        self.key
    }

    /// Out of how many.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.total
    }

    /// Whether the events of this aggregate are its own.
    #[must_use]
    pub fn owns(self, aggregate_id: &str) -> bool {
        self.total == 1 || fnv1a32(aggregate_id.as_bytes()) % self.total == self.key
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.key, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_its_authors() {
        for (text, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(fnv1a32(text.as_bytes()), hash, "{text:?}");
        }
    }

    #[test]
    fn every_aggregate_belongs_to_exactly_one_partition() {
        for total in 1..=9 {
            for number in 0..500 {
                let id = format!("aggregate-{number}");
                let owners = (0..total).filter(|key| Partition::new(*key, total).unwrap().owns(&id)).count();
                assert_eq!(owners, 1, "{id} of {total}");
            }
        }
    }

    #[test]
    fn four_partitions_share_real_events_within_a_few_percent() {
        let flights: &[u8] = include_bytes!("../assets/flights-demo.ndjson.gz");
        let reader = crate::ndjson::Reader::new(flights, crate::ndjson::Payloads::Objects).unwrap();
        let mut shares = [0_usize; 4];
        for event in reader {
            let hash = fnv1a32(event.unwrap().aggregate_id.as_bytes());
            shares[(hash % 4) as usize] += 1;
        }
        let mean = shares.iter().sum::<usize>() / 4;
        assert!(mean > 1_000, "{shares:?}");
        for share in shares {
            assert!(share.abs_diff(mean) * 100 <= mean * 6, "{shares:?}");
        }
    }

    #[test]
    fn a_key_past_the_last_is_refused() {
        assert_eq!(Partition::new(4, 4).unwrap_err().to_string(), "there is no partition 4 of 4: keys go from 0 to 3");
        assert!(Partition::new(0, 0).is_err());
    }
}
