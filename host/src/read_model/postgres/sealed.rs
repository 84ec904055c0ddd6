//! What the host does to its own tables in a session that is the projection's: functions of the server, which read what is
//! the projection's own, and write what is [sealed](super::seal).

use serde_json::{Value as Json, json};
use sqlx::PgConnection;

use super::super::checkpoint::{Epoch, Found};
use super::super::dead_letter::DeadLetter;
use super::super::request::{Amendment, Answer, Asked};
use super::super::value::SqlError;
use super::seal::Sealed;
use super::{PostgresStore, storable};
use crate::event::Position;

impl PostgresStore {
    /// Seals what is to be done next, if this session is the projection's own.
    pub(super) fn sealed(&mut self, doing: &str, what: impl FnOnce() -> Json) -> Option<Sealed> {
        self.fence.sealer().map(|sealer| sealer.seal_next(doing, what()))
    }

    /// Has a function do what is sealed; says whether this session is the projection's own, where
    /// that is the way to do it.
    pub(super) fn done_sealed(&mut self, doing: &'static str, what: impl FnOnce() -> Json) -> Result<bool, SqlError> {
        let Some(Sealed { said, seal }) = self.sealed(doing, what) else { return Ok(false) };
        // As parameters: what a projection could read of this message is `$1`.
        let call = format!("SELECT projectionist.{doing}($1, $2)");
        let call = sqlx::query(sqlx::AssertSqlSafe(call)).persistent(false).bind(said).bind(seal);
        self.session.run(async |connection| call.execute(connection).await)?;
        Ok(true)
    }

    /// The version of the projection's tables, under a lock, and when they were brought to it; nothing when the claim is over.
    pub(super) async fn lock_version(
        connection: &mut PgConnection,
        Sealed { said, seal }: &Sealed,
    ) -> sqlx::Result<Option<(i32, Option<String>)>> {
        let lock =
            sqlx::query_as("SELECT * FROM projectionist.lock_version($1, $2)").persistent(false).bind(said).bind(seal);
        lock.fetch_optional(connection).await
    }

    /// Says which version the projection's tables have now; gives when that was, and the number of their schema.
    pub(super) fn set_version_sealed(&mut self, sealed: Sealed) -> Result<(Option<String>, Option<String>), SqlError> {
        let set = sqlx::query_as(
            "SELECT projectionist.set_version($1, $2), (SELECT oid::text FROM pg_namespace WHERE nspname = $3)",
        )
        .persistent(false)
        .bind(sealed.said)
        .bind(sealed.seal)
        .bind(&self.slot.projection);
        self.session.run(async |connection| set.fetch_one(connection).await)
    }

    /// What the checkpoint says, if it is there.
    pub(super) fn own_checkpoint(&mut self) -> Result<Option<Found>, SqlError> {
        let find =
            sqlx::query_as::<_, (String, i64, i64, i32)>("SELECT * FROM projectionist.own_checkpoint($1, $2, $3)")
                .persistent(false)
                .bind(&self.slot.projection)
                .bind(self.slot.partition.total().cast_signed())
                .bind(self.slot.partition.key().cast_signed());
        let found = self.session.run(async |connection| find.fetch_optional(connection).await)?;
        Ok(found.map(|(owner, epoch, position, version)| Found {
            owner,
            epoch: Epoch(epoch),
            position: Position::from_sql(position),
            version: version.unsigned_abs(),
        }))
    }
}

/// A dead letter, for `bury`.
pub(super) fn letter(letter: &DeadLetter<'_>, plugin_digest: &str) -> Json {
    let event = letter.event;
    json!({
        "position": event.position().to_sql(), "bounded_context": event.bounded_context,
        "aggregate_type": event.aggregate_type, "aggregate_id": event.aggregate_id,
        "aggregate_version": event.aggregate_version, "event_id": event.event_id, "event_type": event.event_type,
        "reason": letter.reason.as_str(), "error": storable(letter.error), "attempts": letter.attempts,
        "digest": plugin_digest,
    })
}

/// What becomes of a letter, for `amend`.
pub(super) fn amendment(amendment: &Amendment<'_>) -> Json {
    json!({
        "position": amendment.position.to_sql(), "reason": amendment.reason.as_str(),
        "error": amendment.error.map(storable), "attempts": amendment.attempts, "digest": amendment.plugin_digest,
    })
}

/// What an operator is answered, for `answer`.
pub(super) fn answer(asked: Asked<'_>, answer: &Answer) -> Json {
    let mut what = json!({
        "outcome": answer.outcome.as_str(), "applied": answer.applied, "failed": answer.failed.map(Position::to_sql),
        "message": storable(&answer.message), "by": answer.by,
    });
    match asked {
        Asked::One(request) => what["request"] = request.into(),
        Asked::About(aggregate) => {
            what["bounded_context"] = aggregate.bounded_context.as_str().into();
            what["aggregate_type"] = aggregate.aggregate_type.as_str().into();
            what["aggregate_id"] = aggregate.aggregate_id.as_str().into();
        }
    }
    what
}
