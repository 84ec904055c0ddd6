//! Two databases, one behaviour: a test is a function of a [`Setup`](crate::Setup), and these macros make the
//! `#[test]`s of it.

/// Runs a test on SQLite and on Postgres: `on_both_databases!(name);` beside `fn name(setup: &Setup)`.
#[macro_export]
macro_rules! on_both_databases {
    ($test:ident) => {
        mod $test {
            #[test]
            fn sqlite() {
                super::$test(&$crate::Setup::new($crate::Kind::Sqlite));
            }

            #[test]
            fn postgres() {
                super::$test(&$crate::Setup::new($crate::Kind::Postgres));
            }
        }
    };
}

/// Runs a test with events and read models in every combination of databases: `on_all_combinations!(name);` beside
/// `fn name(setup: &Setup)`.
#[macro_export]
macro_rules! on_all_combinations {
    ($test:ident) => {
        mod $test {
            #[test]
            fn sqlite() {
                super::$test(&$crate::Setup::new($crate::Kind::Sqlite));
            }

            #[test]
            fn postgres() {
                super::$test(&$crate::Setup::new($crate::Kind::Postgres));
            }

            #[test]
            fn postgres_into_sqlite() {
                super::$test(&$crate::Setup::combined($crate::Kind::Postgres, $crate::Kind::Sqlite));
            }

            #[test]
            fn sqlite_into_postgres() {
                super::$test(&$crate::Setup::combined($crate::Kind::Sqlite, $crate::Kind::Postgres));
            }
        }
    };
}
