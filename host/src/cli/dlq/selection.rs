//! Choosing letters: by projection, aggregate, position; or all of them.

use std::str::FromStr;

use clap::Args;

use crate::cli::exit::UsageError;
use crate::database::DatabaseError;
use crate::event::Position;
use crate::read_model::dead_letter::Aggregate;
use crate::read_model::dead_letters::{Letters, Page, ParkedAggregate, Selection, StoredLetter, Which, whole};
use crate::read_model::{ReadModel, rebuild};
use crate::source::Source;

/// What to type to see what there is.
pub(super) const LOOK: &str = "`host dlq list` shows what is parked and what was skipped";

/// Which letters.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which letters")]
pub(super) struct Chosen {
    /// Those of this aggregate, as `list` shows it, such as default/Account/eve
    #[arg(value_name = "AGGREGATE", conflicts_with_all = ["bounded_context", "aggregate_type", "aggregate_id"])]
    pub(super) aggregate: Option<AggregateArgument>,
    /// Those of this projection
    #[arg(long, value_name = "NAME")]
    pub(super) projection: Option<String>,
    /// Those of aggregates in this bounded context
    #[arg(long, value_name = "NAME")]
    pub(super) bounded_context: Option<String>,
    /// Those of aggregates of this kind
    #[arg(long, value_name = "TYPE")]
    pub(super) aggregate_type: Option<String>,
    /// Those of the aggregate with this id
    #[arg(long, value_name = "ID")]
    pub(super) aggregate_id: Option<String>,
    /// That of the event at this position
    #[arg(long, value_name = "POSITION")]
    pub(super) position: Option<u64>,
}

/// `CONTEXT/TYPE/ID`; the id may hold a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AggregateArgument(pub(super) Aggregate);

impl FromStr for AggregateArgument {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(bounded_context), Some(aggregate_type), Some(aggregate_id)) => {
                Ok(Self(Aggregate { bounded_context, aggregate_type, aggregate_id }))
            }
            _ => Err("an aggregate is CONTEXT/TYPE/ID, such as default/Account/eve"),
        }
    }
}

impl Chosen {
    /// As the databases take it.
    pub(super) fn selection(&self) -> Selection {
        let selection = match &self.aggregate {
            Some(AggregateArgument(aggregate)) => Selection::aggregate("", aggregate),
            None => Selection {
                bounded_context: self.bounded_context.clone(),
                aggregate_type: self.aggregate_type.clone(),
                aggregate_id: self.aggregate_id.clone(),
                ..Selection::default()
            },
        };
        Selection { projection: self.projection.clone(), position: self.position.map(Position::new), ..selection }
    }

    /// Whether it says anything but a projection.
    pub(super) fn is_of_aggregates(&self) -> bool {
        self.selection() != Selection { projection: self.projection.clone(), ..Selection::default() }
    }

    /// Refuses a projection that has never run there.
    pub(super) fn check_projection(&self, read_model: &ReadModel) -> anyhow::Result<()> {
        let Some(wanted) = &self.projection else { return Ok(()) };
        let known: Vec<String> = read_model.overview()?.into_iter().map(|overview| overview.projection).collect();
        if known.contains(wanted) {
            return Ok(());
        }
        let known: Vec<_> = known.into_iter().filter(|name| rebuild::projection_of(name).is_none()).collect();
        let hint = match &known[..] {
            [] => "no projection has run there yet; check the URL (READ_MODEL_URL, DATABASE_URL)".to_owned(),
            known => format!("there are: {}", known.join(", ")),
        };
        Err(UsageError::new(format!("there is no projection {wanted}"), hint).into())
    }

    /// The parked aggregates, for a command that has to have some.
    ///
    /// # Errors
    /// When nobody knows the aggregate or the event, the event is no parked one, or a database fails.
    pub(super) fn parked(
        &self,
        letters: &mut dyn Letters,
        source: &dyn Source,
    ) -> anyhow::Result<Vec<ParkedAggregate>> {
        let selection = self.selection();
        let Some(position) = selection.position else {
            let parked = whole(|page| letters.parked(&selection, page))?;
            if parked.is_empty() {
                self.refuse_unknown(source)?;
            }
            return Ok(parked);
        };
        let found = whole(|page| letters.letters(&selection, Which::All, page))?;
        if found.is_empty() {
            return Err(UsageError::new(format!("there is no dead letter of event {position}"), LOOK).into());
        }
        let mut parked = Vec::new();
        for letter in found {
            if let Some(skipped) = skipped(&letter) {
                return Err(skipped.into());
            }
            parked.extend(parked_of(letters, &letter)?);
        }
        Ok(parked)
    }

    /// Refuses an aggregate of which there is no event at all.
    fn refuse_unknown(&self, source: &dyn Source) -> anyhow::Result<()> {
        let selection = self.selection();
        if let (Some(context), Some(kind), Some(id)) =
            (selection.bounded_context, selection.aggregate_type, selection.aggregate_id)
            && !source.has_aggregate(&context, &kind, &id)?
        {
            let message = format!("there is no aggregate {context}/{kind}/{id}");
            return Err(UsageError::new(message, LOOK).into());
        }
        Ok(())
    }
}

/// The parked aggregate that a letter is of, unless it is not parked any more.
///
/// # Errors
/// When the database fails.
pub(super) fn parked_of(
    letters: &mut dyn Letters,
    letter: &StoredLetter,
) -> Result<Option<ParkedAggregate>, DatabaseError> {
    let selection = Selection::aggregate(&letter.projection, &letter.aggregate);
    Ok(letters.parked(&selection, &Page::first(1))?.items.into_iter().next())
}

/// Refuses an event that was given up: its aggregate has gone on without it.
fn skipped(letter: &StoredLetter) -> Option<UsageError> {
    use crate::read_model::dead_letter::Reason;
    let StoredLetter { position, aggregate, .. } = letter;
    (letter.reason == Reason::Skipped).then(|| {
        UsageError::new(
            format!("event {position} was skipped, and {aggregate} has gone on without it"),
            "its place in the order is gone: only a rebuild applies it again",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_is_three_names_and_the_last_may_hold_anything() {
        let AggregateArgument(aggregate) = "default/Account/a/b".parse().unwrap();
        assert_eq!(aggregate.aggregate_id, "a/b");
        assert_eq!(aggregate.to_string(), "default/Account/a/b");
        assert!("Account/eve".parse::<AggregateArgument>().is_err());
    }
}
