//! The in-memory SQLite database behind a test, with the host's rules for values and statements.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{
    Batch, Connection, Statement,
    fallible_iterator::FallibleIterator,
    ffi::{self, ErrorCode},
    hooks::{AuthAction, AuthContext, Authorization},
    types::{Value as Stored, ValueRef},
};

use crate::{
    Dialect, SqlError, Timestamp, Value, bindings::projectionist::projection::transactions::Rowset, transaction::Driver,
};

/// A database in memory, and the transaction of the batch that is running.
pub(super) struct Database {
    /// SQLite.
    connection: Connection,
    /// Whether tables may be created, altered and dropped now.
    migrating: Arc<AtomicBool>,
    /// Statements that wait for the next query or the commit, with what their call was about.
    held: RefCell<Vec<Held>>,
    /// What this call is about, such as `handle of UserCreated at position 3`.
    call: RefCell<String>,
    /// Why this transaction can only roll back, once it has failed.
    doomed: RefCell<Option<(String, SqlError)>>,
}

/// A statement that `execute` took.
struct Held {
    /// Which call it came from.
    call: String,
    /// The statement.
    sql: String,
    /// Its parameters.
    params: Vec<Value>,
}

impl Database {
    /// An empty one.
    pub(super) fn new() -> Self {
        let database = Self {
            connection: Connection::open_in_memory().expect("SQLite opens in memory"),
            migrating: Arc::default(),
            held: RefCell::default(),
            call: RefCell::default(),
            doomed: RefCell::default(),
        };
        database.without_guard(|_| ());
        database
    }

    /// Says which call comes next, for the errors of its statements.
    pub(super) fn begin_call(&self, call: &str) {
        self.call.replace(call.to_owned());
    }

    /// The call whose statement failed, if one did.
    pub(super) fn failed_call(&self) -> Option<String> {
        self.doomed.borrow().as_ref().map(|(call, _)| call.clone())
    }

    /// Lets tables be created, altered and dropped for as long as `run` runs.
    pub(super) fn permit_migration<T>(&self, run: impl FnOnce() -> T) -> T {
        self.migrating.store(true, Ordering::Relaxed);
        let result = run();
        self.migrating.store(false, Ordering::Relaxed);
        result
    }

    /// Starts the transaction of a batch.
    pub(super) fn begin(&self) {
        self.control("BEGIN IMMEDIATE");
    }

    /// Runs what is held and commits; or says which call's statement failed.
    pub(super) fn commit(&self) -> Result<(), (String, SqlError)> {
        // The error is kept, with the call it came from, as the reason for the roll-back.
        let _ = self.run_held();
        if let Some(reason) = self.doomed.take() {
            return Err(reason);
        }
        self.control("COMMIT");
        Ok(())
    }

    /// Undoes everything since `begin`.
    pub(super) fn roll_back(&self) {
        self.held.take();
        self.doomed.take();
        self.control("ROLLBACK");
    }

    /// Runs statements of the test itself, which may do anything.
    pub(super) fn run_freely(&self, sql: &str) -> Result<(), SqlError> {
        self.without_guard(|connection| connection.execute_batch(sql)).map_err(|error| explain(&error, sql))
    }

    /// The rows of a query of the test itself.
    pub(super) fn read(&self, sql: &str, params: &[Value]) -> Result<Rowset, SqlError> {
        run(&self.connection, sql, params)
    }

    /// Transaction control: the one thing that no projection may do.
    fn control(&self, sql: &str) {
        self.without_guard(|connection| connection.execute_batch(sql)).expect("transaction control");
    }

    /// Lifts the guard for as long as `run` runs.
    fn without_guard<T>(&self, run: impl FnOnce(&Connection) -> T) -> T {
        type Guard = fn(AuthContext<'_>) -> Authorization;
        self.connection.authorizer(None::<Guard>).expect("the connection is ours");
        let result = run(&self.connection);
        let may_migrate = Arc::clone(&self.migrating);
        let guard = move |context: AuthContext<'_>| authorize(&context, &may_migrate);
        self.connection.authorizer(Some(guard)).expect("the connection is ours");
        result
    }

    /// Runs what is held, in order, up to the first that fails.
    fn run_held(&self) -> Result<(), SqlError> {
        for held in self.held.take() {
            self.fail_if_doomed()?;
            if let Err(error) = run(&self.connection, &held.sql, &held.params) {
                self.doomed.replace(Some((held.call, error.clone())));
                return Err(error);
            }
        }
        Ok(())
    }

    /// A transaction in which a statement failed does nothing any more, as in Postgres.
    fn fail_if_doomed(&self) -> Result<(), SqlError> {
        self.doomed.borrow().as_ref().map_or(Ok(()), |(_, error)| Err(error.clone()))
    }
}

impl Driver for Database {
    fn execute(&self, sql: &str, params: &[Value]) -> Result<(), SqlError> {
        let call = self.call.borrow().clone();
        self.held.borrow_mut().push(Held { call, sql: sql.to_owned(), params: params.to_vec() });
        Ok(())
    }

