//! Which database, and whether it is one we can work with: URLs, connecting, schema versions.
//!
//! Source and read model are two roles (`DATABASE_URL`, `READ_MODEL_URL`) that the same kinds of database
//! can play, so what they share stands here: [`DatabaseUrl`] names one, [`postgres::Postgres`] and [`sqlite`]
//! open one, [`schema`] brings its tables up or says why it will not, [`notify`] the trigger that
//! wakes hosts, [`monthly`] lays events out by month ([`patience`] is how both change a table that is in use), and
//! [`DatabaseError`] is every way in which that fails, worded for whoever has to mend it.

pub mod error;
pub mod monthly;
pub mod notify;
mod patience;
pub mod postgres;
pub mod schema;
pub mod sqlite;
pub mod timestamptz;
pub mod url;

pub use error::DatabaseError;
pub use postgres::Postgres;
pub use timestamptz::Timestamptz;
pub use url::DatabaseUrl;
