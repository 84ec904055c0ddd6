//! What is allowed and what is not.

use super::*;

/// The code of the verdict on both dialects, or `ok`.
fn verdict(sql: &str, phase: Phase) -> String {
    let one = |dialect| match Guard::new(dialect, "mine").judge(sql, phase) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code,
    };
    let (postgres, sqlite) = (one(Dialect::Postgres), one(Dialect::Sqlite));
    assert_eq!(postgres, sqlite, "{sql}");
    postgres
}

#[test]
fn rows_may_be_read_and_written() {
    for sql in [
        "SELECT a FROM t WHERE b = $1",
        "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = t.b + excluded.b",
        "UPDATE t SET a = $1 WHERE b = $2",
        "DELETE FROM t",
        "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
    ] {
        assert_eq!(verdict(sql, Phase::Rows), "ok", "{sql}");
    }
}

#[test]
fn tables_are_made_in_migrate_only() {
    let sql = "CREATE TABLE IF NOT EXISTS t (a TEXT PRIMARY KEY, b BIGINT NOT NULL)";
    assert_eq!(verdict(sql, Phase::Rows), "42501");
    assert_eq!(verdict(sql, Phase::Migrate), "ok");
}

#[test]
fn tables_of_others_are_neither_dropped_nor_tied_to_ones_own() {
    for sql in [
        "DROP TABLE projectionist.checkpoints",
        "DROP VIEW public.v",
        "DROP INDEX other.i",
        "CREATE TABLE t (a INT REFERENCES other.t (a))",
        "CREATE TABLE t (a INT, FOREIGN KEY (a) REFERENCES other.t (a))",
        "CREATE VIEW v AS SELECT * FROM other.t",
        "CREATE TEMPORARY TABLE t (a INT)",
    ] {
        assert_eq!(verdict(sql, Phase::Migrate), "42501", "{sql}");
    }
    let inherits = "CREATE TABLE t () INHERITS (public.events)";
    let judged = Guard::new(Dialect::Postgres, "mine").judge(inherits, Phase::Migrate);
    assert!(judged.is_err(), "a row of it would show among the events");
}

#[test]
fn a_table_that_a_crash_would_empty_is_refused() {
    // Its rows would go, and the checkpoint stay: every event in them would be lost without a word.
    for sql in [
        "CREATE UNLOGGED TABLE t (a INT)",
        "CREATE UNLOGGED TABLE t AS SELECT 1 AS a",
        "ALTER TABLE t SET UNLOGGED",
        "SELECT 1 AS a INTO UNLOGGED t",
        "SELECT 1 AS a INTO t",
    ] {
        let judged = Guard::new(Dialect::Postgres, "mine").judge(sql, Phase::Migrate);
        assert_eq!(judged.map(|_| sql).unwrap_err().code, "42501", "{sql}");
    }
}

#[test]
fn the_transaction_is_the_hosts() {
    for sql in ["COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT a", "SET search_path = x", "DROP SCHEMA mine", "VACUUM"] {
        assert_ne!(verdict(sql, Phase::Migrate), "ok", "{sql}");
    }
    assert_eq!(verdict("SELECT 1; COMMIT", Phase::Rows), "42601");
    assert_eq!(verdict("", Phase::Rows), "42601");
}

#[test]
fn a_rebuild_does_not_reach_the_live_tables() {
    let mut guard = Guard::new(Dialect::Postgres, "mine+rebuild");
    assert!(guard.judge("INSERT INTO t VALUES (1)", Phase::Rows).is_ok());
    let error = guard.judge("INSERT INTO mine.t VALUES (1)", Phase::Rows).unwrap_err();
    assert_eq!(error.code, "3F000");
    assert!(error.message.contains("write the name without its schema"), "{error}");
    assert_eq!(guard.judge("SELECT * FROM other.t", Phase::Rows).unwrap_err().code, "42501");
}

