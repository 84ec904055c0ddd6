//! The operator's side of dead letters on Postgres.

use sqlx::PgConnection;

use super::super::dead_letter::{Aggregate, Reason};
use super::super::dead_letters::{Asked, Group, Letters, Listed, Page, Selection, StoredLetter, Waiting, Which};
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

/// A group's row: which of the aggregates, first and last position, letters, since when.
type GroupRow = (i64, i64, i64, i64, i64);

/// A request's row: which of the aggregates, id, action, position, who, when, note.
type WaitingRow = (i64, i64, String, Option<i64>, String, i64, String);

/// An answer's row: outcome, events applied, position that failed, message, who.
type AnswerRow = (Option<String>, i64, Option<i64>, String, Option<String>);

/// Aggregates that are given as lists, numbered from 1.
const AGGREGATES: &str = "unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY
    AS given (projection, bounded_context, aggregate_type, aggregate_id, number)";

/// One of them.
const OF: &str = "given.projection, given.bounded_context, given.aggregate_type, given.aggregate_id";

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

    /// Asks something of [`AGGREGATES`].
    fn of_aggregates<T>(&mut self, sql: &str, of: &[StoredLetter], doing: &'static str) -> Result<Vec<T>, DatabaseError>
    where
        T: for<'row> sqlx::FromRow<'row, sqlx::postgres::PgRow> + Send + Unpin,
    {
        let texts = |text: fn(&StoredLetter) -> &str| of.iter().map(text).collect::<Vec<_>>();
        let read = sqlx::query_as::<_, T>(sqlx::AssertSqlSafe(sql.to_owned()))
            .bind(texts(|letter| &letter.projection))
            .bind(texts(|letter| &letter.aggregate.bounded_context))
            .bind(texts(|letter| &letter.aggregate.aggregate_type))
            .bind(texts(|letter| &letter.aggregate.aggregate_id))
            .fetch_all(&mut self.connection);
        self.database.block_on(read).map_err(|error| self.database.error(doing, error))
    }
}

/// The letter of a number in [`AGGREGATES`], and where what was found of it goes.
fn at<'a, T>(of: &'a [StoredLetter], all: &'a mut [T], number: i64) -> Option<(&'a StoredLetter, &'a mut T)> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    Some((of.get(index)?, all.get_mut(index)?))
}

impl Letters for PostgresLetters {
    fn letters(
        &mut self,
        selection: &Selection,
        which: Which,
        page: &Page,
    ) -> Result<Listed<StoredLetter>, DatabaseError> {
        let read = sqlx::query_as::<_, LetterRow>(
            "SELECT projection, bounded_context, aggregate_type, aggregate_id, global_position, aggregate_version,
                 event_id, event_type, reason, error, attempts, plugin_digest,
                 (extract(epoch FROM created_at) * 1000000)::bigint
             FROM projectionist.dead_letters
             WHERE (projection = $1 OR $1::text IS NULL AND strpos(projection, '+') = 0) AND ($2::text IS NULL OR bounded_context = $2)
               AND ($3::text IS NULL OR aggregate_type = $3) AND ($4::text IS NULL OR aggregate_id = $4)
               AND ($5::bigint IS NULL OR global_position = $5) AND ($6::text IS NULL OR reason = $6)
               AND ($7::text IS NULL OR (projection, global_position) > ($7, $8::bigint))
             ORDER BY projection, global_position LIMIT $9",
        )
        .bind(&selection.projection)
        .bind(&selection.bounded_context)
        .bind(&selection.aggregate_type)
        .bind(&selection.aggregate_id)
        .bind(selection.position.map(Position::to_sql))
        .bind(which.reason())
        .bind(page.after.as_ref().map(|after| &after.projection))
        .bind(page.after.as_ref().map(|after| after.position.to_sql()))
        .bind(page.limit())
        .fetch_all(&mut self.connection);
        let rows = self.database.block_on(read);
        let rows = rows.map_err(|error| self.database.error("reading dead letters", error))?;
        Ok(Listed::of(rows.into_iter().map(letter).collect(), page))
    }

    fn groups(&mut self, of: &[StoredLetter]) -> Result<Vec<Option<Group>>, DatabaseError> {
        let sql = format!(
            "SELECT number, first, last, letters, since FROM {AGGREGATES}
             CROSS JOIN LATERAL (
                 SELECT min(global_position) AS first, max(global_position) AS last, count(*) AS letters,
                     (extract(epoch FROM min(created_at)) * 1000000)::bigint AS since
                 FROM projectionist.dead_letters AS l
                 WHERE (l.projection, l.bounded_context, l.aggregate_type, l.aggregate_id) = ({OF}) AND l.reason <> 'skipped'
             ) AS found WHERE letters > 0"
        );
        let rows: Vec<GroupRow> = self.of_aggregates(&sql, of, "reading dead letters")?;
        let mut groups = vec![None; of.len()];
        for (number, first, last, letters, since) in rows {
            let Some((letter, group)) = at(of, &mut groups, number) else { continue };
            *group = Some(Group {
                projection: letter.projection.clone(),
                aggregate: letter.aggregate.clone(),
                first: Position::from_sql(first),
                last: Position::from_sql(last),
                letters: letters.unsigned_abs(),
                since,
            });
        }
        Ok(groups)
    }

    fn waiting(&mut self, of: &[StoredLetter]) -> Result<Vec<Option<Waiting>>, DatabaseError> {
        let sql = format!(
            "SELECT number, id, action, global_position, requested_by, requested_at, message FROM {AGGREGATES}
             CROSS JOIN LATERAL (
                 SELECT id, action, global_position, requested_by,
                     (extract(epoch FROM requested_at) * 1000000)::bigint AS requested_at, message
                 FROM projectionist.dead_letter_requests AS r
                 WHERE (r.projection, r.bounded_context, r.aggregate_type, r.aggregate_id) = ({OF}) AND r.outcome IS NULL
                 ORDER BY id DESC LIMIT 1
             ) AS request"
        );
        let rows: Vec<WaitingRow> = self.of_aggregates(&sql, of, "reading requests")?;
        let mut all = vec![None; of.len()];
        for (number, id, action, position, by, at_time, note) in rows {
            let Some((letter, waiting)) = at(of, &mut all, number) else { continue };
            *waiting = Some(Waiting {
                id,
                projection: letter.projection.clone(),
                aggregate: letter.aggregate.clone(),
                action: Action::stored(&action, position),
                by,
                at: at_time,
                note,
            });
        }
        Ok(all)
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
