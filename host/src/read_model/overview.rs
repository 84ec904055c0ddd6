//! All checkpoints of a read model's database, for `status`.

use std::path::Path;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::runtime::Handle;

use super::ReadModel;
use super::checkpoint::{Checkpoint, Epoch, Slot, Term};
use super::grants::Grant;
use super::isolation::Isolation;
use super::pause::{self, Pause};
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseError, Postgres, sqlite};
use crate::event::Position;
use crate::partition::Partition;
use crate::partition::lineage::Lineage;
use crate::timestamp;

/// One projection.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// Its name.
    pub projection: String,
    /// Its partitions, by key.
    pub checkpoints: Vec<Checkpoint>,
    /// How many aggregates are parked.
    pub parked_aggregates: u64,
    /// How many dead letters there are.
    pub dead_letters: u64,
    /// What it may read besides its own tables.
    pub grants: Vec<Grant>,
    /// Whose session its SQL runs in; nothing on SQLite.
    pub isolation: Option<Isolation>,
    /// Whether an operator has paused it.
    pub paused: Option<Pause>,
}

impl ReadModel {
    /// Every projection that has a checkpoint there.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn overview(&self) -> Result<Vec<Overview>, DatabaseError> {
        match self {
            Self::Postgres(database, _) => database.block_on(postgres(database)),
            Self::Sqlite(base, runtime, _) => in_files(base, runtime),
        }
    }
}

/// A row of the checkpoints table, of which the lineage is a JSON text on both databases.
struct Row {
    /// Whose.
    projection: String,
    /// The rest; its `running` is not known yet.
    checkpoint: Checkpoint,
}

/// Puts the checkpoints of a projection together; they come sorted.
fn gather(rows: Vec<Row>) -> Vec<Overview> {
    let mut all: Vec<Overview> = Vec::new();
    for Row { projection, checkpoint } in rows {
        match all.last_mut() {
            Some(last) if last.projection == projection => last.checkpoints.push(checkpoint),
            _ => all.push(Overview {
                projection,
                checkpoints: vec![checkpoint],
                parked_aggregates: 0,
                dead_letters: 0,
                grants: vec![],
                isolation: None,
                paused: None,
            }),
        }
    }
    all
}

/// From the schema `projectionist`.
async fn postgres(database: &Postgres) -> Result<Vec<Overview>, DatabaseError> {
    let failed = |error| database.error("reading checkpoints", error);
    let mut connection = database.connect("projectionist status").await?;
    schema::check_postgres(database, &mut connection, Tables::ReadModel).await?;
    let rows = sqlx::query(
        "SELECT projection, total_partitions, partition_key, position, epoch, owner, events_applied, plugin_version,
            plugin_digest, (extract(epoch FROM updated_at) * 1000000)::bigint, lineage::text, term
         FROM projectionist.checkpoints ORDER BY projection, total_partitions, partition_key",
    )
    .fetch_all(&mut connection)
    .await
    .map_err(failed)?;
    let rows = rows.iter().map(of_postgres).collect::<Result<_, _>>().map_err(failed)?;
    let letters: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT projection, count(*),
            count(DISTINCT (bounded_context, aggregate_type, aggregate_id)) FILTER (WHERE reason <> 'skipped')
         FROM projectionist.dead_letters GROUP BY projection",
    )
    .fetch_all(&mut connection)
    .await
    .map_err(failed)?;
    let pauses: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT projection, paused_by, (extract(epoch FROM paused_at) * 1000000)::bigint FROM projectionist.pauses",
    )
    .fetch_all(&mut connection)
    .await
    .map_err(failed)?;
    let mut all = gather(rows);
    let held = super::postgres::held(&mut connection).await.map_err(failed)?;
    for overview in &mut all {
        for checkpoint in &mut overview.checkpoints {
            let slot = Slot { projection: overview.projection.clone(), partition: checkpoint.partition };
            checkpoint.running = held.contains(&super::postgres::lock_key(&slot, checkpoint.term));
        }
    }
    for (projection, grant) in super::postgres::all_grants(&mut connection).await.map_err(failed)? {
        if let Some(overview) = all.iter_mut().find(|overview| overview.projection == projection) {
            overview.grants.push(grant);
        }
    }
    let logins: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT projection FROM projectionist.seals
         JOIN projectionist.checkpoints USING (projection, total_partitions, partition_key, epoch)",
    )
    .fetch_all(&mut connection)
    .await
    .map_err(failed)?;
    for overview in &mut all {
        let is_login = logins.contains(&overview.projection);
        overview.isolation = Some(if is_login { Isolation::Login } else { Isolation::Role });
    }
    for (projection, dead_letters, parked) in letters {
        if let Some(overview) = all.iter_mut().find(|overview| overview.projection == projection) {
            overview.dead_letters = dead_letters.unsigned_abs();
            overview.parked_aggregates = parked.unsigned_abs();
        }
    }
    for (projection, by, since) in pauses {
        if let Some(overview) = all.iter_mut().find(|overview| overview.projection == projection) {
            overview.paused = Some(Pause { by, since: timestamp::format(since) });
        }
    }
    Ok(all)
}

