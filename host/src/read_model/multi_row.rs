//! Runs of one INSERT as one INSERT of several rows: half the work for Postgres.
//!
//! A projection that writes a row an event, or folds and writes a row an aggregate, runs the same `INSERT … VALUES (…)`
//! hundreds of times on end. What Postgres does for each statement besides the row itself (parse, plan, start and end an
//! executor) is as much again as the row. So a run of them is sent as one, `INSERT … SELECT … FROM unnest(…, …)`, with an
//! array for each parameter: however many rows there are, that is one prepared statement with a few literals.
//!
//! # Why the result is the same
//!
//! One statement with several rows takes them one by one, in order (`unnest` gives them so, and there is nothing to sort or
//! to join), each through the same checks, defaults and conflict handling as a statement of its own. The arrays are of the
//! types that Postgres inferred for the parameters of the one row. It differs in what it may *see* of the others, and in
//! what a row may be done to twice. So only statements are taken that cannot tell:
//!
//! - Their expressions are made of parameters, constants, columns of the row itself (the one given and the one found
//!   there) and operators: no subquery, and no function but a few of SQL's own. Nothing looks at another row.
//! - With `DO UPDATE`, which leaves the key as it is, no two rows of a run have the same key: whoever inserts the same row again begins a new run. Keys
//!   are compared as they are written; where two that differ are the same to the database (1.0 and 1.00), Postgres
//!   refuses the statement ([`TWICE`]), the batch fails and is applied again, without runs.
//! - No RETURNING. And none of the table's own doing: [`SAFE_TABLE`] is asked when the statement is prepared.
//!
//! And a run may hold several statements, `INSERT … DO UPDATE` of one table by one key: rows with different keys have
//! nothing to do with each other, so all of a kind can go first. That is done only with keys that are different to the
//! database when they are written differently (integers, UUIDs, texts), and not where a table numbers or dates its rows or
//! has another unique index, because there the order shows.
//!
//! The careful path sends each statement alone, so an error still finds its event.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, ConflictTarget, Expr, FunctionArg, FunctionArgExpr,
    FunctionArguments, Ident, Insert, OnConflictAction, OnInsert, Query, SetExpr, Statement, TableObject, Value,
    Visit as _, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

/// The SQLSTATE of two rows of one statement that are the same row.
pub const TWICE: &str = "21000";

/// Whether a table (`$1`) does nothing by itself that could tell one statement from several: triggers, rules, a foreign
/// key that refers to it (it is looked at when the statement ends), a key that is checked later than each row, being a view. And whether its rows can come in any order: no column is numbered or dated by itself, texts
/// that differ are different, and nothing but the key is unique (one row could take what another has not let go of yet).
pub const SAFE_TABLE: &str = "
    SELECT relkind IN ('r', 'p') AND NOT relhasrules
           AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = class.oid AND NOT tgisinternal)
           AND NOT EXISTS (SELECT FROM pg_constraint
                           WHERE confrelid = class.oid OR (conrelid = class.oid AND condeferrable)),
       NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = class.oid AND attidentity <> '')
           AND NOT EXISTS (SELECT FROM pg_attrdef WHERE adrelid = class.oid AND pg_get_expr(adbin, adrelid) LIKE '%(%')
           AND NOT EXISTS (SELECT FROM pg_attribute JOIN pg_collation ON pg_collation.oid = attcollation
                           WHERE attrelid = class.oid AND NOT collisdeterministic)
           AND (SELECT count(*) FROM pg_index WHERE indrelid = class.oid AND (indisunique OR indisexclusion)) = 1
    FROM pg_class AS class WHERE oid = to_regclass($1)";

/// Functions that look at nothing but their arguments.
const FUNCTIONS: [&str; 4] = ["coalesce", "nullif", "greatest", "least"];

