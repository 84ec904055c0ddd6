//! The role that a projection's SQL runs as: it owns the projection's schema, and nothing else.
//!
//! The guard judges what a projection sends; this is what holds if the guard is wrong. A transaction begins as the host's
//! login, becomes the projection's role before its first statement (`SET LOCAL ROLE`), and the host's again before the
//! checkpoint moves, all of it in messages that are sent anyway. The role has no login, so nobody comes in by it, and no
//! power but over its schema: not over the events, the host's tables, or another projection's.
//!
//! **The name** is `PROJECTION@DATABASE`, with the number (oid) of the database: roles belong to the whole server, and the
//! same projection may have a read model in several of its databases. A rebuild (`PROJECTION+rebuild`) runs as the role
//! of its projection: it is the same code, and what it could do to the live tables the live one can do anyway.
//!
//! **Made and put right at each claim** ([`Role::ensure`]), in a transaction of its own. A read model that a host without
//! roles has made is taken over: its schema and what is in it get their owner. Where the host's login may not do that, the
//! error has the statements for somebody who may.
//!
//! **Before the host is itself again** deferred constraints are checked (`SET CONSTRAINTS ALL IMMEDIATE`): Postgres before
//! 18 runs a deferred trigger as whoever is at the end of the transaction. Then it is seen that the role is still the one
//! that was set ([`LEAVE`]).
//!
//! **What it does not hold**: a statement that changes the role itself (`set_config('role', …)`), which the guard has to
//! let through first; it would run as the host's login. [`Isolation::Login`] holds that, too: then the session is the role's
//! own from its [`login`](super::login) on, there is no other to go back to, and the host's tables move by [`seal`](super::seal).
//! And what Postgres lets everybody (PUBLIC) do in a database.

use std::hash::Hasher as _;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::isolation::Isolation;
use super::super::rebuild::projection_of;
use super::quote_identifier;
use crate::database::error::RoleRefused;
use crate::database::{DatabaseError, Postgres};

/// Becomes the host's login again; fails with a division by zero when the role is not the projection's any more.
pub(super) const LEAVE: &str = "EXECUTE projectionist_leave";

/// The role of a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    /// Its name.
    name: String,
    /// The host's login, which sees to it.
    login: String,
    /// Of which projection: a rebuild has that of the live one.
    projection: String,
}

/// What is there, as far as the role is concerned.
#[derive(Debug, sqlx::FromRow)]
struct Found {
    /// The name of the role.
    role: String,
    /// The host's login.
    login: String,
    /// The database.
    database: String,
    /// The server, as in 150004.
    server: i32,
    /// Whether the role is there.
    exists: bool,
    /// Whether the host may become it, and has its privileges.
    may_set: bool,
    /// Whether the projection has tables, so that a schema of its name is its own.
    has_tables: bool,
    /// Whether there is a schema of the projection's name.
    schema_exists: bool,
    /// Whether there is one that the role does not own.
    schema: bool,
    /// Whether the role may connect to the database, as everybody may where nobody has changed that.
    may_connect: bool,
    /// Whether it finds the functions of the host.
    may_call: bool,
    /// Things in the schema that the role does not own: `TABLE name`.
    things: Vec<String>,
}

impl Role {
    /// Sees that the role is there and owns the projection's schema, if there is one already.
    ///
    /// # Errors
    /// When the host's login may not do what is missing, or the database fails.
    pub(super) async fn ensure(
        database: &Postgres,
        connection: &mut PgConnection,
        schema: &str,
        isolation: Isolation,
    ) -> Result<Self, DatabaseError> {
        let failed = |source| database.error("seeing to the role of a projection", source);
        let projection = projection_of(schema).unwrap_or(schema);
        let mut transaction = connection.begin().await.map_err(failed)?;
        // Workers that start together would make it twice.
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .persistent(false)
            .bind(lock_key(projection))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let found = Self::find(&mut transaction, projection, schema).await.map_err(failed)?;
        // Its schema would come first in every session of that user's (`"$user"`), the host's among them.
        if projection == found.login {
            transaction.rollback().await.ok();
            return Err(DatabaseError::NameOfLogin {
                database: database.name().to_owned(),
                projection: projection.to_owned(),
            });
        }
        let mut statements = found.missing(schema);
        if isolation == Isolation::Login {
            statements.extend(found.missing_for_a_login(schema));
        }
        if !statements.is_empty() {
            one_after_the_other(&mut transaction).await.map_err(failed)?;
        }
        for statement in &statements {
            let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *transaction).await;
            done.map_err(|source| {
                let role =
                    Self { name: found.role.clone(), login: found.login.clone(), projection: projection.to_owned() };
                refused(database, &role, projection, &statements, source)
            })?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(Self { name: found.role, login: found.login, projection: projection.to_owned() })
    }

