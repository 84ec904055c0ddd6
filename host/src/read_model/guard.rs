//! Judges a projection's SQL before the database sees it, on the parsed tree, never on text.
//!
//! One statement; SELECT, INSERT, UPDATE, DELETE or MERGE, and in `migrate` also CREATE, ALTER and DROP of
//! tables, indexes and views; no other schema than the projection's own, none of the host's tables. What does
//! not parse is refused. A verdict is kept by the text, so a statement is parsed once a worker.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use fnv::FnvHashMap;
use sqlparser::ast::{
    AlterTableOperation, ColumnOption, Expr, ObjectName, ObjectType, Query, SetExpr, Statement, TableConstraint,
    Visit as _, Visitor,
};
use sqlparser::dialect::{Dialect as Grammar, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;

use super::multi_row::MultiRow;
use super::rebuild;
use super::value::{Dialect, SqlError, sqlstate};

/// How many verdicts are kept. A projection that makes up a new text for every event gains nothing from them.
const KEPT: usize = 1_024;

/// How many of them are looked through first.
const RECENT: usize = 4;

/// Which call a statement comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `handle` or `flush`: rows.
    Rows,
    /// `migrate`: rows, and the tables that hold them.
    Migrate,
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only reads rows (a query whose WITH writes counts as reading: it answers with rows).
    Reading,
    /// Writes rows.
    Writing,
    /// Makes, alters or drops what holds them.
    Definition,
}

/// A statement that may run.
#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    /// The text, as the projection wrote it.
    pub sql: String,
    /// What it does.
    pub kind: Kind,
    /// Different for different texts, and small: what the stores know a prepared statement by.
    pub number: u32,
    /// How it is sent with several rows, where it can be.
    pub multi_row: Option<MultiRow>,
}

/// Judges the statements of one projection.
#[derive(Debug)]
pub struct Guard {
    /// Which SQL.
    dialect: Dialect,
    /// The only schema a statement may name.
    schema: String,
    /// Verdicts so far.
    verdicts: FnvHashMap<String, Arc<Judged>>,
    /// The last few that were asked for: a projection runs the same two or three statements over and over, and to
    /// compare a text with them costs a tenth of what it costs to hash it.
    recent: VecDeque<Arc<Judged>>,
    /// The number of the next verdict.
    next: u32,
}

impl Guard {
    /// For a projection whose tables live in `schema` (on SQLite the schema is always `main`).
    #[must_use]
    pub fn new(dialect: Dialect, projection: &str) -> Self {
        let schema = match dialect {
            Dialect::Postgres => projection.to_owned(),
            Dialect::Sqlite => "main".to_owned(),
        };
        Self { dialect, schema, verdicts: FnvHashMap::default(), recent: VecDeque::new(), next: 0 }
    }

    /// Whether the statement may run now.
    ///
    /// # Errors
    /// When it may not, with what about it.
    pub fn judge(&mut self, sql: &str, phase: Phase) -> Result<Arc<Judged>, SqlError> {
        let judged = match self.recent.iter().find(|judged| judged.sql == sql) {
            Some(judged) => Arc::clone(judged),
            None => {
                let judged = self.verdict(sql)?;
                self.recent.truncate(RECENT - 1);
                self.recent.push_front(Arc::clone(&judged));
                judged
            }
        };
        if judged.kind == Kind::Definition && phase == Phase::Rows {
            return Err(not_allowed("tables, indexes and views are made, altered and dropped in `migrate` only"));
        }
        Ok(judged)
    }

    /// The verdict that was kept, or a new one.
    fn verdict(&mut self, sql: &str) -> Result<Arc<Judged>, SqlError> {
        if let Some(judged) = self.verdicts.get(sql) {
            return Ok(Arc::clone(judged));
        }
        let (kind, multi_row) = self.look_at(sql)?;
        let judged = Arc::new(Judged { sql: sql.to_owned(), kind, number: self.next, multi_row });
        self.next += 1;
        if self.verdicts.len() >= KEPT {
            self.verdicts.clear();
        }
        self.verdicts.insert(sql.to_owned(), Arc::clone(&judged));
        Ok(judged)
    }