/// An INSERT of one row that may be sent with several.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MultiRow {
    /// The table, as the statement names it.
    pub table: String,
    /// Which parameters (from 0) tell one row of the table from another; empty when nothing is done to one twice.
    pub key: Vec<usize>,
    /// The columns of the key, in the order of the conflict's target.
    pub key_columns: Vec<String>,
    /// What stands before VALUES.
    head: String,
    /// VALUES, as it is written, and the space around it.
    values: String,
    /// The row, between its parentheses: text, and after each piece the number of a parameter, from 1.
    row: Vec<(String, usize)>,
    /// The rest of the row.
    rest: String,
    /// What stands behind the row.
    tail: String,
    /// How many parameters a row has.
    parameters: usize,
}

impl MultiRow {
    /// Of a statement that may run, if it can be sent with several rows.
    #[must_use]
    pub fn of(statement: &Statement, sql: &str) -> Option<Self> {
        let Statement::Insert(insert) = statement else { return None };
        let row = only_row(insert)?;
        if !is_plain(insert) || statement.visit(&mut Plain { queries: 0 }).is_break() {
            return None;
        }
        // A row has no columns to speak of; DEFAULT is read as one, and means nothing in a SELECT.
        if row.iter().any(|value| value.visit(&mut NoColumns).is_break()) {
            return None;
        }
        let (key, key_columns) = key(insert, row)?;
        let TableObject::TableName(table) = &insert.table else { return None };
        let multi_row = Self { table: table.to_string(), key, key_columns, ..Self::cut(sql)? };
        // What was cut from the text is what was judged, or it is not sent.
        let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &multi_row.one()).ok()?;
        (parsed.len() == 1 && parsed[0] == *statement).then_some(multi_row)
    }

    /// Cuts the text at the parentheses behind VALUES.
    fn cut(sql: &str) -> Option<Self> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize().ok()?;
        let mut cut = Self::default();
        // Outside of all parentheses before the row, in them, behind them.
        let (mut depth, mut seen_values, mut in_row, mut done) = (0_u32, false, false, false);
        for token in tokens {
            match &token {
                Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => {
                    return None;
                }
                Token::SingleQuotedString(text) if text.contains(['\'', '\\']) => return None,
                Token::Placeholder(text) if in_row => {
                    let number: usize = text.strip_prefix('$')?.parse().ok()?;
                    cut.parameters = cut.parameters.max(number);
                    cut.row.push((std::mem::take(&mut cut.rest), number));
                    continue;
                }
                // The same for every row, so not a row's own.
                Token::Placeholder(_) => return None,
                Token::Word(word)
                    if depth == 0 && word.quote_style.is_none() && word.value.eq_ignore_ascii_case("values") =>
                {
                    seen_values = true;
                }
                Token::LParen => {
                    depth += 1;
                    if seen_values && !done && depth == 1 {
                        in_row = true;
                        continue;
                    }
                }
                Token::RParen => {
                    depth = depth.checked_sub(1)?;
                    if in_row && depth == 0 {
                        (in_row, done) = (false, true);
                        continue;
                    }
                }
                Token::SemiColon => return None,
                _ => {}
            }
            let into = if in_row {
                &mut cut.rest
            } else if done {
                &mut cut.tail
            } else if seen_values {
                &mut cut.values
            } else {
                &mut cut.head
            };
            into.push_str(&token.to_string());
        }
        (done && cut.parameters > 0).then_some(cut)
    }

    /// How many parameters a row has.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The statement for one row, as it was.
    fn one(&self) -> String {
        let row = self.row_with(|number| format!("${number}"));
        format!("{}{}({row}){}", self.head, self.values, self.tail)
    }

    /// The statement for any number of rows: its parameters are arrays, with the first row's in front.
    #[must_use]
    pub fn several(&self) -> String {
        let list =
            |name: &str| (1..=self.parameters).map(|number| format!("{name}{number}")).collect::<Vec<_>>().join(", ");
        let (row, arrays, columns) = (self.row_with(|number| format!("given.p{number}")), list("$"), list("p"));
        format!("{}SELECT {row} FROM unnest({arrays}) AS given ({columns}){}", self.head, self.tail)
    }

    /// The row, with something in the place of each parameter.
    fn row_with(&self, parameter: impl Fn(usize) -> String) -> String {
        let each = self.row.iter().map(|(text, number)| format!("{text}{}", parameter(*number)));
        each.collect::<String>() + &self.rest
    }
}

