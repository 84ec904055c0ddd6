//! Postgres for tests: a fresh database on the server at hand, and sessions that a test uses from its own thread.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, ValueRef as _};
use tokio::runtime::Runtime;

use crate::Cluster;

/// Where the sessions live; a test waits for them on its own thread.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime for the tests' sessions")
});

/// A database of its own, dropped when this is.
#[derive(Debug)]
pub struct Fresh {
    /// Its URL.
    url: String,
    /// Its name.
    name: String,
    /// The URL of the database from which it is made and dropped.
    parent: String,
}

impl Fresh {
    /// On the server of `DATABASE_URL`, or else on the temporary one of this process.
    pub(super) fn shared() -> Self {
        match std::env::var("DATABASE_URL").ok().filter(|url| url.starts_with("postgres")) {
            Some(parent) => Self::make(parent),
            None => Self::on(Cluster::shared()),
        }
    }

    /// On this server.
    pub(super) fn on(cluster: &Cluster) -> Self {
        Self::make(cluster.url("postgres"))
    }

    /// Beside the database of this URL.
    fn make(parent: String) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let url = beside(&parent, &name);
        let mut session = Session::open(&parent);
        session.execute(&format!("CREATE DATABASE {name}")).expect("a fresh database");
        Self { url, name, parent }
    }

    /// Its URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Its URL as a host shows it.
    pub(super) fn shown(&self) -> String {
        let options: sqlx::postgres::PgConnectOptions = self.url.parse().expect("a URL");
        let socket = options.get_socket().map(|socket| socket.display().to_string());
        let host = socket.unwrap_or_else(|| options.get_host().to_owned());
        format!("postgres://{}@{host}:{}/{}", options.get_username(), options.get_port(), self.name)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // The server may be stopped: a database that is left in a temporary one goes with it.
        if let Ok(mut session) = Session::try_open(&self.parent) {
            // Roles belong to the server: those of the projections that were here would stay.
            let roles = format!(
                "SELECT quote_ident(rolname) FROM pg_roles JOIN pg_database ON rolname LIKE '%@' || pg_database.oid
                 WHERE datname = '{}'",
                self.name
            );
            let roles = session.rows(&roles).unwrap_or_default();
            session.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).ok();
            for role in roles.into_iter().flatten() {
                session.execute(&format!("DROP ROLE IF EXISTS {role}")).ok();
            }
        }
    }
}

/// The URL of another database of the same server.
fn beside(url: &str, name: &str) -> String {
    let (address, options) = url.split_once('?').map_or((url, String::new()), |(a, o)| (a, format!("?{o}")));
    let start = address.find("://").map_or(0, |at| at + 3);
    let server = address[start..].find('/').map_or(address, |at| &address[..start + at]);
    format!("{server}/{name}{options}")
}

/// A session with a server.
#[derive(Debug)]
pub struct Session(PgConnection);

impl Session {
    /// Opens one.
    #[track_caller]
    pub(super) fn open(url: &str) -> Self {
        Self::try_open(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// Opens one, if the server lets us.
    pub(super) fn try_open(url: &str) -> sqlx::Result<Self> {
        RUNTIME.block_on(PgConnection::connect(url)).map(Self)
    }

    /// Runs statements.
    pub(super) fn execute(&mut self, sql: &str) -> sqlx::Result<()> {
        RUNTIME.block_on(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0)).map(drop)
    }

    /// The rows of a query, in the text format of the simple protocol.
    pub(super) fn rows(&mut self, sql: &str) -> sqlx::Result<Vec<Vec<String>>> {
        let rows = RUNTIME.block_on(sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.0))?;
        let text = |row: &sqlx::postgres::PgRow, column: usize| -> sqlx::Result<String> {
            let value = row.try_get_raw(column)?;
            let text = if value.is_null() { "NULL" } else { value.as_str().map_err(sqlx::Error::Decode)? };
            Ok(match (text, row.column(column).type_info().name()) {
                ("t", "BOOL") => "true".to_owned(),
                ("f", "BOOL") => "false".to_owned(),
                (text, _) => text.to_owned(),
            })
        };
        rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect()).collect()
    }

    /// Inserts a JSON list of events.
    pub(super) fn insert(&mut self, list: &str) -> sqlx::Result<()> {
        RUNTIME.block_on(sqlx::query(INSERT).bind(list).execute(&mut self.0)).map(drop)
    }
}

use sqlx::{Column as _, TypeInfo as _};

/// Inserts a JSON list of events and raises the heads of their aggregates.
const INSERT: &str = "
    WITH list AS (SELECT value, key FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS list (value, key)),
    inserted AS (
        INSERT INTO events (event_id, bounded_context, aggregate_type, aggregate_id, event_type, payload, created_at,
                            aggregate_version, metadata)
        SELECT (value->>'id')::uuid, value->>'context', value->>'type', value->>'aggregate', value->>'event',
               convert_to(value->>'payload', 'UTF8'), coalesce((value->>'at')::timestamptz, now()),
               (SELECT coalesce(max(aggregate_version), 0) FROM events
                WHERE bounded_context = value->>'context' AND aggregate_type = value->>'type'
                  AND aggregate_id = value->>'aggregate')
               + row_number() OVER (PARTITION BY value->>'context', value->>'type', value->>'aggregate' ORDER BY key),
               '{}'
        FROM list ORDER BY key
        RETURNING bounded_context, aggregate_type, aggregate_id, aggregate_version)
    INSERT INTO aggregate_heads (bounded_context, aggregate_type, aggregate_id, aggregate_version)
    SELECT bounded_context, aggregate_type, aggregate_id, max(aggregate_version) FROM inserted GROUP BY 1, 2, 3
    ON CONFLICT (bounded_context, aggregate_type, aggregate_id)
    DO UPDATE SET aggregate_version = excluded.aggregate_version, updated_at = now()";
