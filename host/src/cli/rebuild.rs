//! `host rebuild`: builds a read model afresh beside the live one, follows the events until it has caught up, and
//! swaps the two. [`ground`] is how; [`background`] is the same from within a host that runs, as the dashboard asks for it;
//! `progress` says on a terminal how far it is.

pub mod background;
mod ground;
mod progress;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use self::ground::{Ground, How, Place, Tell};
use super::Context;
use super::loading::{Loading, PluginArgument, Setting, load, refuse_strangers};
use super::overrides;
use super::run::{self, LoopOptions};
use crate::processor::Stop;
use crate::processor::policy::Until;
use crate::read_model::{CONNECTIONS, ReadModel};

/// `host rebuild`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host rebuild --plugin user_count.wasm\n  \
    host rebuild --plugin user_count.wasm --workers 4 --database-url postgres://localhost/shop\n  \
    host rebuild --plugin user_count.wasm --discard\n\n\
    The live read model is read and written as before until the swap, which takes a moment: readers see the old\n\
    tables or the new ones. Workers that run go on with the new ones by themselves. Interrupted, however that was, the\n\
    live one is untouched, and the same command goes on where it stopped; with another component it starts over.\n\
    What an operator has added to the tables by hand (indexes, triggers) is not carried over; grants are.")]
pub struct RebuildCommand {
    /// The projection to rebuild; NAME when it runs under another name than its own
    #[arg(long, value_name = "[NAME=]FILE[@sha256:DIGEST]")]
    plugin: PluginArgument,
    /// How many partitions build at the same time [default: as many as the live one has]
    #[arg(long, env = "WORKERS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    workers: Option<u32>,
    /// Drop the live tables first and build them in their place: for readers they are gone at once, then incomplete
    /// until it has caught up
    #[arg(long)]
    in_place: bool,
    /// Throw away a rebuild that was begun and not finished
    #[arg(long, conflicts_with = "in_place")]
    discard: bool,
    /// How workers work.
    #[command(flatten)]
    loop_options: LoopOptions,
    /// A setting for the projection, as config::get reads it
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
    /// How long workers may take to finish their batch when the process is told to stop
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "SECONDS", default_value_t = 30)]
    shutdown_timeout: u64,
    /// On which terms.
    #[command(flatten)]
    loading: Loading,
}

impl RebuildCommand {
    /// Runs it.
    ///
    /// # Errors
    /// When there is nothing to rebuild, somebody else does it, or it does not come to its end.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let stop = Stop::default();
        run::stop_on_signals(context, &stop, Some(Duration::from_secs(self.shutdown_timeout)));
        let loader = self.loading.loader()?;
        let plugin = load(&loader, &self.plugin, &self.settings)?;
        let own = std::slice::from_ref(&plugin.descriptor.name);
        refuse_strangers(&loader, (&context.events, &context.read_model), own, context.configured())?;
        overrides::refuse_strangers(&self.loading.overrides(), own, context.configured())?;
        let options = self.loop_options.options(Until::CaughtUp);
        // Its partitions are those of the live one.
        let (_, options) = overrides::apply(&self.loading.overrides(), &own[0], (vec![], options), false)?;
        let source = context.existing_events()?;
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        read_model.check()?;
        let how = How {
            workers: self.workers,
            options,
            patience: Duration::from_secs(self.shutdown_timeout),
            connections: CONNECTIONS,
            tell: Tell::People,
        };
        let projection = plugin.descriptor.name.clone();
        let place = if self.in_place { Place::InPlace } else { Place::Beside };
        let ground =
            Ground { context, read_model, source: Arc::clone(&source), projection, place, how, stop, live: None };
        let done = if self.discard { ground.discard()? } else { ground.rebuild(&plugin)? };
        Ok(super::print_line(&done)?)
    }
}
