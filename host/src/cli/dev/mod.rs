//! `host dev`: for whoever writes a projection. Builds the crate it stands in whenever it changes, runs it on events, and
//! prints what the new code made of them.
//!
//! [`build`] asks cargo for a component. A [`round`] is one build at work: on a read model of its own, so that it starts
//! from nothing, while the last good one goes on with its own until the new one has caught up. [`tables`] says what is
//! different between the two. What does not compile, load or migrate changes nothing.

mod build;
mod round;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use notify::event::AccessKind;
use notify::{EventKind, RecursiveMode, Watcher as _};

use self::build::Crate;
use self::round::Round;
use super::exit::{Ended, UsageError};
use super::import::Import;
use super::loading::{Loading, PluginArgument, Setting, load};
use super::{Context, run};
use crate::database::DatabaseUrl;
use crate::plugin::PluginFile;
use crate::plugin::load::Loader;
use crate::processor::Stop;
use crate::processor::stop::Slept;

/// How long files must stay the same before a build.
const SETTLED: Duration = Duration::from_millis(100);

/// How often it is looked whether events have come.
const LOOK: Duration = Duration::from_millis(200);

/// `host dev`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host dev\n  \
    host dev orders --events events.ndjson\n  \
    host dev --database-url postgres://localhost/shop --set late_after_min=30\n\n\
    Each build works on an SQLite database of its own in a temporary folder, whose path is printed: nothing that others\n\
    use is touched, and events are only read. Events of --events are stored there, too. Ctrl-C ends it.")]
pub struct Dev {
    /// The crate's folder
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// A file of events, one JSON object a line, as `host import` reads it; instead of those of --database-url
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Build once, apply what is there, print it and end: exit code 1 when anything failed
    #[arg(long)]
    once: bool,
    /// A setting for the projection, as config::get reads it
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
    /// On which terms.
    #[command(flatten)]
    loading: Loading,
}

impl Dev {
    /// Runs it.
    ///
    /// # Errors
    /// When there is no crate, or no events; with `--once` also when it does not build, or an event is not applied.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let project = Crate::at(&self.folder)?;
        let scratch = tempfile::Builder::new().prefix("projectionist-dev-").tempdir();
        let scratch = scratch.context("cannot make a temporary folder")?;
        let context = &self.context(context, scratch.path())?;
        let loader = self.loading.loader()?;
        let stop = Stop::default();
        run::stop_on_signals(context, &stop, None);
        // Before the first build, so that what changes meanwhile is built, too.
        let watched = if self.once { None } else { Some(watch(&project)?) };
        let scratch = scratch.path();
        let mut session = Session { dev: self, context, project: &project, loader: &loader, scratch, last_good: None };
        let mut number = 0;
        loop {
            number += 1;
            let result = session.take_up(number, &stop);
            let Some((_watcher, changes)) = &watched else { return result };
            if let Err(error) = result {
                session.tell(&error)?;
            }
            if session.wait(changes, &stop)? == Slept::Stopped {
                return Ok(());
            }
        }
    }

    /// Where events come from.
    fn context(&self, context: &Context, scratch: &Path) -> anyhow::Result<Context> {
        let mut context = context.clone();
        if let Some(events) = &self.events {
            context.events = DatabaseUrl::Sqlite(scratch.join("events.db"));
            Import::of(events).run(&context)?;
        }
        Ok(context)
    }
}

/// What goes on from build to build.
struct Session<'a> {
    /// The arguments.
    dev: &'a Dev,
    /// Where events come from.
    context: &'a Context,
    /// What is built.
    project: &'a Crate,
    /// What loads it.
    loader: &'a Loader,
    /// Where read models are.
    scratch: &'a Path,
    /// What runs.
    last_good: Option<Round>,
}

