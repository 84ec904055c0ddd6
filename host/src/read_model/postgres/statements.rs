//! Statements of a projection, prepared once a connection, and kept until there is reason to send them.
//!
//! Kept statements become one message, `EXECUTE p0('…', …); EXECUTE p1(…); …`, so that a batch costs a round trip
//! or two however many statements it has. Preparing goes through the extended protocol, which takes one
//! statement and no more, and PREPARE itself takes rows' statements only; what comes after it in a message is
//! nothing but names of ours and quoted literals.

use fnv::FnvHashMap;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::super::guard::Judged;
use super::super::value::{SqlError, Value, sqlstate};
use super::{literal, sql_error};

/// How many statements stay prepared. A projection that makes up texts without end does not fill the server.
const PREPARED: usize = 512;

/// How much of a statement an error quotes.
const QUOTED: usize = 160;

/// A statement that the connection knows.
#[derive(Debug)]
struct Prepared {
    /// The types of its parameters: OID, and the name for messages.
    parameters: Vec<(u32, String)>,
    /// The beginning of its text, for errors.
    text: String,
}

/// The statements of one connection.
#[derive(Debug, Default)]
pub(super) struct Statements {
    /// By [`Judged::number`].
    prepared: FnvHashMap<u32, Prepared>,
    /// What was kept, as one message.
    message: String,
    /// Which statement each part of the message is; nothing for the host's own.
    parts: Vec<Option<u32>>,
}

/// A message ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Its text.
    pub(super) text: String,
    /// Which statement each part is.
    pub(super) parts: Vec<Option<u32>>,
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
        self.prepared.insert(judged.number, Prepared { parameters, text });
        Ok(())
    }

    /// Forgets all prepared statements: there are too many, or the tables are not those they were prepared for.
    pub(super) async fn deallocate(&mut self, connection: &mut PgConnection) -> Result<(), SqlError> {
        if self.prepared.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.prepared.keys().map(|number| format!("DEALLOCATE p{number}")).collect();
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
        let before = self.message.len();
        self.message.push_str("EXECUTE p");
        self.message.push_str(&judged.number.to_string());
        for (at, (value, (oid, name))) in parameters.iter().zip(&prepared.parameters).enumerate() {
            self.message.push_str(if at == 0 { "(" } else { "," });
            if let Err(error) = literal::write(&mut self.message, at + 1, value, *oid, name) {
                self.message.truncate(before);
                return Err(within(error, &prepared.text));
            }
        }
        self.message.push_str(if parameters.is_empty() { ";" } else { ");" });
        self.parts.push(Some(judged.number));
        Ok(())
    }

    /// Keeps a statement of the host's own.
    pub(super) fn keep_own(&mut self, sql: &str) {
        self.message.push_str(sql);
        self.message.push(';');
        self.parts.push(None);
    }

    /// How many bytes are kept.
    pub(super) fn kept(&self) -> usize {
        self.message.len()
    }

    /// Takes what was kept.
    pub(super) fn take(&mut self) -> Message {
        Message { text: std::mem::take(&mut self.message), parts: std::mem::take(&mut self.parts) }
    }

    /// Forgets what was kept.
    pub(super) fn forget(&mut self) {
        self.message.clear();
        self.parts.clear();
    }

    /// An error of a part of a message, with the statement that caused it.
    pub(super) fn explain(&self, error: SqlError, part: Option<&Option<u32>>) -> SqlError {
        match part.copied().flatten().and_then(|number| self.prepared.get(&number)) {
            Some(prepared) => within(error, &prepared.text),
            None => error,
        }
    }
}

/// Says in which statement an error happened.
fn within(error: SqlError, statement: &str) -> SqlError {
    SqlError { message: format!("{}, in: {statement}", error.message), ..error }
}
