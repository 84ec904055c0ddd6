//! What projections may see, as the operator says it: `VALUE` for all, `NAME=VALUE` for the one of that name.
//!
//! The name is set off by `=`, as in `--plugin NAME=FILE`, and not by a dot as in `--set`: fields are paths with dots, and
//! so are many types of aggregates. Were `customer.email` the field `email` for a projection `customer` to one reader, and
//! a field of everybody to another, somebody would see what he should not.

use std::fmt::Display;
use std::str::FromStr;

use clap::Args;

use crate::plugin::descriptor::check_name;
use crate::plugin::filter::{Addressed, Filters};
use crate::plugin::redaction::FieldPath;
use crate::read_model::grants::Grant;
use crate::read_model::isolation::Isolation;

/// What projections may see.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What projections may see")]
pub struct FilterOptions {
    /// Show only events of aggregates of this type; NAME=TYPE is for one projection; may be said again
    #[arg(
        long = "only-aggregate-type",
        env = "ONLY_AGGREGATE_TYPE",
        value_name = "[NAME=]TYPE",
        value_delimiter = ',',
        value_parser = addressed::<String>
    )]
    only_aggregate_types: Vec<Addressed<String>>,
    /// Take this field out of JSON payloads; a dot leads into objects, such as customer.email; NAME=FIELD is for one
    /// projection; may be said again
    #[arg(
        long = "redact-payload",
        env = "REDACT_PAYLOAD",
        value_name = "[NAME=]FIELD",
        value_delimiter = ',',
        value_parser = addressed::<FieldPath>
    )]
    redacted_fields: Vec<Addressed<FieldPath>>,
    /// Let projections read this table besides their own (Postgres); NAME=SCHEMA.TABLE is for one projection; may be said
    /// again. What a run does not name any more is taken away
    #[arg(
        long = "grant-read",
        env = "GRANT_READ",
        value_name = "[NAME=]SCHEMA.TABLE",
        value_delimiter = ',',
        value_parser = addressed::<Grant>
    )]
    grants: Vec<Addressed<Grant>>,
    /// How strongly.
    #[command(flatten)]
    isolation: IsolationOption,
}

/// Whose session projections have.
#[derive(Clone, Debug, Args)]
pub struct IsolationOption {
    /// What holds a projection's SQL on Postgres if the guard is wrong: `role` sets a role of its own for each transaction;
    /// `login` logs in as that role, for plugins that nobody has reason to trust; NAME=login is for one projection [default:
    /// role]
    #[arg(
        long = "isolation",
        env = "ISOLATION",
        value_name = "[NAME=]role|login",
        value_delimiter = ',',
        value_parser = addressed::<Isolation>
    )]
    isolations: Vec<Addressed<Isolation>>,
}

impl IsolationOption {
    /// For the loader.
    #[must_use]
    pub fn isolations(&self) -> Vec<Addressed<Isolation>> {
        self.isolations.clone()
    }
}

impl FilterOptions {
    /// For the loader.
    #[must_use]
    pub fn filters(&self) -> Filters {
        Filters {
            only_aggregate_types: self.only_aggregate_types.clone(),
            redacted_fields: self.redacted_fields.clone(),
            grants: self.grants.clone(),
            isolations: self.isolation.isolations(),
        }
    }
}

/// `[NAME=]VALUE`
pub(super) fn addressed<T: FromStr<Err: Display>>(text: &str) -> Result<Addressed<T>, String> {
    let (projection, value) = match text.split_once('=') {
        Some((name, value)) => {
            check_name(name).map_err(|error| error.to_string())?;
            (Some(name.to_owned()), value)
        }
        None => (None, text),
    };
    if value.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(Addressed { projection, value: value.parse().map_err(|error: T::Err| error.to_string())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_for_all_or_for_the_one_it_names() {
        let all = |value: &str| Addressed { projection: None, value: value.to_owned() };
        assert_eq!(addressed::<String>("Shop.Order"), Ok(all("Shop.Order")));
        let one = Addressed { projection: Some("x".to_owned()), value: "a.b".parse::<FieldPath>().unwrap() };
        assert_eq!(addressed::<FieldPath>("x=a.b"), Ok(one));
        for wrong in ["", "x=", "X=a", "=a", "a..b"] {
            assert!(addressed::<FieldPath>(wrong).is_err(), "{wrong}");
        }
    }
}
