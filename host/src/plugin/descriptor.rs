//! What a projection says of itself, and which names it may have.

use std::fmt;

use serde::Serialize;
use wasmtime::component::{ComponentType, Lift};

use crate::source::Filter;

/// The WIT record `descriptor`, field for field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ComponentType, Lift)]
#[component(record)]
pub struct Descriptor {
    /// Its name.
    pub name: String,
    /// The version of its tables, from 1.
    pub version: u32,
    /// The event types it wants; empty for all.
    #[component(name = "event-types")]
    pub event_types: Vec<String>,
    /// The aggregate types it wants; empty for all.
    #[component(name = "aggregate-types")]
    pub aggregate_types: Vec<String>,
    /// The bounded contexts it wants; empty for all.
    #[component(name = "bounded-contexts")]
    pub bounded_contexts: Vec<String>,
}

impl Descriptor {
    /// Bytes of its types and contexts, with 8 for each.
    pub(super) fn described(&self) -> usize {
        let lists = [&self.event_types, &self.aggregate_types, &self.bounded_contexts];
        lists.into_iter().flatten().map(|text| text.len() + 8).sum()
    }

    /// The events it wants.
    #[must_use]
    pub fn filter(&self) -> Filter {
        Filter {
            event_types: self.event_types.clone(),
            aggregate_types: self.aggregate_types.clone(),
            bounded_contexts: self.bounded_contexts.clone(),
        }
    }
}

/// How many bytes of types and contexts a projection may describe. They are part of each query for events, and a list of
/// a guest's may name the same text many times.
pub(super) const DESCRIBED: usize = 64 << 10;

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// It is not of the form that works as a schema, a role and a file.
    #[error(
        "`{0}` is no name for a projection: it has to be of the form [a-z_][a-z0-9_]{{0,47}}, because it names a schema and a file"
    )]
    Form(Printable),
    /// It is a schema that somebody else has.
    #[error("`{0}` is no name for a projection: that schema belongs to Postgres or to the host")]
    Reserved(Printable),
}

/// Text from a stranger, fit to print: no control characters, no more than 80 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printable(String);

impl Printable {
    /// Fit to print.
    pub fn of(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Several, with commas between them.
    #[must_use]
    pub fn list(texts: &[String]) -> String {
        texts.iter().map(|text| Self::of(text).to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(80).flat_map(char::escape_debug).collect();
        f.write_str(&shown)
    }
}

/// Whether a projection may have this name.
///
/// # Errors
/// When it may not, with why.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let rest = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !first || !rest || name.len() > 48 {
        return Err(BadName::Form(Printable(name.to_owned())));
    }
    if matches!(name, "public" | "information_schema" | "projectionist") || name.starts_with("pg_") {
        return Err(BadName::Reserved(Printable(name.to_owned())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_work_as_schema_and_file() {
        for name in ["user_count", "_x9", &"a".repeat(48)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "User", "9a", "a-b", "a.b", "../x", "ä", &"a".repeat(49)] {
            assert!(matches!(check_name(name), Err(BadName::Form(_))), "{name}");
        }
        for name in ["public", "pg_catalog", "projectionist"] {
            assert!(matches!(check_name(name), Err(BadName::Reserved(_))), "{name}");
        }
    }

    #[test]
    fn what_a_stranger_wants_is_printed_harmlessly() {
        assert_eq!(Printable::list(&["A".into(), "\u{1b}[31m\n".into()]), "A, \\u{1b}[31m\\n");
    }

    #[test]
    fn a_hostile_name_is_printed_harmlessly() {
        let error = check_name("\u{1b}[31m\n'; DROP").unwrap_err().to_string();
        assert!(!error.contains('\u{1b}') && !error.contains('\n'), "{error:?}");
    }
}