    fn query(&self, sql: &str, params: &[Value]) -> Result<Rowset, SqlError> {
        self.run_held()?;
        self.fail_if_doomed()?;
        run(&self.connection, sql, params).inspect_err(|error| {
            self.doomed.replace(Some((self.call.borrow().clone(), error.clone())));
        })
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }
}

/// What a projection may do: read and write rows, and in `migrate` make tables, indexes and views.
fn authorize(context: &AuthContext<'_>, migrating: &AtomicBool) -> Authorization {
    use AuthAction as A;
    let allowed = match context.action {
        A::Select | A::Read { .. } | A::Recursive | A::Function { .. } => true,
        // Schema changes are also writes to sqlite_schema; both are asked for.
        A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => {
            !table_name.starts_with("sqlite_") || migrating.load(Ordering::Relaxed)
        }
        A::CreateTable { .. }
        | A::CreateIndex { .. }
        | A::CreateView { .. }
        | A::AlterTable { .. }
        | A::DropTable { .. }
        | A::DropIndex { .. }
        | A::DropView { .. }
        | A::Reindex { .. } => migrating.load(Ordering::Relaxed),
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

/// Runs one statement to its end.
fn run(connection: &Connection, sql: &str, params: &[Value]) -> Result<Rowset, SqlError> {
    let mut statement = prepare(connection, sql)?;
    bind(&mut statement, params)?;
    let read_only = statement.readonly();
    let before = connection.total_changes();
    let columns: Vec<(String, Option<String>)> =
        statement.columns().iter().map(|column| (column.name().to_owned(), column.decl_type().map(declared))).collect();
    let mut rows = Vec::new();
    let mut cursor = statement.raw_query();
    while let Some(row) = cursor.next().map_err(|error| explain(&error, sql))? {
        let value = |(index, (_, declared)): (usize, &(String, Option<String>))| {
            let stored = row.get_ref(index).map_err(|error| explain(&error, sql))?;
            Ok(lift(stored, declared.as_deref()))
        };
        rows.push(columns.iter().enumerate().map(value).collect::<Result<_, SqlError>>()?);
    }
    drop(cursor);
    let changed = !read_only && connection.total_changes() > before;
    Ok(Rowset {
        columns: columns.into_iter().map(|(name, _)| name).collect(),
        rows,
        affected: if changed { connection.changes() } else { 0 },
    })
}

/// Prepares the one statement that `sql` must be.
fn prepare<'a>(connection: &'a Connection, sql: &str) -> Result<Statement<'a>, SqlError> {
    let mut batch = Batch::new(connection, sql);
    let mut next = || batch.next().map_err(|error| explain(&error, sql));
    let statement = next()?.ok_or_else(|| SqlError::new("42601", "an empty statement"))?;
    match next()? {
        None => Ok(statement),
        Some(_) => Err(SqlError::new("42601", format!("more than one statement: {sql}"))),
    }
}

/// Binds `$1`, `$2`, … by their numbers. (SQLite itself takes them for names, in order of appearance.)
fn bind(statement: &mut Statement<'_>, params: &[Value]) -> Result<(), SqlError> {
    let mut wanted = 0;
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).unwrap_or("?");
        let number = name.strip_prefix('$').and_then(|digits| digits.parse().ok());
        let number: usize = number
            .filter(|&number| number > 0)
            .ok_or_else(|| SqlError::new("07001", format!("the parameter {name}: they are written $1, $2, …")))?;
        wanted = wanted.max(number);
        let Some(value) = params.get(number - 1) else { continue };
        statement
            .raw_bind_parameter(index, lower(number, value)?)
            .map_err(|error| SqlError::new("22000", error.to_string()))?;
    }
    if wanted == params.len() {
        Ok(())
    } else {
        let message = format!("{} parameters given, where the statement has {wanted}", params.len());
        Err(SqlError::new("07001", message))
    }
}

