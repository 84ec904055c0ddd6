//! `host dlq purge`: removes the letters of events that were given up.
//!
//! Those of parked aggregates stay: they are what says that later events have to wait, and which.

use clap::Args;

use super::selection::{Chosen, LOOK};
use crate::cli::Context;
use crate::cli::exit::UsageError;
use crate::read_model::ReadModel;
use crate::read_model::dead_letter::Reason;
use crate::read_model::dead_letters::{Page, Which};

/// `host dlq purge`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  host dlq purge --all\n  host dlq purge --projection balances --older-than 30d\n  \
    host dlq purge --position 4\n\n\
    Only letters of skipped events are removed. The events stay in the log."
)]
pub(super) struct Purge {
    /// Only those that are older than this, such as 90s, 30min, 12h or 30d
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<u64>,
    /// Those of all skipped events
    #[arg(long)]
    all: bool,
    /// As JSON, stable for scripts
    #[arg(long)]
    json: bool,
    /// Which letters.
    #[command(flatten)]
    chosen: Chosen,
}

impl Purge {
    /// Runs it.
    ///
    /// # Errors
    /// When it does not say what to remove, that is parked, or a database fails.
    pub(super) fn run(&self, context: &Context) -> anyhow::Result<()> {
        let selection = self.chosen.selection();
        if selection == Default::default() && self.older_than.is_none() && !self.all {
            let hint = "name a projection, an aggregate, a position or an age; or --all";
            return Err(UsageError::new("that does not say which letters to remove", hint).into());
        }
        let read_model = ReadModel::new(&context.read_model, context.runtime.handle());
        self.chosen.check_projection(&read_model)?;
        let mut letters = read_model.dead_letters()?;
        if self.chosen.is_of_aggregates() {
            let mut first =
                |which| letters.letters(&selection, which, &Page::first(1)).map(|found| found.items.into_iter().next());
            if first(Which::All)?.is_none() {
                return Err(UsageError::new("there is no such dead letter", LOOK).into());
            }
            let parked = match first(Which::Only(Reason::Poison))? {
                None => first(Which::Only(Reason::Behind))?,
                poison => poison,
            };
            if let Some(parked) = parked {
                let message = format!(
                    "event {} of {} is parked, not skipped: without its letter the events behind it would be applied \
                     on top of one that is missing",
                    parked.position, parked.aggregate
                );
                let hint = format!(
                    "host dlq retry {0} applies it, host dlq skip {0} gives it up; then it can be purged",
                    parked.aggregate
                );
                return Err(UsageError::new(message, hint).into());
            }
        }
        let purged = letters.purge(&selection, self.older_than)?;
        let text = match (self.json, purged) {
            (true, purged) => serde_json::json!({ "purged": purged }).to_string(),
            (false, 1) => "purged the letter of 1 skipped event".to_owned(),
            (false, purged) => format!("purged the letters of {purged} skipped events"),
        };
        crate::cli::print_line(&text)?;
        Ok(())
    }
}

/// A time as a number and a unit, in seconds.
fn age(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "an age is a number and s, min, h or d, such as 30d";
    // Further back than this the databases have no calendar.
    const LONGEST: u64 = 1_000 * 365 * 86_400;
    let digits = text.find(|character: char| !character.is_ascii_digit()).ok_or(WRONG)?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(WRONG),
    };
    let number: u64 = number.parse().map_err(|_| WRONG)?;
    Ok(number.saturating_mul(unit).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_a_unit() {
        assert_eq!((age("90s"), age("2min"), age("12h"), age("30d")), (Ok(90), Ok(120), Ok(43_200), Ok(2_592_000)));
        for wrong in ["30", "d", "", "-1d", "1w", "1.5h"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
