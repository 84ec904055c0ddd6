//! Tables that are not a projection's own, and that the operator lets it read.

use std::fmt;
use std::str::FromStr;

/// A table or a materialized view, by schema and name, as Postgres stores them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
}

/// What becomes of tables that were granted before and are not named now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They are taken away: a worker of `host run` knows what holds from now on.
    TakenAway,
    /// They stay: a rebuild and a replay run beside workers that may have been told more. The guard refuses them here.
    Kept,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (schema, table) = match text.split_once('.') {
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() && !table.contains('.') => (schema, table),
            _ => return Err(format!("{text:?} is no SCHEMA.TABLE")),
        };
        if schema == "projectionist" || schema == "information_schema" || schema.starts_with("pg_") {
            return Err(format!("the tables in {schema} are the host's and the server's own, and are not granted"));
        }
        Ok(Self { schema: schema.to_owned(), table: table.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_names_a_table_with_its_schema_and_none_of_the_hosts() {
        assert_eq!("sales.orders".parse::<Grant>().unwrap().to_string(), "sales.orders");
        for wrong in ["orders", ".orders", "sales.", "a.b.c", "", "pg_catalog.pg_authid", "projectionist.checkpoints"] {
            assert!(wrong.parse::<Grant>().is_err(), "{wrong}");
        }
    }
}
