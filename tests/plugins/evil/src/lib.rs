//! A hostile guest: what a stranger's projection could try, a module for each class of attack. `promises/evil` holds the
//! tests, a module for each module here, that show what becomes of it.
//!
//! It stands among the projections of the tests and not beside the samples, so that nobody is handed it as one.
//!
//! The payload of an event names the attack ([`Attack`]). An event that comes through leaves a row in `survivors`, so
//! that a test sees which did, and that the host goes on. What happens before there is any event is chosen with settings:
//!
//! - `--set migrate=STATEMENT` runs it in `migrate`; `--set migrate_how=query` asks for its rows.
//! - `--set spin=describe` or `migrate` spins there.
//!
//! What no compiler of Rust would make, `malformed.wat` does: answers and arguments that are no such thing, handles that
//! are not its own, parts of a module that hardly any program has.

use projectionist_sdk::prelude::*;
use serde::Deserialize;

mod allocate;
mod flood;
mod recurse;
mod remember;
mod spin;
mod sql;

/// Does what an event says, and keeps `survivors`.
#[derive(Default)]
struct Evil {
    /// Whether the next `flush` spins.
    spins_in_flush: bool,
}

/// The payload of an event.
#[derive(Deserialize)]
#[serde(tag = "attack", rename_all = "snake_case")]
enum Attack {
    /// None.
    None,
    /// A statement.
    Sql(sql::Attack),
    /// Time.
    Spin(spin::Attack),
    /// Memory.
    Allocate(allocate::Attack),
    /// Stack.
    Recurse(recurse::Attack),
    /// Too much of something.
    Flood(flood::Attack),
    /// State that outlives a rollback.
    Remember(remember::Attack),
}

impl Projection for Evil {
    fn name() -> &'static str {
        "evil"
    }

    fn configure(&mut self) -> Result<(), Failure> {
        spin::spin_in("describe");
        Ok(())
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute("CREATE TABLE survivors (position BIGINT PRIMARY KEY, note TEXT NOT NULL)", params![])?;
        spin::spin_in("migrate");
        sql::migrate(tx)
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let note = match event.payload()? {
            Attack::None => "harmless".to_owned(),
            Attack::Sql(attack) => attack.run(tx)?,
            Attack::Spin(attack) => {
                self.spins_in_flush = attack.run(tx);
                "will spin in flush".to_owned()
            }
            Attack::Allocate(attack) => attack.run(),
            Attack::Recurse(attack) => attack.run(),
            Attack::Flood(attack) => attack.run(tx),
            Attack::Remember(attack) => attack.run(tx)?,
        };
        tx.execute("INSERT INTO survivors (position, note) VALUES ($1, $2)", params![event.position(), note])?;
        Ok(())
    }

    fn flush(&mut self, _tx: &Transaction) -> Result<(), Failure> {
        if self.spins_in_flush {
            spin::spin();
        }
        Ok(())
    }
}

export_projection!(Evil);