#[test]
fn other_schemas_and_the_hosts_tables_are_out_of_bounds() {
    for sql in [
        "SELECT * FROM projectionist.checkpoints",
        "DELETE FROM other.t",
        "INSERT INTO \"PROJECTIONIST\".checkpoints VALUES (1)",
        "UPDATE _projectionist_checkpoints SET position = 0",
        "SELECT * FROM t WHERE a IN (SELECT sql FROM sqlite_master)",
        "UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings'",
        "SELECT set_config('search_path', 'other', false)",
        "WITH x AS (TABLE other.secret) SELECT * FROM x",
    ] {
        assert_eq!(verdict(sql, Phase::Rows), "42501", "{sql}");
    }
}

/// What one dialect says: `ok`, or the error.
fn one(dialect: Dialect, sql: &str, phase: Phase) -> Result<(), SqlError> {
    Guard::new(dialect, "mine").judge(sql, phase).map(|_| ())
}

/// The message of a refusal.
#[track_caller]
fn refused(dialect: Dialect, sql: &str) -> String {
    let error = one(dialect, sql, Phase::Migrate).expect_err(sql);
    assert!(matches!(&*error.code, "42501" | "42601" | "54001"), "{sql}: {error}");
    error.message
}

#[test]
fn what_projections_need_is_allowed() {
    for sql in [
        "SELECT coalesce(max(upto), 0) AS upto FROM cured",
        "SELECT count(*), sum(a) FILTER (WHERE b > 0), row_number() OVER (PARTITION BY c ORDER BY d) FROM t GROUP BY c, d",
        "SELECT CASE WHEN a IS NULL THEN 'x''y' ELSE lower(b) || '\\' END FROM t -- a comment\n/* and another */",
        "SELECT CAST(a AS BIGINT), a + -1, (a - 1) * 2.5e-3, \"Größe\" FROM t WHERE b LIKE 'a%' AND c IN ($1, $2)",
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 10) SELECT count(*) FROM r",
        "INSERT INTO t (a, b) SELECT a, count(*) FROM u GROUP BY a ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING b",
        "UPDATE t SET a = u.a FROM u WHERE u.b = t.b",
        "DELETE FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a)",
        "SELECT a.x, b.y FROM t AS a LEFT JOIN u AS b ON a.x = b.x ORDER BY a.x DESC LIMIT 10 OFFSET 2;",
    ] {
        assert_eq!(verdict(sql, Phase::Rows), "ok", "{sql}");
    }
    for sql in [
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a TEXT NOT NULL DEFAULT 'x', b BIGINT CHECK (b > 0), UNIQUE (a, b))",
        "CREATE TABLE t AS SELECT 1 AS a",
        "CREATE UNIQUE INDEX i ON t (a, lower(b)) WHERE a IS NOT NULL",
        "CREATE VIEW v (a) AS SELECT a FROM t",
        "ALTER TABLE t ADD COLUMN c BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE t RENAME COLUMN a TO b",
        "DROP TABLE IF EXISTS t",
    ] {
        assert_eq!(verdict(sql, Phase::Migrate), "ok", "{sql}");
    }
}

