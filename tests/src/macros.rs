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

/// As [`on_both_databases!`], and on Postgres once more with projections that log in by themselves (`--isolation login`).
#[macro_export]
macro_rules! on_both_databases_and_by_login {
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
            fn postgres_by_login() {
                super::$test(&$crate::Setup::new($crate::Kind::Postgres).with_variable("ISOLATION", "login"));
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
