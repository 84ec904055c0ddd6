//! What is set for one projection of a run and not for the others: `--for NAME.KEY=VALUE`.

use std::str::FromStr;
use std::time::Duration;

use super::exit::UsageError;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            _ => return Err("KEY is workers, batch_size, on_error, max_attempts, poll_interval or priority".to_owned()),
        };
        Ok(Self { projection: projection.to_owned(), what })
    }
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
        match one.what {
            What::Workers(_) if several => {
                let message = format!("{projection} has workers of its own, and --total-partitions is for all");
                return Err(UsageError::new(message, "say one of the two").into());
            }
            What::Workers(workers) => {
                partitions = (0..workers).map(|key| Partition::new(key, workers)).collect::<Result<_, _>>()?;
            }
            What::BatchSize(size) => options.batch_size = size as usize,
            What::OnError(on_error) => options.on_error = on_error,
            What::MaxAttempts(attempts) => options.max_attempts = attempts,
            What::Priority(priority) => options.priority = priority,
            What::PollInterval(interval) => options.poll_interval = Duration::from_millis(interval),
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
            ("x.size=5", "KEY is workers,"),
            ("X.workers=5", "X"),
            ("x.on_error=explode", "explode"),
        ] {
            let refused = text.parse::<Override>().unwrap_err();
            assert!(refused.contains(error), "{text}: {refused}");
        }
        let parsed: Override = "x.on_error=skip".parse().unwrap();
        assert_eq!(parsed, Override { projection: "x".to_owned(), what: What::OnError(OnError::Skip) });
    }
}