#[test]
fn what_only_postgres_has_is_allowed_there() {
    for sql in [
        "SELECT a::timestamptz, b::numeric(10, 2), c -> 'd' ->> 'e', array_agg(f)::text[] FROM t",
        "SELECT * FROM unnest($1::text[], $2::bigint[]) AS u (a, b)",
        "SELECT date_trunc('day', a), extract(epoch FROM a), a AT TIME ZONE 'UTC', INTERVAL '1 day' FROM t",
        "SELECT * FROM generate_series(1, 10) AS g (n) CROSS JOIN LATERAL jsonb_each($1::jsonb) AS e",
        "SELECT ARRAY(SELECT a FROM t), ARRAY[1, 2][1], trim(both ' ' FROM b), substring(b FROM 1 FOR 2) FROM t",
        "SELECT a FROM t WHERE b @> $1::jsonb AND c = ANY($2) FOR UPDATE",
        "SELECT string_agg(a, ',' ORDER BY b) FROM t WHERE tag ~* 'x' COLLATE \"C\"",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = u.b WHEN NOT MATCHED THEN INSERT (a) VALUES (u.a)",
        "INSERT INTO mine.t SELECT * FROM MINE.u",
    ] {
        one(Dialect::Postgres, sql, Phase::Rows).expect(sql);
    }
    for sql in [
        "CREATE TABLE t (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, s BIGSERIAL, at TIMESTAMPTZ, n TEXT COLLATE \"C\")",
        "CREATE INDEX i ON t USING gin (a jsonb_path_ops)",
        "ALTER TABLE t ALTER COLUMN a TYPE numeric(12, 2) USING a::numeric",
        "CREATE OR REPLACE VIEW v AS SELECT 1 AS a",
    ] {
        one(Dialect::Postgres, sql, Phase::Migrate).expect(sql);
    }
    for sql in [
        "SELECT json_extract(a, '$.b'), a ->> '$.c', datetime(d, 'unixepoch') FROM t, json_each(t.a) WHERE e GLOB 'x*'",
        "INSERT OR REPLACE INTO t (a) VALUES ($1)",
        "SELECT user FROM t WHERE b COLLATE NOCASE = 'x'",
    ] {
        one(Dialect::Sqlite, sql, Phase::Rows).expect(sql);
    }
    let strict = "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a ANY) STRICT";
    one(Dialect::Sqlite, strict, Phase::Migrate).expect(strict);
}

#[test]
fn functions_that_are_not_on_the_list_are_refused_wherever_they_stand() {
    for sql in [
        "SELECT pg_sleep(10)",
        "SELECT PG_SLEEP(10)",
        "SELECT \"pg_sleep\"(10)",
        "SELECT pg_catalog.pg_sleep(10)",
        "SELECT mine.f(1)",
        "SELECT * FROM pg_ls_dir('/')",
        "SELECT * FROM t, LATERAL pg_read_file('x') AS f",
        "SELECT * FROM ROWS FROM (pg_ls_dir('/'))",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "SELECT ts_stat('SELECT 1')",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT 1')",
        "SELECT dblink('x', 'y')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT current_setting('x')",
        "SELECT nextval('other.s')",
        "SELECT 1 FROM t WHERE a = (SELECT max(b) FROM u WHERE pg_sleep(1) IS NULL)",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = pg_backend_pid()",
        "INSERT INTO t VALUES (1) RETURNING set_config('role', 'none', true)",
        "SELECT count(*) FILTER (WHERE pg_sleep(1) IS NULL) FROM t",
        "SELECT sum(a) OVER (ORDER BY random()) FROM t",
        "SELECT a FROM t ORDER BY random() LIMIT 1",
        "SELECT a FROM t GROUP BY gen_random_uuid()",
        "SELECT a FROM t LIMIT length(version())",
        "SELECT xmltable('x' PASSING 'y' COLUMNS z text PATH 'a')",
        "WITH x AS (DELETE FROM t RETURNING pg_sleep(1)) SELECT 1",
        "CREATE TABLE t (a INT DEFAULT pg_backend_pid())",
        "CREATE TABLE t (a INT CHECK (pg_sleep(1) IS NULL))",
        "CREATE TABLE t (a INT, b INT GENERATED ALWAYS AS (pg_backend_pid()) STORED)",
        "CREATE TABLE t (a INT, CHECK (pg_sleep(1) IS NULL))",
        "CREATE TABLE t AS SELECT pg_sleep(1)",
        "CREATE INDEX i ON t (pg_sleep(a))",
        "CREATE INDEX i ON t (a) WHERE pg_sleep(1) IS NULL",
        "CREATE VIEW v AS SELECT pg_sleep(1)",
        "ALTER TABLE t ALTER COLUMN a SET DEFAULT pg_backend_pid()",
        "ALTER TABLE t ALTER COLUMN a TYPE int USING pg_backend_pid()",
        "ALTER TABLE t ADD COLUMN b TIMESTAMPTZ DEFAULT now()",
        "ALTER TABLE t ADD CONSTRAINT c CHECK (pg_sleep(1) IS NULL)",
        "SELECT t.pg_typeof FROM t",
        "SELECT mine.t.PG_TYPEOF FROM t",
        "SELECT (t).pg_typeof FROM t",
        "SELECT ((t)).\"record_out\" FROM t",
        "SELECT a FROM t ORDER BY t.pg_column_size",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.pg_typeof",
        "INSERT INTO t VALUES (1) RETURNING t.pg_typeof",
        "CREATE VIEW v AS SELECT t.pg_typeof FROM t",
    ] {
        refused(Dialect::Postgres, sql);
    }
    for sql in [
        "SELECT load_extension('x')",
        "SELECT randomblob(4)",
        "SELECT random()",
        "SELECT changes()",
        "SELECT last_insert_rowid()",
        "SELECT sqlite_version()",
        "SELECT * FROM pragma_table_info('t')",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM dbstat",
        "SELECT date()",
        "SELECT strftime('%s')",
        "SELECT datetime('now', 'localtime')",
        "SELECT current_timestamp",
        "CREATE TABLE t (a TEXT DEFAULT CURRENT_TIMESTAMP)",
        "CREATE TABLE t (a TEXT DEFAULT (random()))",
    ] {
        refused(Dialect::Sqlite, sql);
    }
}

