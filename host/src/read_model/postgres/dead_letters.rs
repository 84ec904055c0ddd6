//! The operator's side of dead letters on Postgres.

use sqlx::PgConnection;

use super::super::dead_letter::{Aggregate, Reason};
use super::super::dead_letters::{Asked, Group, Letters, Selection, StoredLetter, Waiting, Which};
use super::super::request::{Action, Answer, Outcome};
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres};
use crate::event::Position;

/// Dead letters in the schema `projectionist`.
#[derive(Debug)]
pub struct PostgresLetters {
    /// The database, for its runtime.
    database: Postgres,
    /// A session with it.
    connection: PgConnection,
}

/// A letter's row: projection, bounded context, aggregate type and id, position, version, event id and type, reason,
/// error, attempts, digest, time.
type LetterRow = (String, String, String, String, i64, i64, String, String, String, String, i32, String, i64);

/// A group's row: projection, bounded context, aggregate type and id, first and last position, letters, since when.
type GroupRow = (String, String, String, String, i64, i64, i64, i64);

/// A request's row: id, projection, bounded context, aggregate type and id, action, position, who, when, note.
type WaitingRow = (i64, String, String, String, String, String, Option<i64>, String, i64, String);

/// An answer's row: outcome, events applied, position that failed, message, who.
type AnswerRow = (Option<String>, i64, Option<i64>, String, Option<String>);

impl PostgresLetters {
    /// Connects.
    ///
    /// # Errors
    /// When the database cannot be reached, or its tables are not of this host's version.
    pub fn open(database: &Postgres) -> Result<Self, DatabaseError> {
        let connection = database.block_on(async {
            let mut connection = database.connect("projectionist dlq").await?;
            schema::check_postgres(database, &mut connection, Tables::ReadModel).await?;
            Ok::<_, DatabaseError>(connection)
        })?;
        Ok(Self { database: database.clone(), connection })
    }
}

impl Letters for PostgresLetters {
    fn letters(&mut self, selection: &Selection, which: Which) -> Result<Vec<StoredLetter>, DatabaseError> {
        let read = sqlx::query_as::<_, LetterRow>(
            "SELECT projection, bounded_context, aggregate_type, aggregate_id, global_position, aggregate_version,
                 event_id, event_type, reason, error, attempts, plugin_digest,
                 (extract(epoch FROM created_at) * 1000000)::bigint
             FROM projectionist.dead_letters
             WHERE (projection = $1 OR $1::text IS NULL AND strpos(projection, '+') = 0) AND ($2::text IS NULL OR bounded_context = $2)
               AND ($3::text IS NULL OR aggregate_type = $3) AND ($4::text IS NULL OR aggregate_id = $4)
               AND ($5::bigint IS NULL OR global_position = $5) AND ($6::text IS NULL OR reason = $6)
             ORDER BY projection, global_position",
        )
        .bind(&selection.projection)
        .bind(&selection.bounded_context)
        .bind(&selection.aggregate_type)
        .bind(&selection.aggregate_id)
        .bind(selection.position.map(Position::to_sql))
        .bind(which.reason())
        .fetch_all(&mut self.connection);
        let rows = self.database.block_on(read);
        let rows = rows.map_err(|error| self.database.error("reading dead letters", error))?;
        Ok(rows.into_iter().map(letter).collect())
    }

    fn groups(&mut self, selection: &Selection) -> Result<Vec<Group>, DatabaseError> {
        let read = sqlx::query_as::<_, GroupRow>(
            "SELECT projection, bounded_context, aggregate_type, aggregate_id, min(global_position),
                 max(global_position), count(*), (extract(epoch FROM min(created_at)) * 1000000)::bigint
             FROM projectionist.dead_letters
             WHERE reason <> 'skipped'
               AND (projection = $1 OR $1::text IS NULL AND strpos(projection, '+') = 0) AND ($2::text IS NULL OR bounded_context = $2)
               AND ($3::text IS NULL OR aggregate_type = $3) AND ($4::text IS NULL OR aggregate_id = $4)
             GROUP BY 1, 2, 3, 4 ORDER BY 1, 5",
        )
        .bind(&selection.projection)
        .bind(&selection.bounded_context)
        .bind(&selection.aggregate_type)
        .bind(&selection.aggregate_id)
        .fetch_all(&mut self.connection);
        let rows = self.database.block_on(read);
        let rows = rows.map_err(|error| self.database.error("reading dead letters", error))?;
        Ok(rows.into_iter().map(group).collect())
    }

    fn waiting(&mut self, selection: &Selection) -> Result<Vec<Waiting>, DatabaseError> {
        let read = sqlx::query_as::<_, WaitingRow>(
            "SELECT id, projection, bounded_context, aggregate_type, aggregate_id, action, global_position,
                 requested_by, (extract(epoch FROM requested_at) * 1000000)::bigint, message
             FROM projectionist.dead_letter_requests
             WHERE outcome IS NULL
               AND (projection = $1 OR $1::text IS NULL AND strpos(projection, '+') = 0) AND ($2::text IS NULL OR bounded_context = $2)
               AND ($3::text IS NULL OR aggregate_type = $3) AND ($4::text IS NULL OR aggregate_id = $4)
             ORDER BY id",
        )
        .bind(&selection.projection)
        .bind(&selection.bounded_context)
        .bind(&selection.aggregate_type)
        .bind(&selection.aggregate_id)
        .fetch_all(&mut self.connection);
        let rows = self.database.block_on(read);
        let rows = rows.map_err(|error| self.database.error("reading requests", error))?;
        Ok(rows.into_iter().map(waiting).collect())
    }

