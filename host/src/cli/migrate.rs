//! `host migrate`: makes or updates the host's own tables, in the database of the events and in that of the
//! read models.

use clap::{Args, ValueEnum};

use super::Context;
use super::exit::UsageError;
use crate::database::monthly::{self, Wanted};
use crate::database::schema::{self, Tables};
use crate::database::{DatabaseUrl, Postgres, notify};

/// `host migrate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host migrate --database-url postgres://localhost/shop\n  \
    host migrate --database-url postgres://localhost/shop --notify off\n  \
    host migrate --database-url postgres://localhost/shop --partition-events monthly\n\n\
    Safe to repeat. An events table that is there already, as pupsourcing makes it, is kept as it is.")]
pub struct Migrate {
    /// Whether a commit that stores events wakes the hosts (Postgres: a statement-level trigger). Off, they poll;
    /// writers that use PREPARE TRANSACTION need it off, because Postgres refuses that after a NOTIFY. Said once: without it, what
    /// was decided stays, and at first it is on
    #[arg(long, env = "NOTIFY", value_enum)]
    notify: Option<Notify>,
    /// Lay the events out in a partition for each month (Postgres), so that old months can be dropped. Said once; from then on
    /// each `host migrate` makes the partitions of the coming three months
    #[arg(long, env = "PARTITION_EVENTS", value_enum, value_name = "HOW")]
    partition_events: Option<PartitionEvents>,
}

/// How events are partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PartitionEvents {
    /// By the month in which they were created, UTC.
    Monthly,
}

/// Whether commits of events wake the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Notify {
    /// By LISTEN and NOTIFY.
    On,
    /// They poll.
    Off,
}

impl Migrate {
    /// Runs it.
    ///
    /// # Errors
    /// When a database cannot be reached or a migration fails.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let runtime = context.runtime.handle();
        if let (Some(PartitionEvents::Monthly), DatabaseUrl::Sqlite(path)) = (self.partition_events, &context.events) {
            let message =
                format!("--partition-events monthly is for Postgres, and the events are in {}", path.display());
            return Err(UsageError::new(message, "leave it out: a file has no partitions to drop").into());
        }
        match &context.events {
            DatabaseUrl::Postgres(options) => {
                let database = Postgres::new(options, runtime.clone());
                runtime.block_on(schema::migrate_postgres(&database, Tables::Events))?;
                let wanted = self.partition_events.map_or(Wanted::AsItIs, |_| Wanted::Monthly);
                runtime.block_on(monthly::keep(&database, wanted))?;
                runtime.block_on(notify::switch(&database, self.notify.map(|notify| notify == Notify::On)))?;
            }
            DatabaseUrl::Sqlite(path) => schema::migrate_sqlite(path, Tables::Events, runtime)?,
        }
        tracing::info!(database = %context.events, "the events tables are up to date");
        match &context.read_model {
            DatabaseUrl::Postgres(options) => {
                let database = Postgres::new(options, runtime.clone());
                runtime.block_on(schema::migrate_postgres(&database, Tables::ReadModel))?;
            }
            DatabaseUrl::Sqlite(path) => {
                for file in crate::database::sqlite::projection_files(path)? {
                    schema::migrate_sqlite(&file.path, Tables::ReadModel, runtime)?;
                }
            }
        }
        tracing::info!(database = %context.read_model, "the read model tables are up to date");
        // Last, because whatever is wrong with a month is no reason to leave tables as they were.
        if let DatabaseUrl::Postgres(options) = &context.events {
            runtime.block_on(monthly::make_months(&Postgres::new(options, runtime.clone())))?;
        }
        Ok(())
    }
}
