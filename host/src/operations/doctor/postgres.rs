//! What a Postgres server tells of itself to the user that the host connects as.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Findings, Role};
use crate::database::monthly;
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres};

/// How far the two clocks may be apart before ages are wrong by more than anybody would overlook, in seconds.
const SKEW: f64 = 5.0;

/// From which age on a transaction is old, in seconds: it keeps vacuum from clearing away what nobody sees any more.
const OLD: f64 = 300.0;

/// The first version that has all that is used.
const OLDEST: i32 = 130_000;

/// Indexes that the host's queries of `events` need: their first columns, and what is slow without.
const INDEXES: [(&[&str], &str); 2] = [
    (&["global_position"], "reading events"),
    (&["bounded_context", "aggregate_type", "aggregate_id"], "replaying and exporting an aggregate"),
];

/// Looks at a server.
pub(super) fn examine(database: &Postgres, role: Role, findings: &mut Findings) {
    let kind = match role {
        Role::Events => "events",
        Role::ReadModel => "read model",
    };
    let examined = database.block_on(async {
        let mut connection = database.connect("projectionist doctor").await?;
        let connection = &mut connection;
        let name = database.name();
        let failed = |error| database.error("examining the server", error);
        server(connection, name, findings).await.map_err(failed)?;
        let tables = if role == Role::Events { Tables::Events } else { Tables::ReadModel };
        if let Err(error) = schema::check_postgres(database, connection, tables).await {
            findings.error(kind, &error);
            return Ok(());
        }
        match role {
            Role::Events => events(connection, name, findings).await.map_err(failed)?,
            Role::ReadModel => read_model(connection, name, findings).await.map_err(failed)?,
        }
        Ok::<_, DatabaseError>(())
    });
    if let Err(error) = examined {
        findings.error(kind, &error);
    }
}

/// What concerns the server as a whole.
async fn server(connection: &mut PgConnection, name: &str, findings: &mut Findings) -> sqlx::Result<()> {
    let (version, number): (String, i32) =
        sqlx::query_as("SELECT current_setting('server_version'), current_setting('server_version_num')::int")
            .fetch_one(&mut *connection)
            .await?;
    if number < OLDEST {
        findings.problem("version", format!("{name}: PostgreSQL {version}"), "13 or later is needed");
    } else {
        findings.ok("version", format!("{name}: PostgreSQL {version}"));
    }
    clock(connection, name, findings).await?;
    let (used, most): (i64, i32) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
             current_setting('max_connections')::int",
    )
    .fetch_one(&mut *connection)
    .await?;
    let message = format!("{name}: {used} of {most} connections are in use");
    if used * 10 > i64::from(most) * 8 {
        let advice = "raise max_connections, or run fewer workers: each has a connection of its own";
        findings.warn("connections", message, advice);
    } else {
        findings.ok("connections", message);
    }
    transactions(connection, name, findings).await?;
    replication(connection, name, findings).await?;
    let (size, autovacuum): (String, String) =
        sqlx::query_as("SELECT pg_size_pretty(pg_database_size(current_database())), current_setting('autovacuum')")
            .fetch_one(&mut *connection)
            .await?;
    findings.ok("disk", format!("{name}: the database has {size}; the server does not tell what is free"));
    if autovacuum != "on" {
        let message = format!("{name}: autovacuum is off, and tables that are updated grow without end");
        findings.problem("bloat", message, "ALTER SYSTEM SET autovacuum = on, then SELECT pg_reload_conf()");
    }
    Ok(())
}

/// How far its clock is from this machine's.
async fn clock(connection: &mut PgConnection, name: &str, findings: &mut Findings) -> sqlx::Result<()> {
    let asked = Instant::now();
    let theirs: f64 =
        sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp())::float8").fetch_one(connection).await?;
    let (ours, waited) = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), asked.elapsed());
    let skew = skew(theirs, ours, waited);
    if skew.abs() > SKEW {
        findings.warn(
            "clock",
            format!("{name}: the server's clock is {skew:+.1} s from this machine's, so lag in seconds is as wrong"),
            "let NTP set both",
        );
    } else {
        findings.ok("clock", format!("{name}: the clocks agree"));
    }
    Ok(())
}

/// By how many seconds their clock is ahead, when the answer took so long.
fn skew(theirs: f64, ours: Duration, waited: Duration) -> f64 {
    theirs - (ours.as_secs_f64() - waited.as_secs_f64() / 2.0)
}