impl Session<'_> {
    /// Builds what is there now, and lets it take over if it is another and works.
    fn take_up(&mut self, number: u32, stop: &Stop) -> anyhow::Result<()> {
        let wasm = self.project.build()?;
        let file = PluginArgument { file: PluginFile::at(&wasm) };
        let plugin = load(self.loader, &file, &self.dev.settings)?;
        if self.last_good.as_ref().is_some_and(|good| good.digest() == &*plugin.digest) {
            super::print_line("built; it is the same component as before")?;
            return Ok(());
        }
        let folder = self.scratch.join(format!("build-{number}"));
        let mut round = Round::start(self.context, plugin, &folder)?;
        let caught_up = round.catch_up(stop);
        let Some(time) = caught_up.inspect_err(|_| round.discard())? else {
            round.discard();
            return Ok(());
        };
        let report = round.report(self.last_good.as_ref(), time)?;
        super::print(&report.text)?;
        if let Some(old) = self.last_good.replace(round) {
            old.discard();
        }
        if self.dev.once && report.failed > 0 {
            let message = format!("{} events could not be applied", report.failed);
            return Err(Ended::failed(message, "see above: each is named with its error").into());
        }
        Ok(())
    }

    /// Says why a build did not take over.
    fn tell(&self, error: &anyhow::Error) -> std::io::Result<()> {
        super::exit::report(error);
        super::print_line(match &self.last_good {
            Some(_) => "the last good one goes on; waiting for changes",
            None => "waiting for changes",
        })
    }

    /// Waits until something has changed in the crate, and has settled. What comes in meanwhile is applied, and told.
    fn wait(&mut self, changes: &Receiver<()>, stop: &Stop) -> anyhow::Result<Slept> {
        loop {
            if stop.is_requested() {
                return Ok(Slept::Stopped);
            }
            match changes.recv_timeout(LOOK) {
                Ok(()) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(text) = self.last_good.as_mut().map(Round::news).transpose()?.flatten() {
                        super::print(&text)?;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Slept::Stopped),
            }
        }
        while changes.recv_timeout(SETTLED).is_ok() {}
        super::print_line("changed; building")?;
        Ok(Slept::Out)
    }
}

/// Watches a crate's sources; what is received says only that something has changed.
fn watch(project: &Crate) -> anyhow::Result<(notify::RecommendedWatcher, Receiver<()>)> {
    let (sender, changes) = channel();
    let (folder, target) = (project.folder.clone(), project.target.clone());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let only_read = matches!(event.kind, EventKind::Access(AccessKind::Open(_) | AccessKind::Read));
        if !only_read && event.paths.iter().any(|path| is_source(path, &folder, &target)) {
            // Nobody waits any more: the process is ending.
            sender.send(()).ok();
        }
    })?;
    watcher.watch(&project.folder, RecursiveMode::NonRecursive)?;
    for entry in std::fs::read_dir(&project.folder)? {
        let path = entry?.path();
        // A target folder has thousands of files, and none of them is a source.
        if path.is_dir() && path != project.target && is_source(&path, &project.folder, &project.target) {
            watcher.watch(&path, RecursiveMode::Recursive)?;
        }
    }
    Ok((watcher, changes))
}

/// Whether a change of this file is a reason to build: not what cargo, a database or an editor leaves behind.
fn is_source(path: &Path, folder: &Path, target: &Path) -> bool {
    let Ok(within) = path.strip_prefix(folder) else { return false };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_hidden = within.iter().any(|part| part.to_string_lossy().starts_with('.'));
    let is_left_behind = name.ends_with('~') || name.contains(".db") || name == "target" || name == "Cargo.lock";
    !path.starts_with(target) && !is_hidden && !is_left_behind
}

/// The error of a folder that is no crate.
fn no_crate(message: impl Into<String>) -> anyhow::Error {
    let hint = "name the folder of a projection's crate; docs/writing-a-projection.md shows how one is made";
    UsageError::new(message, hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_from_what_is_left_behind() {
        let (folder, target) = (Path::new("/a"), Path::new("/a/target"));
        for source in ["/a/src/lib.rs", "/a/Cargo.toml", "/a/src/more/x.sql"] {
            assert!(is_source(Path::new(source), folder, target), "{source}");
        }
        for other in ["/a/target/x.rs", "/a/.git/index", "/a/src/.lib.rs.swp", "/a/lib.rs~", "/a/x.db-wal", "/b/lib.rs"]
        {
            assert!(!is_source(Path::new(other), folder, target), "{other}");
        }
    }
}