    /// Looks at what is there.
    async fn find(connection: &mut PgConnection, projection: &str, schema: &str) -> Result<Found, sqlx::Error> {
        sqlx::query_as(
            "WITH named AS (
                 SELECT $1 || '@' || (SELECT oid FROM pg_database WHERE datname = current_database()) AS role),
             role AS (SELECT pg_roles.oid FROM pg_roles JOIN named ON rolname = role),
             own AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = $2)
             SELECT role, current_user::text AS login, current_database()::text AS database,
                 current_setting('server_version_num')::int AS server,
                 EXISTS (SELECT FROM role) AS exists,
                 coalesce((SELECT pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int >= 160000
                                                   THEN 'SET' ELSE 'MEMBER' END)
                                  AND pg_has_role(oid, 'USAGE') FROM role), false) AS may_set,
                 coalesce((SELECT schema_version > 0 FROM projectionist.projections WHERE projection = $2), false)
                     AS has_tables,
                 EXISTS (SELECT FROM own) AS schema_exists,
                 EXISTS (SELECT FROM own WHERE nspowner NOT IN (SELECT oid FROM role)) AS schema,
                 coalesce((SELECT has_database_privilege(oid, current_database(), 'CONNECT') FROM role),
                          has_database_privilege('public', current_database(), 'CONNECT')) AS may_connect,
                 coalesce((SELECT has_schema_privilege(oid, 'projectionist', 'USAGE') FROM role), false) AS may_call,
                 ARRAY(SELECT CASE relkind WHEN 'v' THEN 'VIEW ' WHEN 'm' THEN 'MATERIALIZED VIEW '
                                           WHEN 'S' THEN 'SEQUENCE ' WHEN 'f' THEN 'FOREIGN TABLE ' ELSE 'TABLE ' END
                              || format('%I.%I', $2, relname)
                       FROM pg_class JOIN own ON relnamespace = own.oid
                       WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relowner NOT IN (SELECT oid FROM role)
                         -- A sequence that belongs to a column goes with its table.
                         AND NOT (relkind = 'S' AND EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass
                                                            AND objid = pg_class.oid AND deptype IN ('a', 'i')))
                       ORDER BY pg_class.oid) AS things
             FROM named",
        )
        .persistent(false)
        .bind(projection)
        .bind(schema)
        .fetch_one(connection)
        .await
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The advisory lock under which it is changed.
    pub(super) fn lock_key(&self) -> i64 {
        lock_key(&self.projection)
    }

    /// The error of a change of the role that the host's login may not make, with what would let it.
    pub(super) fn may_not_alter(&self, database: &Postgres, projection: &str, source: sqlx::Error) -> DatabaseError {
        let (role, login) = (self.quoted(), quote_identifier(&self.login));
        let statements = [
            format!("ALTER ROLE {login} CREATEROLE"),
            // What the first one means since version 16, where it is not the one that has made the role.
            format!("GRANT {role} TO {login} WITH ADMIN OPTION"),
        ];
        refused(database, self, projection, &statements, source)
    }

    /// Its name as an SQL identifier.
    pub(super) fn quoted(&self) -> String {
        quote_identifier(&self.name)
    }

    /// Becomes the projection's role, until the transaction ends or [`LEAVE`].
    pub(super) fn enter(&self) -> String {
        format!("SET LOCAL ROLE {}", self.quoted())
    }

    /// Prepares [`LEAVE`]: one statement for both, because each costs some microseconds a transaction.
    pub(super) fn prepare_leave(&self) -> String {
        let name = self.name.replace('\'', "''");
        format!(
            "PREPARE projectionist_leave AS
             SELECT 1 / (current_user = '{name}')::int, set_config('role', 'none', true)"
        )
    }
}

impl Found {
    /// What has to be done.
    fn missing(&self, schema: &str) -> Vec<String> {
        let role = quote_identifier(&self.role);
        let mut statements = Vec::new();
        if !self.exists {
            statements.push(format!("CREATE ROLE {role} NOLOGIN"));
        }
        // A superuser may become anybody; to be made a member would change nothing for it.
        if !self.may_set {
            let with = if self.server >= 160_000 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
            statements.push(format!("GRANT {role} TO {}{with}", quote_identifier(&self.login)));
        }
        if self.has_tables {
            if self.schema {
                statements.push(format!("ALTER SCHEMA {} OWNER TO {role}", quote_identifier(schema)));
            }
            statements.extend(self.things.iter().map(|thing| format!("ALTER {thing} OWNER TO {role}")));
        }
        statements
    }