/// Transactions that have been open for long.
async fn transactions(connection: &mut PgConnection, name: &str, findings: &mut Findings) -> sqlx::Result<()> {
    let old: Vec<String> = sqlx::query_scalar(
        "SELECT format('pid %s (%s), %s, open for %s min', pid, coalesce(nullif(application_name, ''), usename), state,
                 round(extract(epoch FROM now() - xact_start) / 60))
         FROM pg_stat_activity WHERE xact_start < now() - make_interval(secs => $1) AND backend_type = 'client backend'
         UNION ALL
         SELECT format('prepared %s, open for %s min', gid, round(extract(epoch FROM now() - prepared) / 60))
         FROM pg_prepared_xacts WHERE prepared < now() - make_interval(secs => $1) AND database = current_database()",
    )
    .bind(OLD)
    .fetch_all(connection)
    .await?;
    if old.is_empty() {
        findings.ok("transactions", format!("{name}: no transaction is older than {:.0} min", OLD / 60.0));
    } else {
        let advice = "end them (pg_terminate_backend, ROLLBACK PREPARED), and set idle_in_transaction_session_timeout";
        findings.warn("transactions", format!("{name}: old transactions: {}", old.join("; ")), advice);
    }
    Ok(())
}

/// What commits wait for, and what waits for them.
async fn replication(connection: &mut PgConnection, name: &str, findings: &mut Findings) -> sqlx::Result<()> {
    let (commit, standbys, synchronous): (String, String, i64) = sqlx::query_as(
        "SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
             (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))",
    )
    .fetch_one(&mut *connection)
    .await?;
    if commit == "off" {
        findings.warn(
            "replication",
            format!("{name}: synchronous_commit is off, so a crash of the server may take the last commits"),
            "set it to on where events are stored; a read model goes back to an earlier checkpoint, and catches up",
        );
    } else if !standbys.is_empty() && synchronous == 0 && matches!(&*commit, "on" | "remote_write" | "remote_apply") {
        findings.problem(
            "replication",
            format!("{name}: commits wait for a standby of synchronous_standby_names ({standbys}), and none is there"),
            "start the standby, or take it out of synchronous_standby_names",
        );
    } else {
        findings.ok("replication", format!("{name}: synchronous_commit is {commit}"));
    }
    let idle: Vec<String> = sqlx::query_scalar("SELECT slot_name::text FROM pg_replication_slots WHERE NOT active")
        .fetch_all(connection)
        .await?;
    if !idle.is_empty() {
        findings.warn(
            "replication",
            format!(
                "{name}: nobody reads these replication slots, and the server keeps all WAL for them: {}",
                idle.join(", ")
            ),
            "start who reads them, or SELECT pg_drop_replication_slot(name)",
        );
    }
    Ok(())
}

/// What concerns the events.
async fn events(connection: &mut PgConnection, name: &str, findings: &mut Findings) -> sqlx::Result<()> {
    let (reads, sees): (bool, bool) = sqlx::query_as(
        "SELECT has_table_privilege('events', 'SELECT'), pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !reads {
        findings.problem(
            "privileges",
            format!("{name}: this user may not read events"),
            "GRANT SELECT ON events TO it",
        );
    } else if sees {
        findings.ok("privileges", format!("{name}: this user may read events, and see who holds the horizon back"));
    } else {
        findings.warn(
            "privileges",
            format!("{name}: this user does not see what others run, so who holds the horizon back has no name"),
            "GRANT pg_read_all_stats TO it",
        );
    }
    for (columns, without) in INDEXES {
        // Of a partitioned table, each partition has its own.
        let lacking: Vec<String> = sqlx::query_scalar(
            "WITH RECURSIVE tables AS (
                 SELECT 'events'::regclass::oid AS oid
                 UNION SELECT inhrelid FROM pg_inherits JOIN tables ON inhparent = tables.oid)
             SELECT pg_class.oid::regclass::text FROM pg_class JOIN tables USING (oid)
             WHERE relkind = 'r' AND NOT EXISTS (
                 SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisvalid AND indpred IS NULL
                   AND (SELECT array_agg(attname::text ORDER BY place) FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
                        JOIN pg_attribute ON attrelid = indrelid AND attnum = number WHERE place <= cardinality($1)) = $1)
             ORDER BY 1",
        )
        .bind(columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
        let list = columns.join(", ");
        match lacking.first() {
            None => findings.ok("indexes", format!("{name}: events has an index that begins with {list}")),
            Some(table) => {
                let message = format!("{name}: {table} has no index that begins with {list}: {without} is slow");
                findings.problem("indexes", message, format!("CREATE INDEX CONCURRENTLY ON {table} ({list})"));
            }
        }
    }
    months(connection, name, findings).await
}

