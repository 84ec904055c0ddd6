//! The host's tables in a replay on Postgres: requests and letters, in the session that holds the claim.

use super::super::dead_letter::{Aggregate, Reason};
use super::super::request::{Action, Amendment, Answer, Asked, Letter, Replays, Request};
use super::super::store::Store as _;
use super::super::value::SqlError;
use serde_json::json;

use super::{PostgresStore, sealed, sql_error, storable};
use crate::event::Position;

/// A request's row: id, bounded context, aggregate type, aggregate id, action, position.
type RequestRow = (i64, String, String, String, String, Option<i64>);

impl Replays for PostgresStore {
    fn requests(&mut self) -> Result<Vec<Request>, SqlError> {
        let read = sqlx::query_as::<_, RequestRow>(if self.is_own_login() {
            "SELECT * FROM projectionist.own_requests($1)"
        } else {
            "SELECT id, bounded_context, aggregate_type, aggregate_id, action, global_position
             FROM projectionist.dead_letter_requests WHERE projection = $1 AND outcome IS NULL ORDER BY id"
        })
        .persistent(false)
        .bind(&self.slot.projection);
        let rows = self.session.run(async |connection| read.fetch_all(connection).await)?;
        let requests = rows.into_iter().map(|(id, bounded_context, aggregate_type, aggregate_id, action, position)| {
            let aggregate = Aggregate { bounded_context, aggregate_type, aggregate_id };
            Request { id, aggregate, action: Action::stored(&action, position) }
        });
        Ok(requests.filter(|request| self.slot.partition.owns(&request.aggregate.aggregate_id)).collect())
    }

    fn note(&mut self, request: i64, why: &str) -> Result<(), SqlError> {
        let noted = self.done_sealed("note", || json!({"request": request, "message": storable(why)}));
        // There is no transaction around it.
        if let Some(sealer) = self.fence.sealer() {
            match &noted {
                Ok(_) => sealer.committed(),
                Err(_) => sealer.rolled_back(),
            }
        }
        if noted? {
            return Ok(());
        }
        let update =
            sqlx::query("UPDATE projectionist.dead_letter_requests SET message = $2 WHERE id = $1 AND outcome IS NULL")
                .persistent(false)
                .bind(request)
                .bind(storable(why));
        self.session.run(async |connection| update.execute(connection).await).map(drop)
    }

    fn letters(&mut self, aggregate: &Aggregate) -> Result<Vec<Letter>, SqlError> {
        self.send_as_host()?;
        let read = sqlx::query_as::<_, (i64, String, i32)>(if self.is_own_login() {
            "SELECT * FROM projectionist.own_letters($1, $2, $3, $4)"
        } else {
            "SELECT global_position, reason, attempts FROM projectionist.dead_letters
             WHERE projection = $1 AND bounded_context = $2 AND aggregate_type = $3 AND aggregate_id = $4
               AND reason <> 'skipped'
             ORDER BY global_position"
        })
        .persistent(false)
        .bind(&self.slot.projection)
        .bind(&aggregate.bounded_context)
        .bind(&aggregate.aggregate_type)
        .bind(&aggregate.aggregate_id);
        let rows = self.session.run(async |connection| read.fetch_all(connection).await)?;
        let letter = |(position, reason, attempts): (i64, String, i32)| Letter {
            position: Position::from_sql(position),
            reason: Reason::stored(&reason),
            attempts: attempts.unsigned_abs(),
        };
        Ok(rows.into_iter().map(letter).collect())
    }

    fn amend(&mut self, amendment: &Amendment<'_>) -> Result<(), SqlError> {
        self.send_as_host()?;
        if self.done_sealed("amend", || sealed::amendment(amendment))? {
            return Ok(());
        }
        let update = sqlx::query(
            "UPDATE projectionist.dead_letters SET reason = $3, error = coalesce($4, error), attempts = $5,
                 plugin_digest = $6
             WHERE projection = $1 AND global_position = $2",
        )
        .persistent(false)
        .bind(&self.slot.projection)
        .bind(amendment.position.to_sql())
        .bind(amendment.reason.as_str())
        .bind(amendment.error.map(storable))
        .bind(amendment.attempts.cast_signed())
        .bind(amendment.plugin_digest);
        self.session.run(async |connection| update.execute(connection).await).map(drop)
    }

    fn unpark(&mut self, aggregate: &Aggregate) -> Result<(), SqlError> {
        self.send_as_host()?;
        let Aggregate { bounded_context, aggregate_type, aggregate_id } = aggregate;
        let what =
            json!({"bounded_context": bounded_context, "aggregate_type": aggregate_type, "aggregate_id": aggregate_id});
        if self.done_sealed("unpark", || what)? {
            return Ok(());
        }
        let delete = sqlx::query(
            "DELETE FROM projectionist.dead_letters
             WHERE projection = $1 AND bounded_context = $2 AND aggregate_type = $3 AND aggregate_id = $4
               AND reason <> 'skipped'",
        )
        .persistent(false)
        .bind(&self.slot.projection)
        .bind(&aggregate.bounded_context)
        .bind(&aggregate.aggregate_type)
        .bind(&aggregate.aggregate_id);
        self.session.run(async |connection| delete.execute(connection).await).map(drop)
    }

    fn answer(&mut self, asked: Asked<'_>, answer: &Answer) -> Result<(), SqlError> {
        self.send_as_host()?;
        if self.done_sealed("answer", || sealed::answer(asked, answer))? {
            return Ok(());
        }
        let (request, aggregate) = match asked {
            Asked::One(request) => (Some(request), None),
            Asked::About(aggregate) => (None, Some(aggregate)),
        };
        let update = sqlx::query(
            "UPDATE projectionist.dead_letter_requests SET outcome = $1, applied = $2, failed_position = $3,
                 message = $4, done_by = $5, done_at = now()
             WHERE projection = $6 AND outcome IS NULL
               AND (id = $7 OR (bounded_context = $8 AND aggregate_type = $9 AND aggregate_id = $10))",
        )
        .persistent(false)
        .bind(answer.outcome.as_str())
        .bind(answer.applied.cast_signed())
        .bind(answer.failed.map(Position::to_sql))
        .bind(storable(&answer.message))
        .bind(&answer.by)
        .bind(&self.slot.projection)
        .bind(request)
        .bind(aggregate.map(|aggregate| &aggregate.bounded_context))
        .bind(aggregate.map(|aggregate| &aggregate.aggregate_type))
        .bind(aggregate.map(|aggregate| &aggregate.aggregate_id));
        self.session.run(async |connection| update.execute(connection).await).map(drop)
    }

    fn check_deferred(&mut self) -> Result<(), SqlError> {
        self.act_as_projection();
        self.send()?;
        // Going back to the savepoint makes them deferred again, as the next event may rely on.
        let check = "SAVEPOINT deferred; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO deferred; RELEASE deferred";
        self.session.prepare(Some(self.limits), async |connection, _| {
            sqlx::raw_sql(check).execute(connection).await.map(drop).map_err(|error| sql_error(&error))
        })
    }
}