    /// What has to be done besides for a session of the role's own, where nothing can be done as the host.
    fn missing_for_a_login(&self, schema: &str) -> Vec<String> {
        let role = quote_identifier(&self.role);
        let mut statements = Vec::new();
        if !self.may_connect {
            statements.push(format!("GRANT CONNECT ON DATABASE {} TO {role}", quote_identifier(&self.database)));
        }
        if !self.may_call {
            statements.push(format!("GRANT USAGE ON SCHEMA projectionist TO {role}"));
        }
        // One that is somebody else's is left to `schema_version`, which says so.
        if !self.has_tables && !self.schema_exists {
            statements.push(format!("CREATE SCHEMA {} AUTHORIZATION {role}", quote_identifier(schema)));
        }
        statements
    }
}

/// The error of a statement that the host's login may not run, with those that somebody else can.
fn refused(
    database: &Postgres,
    role: &Role,
    projection: &str,
    statements: &[String],
    source: sqlx::Error,
) -> DatabaseError {
    match source.as_database_error() {
        Some(error) if error.code().as_deref() == Some("42501") => DatabaseError::RoleRefused(Box::new(RoleRefused {
            database: database.name().to_owned(),
            projection: projection.to_owned(),
            role: role.name.clone(),
            login: role.login.clone(),
            message: error.message().to_owned(),
            statements: statements.iter().map(|statement| format!("\n    {statement};")).collect(),
        })),
        _ => database.error("seeing to the role of a projection", source),
    }
}

/// Waits until nobody else changes rights in this database, and is the one who does until the transaction ends. Roles of
/// projections that start together are granted the same things, and the server fails whoever comes second (`tuple concurrently
/// updated`). Taken behind the lock of a role, and never before one. Whoever is frozen with it makes others wait for some
/// seconds, and then try again from the start.
pub(super) async fn one_after_the_other(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let key = lock_key("\0rights");
    sqlx::raw_sql("SET LOCAL lock_timeout = '10s'").execute(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").persistent(false).bind(key).execute(connection).await.map(drop)
}

/// The advisory lock under which a role is made.
fn lock_key(projection: &str) -> i64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(b"projectionist role\0");
    hasher.write(projection.as_bytes());
    hasher.finish().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read model that a host without roles has made.
    fn found() -> Found {
        Found {
            role: "orders@5".to_owned(),
            login: "app".to_owned(),
            database: "shop".to_owned(),
            server: 150_004,
            exists: false,
            may_set: false,
            has_tables: true,
            schema_exists: true,
            schema: true,
            may_connect: true,
            may_call: false,
            things: vec!["TABLE orders.t".to_owned()],
        }
    }

    #[test]
    fn only_what_is_missing_is_done() {
        let all = [
            "CREATE ROLE \"orders@5\" NOLOGIN",
            "GRANT \"orders@5\" TO \"app\"",
            "ALTER SCHEMA \"orders\" OWNER TO \"orders@5\"",
            "ALTER TABLE orders.t OWNER TO \"orders@5\"",
        ];
        assert_eq!(found().missing("orders"), all);
        let newer = Found { server: 160_000, exists: true, ..found() };
        assert_eq!(newer.missing("orders")[0], "GRANT \"orders@5\" TO \"app\" WITH INHERIT TRUE, SET TRUE");
        // A schema of that name that is not the projection's stays whose it is.
        let foreign = Found { has_tables: false, exists: true, may_set: true, ..found() };
        assert_eq!(foreign.missing("orders"), [""; 0]);
    }

    #[test]
    fn a_login_of_its_own_needs_the_schema_and_what_it_may_call() {
        assert_eq!(found().missing_for_a_login("orders"), ["GRANT USAGE ON SCHEMA projectionist TO \"orders@5\""]);
        let new = Found { has_tables: false, schema_exists: false, may_connect: false, may_call: true, ..found() };
        let all = [
            "GRANT CONNECT ON DATABASE \"shop\" TO \"orders@5\"",
            "CREATE SCHEMA \"orders\" AUTHORIZATION \"orders@5\"",
        ];
        assert_eq!(new.missing_for_a_login("orders"), all);
    }
}