/// What SQLite stores for a value.
fn lower(number: usize, value: &Value) -> Result<Stored, SqlError> {
    Ok(match value {
        Value::Null => Stored::Null,
        Value::Boolean(truth) => Stored::Integer((*truth).into()),
        Value::Int64(integer) => Stored::Integer(*integer),
        // SQLite would store NULL.
        Value::Float64(float) if float.is_nan() => {
            return Err(SqlError::new("22003", format!("parameter ${number} is NaN")));
        }
        Value::Float64(float) => Stored::Real(*float),
        Value::Text(text) | Value::Numeric(text) | Value::Uuid(text) | Value::Json(text) => {
            if text.contains('\0') {
                return Err(SqlError::new("22021", format!("parameter ${number} contains U+0000")));
            }
            Stored::Text(text.clone())
        }
        Value::Bytes(bytes) => Stored::Blob(bytes.clone()),
        Value::Timestamp(micros) => Stored::Text(Timestamp::from_micros(*micros).to_string()),
    })
}

/// The first word of a declared type, in upper case: `DECIMAL` for `decimal(10, 2)`.
fn declared(text: &str) -> String {
    text.split(['(', ' ']).next().unwrap_or(text).to_ascii_uppercase()
}

/// What a projection sees of a stored value: by the column's declared type where SQLite has no such type
/// of its own, and otherwise, or where the value is of another kind than declared, by how it is stored.
fn lift(stored: ValueRef<'_>, declared: Option<&str>) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (declared.unwrap_or_default(), stored) {
        (_, ValueRef::Null) => Value::Null,
        ("BOOL" | "BOOLEAN", ValueRef::Integer(integer)) => Value::Boolean(integer != 0),
        ("TIMESTAMP" | "TIMESTAMPTZ" | "DATETIME", ValueRef::Text(bytes)) => {
            let text = text(bytes);
            text.parse::<Timestamp>().map_or(Value::Text(text), |moment| Value::Timestamp(moment.as_micros()))
        }
        ("UUID", ValueRef::Text(bytes)) => Value::Uuid(text(bytes)),
        // A column of such a type has numeric affinity: SQLite turns texts that look like numbers into them.
        ("JSON" | "JSONB", ValueRef::Text(bytes)) => Value::Json(text(bytes)),
        ("JSON" | "JSONB", ValueRef::Integer(integer)) => Value::Json(integer.to_string()),
        ("JSON" | "JSONB", ValueRef::Real(float)) => Value::Json(float.to_string()),
        ("NUMERIC" | "DECIMAL", ValueRef::Text(bytes)) => Value::Numeric(text(bytes)),
        ("NUMERIC" | "DECIMAL", ValueRef::Integer(integer)) => Value::Numeric(integer.to_string()),
        ("NUMERIC" | "DECIMAL", ValueRef::Real(float)) => Value::Numeric(float.to_string()),
        (_, ValueRef::Integer(integer)) => Value::Int64(integer),
        (_, ValueRef::Real(float)) => Value::Float64(float),
        (_, ValueRef::Text(bytes)) => Value::Text(text(bytes)),
        (_, ValueRef::Blob(bytes)) => Value::Bytes(bytes.to_vec()),
    }
}

/// SQLite's error with the SQLSTATE that Postgres would have.
fn explain(error: &rusqlite::Error, sql: &str) -> SqlError {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(code, Some(message)) => (code, message.clone()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, msg.clone()),
        other => return SqlError::new("XX000", format!("{other}, in: {sql}")),
    };
    let state = match (code.code, code.extended_code) {
        (_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => "23505",
        (_, ffi::SQLITE_CONSTRAINT_NOTNULL) => "23502",
        (_, ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => "23503",
        (_, ffi::SQLITE_CONSTRAINT_CHECK) => "23514",
        (ErrorCode::ConstraintViolation, _) => "23000",
        (ErrorCode::AuthorizationForStatementDenied, _) => "42501",
        (ErrorCode::TypeMismatch, _) => "42804",
        (ErrorCode::TooBig, _) => "54000",
        (ErrorCode::Unknown, _) if message.starts_with("no such table") => "42P01",
        (ErrorCode::Unknown, _) if message.starts_with("no such column") => "42703",
        (ErrorCode::Unknown, _) if message.ends_with("already exists") => "42P07",
        (ErrorCode::Unknown, _) => "42601",
        _ => "XX000",
    };
    let message = match state {
        "42501" => format!("not allowed here ({message}), in: {sql}"),
        _ => format!("{message}, in: {sql}"),
    };
    SqlError::new(state, message)
}
