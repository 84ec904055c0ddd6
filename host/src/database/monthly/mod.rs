//! Events by month: `host migrate --partition-events monthly`, on Postgres.
//!
//! The events table becomes one that is partitioned by `created_at`, with a partition for each month (UTC), so that an old
//! month can be detached and dropped at once, where deleting its rows would take hours and leave a table full of holes.
//! [`convert`] turns a table with events into the first partition of such a table; [`ahead`] makes the coming months.
//!
//! # What stays unique, and how
//!
//! Postgres keeps a partitioned table unique only by columns that the partition key is one of. Unique by `(event_id,
//! created_at)` is worth nothing: an event that is sent again a month later would be stored again, and a writer that believes
//! its aggregate at version 5 would store a second version 6 in the next month. So all three keys of an event (its position,
//! its id, aggregate and version) stand in a table of their own, `projectionist.event_keys`, which is not partitioned, and a
//! trigger on the events table stores the keys of each INSERT in the same statement. A unique index is what tells two
//! writers at the same moment apart, at every isolation level; no look into other partitions would. A writer meets the same
//! error as before (23505; within a month it names the month's own index), and need not be changed, but for `ON CONFLICT (event_id)`: Postgres
//! takes that only where the table itself has the index.
//!
//! Each month has the indexes that the table had, its unique ones too, so what was quick to find stays so. A page of events is
//! still a walk along the primary keys, of all months merged ([`crate::source::postgres`]).
//!
//! Keys stay when a month is dropped. So what was stored once is refused for ever, an aggregate whose events are all gone goes
//! on with its next version, and a projection that has not applied what is gone is told so ([`TAKEN_AWAY`]).

/// The months from the current one to the twelfth behind it: how many behind, name and bounds of the partition, and whether there is one.
/// Only of a table that was laid out by this module.
macro_rules! months {
    () => {
        "bounds AS (
             SELECT pg_get_expr(relpartbound, pg_class.oid) AS bound FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = 'events'::regclass),
         partitions AS (
             SELECT coalesce(substring(bound FROM 'FROM \\(''([^'']+)''\\)')::timestamptz, '-infinity') AS lower,
                    coalesce(substring(bound FROM 'TO \\(''([^'']+)''\\)')::timestamptz, 'infinity') AS upper
             FROM bounds WHERE bound <> 'DEFAULT'),
         firsts AS (
             SELECT number, (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => number)) AT TIME ZONE 'UTC' AS first
             FROM generate_series(0, 12) AS number),
         months AS (
             SELECT number, first,
                    EXISTS (SELECT FROM partitions WHERE lower <= first AND upper > first) AS there
             FROM firsts)"
    };
}

mod ahead;
mod convert;

use sqlx::PgConnection;

use super::{DatabaseError, Postgres, schema};

/// How many months behind the current one have their partitions.
const AHEAD: i32 = 3;

/// How the events table is laid out.
const LAYOUT: &str = "
    SELECT CASE WHEN relkind = 'p' AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgname = 'projectionist_keys')
                THEN 'monthly' WHEN relkind = 'p' THEN 'otherwise' ELSE 'whole' END
    FROM pg_class WHERE oid = 'events'::regclass";

/// How many months behind the current one have a partition of the events table; NULL where it has none by month.
pub const MONTHS_AHEAD: &str = concat!(
    "WITH ",
    months!(),
    " SELECT CASE WHEN EXISTS (
          SELECT FROM pg_class JOIN pg_trigger ON tgrelid = pg_class.oid AND tgname = 'projectionist_keys'
          WHERE pg_class.oid = 'events'::regclass AND relkind = 'p')
      THEN (SELECT coalesce(min(number) - 1, 12) FROM months WHERE number > 0 AND NOT there) END"
);

/// Whether this user can see the keys of events: nobody can who has none.
pub const SEES_KEYS: &str = "
    SELECT coalesce(has_table_privilege(to_regclass('projectionist.event_keys'), 'SELECT'), false)
           AND EXISTS (SELECT FROM pg_class WHERE oid = 'events'::regclass AND relkind = 'p')";

/// The last event behind `$1` that was stored, and stands before all that are there now: it went with its month.
pub const TAKEN_AWAY: &str = "
    SELECT max(global_position) FROM projectionist.event_keys
    WHERE global_position > $1
      AND global_position < coalesce((SELECT min(global_position) FROM events), 9223372036854775807)";

/// What a conversion that was killed may leave: a date from which on no event is taken.
pub const LEFT_BEHIND: &str = "
    SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'events'::regclass AND conname = 'projectionist_until'";

/// Whether the events table is to be laid out by month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// If it is already.
    AsItIs,
    /// In any case.
    Monthly,
}

/// Lays the events table out by month if that is wanted, and takes away what an attempt has left.
///
/// # Errors
/// When the database fails, [`DatabaseError::CannotPartition`] when the table is not one that can be laid out so, and
/// [`DatabaseError::EventsInUse`] when somebody had it locked all the time.
pub async fn keep(database: &Postgres, wanted: Wanted) -> Result<(), DatabaseError> {
    let failed = |error| database.error("looking at the events table", error);
    let mut connection = database.connect("projectionist migrate").await?;
    schema::take_turn(database, &mut connection).await?;
    let layout: String = sqlx::query_scalar(LAYOUT).fetch_one(&mut connection).await.map_err(failed)?;
    match (&*layout, wanted) {
        ("whole", _) => convert::clear(database, &mut connection).await?,
        ("otherwise", Wanted::Monthly) => {
            let obstacles = "\n    it is partitioned already, and not by this host".to_owned();
            return Err(DatabaseError::CannotPartition { database: database.name().to_owned(), obstacles });
        }
        _ => {}
    }
    match (&*layout, wanted) {
        ("whole", Wanted::Monthly) => convert::convert(database, &mut connection).await,
        _ => Ok(()),
    }
}

/// Makes the months that are missing, of a table that is laid out by month.
///
/// # Errors
/// When the database fails, and [`DatabaseError::EventsInUse`] when somebody had the table locked all the time.
pub async fn make_months(database: &Postgres) -> Result<(), DatabaseError> {
    let failed = |error| database.error("looking at the events table", error);
    let mut connection = database.connect("projectionist migrate").await?;
    schema::take_turn(database, &mut connection).await?;
    let layout: String = sqlx::query_scalar(LAYOUT).fetch_one(&mut connection).await.map_err(failed)?;
    if layout == "monthly" { ahead::make_months(database, &mut connection).await } else { Ok(()) }
}

/// Names that the statements of this module need, quoted.
#[derive(Debug)]
struct Names {
    /// The schema of the events table.
    schema: String,
    /// Its owner.
    owner: String,
}

impl Names {
    /// Those of the events table.
    async fn of(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let sql = "SELECT quote_ident(nspname) AS schema, quote_ident(pg_get_userbyid(relowner)) AS owner
                   FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = 'events'::regclass";
        let (schema, owner) = sqlx::query_as(sql).fetch_one(connection).await?;
        Ok(Self { schema, owner })
    }

    /// A table beside the events table.
    fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.schema)
    }

    /// A statement's text with the names filled in, and others.
    fn fill(&self, sql: &str, others: &[(&str, &str)]) -> String {
        let (events, default) = (self.table("events"), self.table("events_default"));
        // In a text, quotes of a name count twice.
        let literal = events.replace('\'', "''");
        let own = [("events", &*events), ("events_literal", &literal), ("default", &default), ("owner", &self.owner)];
        own.iter().chain(others).fold(sql.to_owned(), |sql, (name, value)| sql.replace(&format!("{{{name}}}"), value))
    }
}
