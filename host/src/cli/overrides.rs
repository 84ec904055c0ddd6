//! What is set for one projection and not for the others: `--for NAME.KEY=VALUE`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::exit::UsageError;
use super::limits::{self, Limit};
use super::replica_set::Shared;
use crate::partition::Partition;
use crate::plugin::descriptor::check_name;
use crate::processor::{OnError, Options, Priority};

/// `NAME.KEY=VALUE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The projection.
    projection: String,
    /// What.
    what: What,
}

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// `workers`
    Workers(u32),
    /// `batch_size`
    BatchSize(u32),
    /// `on_error`
    OnError(OnError),
    /// `max_attempts`
    MaxAttempts(u32),
    /// `poll_interval`
    PollInterval(u64),
    /// `priority`
    Priority(Priority),
    /// `require_signature`
    RequireSignature(bool),
    /// `trusted_keys`
    TrustedKeys(PathBuf),
    /// `max_…`
    Limit(Limit),
}

/// How workers work.
const WORK: [&str; 6] = ["workers", "batch_size", "on_error", "max_attempts", "poll_interval", "priority"];

/// Whose plugins are run.
const TRUST: [&str; 2] = ["require_signature", "trusted_keys"];

/// All keys.
pub fn keys() -> impl Iterator<Item = String> {
    WORK.into_iter().chain(TRUST).map(str::to_owned).chain(limits::keys())
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
        let ((projection, key), value) = parts.ok_or("say NAME.KEY=VALUE, such as user_count.batch_size=500")?;
        check_name(projection).map_err(|error| error.to_string())?;
        let whole = |most: u64| match value.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(format!("{key} is a number from 1 to {most}")),
        };
        let small = |most: u32| whole(most.into()).map(|number| u32::try_from(number).unwrap_or(most));
        let what = match key {
            "workers" => What::Workers(small(65_536)?),
            "batch_size" => What::BatchSize(small(1_000_000)?),
            "on_error" => What::OnError(<OnError as clap::ValueEnum>::from_str(value, false)?),
            "max_attempts" => What::MaxAttempts(small(u32::MAX)?),
            "poll_interval" => What::PollInterval(whole(u64::MAX)?),
            "priority" => What::Priority(<Priority as clap::ValueEnum>::from_str(value, false)?),
            "require_signature" => {
                What::RequireSignature(value.parse().map_err(|_| "require_signature is true or false".to_owned())?)
            }
            "trusted_keys" if value.is_empty() => return Err("trusted_keys is a file".to_owned()),
            "trusted_keys" => What::TrustedKeys(value.into()),
            "max_stack" => return Err("max_stack is for all projections of a process: --max-stack".to_owned()),
            limit if limits::keys().any(|key| key == limit) => What::Limit(Limit::parse(limit, value)?),
            _ => return Err(format!("KEY is one of {}", keys().collect::<Vec<_>>().join(", "))),
        };
        Ok(Self { projection: projection.to_owned(), what })
    }
}

/// What the configuration file sets for single projections. It stands beside what is typed and not behind it, as a default
/// would: one `--for x.batch_size=5` would lift the signature that the file demands of `y`.
#[derive(Clone, Debug, Default)]
pub struct Configured(pub Vec<Override>);

/// What holds it while the command line is parsed. Nobody can type that: a name that is typed ends at its `=`.
const CONFIGURED: &str = "for=";

impl Configured {
    /// The option, with what the file says.
    #[must_use]
    pub fn option(values: Vec<String>) -> Arg {
        let option = Arg::new(CONFIGURED).long(CONFIGURED).action(ArgAction::Append).hide(true);
        option.value_parser(|text: &str| text.parse::<Override>()).default_values(values)
    }
}

