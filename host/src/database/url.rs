//! [`DatabaseUrl`]: what a user types to name a database.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::DatabaseError;

/// A database by kind: a Postgres server's, or an SQLite file.
#[derive(Clone, Debug)]
pub enum DatabaseUrl {
    /// `postgres://user:password@host:port/database?options`
    Postgres(Box<PgConnectOptions>),
    /// `sqlite://file.db`, relative to the working folder, or `sqlite:///absolute/file.db`
    Sqlite(PathBuf),
}

impl DatabaseUrl {
    /// The file of one projection's read model, beside the file of the URL: `projectionist.db` and
    /// `user_count` give `projectionist.user_count.db`.
    #[must_use]
    pub fn projection_file(base: &Path, projection: &str) -> PathBuf {
        let stem = base.file_stem().unwrap_or_default().to_string_lossy();
        let extension = base.extension().map_or_else(|| "db".into(), |e| e.to_string_lossy());
        base.with_file_name(format!("{stem}.{projection}.{extension}"))
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_a_url = |reason: &str| DatabaseError::NotAUrl { reason: reason.to_owned() };
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.ends_with('/') {
                return Err(not_a_url("it names no file"));
            }
            if path.contains(":memory:") || path.contains('?') {
                return Err(not_a_url("an SQLite database here is a file, without options"));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return match PgConnectOptions::from_str(text) {
                Ok(options) => Ok(Self::Postgres(Box::new(options))),
                // The error of sqlx quotes parts of the URL, never the password.
                Err(error) => Err(not_a_url(&error.to_string())),
            };
        }
        Err(not_a_url("it starts with neither `postgres://` nor `sqlite://`"))
    }
}

/// Without the password, so that it can stand in a log or an error.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(options) => {
                let host =
                    options.get_socket().map_or_else(|| options.get_host().into(), |path| path.display().to_string());
                let database = options.get_database().unwrap_or(options.get_username());
                write!(f, "postgres://{}@{host}:{}/{database}", options.get_username(), options.get_port())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url: DatabaseUrl = "postgres://me:secret@db.example:5433/shop?application_name=x".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://me@db.example:5433/shop");
        assert!(matches!(url, DatabaseUrl::Postgres(_)));
    }

    #[test]
    fn a_projection_has_a_file_of_its_own_beside_the_events() {
        let file = DatabaseUrl::projection_file(Path::new("data/projectionist.db"), "user_count");
        assert_eq!(file, Path::new("data/projectionist.user_count.db"));
    }

    #[test]
    fn what_is_no_url_is_refused_with_the_reason() {
        for (text, reason) in [
            ("mysql://x", "neither `postgres://` nor `sqlite://`"),
            ("sqlite://", "names no file"),
            ("sqlite://:memory:", "is a file"),
            ("postgres://u@h:port/d", "port"),
        ] {
            let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
