//! The operator's side of dead letters on SQLite: of one file a projection.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};
use tokio::runtime::Handle;

use super::super::dead_letter::{Aggregate, Reason};
use super::super::dead_letters::{Asked, Group, Letters, Listed, Page, Selection, StoredLetter, Waiting, Which};
use super::super::request::{Action, Answer, Outcome};
use crate::database::DatabaseError;
use crate::database::schema::{self, Tables};
use crate::database::sqlite::{self, Durability};
use crate::event::Position;
use crate::timestamp;

/// Dead letters in the files beside a base.
#[derive(Debug)]
pub struct SqliteLetters {
    /// What the files stand beside.
    base: PathBuf,
    /// The files.
    files: Vec<ReadModelFile>,
}

/// A read model.
#[derive(Debug)]
struct ReadModelFile {
    /// Whose.
    projection: String,
    /// The file.
    path: PathBuf,
    /// Open.
    connection: Connection,
}

impl SqliteLetters {
    /// Opens the read models that stand beside `base` now.
    ///
    /// # Errors
    /// When one cannot be opened, or its tables are a newer host's.
    pub fn open(base: &Path, runtime: &Handle) -> Result<Self, DatabaseError> {
        let mut files = Vec::new();
        for sqlite::ProjectionFile { projection, path } in sqlite::projection_files(base)? {
            let checked = schema::check_sqlite(&path, &sqlite::open_existing(&path)?, Tables::ReadModel);
            // A file of that name that is no read model of ours.
            if matches!(checked, Err(DatabaseError::Unmigrated { .. })) {
                continue;
            }
            let connection = sqlite::open(&path, Tables::ReadModel, Durability::Consistent, runtime)?;
            files.push(ReadModelFile { projection, path, connection });
        }
        Ok(Self { base: base.to_owned(), files })
    }

    /// Collects from the files of a selection.
    fn each<T>(
        &mut self,
        selection: &Selection,
        doing: &'static str,
        mut read: impl FnMut(&Connection) -> rusqlite::Result<Vec<T>>,
    ) -> Result<Vec<T>, DatabaseError> {
        let mut all = Vec::new();
        for file in &self.files {
            if selection.projection.as_ref().is_none_or(|projection| *projection == file.projection) {
                let failed = |source| DatabaseError::Sqlite { path: file.path.clone(), doing, source };
                all.extend(read(&file.connection).map_err(failed)?);
            }
        }
        Ok(all)
    }

    /// Asks something about the aggregate of each of these letters, in the file it is of.
    fn of_each<T>(
        &mut self,
        of: &[StoredLetter],
        doing: &'static str,
        mut read: impl FnMut(&Connection, &StoredLetter) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, DatabaseError> {
        let one = |letter: &StoredLetter| self.within(&letter.projection, doing, |connection| read(connection, letter));
        of.iter().map(one).collect()
    }

    /// Does something in the file of a projection.
    fn within<T>(
        &mut self,
        projection: &str,
        doing: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        match self.files.iter_mut().find(|file| file.projection == projection) {
            Some(file) => work(&mut file.connection).map_err(|source| DatabaseError::Sqlite {
                path: file.path.clone(),
                doing,
                source,
            }),
            None => Err(DatabaseError::File {
                path: crate::database::DatabaseUrl::projection_file(&self.base, projection),
                doing: "open",
                reason: "there is no such read model".to_owned(),
            }),
        }
    }
}

impl Letters for SqliteLetters {
    fn letters(
        &mut self,
        selection: &Selection,
        which: Which,
        page: &Page,
    ) -> Result<Listed<StoredLetter>, DatabaseError> {
        let (after, limit) = (page.after.as_ref(), page.limit());
        let mut left = limit;
        // The files are in the order of the list.
        let letters = self.each(selection, "reading dead letters", |connection| {
            if left == 0 {
                return Ok(Vec::new());
            }
            let mut statement = connection.prepare_cached(
                "SELECT projection, bounded_context, aggregate_type, aggregate_id, global_position, aggregate_version,
                     event_id, event_type, reason, error, attempts, plugin_digest, created_at
                 FROM _projectionist_dead_letters
                 WHERE (projection = ?1 OR ?1 IS NULL AND instr(projection, '+') = 0) AND (?2 IS NULL OR bounded_context = ?2)
                   AND (?3 IS NULL OR aggregate_type = ?3) AND (?4 IS NULL OR aggregate_id = ?4)
                   AND (?5 IS NULL OR global_position = ?5) AND (?6 IS NULL OR reason = ?6)
                   AND (?7 IS NULL OR (projection, global_position) > (?7, ?8))
                 ORDER BY projection, global_position LIMIT ?9",
            )?;
            let parameters = params![
                selection.projection,
                selection.bounded_context,
                selection.aggregate_type,
                selection.aggregate_id,
                selection.position.map(Position::to_sql),
                which.reason(),
                after.map(|after| &after.projection),
                after.map(|after| after.position.to_sql()),
                left,
            ];
            let found: Vec<StoredLetter> = statement.query_map(parameters, letter)?.collect::<rusqlite::Result<_>>()?;
            left = left.saturating_sub_unsigned(found.len() as u64);
            Ok(found)
        })?;
        Ok(Listed::of(letters, page))
    }