impl Args for Configured {
    // Without a file there is no such option.
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for Configured {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = matches.try_get_many::<Override>(CONFIGURED).ok().flatten();
        Ok(Self(values.into_iter().flatten().cloned().collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What is said of a projection's limits and of whom it is trusted by.
#[derive(Debug, Default)]
pub struct Own<'said> {
    /// Whether a signature is needed.
    pub require_signature: Option<bool>,
    /// Whose signatures count.
    pub trusted_keys: Option<&'said PathBuf>,
    /// What it may take.
    pub limits: Vec<&'said Limit>,
}

/// The projections of which something of that kind is said, and what.
pub fn own(overrides: &[Override]) -> impl Iterator<Item = (&str, Own<'_>)> {
    let mut all: Vec<(&str, Own<'_>)> = Vec::new();
    for one in overrides {
        let at = all.iter().position(|(name, _)| *name == one.projection).unwrap_or(all.len());
        if at == all.len() {
            all.push((&one.projection, Own::default()));
        }
        let own = &mut all[at].1;
        match &one.what {
            What::RequireSignature(required) => own.require_signature = Some(*required),
            What::TrustedKeys(file) => own.trusted_keys = Some(file),
            What::Limit(limit) => own.limits.push(limit),
            _ => {}
        }
    }
    all.into_iter()
}

/// An override for a projection that is not there is a mistyped name.
///
/// # Errors
/// When there is one that is not among these, nor among those that are known elsewhere.
pub fn refuse_strangers(
    overrides: &[Override],
    projections: &[String],
    elsewhere: &[String],
) -> Result<(), UsageError> {
    let mut named = overrides.iter().map(|one| &one.projection);
    match named.find(|name| !projections.contains(name) && !elsewhere.contains(name)) {
        None => Ok(()),
        Some(stranger) => {
            let message = format!("--for is for {stranger}, and no plugin is called that");
            Err(UsageError::new(message, format!("say the name of one that is loaded: {}", projections.join(", "))))
        }
    }
}

/// In a replica set it is the roster that says how many workers a process has.
///
/// # Errors
/// When somebody else has said it.
pub fn refuse_workers(overrides: &[Override], shared: &[Shared]) -> Result<(), UsageError> {
    let mut workers = overrides.iter().filter(|one| matches!(one.what, What::Workers(_)));
    let Some(Override { projection, .. }) = workers.next() else { return Ok(()) };
    let set = shared.iter().find(|set| set.projections.contains(projection)).map_or("", |set| &set.set);
    let message =
        format!("{projection} has workers of its own, and the replica set {set} gives each process its share");
    Err(UsageError::new(message, format!("leave them out; --slots {set}=N says how many processes can share it")))
}

/// How the workers of a projection work, and on which partitions; where nothing is said of it, as all do.
///
/// # Errors
/// When it is to have a number of workers of its own, while this process is one of several (`several`) that share the
/// partitions.
pub fn apply(
    overrides: &[Override],
    projection: &str,
    (mut partitions, mut options): (Vec<Partition>, Options),
    several: bool,
) -> anyhow::Result<(Vec<Partition>, Options)> {
    for one in overrides.iter().filter(|one| one.projection == projection) {
        match &one.what {
            What::Workers(_) if several => {
                let message = format!("{projection} has workers of its own, and --total-partitions is for all");
                return Err(UsageError::new(message, "say one of the two").into());
            }
            What::Workers(workers) => {
                partitions = (0..*workers).map(|key| Partition::new(key, *workers)).collect::<Result<_, _>>()?;
            }
            What::BatchSize(size) => options.batch_size = *size as usize,
            What::OnError(on_error) => options.on_error = *on_error,
            What::MaxAttempts(attempts) => options.max_attempts = *attempts,
            What::Priority(priority) => options.priority = *priority,
            What::PollInterval(interval) => options.poll_interval = Duration::from_millis(*interval),
            What::RequireSignature(_) | What::TrustedKeys(_) | What::Limit(_) => {}
        }
    }
    Ok((partitions, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_override_is_refused_with_what_there_is() {
        for (text, error) in [
            ("batch_size=5", "say NAME.KEY=VALUE"),
            ("x.batch_size", "say NAME.KEY=VALUE"),
            ("x.batch_size=0", "batch_size is a number from 1 to 1000000"),
            ("x.size=5", "KEY is one of workers,"),
            ("x.require_signature=perhaps", "true or false"),
            ("x.trusted_keys=", "is a file"),
            ("x.max_memory=1", "say 64 KiB to 4 GiB"),
            ("x.max_stack=1MiB", "for all projections of a process"),
            ("X.workers=5", "X"),
            ("x.on_error=explode", "explode"),
        ] {
            let refused = text.parse::<Override>().unwrap_err();
            assert!(refused.contains(error), "{text}: {refused}");
        }
        for key in keys() {
            let values = ["1", "park", "high", "true", "1MiB"];
            assert!(values.iter().any(|value| format!("x.{key}={value}").parse::<Override>().is_ok()), "{key}");
        }
        let parsed: Override = "x.on_error=skip".parse().unwrap();
        assert_eq!(parsed, Override { projection: "x".to_owned(), what: What::OnError(OnError::Skip) });
    }
}