    /// What the statement does, if a projection may do it at all.
    fn look_at(&self, sql: &str) -> Result<(Kind, Option<MultiRow>), SqlError> {
        let grammar: &dyn Grammar = match self.dialect {
            Dialect::Postgres => &PostgreSqlDialect {},
            Dialect::Sqlite => &SQLiteDialect {},
        };
        let statements = Parser::parse_sql(grammar, sql)
            .map_err(|error| SqlError::permanent(sqlstate::SYNTAX, format!("cannot parse the statement: {error}")))?;
        let [statement] = &statements[..] else {
            let message = format!("one statement a call, and this text holds {}", statements.len());
            return Err(SqlError::permanent(sqlstate::SYNTAX, message));
        };
        let kind = kind_of(statement)?;
        let mut names = Names { guard: self };
        if let ControlFlow::Break(error) = statement.visit(&mut names) {
            return Err(error);
        }
        match self.may_define(statement) {
            ControlFlow::Break(error) => Err(error),
            // SQLite runs statements in place: there is nothing to be gained.
            ControlFlow::Continue(()) if self.dialect == Dialect::Sqlite => Ok((kind, None)),
            ControlFlow::Continue(()) => Ok((kind, MultiRow::of(statement, sql))),
        }
    }

    /// The names in CREATE, ALTER and DROP that no visitor is shown.
    fn may_define(&self, statement: &Statement) -> ControlFlow<SqlError> {
        match statement {
            Statement::Drop { names, .. } => names.iter().try_for_each(|name| self.may_name(name)),
            Statement::AlterIndex { name, .. } => self.may_name(name),
            Statement::CreateTable(table) => {
                // Its rows would go with a crash, and the checkpoint would stay.
                if table.unlogged {
                    return ControlFlow::Break(not_allowed("a projection's tables are logged: leave UNLOGGED out"));
                }
                if table.inherits.is_some() || table.like.is_some() || table.clone.is_some() || table.temporary {
                    return ControlFlow::Break(not_allowed("CREATE TABLE takes no INHERITS, LIKE, CLONE or TEMPORARY"));
                }
                let options = table.columns.iter().flat_map(|column| &column.options);
                let columns = options.filter_map(|option| match &option.option {
                    ColumnOption::ForeignKey(key) => Some(&key.foreign_table),
                    _ => None,
                });
                let constraints = table.constraints.iter().filter_map(foreign_table);
                columns.chain(constraints).try_for_each(|name| self.may_name(name))
            }
            Statement::AlterTable(table) => table.operations.iter().try_for_each(|operation| match operation {
                AlterTableOperation::AddConstraint { constraint, .. } => {
                    foreign_table(constraint).map_or(ControlFlow::Continue(()), |name| self.may_name(name))
                }
                AlterTableOperation::AddColumn { .. }
                | AlterTableOperation::DropColumn { .. }
                | AlterTableOperation::RenameColumn { .. }
                | AlterTableOperation::AlterColumn { .. }
                | AlterTableOperation::DropConstraint { .. }
                | AlterTableOperation::RenameTable { .. } => ControlFlow::Continue(()),
                other => ControlFlow::Break(not_allowed(&format!("a projection may not run `ALTER TABLE … {other}`"))),
            }),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Whether a table of this name may be named.
    fn may_name(&self, name: &ObjectName) -> ControlFlow<SqlError> {
        let parts: Vec<String> = name
            .0
            .iter()
            .map(|part| part.as_ident().map_or_else(String::new, |ident| ident.value.to_lowercase()))
            .collect();
        let table = parts.last().map_or("", String::as_str);
        // On Postgres `pg_…` is the catalogue, which is found without its schema, and some of it can be written.
        if ["_projectionist", "sqlite_", "pg_"].iter().any(|prefix| table.starts_with(prefix)) {
            return ControlFlow::Break(not_allowed(&format!("`{name}` is not the projection's own")));
        }
        match &parts[..] {
            [_] => ControlFlow::Continue(()),
            [schema, _] if *schema == self.schema => ControlFlow::Continue(()),
            // No event is to blame for that: the code is that of a missing schema, and not of a refusal.
            [schema, _] if rebuild::projection_of(&self.schema) == Some(schema) => {
                ControlFlow::Break(SqlError::permanent(
                    sqlstate::NO_SUCH_SCHEMA,
                    format!(
                        "`{name}` is the live table, and this is a rebuild, which has a schema of its own: \
                         write the name without its schema"
                    ),
                ))
            }
            _ => ControlFlow::Break(not_allowed(&format!("`{name}` is outside of the projection's own schema"))),
        }
    }
}

/// Shows the guard every name in a statement.
struct Names<'guard> {
    /// Who judges.
    guard: &'guard Guard,
}

impl Visitor for Names<'_> {
    type Break = SqlError;

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<SqlError> {
        self.guard.may_name(name)
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<SqlError> {
        // `TABLE t` names its table as text.
        match &*query.body {
            SetExpr::Table(_) => ControlFlow::Break(not_allowed("write SELECT * FROM instead of TABLE")),
            SetExpr::Select(select) if select.into.is_some() => {
                ControlFlow::Break(not_allowed("write CREATE TABLE in `migrate` instead of SELECT INTO"))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<SqlError> {
        // Whoever sets what the host relies on (search_path, the role) leaves the guard behind.
        if let Expr::Function(function) = expression {
            let name = function.name.to_string().to_lowercase().replace('"', "");
            if name.rsplit('.').next() == Some("set_config") {
                return ControlFlow::Break(not_allowed("a projection may not call set_config"));
            }
        }
        ControlFlow::Continue(())
    }
}

/// The table that a constraint refers to.
fn foreign_table(constraint: &TableConstraint) -> Option<&ObjectName> {
    match constraint {
        TableConstraint::ForeignKey(key) => Some(&key.foreign_table),
        _ => None,
    }
}

/// What a statement does, if its kind is one of those allowed.
fn kind_of(statement: &Statement) -> Result<Kind, SqlError> {
    match statement {
        Statement::Query(query) => match &*query.body {
            // WITH … INSERT and the like.
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => Ok(Kind::Writing),
            _ => Ok(Kind::Reading),
        },
        Statement::Insert(_) | Statement::Update { .. } | Statement::Delete(_) | Statement::Merge { .. } => {
            Ok(Kind::Writing)
        }
        Statement::CreateTable { .. }
        | Statement::CreateIndex(_)
        | Statement::CreateView { .. }
        | Statement::AlterTable { .. }
        | Statement::AlterIndex { .. }
        | Statement::Drop { object_type: ObjectType::Table | ObjectType::Index | ObjectType::View, .. } => {
            Ok(Kind::Definition)
        }
        other => {
            let text = other.to_string();
            let verb = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            Err(not_allowed(&format!("a projection may not run `{verb} …`")))
        }
    }
}

/// The error of what is not allowed.
fn not_allowed(message: &str) -> SqlError {
    SqlError::permanent(sqlstate::NOT_ALLOWED, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of the verdict on both dialects, or `ok`.
    fn verdict(sql: &str, phase: Phase) -> String {
        let one = |dialect| match Guard::new(dialect, "mine").judge(sql, phase) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.code,
        };
        let (postgres, sqlite) = (one(Dialect::Postgres), one(Dialect::Sqlite));
        assert_eq!(postgres, sqlite, "{sql}");
        postgres
    }

    #[test]
    fn rows_may_be_read_and_written() {
        for sql in [
            "SELECT a FROM t WHERE b = $1",
            "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = t.b + excluded.b",
            "UPDATE t SET a = $1 WHERE b = $2",
            "DELETE FROM t",
            "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
        ] {
            assert_eq!(verdict(sql, Phase::Rows), "ok", "{sql}");
        }
    }

    #[test]
    fn tables_are_made_in_migrate_only() {
        let sql = "CREATE TABLE IF NOT EXISTS t (a TEXT PRIMARY KEY, b BIGINT NOT NULL)";
        assert_eq!(verdict(sql, Phase::Rows), "42501");
        assert_eq!(verdict(sql, Phase::Migrate), "ok");
    }

    #[test]
    fn tables_of_others_are_neither_dropped_nor_tied_to_ones_own() {
        for sql in [
            "DROP TABLE projectionist.checkpoints",
            "DROP VIEW public.v",
            "DROP INDEX other.i",
            "CREATE TABLE t (a INT REFERENCES other.t (a))",
            "CREATE TABLE t (a INT, FOREIGN KEY (a) REFERENCES other.t (a))",
            "CREATE VIEW v AS SELECT * FROM other.t",
            "CREATE TEMPORARY TABLE t (a INT)",
        ] {
            assert_eq!(verdict(sql, Phase::Migrate), "42501", "{sql}");
        }
        let inherits = "CREATE TABLE t () INHERITS (public.events)";
        let judged = Guard::new(Dialect::Postgres, "mine").judge(inherits, Phase::Migrate);
        assert!(judged.is_err(), "a row of it would show among the events");
    }

    #[test]
    fn a_table_that_a_crash_would_empty_is_refused() {
        // Its rows would go, and the checkpoint stay: every event in them would be lost without a word.
        for sql in [
            "CREATE UNLOGGED TABLE t (a INT)",
            "CREATE UNLOGGED TABLE t AS SELECT 1 AS a",
            "ALTER TABLE t SET UNLOGGED",
            "SELECT 1 AS a INTO UNLOGGED t",
            "SELECT 1 AS a INTO t",
        ] {
            let judged = Guard::new(Dialect::Postgres, "mine").judge(sql, Phase::Migrate);
            assert_eq!(judged.map(|_| sql).unwrap_err().code, "42501", "{sql}");
        }
    }

    #[test]
    fn the_transaction_is_the_hosts() {
        for sql in ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT a", "SET search_path = x", "DROP SCHEMA mine", "VACUUM"] {
            assert_ne!(verdict(sql, Phase::Migrate), "ok", "{sql}");
        }
        assert_eq!(verdict("SELECT 1; COMMIT", Phase::Rows), "42601");
        assert_eq!(verdict("", Phase::Rows), "42601");
    }

    #[test]
    fn a_rebuild_does_not_reach_the_live_tables() {
        let mut guard = Guard::new(Dialect::Postgres, "mine+rebuild");
        assert!(guard.judge("INSERT INTO t VALUES (1)", Phase::Rows).is_ok());
        let error = guard.judge("INSERT INTO mine.t VALUES (1)", Phase::Rows).unwrap_err();
        assert_eq!(error.code, "3F000");
        assert!(error.message.contains("write the name without its schema"), "{error}");
        assert_eq!(guard.judge("SELECT * FROM other.t", Phase::Rows).unwrap_err().code, "42501");
    }

    #[test]
    fn other_schemas_and_the_hosts_tables_are_out_of_bounds() {
        for sql in [
            "SELECT * FROM projectionist.checkpoints",
            "DELETE FROM other.t",
            "INSERT INTO \"PROJECTIONIST\".checkpoints VALUES (1)",
            "UPDATE _projectionist_checkpoints SET position = 0",
            "SELECT * FROM t WHERE a IN (SELECT sql FROM sqlite_master)",
            "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'",
            "SELECT set_config('search_path', 'other', false)",
            "WITH x AS (TABLE other.secret) SELECT * FROM x",
        ] {
            assert_eq!(verdict(sql, Phase::Rows), "42501", "{sql}");
        }
    }
}
