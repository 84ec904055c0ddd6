//! What a read model holds, and what is different between two of them.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::ValueRef;

use crate::database::sqlite;
use crate::plugin::descriptor::Printable;

/// How many rows, and how many events, are shown of each kind; the rest is counted.
pub(super) const SHOWN: usize = 5;

/// How many rows of a table are compared.
const COMPARED: usize = 100_000;

/// The tables of a read model, by name.
pub(super) type Snapshot = BTreeMap<String, Table>;

/// A table's rows by key: the primary key's values, or where there is none all values and how often they are there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// What each row has.
    rows: BTreeMap<Vec<String>, Vec<(String, String)>>,
    /// Whether there are more rows than are compared.
    is_cut: bool,
}

/// Reads all tables of a projection's own.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read(file: &Path) -> anyhow::Result<Snapshot> {
    let mut connection = sqlite::open_existing(file)?;
    // All tables as they are at one moment.
    let transaction = connection.transaction()?;
    let names: Vec<String> = transaction
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_projectionist\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut snapshot = Snapshot::new();
    for name in names {
        let table = read_table(&transaction, &name)?;
        snapshot.insert(name, table);
    }
    Ok(snapshot)
}

/// Reads one.
fn read_table(connection: &rusqlite::Connection, name: &str) -> rusqlite::Result<Table> {
    let key: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk")?
        .query_map([name], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let sql = format!("SELECT * FROM \"{}\" LIMIT {}", name.replace('"', "\"\""), COMPARED + 1);
    let mut statement = connection.prepare(&sql)?;
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let (mut rows, mut table) = (statement.query([])?, Table::default());
    while let Some(row) = rows.next()? {
        if table.rows.len() == COMPARED {
            table.is_cut = true;
            break;
        }
        let values = columns.iter().enumerate().map(|(at, column)| Ok((column.clone(), text(row.get_ref(at)?))));
        let values: Vec<(String, String)> = values.collect::<rusqlite::Result<_>>()?;
        let is_key = |column: &String| key.is_empty() || key.contains(column);
        let mut id: Vec<String> =
            values.iter().filter(|(column, _)| is_key(column)).map(|(_, value)| value.clone()).collect();
        // Rows without a key may be there several times.
        id.push(String::new());
        let mut times = 0;
        while table.rows.contains_key(&id) {
            times += 1;
            *id.last_mut().unwrap_or(&mut String::new()) = times.to_string();
        }
        table.rows.insert(id, values);
    }
    Ok(table)
}

/// A value, for people.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => Printable::of(String::from_utf8_lossy(text)).to_string(),
        ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// The dead letters after the first so many, for people.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn dead_letters(file: &Path, after: usize) -> anyhow::Result<Vec<String>> {
    let connection = sqlite::open_existing(file)?;
    let mut statement = connection.prepare(
        "SELECT global_position, event_type, bounded_context, aggregate_type, aggregate_id, error
         FROM _projectionist_dead_letters ORDER BY global_position LIMIT -1 OFFSET ?1",
    )?;
    let letters = statement.query_map([i64::try_from(after)?], |row| {
        let text = |at| row.get_ref(at).map(text);
        let (position, kind, error) = (text(0)?, text(1)?, row.get::<_, String>(5)?);
        Ok(format!("{position} {kind} of {}/{}/{}: {error}", text(2)?, text(3)?, text(4)?))
    })?;
    Ok(letters.collect::<Result<_, _>>()?)
}

/// What is different, for people: a line a table, and some of its rows.
pub(super) fn changes(old: &Snapshot, new: &Snapshot) -> String {
    let (mut text, none) = (String::new(), Table::default());
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (before, after) = (old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none));
        let added: Vec<_> = after.rows.iter().filter(|(id, _)| !before.rows.contains_key(*id)).collect();
        let removed: Vec<_> = before.rows.iter().filter(|(id, _)| !after.rows.contains_key(*id)).collect();
        let changed: Vec<_> = after
            .rows
            .iter()
            .filter_map(|(id, row)| before.rows.get(id).filter(|old| *old != row).map(|old| (old, row)))
            .collect();
        if !new.contains_key(name) {
            text += &format!("  {name}: the table is gone\n");
        } else if added.is_empty() && removed.is_empty() && changed.is_empty() {
            text += &format!("  {name}: the same {} rows\n", after.rows.len());
        } else {
            text += &format!(
                "  {name}: {} rows added, {} changed, {} removed\n",
                added.len(),
                changed.len(),
                removed.len()
            );
        }
        for (_, row) in added.iter().take(SHOWN) {
            text += &format!("    + {}\n", shown(row));
        }
        for (old, new) in changed.iter().take(SHOWN) {
            text += &format!("    ~ {}\n", difference(old, new));
        }
        for (_, row) in removed.iter().take(SHOWN) {
            text += &format!("    - {}\n", shown(row));
        }
        if before.is_cut || after.is_cut {
            text += &format!("    (of {COMPARED} rows: there are more)\n");
        }
    }
    text
}

/// A row.
fn shown(row: &[(String, String)]) -> String {
    row.iter().map(|(column, value)| format!("{column}={value}")).collect::<Vec<_>>().join(" ")
}

/// A row that has changed: where it has, from what to what.
fn difference(old: &[(String, String)], new: &[(String, String)]) -> String {
    let old: BTreeMap<&String, &String> = old.iter().map(|(column, value)| (column, value)).collect();
    let part = |(column, value): &(String, String)| match old.get(column) {
        Some(before) if *before == value => format!("{column}={value}"),
        Some(before) => format!("{column}={before} → {value}"),
        None => format!("{column}={value} (new)"),
    };
    new.iter().map(part).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with these tables.
    fn file(folder: &tempfile::TempDir, name: &str, sql: &str) -> Snapshot {
        let path = folder.path().join(name);
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        read(&path).unwrap()
    }

    #[test]
    fn what_is_different_is_told_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let old = file(
            &folder,
            "old",
            "CREATE TABLE t (id TEXT PRIMARY KEY, n INT); INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3);
             CREATE TABLE gone (x INT); CREATE TABLE _projectionist_x (y INT); CREATE TABLE log (l TEXT);
             INSERT INTO log VALUES ('same'), ('same')",
        );
        let new = file(
            &folder,
            "new",
            "CREATE TABLE t (id TEXT PRIMARY KEY, n INT, more TEXT); INSERT INTO t VALUES ('a', 5, NULL), ('d', 4, 'x');
             CREATE TABLE log (l TEXT); INSERT INTO log VALUES ('same'), ('same'), ('same')",
        );
        assert_eq!(
            changes(&old, &new),
            "  gone: the table is gone\n  log: 1 rows added, 0 changed, 0 removed\n    + l=same\n  \
             t: 1 rows added, 1 changed, 2 removed\n    + id=d n=4 more=x\n    ~ id=a n=1 → 5 more=NULL (new)\n    \
             - id=b n=2\n    - id=c n=3\n"
        );
        assert!(changes(&new, &new).contains("t: the same 2 rows"));
    }
}
