//! Functions, types and texts: whatever a statement could call besides what it says.

use projectionist_host::read_model::guard::{Guard, Phase};
use projectionist_host::read_model::value::Dialect;
use projectionist_tests::{Kind, Setup, on_both_databases};
use serde_json::Value;

use super::{attack, catch_up, contained, harmless, sql, survivors};

/// How each of these fails.
const REFUSED: &str = "(SQLSTATE 42";

/// Attacks by these statements, in turns through `execute` and through `query`.
fn attacks(statements: &[&str]) -> Vec<(Value, &'static str)> {
    let how = ["execute", "query"].into_iter().cycle();
    how.zip(statements).map(|(how, statement)| (sql(how, statement), REFUSED)).collect()
}

on_both_databases!(a_function_that_is_not_on_the_list_is_refused);
fn a_function_that_is_not_on_the_list_is_refused(setup: &Setup) {
    let statements: &[&str] = match setup.read_model().kind() {
        Kind::Postgres => &[
            // The session and the server.
            "SELECT set_config('search_path', 'projectionist', false)",
            "SELECT set_config('role', 'none', true)",
            "SELECT \"set_config\"('role', 'none', true)",
            "SELECT pg_catalog.set_config('role', 'none', true)",
            "SELECT current_setting('config_file')",
            "SELECT pg_read_file('postgresql.conf')",
            "SELECT * FROM pg_ls_dir('.')",
            "SELECT lo_import('/etc/passwd')",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
            "SELECT pg_reload_conf()",
            "SELECT nextval('events_global_position_seq')",
            "SELECT setval('events_global_position_seq', 1)",
            // Text that is run.
            "SELECT query_to_xml('SELECT * FROM projectionist.checkpoints', true, true, '')",
            "SELECT table_to_xml('events', true, true, '')",
            "SELECT database_to_xml(true, true, '')",
            "SELECT * FROM ts_stat('SELECT payload::text::tsvector FROM events')",
            "SELECT ts_rewrite('a'::tsquery, 'SELECT a, b FROM events')",
            "SELECT dblink_exec('dbname=postgres', 'DROP TABLE events')",
            // Locks and sleeps.
            "SELECT pg_sleep(60)",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_advisory_unlock_all()",
            "SELECT pg_notify('projectionist_events', 'x')",
            // What is not the same twice.
            "SELECT now()",
            "SELECT CURRENT_USER",
            "SELECT random()",
            "SELECT gen_random_uuid()",
            "INSERT INTO survivors VALUES (-1, 'x') RETURNING pg_backend_pid()",
            "INSERT INTO survivors VALUES (-1, 'x') ON CONFLICT (position) DO UPDATE SET note = version()",
            // Types.
            "SELECT 'events'::regclass",
            "SELECT 'set_config'::regproc",
            "SELECT 1 OPERATOR(pg_catalog.+) 1",
            // A function of a row, as if it was a column.
            "SELECT survivors.pg_typeof FROM survivors",
            "SELECT (survivors).pg_typeof FROM survivors",
            "INSERT INTO survivors VALUES (-1, 'x') ON CONFLICT (position) DO UPDATE SET note = excluded.\"record_out\"",
        ],
        Kind::Sqlite => &[
            "SELECT load_extension('/tmp/x.so')",
            "SELECT random()",
            "SELECT hex(randomblob(16))",
            "SELECT last_insert_rowid(), changes(), total_changes()",
            "SELECT sqlite_version()",
            "SELECT sqlite_compileoption_get(1)",
            "SELECT datetime('now')",
            "SELECT CURRENT_TIMESTAMP",
            "SELECT * FROM pragma_database_list",
            "SELECT * FROM pragma_table_info('_projectionist_checkpoints')",
            "SELECT * FROM dbstat",
            "SELECT fts3_tokenizer('x')",
            "INSERT INTO survivors VALUES (-1, 'x') RETURNING random()",
            // What ends the transaction, which is the host's.
            "INSERT OR ROLLBACK INTO survivors VALUES (1, 'x'), (1, 'x')",
            "UPDATE OR ROLLBACK survivors SET position = 1",
        ],
    };
    contained(setup, &attacks(statements), &[]);
}

on_both_databases!(a_text_that_can_be_read_in_two_ways_is_refused);
fn a_text_that_can_be_read_in_two_ways_is_refused(setup: &Setup) {
    let statements = [
        "SELECT 1; COMMIT",
        "SELECT 1 /* /* */ ; COMMIT; /* */ */",
        "SELECT 1 -- \rCOMMIT",
        "SELECT '\\'; COMMIT; --'' FROM nowhere",
        "SELECT E'\\'; COMMIT; --'",
        "SELECT $$'$$; COMMIT; --'",
        "SELECT U&'\\0027; COMMIT; --'",
        "SELECT U&\"!0070g_class\" UESCAPE '!' FROM survivors",
        "SELECT\u{a0}1;\u{a0}COMMIT",
        "SELECT \u{ff50}g_sleep(1)",
        "SELECT * FROM \u{17f}urvivors",
        "COMM/**/IT",
        "SELECT 1 WHERE 1 = 0x1FUNION SELECT 2",
    ];
    let mut attacks = attacks(&statements);
    attacks.push((sql("query", "SELECT 1\0; COMMIT"), "the statement holds U+0000 (SQLSTATE 22021)"));
    contained(setup, &attacks, &[]);
}

