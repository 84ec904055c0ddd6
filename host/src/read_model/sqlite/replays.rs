//! The host's tables in a replay on SQLite: requests and letters, on the connection that holds the claim.

use rusqlite::params;

use super::super::dead_letter::{Aggregate, Reason};
use super::super::request::{Action, Amendment, Answer, Asked, Letter, Replays, Request};
use super::super::value::SqlError;
use super::{SqliteStore, sql_error};
use crate::event::Position;

impl Replays for SqliteStore {
    fn requests(&mut self) -> Result<Vec<Request>, SqlError> {
        let read = || -> rusqlite::Result<Vec<Request>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT id, bounded_context, aggregate_type, aggregate_id, action, global_position
                 FROM _projectionist_dead_letter_requests WHERE projection = ?1 AND outcome IS NULL ORDER BY id",
            )?;
            let rows = statement.query_map([&self.slot.projection], |row| {
                let aggregate =
                    Aggregate { bounded_context: row.get(1)?, aggregate_type: row.get(2)?, aggregate_id: row.get(3)? };
                let action: String = row.get(4)?;
                Ok(Request { id: row.get(0)?, aggregate, action: Action::stored(&action, row.get(5)?) })
            })?;
            rows.collect()
        };
        let mut requests = read().map_err(|error| sql_error(&error))?;
        requests.retain(|request| self.slot.partition.owns(&request.aggregate.aggregate_id));
        Ok(requests)
    }

    fn note(&mut self, request: i64, why: &str) -> Result<(), SqlError> {
        self.host(
            "UPDATE _projectionist_dead_letter_requests SET message = ?2 WHERE id = ?1 AND outcome IS NULL",
            params![request, why],
        )
        .map(drop)
    }

    fn letters(&mut self, aggregate: &Aggregate) -> Result<Vec<Letter>, SqlError> {
        self.ensure_begun()?;
        let read = || -> rusqlite::Result<Vec<Letter>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT global_position, reason, attempts FROM _projectionist_dead_letters
                 WHERE projection = ?1 AND bounded_context = ?2 AND aggregate_type = ?3 AND aggregate_id = ?4
                   AND reason <> 'skipped'
                 ORDER BY global_position",
            )?;
            let Aggregate { bounded_context, aggregate_type, aggregate_id } = aggregate;
            let parameters = params![self.slot.projection, bounded_context, aggregate_type, aggregate_id];
            let rows = statement.query_map(parameters, |row| {
                let reason: String = row.get(1)?;
                let position = Position::from_sql(row.get(0)?);
                Ok(Letter { position, reason: Reason::stored(&reason), attempts: row.get(2)? })
            })?;
            rows.collect()
        };
        read().map_err(|error| sql_error(&error))
    }

    fn amend(&mut self, amendment: &Amendment<'_>) -> Result<(), SqlError> {
        self.ensure_begun()?;
        self.host(
            "UPDATE _projectionist_dead_letters SET reason = ?3, error = coalesce(?4, error), attempts = ?5,
                 plugin_digest = ?6
             WHERE projection = ?1 AND global_position = ?2",
            params![
                self.slot.projection,
                amendment.position.to_sql(),
                amendment.reason.as_str(),
                amendment.error,
                amendment.attempts,
                amendment.plugin_digest,
            ],
        )
        .map(drop)
    }

    fn unpark(&mut self, aggregate: &Aggregate) -> Result<(), SqlError> {
        self.ensure_begun()?;
        let Aggregate { bounded_context, aggregate_type, aggregate_id } = aggregate;
        self.host(
            "DELETE FROM _projectionist_dead_letters
             WHERE projection = ?1 AND bounded_context = ?2 AND aggregate_type = ?3 AND aggregate_id = ?4
               AND reason <> 'skipped'",
            params![self.slot.projection, bounded_context, aggregate_type, aggregate_id],
        )
        .map(drop)
    }

    fn answer(&mut self, asked: Asked<'_>, answer: &Answer) -> Result<(), SqlError> {
        self.ensure_begun()?;
        let (request, aggregate) = match asked {
            Asked::One(request) => (Some(request), None),
            Asked::About(aggregate) => (None, Some(aggregate)),
        };
        self.host(
            "UPDATE _projectionist_dead_letter_requests SET outcome = ?1, applied = ?2, failed_position = ?3,
                 message = ?4, done_by = ?5, done_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
             WHERE projection = ?6 AND outcome IS NULL
               AND (id = ?7 OR (bounded_context = ?8 AND aggregate_type = ?9 AND aggregate_id = ?10))",
            params![
                answer.outcome.as_str(),
                answer.applied.cast_signed(),
                answer.failed.map(Position::to_sql),
                answer.message,
                answer.by,
                self.slot.projection,
                request,
                aggregate.map(|aggregate| &aggregate.bounded_context),
                aggregate.map(|aggregate| &aggregate.aggregate_type),
                aggregate.map(|aggregate| &aggregate.aggregate_id),
            ],
        )
        .map(drop)
    }

    fn check_deferred(&mut self) -> Result<(), SqlError> {
        // Foreign keys are all that SQLite defers.
        let broken = || self.connection().prepare_cached("PRAGMA foreign_key_check")?.exists([]);
        match broken().map_err(|error| sql_error(&error))? {
            true => Err(SqlError::permanent("23503", "FOREIGN KEY constraint failed")),
            false => Ok(()),
        }
    }
}
