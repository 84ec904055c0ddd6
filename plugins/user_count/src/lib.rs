//! The users there are: one row each, one statement an event.
//!
//! The host applies each event exactly once, so a second `UserCreated` for the same user is no echo of the
//! first: somebody registered again. It takes the new email and makes the user active again, and
//! `created_at` stays the first time. A user whose creation is missing (the events may begin in the middle
//! of a story) gets a row all the same, without email or `created_at`, so that no later event is lost.

use projectionist_sdk::prelude::*;
use serde::Deserialize;

/// Keeps `user_stats`. It has no state: everything is in the table.
#[derive(Default)]
struct UserCount;

/// The payload of `UserCreated`.
#[derive(Deserialize)]
struct UserCreated {
    /// Where to write to.
    email: String,
}

/// The payload of `EmailVerified`: `{}`, or the address that was verified, where it is a new one.
#[derive(Deserialize)]
struct EmailVerified {
    /// The verified address.
    email: Option<String>,
}

impl Projection for UserCount {
    fn name() -> &'static str {
        "user_count"
    }

    fn event_types() -> &'static [&'static str] {
        &["UserCreated", "EmailVerified", "UserDeactivated"]
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute(
            "CREATE TABLE user_stats (user_id TEXT PRIMARY KEY, email TEXT,
                                      created_at TIMESTAMPTZ, active BOOLEAN NOT NULL)",
            params![],
        )?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let user = event.aggregate_id();
        match event.event_type() {
            "UserCreated" => tx.execute(
                "INSERT INTO user_stats (user_id, email, created_at, active) VALUES ($1, $2, $3, TRUE)
                 ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, active = TRUE,
                     created_at = COALESCE(user_stats.created_at, excluded.created_at)",
                params![user, event.payload::<UserCreated>()?.email, event.created_at()],
            )?,
            "EmailVerified" => tx.execute(
                "INSERT INTO user_stats (user_id, email, active) VALUES ($1, $2, TRUE)
                 ON CONFLICT (user_id) DO UPDATE SET
                     email = COALESCE(excluded.email, user_stats.email)",
                params![user, event.payload::<EmailVerified>()?.email],
            )?,
            "UserDeactivated" => tx.execute(
                "INSERT INTO user_stats (user_id, active) VALUES ($1, FALSE)
                 ON CONFLICT (user_id) DO UPDATE SET active = FALSE",
                params![user],
            )?,
            _ => {}
        }
        Ok(())
    }
}

export_projection!(UserCount);

#[cfg(test)]
mod tests;
