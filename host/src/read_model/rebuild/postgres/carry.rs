//! What goes over to the new tables at a swap, and what stands in its way.

use sqlx::{AssertSqlSafe, PgConnection};

/// What depends on the tables of a schema and stands outside of it: views, foreign keys and functions, in words.
pub(super) async fn dependents(connection: &mut PgConnection, schema: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH own AS (SELECT oid FROM pg_namespace WHERE nspname = $1)
         SELECT DISTINCT CASE
                 WHEN view.oid IS NOT NULL THEN CASE view.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END
                                                || view.oid::regclass
                 WHEN key.oid IS NOT NULL THEN format('foreign key %I of %s', key.conname, key.conrelid::regclass)
                 ELSE 'function ' || function.oid::regprocedure END
         FROM pg_depend AS depends
         JOIN pg_class AS used ON used.oid = depends.refobjid AND depends.refclassid = 'pg_class'::regclass
         LEFT JOIN pg_rewrite AS rule ON depends.classid = 'pg_rewrite'::regclass AND rule.oid = depends.objid
         LEFT JOIN pg_class AS view ON view.oid = rule.ev_class AND view.relnamespace NOT IN (SELECT oid FROM own)
         LEFT JOIN pg_constraint AS key ON depends.classid = 'pg_constraint'::regclass AND key.oid = depends.objid
             AND key.conrelid <> 0
             AND (SELECT relnamespace FROM pg_class WHERE oid = key.conrelid) NOT IN (SELECT oid FROM own)
         LEFT JOIN pg_proc AS function ON depends.classid = 'pg_proc'::regclass AND function.oid = depends.objid
             AND function.pronamespace NOT IN (SELECT oid FROM own)
         WHERE used.relnamespace IN (SELECT oid FROM own)
           AND (view.oid IS NOT NULL OR key.oid IS NOT NULL OR function.oid IS NOT NULL)
         ORDER BY 1",
    )
    .bind(schema)
    .fetch_all(connection)
    .await
}

/// Grants on a schema and what is in it whatever was granted on another and its things of the same name: to somebody
/// who reads the live tables it makes no difference that they are others now.
pub(super) async fn grants(connection: &mut PgConnection, from: &str, to: &str) -> Result<(), sqlx::Error> {
    let statements: Vec<String> = sqlx::query_scalar(
        "WITH namespaces AS (
             SELECT source.oid AS source, target.oid AS target, target.nspname AS name
             FROM pg_namespace AS source, pg_namespace AS target WHERE source.nspname = $1 AND target.nspname = $2),
         relations AS (
             SELECT source.oid AS source, target.oid AS target, format('%I.%I', name, target.relname) AS name,
                    CASE target.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, source.relacl, source.relowner
             FROM namespaces
             JOIN pg_class AS source ON source.relnamespace = namespaces.source
             JOIN pg_class AS target ON target.relnamespace = namespaces.target AND target.relname = source.relname
             WHERE source.relkind IN ('r', 'p', 'v', 'S') AND target.relkind IN ('r', 'p', 'v', 'S')
               AND (source.relkind = 'S') = (target.relkind = 'S')),
         granted (columns, target, acl, owner) AS (
             SELECT '', format('SCHEMA %I', name), nspacl, nspowner
             FROM namespaces JOIN pg_namespace ON pg_namespace.oid = source
             UNION ALL
             SELECT '', kind || ' ' || name, relacl, relowner FROM relations
             UNION ALL
             SELECT format(' (%I)', source.attname), 'TABLE ' || name, source.attacl, relowner
             FROM relations
             JOIN pg_attribute AS source ON source.attrelid = relations.source AND NOT source.attisdropped
             JOIN pg_attribute AS target ON target.attrelid = relations.target AND NOT target.attisdropped
                 AND target.attname = source.attname)
         SELECT 'GRANT ' || acl.privilege_type || columns || ' ON ' || target || ' TO '
                || CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
                || CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
         FROM granted, aclexplode(granted.acl) AS acl WHERE acl.grantee <> granted.owner
         UNION ALL
         SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT %s ON %s TO %s', pg_get_userbyid(defaclrole),
                    name, acl.privilege_type,
                    CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
                        ELSE 'TYPES' END,
                    CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END)
         FROM namespaces JOIN pg_default_acl ON defaclnamespace = source, aclexplode(defaclacl) AS acl
         WHERE acl.grantee <> defaclrole AND pg_has_role(defaclrole, 'MEMBER')",
    )
    .bind(from)
    .bind(to)
    .fetch_all(&mut *connection)
    .await?;
    if statements.is_empty() {
        return Ok(());
    }
    // The server has quoted every name in them.
    sqlx::raw_sql(AssertSqlSafe(statements.join("; "))).execute(connection).await.map(drop)
}
