//! `projectionist.toml`, and `host config check`, which looks at it without running anything.
//!
//! A key of the file is an option of the command line: `batch_size = 500` is `--batch-size 500`, and what each means, may
//! be and is without is said once, where the option is. So the file is not read into a structure of its own. [`mod@file`]
//! reads it, with the line of everything; [`options`] makes its values what options are when nothing is said of them, so
//! that flag and variable go before. The sections of projections become the options that name a projection, such as
//! `--redact-payload NAME=FIELD`.

mod file;
mod options;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Subcommand};

use super::exit::UsageError;
use super::run::Job;
use super::{Cli, Command};
use crate::http::Served;
use crate::telemetry::NewFilter;

pub use file::{Config, ConfigError};

/// The file that is read where none is named, if it is in the working folder.
const USUAL: &str = "projectionist.toml";

/// The variable that names the file.
const VARIABLE: &str = "PROJECTIONIST_CONFIG";

/// What asks for no configuration, and shall work whatever is in the file.
const WITHOUT: [&str; 6] = ["help", "-h", "--help", "-V", "--version", "completions"];

/// The command line with the configuration behind it.
///
/// # Errors
/// When the file cannot be read, or something in it is wrong. What is wrong on the command line is an error of clap's, in
/// the inner result.
pub fn parse(arguments: &[OsString]) -> Result<(Result<Cli, clap::Error>, Option<Config>), ConfigError> {
    let command = Cli::command();
    let config = match path(arguments) {
        Some(path) => Some(Config::read(&path, &command)?),
        None => None,
    };
    let command = match &config {
        Some(config) => options::with_defaults(command, config),
        None => command,
    };
    let cli = command.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    Ok((cli, config))
}

/// Which file is to be read, if any.
fn path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    let mut named = None;
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else { continue };
        if WITHOUT.contains(&text) {
            return None;
        }
        match text.strip_prefix("--config") {
            Some("") => named = rest.next().cloned(),
            Some(value) => named = value.strip_prefix('=').map(OsString::from).or(named),
            None => {}
        }
    }
    let named = named.or_else(|| std::env::var_os(VARIABLE));
    match named {
        // Set but empty: none, whatever is in the working folder.
        Some(named) if named.is_empty() => None,
        Some(named) => Some(PathBuf::from(named)),
        None => Some(PathBuf::from(USUAL)).filter(|path| path.exists()),
    }
}

/// `host config`.
#[derive(Debug, Args)]
pub struct ConfigCommand {
    /// What to do with it.
    #[command(subcommand)]
    command: What,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
enum What {
    /// See that the file can be run: keys, types, values, and that its plugins load. No database is asked
    Check,
}

impl ConfigCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When there is no file, or it could not be run.
    pub fn run(&self, config: Option<&Config>) -> anyhow::Result<()> {
        let What::Check = self.command;
        let Some(config) = config else {
            let hint = format!("say --config FILE, or put {USUAL} into the working folder");
            return Err(UsageError::new("there is no configuration to check", hint).into());
        };
        let path = config.path();
        let mut text = String::new();
        if config.plugins().next().is_some() {
            let program = [OsString::from("host"), "run".into(), "--config".into(), path.into()];
            let (cli, _) = parse(&program)?;
            let cli = cli.map_err(|error| UsageError::new(in_one_line(&error), format!("mend {}", path.display())))?;
            let Command::Run(run) = cli.command else { unreachable!("`run` was said") };
            let (events, read_model) = cli.global.databases()?;
            for (name, told) in run.check((&events, &read_model), config.projections())? {
                text.push_str(&format!("{name}: {told}\n"));
            }
        }
        text.push_str(&format!("{} is good: {} keys", path.display(), config.count()));
        Ok(super::print_line(&text)?)
    }
}

/// What takes effect when the configuration is read again, for all projections or for one.
const APPLIED: [&str; 6] = ["log", "max_lag", "batch_size", "on_error", "max_attempts", "poll_interval"];

/// Reads the configuration again, and applies what can be applied while workers run; gives what was read.
///
/// # Errors
/// When something in it is wrong. Then nothing is applied.
pub fn reload(served: Option<&Served>, jobs: &[Job], before: Option<&Config>) -> anyhow::Result<Option<Config>> {
    let (cli, config) = parse(&std::env::args_os().collect::<Vec<_>>())?;
    let cli = cli.map_err(|error| anyhow::anyhow!(in_one_line(&error)))?;
    let Command::Run(run) = &cli.command else { return Ok(config) };
    let filter = NewFilter::parse(super::log_filter(&cli.global, &cli.command))?;
    let changes = run.changes_of(jobs)?;
    if let Some(served) = served {
        served.reload(run.max_lag())?;
    }
    changes.iter().for_each(|(options, to)| options.change(to));
    filter.apply();
    let changed = match (&config, before) {
        (Some(config), Some(before)) => config.changed_since(before),
        _ => BTreeSet::new(),
    };
    let is_applied = |key: &&str| APPLIED.iter().any(|applied| key.rsplit('.').next() == Some(applied));
    let (applied, later): (Vec<&str>, Vec<&str>) = changed.into_iter().partition(is_applied);
    tracing::info!(?applied, "SIGHUP: the configuration and the token were read again");
    if !later.is_empty() {
        tracing::warn!(keys = ?later, "SIGHUP: these keys were changed, and take effect at the next start");
    }
    Ok(config)
}

/// An error of clap's without its help.
pub(super) fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let line = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").map_or(line.clone(), str::to_owned)
}

/// A file's name and a line of it.
fn place(path: &Path, line: usize) -> String {
    format!("{}, line {line}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that these arguments name.
    fn named(arguments: &[&str]) -> Option<PathBuf> {
        path(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_file_that_is_named_counts_and_help_needs_none() {
        assert_eq!(named(&["host", "run", "--config", "a.toml"]), Some("a.toml".into()));
        assert_eq!(named(&["host", "--config=a.toml", "run", "--config=b.toml"]), Some("b.toml".into()));
        assert_eq!(named(&["host", "run", "--config="]), None);
        assert_eq!(named(&["host", "run", "--config", "a.toml", "--help"]), None);
    }
}
