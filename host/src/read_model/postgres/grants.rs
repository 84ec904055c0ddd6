//! What a projection's role may read besides its own schema: what the operator names, and nothing he names no more.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::super::grants::{Grant, Others};
use super::super::value::{SqlError, sqlstate};
use super::role::{self, Role};
use super::{quote_identifier, sql_error};

/// Lets a role read these tables; the others that it may read are taken away, or kept.
///
/// # Errors
/// When a table is not there, or the host's login may not grant it; the message has the statements for who may.
pub(super) async fn settle(
    connection: &mut PgConnection,
    role: &Role,
    schema: &str,
    wanted: &[Grant],
    others: Others,
) -> Result<(), SqlError> {
    let failed = |error: sqlx::Error| sql_error(&error);
    let mut transaction = connection.begin().await.map_err(failed)?;
    match settle_in(&mut transaction, role, schema, wanted, others).await {
        Ok(()) => transaction.commit().await.map_err(failed),
        Err(error) => {
            // Not left to whoever has the session next.
            transaction.rollback().await.ok();
            Err(error)
        }
    }
}

/// As [`settle`], in a transaction.
async fn settle_in(
    transaction: &mut PgConnection,
    role: &Role,
    schema: &str,
    wanted: &[Grant],
    others: Others,
) -> Result<(), SqlError> {
    let failed = |error: sqlx::Error| sql_error(&error);
    for grant in wanted.iter().filter(|grant| grant.schema != schema) {
        refuse_what_runs(&mut *transaction, grant).await?;
    }
    let granted = granted(&mut *transaction, role.name(), schema).await.map_err(failed)?;
    let to = role.quoted();
    let mut statements = Vec::new();
    if others == Others::TakenAway {
        for Grant { schema, table } in granted.iter().filter(|grant| !wanted.contains(grant)) {
            let (schema, table) = (quote_identifier(schema), quote_identifier(table));
            statements.push(format!("REVOKE ALL ON {schema}.{table} FROM {to}"));
        }
        let left = |schema: &str| wanted.iter().any(|grant| grant.schema == schema);
        let mut schemas: Vec<&str> =
            granted.iter().map(|grant| &*grant.schema).filter(|schema| !left(schema)).collect();
        schemas.dedup();
        statements.extend(
            schemas.iter().map(|schema| format!("REVOKE ALL ON SCHEMA {} FROM {to}", quote_identifier(schema))),
        );
    }
    for grant in wanted.iter().filter(|grant| !granted.contains(grant) && grant.schema != schema) {
        let (schema, table) = (quote_identifier(&grant.schema), quote_identifier(&grant.table));
        statements.push(format!("GRANT USAGE ON SCHEMA {schema} TO {to}"));
        statements.push(format!("GRANT SELECT ON {schema}.{table} TO {to}"));
    }
    if !statements.is_empty() {
        role::one_after_the_other(&mut *transaction).await.map_err(failed)?;
    }
    for statement in &statements {
        sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *transaction).await.map_err(|error| {
            let error = sql_error(&error);
            let message = format!("{} (--grant-read); who owns it can run: {}", error.message, statements.join("; "));
            SqlError { message, ..error }
        })?;
    }
    Ok(())
}

/// Refuses what runs something of its owner's when it is read, as whoever reads it: the functions that a view calls, and those
/// of a row security policy, run with the rights of the reader. A view that is `security_invoker` is no other in that: it only
/// reads its tables with the reader's rights, too. A table, partitioned or not, and a materialized view have nothing but rows.
async fn refuse_what_runs(connection: &mut PgConnection, grant: &Grant) -> Result<(), SqlError> {
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT relkind::text, relrowsecurity FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE nspname = $1 AND relname = $2",
    )
    .persistent(false)
    .bind(&grant.schema)
    .bind(&grant.table)
    .fetch_optional(connection)
    .await
    .map_err(|error| sql_error(&error))?;
    let (is, instead) = match found.as_ref().map(|(kind, secured)| (&**kind, *secured)) {
        // One that is not there yet is waited for.
        None | Some(("r" | "p" | "m", false)) => return Ok(()),
        Some(("r" | "p" | "m", true)) => ("a table with row security", "a table without, or a materialized view"),
        Some(("v", _)) => ("a view", "the tables that it reads, or a materialized view in its place"),
        Some(("f", _)) => ("a foreign table", "a materialized view of it"),
        Some(_) => ("no table", "a table"),
    };
    let message = format!(
        "{grant} is {is}, and cannot be granted (--grant-read): reading it could run functions of its owner as the \
         projection; grant {instead}"
    );
    Err(SqlError::permanent(sqlstate::NOT_ALLOWED, message))
}

/// What a role was granted outside of this schema, by schema and name.
async fn granted(connection: &mut PgConnection, role: &str, schema: &str) -> Result<Vec<Grant>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT DISTINCT nspname::text, relname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace,
             aclexplode(relacl) AS acl
         WHERE acl.grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND acl.privilege_type = 'SELECT'
           AND acl.grantee <> relowner AND nspname <> $2
         ORDER BY 1, 2",
    ).persistent(false)
    .bind(role)
    .bind(schema)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(schema, table)| Grant { schema, table }).collect())
}

/// What the role of each projection was granted, for `status`.
pub(in super::super) async fn all(connection: &mut PgConnection) -> Result<Vec<(String, Grant)>, sqlx::Error> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT DISTINCT left(rolname, -length(suffix)), nspname::text, relname::text
         FROM (SELECT '@' || oid AS suffix FROM pg_database WHERE datname = current_database()) AS here
         JOIN pg_roles ON right(rolname, length(suffix)) = suffix,
             pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace, aclexplode(relacl) AS acl
         WHERE acl.grantee = pg_roles.oid AND acl.privilege_type = 'SELECT' AND acl.grantee <> relowner
         ORDER BY 1, 2, 3",
    )
    .persistent(false)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(projection, schema, table)| (projection, Grant { schema, table })).collect())
}
