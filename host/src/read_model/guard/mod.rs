//! Judges a projection's SQL before the database sees it, on the parsed tree, never on text.
//!
//! One statement; SELECT, INSERT, UPDATE, DELETE or MERGE, and in `migrate` also CREATE, ALTER and DROP of
//! tables, indexes and views; no other schema than the projection's own, none of the host's tables; functions and types
//! of a list. What does not parse is refused. A verdict is kept by the text, so a statement is parsed once a worker.
//!
//! Read in this order: [`text`] sees that there is one way to read a text, and that it does not nest too deep; [`tree`]
//! judges what was parsed, with the lists of [`functions`] and [`types`]; [`definitions`] what `migrate` may do besides.
//! A debug build can be without it (`off`), for tests of what holds then.

mod definitions;
pub mod functions;
#[cfg(debug_assertions)]
pub mod off;
mod text;
mod tree;
mod types;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use fnv::FnvHashMap;
use sqlparser::ast::{ObjectType, SetExpr, Statement, Visit as _};
use sqlparser::dialect::{Dialect as Grammar, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;

use super::grants::Grant;
use super::multi_row::MultiRow;
use super::value::{Dialect, SqlError, sqlstate};
use tree::{Judge, Use};

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
    /// The text's number in this process, different for different texts: what sessions know a prepared statement by,
    /// whichever of a projection's workers has prepared it.
    pub number: u32,
    /// How it is sent with several rows, where it can be.
    pub multi_row: Option<MultiRow>,
}

/// How many bytes the texts have that have a number at a time.
const NUMBERED: usize = 8 << 20;

/// How many bytes the texts of a guard's verdicts have. Each is there twice.
const KEPT_BYTES: usize = 2 << 20;

/// The numbers that texts have in this process. A projection that makes up texts without end does not fill the memory.
#[derive(Debug)]
struct Numbers {
    /// Of the next text.
    next: u32,
    /// How many bytes those take that are known.
    bytes: usize,
    /// By text.
    known: BTreeMap<String, u32>,
}

impl Numbers {
    /// None yet.
    const fn new() -> Self {
        Self { next: 0, bytes: 0, known: BTreeMap::new() }
    }

    /// The number of a text. A number is given once; a text gets another one when so many came in between that it was
    /// forgotten.
    fn of(&mut self, sql: &str) -> u32 {
        if let Some(number) = self.known.get(sql) {
            return *number;
        }
        if self.bytes >= NUMBERED {
            self.known.clear();
            self.bytes = 0;
        }
        // So much for the entry beside its text.
        self.bytes += sql.len() + 64;
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.known.insert(sql.to_owned(), number);
        number
    }
}

/// The number of a text in this process.
fn number_of(sql: &str) -> u32 {
    static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers::new());
    NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).of(sql)
}

/// Judges the statements of one projection.
#[derive(Debug)]
pub struct Guard {
    /// Which SQL.
    dialect: Dialect,
    /// The only schema a statement may name.
    schema: String,
    /// Tables that are not its own and that it may read.
    grants: Vec<Grant>,
    /// Verdicts so far.
    verdicts: FnvHashMap<String, Arc<Judged>>,
    /// How many bytes their texts have.
    bytes: usize,
    /// The last few that were asked for: a projection runs the same two or three statements over and over, and to
    /// compare a text with them costs a tenth of what it costs to hash it.
    recent: VecDeque<Arc<Judged>>,
}

impl Guard {
    /// For a projection whose tables live in `schema` (on SQLite the schema is always `main`).
    #[must_use]
    pub fn new(dialect: Dialect, projection: &str) -> Self {
        let schema = match dialect {
            Dialect::Postgres => projection.to_owned(),
            Dialect::Sqlite => "main".to_owned(),
        };
        Self { dialect, schema, grants: Vec::new(), verdicts: FnvHashMap::default(), bytes: 0, recent: VecDeque::new() }
    }

    /// Lets the projection read these tables, too.
    #[must_use]
    pub fn granting(self, grants: Vec<Grant>) -> Self {
        Self { grants, ..self }
    }

    /// Whether the statement may run now.
    ///
    /// # Errors
    /// When it may not, with what about it.
    pub fn judge(&mut self, sql: &str, phase: Phase) -> Result<Arc<Judged>, SqlError> {
        #[cfg(debug_assertions)]
        if off::is_off() {
            return Ok(Arc::new(off::unjudged(sql)));
        }
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
        let judged = Arc::new(Judged { sql: sql.to_owned(), kind, number: number_of(sql), multi_row });
        if self.verdicts.len() >= KEPT || self.bytes >= KEPT_BYTES {
            self.verdicts.clear();
            self.bytes = 0;
        }
        self.bytes += sql.len();
        self.verdicts.insert(sql.to_owned(), Arc::clone(&judged));
        Ok(judged)
    }

    /// What the statement does, if a projection may do it at all.
    fn look_at(&self, sql: &str) -> Result<(Kind, Option<MultiRow>), SqlError> {
        let grammar: &dyn Grammar = match self.dialect {
            Dialect::Postgres => &PostgreSqlDialect {},
            Dialect::Sqlite => &SQLiteDialect {},
        };
        text::check(sql, self.dialect, grammar)?;
        let statements = Parser::parse_sql(grammar, sql)
            .map_err(|error| SqlError::permanent(sqlstate::SYNTAX, format!("cannot parse the statement: {error}")))?;
        let [statement] = &statements[..] else {
            let message = format!("one statement a call, and this text holds {}", statements.len());
            return Err(SqlError::permanent(sqlstate::SYNTAX, message));
        };
        let kind = kind_of(statement)?;
        let names = if kind == Kind::Definition { Use::Own } else { Use::Read };
        let mut judge = Judge {
            dialect: self.dialect,
            schema: &self.schema,
            grants: &self.grants,
            names,
            locks: false,
            granted: Cell::new(false),
        };
        let verdict = match statement.visit(&mut judge) {
            ControlFlow::Continue(()) => judge.whole(statement),
            refused @ ControlFlow::Break(_) => refused,
        };
        match verdict {
            ControlFlow::Break(error) => Err(error),
            // SQLite runs statements in place: there is nothing to be gained.
            ControlFlow::Continue(()) if self.dialect == Dialect::Sqlite => Ok((kind, None)),
            ControlFlow::Continue(()) => Ok((kind, MultiRow::of(statement, sql))),
        }
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
mod tests;
