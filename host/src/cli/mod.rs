//! The command line: one file a command, each with its arguments and its `run`.
//!
//! Read [`Cli`] for what all commands share, [`exit`] for how a command ends and how an error is worded, then
//! the command at hand. What several commands take alike has a file of its own: [`loading`] is which plugins and on which
//! terms, of which [`trust`], [`filters`] and [`limits`] are the parts.

pub mod append;
pub mod completions;
pub mod config;
pub mod demo;
pub mod dev;
pub mod dlq;
pub mod doctor;
pub mod exit;
pub mod export;
pub mod filters;
pub mod http;
pub mod import;
pub mod limits;
pub mod loading;
pub mod migrate;
pub mod overrides;
pub mod pause;
pub mod plugin;
pub mod rebuild;
pub mod replica_set;
pub mod run;
pub mod status;
pub mod trust;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::database::{DatabaseError, DatabaseUrl};
use crate::source::{self, Source};
use crate::telemetry::LogFormat;
use crate::telemetry::traces::otlp::Traces;

/// Runs event-sourcing projections that are WebAssembly components, exactly once.
#[derive(Debug, Parser)]
#[command(name = "host", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 stopped by policy, 4 fenced.\n\
    Start with `host demo`, or read README.md."
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// Which command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Databases and logs")]
pub struct Global {
    /// The file with the configuration, whose keys are options [default: projectionist.toml in the working folder, if it
    /// is there]
    #[arg(long, global = true, env = "PROJECTIONIST_CONFIG", value_name = "FILE")]
    pub config: Option<std::ffi::OsString>,
    /// The database with the events: postgres://… or sqlite://…
    #[arg(
        long,
        global = true,
        env = "DATABASE_URL",
        value_name = "URL",
        default_value = "sqlite://projectionist.db",
        hide_env_values = true
    )]
    pub database_url: String,
    /// Where read models and checkpoints live; the same database where nothing is said
    #[arg(long, global = true, env = "READ_MODEL_URL", value_name = "URL", hide_env_values = true)]
    pub read_model_url: Option<String>,
    /// How log lines look
    #[arg(long, global = true, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: a level, or a filter such as `info,projectionist_host=debug` [default: info for `run` and
    /// `migrate`, warn and what the projection says for `dev`, warn for the others]
    #[arg(long, global = true, env = "LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

impl Global {
    /// The databases of the events and of the read models.
    ///
    /// # Errors
    /// When one of them is no URL.
    pub fn databases(&self) -> Result<(DatabaseUrl, DatabaseUrl), DatabaseError> {
        let events: DatabaseUrl = self.database_url.parse()?;
        let read_model = self.read_model_url.as_ref().map_or_else(|| Ok(events.clone()), |url| url.parse())?;
        Ok((events, read_model))
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make or update the host's tables
    Migrate(migrate::Migrate),
    /// Store one event
    Append(append::Append),
    /// Store the events of a file, one JSON object a line
    Import(import::Import),
    /// Write stored events to a file that `import` reads
    Export(export::Export),
    /// Run projections
    Run(run::Run),
    /// For whoever writes a projection: build the crate on each change, run it, and show what it made of the events
    Dev(dev::Dev),
    /// Build a read model afresh beside the one in use, then swap the two
    Rebuild(rebuild::RebuildCommand),
    /// Show how far every projection is
    Status(status::Status),
    /// See whether a host can work here, and what will hurt it later
    Doctor(doctor::Doctor),
    /// Keep a projection from applying events
    Pause(pause::Pause),
    /// Let a paused projection go on
    Resume(pause::Resume),
    /// Look at dead letters: replay parked aggregates, give up on events
    Dlq(dlq::Dlq),
    /// Look at a plugin without running it; sign plugins, and say who has signed one
    Plugin(plugin::PluginCommand),
    /// Look at the configuration without running anything
    Config(config::ConfigCommand),
    /// Run a sample projection on bundled real events, without a server
    Demo(demo::Demo),
    /// Print completions for a shell
    Completions(completions::Completions),
}

/// What a command works in: the databases, and the runtime that async connections live on.
#[derive(Clone, Debug)]
pub struct Context {
    /// `--database-url`.
    pub events: DatabaseUrl,
    /// `--read-model-url`, or the same.
    pub read_model: DatabaseUrl,
    /// Where async connections live. A command itself runs on the main thread, outside of it. It lasts as long as
    /// the process, because a worker that was not done in time waits in it until then.
    pub runtime: &'static tokio::runtime::Runtime,
    /// The file that was read, if there was one.
    pub config: Option<config::Config>,
}

impl Context {
    /// Reads the URLs and starts the runtime.
    fn new(global: &Global, command: &Command, config: Option<config::Config>) -> anyhow::Result<Self> {
        start_logging(global, command)?;
        let (events, read_model) = global.databases()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        if let Some(config) = &config {
            tracing::info!(file = %config.path().display(), "configuration read");
        }
        Ok(Self { events, read_model, runtime: Box::leak(Box::new(runtime)), config })
    }
}

impl Context {
    /// The projections that the configuration speaks of, whether they run here or not.
    #[must_use]
    pub fn configured(&self) -> &[String] {
        self.config.as_ref().map_or(&[], config::Config::projections)
    }