    fn groups(&mut self, of: &[StoredLetter]) -> Result<Vec<Option<Group>>, DatabaseError> {
        self.of_each(of, "reading dead letters", |connection, letter| {
            let mut statement = connection.prepare_cached(
                "SELECT min(global_position), max(global_position), count(*), min(created_at)
                 FROM _projectionist_dead_letters
                 WHERE projection = ?1 AND bounded_context = ?2 AND aggregate_type = ?3 AND aggregate_id = ?4
                   AND reason <> 'skipped' HAVING count(*) > 0",
            )?;
            let group = statement.query_row(of_aggregate(letter), |row| {
                Ok(Group {
                    projection: letter.projection.clone(),
                    aggregate: letter.aggregate.clone(),
                    first: Position::from_sql(row.get(0)?),
                    last: Position::from_sql(row.get(1)?),
                    letters: row.get::<_, i64>(2)?.unsigned_abs(),
                    since: time(row, 3)?,
                })
            });
            group.optional()
        })
    }

    fn waiting(&mut self, of: &[StoredLetter]) -> Result<Vec<Option<Waiting>>, DatabaseError> {
        self.of_each(of, "reading requests", |connection, letter| {
            let mut statement = connection.prepare_cached(
                "SELECT id, action, global_position, requested_by, requested_at, message
                 FROM _projectionist_dead_letter_requests
                 WHERE projection = ?1 AND bounded_context = ?2 AND aggregate_type = ?3 AND aggregate_id = ?4
                   AND outcome IS NULL ORDER BY id DESC LIMIT 1",
            )?;
            let waiting = statement.query_row(of_aggregate(letter), |row| {
                let action: String = row.get(1)?;
                Ok(Waiting {
                    id: row.get(0)?,
                    projection: letter.projection.clone(),
                    aggregate: letter.aggregate.clone(),
                    action: Action::stored(&action, row.get(2)?),
                    by: row.get(3)?,
                    at: time(row, 4)?,
                    note: row.get(5)?,
                })
            });
            waiting.optional()
        })
    }

    fn ask(
        &mut self,
        projection: &str,
        aggregate: &Aggregate,
        action: Action,
        by: &str,
    ) -> Result<Option<i64>, DatabaseError> {
        let Aggregate { bounded_context, aggregate_type, aggregate_id } = aggregate;
        self.within(projection, "asking for a replay", |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id = transaction
                .query_row(
                    "INSERT INTO _projectionist_dead_letter_requests
                         (projection, bounded_context, aggregate_type, aggregate_id, action, global_position, requested_by)
                     SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS (
                         SELECT 1 FROM _projectionist_dead_letters
                         WHERE projection = ?1 AND bounded_context = ?2 AND aggregate_type = ?3 AND aggregate_id = ?4
                           AND reason <> 'skipped')
                     RETURNING id",
                    params![
                        projection,
                        bounded_context,
                        aggregate_type,
                        aggregate_id,
                        action.as_str(),
                        action.position().map(Position::to_sql),
                        by,
                    ],
                    |row| row.get(0),
                )
                .optional()?;
            transaction.commit()?;
            Ok(id)
        })
    }

