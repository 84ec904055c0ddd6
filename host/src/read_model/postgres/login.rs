//! A session that belongs to the projection's role from its login on (`--isolation login`).
//!
//! The role is that of [`super::role`], and at rest nobody can log in as it. For each session it is opened for the moment
//! that a login takes: the host gives it a password made for this one login, logs in, and takes both away again. So there is
//! no password to keep, to share between processes, or to change now and then; a process that dies in between leaves one
//! that nobody knows and that is over within a minute. Sessions of one role are opened one after the other, under an
//! advisory lock. What the server is sent, and may log, is not the password but what it keeps of one (RFC 5802).
//!
//! What a projection may do to its own role (give it settings, another password) is undone before the login.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::role::Role;
use super::seal::hex;
use crate::database::error::LoginOfRoleRefused;
use crate::database::{DatabaseError, Postgres};

/// How often a password is hashed: as Postgres does it itself.
const ITERATIONS: u32 = 4_096;

/// Opens a session as the role of a projection, by way of one of the host's own that is closed again.
///
/// # Errors
/// When the host's login may not change the role, the server does not let the role in, or the database fails.
pub(super) async fn open(
    database: &Postgres,
    role: &Role,
    projection: &str,
    application: &str,
) -> Result<PgConnection, DatabaseError> {
    let mut steward = database.connect("projectionist login").await?;
    let failed = |source| database.error("opening a session of a projection's own", source);
    let key = role.lock_key();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(key).execute(&mut steward).await.map_err(failed)?;
    let opened = open_locked(database, &mut steward, role, projection, application).await;
    // The lock goes with the session.
    steward.close().await.ok();
    opened
}

/// As [`open`], with the lock.
async fn open_locked(
    database: &Postgres,
    steward: &mut PgConnection,
    role: &Role,
    projection: &str,
    application: &str,
) -> Result<PgConnection, DatabaseError> {
    let password = Password::new().map_err(|error| database.error("making a password", sqlx::Error::Io(error)))?;
    let name = role.quoted();
    let altered = sqlx::raw_sql(AssertSqlSafe(admit(&name, &password.verifier))).execute(&mut *steward).await;
    altered.map_err(|source| role.may_not_alter(database, projection, source))?;
    let connected = database.connect_as(role.name(), &password.text, application).await;
    let closed =
        sqlx::raw_sql(AssertSqlSafe(format!("ALTER ROLE {name} NOLOGIN PASSWORD NULL"))).execute(steward).await;
    let connection = connected.map_err(|error| match error {
        DatabaseError::LoginRefused { database: name, message } => {
            DatabaseError::LoginOfRoleRefused(Box::new(LoginOfRoleRefused {
                database: name,
                projection: projection.to_owned(),
                message,
                line: database.admission(role.name()),
            }))
        }
        other => other,
    })?;
    if let Err(source) = closed {
        connection.close().await.ok();
        return Err(database.error("closing the login of a projection's role", source));
    }
    Ok(connection)
}

/// Opens the login for a minute at most.
fn admit(role: &str, verifier: &str) -> String {
    // In one message, and so in one transaction. The minute is by the server's clock.
    format!(
        "ALTER ROLE {role} RESET ALL;
         DO $admit$ BEGIN
             EXECUTE format('ALTER ROLE %s IN DATABASE %I RESET ALL', $role${role}$role$, current_database());
             EXECUTE format('ALTER ROLE %s LOGIN NOINHERIT PASSWORD %L VALID UNTIL %L',
                            $role${role}$role$, $verifier${verifier}$verifier$, now() + interval '1 minute');
         END $admit$"
    )
}

/// A password for one login.
struct Password {
    /// What the client says.
    text: String,
    /// What the server keeps.
    verifier: String,
}

impl Password {
    /// A new one: 256 bits that nobody can guess.
    fn new() -> std::io::Result<Self> {
        let mut bytes = [0; 48];
        OsRng.try_fill_bytes(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        let text = hex(&bytes[..32]);
        let verifier = verifier(&text, &bytes[32..]);
        Ok(Self { text, verifier })
    }
}

/// What Postgres keeps of a password (RFC 5802, RFC 7677).
fn verifier(password: &str, salt: &[u8]) -> String {
    // PBKDF2 of one block.
    let mut last = hmac(password.as_bytes(), &[salt, &[0, 0, 0, 1]].concat());
    let mut salted = last;
    for _ in 1..ITERATIONS {
        last = hmac(password.as_bytes(), &last);
        salted.iter_mut().zip(last).for_each(|(byte, other)| *byte ^= other);
    }
    let stored: [u8; 32] = Sha256::digest(hmac(&salted, b"Client Key")).into();
    let server = hmac(&salted, b"Server Key");
    let [salt, stored, server] = [salt, &stored, &server].map(|bytes| STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${ITERATIONS}:{salt}${stored}:{server}")
}

/// HMAC-SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256>>::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of any length"));
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_as_postgres_keeps_it() {
        // The example of RFC 7677: password `pencil`, with the keys that PBKDF2 of Python makes of it.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        assert_eq!(
            verifier("pencil", &salt),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
             wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn no_password_comes_twice() {
        let (one, other) = (Password::new().unwrap(), Password::new().unwrap());
        assert!(one.text.len() == 64 && one.text != other.text && one.verifier != other.verifier);
    }
}
