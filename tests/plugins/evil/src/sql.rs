//! Statements that a projection may not run, or that take what is not its own: the test says which.

use projectionist_sdk::SqlError;
use projectionist_sdk::prelude::*;
use serde::Deserialize;

/// `{"attack": "sql", "how": "query", "statement": "SELECT 1"}`
#[derive(Deserialize)]
pub(crate) struct Attack {
    /// Which function it is given to.
    how: How,
    /// The statement.
    statement: String,
    /// Says that all is well when it is refused, as a guest that has something to hide would. What was said is noted.
    #[serde(default)]
    swallow: bool,
}

/// The two ways that a statement has into the database.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    /// `execute`
    Execute,
    /// `query`: its rows are noted, so that a test sees what it has got hold of.
    Query,
}

impl Attack {
    /// Runs the statement; gives what to note.
    pub(crate) fn run(self, tx: &Transaction) -> Result<String, Failure> {
        match run(tx, self.how, &self.statement) {
            Err(error) if self.swallow => Ok(error.to_string()),
            result => Ok(result?),
        }
    }
}

/// Runs the statement of the settings, if there is one.
pub(crate) fn migrate(tx: &Transaction) -> Result<(), Failure> {
    let Some(statement) = config::get("migrate") else { return Ok(()) };
    let how = if config::get("migrate_how").as_deref() == Some("query") { How::Query } else { How::Execute };
    run(tx, how, &statement)?;
    Ok(())
}

/// Runs a statement; gives what there is to note of it.
fn run(tx: &Transaction, how: How, statement: &str) -> Result<String, SqlError> {
    match how {
        How::Execute => {
            tx.execute(statement, params![])?;
            Ok("executed".to_owned())
        }
        How::Query => {
            let rows = tx.query(statement, params![])?;
            let rows: Vec<_> = rows.iter().map(|row| format!("{:?}", row.values())).collect();
            Ok(rows.join("\n"))
        }
    }
}
