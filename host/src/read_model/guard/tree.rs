//! The judge of a parsed tree: every name, function, type and clause that a statement holds.
//!
//! It allows, and does not forbid: an expression, a table or a clause of a kind that is not listed here is refused, so
//! what a later version of the parser learns to read is refused until somebody has looked at it.

use std::cell::Cell;
use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, AlterTableOperation, BinaryOperator, DataType, Expr, FromTable, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, Ident, Insert, ObjectName, Query, Select, SelectFlavor, SetExpr,
    SqliteOnConflict, Statement, TableAlias, TableFactor, TableObject, TableWithJoins, Value, ValueWithSpan, Visitor,
};

use super::super::grants::Grant;
use super::super::rebuild;
use super::super::value::{Dialect, SqlError, sqlstate};
use super::types::{self, known_as, name_alone};
use super::{functions, not_allowed};

/// Whether to go on.
pub(super) type Verdict = ControlFlow<SqlError>;

/// It may.
pub(super) const FINE: Verdict = ControlFlow::Continue(());

/// Refuses, with a reason.
pub(super) fn refuse(reason: impl AsRef<str>) -> Verdict {
    ControlFlow::Break(not_allowed(reason.as_ref()))
}

/// Refuses when something is so.
pub(super) fn refuse_if(is_so: bool, reason: &str) -> Verdict {
    if is_so { refuse(reason) } else { FINE }
}

/// What a name is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Only read, or found again elsewhere in the tree with its use.
    Read,
    /// Written, defined or referred to for good.
    Own,
}

/// Judges one statement.
pub(super) struct Judge<'guard> {
    /// Which SQL.
    pub(super) dialect: Dialect,
    /// The only schema a statement may name.
    pub(super) schema: &'guard str,
    /// Tables that are not its own and that it may read.
    pub(super) grants: &'guard [Grant],
    /// What all its names are used for at least.
    pub(super) names: Use,
    /// Whether it locks what it reads.
    pub(super) locks: bool,
    /// Whether it reads what is not the projection's own.
    pub(super) granted: Cell<bool>,
}

