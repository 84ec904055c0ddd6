//! `host dlq`: dead letters, and what can be done about them.
//!
//! [`selection`] is how letters are chosen. [`list`] and [`show`] look; [`ask`] is `retry` and `skip`, which ask whoever
//! works on the partition, or do it themselves; [`purge`] removes what was given up.

mod ask;
mod list;
mod purge;
mod selection;
mod show;

use clap::{Args, Subcommand};

use super::Context;

/// `host dlq`.
#[derive(Debug, Args)]
pub struct Dlq {
    /// Which command.
    #[command(subcommand)]
    command: DlqCommand,
}

/// The commands below `host dlq`.
#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// Show which aggregates are parked and which events were skipped
    List(list::List),
    /// Show letters whole: error, payload and metadata
    Show(show::Show),
    /// Replay the events of parked aggregates, in order, and let them go on
    Retry(ask::Retry),
    /// Give up on the event that an aggregate is parked for, and replay those behind it
    Skip(ask::Skip),
    /// Remove the letters of skipped events
    Purge(purge::Purge),
}

impl Dlq {
    /// Runs it.
    ///
    /// # Errors
    /// When there is no such letter, a database fails, or a replay does.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        match &self.command {
            DlqCommand::List(list) => list.run(context),
            DlqCommand::Show(show) => show.run(context),
            DlqCommand::Retry(retry) => retry.run(context),
            DlqCommand::Skip(skip) => skip.run(context),
            DlqCommand::Purge(purge) => purge.run(context),
        }
    }
}
