//! [`Postgres`]: a server to connect to, and the bridge between our threads and sqlx's futures.
//!
//! Workers are threads (a guest computes; it must not hold up an async runtime), sqlx is async. So every
//! connection lives on the one runtime of the process, and a thread that needs it waits in
//! [`Postgres::block_on`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::runtime::Handle;

use super::{DatabaseError, DatabaseUrl};

/// How long a connection attempt may take before it counts as failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A Postgres database to connect to. Cheap to clone.
#[derive(Clone)]
pub struct Postgres {
    /// How to connect.
    options: Arc<PgConnectOptions>,
    /// What to call it in messages.
    name: String,
    /// Where its connections live.
    runtime: Handle,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").field(&self.name).finish()
    }
}

impl Postgres {
    /// The database of these options, with its connections on `runtime`.
    #[must_use]
    pub fn new(options: &PgConnectOptions, runtime: Handle) -> Self {
        let name = DatabaseUrl::Postgres(Box::new(options.clone())).to_string();
        let options = options.clone().disable_statement_logging();
        Self { options: Arc::new(options), name, runtime }
    }

    /// Its URL without the password.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits on this thread for what runs on the runtime. Never called from a thread of the runtime itself.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The runtime that the connections live on.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// One connection, under the application name that `pg_stat_activity` will show.
    ///
    /// # Errors
    /// When the server cannot be reached within ten seconds or does not let us in.
    pub async fn connect(&self, application: &str) -> Result<PgConnection, DatabaseError> {
        self.connect_with(PgConnectOptions::clone(&self.options).application_name(application)).await
    }

    /// As [`Postgres::connect`], as another role with its password.
    ///
    /// # Errors
    /// As [`Postgres::connect`].
    pub async fn connect_as(
        &self,
        role: &str,
        password: &str,
        application: &str,
    ) -> Result<PgConnection, DatabaseError> {
        let options = PgConnectOptions::clone(&self.options).username(role).password(password);
        self.connect_with(options.application_name(application).statement_cache_capacity(0)).await
    }

    /// One connection that will run what a projection says. The driver finds nothing in it under a name: a projection that
    /// got past the guard could prepare something else under the same one, and the host would run it. Whoever asks something
    /// here says `persistent(false)`, too: the driver gives names all the same, and forgets them.
    ///
    /// # Errors
    /// As [`Postgres::connect`].
    pub async fn connect_for_projections(&self, application: &str) -> Result<PgConnection, DatabaseError> {
        let options = PgConnectOptions::clone(&self.options).application_name(application);
        self.connect_with(options.statement_cache_capacity(0)).await
    }

    /// The line of `pg_hba.conf` that lets a role in here with its password.
    #[must_use]
    pub fn admission(&self, role: &str) -> String {
        let database = self.options.get_database().unwrap_or("all");
        let (kind, address) = match self.options.get_socket() {
            Some(_) => ("local", ""),
            None => ("host", "ADDRESS-OF-THIS-HOST/32 "),
        };
        format!("{kind} \"{database}\" \"{role}\" {address}scram-sha-256")
    }

    /// One connection.
    async fn connect_with(&self, options: PgConnectOptions) -> Result<PgConnection, DatabaseError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.connect_error(error)),
            Err(_) => Err(self.connect_error(sqlx::Error::PoolTimedOut)),
        }
    }

    /// A pool of at most `size` connections, each with these settings, of which one is tried at once so that errors
    /// come early.
    ///
    /// # Errors
    /// As [`Postgres::connect`].
    pub async fn pool(&self, application: &str, size: u32, settings: &'static str) -> Result<PgPool, DatabaseError> {
        self.connect(application).await?.close().await.ok();
        let options = PgConnectOptions::clone(&self.options).application_name(application);
        let pool = PgPoolOptions::new().max_connections(size).acquire_timeout(CONNECT_TIMEOUT);
        let settled = pool.after_connect(move |connection, _| {
            Box::pin(async move { sqlx::raw_sql(settings).execute(connection).await.map(drop) })
        });
        Ok(settled.connect_lazy_with(options))
    }

    /// An error of the host's own statement.
    #[must_use]
    pub fn error(&self, doing: &'static str, source: sqlx::Error) -> DatabaseError {
        DatabaseError::Postgres { database: self.name.clone(), doing, source }
    }

    /// Sorts what can go wrong while connecting.
    fn connect_error(&self, source: sqlx::Error) -> DatabaseError {
        let database = self.name.clone();
        if let sqlx::Error::Database(refusal) = &source {
            let message = refusal.message().to_owned();
            match refusal.code().as_deref() {
                Some("28000" | "28P01") => return DatabaseError::LoginRefused { database, message },
                Some("3D000") => return DatabaseError::NoSuchDatabase { database, message },
                _ => {}
            }
        }
        match &source {
            // What rustls says of a certificate comes as an error of reading.
            sqlx::Error::Io(error) if error.kind() != std::io::ErrorKind::InvalidData => {}
            sqlx::Error::Tls(_) | sqlx::Error::Io(_) => return DatabaseError::Tls { database, source },
            _ => {}
        }
        DatabaseError::Unreachable { database, source }
    }
}
