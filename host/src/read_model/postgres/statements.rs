//! Statements of a projection, prepared once a connection, and kept until there is reason to send them.
//!
//! Kept statements become one message, `EXECUTE p0('…', …); EXECUTE p1(…); …`, so that a batch costs a round trip
//! or two however many statements it has. Preparing goes through the extended protocol, which takes one
//! statement and no more, and PREPARE itself takes rows' statements only; what comes after it in a message is
//! nothing but names of ours and quoted literals.
//!
//! A run of one INSERT becomes one statement of several rows where [`MultiRow`] says so: `EXECUTE p0x(E'{…}', E'{…}');`,
//! an array for each parameter.

use std::fmt::Write as _;

use fnv::{FnvHashMap, FnvHashSet};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::super::guard::Judged;
use super::super::multi_row;
#[cfg(doc)]
use super::super::multi_row::MultiRow;
use super::super::value::{SqlError, Value, sqlstate};
use super::literal::Form;
use super::{literal, sql_error};

/// How many statements stay prepared. A projection that makes up texts without end does not fill the server.
const PREPARED: usize = 512;

/// How much of a statement an error quotes.
const QUOTED: usize = 160;

/// How often a statement comes before it is prepared for several rows.
const AGAIN: usize = 8;

/// A statement that the connection knows.
#[derive(Debug)]
struct Prepared {
    /// The types of its parameters: OID, and the name for messages.
    parameters: Vec<(u32, String)>,
    /// The beginning of its text, for errors.
    text: String,
    /// Whether it can be sent with several rows.
    several: Several,
    /// Whether the server knows it for several rows; also when that is not used any more.
    is_made: bool,
    /// Table and key columns of the rows it writes, where it can: what two statements of one run have in common.
    writes: Option<(String, Vec<String>)>,
}

/// Whether a statement can be sent with several rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Several {
    /// Never, or not any more.
    Never,
    /// Nobody has asked the database yet; so often it was kept.
    Perhaps(usize),
    /// It can, and is prepared for it.
    Prepared {
        /// Whether rows with other keys, also of other statements, may come before it.
        any_order: bool,
    },
}

/// Rows for one table, each with another key, not yet in the message.
#[derive(Debug, Default)]
struct Run {
    /// By statement.
    groups: Vec<Group>,
    /// The keys of all rows, as literals.
    keys: FnvHashSet<String>,
    /// Whether one of the keys may be another's, in other words (1.0 and 1.00).
    is_inexact: bool,
    /// How many bytes they take.
    bytes: usize,
}

/// The rows of one statement in a run, column by column.
#[derive(Debug, Default)]
struct Group {
    /// Which statement.
    number: u32,
    /// How many rows there are.
    rows: usize,
    /// For each parameter its values, as elements of an array with commas between them.
    columns: Vec<String>,
}

/// A part of a message: which statement, and how many rows it has; nothing for the host's own.
pub(super) type Part = Option<(u32, usize)>;

/// The statements of one connection.
#[derive(Debug, Default)]
pub(super) struct Statements {
    /// By [`Judged::number`].
    prepared: FnvHashMap<u32, Prepared>,
    /// What was kept, as one message.
    message: String,
    /// Which statement each part of the message is.
    parts: Vec<Part>,
    /// What comes behind the message.
    run: Run,
    /// What stands for one row while it is written.
    row: String,
    /// Where in it each parameter ends.
    ends: Vec<usize>,
}

/// A message ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Its text.
    pub(super) text: String,
    /// Which statement each part is.
    pub(super) parts: Vec<Part>,
}

