//! Seals: how the host says what is to be written in a session that is not its own.
//!
//! With `--isolation login` a worker's session belongs to the projection's role, from its login on, and the host's tables
//! move only through functions (`migrations/postgres/read_model/0020_seals.sql`) that whoever has the session may call: the
//! host, and a projection that got past the guard. What tells the two apart cannot be a secret word. A statement can read
//! the text of the message that it runs in (`current_query()`), and one of another session of the same role
//! (`pg_stat_activity`); a word that is sent once is known from then on, and what a transaction knows outlives its
//! rollback (in a sequence, say). So the secret is never sent: it is the key of an HMAC-SHA-256, made for each claim, that
//! goes to the server once, in a session of the host's login, and what is sent is a seal over exactly what the host
//! wants to have done. Who finds a seal can do what the host was about to do, and nothing else: the checkpoint moves
//! from one position to another under one epoch, so it moves once.
//!
//! **Seals have numbers** (`0030_numbered_seals.sql`). Each says its own and that of the one before it, which the server has to find as
//! the last that was used: so each is good once, in its order, and the one that moves the checkpoint, the last of a transaction,
//! is good only where all before it were used in that transaction and nobody has taken them back. A number is never given
//! again. What was rolled back is not before anything: the next seal follows the last that was committed ([`Mark`]).
//!
//! What the host was about to do is also all that a projection could have reached by applying its events without an
//! error. It gains nothing.

use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde_json::{Map, Value as Json, json};
use sha2::Sha256;

use super::super::checkpoint::{Epoch, Slot};

/// How long a block of SHA-256 is: what a key is filled up to.
const BLOCK: usize = 64;

/// The key of a claim.
#[derive(Clone)]
pub(super) struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn new() -> std::io::Result<Self> {
        let mut key = [0; 32];
        OsRng.try_fill_bytes(&mut key).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self(key))
    }

    /// What the inner and the outer hash begin with: all that the server needs.
    pub(super) fn halves(&self) -> (Vec<u8>, Vec<u8>) {
        let filled = |with: u8| {
            let mut block = vec![with; BLOCK];
            block.iter_mut().zip(self.0).for_each(|(byte, of_key)| *byte ^= of_key);
            block
        };
        (filled(0x36), filled(0x5c))
    }
}

/// What is said, and its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    /// A JSON object.
    pub(super) said: String,
    /// HMAC-SHA-256 over what is to be done and that.
    pub(super) seal: Vec<u8>,
}

impl Sealed {
    /// A call of a function with it, for a message: without a backslash, because what a session makes of one is a setting,
    /// and the projection's to change.
    pub(super) fn call(&self, function: &str) -> String {
        debug_assert!(!self.said.contains('\\'), "numbers, names and digests");
        let said = self.said.replace('\'', "''");
        let mut call = format!("SELECT projectionist.{function}('{said}', pg_catalog.decode('");
        call.push_str(&hex(&self.seal));
        call.push_str("', 'hex'))");
        call
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seals for one claim.
#[derive(Clone, Debug)]
pub(super) struct Sealer {
    /// The key.
    key: Key,
    /// Which claim: the members that everything begins with.
    claim: Map<String, Json>,
    /// The last number that was given.
    last: u64,
    /// The last seal that is used, if the transaction that is open commits.
    used: Mark,
    /// The last seal that was used in a transaction that has committed.
    committed: Mark,
}

/// A place in the order of a claim's seals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Sealer {
    /// Of a claim.
    pub(super) fn new(key: Key, slot: &Slot, epoch: Epoch) -> Self {
        let claim = [
            ("projection", json!(slot.projection)),
            ("total", json!(slot.partition.total())),
            ("key", json!(slot.partition.key())),
            ("epoch", json!(epoch.0)),
        ];
        let claim = claim.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { key, claim, last: 0, used: Mark::default(), committed: Mark::default() }
    }

    /// Seals what is to be done next, once, with what.
    pub(super) fn seal_next(&mut self, doing: &str, mut what: Json) -> Sealed {
        self.last += 1;
        what["number"] = self.last.into();
        what["after"] = self.used.0.into();
        self.used = Mark(self.last);
        self.seal(doing, &what)
    }

    /// Where it stands.
    pub(super) fn mark(&self) -> Mark {
        self.used
    }

    /// What was sealed since is taken back.
    pub(super) fn back_to(&mut self, mark: Mark) {
        self.used = mark;
    }

    /// The transaction has committed.
    pub(super) fn committed(&mut self) {
        self.committed = self.used;
    }

    /// It was rolled back.
    pub(super) fn rolled_back(&mut self) {
        self.used = self.committed;
    }

    /// Seals what is to be done with what, as often as anybody likes.
    pub(super) fn seal(&self, doing: &str, what: &Json) -> Sealed {
        let mut all = self.claim.clone();
        if let Json::Object(what) = what {
            all.extend(what.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let said = Json::Object(all).to_string();
        let mut mac =
            <Hmac<Sha256>>::new_from_slice(&self.key.0).unwrap_or_else(|_| unreachable!("a key of any length"));
        mac.update(doing.as_bytes());
        mac.update(b" ");
        mac.update(said.as_bytes());
        Sealed { said, seal: mac.finalize().into_bytes().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;
    use crate::partition::Partition;

    #[test]
    fn a_seal_is_what_the_server_makes_of_the_halves_of_the_key() {
        let slot = Slot { projection: "mine".to_owned(), partition: Partition::new(1, 4).unwrap() };
        let key = Key::new().unwrap();
        let (inner, outer) = key.halves();
        let sealed = Sealer::new(key, &slot, Epoch(7)).seal("advance", &json!({"to": 5}));
        let said: Json = serde_json::from_str(&sealed.said).unwrap();
        assert_eq!(said, json!({"projection": "mine", "total": 4, "key": 1, "epoch": 7, "to": 5}));
        let inside = Sha256::digest([&inner[..], b"advance ", sealed.said.as_bytes()].concat());
        assert_eq!(sealed.seal, Sha256::digest([&outer[..], &inside[..]].concat()).to_vec());
        assert!(sealed.call("advance").starts_with("SELECT projectionist.advance('{\""), "{}", sealed.call("advance"));
    }

    #[test]
    fn a_number_is_given_once_and_follows_what_was_committed() {
        let slot = Slot { projection: "mine".to_owned(), partition: Partition::new(0, 1).unwrap() };
        let mut sealer = Sealer::new(Key::new().unwrap(), &slot, Epoch(1));
        let numbers = |sealed: Sealed| {
            let said: Json = serde_json::from_str(&sealed.said).unwrap();
            (said["number"].as_u64().unwrap(), said["after"].as_u64().unwrap())
        };
        let next = |sealer: &mut Sealer| numbers(sealer.seal_next("bury", json!({})));
        assert_eq!([next(&mut sealer), next(&mut sealer)], [(1, 0), (2, 1)]);
        sealer.committed();
        let mark = sealer.mark();
        assert_eq!(next(&mut sealer), (3, 2));
        sealer.back_to(mark);
        assert_eq!([next(&mut sealer), next(&mut sealer)], [(4, 2), (5, 4)]);
        sealer.rolled_back();
        assert_eq!(next(&mut sealer), (6, 2));
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", Key::new().unwrap()), "Key(…)");
    }
}