#[test]
fn a_refusal_says_which_function_and_what_to_do() {
    assert_eq!(
        refused(Dialect::Postgres, "SELECT now()"),
        "a projection may not call `now`: a projection is a function of its events: take the event's `created_at`"
    );
    assert_eq!(
        refused(Dialect::Postgres, "SELECT CURRENT_USER"),
        "a projection may not call `CURRENT_USER`: compute it in the projection, and pass it as a parameter"
    );
    assert_eq!(
        refused(Dialect::Postgres, "SELECT age(a) FROM t"),
        "`age` with 1 arguments reads the clock: a projection is a function of its events: take the event's `created_at`"
    );
    assert_eq!(refused(Dialect::Postgres, "SELECT 'events'::regclass"), "a projection may not use the type `REGCLASS`");
    assert_eq!(
        refused(Dialect::Postgres, "SELECT t.pg_typeof FROM t"),
        "a projection may not call `pg_typeof`, which is also a function of rows: name the column `pg_typeof` without its table"
    );
}

#[test]
fn a_column_that_is_called_as_a_function_is_named_as_a_column() {
    for sql in [
        "SELECT pg_typeof, record_out FROM t WHERE pg_typeof = 1",
        "UPDATE t SET pg_typeof = pg_typeof + 1",
        "INSERT INTO t (pg_typeof) VALUES (1) ON CONFLICT (pg_typeof) DO NOTHING",
        "SELECT s.kind FROM (SELECT pg_typeof AS kind FROM t) AS s",
        // What may be called may be called so, and is as often a column.
        "SELECT t.count, excluded.to_json, (t).quote_literal FROM t",
    ] {
        one(Dialect::Postgres, sql, Phase::Rows).unwrap();
    }
    one(Dialect::Sqlite, "SELECT t.pg_typeof FROM t", Phase::Rows).unwrap();
}

#[test]
fn the_clock_is_not_read_by_another_name() {
    for sql in [
        "SELECT CURRENT_TIMESTAMP",
        "SELECT CURRENT_TIMESTAMP(3)",
        "SELECT localtime",
        "SELECT current_date + 1",
        "SELECT 'now'::timestamptz",
        "SELECT CAST(('today') AS date)",
        "SELECT TIMESTAMP 'now'",
        "SELECT DATE ' Tomorrow'",
        "SELECT date_trunc('day', 'yesterday')",
    ] {
        refused(Dialect::Postgres, sql);
    }
}