impl Statements {
    /// Prepares a statement. Nothing is kept at that time.
    pub(super) async fn prepare(&mut self, connection: &mut PgConnection, judged: &Judged) -> Result<(), SqlError> {
        if self.prepared.len() >= PREPARED {
            self.deallocate(connection).await?;
        }
        let text: String = judged.sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED).collect();
        let failed = |error: sqlx::Error| within(sql_error(&error), &text);
        let prepare = format!("PREPARE p{} AS {}", judged.number, judged.sql);
        sqlx::query(AssertSqlSafe(prepare)).persistent(false).execute(&mut *connection).await.map_err(failed)?;
        let parameters: Vec<(i64, String)> = sqlx::query_as(
            "SELECT parameter.type::oid::int8, format_type(parameter.type::oid, NULL)
             FROM pg_prepared_statements, unnest(parameter_types) WITH ORDINALITY AS parameter (type, number)
             WHERE name = $1 ORDER BY parameter.number",
        )
        .bind(format!("p{}", judged.number))
        .fetch_all(connection)
        .await
        .map_err(failed)?;
        let parameters =
            parameters.into_iter().map(|(oid, name)| (u32::try_from(oid).unwrap_or(u32::MAX), name)).collect();
        let several = if judged.multi_row.is_some() { Several::Perhaps(0) } else { Several::Never };
        let writes = judged.multi_row.as_ref().map(|of| (of.table.clone(), of.key_columns.clone()));
        self.prepared.insert(judged.number, Prepared { parameters, text, several, is_made: false, writes });
        Ok(())
    }

    /// Prepares a statement for several rows, if its table allows that. Nothing is kept at that time.
    pub(super) async fn prepare_several(
        &mut self,
        connection: &mut PgConnection,
        judged: &Judged,
    ) -> Result<(), SqlError> {
        let (Some(multi_row), Some(prepared)) = (&judged.multi_row, self.prepared.get_mut(&judged.number)) else {
            return Ok(());
        };
        // Whatever goes wrong below goes wrong once.
        prepared.several = Several::Never;
        let text = prepared.text.clone();
        let failed = |error: sqlx::Error| within(sql_error(&error), &text);
        let safe: Option<(bool, bool)> = sqlx::query_as(multi_row::SAFE_TABLE)
            .bind(&multi_row.table)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
        let Some((true, any_order)) = safe else { return Ok(()) };
        if !prepared.parameters.iter().all(|(oid, name)| literal::is_element(*oid, name)) {
            return Ok(());
        }
        // Given by name, the types are those of the one row.
        let types: Vec<String> = prepared.parameters.iter().map(|(_, name)| format!("{name}[]")).collect();
        let prepare = format!("PREPARE p{}x ({}) AS {}", judged.number, types.join(", "), multi_row.several());
        sqlx::query(AssertSqlSafe(prepare)).persistent(false).execute(connection).await.map_err(failed)?;
        prepared.is_made = true;
        prepared.several = Several::Prepared { any_order: any_order && !multi_row.key.is_empty() };
        Ok(())
    }

    /// Whether it is time to prepare a statement for several rows: it comes again and again.
    pub(super) fn wants_several(&self, judged: &Judged) -> bool {
        let several = self.prepared.get(&judged.number).map(|prepared| prepared.several);
        matches!(several, Some(Several::Perhaps(times)) if times >= AGAIN)
    }

    /// Never again sends a statement with several rows: two of them were the same to the database.
    pub(super) fn never_several(&mut self, part: Option<&Part>) {
        if let Some((number, _)) = part.copied().flatten()
            && let Some(prepared) = self.prepared.get_mut(&number)
        {
            prepared.several = Several::Never;
        }
    }

    /// Forgets all prepared statements: there are too many, or the tables are not those they were prepared for.
    pub(super) async fn deallocate(&mut self, connection: &mut PgConnection) -> Result<(), SqlError> {
        if self.prepared.is_empty() {
            return Ok(());
        }
        let mut names = Vec::new();
        for (number, prepared) in &self.prepared {
            names.push(format!("DEALLOCATE p{number}"));
            names.extend(prepared.is_made.then(|| format!("DEALLOCATE p{number}x")));
        }
        connection.execute(sqlx::raw_sql(AssertSqlSafe(names.join(";")))).await.map_err(|error| sql_error(&error))?;
        self.prepared.clear();
        Ok(())
    }

    /// Whether a statement is prepared.
    pub(super) fn knows(&self, judged: &Judged) -> bool {
        self.prepared.contains_key(&judged.number)
    }

    /// Keeps a prepared statement with its parameters.
    pub(super) fn keep(&mut self, judged: &Judged, parameters: &[Value]) -> Result<(), SqlError> {
        let Some(prepared) = self.prepared.get(&judged.number) else {
            return Err(SqlError::permanent(sqlstate::OTHER, "the statement is not prepared"));
        };
        if prepared.parameters.len() != parameters.len() {
            let message = format!(
                "the statement takes {} parameters, and {} were given",
                prepared.parameters.len(),
                parameters.len()
            );
            return Err(within(SqlError::permanent(sqlstate::PARAMETER_COUNT, message), &prepared.text));
        }
        let form = match prepared.several {
            Several::Prepared { .. } => Form::Element,
            Several::Never | Several::Perhaps(_) => Form::Literal,
        };
        self.row.clear();
        self.ends.clear();
        let (mut key, mut is_exact) = (String::new(), true);
        for (at, (value, (oid, name))) in parameters.iter().zip(&prepared.parameters).enumerate() {
            if at > 0 && form == Form::Literal {
                self.row.push(',');
            }
            literal::write(&mut self.row, form, at + 1, value, *oid, name)
                .map_err(|error| within(error, &prepared.text))?;
            self.ends.push(self.row.len());
        }
        if let (Several::Prepared { any_order }, Some(multi_row)) = (prepared.several, &judged.multi_row) {
            // In the order of the key's columns, so that two statements which name them in another order agree.
            for at in &multi_row.key {
                let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
                key.push_str(&self.row[start..self.ends[*at]]);
                key.push(',');
                is_exact &= literal::is_exact(&parameters[*at], prepared.parameters[*at].0);
            }
            if !self.run.takes(judged.number, &key, any_order && is_exact, &self.prepared) {
                self.end_run();
            }
            self.run.is_inexact |= !is_exact;
            self.run.add(judged.number, &self.row, &self.ends, key);
            return Ok(());
        }
        self.end_run();
        execute(&mut self.message, judged.number, &self.row);
        self.parts.push(Some((judged.number, 1)));
        if let Some(Prepared { several: Several::Perhaps(times), .. }) = self.prepared.get_mut(&judged.number) {
            *times += 1;
        }
        Ok(())
    }

    /// Keeps a prepared statement, and not in a run: somebody wants its own answer.
    pub(super) fn keep_alone(&mut self, judged: &Judged, parameters: &[Value]) -> Result<(), SqlError> {
        self.end_run();
        self.keep(judged, parameters)
    }

    /// Puts the run into the message, in as few statements as there are.
    fn end_run(&mut self) {
        for Group { number, rows, columns } in &self.run.groups {
            execute_several(&mut self.message, *number, columns);
            self.parts.push(Some((*number, *rows)));
        }
        self.run.forget();
    }

    /// Keeps a statement of the host's own.
    pub(super) fn keep_own(&mut self, sql: &str) {
        self.end_run();
        self.message.push_str(sql);
        self.message.push(';');
        self.parts.push(None);
    }

    /// How many bytes are kept.
    pub(super) fn kept(&self) -> usize {
        self.message.len() + self.run.bytes
    }

    /// Takes what was kept.
    pub(super) fn take(&mut self) -> Message {
        self.end_run();
        Message { text: std::mem::take(&mut self.message), parts: std::mem::take(&mut self.parts) }
    }

    /// Forgets what was kept.
    pub(super) fn forget(&mut self) {
        self.message.clear();
        self.parts.clear();
        self.run.forget();
    }

    /// An error of a part of a message, with the statement that caused it.
    pub(super) fn explain(&self, error: SqlError, part: Option<&Part>) -> SqlError {
        match part.copied().flatten().and_then(|(number, _)| self.prepared.get(&number)) {
            Some(prepared) => within(error, &prepared.text),
            None => error,
        }
    }
}