/// What concerns events that lie in months, or are to.
async fn months(connection: &mut PgConnection, name: &str, findings: &mut Findings) -> sqlx::Result<()> {
    let left: Option<String> = sqlx::query_scalar(monthly::LEFT_BEHIND).fetch_optional(&mut *connection).await?;
    if let Some(constraint) = left {
        findings.problem(
            "months",
            format!("{name}: a host migrate --partition-events is at work, or was killed: events takes none but {constraint}"),
            "if none is at work, run host migrate: it takes that away",
        );
    }
    let default: Option<String> = sqlx::query_scalar(
        "SELECT partdefid::regclass::text FROM pg_partitioned_table JOIN pg_trigger ON tgrelid = partrelid
         WHERE partrelid = 'events'::regclass AND tgname = 'projectionist_keys' AND has_table_privilege(partdefid, 'SELECT')",
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(default) = default else { return Ok(()) };
    let late = AssertSqlSafe(format!("SELECT EXISTS (SELECT FROM {default} WHERE created_at <= now())"));
    if sqlx::query_scalar(late).fetch_one(connection).await? {
        findings.warn(
            "months",
            format!("{name}: {default} has events of a month whose partition was not there in time"),
            "host migrate moves them, up to 50,000 of a month; more are applied all the same, but do not go with their month",
        );
    }
    Ok(())
}

/// What concerns read models.
async fn read_model(connection: &mut PgConnection, name: &str, findings: &mut Findings) -> sqlx::Result<()> {
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s on projectionist.%s', privilege, tablename)
         FROM pg_tables, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
         WHERE schemaname = 'projectionist' AND tablename NOT LIKE '%migrations%' AND tablename <> 'event_keys'
           AND NOT has_table_privilege(format('projectionist.%I', tablename), privilege)
         UNION ALL SELECT 'CREATE on the database' WHERE NOT has_database_privilege(current_database(), 'CREATE')",
    )
    .fetch_all(&mut *connection)
    .await?;
    if missing.is_empty() {
        findings.ok("privileges", format!("{name}: this user may keep read models"));
    } else {
        findings.problem("privileges", format!("{name}: this user lacks {}", missing.join(", ")), "GRANT them to it");
    }
    let bloated: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s.%s (%s dead rows, %s live)', schemaname, relname, n_dead_tup, n_live_tup)
         FROM pg_stat_user_tables
         WHERE (schemaname = 'projectionist' OR schemaname IN (SELECT projection FROM projectionist.projections))
           AND n_dead_tup > 10000 AND n_dead_tup > n_live_tup ORDER BY n_dead_tup DESC LIMIT 5",
    )
    .fetch_all(&mut *connection)
    .await?;
    if bloated.is_empty() {
        findings.ok("bloat", format!("{name}: no table holds more dead rows than live ones"));
    } else {
        let advice = "VACUUM them; if they come back, end old transactions and let autovacuum run more often";
        findings.warn("bloat", format!("{name}: {}", bloated.join("; ")), advice);
    }
    let stale: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s, which has partition %s of %s of %s, for %s s', owner, partition_key, total_partitions, projection,
                 round(extract(epoch FROM now() - beat_at)))
         FROM projectionist.checkpoints JOIN projectionist.workers USING (owner)
         WHERE beat_at < now() - interval '10 seconds'
           AND EXISTS (SELECT FROM pg_stat_activity WHERE application_name = left('projectionist claims ' || owner, 63))",
    )
    .fetch_all(connection)
    .await?;
    if !stale.is_empty() {
        let advice = "it is frozen or cut off: end it; a worker that stands by replaces it after --stale-after";
        findings.problem("workers", format!("{name}: no sign of life of {}", stale.join("; ")), advice);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_an_answer_takes_is_no_skew() {
        let ours = Duration::from_secs(1_000);
        assert_eq!(skew(999.0, ours, Duration::from_secs(2)), 0.0);
        assert_eq!(skew(1_010.0, ours, Duration::ZERO), 10.0);
    }
}