impl Judge<'_> {
    /// Whether a table of this name may be named for this use.
    pub(super) fn name(&self, name: &ObjectName, used: Use) -> Verdict {
        let mut parts = Vec::new();
        for part in &name.0 {
            let Some(ident) = part.as_ident() else { return refuse(format!("`{name}` is no table")) };
            parts.push(known_as(ident, self.dialect));
        }
        let table = parts.last().map_or("", String::as_str);
        // On Postgres `pg_…` is the catalogue, which is found without its schema, and some of it can be written. On SQLite
        // `pragma_…` and some others are tables that nobody has made.
        let folded = table.to_ascii_lowercase();
        if ["_projectionist", "sqlite_", "pg_", "pragma_", "projection_checkpoints"]
            .iter()
            .any(|prefix| folded.starts_with(prefix))
            || (self.dialect == Dialect::Sqlite && matches!(&*folded, "dbstat" | "bytecode" | "tables_used"))
        {
            return refuse(format!("`{name}` is not the projection's own"));
        }
        match &parts[..] {
            [_] => FINE,
            [schema, _] if *schema == self.schema => FINE,
            [schema, table] if self.grants.iter().any(|grant| grant.schema == *schema && grant.table == *table) => {
                self.granted.set(true);
                refuse_if(
                    used == Use::Own,
                    &format!("`{name}` may be read and no more: it was granted, and is not the projection's own"),
                )
            }
            // No event is to blame for that: the code is that of a missing schema, and not of a refusal.
            [schema, _] if rebuild::projection_of(self.schema) == Some(schema) => {
                ControlFlow::Break(SqlError::permanent(
                    sqlstate::NO_SUCH_SCHEMA,
                    format!(
                        "`{name}` is the live table, and this is a rebuild, which has a schema of its own: \
                     write the name without its schema"
                    ),
                ))
            }
            _ => refuse(format!("`{name}` is outside of the projection's own schema")),
        }
    }

    /// What is to be said when all of it has been seen.
    pub(super) fn whole(&self, statement: &Statement) -> Verdict {
        refuse_if(
            self.locks && self.granted.get(),
            "rows of a table that was granted are read, and not locked: leave FOR UPDATE out",
        )?;
        self.definition(statement)
    }

    /// Whether a function of this name may be called with so many arguments.
    fn function_name(&self, name: &ObjectName, arguments: usize) -> Verdict {
        let Some(alone) = name_alone(name, self.dialect) else {
            return refuse(format!("a projection may not call `{name}`: functions are named without a schema"));
        };
        if !functions::is_allowed(self.dialect, &alone) {
            return refuse(format!("a projection may not call `{name}`: {}", functions::instead(&alone)));
        }
        if arguments < functions::fewest_arguments(self.dialect, &alone) {
            return refuse(format!(
                "`{name}` with {arguments} arguments reads the clock: {}",
                functions::instead("now")
            ));
        }
        FINE
    }

    /// Whether a function may be called so.
    fn function(&self, function: &Function) -> Verdict {
        let arguments = match &function.args {
            FunctionArguments::None => 0,
            FunctionArguments::Subquery(_) => 1,
            FunctionArguments::List(list) => list.args.len(),
        };
        self.function_name(&function.name, arguments)?;
        let odd = function.uses_odbc_syntax || !matches!(function.parameters, FunctionArguments::None);
        refuse_if(odd, "a projection calls functions as name(argument, …)")?;
        let FunctionArguments::List(list) = &function.args else { return FINE };
        for clause in &list.clauses {
            match clause {
                FunctionArgumentClause::OrderBy(_) => {}
                FunctionArgumentClause::JsonReturningClause(clause) => self.data_type(&clause.data_type)?,
                FunctionArgumentClause::JsonNullClause(_) => {}
                other => refuse(format!("a projection may not write `{other}` in a function's arguments"))?,
            }
        }
        let name = name_alone(&function.name, self.dialect).unwrap_or_default();
        if functions::takes_times(self.dialect, &name) {
            list.args.iter().try_for_each(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => not_by_the_clock(expression),
                _ => FINE,
            })?;
        }
        FINE
    }

    /// Whether a type may be named.
    pub(super) fn data_type(&self, of: &DataType) -> Verdict {
        if types::is_allowed(self.dialect, of) {
            return FINE;
        }
        refuse(format!("a projection may not use the type `{of}`"))
    }

    /// Whether a collation may be named.
    pub(super) fn collation(&self, name: &ObjectName) -> Verdict {
        if types::is_collation(self.dialect, name) {
            return FINE;
        }
        refuse(format!("a projection may not use the collation `{name}`"))
    }

    /// Whether an operator may be used.
    fn operator(&self, operator: &BinaryOperator) -> Verdict {
        match operator {
            BinaryOperator::PGCustomBinaryOperator(_) => {
                refuse("a projection writes operators as they are, and not as OPERATOR(schema.name)")
            }
            _ => FINE,
        }
    }

    /// Whether a word may stand as a column.
    fn word(&self, ident: &Ident) -> Verdict {
        let word = ident.value.to_ascii_lowercase();
        if ident.quote_style.is_none() && functions::is_special(self.dialect, &word) {
            return refuse(format!("a projection may not call `{ident}`: {}", functions::instead(&word)));
        }
        FINE
    }

    /// Whether a name may stand behind a dot: where a row has no column of that name, it is a function of the row.
    fn attribute(&self, ident: &Ident) -> Verdict {
        let name = known_as(ident, self.dialect);
        refuse_if(
            functions::is_called_as_column(self.dialect, &name),
            &format!(
                "a projection may not call `{ident}`, which is also a function of rows: name the column `{ident}` without its table"
            ),
        )
    }

    /// The table that a statement writes: its own.
    fn target(&self, factor: &TableFactor) -> Verdict {
        match factor {
            TableFactor::Table { name, args: None, .. } => self.name(name, Use::Own),
            other => refuse(format!("a projection may not write into `{other}`")),
        }
    }

    /// The tables that a statement writes.
    fn targets(&self, tables: &[TableWithJoins]) -> Verdict {
        tables.iter().try_for_each(|table| {
            refuse_if(!table.joins.is_empty(), "a statement writes one table, and takes others with FROM or USING")?;
            self.target(&table.relation)
        })
    }

    /// An INSERT.
    fn insert(&self, insert: &Insert) -> Verdict {
        keeps_the_transaction(insert.or.as_ref())?;
        let odd =
            insert.overwrite || insert.partitioned.is_some() || insert.output.is_some() || insert.settings.is_some();
        refuse_if(odd, "a projection may not run this kind of INSERT")?;
        match &insert.table {
            TableObject::TableName(name) => self.name(name, Use::Own),
            _ => refuse("a projection inserts into tables only"),
        }
    }
}