impl Run {
    /// Whether a row of a statement can come behind what is there, or before some of it.
    fn takes(&self, number: u32, key: &String, any_order: bool, prepared: &FnvHashMap<u32, Prepared>) -> bool {
        let Some(first) = self.groups.first() else { return true };
        if self.keys.contains(key) {
            return false;
        }
        let one = self.groups.len() == 1 && first.number == number;
        let same_rows = |a: &Prepared, b: &Prepared| a.writes == b.writes && a.several == b.several;
        let any_order = any_order && !self.is_inexact;
        one || (any_order
            && prepared.get(&first.number).zip(prepared.get(&number)).is_some_and(|(a, b)| same_rows(a, b)))
    }

    /// Adds a row, whose parameters end at `ends`.
    fn add(&mut self, number: u32, row: &str, ends: &[usize], key: String) {
        let at = self.groups.iter().position(|group| group.number == number).unwrap_or_else(|| {
            self.groups.push(Group { number, rows: 0, columns: vec![String::new(); ends.len()] });
            self.groups.len() - 1
        });
        let group = &mut self.groups[at];
        let mut start = 0;
        for (column, end) in group.columns.iter_mut().zip(ends) {
            if group.rows > 0 {
                column.push(',');
            }
            column.push_str(&row[start..*end]);
            start = *end;
        }
        group.rows += 1;
        self.bytes += row.len();
        if !key.is_empty() {
            self.keys.insert(key);
        }
    }

    /// Begins again.
    fn forget(&mut self) {
        self.groups.clear();
        self.keys.clear();
        (self.bytes, self.is_inexact) = (0, false);
    }
}

/// Writes the execution of a prepared statement.
fn execute(message: &mut String, number: u32, parameters: &str) {
    // Writing into a `String` cannot fail.
    let written = match parameters {
        "" => write!(message, "EXECUTE p{number};"),
        _ => write!(message, "EXECUTE p{number}({parameters});"),
    };
    debug_assert!(written.is_ok(), "a String takes whatever is written");
}

/// Writes the execution of a statement that is prepared for several rows.
fn execute_several(message: &mut String, number: u32, columns: &[String]) {
    let mut opening = '(';
    let mut written = write!(message, "EXECUTE p{number}x");
    for elements in columns {
        written = written.and(write!(message, "{opening}E'{{{elements}}}'"));
        opening = ',';
    }
    message.push_str(");");
    debug_assert!(written.is_ok(), "a String takes whatever is written");
}

/// Says in which statement an error happened.
fn within(error: SqlError, statement: &str) -> SqlError {
    SqlError { message: format!("{}, in: {statement}", error.message), ..error }
}
