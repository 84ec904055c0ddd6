//! Rosters in Postgres: a row a set, and an advisory lock a member.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::Hasher as _;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use super::roster::{Member, Next, Roster, owner_of};
use super::{Generation, KEPT, Life, Look, Membership, Overview};
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres};

/// How long the server may be silent. Each statement here takes a millisecond.
const SILENCE: Duration = Duration::from_secs(10);

/// What is asked of a set.
const ROSTER: &str = "SELECT generation, roster::text FROM projectionist.replica_sets WHERE replica_set = $1";

/// A place in a set.
pub(super) struct Place {
    /// The database.
    database: Postgres,
    /// The session that holds the lock.
    connection: PgConnection,
    /// Which set.
    set: String,
    /// As whom.
    member: String,
}

impl Place {
    /// Takes it.
    pub(super) fn take(database: &Postgres, set: &str, member: &str) -> Result<Self, DatabaseError> {
        let failed = |source| database.error("joining a replica set", source);
        let connection = database.block_on(bounded(database, async {
            let mut connection = database.connect(&format!("projectionist replica set {set}")).await?;
            schema::check_postgres(database, &mut connection, Tables::ReadModel).await?;
            // Nobody else has that name; but the session that had the lock before may not have ended yet, and somebody may
            // be looking whether it has.
            sqlx::raw_sql("SET lock_timeout = '5s'").execute(&mut connection).await.map_err(failed)?;
            let lock = sqlx::query("SELECT pg_advisory_lock($1)").bind(lock_key(set, member));
            lock.execute(&mut connection).await.map_err(failed)?;
            Ok(connection)
        }))?;
        Ok(Self { database: database.clone(), connection, set: set.to_owned(), member: member.to_owned() })
    }
}

impl Membership for Place {
    fn look(&mut self) -> Result<Look, DatabaseError> {
        let Self { database, connection, set, member } = self;
        let failed = |source| database.error("looking at a replica set", source);
        database.block_on(bounded(database, async {
            let row: Option<(i64, String)> =
                sqlx::query_as(ROSTER).bind(&*set).fetch_optional(&mut *connection).await.map_err(failed)?;
            let Some((generation, roster)) = row else {
                let own_beat = own_beat(connection, member).await.map_err(failed)?;
                return Ok(Look { own_beat, ..Look::default() });
            };
            let roster = parse(database, &roster)?;
            let lives = lives(connection, set, &roster, Some(member)).await.map_err(failed)?;
            let own_beat = match roster.has(member) {
                true => None,
                false => own_beat(connection, member).await.map_err(failed)?,
            };
            Ok(Look { generation: generation.unsigned_abs(), roster, lives, own_beat })
        }))
    }

    fn write(&mut self, generation: u64, next: &Next) -> Result<bool, DatabaseError> {
        let Self { database, connection, set, member } = self;
        let failed = |source| database.error("writing the roster of a replica set", source);
        let roster = serde_json::to_string(&next.roster).map_err(|error| failed(sqlx::Error::Encode(error.into())))?;
        // One statement, so that no lock stays behind when this process freezes in the middle.
        let write = sqlx::query(
            "WITH roster AS (
                 INSERT INTO projectionist.replica_sets AS r (replica_set, generation, roster) VALUES ($1, $2 + 1, $3::jsonb)
                 ON CONFLICT (replica_set) DO UPDATE SET generation = excluded.generation, roster = excluded.roster
                     WHERE r.generation = $2
                 RETURNING 1),
             old AS (
                 DELETE FROM projectionist.replica_generations
                 WHERE replica_set = $1 AND generation <= $2 - $4 AND EXISTS (SELECT FROM roster))
             INSERT INTO projectionist.replica_generations
                 (replica_set, generation, reason, members, slots, moved, written_by)
             SELECT $1, $2 + 1, $5, $6, $7, $8, $9 FROM roster",
        )
        .bind(&*set)
        .bind(generation.cast_signed())
        .bind(roster)
        .bind(KEPT.cast_signed())
        .bind(&next.reason)
        .bind(i32::try_from(next.roster.members.len()).unwrap_or(i32::MAX))
        .bind(next.roster.slots.cast_signed())
        .bind(next.moved.cast_signed())
        .bind(&*member);
        database.block_on(bounded(database, async {
            match write.execute(connection).await {
                Ok(written) => Ok(written.rows_affected() > 0),
                // Two who write the very first roster at the same time.
                Err(sqlx::Error::Database(error))
                    if error.is_unique_violation() || error.is_foreign_key_violation() =>
                {
                    Ok(false)
                }
                Err(error) => Err(failed(error)),
            }
        }))
    }
}