/// The row of an INSERT that has one, and nothing around it.
fn only_row(insert: &Insert) -> Option<&Vec<Expr>> {
    let source = insert.source.as_deref()?;
    let bare = source.with.is_none()
        && source.order_by.is_none()
        && source.limit_clause.is_none()
        && source.fetch.is_none()
        && source.locks.is_empty();
    match &*source.body {
        SetExpr::Values(values) if bare && values.rows.len() == 1 => Some(&values.rows[0]),
        _ => None,
    }
}

/// Whether an INSERT has none of the clauses that are not thought of here.
fn is_plain(insert: &Insert) -> bool {
    insert.returning.is_none() && insert.or.is_none() && insert.assignments.is_empty() && insert.partitioned.is_none()
}

/// Which parameters are the key of a row, if it takes one, and in which columns; nothing when that cannot be said.
fn key(insert: &Insert, row: &[Expr]) -> Option<(Vec<usize>, Vec<String>)> {
    let conflict = match &insert.on {
        None => return Some((vec![], vec![])),
        Some(OnInsert::OnConflict(conflict)) => conflict,
        Some(_) => return None,
    };
    let OnConflictAction::DoUpdate(update) = &conflict.action else { return Some((vec![], vec![])) };
    let Some(ConflictTarget::Columns(columns)) = &conflict.conflict_target else { return None };
    // One that gives a row another key makes it meet others.
    let leaves_the_key = |Assignment { target, .. }: &Assignment| match target {
        AssignmentTarget::ColumnName(name) => {
            let name = name.0.last().and_then(|part| part.as_ident()).map(folded);
            name.is_some_and(|name| columns.iter().all(|column| folded(column) != name))
        }
        AssignmentTarget::Tuple(_) => false,
    };
    if !update.assignments.iter().all(leaves_the_key) {
        return None;
    }
    let place = |wanted: &Ident| {
        let place = insert
            .columns
            .iter()
            .position(|column| column.0.last().and_then(|part| part.as_ident()).map(folded) == Some(folded(wanted)))?;
        match row.get(place)? {
            Expr::Value(value) => match &value.value {
                Value::Placeholder(text) => text.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1),
                _ => None,
            },
            _ => None,
        }
    };
    let key = columns.iter().map(place).collect::<Option<Vec<_>>>()?;
    Some((key, columns.iter().map(folded).collect()))
}

/// The name that Postgres makes of one.
fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// Sees that an expression names no column.
struct NoColumns;

