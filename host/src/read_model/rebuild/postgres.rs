//! Rebuilding a read model in Postgres: a schema of its own, and a swap that renames it.
//!
//! The live workers' side of the swap is argued in [`super`]; this is the readers'. A name in a statement means what
//! the catalogue says when the statement is parsed. Three things could show a reader half:
//!
//! - **A statement that joins two tables**, parsed while the swap commits, could find the one in the old schema and
//!   the other in the new one. A statement locks each table as it finds it; the swap locks all live tables exclusively
//!   before it changes anything. So whoever has found one of them is waited for, and whoever finds none before the
//!   swap finds all of them after it.
//! - **A transaction of several statements** that has read a live table holds its lock until it ends; the swap waits
//!   for it as well.
//! - **A snapshot that is older than the rebuild's last commit** (REPEATABLE READ) would find the new tables with the
//!   rows of that older time: half a read model. So transactions that have a snapshot when the rebuild has stopped are
//!   waited for before the swap. Later ones see everything.
//!
//! A swap that waits for a lock makes those wait that come after it. So it waits for a fraction of a second, lets go,
//! and tries again, longer each time: its caller decides. The lock also makes it possible to drop the old schema in
//! the same transaction. So there is never a third schema to clear away.
//!
//! What an operator granted on the live schema, its tables, views, sequences and columns is granted on the new ones of
//! the same name. What stands outside of the schema and depends on its tables (a view, a foreign key) would stay with
//! the old ones: that is refused, before the rebuild begins and again before the swap.

mod carry;

use std::hash::Hasher as _;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::postgres::{found_and_deleted, quote_identifier};
use super::{RebuildError, Successor, Swap, name_of, signature, successors};
use crate::database::Postgres;
use crate::database::schema::{self, Tables};

/// How long a server may take to notice that the process of an earlier rebuild has gone.
const LINGER: Duration = Duration::from_secs(2);

/// What the session of a rebuild is called, before the name of its owner.
const APPLICATION: &str = "projectionist rebuild ";

/// The right to rebuild a projection: an advisory lock of a session, which also swaps.
#[derive(Debug)]
pub struct Rebuild {
    /// The database.
    database: Postgres,
    /// The session that holds the lock; nothing when it was lost.
    connection: Option<PgConnection>,
    /// Which projection.
    projection: String,
    /// Who rebuilds.
    owner: String,
}

/// Why a transaction was not carried through.
enum Refused {
    /// A lock was not to be had in time.
    Busy,
    /// Something else.
    Error(RebuildError),
}

impl Rebuild {
    /// Takes the lock.
    pub(super) fn begin(database: &Postgres, projection: &str, owner: &str) -> Result<Self, RebuildError> {
        let (projection, owner) = (projection.to_owned(), owner.to_owned());
        let mut rebuild = Self { database: database.clone(), connection: None, projection, owner };
        database.block_on(async { rebuild.connect().await.map(drop) })?;
        Ok(rebuild)
    }

