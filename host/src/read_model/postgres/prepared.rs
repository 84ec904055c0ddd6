//! What a session has prepared of a projection's statements: once, and for as long as it is that projection's.
//!
//! A statement is known by its number, which its text has in the whole process ([`Judged::number`]), so that whichever worker
//! of the projection has the session next need not prepare it again.

use fnv::FnvHashMap;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::super::guard::Judged;
use super::super::multi_row;
use super::super::value::SqlError;
use super::statements::{Part, within};
use super::{literal, sql_error};

/// How many statements stay prepared. A projection that makes up texts without end does not fill the server.
const PREPARED: usize = 512;

/// How much of a statement an error quotes.
const QUOTED: usize = 160;

/// How often a statement comes before it is prepared for several rows.
const AGAIN: usize = 8;

/// A statement that the connection knows.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The types of its parameters: OID, and the name for messages.
    pub(super) parameters: Vec<(u32, String)>,
    /// The beginning of its text, for errors.
    pub(super) text: String,
    /// Whether it can be sent with several rows.
    pub(super) several: Several,
    /// Whether the server knows it for several rows; also when that is not used any more.
    pub(super) is_made: bool,
    /// Table and key columns of the rows it writes, where it can: what two statements of one run have in common.
    pub(super) writes: Option<(String, Vec<String>)>,
}

/// Whether a statement can be sent with several rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Several {
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

/// The statements that a session has prepared, by [`Judged::number`].
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Those that can be executed.
    prepared: FnvHashMap<u32, Prepared>,
    /// Whether the server may know others: preparing or forgetting them has failed half-way.
    is_doubtful: bool,
}

impl Known {
    /// Prepares a statement. Nothing is kept at that time.
    pub(super) async fn prepare(&mut self, connection: &mut PgConnection, judged: &Judged) -> Result<(), SqlError> {
        if self.prepared.len() >= PREPARED {
            self.deallocate(connection).await?;
        }
        let text: String = judged.sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(QUOTED).collect();
        let failed = |error: sqlx::Error| within(sql_error(&error), &text);
        let prepare = format!("PREPARE p{} AS {}", judged.number, judged.sql);
        sqlx::query(AssertSqlSafe(prepare)).persistent(false).execute(&mut *connection).await.map_err(failed)?;
        self.is_doubtful = true;
        let parameters: Vec<(i64, String)> = sqlx::query_as(
            "SELECT parameter.type::oid::int8, format_type(parameter.type::oid, NULL)
             FROM pg_prepared_statements, unnest(parameter_types) WITH ORDINALITY AS parameter (type, number)
             WHERE name = $1 ORDER BY parameter.number",
        )
        .persistent(false)
        .bind(format!("p{}", judged.number))
        .fetch_all(connection)
        .await
        .map_err(failed)?;
        let parameters =
            parameters.into_iter().map(|(oid, name)| (u32::try_from(oid).unwrap_or(u32::MAX), name)).collect();
        let several = if judged.multi_row.is_some() { Several::Perhaps(0) } else { Several::Never };
        let writes = judged.multi_row.as_ref().map(|of| (of.table.clone(), of.key_columns.clone()));
        self.prepared.insert(judged.number, Prepared { parameters, text, several, is_made: false, writes });
        self.is_doubtful = false;
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
            .persistent(false)
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
        self.is_doubtful = true;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(names.join(";")))).await.map_err(|error| sql_error(&error))?;
        self.forget();
        Ok(())
    }

    /// Whether a statement is prepared.
    pub(super) fn knows(&self, judged: &Judged) -> bool {
        self.prepared.contains_key(&judged.number)
    }

    /// A statement, if it is prepared.
    pub(super) fn get(&self, number: u32) -> Option<&Prepared> {
        self.prepared.get(&number)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Prepared> {
        self.prepared.get_mut(&number)
    }

    /// An error of a part of a message, with the statement that caused it.
    pub(super) fn explain(&self, error: SqlError, part: Option<&Part>) -> SqlError {
        match part.copied().flatten().and_then(|(number, _)| self.prepared.get(&number)) {
            Some(prepared) => within(error, &prepared.text),
            None => error,
        }
    }

    /// Forgets everything without a word to the server: the session is emptied, or gone.
    pub(super) fn forget(&mut self) {
        self.prepared.clear();
        self.is_doubtful = false;
    }

    /// Whether the server may know statements that are not known here.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }
}