impl Visitor for NoColumns {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Sees that a statement looks at nothing but its own row.
struct Plain {
    /// Queries so far: its own VALUES is one.
    queries: u32,
}

impl Visitor for Plain {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries += 1;
        if self.queries > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        let plain = match expression {
            Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::Value(_)
            | Expr::Nested(_)
            | Expr::UnaryOp { .. }
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::Between { .. }
            | Expr::InList { .. }
            | Expr::Case { .. }
            | Expr::Cast { .. } => true,
            Expr::BinaryOp { op, .. } => {
                !matches!(op, BinaryOperator::Custom(_) | BinaryOperator::PGCustomBinaryOperator(_))
            }
            Expr::Function(function) => {
                let known = FUNCTIONS.iter().any(|name| function.name.to_string().eq_ignore_ascii_case(name));
                let plain = |argument: &FunctionArg| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
                known
                    && function.over.is_none()
                    && function.filter.is_none()
                    && matches!(&function.args, FunctionArguments::List(list) if list.args.iter().all(plain))
            }
            _ => false,
        };
        if plain { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can be made of a statement.
    fn multi_row(sql: &str) -> Option<MultiRow> {
        let statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap();
        MultiRow::of(&statements[0], sql)
    }

    #[test]
    fn the_parameters_of_several_rows_are_arrays() {
        let sql =
            "INSERT INTO t (a, b, c)\n VALUES ($1, $2 + 1, TRUE) ON CONFLICT (a) DO UPDATE SET b = t.b + excluded.b";
        let multi_row = multi_row(sql).unwrap();
        assert_eq!(multi_row.one(), sql);
        assert_eq!(
            multi_row.several(),
            "INSERT INTO t (a, b, c)\n SELECT given.p1, given.p2 + 1, TRUE FROM unnest($1, $2) AS given (p1, p2) \
             ON CONFLICT (a) DO UPDATE SET b = t.b + excluded.b"
        );
        assert_eq!((multi_row.key, multi_row.parameters, &*multi_row.table), (vec![0], 2, "t"));
    }

    #[test]
    fn a_key_is_known_by_its_columns_wherever_they_stand() {
        let sql = "INSERT INTO t (n, a, b) VALUES ($3, $1, $2) ON CONFLICT (a, b) DO UPDATE SET n = excluded.n";
        assert_eq!(multi_row(sql).unwrap().key, [0, 1]);
        let swapped = "INSERT INTO t (n, B, \"a\") VALUES ($3, $1, $2) ON CONFLICT (A, b) DO UPDATE SET n = excluded.n";
        let swapped = multi_row(swapped).unwrap();
        assert_eq!((&swapped.key[..], &swapped.key_columns[..]), (&[1, 0][..], &["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(multi_row("INSERT INTO t VALUES ($1, $2)").unwrap().key, [0_usize; 0]);
        assert_eq!(multi_row("INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING").unwrap().key, [0_usize; 0]);
    }

    #[test]
    fn whatever_could_tell_one_statement_from_several_is_sent_alone() {
        for sql in [
            // It looks at other rows.
            "INSERT INTO t (a, b) VALUES ($1, (SELECT max(b) FROM t))",
            "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = (SELECT count(*) FROM t)",
            "INSERT INTO t (a) SELECT $1",
            "WITH x AS (SELECT 1) INSERT INTO t (a) VALUES ($1)",
            // Functions that may do so.
            "INSERT INTO t (a) VALUES (nextval($1))",
            "INSERT INTO t (a) VALUES (my_function($1))",
            "INSERT INTO t (a) VALUES (coalesce(f($1), 1))",
            // The key is not known.
            "INSERT INTO t VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "INSERT INTO t (a, b) VALUES ($1 + 1, $2) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "INSERT INTO t (b) VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
            "INSERT INTO t (a) VALUES ($1) ON CONFLICT ON CONSTRAINT t_pkey DO UPDATE SET a = 1",
            // The row gets another key.
            "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET a = t.b",
            "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET A = t.b",
            "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET \"a\" = t.b",
            "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET (a, b) = (t.b, t.a)",
            // A parameter that is not the row's.
            "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = $2",
            // Somebody wants an answer, or there are several rows already.
            "INSERT INTO t (a) VALUES ($1) RETURNING a",
            "INSERT INTO t (a) VALUES ($1), ($2)",
            "INSERT INTO t (a) VALUES (1)",
            // What a SELECT has not.
            "INSERT INTO t (a, b) VALUES ($1, DEFAULT)",
            // No INSERT.
            "UPDATE t SET a = $1",
            "DELETE FROM t WHERE a = $1",
        ] {
            assert_eq!(multi_row(sql), None, "{sql}");
        }
    }

    #[test]
    fn a_text_that_could_be_read_in_another_way_is_sent_as_it_is() {
        for sql in [
            "INSERT INTO t (a) VALUES ($1) -- values (",
            "INSERT INTO t (a) /* values ( */ VALUES ($1)",
            r"INSERT INTO t (a, b) VALUES ($1, 'it''s')",
            r"INSERT INTO t (a, b) VALUES ($1, E'\\')",
            "INSERT INTO t (a) VALUES ($1);",
        ] {
            assert_eq!(multi_row(sql), None, "{sql}");
        }
        let quoted = r#"INSERT INTO "values" ("values(") VALUES ($1)"#;
        assert_eq!(multi_row(quoted).map(|multi_row| multi_row.one()), Some(quoted.to_owned()));
    }
}
