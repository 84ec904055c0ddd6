//! A hostile guest: what a stranger's projection could try, a module for each class of attack. `promises/evil` holds the
//! tests, a module for each module here, that show what becomes of it.
//!
//! It stands among the projections of the tests and not beside the samples, so that nobody is handed it as one.
//!
//! The payload of an event names the attack ([`Attack`]). An event that comes through leaves a row in `survivors`, so
//! that a test sees which did, and that the host goes on. What happens before there is any event is chosen with settings:
//!
//! - `--set migrate=STATEMENT` runs it in `migrate`; `--set migrate_how=query` asks for its rows.

use projectionist_sdk::prelude::*;
use serde::Deserialize;

mod sql;

/// Does what an event says, and keeps `survivors`.
#[derive(Default)]
struct Evil;

/// The payload of an event.
#[derive(Deserialize)]
#[serde(tag = "attack", rename_all = "snake_case")]
enum Attack {
    /// None.
    None,
    /// A statement.
    Sql(sql::Attack),
}

impl Projection for Evil {
    fn name() -> &'static str {
        "evil"
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute("CREATE TABLE survivors (position BIGINT PRIMARY KEY, note TEXT NOT NULL)", params![])?;
        sql::migrate(tx)
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let note = match event.payload()? {
            Attack::None => "harmless".to_owned(),
            Attack::Sql(attack) => attack.run(tx)?,
        };
        tx.execute("INSERT INTO survivors VALUES ($1, $2)", params![event.position(), note])?;
        Ok(())
    }
}

export_projection!(Evil);
