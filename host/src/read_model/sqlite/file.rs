//! A projection's file, and what its statements are compiled to for as long as it is open.
//!
//! A statement is found by the number of its text, which costs a tenth of what the driver's own cache does: that takes the text
//! apart for each execution, hashes it, and copies it once more when the statement is put back. And none of them is the host's:
//! the authorizer is asked when a statement is compiled, so what was compiled for the host is for the host alone, whoever writes
//! the same text.

use fnv::FnvHashMap;
use rusqlite::{Connection, Statement};
use self_cell::self_cell;

use super::super::guard::{Judged, Kind};
use super::super::store::StatementLimits;
use super::super::value::{Rowset, SqlError, Value};
use super::{sql_error, values};

/// How many statements are kept. A projection that makes up a new text for every event gains nothing from them.
const KEPT: usize = 256;

/// A statement, compiled.
struct Compiled<'file> {
    /// It.
    statement: Statement<'file>,
    /// Which parameter of the projection's each of its own takes.
    parameters: Vec<usize>,
}

/// Statements by the numbers of their texts.
type Statements<'file> = FnvHashMap<u32, Compiled<'file>>;

self_cell!(
    struct WithStatements {
        owner: Connection,
        #[not_covariant]
        dependent: Statements,
    }
);

// SAFETY: a statement must not be used while another thread uses its connection, which is all that keeps it from being sent.
// Nothing outside of this type has a reference to either of them for longer than a call, so both go to the other thread together.
#[expect(unsafe_code, reason = "nothing else says that a value and what borrows from it are sent as one")]
unsafe impl Send for WithStatements {}

/// A file that is open.
pub(super) struct File(WithStatements);

impl File {
    /// Nothing is compiled yet.
    pub(super) fn new(connection: Connection) -> Self {
        Self(WithStatements::new(connection, |_| Statements::default()))
    }

    /// Its connection.
    pub(super) fn connection(&self) -> &Connection {
        self.0.borrow_owner()
    }

    /// Compiles a projection's statement if need be, runs it, and reads whatever comes.
    ///
    /// # Errors
    /// When it does not compile, fails, or gives more than a result may have.
    pub(super) fn run(
        &mut self,
        judged: &Judged,
        parameters: &[Value],
        limits: StatementLimits,
    ) -> Result<Rowset, SqlError> {
        self.0.with_dependent_mut(|connection, statements| {
            if judged.kind == Kind::Definition {
                return Compiled::new(connection, judged)?.run(connection, judged.kind, parameters, limits);
            }
            if statements.len() >= KEPT && !statements.contains_key(&judged.number) {
                statements.clear();
            }
            let compiled = match statements.entry(judged.number) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Compiled::new(connection, judged)?),
            };
            let done = compiled.run(connection, judged.kind, parameters, limits);
            // Values of megabytes need not stay for as long as their statement.
            compiled.statement.clear_bindings();
            done
        })
    }
}

impl<'file> Compiled<'file> {
    /// Compiles a statement.
    fn new(connection: &'file Connection, judged: &Judged) -> Result<Self, SqlError> {
        let statement = connection.prepare(&judged.sql).map_err(|error| sql_error(&error))?;
        let parameters = values::numbers(&statement)?;
        Ok(Self { statement, parameters })
    }

    /// Binds, and reads whatever comes.
    fn run(
        &mut self,
        connection: &Connection,
        kind: Kind,
        parameters: &[Value],
        limits: StatementLimits,
    ) -> Result<Rowset, SqlError> {
        let failed = |error: rusqlite::Error| sql_error(&error);
        let statement = &mut self.statement;
        values::bind(statement, &self.parameters, parameters)?;
        let mut rowset = Rowset::default();
        let (mut declared, mut bytes) = (None, 0);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)? {
            // Not before the first step: that is when a statement is compiled anew whose tables have changed.
            let declared = declared.get_or_insert_with(|| values::declared(row.as_ref()));
            let mut values = Vec::with_capacity(declared.len());
            for (column, declared) in declared.iter().enumerate() {
                let value = values::from_sqlite(row.get_ref(column).map_err(failed)?, *declared);
                bytes += value.size();
                values.push(value);
            }
            rowset.rows.push(values);
            limits.check(rowset.rows.len(), bytes)?;
        }
        drop(rows);
        rowset.columns = statement.column_names().into_iter().map(str::to_owned).collect();
        let counts = kind != Kind::Definition && !statement.readonly();
        rowset.affected = if counts { connection.changes() } else { 0 };
        Ok(rowset)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::guard::{Guard, Phase};
    use super::super::super::unit_of_work::SqlLimits;
    use super::super::super::value::Dialect;
    use super::*;

    #[test]
    fn a_statement_that_is_kept_sees_columns_that_came_since() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let open = || Connection::open(folder.path().join("own.db"));
        let (mut file, other) = (File::new(open()?), open()?);
        other.execute_batch("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1)")?;
        let mut guard = Guard::new(Dialect::Sqlite, "p");
        let judged = guard.judge("SELECT * FROM t", Phase::Rows)?;
        let limits = SqlLimits::default().statement;
        assert_eq!(file.run(&judged, &[], limits)?.columns, ["a"]);
        other.execute_batch("ALTER TABLE t ADD COLUMN b TEXT DEFAULT 'new'")?;
        let found = file.run(&judged, &[], limits)?;
        assert_eq!(found.columns, ["a", "b"]);
        assert_eq!(found.rows, [[Value::Int64(1), Value::Text("new".to_owned())]]);
        Ok(())
    }

    #[test]
    fn texts_without_end_do_not_fill_the_memory() -> Result<(), Box<dyn std::error::Error>> {
        let mut file = File::new(Connection::open_in_memory()?);
        let mut guard = Guard::new(Dialect::Sqlite, "p");
        for number in 0..3 * KEPT {
            let judged = guard.judge(&format!("SELECT {number}"), Phase::Rows)?;
            let found = file.run(&judged, &[], SqlLimits::default().statement)?;
            assert_eq!(found.rows, [[Value::Int64(i64::try_from(number)?)]]);
        }
        file.0.with_dependent(|_, statements| assert!(statements.len() <= KEPT));
        Ok(())
    }
}