/// Whether a conflict leaves the transaction as it is: it is the host's. SQLite's `OR ROLLBACK` would end it.
fn keeps_the_transaction(or: Option<&SqliteOnConflict>) -> Verdict {
    refuse_if(matches!(or, Some(SqliteOnConflict::Rollback)), "the transaction is the host's: OR ROLLBACK is refused")
}

/// Whether an expression is not a text such as 'now', where a time is expected.
fn not_by_the_clock(expression: &Expr) -> Verdict {
    match expression {
        Expr::Value(value) => not_a_clock(value),
        Expr::Nested(inner) => not_by_the_clock(inner),
        _ => FINE,
    }
}

/// As [`not_by_the_clock`].
fn not_a_clock(value: &ValueWithSpan) -> Verdict {
    match &value.value {
        Value::SingleQuotedString(text) if functions::is_clock(text) => {
            refuse(format!("`'{text}'` reads the clock: {}", functions::instead("now")))
        }
        _ => FINE,
    }
}

impl Visitor for Judge<'_> {
    type Break = SqlError;

    fn pre_visit_relation(&mut self, name: &ObjectName) -> Verdict {
        self.name(name, self.names)
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> Verdict {
        // Also those inside of WITH.
        match statement {
            Statement::Insert(insert) => self.insert(insert),
            Statement::Update(update) => {
                keeps_the_transaction(update.or.as_ref())?;
                refuse_if(update.output.is_some(), "write RETURNING instead of OUTPUT")?;
                self.targets(std::slice::from_ref(&update.table))
            }
            Statement::Delete(delete) => {
                refuse_if(delete.output.is_some(), "write RETURNING instead of OUTPUT")?;
                delete.tables.iter().try_for_each(|name| self.name(name, Use::Own))?;
                let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &delete.from;
                self.targets(tables)
            }
            Statement::Merge(merge) => {
                refuse_if(merge.output.is_some(), "write RETURNING instead of OUTPUT")?;
                self.target(&merge.table)
            }
            // The kinds of the others were judged; inside of another statement there are none.
            _ => FINE,
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> Verdict {
        let odd = query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty();
        refuse_if(odd, "a projection may not write this kind of query")?;
        self.locks |= !query.locks.is_empty();
        refuse_if(query.locks.iter().any(|lock| lock.of.is_some()), "write FOR UPDATE without OF")?;
        set_expression(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> Verdict {
        refuse_if(select.into.is_some(), "write CREATE TABLE in `migrate` instead of SELECT INTO")?;
        let odd = select.top.is_some()
            || select.select_modifiers.is_some()
            || select.exclude.is_some()
            || !select.lateral_views.is_empty()
            || select.prewhere.is_some()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty()
            || select.qualify.is_some()
            || select.value_table_mode.is_some()
            || select.flavor != SelectFlavor::Standard;
        refuse_if(odd, "a projection may not write this kind of SELECT")
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Verdict {
        let plain = |alias: &Option<TableAlias>| {
            let typed = alias.iter().flat_map(|alias| &alias.columns).any(|column| column.data_type.is_some());
            refuse_if(typed, "a projection may not give types in an alias")
        };
        match factor {
            TableFactor::Table { name, alias, args, with_hints, version, partitions, json_path, sample, .. } => {
                plain(alias)?;
                let odd = !with_hints.is_empty() || version.is_some() || !partitions.is_empty() || json_path.is_some();
                refuse_if(odd, "a projection names tables as they are")?;
                refuse_if(
                    sample.is_some(),
                    "TABLESAMPLE takes rows by chance, and a projection is a function of its events",
                )?;
                args.as_ref().map_or(FINE, |args| self.function_name(name, args.args.len()))
            }
            TableFactor::Derived { alias, sample, .. } => {
                plain(alias)?;
                refuse_if(
                    sample.is_some(),
                    "TABLESAMPLE takes rows by chance, and a projection is a function of its events",
                )
            }
            TableFactor::Function { name, args, alias, .. } => {
                plain(alias)?;
                self.function_name(name, args.len())
            }
            TableFactor::UNNEST { alias, .. } | TableFactor::NestedJoin { alias, .. } => plain(alias),
            other => refuse(format!("a projection may not read from `{other}`")),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> Verdict {
        match expression {
            Expr::Function(function) => self.function(function),
            Expr::Identifier(ident) => self.word(ident),
            Expr::Cast { data_type, expr, .. } => {
                if types::is_time(data_type) {
                    not_by_the_clock(expr)?;
                }
                self.data_type(data_type)
            }
            Expr::TypedString(typed) => {
                if types::is_time(&typed.data_type) {
                    not_a_clock(&typed.value)?;
                }
                refuse_if(typed.uses_odbc_syntax, "a projection may not write ODBC's syntax")?;
                self.data_type(&typed.data_type)
            }
            Expr::Collate { collation, .. } => self.collation(collation),
            Expr::BinaryOp { op, .. } | Expr::AnyOp { compare_op: op, .. } | Expr::AllOp { compare_op: op, .. } => {
                self.operator(op)
            }
            Expr::CompoundIdentifier(parts) => parts.iter().skip(1).try_for_each(|part| self.attribute(part)),
            Expr::CompoundFieldAccess { access_chain, .. } => access_chain.iter().try_for_each(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => self.attribute(ident),
                AccessExpr::Dot(other) => refuse(format!("a projection may not write `.{}`", shown(other))),
                AccessExpr::Subscript(_) => FINE,
            }),
            Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::IsJson { .. }
            | Expr::IsNormalized { .. }
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Between { .. }
            | Expr::Like { .. }
            | Expr::ILike { .. }
            | Expr::SimilarTo { .. }
            | Expr::UnaryOp { .. }
            | Expr::AtTimeZone { .. }
            | Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Overlay { .. }
            | Expr::Nested(_)
            | Expr::Value(_)
            | Expr::Case { .. }
            | Expr::Exists { .. }
            | Expr::Subquery(_)
            | Expr::GroupingSets(_)
            | Expr::Cube(_)
            | Expr::Rollup(_)
            | Expr::Tuple(_)
            | Expr::Array(_)
            | Expr::Interval(_)
            | Expr::Wildcard(_)
            | Expr::QualifiedWildcard(..) => FINE,
            other => refuse(format!("a projection may not write `{}`", shown(other))),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> Verdict {
        match &value.value {
            Value::Number(..)
            | Value::SingleQuotedString(_)
            | Value::Boolean(_)
            | Value::Null
            | Value::Placeholder(_) => FINE,
            other => refuse(format!("a projection may not write `{other}`: pass it as a parameter")),
        }
    }
}

/// What a query is made of.
fn set_expression(expression: &SetExpr) -> Verdict {
    match expression {
        // It names its table as text.
        SetExpr::Table(_) => refuse("write SELECT * FROM instead of TABLE"),
        SetExpr::SetOperation { left, right, .. } => {
            set_expression(left)?;
            set_expression(right)
        }
        SetExpr::Insert(statement)
        | SetExpr::Update(statement)
        | SetExpr::Delete(statement)
        | SetExpr::Merge(statement) => {
            let rows = matches!(
                statement,
                Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_)
            );
            refuse_if(!rows, "a WITH may hold queries, INSERT, UPDATE, DELETE and MERGE")
        }
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => FINE,
    }
}

/// The beginning of an expression.
fn shown(expression: &Expr) -> String {
    expression.to_string().chars().take(80).collect()
}

/// What an ALTER TABLE does, for a message.
pub(super) fn operation(of: &AlterTableOperation) -> String {
    of.to_string().chars().take(80).collect()
}
