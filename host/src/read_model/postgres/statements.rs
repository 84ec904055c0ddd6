//! Statements of a projection, kept until there is reason to send them.
//!
//! Kept statements become one message, `EXECUTE p0('…', …); EXECUTE p1(…); …`, so that a batch costs a round trip
//! or two however many statements it has. Preparing ([`super::prepared`]) goes through the extended protocol, which takes
//! one statement and no more, and PREPARE itself takes rows' statements only; what comes after it in a message is
//! nothing but names of ours and quoted literals.
//!
//! A run of one INSERT becomes one statement of several rows where [`MultiRow`] says so: `EXECUTE p0x(E'{…}', E'{…}');`,
//! an array for each parameter. Postgres refuses to write a row twice in one statement. So where rows with other keys may
//! overtake each other, what comes for a key once more goes into another layer, and the layers go off one after the other:
//! each key keeps its order, and most of the rows are in the first.

use std::fmt::Write as _;

use fnv::FnvHashMap;

use super::super::guard::Judged;
#[cfg(doc)]
use super::super::multi_row::MultiRow;
use super::super::value::{SqlError, Value, sqlstate};
use super::literal;
use super::literal::Form;
use super::prepared::{Known, Prepared, Several};

/// Rows for one table, not yet in the message.
#[derive(Debug, Default)]
struct Run {
    /// By layer and statement; in a layer each row has another key.
    layers: Vec<Vec<Group>>,
    /// How often each key is there, as literals.
    keys: FnvHashMap<String, usize>,
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

/// The statements that a worker has kept.
#[derive(Debug, Default)]
pub(super) struct Statements {
    /// What was kept, as one message.
    message: String,
    /// Which statement each part of the message is.
    parts: Vec<Part>,
    /// How many of them may take their time.
    lasting: u32,
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
    /// How many of them may take their time: a projection's, and those that wait for somebody or run what a projection has
    /// deferred.
    pub(super) lasting: u32,
}

impl Statements {
    /// Keeps a prepared statement with its parameters.
    pub(super) fn keep(&mut self, known: &mut Known, judged: &Judged, parameters: &[Value]) -> Result<(), SqlError> {
        let Some(prepared) = known.get(judged.number) else {
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
            let layer = self.run.layer(judged.number, &key, any_order && is_exact, known).unwrap_or_else(|| {
                self.end_run();
                0
            });
            self.run.is_inexact |= !is_exact;
            self.run.add(layer, judged.number, &self.row, &self.ends, key);
            return Ok(());
        }
        self.end_run();
        execute(&mut self.message, judged.number, &self.row);
        self.parts.push(Some((judged.number, 1)));
        self.lasting += 1;
        if let Some(Prepared { several: Several::Perhaps(times), .. }) = known.get_mut(judged.number) {
            *times += 1;
        }
        Ok(())
    }

    /// Keeps a prepared statement, and not in a run: somebody wants its own answer.
    pub(super) fn keep_alone(
        &mut self,
        known: &mut Known,
        judged: &Judged,
        parameters: &[Value],
    ) -> Result<(), SqlError> {
        self.end_run();
        self.keep(known, judged, parameters)
    }

    /// Puts the run into the message, in as few statements as there are.
    fn end_run(&mut self) {
        for Group { number, rows, columns } in self.run.layers.iter().flatten() {
            execute_several(&mut self.message, *number, columns);
            self.parts.push(Some((*number, *rows)));
            self.lasting += 1;
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

    /// The same, of one that may take its time.
    pub(super) fn keep_lasting(&mut self, sql: &str) {
        self.keep_own(sql);
        self.lasting += 1;
    }

    /// How many bytes are kept.
    pub(super) fn kept(&self) -> usize {
        self.message.len() + self.run.bytes
    }

    /// Takes what was kept.
    pub(super) fn take(&mut self) -> Message {
        self.end_run();
        let (text, parts) = (std::mem::take(&mut self.message), std::mem::take(&mut self.parts));
        Message { text, parts, lasting: std::mem::take(&mut self.lasting) }
    }

    /// Forgets what was kept.
    pub(super) fn forget(&mut self) {
        self.message.clear();
        self.parts.clear();
        self.lasting = 0;
        self.run.forget();
    }
}

impl Run {
    /// The layer that a row of a statement can go into, if it can come behind what is there, or before some of it.
    fn layer(&self, number: u32, key: &str, any_order: bool, known: &Known) -> Option<usize> {
        let Some(first) = self.layers.first().and_then(|groups| groups.first()) else { return Some(0) };
        let one = self.layers.len() == 1 && self.layers[0].len() == 1 && first.number == number;
        let times = self.keys.get(key).copied().unwrap_or(0);
        if one && times == 0 {
            return Some(0);
        }
        let same_rows = |a: &Prepared, b: &Prepared| a.writes == b.writes && a.several == b.several;
        let overtakes = any_order
            && !self.is_inexact
            && known.get(first.number).zip(known.get(number)).is_some_and(|(a, b)| same_rows(a, b));
        overtakes.then_some(times)
    }

    /// Adds a row, whose parameters end at `ends`.
    fn add(&mut self, layer: usize, number: u32, row: &str, ends: &[usize], key: String) {
        if self.layers.len() == layer {
            self.layers.push(Vec::new());
        }
        let groups = &mut self.layers[layer];
        let at = groups.iter().position(|group| group.number == number).unwrap_or_else(|| {
            groups.push(Group { number, rows: 0, columns: vec![String::new(); ends.len()] });
            groups.len() - 1
        });
        let group = &mut groups[at];
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
            *self.keys.entry(key).or_default() += 1;
        }
    }

    /// Begins again.
    fn forget(&mut self) {
        self.layers.clear();
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
pub(super) fn within(error: SqlError, statement: &str) -> SqlError {
    SqlError { message: format!("{}, in: {statement}", error.message), ..error }
}
