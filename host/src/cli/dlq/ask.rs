//! `host dlq retry` and `host dlq skip`: asking for a replay, and waiting for the answer.
//!
//! The request is a row, so it outlives the command: whoever works on the aggregate's partition, now or later, carries
//! it out. With `--plugin` the command does it itself where nobody does. [`report`] is what it prints.

mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use self::report::{self as reports, Json, Report, State};
use super::selection::Chosen;
use crate::cli::Context;
use crate::cli::exit::UsageError;
use crate::cli::loading::{Loading, PluginArgument, Setting, load, refuse_strangers};
use crate::cli::overrides;
use crate::event::Position;
use crate::partition::{Partition, fnv1a32};
use crate::plugin::Plugin;
use crate::processor::policy::Until;
use crate::processor::replay::Replaying;
use crate::processor::unattended::{self, Unable};
use crate::processor::{OnError, Options, Priority, Stop};
use crate::read_model::ReadModel;
use crate::read_model::checkpoint::Slot;
use crate::read_model::dead_letters::{Asked, Letters, ParkedAggregate};
use crate::read_model::request::Action;
use crate::source::Source;

/// How often it looks for an answer.
const LOOK: Duration = Duration::from_millis(50);

/// How often it looks whether somebody works on the partition.
const LOOK_FOR_WORKERS: Duration = Duration::from_millis(500);

/// How long nobody may work on the partition before that is said: another process may be about to take over.
const TAKEOVER: Duration = Duration::from_secs(2);

/// `host dlq retry`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host dlq retry default/Account/eve\n  \
    host dlq retry --all --projection balances\n  \
    host dlq retry --position 4 --plugin balances.wasm\n\n\
    The events of an aggregate are replayed in order, in one transaction: all of them, or none. A worker that runs does\n\
    it between two batches; where none runs, --plugin does it at once.")]
pub(super) struct Retry {
    /// What is asked.
    #[command(flatten)]
    asking: Asking,
}

/// `host dlq skip`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    host dlq skip default/Account/eve\n  \
    host dlq skip --position 4 --plugin balances.wasm\n\n\
    Only the event that failed is given up; those behind it are replayed in order, in one transaction. When one of them\n\
    fails, the first stays skipped and the aggregate is parked for the other: skip again, or mend and retry.")]
pub(super) struct Skip {
    /// What is asked.
    #[command(flatten)]
    asking: Asking,
}

impl Retry {
    /// Runs it.
    ///
    /// # Errors
    /// When there is nothing of that name, a replay fails, or nobody carries it out in time.
    pub(super) fn run(&self, context: &Context) -> anyhow::Result<()> {
        self.asking.run(context, |_| Ok(Action::Retry))
    }
}

