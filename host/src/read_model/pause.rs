//! Pausing a projection: its workers keep their partitions and apply no events until it is resumed.
//!
//! It is a row in the read model's database, so every worker finds it, in whatever process, also one that starts later.
//! A worker looks twice a second, and between two batches: what it is about is finished. What an operator asks for about
//! dead letters is done meanwhile, because that was asked for. A rebuild goes on beside, and leaves the pause as it is.

use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;

use super::ReadModel;
use crate::database::schema::{self, Tables};
use crate::database::sqlite::{self, Durability};
use crate::database::{DatabaseError, DatabaseUrl, Postgres};
use crate::timestamp;

/// A projection that is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// Who has paused it.
    pub by: String,
    /// When: RFC 3339.
    pub since: String,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paused {
    /// It was done.
    Done,
    /// It was so already.
    Already,
}

impl ReadModel {
    /// Pauses a projection, which has to have run there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn pause(&self, projection: &str, by: &str) -> Result<Paused, DatabaseError> {
        let changed = match self {
            Self::Postgres(database, ..) => {
                let pause =
                    "INSERT INTO projectionist.pauses (projection, paused_by) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                in_postgres(database, sqlx::query(pause).bind(projection).bind(by))?
            }
            Self::Sqlite(..) => {
                let pause =
                    "INSERT INTO _projectionist_pauses (projection, paused_by) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
                self.in_file(projection, |connection| connection.execute(pause, [projection, by]))?
            }
        };
        Ok(if changed == 0 { Paused::Already } else { Paused::Done })
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When the database fails.
    pub fn resume(&self, projection: &str) -> Result<Paused, DatabaseError> {
        let changed = match self {
            Self::Postgres(database, ..) => {
                let resume = "DELETE FROM projectionist.pauses WHERE projection = $1";
                in_postgres(database, sqlx::query(resume).bind(projection))?
            }
            Self::Sqlite(..) => {
                let resume = "DELETE FROM _projectionist_pauses WHERE projection = ?1";
                self.in_file(projection, |connection| connection.execute(resume, [projection]))?
            }
        };
        Ok(if changed == 0 { Paused::Already } else { Paused::Done })
    }

    /// Does something in a projection's file; gives how many rows were changed.
    fn in_file(
        &self,
        projection: &str,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<usize>,
    ) -> Result<u64, DatabaseError> {
        let Self::Sqlite(base, runtime, _) = self else { return Ok(0) };
        let path = DatabaseUrl::projection_file(base, projection);
        // A rebuild that is being swapped in takes the pause along, and must not miss one.
        let _claims = super::sqlite::one_at_a_time(&path)?;
        let connection = sqlite::open(&path, Tables::ReadModel, Durability::Consistent, runtime)?;
        let changed = work(&connection);
        let failed = |source| DatabaseError::Sqlite { path, doing: "pausing or resuming a projection", source };
        changed.map(|rows| rows as u64).map_err(failed)
    }
}

/// Runs a statement; gives how many rows were changed.
fn in_postgres(
    database: &Postgres,
    query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
) -> Result<u64, DatabaseError> {
    database.block_on(async {
        let mut connection = database.connect("projectionist pause").await?;
        schema::check_postgres(database, &mut connection, Tables::ReadModel).await?;
        let done = query.execute(&mut connection).await;
        let done = done.map_err(|error| database.error("pausing or resuming a projection", error))?;
        sqlx::Connection::close(connection).await.ok();
        Ok(done.rows_affected())
    })
}

/// The pause of a projection in a file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn of_file(connection: &rusqlite::Connection, projection: &str) -> rusqlite::Result<Option<Pause>> {
    let sql = "SELECT paused_by, paused_at FROM _projectionist_pauses WHERE projection = ?1";
    let pause = |row: &rusqlite::Row<'_>| {
        let at: String = row.get(1)?;
        let since = timestamp::parse(&at).map_or(at, timestamp::format);
        Ok(Pause { by: row.get(0)?, since })
    };
    connection.query_row(sql, [projection], pause).optional()
}

/// Takes the pause of a projection along into another file, which is to become its own.
///
/// # Errors
/// When one of them cannot be read or written.
pub(super) fn carry(from: &rusqlite::Connection, to: &rusqlite::Connection, projection: &str) -> rusqlite::Result<()> {
    to.execute("DELETE FROM _projectionist_pauses", [])?;
    if let Some(Pause { by, since }) = of_file(from, projection)? {
        let sql = "INSERT INTO _projectionist_pauses (projection, paused_by, paused_at) VALUES (?1, ?2, ?3)";
        to.execute(sql, params![projection, by, since])?;
    }
    Ok(())
}