    /// The session with the lock. One that was lost is made again, unless somebody else has taken the lock since.
    async fn connect(&mut self) -> Result<(), RebuildError> {
        if let Some(connection) = &mut self.connection
            && connection.ping().await.is_ok()
        {
            return Ok(());
        }
        self.connection = None;
        let failed = |source| self.database.error("taking the lock of a rebuild", source);
        let mut connection = self.database.connect(&format!("{APPLICATION}{}", self.owner)).await?;
        schema::check_postgres(&self.database, &mut connection, Tables::ReadModel).await?;
        // Names are written with their schema; an operator's default timeouts are not meant for this.
        let settings = "SET search_path = pg_catalog; SET statement_timeout = 0; SET client_min_messages = warning;
                        SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off";
        sqlx::raw_sql(settings).execute(&mut connection).await.map_err(failed)?;
        let began = Instant::now();
        loop {
            let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
                .bind(lock_key(&self.projection))
                .fetch_one(&mut connection)
                .await
                .map_err(failed)?;
            if locked {
                break;
            }
            if began.elapsed() >= LINGER {
                let owner = holder(&mut connection, &self.projection).await.map_err(failed)?;
                return Err(RebuildError::Running { projection: self.projection.clone(), owner });
            }
            tokio::time::sleep(LINGER / 20).await;
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Runs something in a transaction in which no lock is waited for longer than `wait`, and commits it.
    async fn transact<F>(&mut self, wait: Duration, doing: &'static str, run: F) -> Result<(), Refused>
    where
        F: AsyncFnOnce(&mut PgConnection, &Names<'_>) -> Result<(), Stop>,
    {
        self.connect().await.map_err(Refused::Error)?;
        let Self { database, connection, projection, owner } = self;
        let connection = connection.as_mut().ok_or(Refused::Busy)?;
        let names = Names { live: projection, rebuilt: name_of(projection), signature: signature(owner) };
        let failed = |source: sqlx::Error| match source.as_database_error().and_then(|error| error.code()).as_deref() {
            // A lock that was not to be had in time, or a deadlock that the server ended.
            Some("55P03" | "40P01") => Refused::Busy,
            _ => Refused::Error(database.error(doing, source).into()),
        };
        let mut transaction = connection.begin().await.map_err(failed)?;
        let timeout = format!("SET LOCAL lock_timeout = {}", wait.as_millis().max(1));
        sqlx::raw_sql(AssertSqlSafe(timeout)).execute(&mut *transaction).await.map_err(failed)?;
        match run(&mut transaction, &names).await {
            Ok(()) => transaction.commit().await.map_err(failed),
            Err(stop) => {
                transaction.rollback().await.ok();
                Err(match stop {
                    Stop::Sql(error) => failed(error),
                    Stop::Error(error) => Refused::Error(error),
                })
            }
        }
    }

    /// See [`super::Rebuild::check`].
    pub(super) fn check(&mut self) -> Result<(), RebuildError> {
        let database = self.database.clone();
        database.block_on(async {
            self.connect().await?;
            let Some(connection) = &mut self.connection else { return Ok(()) };
            let by = carry::dependents(connection, &self.projection).await;
            let by = by.map_err(|source| self.database.error("looking for what depends on a read model", source))?;
            if by.is_empty() {
                Ok(())
            } else {
                Err(RebuildError::DependedOn { projection: self.projection.clone(), by })
            }
        })
    }

    /// See [`super::Rebuild::discard`].
    pub(super) fn discard(&mut self) -> Result<(), RebuildError> {
        let database = self.database.clone();
        // Nobody reads there.
        let dropped = database.block_on(self.transact(Duration::from_secs(60), "discarding a rebuild", discard));
        match dropped {
            Ok(()) => Ok(()),
            Err(Refused::Error(error)) => Err(error),
            Err(Refused::Busy) => {
                let owner = "a session that uses its schema".to_owned();
                Err(RebuildError::Running { projection: self.projection.clone(), owner })
            }
        }
    }

    /// See [`super::Rebuild::swap`].
    pub(super) fn swap(&mut self, wait: Duration) -> Result<Swap, RebuildError> {
        let database = self.database.clone();
        database.block_on(async {
            self.connect().await?;
            let by = self.older_snapshots(wait).await?;
            if !by.is_empty() {
                return Ok(Swap::Busy { by });
            }
            let swapped = self.transact(wait, "swapping a rebuilt read model in", swap).await;
            self.told(swapped).await
        })
    }

    /// See [`super::Rebuild::empty`].
    pub(super) fn empty(&mut self, wait: Duration) -> Result<Swap, RebuildError> {
        let database = self.database.clone();
        database.block_on(async {
            let emptied = self.transact(wait, "emptying a read model", empty).await;
            self.told(emptied).await
        })
    }

    /// What became of it, and who was in the way.
    async fn told(&mut self, result: Result<(), Refused>) -> Result<Swap, RebuildError> {
        match result {
            Ok(()) => Ok(Swap::Done),
            Err(Refused::Error(error)) => Err(error),
            Err(Refused::Busy) => {
                let Some(connection) = &mut self.connection else { return Ok(Swap::Busy { by: Vec::new() }) };
                let by = sqlx::query_scalar(
                    "SELECT DISTINCT coalesce(nullif(activity.application_name, ''), 'a client') || ', pid ' || activity.pid
                     FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
                     WHERE lock.locktype = 'relation' AND lock.granted AND activity.pid <> pg_backend_pid()
                       AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                       AND lock.relation IN (SELECT oid FROM pg_class WHERE relnamespace IN
                                                (SELECT oid FROM pg_namespace WHERE nspname = $1))",
                )
                .bind(&self.projection)
                .fetch_all(connection)
                .await;
                // Only for the message: whoever it was may have gone by now.
                Ok(Swap::Busy { by: by.unwrap_or_default() })
            }
        }
    }

    /// Waits until the transactions have ended that have a snapshot now, and gives those that have not in time.
    async fn older_snapshots(&mut self, wait: Duration) -> Result<Vec<String>, RebuildError> {
        // By the virtual transaction: a session goes on with another one. Vacuum has a snapshot, and reads no tables
        // of this kind by name.
        const HOLDERS: &str = "
            SELECT lock.virtualxid, coalesce(nullif(activity.application_name, ''), 'a client') || ', pid ' || activity.pid
            FROM pg_stat_activity AS activity JOIN pg_locks AS lock USING (pid)
            WHERE lock.locktype = 'virtualxid' AND lock.granted AND activity.datname = current_database()
              AND activity.backend_xmin IS NOT NULL AND activity.pid <> pg_backend_pid()
              AND activity.backend_type = 'client backend'";
        let Self { database, connection, .. } = self;
        let Some(connection) = connection else { return Ok(Vec::new()) };
        let failed = |source| database.error("looking for older transactions", source);
        let began = Instant::now();
        let mut older: Vec<(String, String)> =
            sqlx::query_as(HOLDERS).fetch_all(&mut *connection).await.map_err(failed)?;
        while !older.is_empty() && began.elapsed() < wait {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now: Vec<(String, String)> =
                sqlx::query_as(HOLDERS).fetch_all(&mut *connection).await.map_err(failed)?;
            older.retain(|(id, _)| now.iter().any(|(other, _)| other == id));
        }
        Ok(older.into_iter().map(|(_, who)| who).collect())
    }
}

/// The names that a transaction works with.
struct Names<'rebuild> {
    /// The projection, and its schema.
    live: &'rebuild str,
    /// The rebuild, and its schema.
    rebuilt: String,
    /// What stands as the owner of the checkpoints.
    signature: String,
}

/// Why a transaction ends early.
enum Stop {
    /// The database fails.
    Sql(sqlx::Error),
    /// It would do harm.
    Error(RebuildError),
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// Drops what was built.
async fn discard(connection: &mut PgConnection, names: &Names<'_>) -> Result<(), Stop> {
    drop_schema(connection, &names.rebuilt).await?;
    for table in ["checkpoints", "seals", "dead_letters", "dead_letter_requests", "projections"] {
        let delete = format!("DELETE FROM projectionist.{table} WHERE projection = $1");
        sqlx::query(AssertSqlSafe(delete)).bind(&names.rebuilt).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Puts what was built in the place of the live read model.
///
/// First the projection's row, so that nobody claims or migrates meanwhile; then the live tables; then the
/// checkpoints. A worker in the middle of a batch has the locks of tables and has still to take that of its
/// checkpoint, so another order would end in a deadlock.
async fn swap(connection: &mut PgConnection, names: &Names<'_>) -> Result<(), Stop> {
    let (live, rebuilt) = (names.live, &*names.rebuilt);
    lock_projection(connection, live).await?;
    lock_tables(connection, live).await?;
    let by = carry::dependents(connection, live).await?;
    if !by.is_empty() {
        return Err(Stop::Error(RebuildError::DependedOn { projection: live.to_owned(), by }));
    }
    carry::grants(connection, live, rebuilt).await?;
    drop_schema(connection, live).await?;
    let rename = format!("ALTER SCHEMA {} RENAME TO {}", quote_identifier(rebuilt), quote_identifier(live));
    sqlx::raw_sql(AssertSqlSafe(rename)).execute(&mut *connection).await?;
    sqlx::query("DELETE FROM projectionist.dead_letters WHERE projection = $1")
        .bind(live)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE projectionist.dead_letters SET projection = $1 WHERE projection = $2")
        .bind(live)
        .bind(rebuilt)
        .execute(&mut *connection)
        .await?;
    delete_requests(connection, names).await?;
    // A commit that is on its way is waited for.
    let before = found_and_deleted(connection, live).await?;
    let built = found_and_deleted(connection, rebuilt).await?;
    // Each claim has a key of its own; those of the rebuild are over.
    sqlx::query("DELETE FROM projectionist.seals WHERE projection = $1")
        .bind(rebuilt)
        .execute(&mut *connection)
        .await?;
    for successor in successors(&before, &built) {
        write_checkpoint(connection, names, &successor).await?;
    }
    // The row itself stays: whoever waits to claim waits for its lock.
    sqlx::query(
        "WITH rebuilt AS (DELETE FROM projectionist.projections WHERE projection = $2 RETURNING *)
         UPDATE projectionist.projections AS live
         SET schema_version = rebuilt.schema_version, migrated_at = rebuilt.migrated_at
         FROM rebuilt WHERE live.projection = $1",
    )
    .bind(live)
    .bind(rebuilt)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Drops the live read model, and puts its checkpoints at the start.
async fn empty(connection: &mut PgConnection, names: &Names<'_>) -> Result<(), Stop> {
    let live = names.live;
    lock_projection(connection, live).await?;
    lock_tables(connection, live).await?;
    let by = carry::dependents(connection, live).await?;
    if !by.is_empty() {
        return Err(Stop::Error(RebuildError::DependedOn { projection: live.to_owned(), by }));
    }
    let epoch = highest_epoch(connection, live).await?;
    drop_schema(connection, live).await?;
    sqlx::query(
        "UPDATE projectionist.checkpoints SET position = 0, lineage = NULL, events_applied = 0, epoch = $2, owner = $3,
             plugin_version = 0, plugin_digest = '', updated_at = now()
         WHERE projection = $1",
    )
    .bind(live)
    .bind(epoch + 1)
    .bind(&names.signature)
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM projectionist.dead_letters WHERE projection = $1")
        .bind(live)
        .execute(&mut *connection)
        .await?;
    delete_requests(connection, names).await?;
    sqlx::query("UPDATE projectionist.projections SET schema_version = 0, migrated_at = now() WHERE projection = $1")
        .bind(live)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// Forgets what was asked about dead letters that are no more. `host dlq`, if it waits for an answer, says so.
async fn delete_requests(connection: &mut PgConnection, names: &Names<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM projectionist.dead_letter_requests WHERE projection IN ($1, $2)")
        .bind(names.live)
        .bind(&names.rebuilt)
        .execute(connection)
        .await
        .map(drop)
}

/// Locks the row that claims and migrations of a projection wait for.
async fn lock_projection(connection: &mut PgConnection, projection: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT 1 FROM projectionist.projections WHERE projection = $1 FOR UPDATE")
        .bind(projection)
        .execute(connection)
        .await
        .map(drop)
}

/// Locks everything that can be read in a schema.
async fn lock_tables(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE nspname = $1 AND relkind IN ('r', 'p', 'v') ORDER BY pg_class.oid",
    )
    .bind(schema)
    .fetch_all(&mut *connection)
    .await?;
    if tables.is_empty() {
        return Ok(());
    }
    let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(connection).await.map(drop)
}

/// The highest epoch of a projection's claims, whose rows stay locked: no worker commits until the transaction ends.
async fn highest_epoch(connection: &mut PgConnection, projection: &str) -> Result<i64, sqlx::Error> {
    let epochs: Vec<i64> =
        sqlx::query_scalar("SELECT epoch FROM projectionist.checkpoints WHERE projection = $1 FOR UPDATE")
            .bind(projection)
            .fetch_all(connection)
            .await?;
    Ok(epochs.into_iter().max().unwrap_or(0))
}

/// Writes a checkpoint of the live one.
async fn write_checkpoint(
    connection: &mut PgConnection,
    names: &Names<'_>,
    successor: &Successor,
) -> Result<(), sqlx::Error> {
    let Successor { row, term, plugin_version, plugin_digest } = successor;
    sqlx::query(
        "INSERT INTO projectionist.checkpoints (projection, total_partitions, partition_key, position, epoch, owner,
             lineage, events_applied, term, plugin_version, plugin_digest)
         VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11)",
    )
    .bind(names.live)
    .bind(row.partition.total().cast_signed())
    .bind(row.partition.key().cast_signed())
    .bind(row.position.to_sql())
    .bind(row.epoch)
    .bind(&names.signature)
    .bind(row.lineage.to_json())
    .bind(row.events_applied.cast_signed())
    .bind(term.0.cast_signed())
    .bind(plugin_version.cast_signed())
    .bind(plugin_digest)
    .execute(connection)
    .await
    .map(drop)
}

/// Drops a schema with all that is in it.
async fn drop_schema(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    let drop_schema = format!("DROP SCHEMA IF EXISTS {} CASCADE", quote_identifier(schema));
    sqlx::raw_sql(AssertSqlSafe(drop_schema)).execute(connection).await.map(drop)
}

/// The advisory lock of a rebuild.
fn lock_key(projection: &str) -> i64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(b"projectionist rebuild\0");
    hasher.write(projection.as_bytes());
    hasher.finish().cast_signed()
}

/// Who holds the lock of a rebuild, going by what its session calls itself.
async fn holder(connection: &mut PgConnection, projection: &str) -> Result<String, sqlx::Error> {
    let application: Option<String> = sqlx::query_scalar(
        "SELECT activity.application_name FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
         WHERE lock.locktype = 'advisory' AND lock.objsubid = 1 AND lock.granted
           AND (lock.classid::bigint << 32) | lock.objid::bigint = $1
           AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .bind(lock_key(projection))
    .fetch_optional(connection)
    .await?;
    let owner = application.as_deref().and_then(|application| application.strip_prefix(APPLICATION));
    Ok(owner.unwrap_or("another process").to_owned())
}