impl Skip {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Retry::run`].
    pub(super) fn run(&self, context: &Context) -> anyhow::Result<()> {
        let position = self.asking.chosen.position.map(Position::new);
        self.asking.run(context, |parked| match position {
            Some(position) if position != parked.poison.position => {
                let (aggregate, poison) = (&parked.group.aggregate, parked.poison.position);
                let message = format!(
                    "event {position} has not failed: it waits, because {aggregate} is parked for event {poison}"
                );
                Err(UsageError::new(message, format!("host dlq skip --position {poison} gives up on that one")))
            }
            _ => Ok(Action::Skip(parked.poison.position)),
        })
    }
}

/// What both take.
#[derive(Debug, Args)]
struct Asking {
    /// Those of all parked aggregates
    #[arg(long)]
    all: bool,
    /// Carry it out with this plugin where no worker runs
    #[arg(long, value_name = "[NAME=]FILE[@sha256:DIGEST]")]
    plugin: Option<PluginArgument>,
    /// A setting for the plugin, as for `host run`
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "plugin")]
    settings: Vec<Setting>,
    /// How often something that may pass is tried, with --plugin
    #[arg(long, env = "MAX_ATTEMPTS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// How long to wait for a worker to carry it out; 0 only asks
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
    /// As JSON, stable for scripts
    #[arg(long)]
    json: bool,
    /// Which letters.
    #[command(flatten)]
    chosen: Chosen,
    /// On which terms that plugin runs.
    #[command(flatten)]
    loading: Loading,
}

/// What the work needs.
struct Work<'a> {
    /// What was typed.
    asking: &'a Asking,
    /// Where the letters are.
    read_model: &'a ReadModel,
    /// Where the events are.
    source: &'a dyn Source,
    /// What carries it out where no worker runs.
    plugin: Option<Arc<Plugin>>,
    /// Who asks.
    by: String,
}

impl Asking {
    /// Asks for everything that was chosen, and waits.
    fn run(
        &self,
        context: &Context,
        action: impl Fn(&ParkedAggregate) -> Result<Action, UsageError>,
    ) -> anyhow::Result<()> {
        if !self.all && !self.chosen.is_of_aggregates() {
            let hint = "name an aggregate, such as default/Account/eve, or an event with --position; or say --all";
            return Err(UsageError::new("that does not say which aggregates", hint).into());
        }
        let plugin = self.plugin(context)?;
        let mut chosen = self.chosen.clone();
        if let Some(plugin) = &plugin {
            let name = &plugin.descriptor.name;
            if chosen.projection.get_or_insert_with(|| name.clone()) != name {
                let message = format!("that plugin is {name}, and --projection says something else");
                return Err(UsageError::new(message, "run it under that name: --plugin NAME=FILE").into());
            }
        }
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        chosen.check_projection(&read_model)?;
        let source = context.existing_events()?;
        let mut letters = read_model.dead_letters()?;
        let parked = chosen.parked(&mut *letters, &*source)?;
        if !self.all {
            refuse_several_projections(&parked)?;
        }
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let by = format!("projectionist dlq {name}/{}", std::process::id());
        let work = Work { asking: self, read_model: &read_model, source: &*source, plugin, by };
        let mut report = Report::default();
        // Nothing is asked when one of them cannot be meant.
        let actions = parked.iter().map(&action).collect::<Result<Vec<_>, _>>()?;
        for (parked, action) in parked.iter().zip(actions) {
            let (projection, aggregate) = (&parked.group.projection, &parked.group.aggregate);
            let asked = letters.ask(projection, aggregate, action, &work.by)?;
            report.results.push(reports::Asked::new(projection, aggregate, action, asked));
        }
        work.wait(&mut *letters, &mut report)?;
        report.print(if self.json { Json::Yes } else { Json::No })?;
        report.result()
    }

    /// Loads the plugin.
    fn plugin(&self, context: &Context) -> anyhow::Result<Option<Arc<Plugin>>> {
        let Some(plugin) = &self.plugin else { return Ok(None) };
        let loader = self.loading.loader()?;
        let plugin = load(&loader, plugin, &self.settings)?;
        let own = std::slice::from_ref(&plugin.descriptor.name);
        refuse_strangers(&loader, (&context.events, &context.read_model), own, context.configured())?;
        overrides::refuse_strangers(&self.loading.overrides(), own, context.configured())?;
        Ok(Some(Arc::new(plugin)))
    }

    /// How it replays a projection itself.
    fn options(&self, projection: &str) -> anyhow::Result<Options> {
        let usual = Options {
            batch_size: 1,
            poll_interval: LOOK,
            on_error: OnError::Park,
            max_attempts: self.max_attempts,
            stale_after: None,
            priority: Priority::Normal,
            niceness: 0,
            until: Until::CaughtUp,
        };
        let (_, options) = overrides::apply(&self.loading.overrides(), projection, (vec![], usual), false)?;
        Ok(options)
    }
}

/// What one aggregate is called may be parked in several projections, and one may be mended and another not.
fn refuse_several_projections(parked: &[ParkedAggregate]) -> Result<(), UsageError> {
    let mut projections: Vec<&str> = parked.iter().map(|parked| &*parked.group.projection).collect();
    projections.dedup();
    match &projections[..] {
        [] | [_] => Ok(()),
        several => {
            let message = format!("that is parked in several projections: {}", several.join(", "));
            Err(UsageError::new(message, "say which with --projection NAME; or --all for all of them"))
        }
    }
}

impl Work<'_> {
    /// Waits until everything is answered, carrying out what nobody else does if there is a plugin.
    fn wait(&self, letters: &mut dyn Letters, report: &mut Report) -> anyhow::Result<()> {
        let began = Instant::now();
        let timeout = Duration::from_secs(self.asking.timeout);
        let mut looked: Option<Instant> = None;
        let mut unattended: Option<Instant> = None;
        loop {
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_FOR_WORKERS) {
                looked = Some(Instant::now());
                let slots = self.slots(report)?;
                if self.plugin.is_some() {
                    self.carry_out(&slots, report)?;
                } else if slots.iter().any(|(_, runs)| *runs == Runs::Yes) {
                    unattended = None;
                } else {
                    unattended.get_or_insert_with(Instant::now);
                }
            }
            self.look(letters, report)?;
            if report.is_answered() {
                return Ok(());
            }
            if self.asking.timeout == 0 {
                report.leave(|_| State::Queued);
                return Ok(());
            }
            if unattended.is_some_and(|since| since.elapsed() >= TAKEOVER.min(timeout)) {
                let slots = self.slots(report)?;
                report.leave(|result| match slots.iter().find(|(slot, _)| result.is_of(slot)) {
                    Some((slot, Runs::No)) => State::Unattended(slot.partition),
                    _ => State::TimedOut(began.elapsed()),
                });
                return Ok(());
            }
            if began.elapsed() >= timeout {
                report.leave(|_| State::TimedOut(timeout));
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Takes up answers.
    fn look(&self, letters: &mut dyn Letters, report: &mut Report) -> anyhow::Result<()> {
        for result in report.results.iter_mut().filter(|result| result.waits()) {
            let Some(id) = result.request else { continue };
            match letters.asked(&result.projection, id)? {
                Asked::Waits(note) => result.note = note,
                Asked::Answered(answer) => result.state = State::Answered(answer),
                Asked::Gone => result.state = State::Gone,
            }
        }
        Ok(())
    }

    /// The partitions of what is not answered, and whether somebody works on them.
    fn slots(&self, report: &Report) -> anyhow::Result<Vec<(Slot, Runs)>> {
        let overviews = self.read_model.overview()?;
        let mut slots: Vec<(Slot, Runs)> = Vec::new();
        for result in report.results.iter().filter(|result| result.waits()) {
            let overview = overviews.iter().find(|overview| overview.projection == result.projection);
            let checkpoints = overview.map_or(&[][..], |overview| &overview.checkpoints);
            let Some(total) = checkpoints.first().map(|checkpoint| checkpoint.partition.total()) else { continue };
            let key = fnv1a32(result.aggregate.aggregate_id.as_bytes()) % total;
            let partition = Partition::new(key, total)?;
            let slot = Slot { projection: result.projection.clone(), partition };
            if slots.iter().any(|(known, _)| *known == slot) {
                continue;
            }
            let runs = checkpoints.iter().any(|checkpoint| checkpoint.partition == partition && checkpoint.running);
            slots.push((slot, if runs { Runs::Yes } else { Runs::No }));
        }
        Ok(slots)
    }

    /// Carries out what nobody else does.
    fn carry_out(&self, slots: &[(Slot, Runs)], report: &mut Report) -> anyhow::Result<()> {
        let Some(plugin) = &self.plugin else { return Ok(()) };
        let (options, stop) = (self.asking.options(&plugin.descriptor.name)?, Stop::default());
        for (slot, runs) in slots {
            if *runs == Runs::Yes {
                continue;
            }
            let replaying = Replaying { source: self.source, options: &options, stop: &stop, by: &self.by };
            let ours: Vec<i64> = report.results.iter().filter_map(|result| result.request).collect();
            match unattended::carry_out(self.read_model, slot, plugin, |request| ours.contains(&request.id), replaying)
            {
                Ok(waiting) => {
                    for (request, why) in waiting {
                        report.leave_one(request, why);
                    }
                }
                // It has come in between, and will do it.
                Err(Unable::Held(_)) => {}
                Err(error @ Unable::OtherVersion { .. }) => {
                    let hint = "host run --plugin FILE --once brings the tables up, and carries out what was asked";
                    return Err(UsageError::new(format!("{error}; what was asked is queued"), hint).into());
                }
                Err(error) => {
                    let why = error.to_string();
                    report.leave_slot(slot, &why);
                }
            }
        }
        Ok(())
    }
}

/// Whether somebody works on a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    /// Somebody holds its claim.
    Yes,
    /// Nobody does.
    No,
}
