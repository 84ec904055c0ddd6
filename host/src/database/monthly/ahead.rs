//! The coming months. Whatever comes when its month is not there goes to the default partition and is read like all else;
//! when the month is made, it moves there. That holds the table up for as long as copying takes, so many events stay where they are.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{AHEAD, Names};
use crate::database::{DatabaseError, Postgres, patience};

/// As many events are moved while nobody reads and writes: half a second.
const MOVED: i64 = 50_000;

/// A default partition of more bytes is left as it is: it is read to the end for each month, under a lock.
const READ: i64 = 256 << 20;

/// The SQLSTATE of a statement that took too long.
const TOO_LONG: &str = "57014";

/// The months that have no partition: its name, and its bounds. Of those that have passed, the ones that the default partition has
/// events of.
const MISSING: &str = concat!(
    "WITH ",
    months!(),
    ", passed AS (
          SELECT DISTINCT date_trunc('month', created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS first FROM {default}
          WHERE created_at > '-infinity' AND created_at < (SELECT first FROM months WHERE number = 0)),
      missing AS (
          SELECT first FROM months WHERE number <= $1 AND NOT there
          UNION SELECT first FROM passed
          WHERE NOT EXISTS (SELECT FROM partitions WHERE lower < first + interval '1 month' AND upper > first))
      SELECT 'events_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM') AS name,
             to_char(first AT TIME ZONE 'UTC', 'YYYY-MM-DD') || ' 00:00:00+00' AS lower,
             to_char(first AT TIME ZONE 'UTC' + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00' AS upper
      FROM missing ORDER BY first"
);

/// The last month that there is: what the next one is made like.
const LAST: &str = "
    SELECT format('%I.%I', nspname, relname)
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE inhparent = 'events'::regclass AND relkind = 'r' AND pg_get_expr(relpartbound, pg_class.oid) <> 'DEFAULT'
    ORDER BY substring(pg_get_expr(relpartbound, pg_class.oid) FROM 'TO \\(''([^'']+)''\\)')::timestamptz DESC NULLS LAST LIMIT 1";

/// Whether there is a partition for whatever has no month.
const HAS_DEFAULT: &str = "SELECT partdefid <> 0 FROM pg_partitioned_table WHERE partrelid = 'events'::regclass";

/// Makes the partitions of the current month and of the coming ones, as far as they are not there.
pub(super) async fn make_months(database: &Postgres, connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let doing = "making the partition of a month";
    let failed = |error| database.error(doing, error);
    let names = Names::of(connection).await.map_err(failed)?;
    // A default partition with much in it is read to the end for each month, under a lock.
    sqlx::raw_sql("SET statement_timeout = '10s'").execute(&mut *connection).await.map_err(failed)?;
    let template: Option<String> = sqlx::query_scalar(LAST).fetch_optional(&mut *connection).await.map_err(failed)?;
    let Some(template) = template else {
        let obstacles = "\n    it has no month left that the next could be made like".to_owned();
        return Err(DatabaseError::CannotPartition { database: database.name().to_owned(), obstacles });
    };
    if !sqlx::query_scalar::<_, bool>(HAS_DEFAULT).fetch_one(&mut *connection).await.map_err(failed)? {
        let sql = "LOCK TABLE ONLY {events} IN ACCESS EXCLUSIVE MODE;
                   CREATE TABLE {default} (LIKE {template} INCLUDING ALL);
                   ALTER TABLE {default} OWNER TO {owner};
                   ALTER TABLE {events} ATTACH PARTITION {default} DEFAULT";
        let sql = names.fill(sql, &[("template", &template)]);
        patience::change_events(database, connection, doing, &sql).await?;
    }
    let default = names.table("events_default");
    let size = AssertSqlSafe(format!("SELECT pg_table_size('{}'::regclass)", default.replace('\'', "''")));
    let bytes: i64 = sqlx::query_scalar(size).fetch_one(&mut *connection).await.map_err(failed)?;
    if bytes > READ {
        tracing::warn!(
            bytes,
            "no month was made: events_default is too large to be read while nobody stores events. They are applied as all others; to \
             move them at a quiet time: docs/operations.md, Events by month"
        );
        return Ok(());
    }
    let sql = AssertSqlSafe(names.fill(MISSING, &[]));
    let missing: Vec<(String, String, String)> =
        sqlx::query_as(sql).bind(AHEAD).fetch_all(&mut *connection).await.map_err(failed)?;
    for (month, lower, upper) in missing {
        let waiting = format!(
            "SELECT count(*) FROM (SELECT FROM {default} WHERE created_at >= '{lower}' AND created_at < '{upper}' LIMIT {}) AS waiting",
            MOVED + 1
        );
        let waiting: i64 =
            sqlx::query_scalar(AssertSqlSafe(waiting)).fetch_one(&mut *connection).await.map_err(failed)?;
        if waiting > MOVED {
            tracing::warn!(
                month,
                "its events are in events_default already, too many to be moved: they stay there, and are read as all others; to move \
                 them at a quiet time: docs/operations.md, Events by month"
            );
            continue;
        }
        let named = [("month", &*names.table(&month)), ("template", &template), ("from", &lower), ("to", &upper)];
        let sql = names.fill(include_str!("../../../../migrations/postgres/monthly/month.sql"), &named);
        match patience::change_events(database, connection, doing, &sql).await {
            Err(DatabaseError::Postgres { source: sqlx::Error::Database(error), .. })
                if error.code().is_some_and(|code| code == TOO_LONG) =>
            {
                tracing::warn!(
                    month,
                    "it was not made: moving its events from events_default took too long. They stay there, and are read as all \
                     others; to move them at a quiet time: docs/operations.md, Events by month"
                );
                continue;
            }
            done => done?,
        }
        tracing::info!(month, moved = waiting, "a month more has its partition");
    }
    Ok(())
}
