//! The transaction a projection writes in, and the rows it reads.

use std::{error::Error, fmt, ops::Deref, rc::Rc};

use crate::{
    FromValue, Params, SqlError, Value,
    bindings::{self, projectionist::projection::transactions},
};

/// Which SQL the read model speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, 13 or newer.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// The transaction that the host's checkpoint is written in, lent for one call.
///
/// It cannot be kept, committed or rolled back; those are the host's. Parameters are written `$1`, `$2`, …
/// on both databases. One call runs one statement.
pub struct Transaction<'a> {
    /// Who runs the statements.
    driver: &'a dyn Driver,
}

/// What stands behind a transaction: the host, or a test's database.
pub(crate) trait Driver {
    /// Runs a statement, at the latest before the next `query` or the commit.
    fn execute(&self, sql: &str, params: &[Value]) -> Result<(), SqlError>;
    /// Runs what is still held, then this one.
    fn query(&self, sql: &str, params: &[Value]) -> Result<transactions::Rowset, SqlError>;
    /// Which SQL to write.
    fn dialect(&self) -> Dialect;
}

impl Driver for bindings::Transaction {
    fn execute(&self, sql: &str, params: &[Value]) -> Result<(), SqlError> {
        Ok(self.execute(sql, params)?)
    }

    fn query(&self, sql: &str, params: &[Value]) -> Result<transactions::Rowset, SqlError> {
        Ok(self.query(sql, params)?)
    }

    fn dialect(&self) -> Dialect {
        match self.dialect() {
            transactions::Dialect::Postgres => Dialect::Postgres,
            transactions::Dialect::Sqlite => Dialect::Sqlite,
        }
    }
}

impl<'a> Transaction<'a> {
    /// A transaction carried out by `driver`.
    pub(crate) fn new(driver: &'a dyn Driver) -> Self {
        Self { driver }
    }

    /// Runs one statement whose result does not matter.
    ///
    /// Statements are sent in order, many at a time, and at the latest before the next query or the commit.
    /// So this is fast, and one that fails in the database is not told here but fails the batch; the host
    /// then finds out which event it was.
    ///
    /// # Errors
    ///
    /// What can be told at once: a parameter with no SQL value, a statement that is not allowed, a limit.
    pub fn execute(&self, sql: &str, params: impl Into<Params>) -> Result<(), SqlError> {
        self.driver.execute(sql, &params.into().into_values()?)
    }

    /// Runs everything that [`execute`](Self::execute) still holds, then this statement, and returns its
    /// rows. Each call is a round trip to the database: read only what the events do not say.
    ///
    /// # Errors
    ///
    /// A parameter with no SQL value, and whatever the database or the host refuses.
    pub fn query(&self, sql: &str, params: impl Into<Params>) -> Result<Rows, SqlError> {
        let answer = self.driver.query(sql, &params.into().into_values()?)?;
        Ok(Rows::new(answer.columns, answer.rows, answer.affected))
    }

    /// The one row of a query.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query), and SQLSTATE `02000` without a row, `21000` with more than one.
    pub fn query_one(&self, sql: &str, params: impl Into<Params>) -> Result<Row, SqlError> {
        self.query_optional(sql, params)?
            .ok_or_else(|| SqlError::new("02000", format!("no row where one was expected: {sql}")))
    }

    /// The row of a query that may have none.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query), and SQLSTATE `21000` with more than one row.
    pub fn query_optional(&self, sql: &str, params: impl Into<Params>) -> Result<Option<Row>, SqlError> {
        let mut rows = self.query(sql, params)?.rows;
        if rows.len() > 1 {
            let message = format!("{} rows where at most one was expected: {sql}", rows.len());
            return Err(SqlError::new("21000", message));
        }
        Ok(rows.pop())
    }

    /// Which SQL to write, where one text does not do for both.
    pub fn dialect(&self) -> Dialect {
        self.driver.dialect()
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

/// What a query answered: a slice of [`Row`]s, and how many rows it changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The rows, in the database's order.
    rows: Vec<Row>,
    /// How many rows the statement changed.
    affected: u64,
}

impl Rows {
    /// Rows that share the names of their columns.
    pub(crate) fn new(columns: Vec<String>, rows: Vec<Vec<Value>>, affected: u64) -> Self {
        let columns: Rc<[String]> = columns.into();
        let row = |values| Row { columns: Rc::clone(&columns), values };
        Self { rows: rows.into_iter().map(row).collect(), affected }
    }

    /// How many rows an INSERT, UPDATE, DELETE or MERGE changed; 0 for a SELECT.
    pub fn affected(&self) -> u64 {
        self.affected
    }
}

impl Deref for Rows {
    type Target = [Row];

    fn deref(&self) -> &[Row] {
        &self.rows
    }
}

impl IntoIterator for Rows {
    type Item = Row;
    type IntoIter = std::vec::IntoIter<Row>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'a> IntoIterator for &'a Rows {
    type Item = &'a Row;
    type IntoIter = std::slice::Iter<'a, Row>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The names of the columns.
    columns: Rc<[String]>,
    /// A value for each.
    values: Vec<Value>,
}

impl Row {
    /// The value of a column, by name or by index from 0: `row.get::<i64>("departed")?`.
    ///
    /// # Errors
    ///
    /// When there is no such column, or its value is no `T`; the error names the column and both types.
    pub fn get<T: FromValue>(&self, column: impl ColumnIndex) -> Result<T, ColumnError> {
        let value = column.find(&self.columns).and_then(|index| self.values.get(index)).ok_or_else(|| ColumnError {
            column: column.to_string(),
            problem: format!("is not among those there are ({})", self.columns.join(", ")),
        })?;
        T::from_value(value).map_err(|error| ColumnError { column: column.to_string(), problem: error.to_string() })
    }

    /// The values, in the order of the columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The values, taken out.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn into_values(self) -> Vec<Value> {
        self.values
    }
}

/// What names a column: a `&str`, or a `usize` from 0.
pub trait ColumnIndex: fmt::Display + sealed::Sealed {
    /// Where the column stands.
    #[doc(hidden)]
    fn find(&self, columns: &[String]) -> Option<usize>;
}

impl ColumnIndex for &str {
    fn find(&self, columns: &[String]) -> Option<usize> {
        columns.iter().position(|name| name == self)
    }
}

impl ColumnIndex for usize {
    fn find(&self, _: &[String]) -> Option<usize> {
        Some(*self)
    }
}

/// Keeps [`ColumnIndex`] ours to change.
mod sealed {
    /// Implemented here only.
    pub trait Sealed {}
    impl Sealed for &str {}
    impl Sealed for usize {}
}

/// A column that is not what the projection expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnError {
    /// Its name, or its index.
    column: String,
    /// What is wrong with it.
    problem: String,
}

impl fmt::Display for ColumnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {} {}", self.column, self.problem)
    }
}

impl Error for ColumnError {}