#[test]
fn types_collations_and_operators_are_no_way_around() {
    for sql in [
        "SELECT 'pg_class'::regclass",
        "SELECT CAST('f' AS regproc)",
        "SELECT 'x'::regrole",
        "SELECT 'x'::\"regnamespace\"",
        "SELECT 'x'::pg_catalog.regclass",
        "SELECT 'x'::other.secret",
        "SELECT ARRAY['x']::regclass[]",
        "SELECT regclass 'x'",
        "SELECT 1::oid",
        "SELECT 'x'::xml",
        "SELECT 'a=>1'::aclitem",
        "SELECT a COLLATE other.\"C\" FROM t",
        "SELECT a COLLATE \"evil\" FROM t",
        "SELECT 1 OPERATOR(pg_catalog.+) 2",
        "SELECT 1 OPERATOR(other.+) 2",
        "CREATE TABLE t (a regclass)",
        "CREATE TABLE t (a other.secret)",
        "CREATE TABLE t (a TEXT COLLATE other.c)",
        "CREATE INDEX i ON t (a other.text_ops)",
        "ALTER TABLE t ADD COLUMN b other.secret",
        "ALTER TABLE t ALTER COLUMN a TYPE regclass",
        "SELECT * FROM jsonb_to_record('{}') AS t (a regclass)",
    ] {
        refused(Dialect::Postgres, sql);
    }
}

#[test]
fn statements_that_reach_outside_of_their_rows_are_refused() {
    for sql in [
        "COPY t TO '/tmp/x'",
        "COPY t FROM PROGRAM 'id'",
        "LOCK TABLE t",
        "CALL f()",
        "DO $$ BEGIN END $$",
        "EXPLAIN ANALYZE SELECT 1",
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "LISTEN x",
        "NOTIFY x",
        "SET ROLE other",
        "SET LOCAL ROLE NONE",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "GRANT ALL ON t TO PUBLIC",
        "TRUNCATE projectionist.checkpoints",
        "DISCARD ALL",
        "DEALLOCATE ALL",
        "EXECUTE projectionist_advance(1, 1, 1, '', 1)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER x BEFORE INSERT ON t EXECUTE FUNCTION f()",
        "CREATE SCHEMA x",
        "CREATE EXTENSION dblink",
        "CREATE TYPE x AS (a int)",
        "CREATE SEQUENCE s",
        "CREATE RULE r AS ON SELECT TO t DO INSTEAD SELECT 1",
        "ALTER TABLE t OWNER TO postgres",
        "ALTER TABLE t SET SCHEMA other",
        "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE t RENAME TO pg_x",
        "ALTER TABLE t INHERIT other.t",
        "ALTER INDEX i RENAME TO _projectionist_i",
        "CREATE TABLE pg_temp.t (a int)",
        "CREATE TABLE t (a int) TABLESPACE x",
        "CREATE TABLE t (a int) WITH (fillfactor = 10)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIEW v AS SELECT * FROM projectionist.checkpoints",
        "DROP TABLE t CASCADE",
        "ALTER TABLE t DROP COLUMN a CASCADE",
        "SELECT * FROM t TABLESAMPLE SYSTEM (10)",
        "SELECT * FROM t FOR UPDATE OF projectionist",
        "SELECT * FROM \"MINE\".t",
        "SELECT * FROM otherdb.mine.t",
        "UPDATE pg_class SET relowner = 10",
        "SELECT * FROM pg_shadow",
        "SELECT * FROM \"pg_class\"",
        "SELECT * FROM pg_temp.t",
        "SELECT * FROM information_schema.tables",
    ] {
        refused(Dialect::Postgres, sql);
    }
    for sql in [
        "ATTACH 'x' AS y",
        "DETACH y",
        "PRAGMA writable_schema = 1",
        "VACUUM INTO 'x'",
        "REINDEX",
        "ANALYZE",
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'x'); END",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
        "CREATE TEMP TABLE t (a)",
        "CREATE TABLE t (a PRIMARY KEY ON CONFLICT ROLLBACK)",
        "CREATE TABLE t (a UNIQUE ON CONFLICT ROLLBACK)",
        "CREATE TABLE t (a, UNIQUE (a) ON CONFLICT ROLLBACK)",
        "CREATE TABLE t (a NOT NULL ON CONFLICT ROLLBACK)",
        "INSERT OR ROLLBACK INTO t VALUES (1)",
        "UPDATE OR ROLLBACK t SET a = 1",
        "ALTER TABLE t RENAME TO _projectionist_x",
        "SELECT * FROM temp.t",
        "SELECT * FROM \"SQLITE_master\"",
    ] {
        refused(Dialect::Sqlite, sql);
    }
}