    /// Where events are read from, by a command that makes no database of its own.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn existing_events(&self) -> Result<Arc<dyn Source>, DatabaseError> {
        if let DatabaseUrl::Sqlite(path) = &self.events
            && !path.exists()
        {
            let reason = "there is no such file".to_owned();
            return Err(DatabaseError::File { path: path.clone(), doing: "read events from", reason });
        }
        source::open(&self.events, self.runtime.handle())
    }
}

/// What is logged.
fn log_filter<'line>(global: &'line Global, command: &Command) -> &'line str {
    let usual = match command {
        Command::Run(_) | Command::Migrate(_) => "info,sqlx=warn",
        // What the projection says is what its author wants to see. Events that are not applied are printed.
        Command::Dev(_) => "warn,plugin=debug,projectionist_host::processor=off",
        _ => "warn",
    };
    global.log.as_deref().unwrap_or(usual)
}

/// Starts logging. What a command prints is its result; only those that go on working tell of it.
fn start_logging(global: &Global, command: &Command) -> Result<(), exit::UsageError> {
    let filter = log_filter(global, command);
    crate::telemetry::start(global.log_format, filter).map_err(|error| {
        exit::UsageError::new(format!("--log {filter}: {error}"), "say a level such as info, or target=level,…")
    })
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let (cli, config) = match config::parse(&arguments) {
        Ok((cli, config)) => (cli.unwrap_or_else(|error| error.exit()), config),
        Err(error) => return exit::report(&error.into()),
    };
    let done = Context::new(&cli.global, &cli.command, config).and_then(|context| {
        // Those that have workers. When they are done, what waits to be sent is sent.
        let is_traced = matches!(cli.command, Command::Run(_) | Command::Rebuild(_));
        let _traces = if is_traced { Traces::start()? } else { None };
        dispatch(&cli.command, context)
    });
    match done {
        Ok(()) => exit::DONE,
        Err(error) => exit::report(&error),
    }
}

/// Runs the command.
fn dispatch(command: &Command, context: Context) -> anyhow::Result<()> {
    match command {
        Command::Migrate(migrate) => migrate.run(&context),
        Command::Append(append) => append.run(&context),
        Command::Import(import) => import.run(&context),
        Command::Export(export) => export.run(&context),
        Command::Run(run) => run.run(&context),
        Command::Dev(dev) => dev.run(&context),
        Command::Rebuild(rebuild) => rebuild.run(&context),
        Command::Status(status) => status.run(&context),
        Command::Doctor(doctor) => doctor.run(&context),
        Command::Pause(pause) => pause.run(&context),
        Command::Resume(resume) => resume.run(&context),
        Command::Dlq(dlq) => dlq.run(&context),
        Command::Plugin(plugin) => plugin.run(),
        Command::Demo(demo) => demo.run(context),
        Command::Config(command) => command.run(context.config.as_ref()),
        Command::Completions(completions) => completions.run(),
    }
}

/// Prints a result. Whoever reads it may have gone already, and that is no failure.
fn print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// As [`print()`], with the end of the line.
fn print_line(line: &str) -> std::io::Result<()> {
    print(&format!("{line}\n"))
}
