//! Carrying out an operator's requests where no worker runs: the command claims the partition itself, replays, and
//! lets go.

use std::sync::Arc;

use super::batch::Applier;
use super::failure::ApplyError;
use super::replay::{Carried, Replaying};
use super::supervisor::STACK;
use super::worker::Trouble;
use crate::plugin::Plugin;
use crate::read_model::ReadModel;
use crate::read_model::checkpoint::Slot;
use crate::read_model::grants::Others;
use crate::read_model::guard::Phase;
use crate::read_model::request::Request;
use crate::read_model::store::ClaimError;
use crate::read_model::unit_of_work::{Sending, UnitOfWork};
use crate::telemetry::metrics::Meter;

/// Why requests were not carried out. They wait.
#[derive(Debug, thiserror::Error)]
pub enum Unable {
    /// Somebody works on the partition, and will do it.
    #[error(transparent)]
    Held(ClaimError),
    /// The tables have another version than the plugin.
    #[error("the tables of {projection} are at version {found}, and this plugin is version {wanted}")]
    OtherVersion {
        /// Which projection.
        projection: String,
        /// The version of its tables.
        found: u32,
        /// The version of the plugin.
        wanted: u32,
    },
    /// The partition cannot be claimed.
    #[error(transparent)]
    Claim(ClaimError),
    /// It ended on the way.
    #[error("{0}")]
    Trouble(String),
}

impl From<ApplyError> for Unable {
    fn from(error: ApplyError) -> Self {
        Self::Trouble(error.to_string())
    }
}

/// Carries out the chosen of a partition's requests; gives why those wait that do.
///
/// # Errors
/// When the partition cannot be had, or was lost on the way.
pub fn carry_out(
    read_model: &ReadModel,
    slot: &Slot,
    plugin: &Arc<Plugin>,
    chosen: impl Fn(&Request) -> bool + Send,
    replaying: Replaying<'_>,
) -> Result<Vec<(i64, String)>, Unable> {
    // On a thread as a worker has it: the caller's own stack may be too small for what a projection sends.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || claim_and_carry_out(read_model, slot, plugin, chosen, replaying));
        let thread = thread.map_err(|error| Unable::Trouble(format!("the system has no thread: {error}")))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As [`carry_out`], on this thread.
fn claim_and_carry_out(
    read_model: &ReadModel,
    slot: &Slot,
    plugin: &Arc<Plugin>,
    chosen: impl Fn(&Request) -> bool,
    replaying: Replaying<'_>,
) -> Result<Vec<(i64, String)>, Unable> {
    // A long replay is a sign of life.
    let _heartbeat = read_model.beat(replaying.by).map_err(|error| Unable::Trouble(error.to_string()))?;
    let claim = match read_model.claim(slot, replaying.by, replaying.options.priority) {
        Ok(claim) => claim,
        Err(held @ ClaimError::Held { .. }) => return Err(Unable::Held(held)),
        Err(error) => return Err(Unable::Claim(error)),
    };
    let limits = plugin.limits().sql;
    let work = UnitOfWork::new(claim.store, &slot.projection, limits, plugin.grants(), Others::Kept);
    let work = work.map_err(ApplyError::from)?;
    let meter = Meter::new(&slot.projection, slot.partition);
    let mut applier = Applier::new(Arc::clone(plugin), work, claim.parked, claim.position, meter);
    check_version(&applier, slot)?;
    let requests = applier.work().replays().requests().map_err(ApplyError::from)?;
    let mut wait = Vec::new();
    for request in requests.iter().filter(|request| chosen(request)) {
        match applier.carry_out(request, replaying) {
            Ok(Carried::Answered(_)) => {}
            Ok(Carried::Waits(why)) => wait.push((request.id, why)),
            Err(trouble) => return Err(Unable::Trouble(told(trouble))),
        }
    }
    Ok(wait)
}

/// Sees that the plugin writes into tables of its own version. Bringing them up is for those that run it.
fn check_version(applier: &Applier, slot: &Slot) -> Result<(), Unable> {
    let mut work = applier.work();
    work.begin(Phase::Rows, Sending::AtOnce).map_err(ApplyError::from)?;
    let found = work.schema_version().map_err(ApplyError::from)?.0;
    work.rollback().map_err(ApplyError::from)?;
    let wanted = applier.plugin.descriptor.version;
    if found == wanted {
        return Ok(());
    }
    Err(Unable::OtherVersion { projection: slot.projection.clone(), found, wanted })
}

/// What happened, for people.
fn told(trouble: Trouble) -> String {
    match trouble {
        Trouble::Stopped => "interrupted".to_owned(),
        Trouble::Fenced(reason)
        | Trouble::Outdated { reason, .. }
        | Trouble::Rewritten(reason)
        | Trouble::Lost(reason)
        | Trouble::Environment(reason) => reason,
        Trouble::Trial(error) => error.to_string(),
        Trouble::End(outcome) => format!("{outcome:?}"),
    }
}
