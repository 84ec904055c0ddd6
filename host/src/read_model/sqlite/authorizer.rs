//! What SQLite itself refuses while a projection's statement is compiled, beneath the guard.
//!
//! SQLite asks for every table, column and function that a statement touches, after its own parser has read the
//! text; so a statement that the guard has read another way is still refused here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::super::guard::functions::is_allowed;
use super::super::value::Dialect;

/// Whose statement is being compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Whose {
    /// The host's: anything.
    Host = 0,
    /// A projection's, in `handle` or `flush`: rows of its own tables.
    GuestRows = 1,
    /// A projection's, in `migrate`: its tables, too.
    GuestDefinition = 2,
}

/// Says whose statement comes next.
#[derive(Clone, Debug)]
pub(super) struct Compiling(Arc<AtomicU8>);

impl Compiling {
    /// Watches a connection.
    pub(super) fn watch(connection: &rusqlite::Connection) -> rusqlite::Result<Self> {
        let whose = Arc::new(AtomicU8::new(Whose::Host as u8));
        let seen = Arc::clone(&whose);
        connection.authorizer(Some(move |context: AuthContext<'_>| match seen.load(Ordering::Relaxed) {
            0 => Authorization::Allow,
            1 => judge(&context, Whose::GuestRows),
            _ => judge(&context, Whose::GuestDefinition),
        }))?;
        Ok(Self(whose))
    }

    /// Runs something that compiles statements of `whose`.
    pub(super) fn of<T>(&self, whose: Whose, run: impl FnOnce() -> T) -> T {
        self.0.store(whose as u8, Ordering::Relaxed);
        let result = run();
        self.0.store(Whose::Host as u8, Ordering::Relaxed);
        result
    }
}

/// Whether a table is the host's, or SQLite's own catalogue.
fn is_foreign(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    table.starts_with("_projectionist") || table.starts_with("projection_checkpoints") || table.starts_with("sqlite_")
}

/// Whether a function may be called: those that the guard knows, operators that are functions to SQLite (LIKE is on the
/// list, too), and what it calls itself while it alters a table; nobody can write those names in a statement.
fn may_call(function: &str, defining: bool) -> bool {
    let function = function.to_ascii_lowercase();
    let own = function.starts_with("sqlite_rename_") || matches!(&*function, "sqlite_drop_column" | "sqlite_fail");
    is_allowed(Dialect::Sqlite, &function) || matches!(&*function, "->" | "->>") || (defining && own)
}

/// Whether a projection's statement may do this.
fn judge(context: &AuthContext<'_>, whose: Whose) -> Authorization {
    let defining = whose == Whose::GuestDefinition;
    let allow = |allowed: bool| if allowed { Authorization::Allow } else { Authorization::Deny };
    // CREATE, ALTER and DROP write the catalogue themselves.
    let own = |table: &str| !is_foreign(table) || (defining && table.to_ascii_lowercase().starts_with("sqlite_"));
    match context.action {
        AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => allow(own(table_name)),
        AuthAction::Function { function_name } => allow(may_call(function_name, defining)),
        // Where SQLite keeps the numbers of AUTOINCREMENT. It makes that table itself, and lets nobody else do it.
        AuthAction::CreateTable { table_name: "sqlite_sequence" } => allow(defining),
        AuthAction::CreateTable { table_name }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::DropIndex { table_name, .. } => allow(defining && !is_foreign(table_name)),
        AuthAction::CreateView { view_name } | AuthAction::DropView { view_name } => {
            allow(defining && !is_foreign(view_name))
        }
        AuthAction::Reindex { .. } => allow(defining),
        _ => Authorization::Deny,
    }
}
