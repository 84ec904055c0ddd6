//! Replica sets: processes that share the work of some projections, and find out by themselves who does what.
//!
//! A set has a name, and each of its projections has the same number of slots: the partitions of its checkpoints. A
//! process **joins**, gives signs of life, and works on the slots that the [`roster`] says are its own. There is no leader:
//! whoever sees that somebody has come, gone or frozen writes the next roster, and of two who do so at the same time one
//! has written it, because a roster is written only where the generation before it still stands.
//!
//! # Why nothing is lost or doubled
//!
//! The roster is advice. Who may write for a slot is decided by its claim ([`super::claim`]), as everywhere: whoever is told to
//! work on a slot stands by until the one before has released it, and a commit that is fenced is refused whatever any roster
//! says. So the worst that a wrong roster can do is that a slot waits.
//!
//! # Signs of life
//!
//! A member holds a lock for as long as it lives: an advisory lock of its session, on SQLite a locked file. It is gone when
//! its process is, at once. One that is frozen or cut off holds it still, and gives no [`super::heartbeat`]; after
//! `--stale-after` the others take it out. Who was taken out and lives all the same comes back when the others can see its sign of
//! life, and not before: they would only take it out again.
//!
//! [`postgres`] and [`sqlite`] are where rosters are kept.

mod postgres;
pub mod roster;
mod sqlite;

use std::collections::BTreeMap;

use self::roster::{Next, Roster};
use super::ReadModel;
use crate::database::DatabaseError;

/// How many generations are kept for people to look at.
const KEPT: u64 = 1_000;

/// Whether a member lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its process or its connection has ended.
    Ended,
    /// It has not, and this is its last sign of life, if it has given one.
    Beats(Option<u64>),
}

/// A set as it stands.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The number of the roster; 0 before the first.
    pub generation: u64,
    /// Who works on what.
    pub roster: Roster,
    /// Of each member, whether it lives.
    pub lives: BTreeMap<String, Life>,
    /// While whoever looks is not on the roster: its own last sign of life, as the others see it.
    pub own_beat: Option<u64>,
}

/// A process's place in a set. The others see that it is gone when this is dropped.
pub trait Membership: Send {
    /// The set as it stands.
    ///
    /// # Errors
    /// When the database fails.
    fn look(&mut self) -> Result<Look, DatabaseError>;

    /// Writes the roster that follows the one of `generation`; says whether that was still the last.
    ///
    /// # Errors
    /// When the database fails.
    fn write(&mut self, generation: u64, next: &Next) -> Result<bool, DatabaseError>;
}

/// A change of a roster, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Generation {
    /// Its number.
    pub generation: u64,
    /// Why it is another than the one before.
    pub reason: String,
    /// How many slots went from one member to another.
    pub moved: u32,
    /// Who wrote it.
    pub written_by: String,
    /// When it was written, RFC 3339.
    pub written_at: String,
}

/// A set, for people.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Its name.
    pub name: String,
    /// As it stands.
    pub look: Look,
    /// Of each member that has given a sign of life, how many seconds ago the last one was.
    pub silent: BTreeMap<String, f64>,
    /// The last change.
    pub last: Option<Generation>,
}

impl ReadModel {
    /// Takes a place in a set, as `member`, without being on its roster yet.
    ///
    /// # Errors
    /// When the database cannot be used, or somebody of that very name has a place.
    pub fn take_place(&self, set: &str, member: &str) -> Result<Box<dyn Membership>, DatabaseError> {
        match self {
            Self::Postgres(database, _) => Ok(Box::new(postgres::Place::take(database, set, member)?)),
            Self::Sqlite(base, _, locks) => Ok(Box::new(sqlite::Place::take(base, locks, set, member)?)),
        }
    }

    /// All sets.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn replica_sets(&self) -> Result<Vec<Overview>, DatabaseError> {
        match self {
            Self::Postgres(database, _) => postgres::all(database),
            Self::Sqlite(base, ..) => sqlite::all(base),
        }
    }
}