#[test]
fn a_text_that_can_be_read_in_two_ways_is_refused() {
    for sql in [
        "SELECT E'\\' || (SELECT 1) || '",
        "SELECT e'\\x41'",
        "SELECT U&'\\0041'",
        "SELECT U&\"t\\0061\" FROM t",
        "SELECT N'x'",
        "SELECT B'1', X'1F'",
        "SELECT $$ x $$",
        "SELECT $a$ x $a$",
        "SELECT 'a' 'b'",
        "SELECT 'a'\n'b'",
        "SELECT 1 /* a /* b */ , pg_sleep(1) /* */ */",
        "SELECT 1 /* not closed",
        "SELECT 'not closed",
        "SELECT 1 -- a\rb",
        "SELECT 1\r, 2",
        "SELECT\u{a0}1",
        "SELECT 1\u{2028}",
        "SELECT \u{feff}1",
        "SELECT 1\0",
        "SELECT 'a\0b'",
        "SELECT größe FROM t",
        "SELECT \u{212a}elvin FROM t",
        "SELECT 0x1F",
        "SELECT 1_000",
        "SELECT 1a",
        "SELECT $1a",
        "SELECT a$b FROM t",
        "SELECT \\d",
        "SELECT {fn now()}",
    ] {
        for dialect in [Dialect::Postgres, Dialect::Sqlite] {
            refused(dialect, sql);
        }
    }
    for sql in ["SELECT `a` FROM t", "SELECT [a] FROM t"] {
        refused(Dialect::Sqlite, sql);
    }
}

#[test]
fn a_text_that_nests_deep_is_refused_before_it_is_parsed() {
    let size = 64 << 10;
    let repeated = |one: &str| one.repeat(size / one.len());
    for sql in [
        format!("SELECT 1{}", repeated("+1")),
        format!("SELECT {}1", repeated("(")),
        format!("SELECT {}1", repeated("NOT ")),
        format!("SELECT {}1", repeated("- ")),
        format!("SELECT {}1", repeated("ARRAY[")),
        format!("SELECT 1{}", repeated(" UNION SELECT 1")),
        format!("SELECT a{}", repeated("[1]")),
        format!("SELECT a{}", repeated("::int")),
        format!("SELECT * FROM {}t", repeated("(")),
        format!("SELECT {}1", repeated("CASE WHEN 1 THEN ")),
        format!("SELECT a{} FROM t", repeated(".a")),
    ] {
        for dialect in [Dialect::Postgres, Dialect::Sqlite] {
            refused(dialect, &sql);
        }
    }
    let error = one(Dialect::Postgres, &format!("SELECT 1{}", repeated("+1")), Phase::Rows).unwrap_err();
    assert_eq!(error.code, "54001");
    assert_eq!(
        error.message,
        "the statement nests too deep: more than 2048 words and signs stand without a comma between them; split it"
    );
}