on_both_databases!(a_text_that_nests_deep_takes_neither_the_host_nor_its_memory);
fn a_text_that_nests_deep_takes_neither_the_host_nor_its_memory(setup: &Setup) {
    let texts = ["+1", "(", "NOT ", "lower(", " UNION SELECT 1", "CASE WHEN 1 THEN "];
    let attacks: Vec<_> = texts
        .iter()
        .map(|one| {
            (sql("query", &format!("SELECT a {}", one.repeat(60_000 / one.len()))), "the statement nests too deep")
        })
        .collect();
    contained(setup, &attacks, &[]);
}

on_both_databases!(what_stands_in_a_definition_is_judged_as_what_runs_at_once);
fn what_stands_in_a_definition_is_judged_as_what_runs_at_once(setup: &Setup) {
    setup.insert(&[harmless("a")]);
    let both = [
        "CREATE TABLE x (a TEXT DEFAULT CURRENT_TIMESTAMP)",
        "CREATE TABLE x (a TEXT CHECK (random() > 0))",
        "CREATE VIEW x AS SELECT random() AS a",
        "CREATE INDEX x ON survivors (position) WHERE random() > 0",
        "ALTER TABLE survivors RENAME TO _projectionist_x",
        "CREATE TEMPORARY TABLE x (a TEXT)",
    ];
    let more: &[&str] = match setup.read_model().kind() {
        Kind::Postgres => &[
            "CREATE TABLE x (a INT GENERATED ALWAYS AS (pg_backend_pid()) STORED)",
            "CREATE VIEW x AS SELECT * FROM projectionist.checkpoints",
            "CREATE TABLE x () INHERITS (events)",
            "CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TRIGGER x BEFORE INSERT ON survivors EXECUTE FUNCTION x()",
            "ALTER TABLE survivors OWNER TO postgres",
            "DROP TABLE survivors CASCADE",
        ],
        Kind::Sqlite => &[
            "CREATE TABLE x (a TEXT UNIQUE ON CONFLICT ROLLBACK)",
            "CREATE TRIGGER x AFTER INSERT ON survivors BEGIN SELECT RAISE(ROLLBACK, 'x'); END",
            "CREATE VIRTUAL TABLE x USING fts5(a)",
            "PRAGMA writable_schema = 1",
            "ATTACH 'x.db' AS x",
            "VACUUM INTO 'x.db'",
        ],
    };
    for statement in both.iter().chain(more) {
        let output = catch_up(setup, &["--set", &format!("evil.migrate={statement}")]);
        assert!(output.code != Some(0), "{statement} came through: {}", output.stderr);
        assert!(output.stderr.contains("SQLSTATE 42"), "{statement}: {}", output.stderr);
    }
    assert_eq!(setup.events_applied("counter"), 1, "the other projection is on its way");
    // And without them it is as good as any.
    catch_up(setup, &[]).success();
    assert_eq!(survivors(setup), ["harmless"]);
}

on_both_databases!(a_refusal_that_a_guest_keeps_to_itself_harms_nobody);
fn a_refusal_that_a_guest_keeps_to_itself_harms_nobody(setup: &Setup) {
    let mut swallowed = sql("execute", "SELECT random()");
    swallowed["swallow"] = true.into();
    setup.insert(&[attack("a", swallowed), harmless("a")]);
    catch_up(setup, &[]).success();
    let notes = survivors(setup);
    assert!(notes[0].starts_with("a projection may not call `random`"), "{notes:?}");
    assert_eq!(notes[1], "harmless");
}

#[test]
fn no_function_that_changes_by_itself_is_on_the_list_for_postgres() {
    let setup = Setup::new(Kind::Postgres);
    let volatile = "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
                    AND provolatile = 'v' AND prokind = 'f' ORDER BY 1";
    let names = setup.source().connect().rows(volatile);
    assert!(names.len() > 100, "{names:?}");
    let mut guard = Guard::new(Dialect::Postgres, "mine");
    for name in names.into_iter().flatten() {
        let call = format!("SELECT \"{name}\"(a, b) FROM t");
        assert!(guard.judge(&call, Phase::Rows).is_err(), "{name} changes by itself");
    }
}

#[test]
fn no_function_of_a_row_is_called_as_if_it_was_a_column_unless_it_may_be_called() {
    let setup = Setup::new(Kind::Postgres);
    // Whatever takes one argument that a row fits.
    let of_a_row = "SELECT DISTINCT proname FROM pg_proc
                    WHERE pronamespace = 'pg_catalog'::regnamespace AND pronargs > 0 AND pronargs - pronargdefaults <= 1
                      AND proargtypes[0] IN ('\"any\"'::regtype, 'record'::regtype, 'anyelement'::regtype, 'anynonarray'::regtype,
                                             'anycompatible'::regtype, 'anycompatiblenonarray'::regtype)
                    ORDER BY 1";
    let names = setup.source().connect().rows(of_a_row);
    assert!(names.len() > 20, "{names:?}");
    let mut guard = Guard::new(Dialect::Postgres, "mine");
    let mut refused = Vec::new();
    for name in names.into_iter().flatten() {
        let may_call = guard.judge(&format!("SELECT \"{name}\"(t) FROM t"), Phase::Rows).is_ok();
        for column in ["t", "(t)", "mine.t", "excluded"] {
            let named = guard.judge(&format!("SELECT {column}.\"{name}\" FROM t"), Phase::Rows);
            assert_eq!(named.is_ok(), may_call, "{column}.{name}: {named:?}");
        }
        // A column is named alone: that is never a function.
        assert!(guard.judge(&format!("SELECT \"{name}\" FROM t"), Phase::Rows).is_ok(), "{name}");
        refused.extend((!may_call).then_some(name));
    }
    assert!(refused.contains(&"pg_typeof".to_owned()) && refused.len() < 20, "{refused:?}");
}
