//! Building a read model afresh beside the one that is in use, and putting it in its place.
//!
//! **A rebuild is an ordinary projection under a name that none can have**: that of `user_count` is
//! `user_count+rebuild`. So its schema or file, its checkpoints, its dead letters and its claims are its own, and
//! whatever holds for a projection holds for a rebuild: each event counts once, a crash costs nothing, and whoever is
//! killed goes on from its checkpoint. Until the swap nothing that belongs to the live one is touched.
//!
//! **The swap** is one transaction. It puts the rebuilt tables in the place of the live ones, and the rebuilt
//! checkpoints and dead letters in the place of theirs, because these are the truth of those tables. The new
//! checkpoints have a higher epoch than any claim of the live workers, so the batch that a worker has in hand commits
//! before the swap, into the old tables, or is refused ([`super::checkpoint`]); then the worker claims again, and goes
//! on from where the rebuild stands. No event is lost between the two, and none counts twice: what a table holds and
//! what its checkpoint says have come from the same transactions.
//!
//! How a reader sees the one or the other and never half is the database's own matter: [`postgres`] and [`sqlite`]
//! have the arguments.

mod postgres;
mod sqlite;

use std::time::Duration;

use super::ReadModel;
use super::checkpoint::{OWN_TOOL, Term};
use super::claim::Found;
use crate::database::DatabaseError;
use crate::partition::lineage::{self, Row};

/// What the name of a rebuild has behind the projection's. No projection's name holds a `+`.
const SUFFIX: &str = "+rebuild";

/// The name that the rebuild of a projection runs under.
#[must_use]
pub fn name_of(projection: &str) -> String {
    format!("{projection}{SUFFIX}")
}

/// Whose rebuild runs under this name, if it is one's.
#[must_use]
pub fn projection_of(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX)
}

/// The right to rebuild a projection. Nobody else has it until this is dropped, or its process ends.
#[derive(Debug)]
pub enum Rebuild {
    /// In a schema of its own.
    Postgres(postgres::Rebuild),
    /// In a file of its own.
    Sqlite(sqlite::Rebuild),
}

/// What became of an attempt to swap, or to empty a read model.
#[derive(Debug, PartialEq, Eq)]
pub enum Swap {
    /// It is done.
    Done,
    /// Others use the live tables just now, and were not made to wait any longer. Nothing has changed.
    Busy {
        /// Who, as far as the database tells.
        by: Vec<String>,
    },
}

/// Why a projection is not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Somebody does it already.
    #[error("{projection} is being rebuilt already, by {owner}")]
    Running {
        /// Which projection.
        projection: String,
        /// Who.
        owner: String,
    },
    /// Things outside of its schema depend on its tables.
    #[error("{} of {projection}'s tables: {}", if by.len() == 1 { "this depends on one" } else { "these depend on some" }, by.join(", "))]
    DependedOn {
        /// Which projection.
        projection: String,
        /// What depends on it.
        by: Vec<String>,
    },
    /// The database fails.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl RebuildError {
    /// What to do next, where there is something to say that the message does not.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Running { .. } => Some("`host status` shows how far it is; it goes on by itself"),
            Self::DependedOn { .. } => Some(
                "they would keep the old tables, or be dropped with them: drop them, rebuild, and make them again; \
                 nothing was changed",
            ),
            Self::Database(error) => error.advice(),
        }
    }

    /// Whether it is the user's set-up that has to change.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Running { .. } => false,
            Self::DependedOn { .. } => true,
            Self::Database(error) => error.is_configuration(),
        }
    }
}

impl ReadModel {
    /// Takes the right to rebuild a projection, and clears away what an earlier rebuild left behind whose process
    /// ended when it had swapped already.
    ///
    /// # Errors
    /// When somebody else has it, or the database fails.
    pub fn rebuild(&self, projection: &str, owner: &str) -> Result<Rebuild, RebuildError> {
        Ok(match self {
            Self::Postgres(database, _) => Rebuild::Postgres(postgres::Rebuild::begin(database, projection, owner)?),
            Self::Sqlite(base, runtime, _) => {
                Rebuild::Sqlite(sqlite::Rebuild::begin(base, projection, owner, runtime.clone())?)
            }
        })
    }
}

impl Rebuild {
    /// Sees that the live tables may go, before hours are spent on new ones.
    ///
    /// # Errors
    /// When something depends on them, or the database fails.
    pub fn check(&mut self) -> Result<(), RebuildError> {
        match self {
            Self::Postgres(rebuild) => rebuild.check(),
            Self::Sqlite(_) => Ok(()),
        }
    }

    /// Makes room for what is to be built.
    ///
    /// # Errors
    /// When the database fails.
    pub fn prepare(&mut self) -> Result<(), RebuildError> {
        match self {
            // The first worker makes the schema.
            Self::Postgres(_) => Ok(()),
            Self::Sqlite(rebuild) => rebuild.prepare(),
        }
    }