#[test]
fn what_nests_as_deep_as_it_may_is_judged_on_a_small_stack() {
    // Each would take the process with it, were the bound too high for the stack that a worker has.
    let judge = || {
        for sql in [
            format!("SELECT 1{}", "+1".repeat(1_000)),
            format!("SELECT a{}", "::int".repeat(600)),
            format!("SELECT 1{}", " UNION SELECT 1".repeat(650)),
            format!("SELECT {}1{}", "f(".repeat(40), ")".repeat(40)),
            format!("SELECT {}1{}", "lower((".repeat(20), "))".repeat(20)),
            format!("SELECT * FROM {}t{}", "(".repeat(40), ")".repeat(40)),
            format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(20), ")".repeat(20)),
            format!("SELECT {}1{}", "(SELECT ".repeat(40), ")".repeat(40)),
            format!("SELECT {}1{}", "ARRAY[".repeat(40), "]".repeat(40)),
            format!("SELECT {}1{}", "CASE WHEN 1 THEN ".repeat(400), " END".repeat(400)),
            format!("SELECT {}1", "NOT ".repeat(2_000)),
            format!("INSERT INTO t VALUES {}", vec!["($1, $2)"; 5_000].join(", ")),
            format!("SELECT * FROM t WHERE {}", vec!["(a = $1 AND b = $2)"; 900].join(" OR ")),
        ] {
            for dialect in [Dialect::Postgres, Dialect::Sqlite] {
                // Allowed or refused; it has to come back.
                one(dialect, &sql, Phase::Rows).ok();
            }
        }
    };
    std::thread::Builder::new().stack_size(16 << 20).spawn(judge).unwrap().join().unwrap();
}

#[test]
fn what_was_granted_is_read_and_nothing_else() {
    let grants = vec!["other.t".parse().unwrap()];
    let judge =
        |sql| Guard::new(Dialect::Postgres, "mine").granting(grants.clone()).judge(sql, Phase::Migrate).map(|_| ());
    for sql in ["SELECT * FROM other.t", "INSERT INTO a SELECT * FROM other.t", "UPDATE a SET b = t.b FROM other.t"] {
        judge(sql).expect(sql);
    }
    for sql in [
        "SELECT * FROM other.u",
        "SELECT * FROM \"Other\".t",
        "UPDATE other.t SET a = 1",
        "INSERT INTO other.t VALUES (1)",
        "DELETE FROM other.t",
        "MERGE INTO other.t USING a ON true WHEN MATCHED THEN DELETE",
        "WITH x AS (DELETE FROM other.t RETURNING 1) SELECT 1",
        "SELECT * FROM other.t FOR UPDATE",
        "SELECT * FROM (SELECT 1 FROM other.t) AS x FOR SHARE",
        "CREATE VIEW v AS SELECT * FROM other.t",
        "CREATE TABLE x AS SELECT * FROM other.t",
        "DROP TABLE other.t",
    ] {
        assert_eq!(judge(sql).expect_err(sql).code, "42501", "{sql}");
    }
}

#[test]
fn texts_without_end_fill_neither_the_numbers_nor_the_verdicts() {
    let long = "x".repeat(60_000);
    let (mut numbers, mut guard) = (Numbers::new(), Guard::new(Dialect::Postgres, "mine"));
    let mut given = std::collections::BTreeSet::new();
    for number in 0..400 {
        let sql = format!("SELECT {number} -- {long}");
        assert!(given.insert(numbers.of(&sql)), "a number is given once");
        assert_eq!(numbers.of(&sql), numbers.of(&sql), "as long as it is known");
        guard.judge(&sql, Phase::Rows).unwrap();
        let known: usize = numbers.known.keys().map(String::len).sum();
        assert!(known < NUMBERED + 2 * long.len(), "{known} bytes have numbers");
        let kept: usize = guard.verdicts.keys().map(String::len).sum();
        assert!(kept < KEPT_BYTES + 2 * long.len(), "{kept} bytes have verdicts");
    }
    // Small ones are bounded by how many there are.
    for number in 0..10_000 {
        guard.judge(&format!("SELECT {number}"), Phase::Rows).unwrap();
        assert!(guard.verdicts.len() <= KEPT);
    }
}
