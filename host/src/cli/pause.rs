//! `host pause` and `host resume`: a projection's workers stop applying events, and go on.

use clap::Args;

use super::exit::UsageError;
use super::{Context, run};
use crate::read_model::pause::{Pause as Stored, Paused};
use crate::read_model::{ReadModel, rebuild};

/// `host pause`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  host pause user_count\n  host resume user_count\n\n\
    Every worker of the projection, in whatever process, finishes its batch and applies nothing more, within a second; also\n\
    one that is started later. It keeps its partition. What `host dlq` asks for is done meanwhile.")]
pub struct Pause {
    /// The projection
    projection: String,
}

/// `host resume`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  host resume user_count")]
pub struct Resume {
    /// The projection
    projection: String,
}

impl Pause {
    /// Runs it.
    ///
    /// # Errors
    /// When there is no such projection, or the database fails.
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let name = &self.projection;
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        let before = known(&read_model, name)?;
        let text = match (read_model.pause(name, &run::owner())?, before) {
            (Paused::Already, Some(Stored { by, since })) => format!("{name} is paused already, by {by} since {since}"),
            (Paused::Already, None) => format!("{name} is paused already"),
            (Paused::Done, _) => format!("{name} is paused: `host resume {name}` lets it go on"),
        };
        Ok(super::print_line(&text)?)
    }
}

impl Resume {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Pause::run`].
    pub fn run(&self, context: &Context) -> anyhow::Result<()> {
        let name = &self.projection;
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        known(&read_model, name)?;
        let text = match read_model.resume(name)? {
            Paused::Done => format!("{name} goes on"),
            Paused::Already => format!("{name} was not paused"),
        };
        Ok(super::print_line(&text)?)
    }
}

/// Refuses a projection that has never run there; gives its pause.
fn known(read_model: &ReadModel, wanted: &str) -> anyhow::Result<Option<Stored>> {
    let mut known = read_model.overview()?;
    known.retain(|overview| rebuild::projection_of(&overview.projection).is_none());
    if let Some(found) = known.iter().find(|overview| overview.projection == wanted) {
        return Ok(found.paused.clone());
    }
    let names: Vec<_> = known.into_iter().map(|overview| overview.projection).collect();
    let hint = match &names[..] {
        [] => "no projection has run there yet; check the URL (READ_MODEL_URL, DATABASE_URL)".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    };
    Err(UsageError::new(format!("there is no projection {wanted}"), hint).into())
}