/// A row of Postgres.
fn of_postgres(row: &PgRow) -> sqlx::Result<Row> {
    let number = |column| row.try_get::<i32, _>(column).map(i32::unsigned_abs);
    let lineage: Option<&str> = row.try_get(10)?;
    let checkpoint = Checkpoint {
        // The database checks that a key is below its total.
        partition: Partition::new(number(2)?, number(1)?).unwrap_or(Partition::WHOLE),
        position: Position::from_sql(row.try_get(3)?),
        epoch: Epoch(row.try_get(4)?),
        owner: row.try_get(5)?,
        term: Term(number(11)?),
        running: false,
        lineage: Lineage::parse(lineage).map_err(|error| sqlx::Error::Decode(error.into()))?,
        events_applied: row.try_get::<i64, _>(6)?.unsigned_abs(),
        plugin_version: number(7)?,
        plugin_digest: row.try_get(8)?,
        updated_at: row.try_get(9)?,
    };
    Ok(Row { projection: row.try_get(0)?, checkpoint })
}

/// A row of SQLite.
fn of_sqlite(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let updated_at: String = row.get(9)?;
    let lineage: Option<String> = row.get(10)?;
    let checkpoint = Checkpoint {
        partition: Partition::new(row.get(2)?, row.get(1)?).unwrap_or(Partition::WHOLE),
        position: Position::from_sql(row.get(3)?),
        epoch: Epoch(row.get(4)?),
        owner: row.get(5)?,
        term: Term(row.get(11)?),
        running: false,
        lineage: Lineage::parse(lineage.as_deref()).map_err(|error| super::sqlite::no_lineage(10, error))?,
        events_applied: row.get::<_, i64>(6)?.unsigned_abs(),
        plugin_version: row.get(7)?,
        plugin_digest: row.get(8)?,
        updated_at: timestamp::parse(&updated_at).unwrap_or(0),
    };
    Ok(Row { projection: row.get(0)?, checkpoint })
}

/// From the files beside `base`.
fn in_files(base: &Path, runtime: &Handle) -> Result<Vec<Overview>, DatabaseError> {
    let mut all = Vec::new();
    for file in sqlite::projection_files(base)? {
        let connection = match sqlite::open_existing(&file.path) {
            Ok(connection) => connection,
            // A rebuild that was swapped in just now.
            Err(_) if !file.path.exists() => continue,
            Err(error) => return Err(error),
        };
        match schema::check_sqlite(&file.path, &connection, Tables::ReadModel) {
            Ok(()) => {}
            Err(DatabaseError::Outdated { .. } | DatabaseError::Incomplete { .. }) => {
                schema::migrate_sqlite(&file.path, Tables::ReadModel, runtime)?
            }
            // A file of that name that is no read model of ours, or one that is being made just now.
            Err(_) => continue,
        }
        let failed = |source| DatabaseError::Sqlite { path: file.path.clone(), doing: "reading checkpoints", source };
        let read = || -> rusqlite::Result<Vec<Overview>> {
            let mut statement = connection.prepare(
                "SELECT projection, total_partitions, partition_key, position, epoch, owner, events_applied,
                    plugin_version, plugin_digest, updated_at, lineage, term
                 FROM _projectionist_checkpoints ORDER BY projection, total_partitions, partition_key",
            )?;
            let rows = statement.query_map([], of_sqlite)?;
            let mut overviews = gather(rows.collect::<rusqlite::Result<_>>()?);
            for overview in &mut overviews {
                // A rebuild has the live names in the moment of its swap; the file says whose it is.
                let stored = std::mem::replace(&mut overview.projection, file.projection.clone());
                for checkpoint in &mut overview.checkpoints {
                    let slot = Slot { projection: overview.projection.clone(), partition: checkpoint.partition };
                    checkpoint.running = super::sqlite::is_held(&file.path, &slot, checkpoint.term);
                }
                let sql = "SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT bounded_context, aggregate_type, aggregate_id
                               FROM _projectionist_dead_letters WHERE projection = ?1 AND reason <> 'skipped'))
                           FROM _projectionist_dead_letters WHERE projection = ?1";
                let counts: (i64, i64) = connection.query_row(sql, [&stored], |row| Ok((row.get(0)?, row.get(1)?)))?;
                overview.dead_letters = counts.0.unsigned_abs();
                overview.parked_aggregates = counts.1.unsigned_abs();
                overview.paused = pause::of_file(&connection, &stored)?;
            }
            Ok(overviews)
        };
        all.extend(read().map_err(failed)?);
    }
    Ok(all)
}
