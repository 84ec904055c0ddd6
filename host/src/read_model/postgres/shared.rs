//! What the workers of a process share in a read model's database.

use super::locks::Locks;
use super::pool::{CONNECTIONS, Pool};
use super::turns::Turns;
use crate::database::Postgres;

/// What they share. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// The server.
    pub(super) database: Postgres,
    /// The connection that holds their claims.
    pub(super) locks: Locks,
    /// Those they write with.
    pub(super) pool: Pool,
    /// Which of them take turns.
    pub(super) turns: Turns,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Shared {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(database: Postgres) -> Self {
        Self { locks: Locks::new(database.clone()), pool: Pool::new(CONNECTIONS), turns: Turns::default(), database }
    }

    /// The same, with at most so many connections to write with.
    #[must_use]
    pub fn with_connections(self, connections: usize) -> Self {
        Self { pool: Pool::new(connections), ..self }
    }
}
