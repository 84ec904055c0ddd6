//! A long run of chaos, as `make chaos` starts it: `chaos [SEED=…] [MINUTES=…] [DATABASE=postgres|sqlite|both]
//! [ISOLATION=role|login]`.
//!
//! The seed is the first thing it says, and with that seed it inflicts the same faults in the same order again.

#![expect(unused_crate_dependencies, reason = "they are the harness's")]

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use projectionist_host::read_model::isolation::Isolation;
use projectionist_tests::Kind;
use projectionist_tests::chaos::Plan;

/// How it is used.
const USAGE: &str =
    "chaos [SEED=number] [MINUTES=number] [SECONDS=number] [DATABASE=postgres|sqlite|both] [ISOLATION=role|login]";

/// What was asked for.
struct Asked {
    /// The seed.
    seed: u64,
    /// For how long, on each database.
    time: Duration,
    /// On which databases.
    kinds: Vec<Kind>,
    /// Whose sessions write, on Postgres.
    isolation: Isolation,
}

impl Asked {
    /// Reads the arguments, each `NAME=value`; an empty value counts as none.
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
        let mut asked = Self {
            seed: u64::from(now.subsec_nanos()),
            time: Duration::from_secs(30 * 60),
            kinds: vec![Kind::Sqlite, Kind::Postgres],
            isolation: Isolation::default(),
        };
        for argument in arguments {
            let number = |value: &str| value.parse().map_err(|_| format!("{argument}: that is no number"));
            match argument.split_once('=') {
                Some((_, "")) => {}
                Some(("SEED", value)) => asked.seed = number(value)?,
                Some(("MINUTES", value)) => asked.time = Duration::from_secs(60 * number(value)?),
                Some(("SECONDS", value)) => asked.time = Duration::from_secs(number(value)?),
                Some(("DATABASE", "both")) => {}
                Some(("DATABASE", "postgres")) => asked.kinds = vec![Kind::Postgres],
                Some(("DATABASE", "sqlite")) => asked.kinds = vec![Kind::Sqlite],
                Some(("ISOLATION", value)) => {
                    asked.isolation = value.parse().map_err(|error| format!("{argument}: {error}"))?;
                }
                _ => return Err(format!("{argument}: {USAGE}")),
            }
        }
        Ok(asked)
    }
}

fn main() -> ExitCode {
    let mut stdout = std::io::stdout();
    let Asked { seed, time, kinds, isolation } = match Asked::read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(error) => {
            writeln!(std::io::stderr(), "error: {error}").ok();
            return ExitCode::from(2);
        }
    };
    writeln!(stdout, "seed {seed}").ok();
    for kind in kinds {
        let plan = Plan { seed, kind, isolation, time };
        writeln!(stdout, "chaos on {} for {time:?}; again with: {}", plan.database(), plan.command()).ok();
        // A broken promise is a panic with the whole story, and exit code 101.
        writeln!(stdout, "{}", plan.run()).ok();
    }
    ExitCode::SUCCESS
}