    fn asked(&mut self, projection: &str, request: i64) -> Result<Asked, DatabaseError> {
        self.within(projection, "reading a request", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT outcome, applied, failed_position, message, done_by FROM _projectionist_dead_letter_requests
                 WHERE id = ?1",
            )?;
            let asked = statement.query_row([request], |row| {
                let outcome: Option<String> = row.get(0)?;
                let Some(outcome) = outcome.as_deref().and_then(Outcome::stored) else {
                    return Ok(Asked::Waits(row.get(3)?));
                };
                Ok(Asked::Answered(Answer {
                    outcome,
                    applied: row.get::<_, i64>(1)?.unsigned_abs(),
                    failed: row.get::<_, Option<i64>>(2)?.map(Position::from_sql),
                    message: row.get(3)?,
                    by: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
                }))
            });
            Ok(asked.optional()?.unwrap_or(Asked::Gone))
        })
    }

    fn purge(&mut self, selection: &Selection, older_than: Option<u64>) -> Result<u64, DatabaseError> {
        // Times are texts of one form, so their order is that of time.
        let before = older_than.map(|seconds| {
            let age = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            timestamp::format(timestamp::now().saturating_sub(age).max(0))
        });
        let removed = self.each(selection, "removing dead letters", |connection| {
            let removed = connection.execute(
                "DELETE FROM _projectionist_dead_letters
                 WHERE reason = 'skipped'
                   AND (projection = ?1 OR ?1 IS NULL AND instr(projection, '+') = 0) AND (?2 IS NULL OR bounded_context = ?2)
                   AND (?3 IS NULL OR aggregate_type = ?3) AND (?4 IS NULL OR aggregate_id = ?4)
                   AND (?5 IS NULL OR global_position = ?5) AND (?6 IS NULL OR created_at < ?6)",
                params![
                    selection.projection,
                    selection.bounded_context,
                    selection.aggregate_type,
                    selection.aggregate_id,
                    selection.position.map(Position::to_sql),
                    before,
                ],
            )?;
            Ok(vec![removed as u64])
        })?;
        Ok(removed.into_iter().sum())
    }
}

/// The parameters that choose the aggregate of a letter.
fn of_aggregate(letter: &StoredLetter) -> [&str; 4] {
    let Aggregate { bounded_context, aggregate_type, aggregate_id } = &letter.aggregate;
    [&letter.projection, bounded_context, aggregate_type, aggregate_id]
}

/// The aggregate of a row, which stands behind the projection.
fn aggregate(row: &Row<'_>) -> rusqlite::Result<Aggregate> {
    Ok(Aggregate { bounded_context: row.get(1)?, aggregate_type: row.get(2)?, aggregate_id: row.get(3)? })
}

/// A column's time.
fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    let text: String = row.get(column)?;
    Ok(timestamp::parse(&text).unwrap_or(0))
}

/// A row as a letter.
fn letter(row: &Row<'_>) -> rusqlite::Result<StoredLetter> {
    let reason: String = row.get(8)?;
    Ok(StoredLetter {
        projection: row.get(0)?,
        aggregate: aggregate(row)?,
        position: Position::from_sql(row.get(4)?),
        aggregate_version: row.get::<_, i64>(5)?.unsigned_abs(),
        event_id: row.get(6)?,
        event_type: row.get(7)?,
        reason: Reason::stored(&reason),
        error: row.get(9)?,
        attempts: row.get(10)?,
        plugin_digest: row.get(11)?,
        created_at: time(row, 12)?,
    })
}