    /// Throws away what was built.
    ///
    /// # Errors
    /// When the database fails.
    pub fn discard(&mut self) -> Result<(), RebuildError> {
        match self {
            Self::Postgres(rebuild) => rebuild.discard(),
            Self::Sqlite(rebuild) => rebuild.discard(),
        }
    }

    /// Puts what was built in the place of the live read model, unless others use that for longer than `wait`. No
    /// worker of the rebuild may run.
    ///
    /// # Errors
    /// When something depends on the live tables, or the database fails. Then nothing has changed.
    pub fn swap(&mut self, wait: Duration) -> Result<Swap, RebuildError> {
        match self {
            Self::Postgres(rebuild) => rebuild.swap(wait),
            Self::Sqlite(rebuild) => rebuild.swap(),
        }
    }

    /// Drops the live read model and puts its checkpoints at the start, unless others use it for longer than `wait`.
    ///
    /// # Errors
    /// As [`Rebuild::swap`].
    pub fn empty(&mut self, wait: Duration) -> Result<Swap, RebuildError> {
        match self {
            Self::Postgres(rebuild) => rebuild.empty(wait),
            Self::Sqlite(rebuild) => rebuild.empty(),
        }
    }
}

/// Who the checkpoints say that wrote them: not a worker, which would be fenced by it, but a tool of the host's own,
/// after which a worker claims again.
fn signature(owner: &str) -> String {
    format!("{OWN_TOOL}rebuild {owner}")
}

/// A checkpoint as a swap writes it.
#[derive(Debug, PartialEq, Eq)]
struct Successor {
    /// What the rebuild has done.
    row: Row,
    /// Which lock stands for it.
    term: Term,
    /// The version of the projection that did it.
    plugin_version: u32,
    /// The digest of its component.
    plugin_digest: String,
}

/// The checkpoints that take the place of the live ones: what the rebuild has done, for as many partitions as the
/// workers have that go on with it, under a higher epoch than any of theirs.
///
/// The lock that stands for a partition is the same as before, because whoever holds it goes on holding it.
fn successors(live: &[Found], rebuilt: &[Found]) -> Vec<Successor> {
    let rows: Vec<Row> = rebuilt.iter().map(|found| found.row.clone()).collect();
    let total = live.first().map(|found| found.row.partition.total());
    let rows = match total {
        Some(total) if rows.iter().any(|row| row.partition.total() != total) => lineage::rescale(&rows, total),
        _ => rows,
    };
    let epoch = live.iter().map(|found| found.row.epoch).max().unwrap_or(0) + 1;
    let newest = rebuilt.iter().max_by_key(|found| found.plugin_version);
    let (plugin_version, plugin_digest) =
        newest.map_or((0, String::new()), |newest| (newest.plugin_version, newest.plugin_digest.clone()));
    let successor = |row: Row| {
        let before = live.iter().find(|found| found.row.partition == row.partition);
        let term = before.map_or(Term::default(), |found| found.term);
        Successor { row: Row { epoch, ..row }, term, plugin_version, plugin_digest: plugin_digest.clone() }
    };
    rows.into_iter().map(successor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint.
    fn found(key: u32, total: u32, position: u64, epoch: i64, term: u32) -> Found {
        let columns = (total, key, position.cast_signed(), epoch, None, 10, String::new(), term, 1, "abc".to_owned());
        Found::new(columns).unwrap()
    }

    #[test]
    fn the_live_workers_go_on_with_their_own_number_of_partitions_and_locks() {
        let live = [found(0, 2, 70, 5, 0), found(1, 2, 80, 9, 3)];
        let rebuilt = [found(0, 1, 60, 1, 0)];
        let successors = successors(&live, &rebuilt);
        let told: Vec<_> = successors
            .iter()
            .map(|one| {
                (one.row.partition.key(), one.row.partition.total(), one.row.position.get(), one.row.epoch, one.term.0)
            })
            .collect();
        assert_eq!(told, [(0, 2, 60, 10, 0), (1, 2, 60, 10, 3)]);
        assert_eq!(successors.iter().map(|one| one.row.events_applied).sum::<u64>(), 10);
        assert!(successors.iter().all(|one| one.plugin_version == 1 && one.plugin_digest == "abc"));
    }

    #[test]
    fn a_rebuild_has_a_name_that_no_projection_has_and_postgres_takes() {
        let longest = "a".repeat(48);
        for projection in ["user_count", &longest] {
            let name = name_of(projection);
            assert!(crate::plugin::descriptor::check_name(&name).is_err(), "{name}");
            assert!(name.len() < 64, "{name}");
            assert_eq!(projection_of(&name), Some(projection));
        }
        assert_eq!(projection_of("user_count"), None);
    }
}