/// All sets.
pub(super) fn all(database: &Postgres) -> Result<Vec<Overview>, DatabaseError> {
    let failed = |source| database.error("reading replica sets", source);
    database.block_on(bounded(database, async {
        let mut connection = database.connect("projectionist status").await?;
        schema::check_postgres(database, &mut connection, Tables::ReadModel).await?;
        type Row = (String, i64, String, Option<String>, i32, String, i64);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT replica_set, generation, roster::text, reason, coalesce(moved, 0), coalesce(written_by, ''),
                 coalesce((extract(epoch FROM written_at) * 1000000)::bigint, 0)
             FROM projectionist.replica_sets LEFT JOIN projectionist.replica_generations USING (replica_set, generation)
             ORDER BY replica_set",
        )
        .fetch_all(&mut connection)
        .await
        .map_err(failed)?;
        let mut all = Vec::new();
        for (name, generation, roster, reason, moved, written_by, written_at) in rows {
            let (generation, roster) = (generation.unsigned_abs(), parse(database, &roster)?);
            let lives = lives(&mut connection, &name, &roster, None).await.map_err(failed)?;
            let silent = silent(&mut connection, &roster).await.map_err(failed)?;
            let (moved, written_at) = (moved.unsigned_abs(), crate::timestamp::format(written_at));
            let last = reason.map(|reason| Generation { generation, reason, moved, written_by, written_at });
            all.push(Overview { name, look: Look { generation, roster, lives, own_beat: None }, silent, last });
        }
        connection.close().await.ok();
        Ok(all)
    }))
}

/// Of each member but this one, whether it lives. Its lock can be shared when it is not held: for a moment, by any number of
/// those who look.
async fn lives(
    connection: &mut PgConnection,
    set: &str,
    roster: &Roster,
    but: Option<&str>,
) -> Result<BTreeMap<String, Life>, sqlx::Error> {
    let names = || roster.members.iter().map(|member| &*member.name).filter(|name| Some(*name) != but);
    let keys: Vec<i64> = names().map(|name| lock_key(set, name)).collect();
    let owners: Vec<&str> = names().map(owner_of).collect();
    let lives: Vec<(bool, Option<i64>)> = sqlx::query_as(
        "SELECT pg_try_advisory_xact_lock_shared(key), beat
         FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS member (key, owner, number)
         LEFT JOIN projectionist.workers USING (owner) ORDER BY number",
    )
    .bind(keys)
    .bind(owners)
    .fetch_all(connection)
    .await?;
    let life = |(is_free, beat): (bool, Option<i64>)| {
        if is_free { Life::Ended } else { Life::Beats(beat.map(i64::unsigned_abs)) }
    };
    Ok(names().map(str::to_owned).zip(lives.into_iter().map(life)).collect())
}

/// Of each member, how many seconds ago its last sign of life was, by the server's clock.
async fn silent(connection: &mut PgConnection, roster: &Roster) -> Result<BTreeMap<String, f64>, sqlx::Error> {
    let owners: Vec<&str> = roster.members.iter().map(Member::owner).collect();
    let ages: Vec<(String, f64)> = sqlx::query_as(
        "SELECT owner, extract(epoch FROM clock_timestamp() - beat_at)::float8 FROM projectionist.workers
         WHERE owner = ANY($1)",
    )
    .bind(owners)
    .fetch_all(connection)
    .await?;
    let age = |member: &Member| {
        let found = ages.iter().find(|(owner, _)| owner == member.owner());
        found.map(|(_, age)| (member.name.clone(), age.max(0.0)))
    };
    Ok(roster.members.iter().filter_map(age).collect())
}

/// A member's last sign of life.
async fn own_beat(connection: &mut PgConnection, member: &str) -> Result<Option<u64>, sqlx::Error> {
    let beat = sqlx::query_scalar("SELECT beat FROM projectionist.workers WHERE owner = $1").bind(owner_of(member));
    let beat: Option<i64> = beat.fetch_optional(connection).await?;
    Ok(beat.map(i64::unsigned_abs))
}

/// The advisory lock of a member.
fn lock_key(set: &str, member: &str) -> i64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(b"projectionist member\0");
    hasher.write(set.as_bytes());
    hasher.write(b"\0");
    hasher.write(member.as_bytes());
    hasher.finish().cast_signed()
}

/// A roster as it is stored.
fn parse(database: &Postgres, roster: &str) -> Result<Roster, DatabaseError> {
    serde_json::from_str(roster)
        .map_err(|error| database.error("reading the roster of a replica set", sqlx::Error::Decode(error.into())))
}

/// Waits for the server, but not for ever: one whose machine is gone never answers.
async fn bounded<T>(
    database: &Postgres,
    work: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(SILENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(database.error("waiting for the server", sqlx::Error::PoolTimedOut)),
    }
}