    fn ask(
        &mut self,
        projection: &str,
        aggregate: &Aggregate,
        action: Action,
        by: &str,
    ) -> Result<Option<i64>, DatabaseError> {
        // The lock on a letter puts this before or behind a replay that is about to remove it: before, and the replay
        // answers it; behind, and there is no letter any more.
        let insert = sqlx::query_scalar(
            "WITH parked AS (
                 SELECT 1 FROM projectionist.dead_letters
                 WHERE projection = $1 AND bounded_context = $2 AND aggregate_type = $3 AND aggregate_id = $4
                   AND reason <> 'skipped'
                 ORDER BY global_position LIMIT 1 FOR SHARE)
             INSERT INTO projectionist.dead_letter_requests
                 (projection, bounded_context, aggregate_type, aggregate_id, action, global_position, requested_by)
             SELECT $1, $2, $3, $4, $5, $6, $7 FROM parked RETURNING id",
        )
        .bind(projection)
        .bind(&aggregate.bounded_context)
        .bind(&aggregate.aggregate_type)
        .bind(&aggregate.aggregate_id)
        .bind(action.as_str())
        .bind(action.position().map(Position::to_sql))
        .bind(by)
        .fetch_optional(&mut self.connection);
        let id = self.database.block_on(insert);
        id.map_err(|error| self.database.error("asking for a replay", error))
    }

    fn asked(&mut self, _projection: &str, request: i64) -> Result<Asked, DatabaseError> {
        let read = sqlx::query_as::<_, AnswerRow>(
            "SELECT outcome, applied, failed_position, message, done_by FROM projectionist.dead_letter_requests
             WHERE id = $1",
        )
        .bind(request)
        .fetch_optional(&mut self.connection);
        let row = self.database.block_on(read);
        let row = row.map_err(|error| self.database.error("reading a request", error))?;
        Ok(row.map_or(Asked::Gone, |(outcome, applied, failed, message, by)| {
            match outcome.as_deref().and_then(Outcome::stored) {
                None => Asked::Waits(message),
                Some(outcome) => Asked::Answered(Answer {
                    outcome,
                    applied: applied.unsigned_abs(),
                    failed: failed.map(Position::from_sql),
                    message,
                    by: by.unwrap_or_default(),
                }),
            }
        }))
    }

    fn purge(&mut self, selection: &Selection, older_than: Option<u64>) -> Result<u64, DatabaseError> {
        let delete = sqlx::query(
            "DELETE FROM projectionist.dead_letters
             WHERE reason = 'skipped'
               AND (projection = $1 OR $1::text IS NULL AND strpos(projection, '+') = 0) AND ($2::text IS NULL OR bounded_context = $2)
               AND ($3::text IS NULL OR aggregate_type = $3) AND ($4::text IS NULL OR aggregate_id = $4)
               AND ($5::bigint IS NULL OR global_position = $5)
               AND ($6::bigint IS NULL OR created_at < now() - $6 * interval '1 second')",
        )
        .bind(&selection.projection)
        .bind(&selection.bounded_context)
        .bind(&selection.aggregate_type)
        .bind(&selection.aggregate_id)
        .bind(selection.position.map(Position::to_sql))
        .bind(older_than.map(u64::cast_signed))
        .execute(&mut self.connection);
        let deleted = self.database.block_on(delete);
        let deleted = deleted.map_err(|error| self.database.error("removing dead letters", error))?;
        Ok(deleted.rows_affected())
    }
}

/// A row as a letter.
fn letter(row: LetterRow) -> StoredLetter {
    let (
        projection,
        bounded_context,
        aggregate_type,
        aggregate_id,
        position,
        version,
        event_id,
        event_type,
        reason,
        error,
        attempts,
        plugin_digest,
        created_at,
    ) = row;
    StoredLetter {
        projection,
        aggregate: Aggregate { bounded_context, aggregate_type, aggregate_id },
        position: Position::from_sql(position),
        aggregate_version: version.unsigned_abs(),
        event_id,
        event_type,
        reason: Reason::stored(&reason),
        error,
        attempts: attempts.unsigned_abs(),
        plugin_digest,
        created_at,
    }
}

/// A row as a group.
fn group(row: GroupRow) -> Group {
    let (projection, bounded_context, aggregate_type, aggregate_id, first, last, letters, since) = row;
    Group {
        projection,
        aggregate: Aggregate { bounded_context, aggregate_type, aggregate_id },
        first: Position::from_sql(first),
        last: Position::from_sql(last),
        letters: letters.unsigned_abs(),
        since,
    }
}

/// A row as a request.
fn waiting(row: WaitingRow) -> Waiting {
    let (id, projection, bounded_context, aggregate_type, aggregate_id, action, position, by, at, note) = row;
    let aggregate = Aggregate { bounded_context, aggregate_type, aggregate_id };
    Waiting { id, projection, aggregate, action: Action::stored(&action, position), by, at, note }
}
