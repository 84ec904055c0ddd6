//! The attacks by SQL, for the tests of the guard, and for those of what stands beneath it.

/// How an attack ends where no guard has judged it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    /// In an error that contains this.
    Refused(&'static str),
    /// Either way; nothing outside has changed.
    Contained,
    /// It leaves the role, which is noticed; where there is no other to go to, it changes nothing.
    Left,
    /// It leaves the role and comes back within one statement, which only a login of its own holds: in this error.
    HeldByLogin(&'static str),
}
use Ends::{Contained, HeldByLogin, Left, Refused};

/// What Postgres says to a role that may not do something; the words differ with its version.
pub(super) const DENIED: &str = "(SQLSTATE 42501)";

/// What SQLite's authorizer says. The words stand for a function, a table, or neither.
const PROHIBITED: &str = "(SQLSTATE 42";

/// Functions that a projection may not call, on Postgres.
pub(super) const FUNCTIONS_POSTGRES: &[&str] = &[
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
];

/// The same, on SQLite.
pub(super) const FUNCTIONS_SQLITE: &[&str] = &[
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
];

/// Texts that two lexers read in two ways.
pub(super) const TEXTS: &[&str] = &[
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

/// Texts that nest until stack or memory end.
pub(super) fn nested() -> impl Iterator<Item = String> {
    let pieces = ["+1", "(", "NOT ", "lower(", " UNION SELECT 1", "CASE WHEN 1 THEN "];
    pieces.into_iter().map(|piece| format!("SELECT a {}", piece.repeat(60_000 / piece.len())))
}

/// Definitions that hide what they would run.
pub(super) const DEFINITIONS: &[&str] = &[
    "CREATE TABLE x (a TEXT DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE x (a TEXT CHECK (random() > 0))",
    "CREATE VIEW x AS SELECT random() AS a",
    "CREATE INDEX x ON survivors (position) WHERE random() > 0",
    "ALTER TABLE survivors RENAME TO _projectionist_x",
    "CREATE TEMPORARY TABLE x (a TEXT)",
];

/// The same, on Postgres alone.
pub(super) const DEFINITIONS_POSTGRES: &[&str] = &[
    "CREATE TABLE x (a INT GENERATED ALWAYS AS (pg_backend_pid()) STORED)",
    "CREATE VIEW x AS SELECT * FROM projectionist.checkpoints",
    "CREATE TABLE x () INHERITS (events)",
    "CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TRIGGER x BEFORE INSERT ON survivors EXECUTE FUNCTION x()",
    "ALTER TABLE survivors OWNER TO postgres",
    "DROP TABLE survivors CASCADE",
];

/// The same, on SQLite alone.
pub(super) const DEFINITIONS_SQLITE: &[&str] = &[
    "CREATE TABLE x (a TEXT UNIQUE ON CONFLICT ROLLBACK)",
    "CREATE TRIGGER x AFTER INSERT ON survivors BEGIN SELECT RAISE(ROLLBACK, 'x'); END",
    "CREATE VIRTUAL TABLE x USING fts5(a)",
    "PRAGMA writable_schema = 1",
    "ATTACH 'x.db' AS x",
    "VACUUM INTO 'x.db'",
];

/// What a projection would do on Postgres if it could, and how each ends when only the server's own privileges are there. The
/// attacker's schema is `evil`, and somebody else's `counter`; `{role}` is the attacker's role.
pub(super) const PAST_THE_GUARD_POSTGRES: &[(&str, Ends)] = &[
    // Reading what is not its own.
    ("SELECT * FROM public.events", Refused(DENIED)),
    ("SELECT * FROM projectionist.checkpoints", Refused(DENIED)),
    ("SELECT * FROM projectionist.dead_letters", Refused(DENIED)),
    ("SELECT * FROM public.projection_checkpoints", Refused(DENIED)),
    ("SELECT * FROM counter.counter", Refused(DENIED)),
    ("TABLE counter.counter", Refused(DENIED)),
    ("SELECT * FROM pg_authid", Refused(DENIED)),
    ("SELECT * FROM pg_shadow", Refused(DENIED)),
    ("SELECT pg_read_file('postgresql.conf')", Refused(DENIED)),
    ("SELECT pg_ls_dir('.')", Refused(DENIED)),
    ("SELECT * FROM pg_stat_file('postgresql.conf')", Refused(DENIED)),
    ("SELECT lo_import('/etc/passwd')", Refused(DENIED)),
    ("SELECT current_setting('config_file')", Refused(DENIED)),
    // Text that is run.
    ("SELECT query_to_xml('SELECT * FROM public.events', true, true, '')", Refused(DENIED)),
    ("SELECT table_to_xml('public.events', true, true, '')", Refused(DENIED)),
    ("SELECT * FROM ts_stat('SELECT to_tsvector(owner) FROM projectionist.checkpoints')", Refused(DENIED)),
    (
        "SELECT query_to_xml('UPDATE projectionist.checkpoints SET position = 0 RETURNING 1', true, true, '')",
        // Before or after its rights are looked at.
        Refused("(SQLSTATE "),
    ),
    ("DO $$ BEGIN EXECUTE 'DELETE FROM public.events'; END $$", Refused(DENIED)),
    // Writing it.
    ("DELETE FROM public.events", Refused(DENIED)),
    ("UPDATE projectionist.checkpoints SET position = 0", Refused(DENIED)),
    ("INSERT INTO projectionist.dead_letter_requests (projection) VALUES ('counter')", Refused(DENIED)),
    ("UPDATE counter.counter SET events = 0", Refused(DENIED)),
    ("WITH x AS (DELETE FROM counter.counter RETURNING 1) SELECT * FROM x", Refused(DENIED)),
    ("UPDATE pg_class SET relowner = 10", Refused(DENIED)),
    ("DELETE FROM pg_proc", Refused(DENIED)),
    ("SELECT * FROM counter.counter FOR UPDATE", Refused(DENIED)),
    ("SELECT nextval('public.events_global_position_seq')", Refused(DENIED)),
    ("SELECT setval('public.events_global_position_seq', 1)", Refused(DENIED)),
    ("TRUNCATE projectionist.checkpoints", Refused(DENIED)),
    ("LOCK TABLE public.events", Refused(DENIED)),
    ("COPY public.events TO STDOUT", Refused(DENIED)),
    ("COPY survivors TO '/tmp/projectionist-evil'", Refused(DENIED)),
    ("COPY survivors FROM PROGRAM 'id'", Refused(DENIED)),
    // Defining what outlives the statement.
    ("DROP TABLE counter.counter", Refused(DENIED)),
    ("DROP SCHEMA projectionist CASCADE", Refused(DENIED)),
    ("ALTER TABLE public.events DISABLE TRIGGER ALL", Refused(DENIED)),
    ("CREATE TABLE projectionist.x (a int)", Refused(DENIED)),
    ("CREATE TABLE counter.x (a int)", Refused(DENIED)),
    ("CREATE SCHEMA other", Refused(DENIED)),
    ("CREATE VIEW spy AS SELECT * FROM counter.counter; SELECT * FROM spy", Contained),
    ("CREATE TABLE x (a int REFERENCES projectionist.projections)", Refused(DENIED)),
    ("CREATE TABLE x () INHERITS (public.events)", Refused(DENIED)),
    (
        "CREATE TRIGGER x BEFORE INSERT ON public.events EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        Refused(DENIED),
    ),
    ("CREATE RULE x AS ON INSERT TO public.events DO INSTEAD NOTHING", Refused(DENIED)),
    ("CREATE EXTENSION dblink", Refused(DENIED)),
    ("CREATE EVENT TRIGGER x ON ddl_command_end EXECUTE FUNCTION public.x()", Refused(DENIED)),
    ("CREATE FUNCTION x() RETURNS int LANGUAGE c AS '/lib/x.so', 'x'", Refused(DENIED)),
    ("ALTER FUNCTION projectionist.notify_events() OWNER TO CURRENT_USER", Refused(DENIED)),
    ("GRANT ALL ON counter.counter TO PUBLIC", Refused(DENIED)),
    ("ALTER SCHEMA evil OWNER TO postgres", Refused(DENIED)),
    ("ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC", Refused(DENIED)),
    ("ALTER DATABASE postgres SET search_path = evil", Refused(DENIED)),
    ("ALTER SYSTEM SET fsync = off", Refused("(SQLSTATE 25001)")),
    ("REASSIGN OWNED BY postgres TO CURRENT_USER", Refused(DENIED)),
    ("SECURITY LABEL ON ROLE postgres IS 'x'", Refused("no security label providers")),
    // Roles.
    ("CREATE ROLE x SUPERUSER", Refused(DENIED)),
    ("ALTER ROLE CURRENT_USER SUPERUSER", Refused(DENIED)),
    ("ALTER ROLE CURRENT_USER LOGIN PASSWORD 'x'", Refused(DENIED)),
    ("GRANT postgres TO CURRENT_USER", Refused(DENIED)),
    ("SET SESSION AUTHORIZATION counter", Refused("does not exist")),
    // The transaction, which is the host's.
    ("COMMIT", Refused("ended the transaction")),
    ("ROLLBACK", Refused("ended the transaction")),
    ("COMMIT AND CHAIN", Refused("ended the transaction")),
    ("ABORT", Refused("ended the transaction")),
    ("DISCARD ALL", Refused("cannot run inside a transaction block")),
    ("SET LOCAL ROLE NONE", Left),
    ("RESET ROLE", Left),
    ("SET LOCAL ROLE postgres", Left),
    ("SELECT set_config('role', 'none', true)", Left),
    ("SET SESSION AUTHORIZATION DEFAULT", Left),
    // What a login of its own may call, and whatever it says there.
    ("SELECT * FROM projectionist.seals", Refused(DENIED)),
    ("SELECT * FROM projectionist.own_checkpoint('counter', 1, 0)", Refused(DENIED)),
    ("SELECT projectionist.own_letters('counter', 'default', 'Evil', 'a')", Refused(DENIED)),
    ("SELECT projectionist.check_login('evil')", Refused(DENIED)),
    ("SELECT projectionist.unseal('advance', '{}', '')", Refused(DENIED)),
    ("SELECT projectionist.advance('{}', NULL)", Refused(DENIED)),
    ("SELECT projectionist.set_version('{\"projection\": \"counter\", \"version\": 9}', sha256('x'))", Refused(DENIED)),
    ("CREATE FUNCTION projectionist.advance(a TEXT, b TEXT) RETURNS INT LANGUAGE sql AS 'SELECT 1'", Refused(DENIED)),
    ("ALTER FUNCTION projectionist.advance OWNER TO CURRENT_USER", Refused(DENIED)),
    ("ALTER ROLE CURRENT_USER LOGIN", Refused(DENIED)),
    ("ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'", Refused(DENIED)),
    // What is its own to break, and nobody else's.
    ("SET search_path = projectionist, public", Contained),
    ("SET LOCAL session_replication_role = replica", Refused(DENIED)),
    ("SELECT set_config('search_path', 'projectionist', false)", Contained),
    ("DELETE FROM survivors", Contained),
    ("CREATE TEMPORARY TABLE checkpoints (position bigint)", Contained),
    ("CREATE TEMPORARY VIEW pg_prepared_statements AS SELECT 1 AS a", Contained),
    ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()", Refused(DENIED)),
    ("SELECT pg_reload_conf()", Refused(DENIED)),
    ("SELECT pg_advisory_xact_lock(1)", Contained),
    ("SELECT pg_notify('projectionist_events', 'x')", Contained),
    ("LISTEN projectionist_events", Contained),
    (
        "DO $$ BEGIN
             CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN DELETE FROM public.events; RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON survivors DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION trap();
             INSERT INTO survivors VALUES (-7, 'trap');
         END $$",
        // At the end of the transaction, where the host is itself again: that is too late for it.
        Refused(DENIED),
    ),
    // Time and locks.
    ("SELECT pg_sleep(60)", Refused("(SQLSTATE 57014)")),
    ("DO $$ BEGIN LOOP NULL; END LOOP; END $$", Refused("(SQLSTATE 57014)")),
    ("SELECT pg_advisory_lock(1)", Contained),
    ("SELECT pg_advisory_unlock_all()", Contained),
    ("LOCK TABLE survivors IN ACCESS EXCLUSIVE MODE", Contained),
    ("LOCK TABLE projectionist.projections IN ACCESS SHARE MODE", Refused(DENIED)),
    // What the host and its driver have prepared.
    ("DEALLOCATE ALL", Contained),
    ("PREPARE sqlx_s_1 AS SELECT 1", Contained),
    ("EXECUTE projectionist_leave", Contained),
    // What outlives the transaction in the session.
    ("DECLARE late CURSOR WITH HOLD FOR SELECT query_to_xml('DELETE FROM public.events', true, true, '')", Contained),
    ("PREPARE TRANSACTION 'evil'", Refused("(SQLSTATE 55000)")),
    ("SELECT lo_create(0)", Contained),
    // Names, quoted and not, in other letters and with comments in them.
    ("SELECT * FROM \"public\".\"events\"", Refused(DENIED)),
    ("SELECT * FROM/**/public/**/./**/events", Refused(DENIED)),
    ("SELECT * FROM U&\"\\0070ublic\".events", Refused(DENIED)),
    ("SELECT E'\\x53' || (SELECT count(*) FROM public.events)", Refused(DENIED)),
    // One statement that leaves the role, acts, and comes back: what `role` does not hold.
    (
        "SELECT set_config('role', 'none', true), query_to_xml('SELECT * FROM public.events', true, true, ''),
             set_config('role', $me${role}$me$, true)",
        HeldByLogin(DENIED),
    ),
];

/// The same on SQLite, when only its authorizer is there, and a file of the attacker's own.
pub(super) const PAST_THE_GUARD_SQLITE: &[(&str, Ends)] = &[
    // The host's tables, and SQLite's own.
    ("SELECT * FROM _projectionist_checkpoints", Refused(PROHIBITED)),
    ("UPDATE _projectionist_checkpoints SET position = 0", Refused(PROHIBITED)),
    ("DELETE FROM _projectionist_projections", Refused(PROHIBITED)),
    ("WITH x AS (SELECT * FROM _projectionist_checkpoints) SELECT * FROM x", Refused(PROHIBITED)),
    ("INSERT INTO \"_PROJECTIONIST_dead_letters\" (projection) VALUES ('x')", Refused(PROHIBITED)),
    ("DROP TABLE _projectionist_checkpoints", Refused(PROHIBITED)),
    ("ALTER TABLE _projectionist_checkpoints RENAME TO mine", Refused(PROHIBITED)),
    ("CREATE INDEX mine ON _projectionist_checkpoints (position)", Refused(PROHIBITED)),
    ("SELECT sql FROM sqlite_master", Refused(PROHIBITED)),
    ("SELECT sql FROM sqlite_schema", Refused(PROHIBITED)),
    ("UPDATE sqlite_master SET sql = ''", Refused("(SQLSTATE 42")),
    ("PRAGMA writable_schema = 1", Refused(PROHIBITED)),
    ("PRAGMA journal_mode = DELETE", Refused(PROHIBITED)),
    ("SELECT * FROM pragma_database_list", Refused(PROHIBITED)),
    // Other files.
    ("ATTACH 'projectionist.counter.db' AS x", Refused(PROHIBITED)),
    ("ATTACH 'evil.db' AS x", Refused(PROHIBITED)),
    ("DETACH main", Refused(PROHIBITED)),
    ("VACUUM", Refused("(SQLSTATE 42")),
    ("VACUUM INTO 'evil.db'", Refused("(SQLSTATE 42")),
    ("SELECT load_extension('evil.so')", Refused(PROHIBITED)),
    // The transaction, which is the host's.
    ("COMMIT", Refused(PROHIBITED)),
    ("ROLLBACK", Refused(PROHIBITED)),
    ("END", Refused(PROHIBITED)),
    ("BEGIN", Refused(PROHIBITED)),
    ("SAVEPOINT one_event", Refused(PROHIBITED)),
    ("RELEASE one_event", Refused(PROHIBITED)),
    ("ROLLBACK TO one_event", Refused(PROHIBITED)),
    ("/* SELECT */ COMMIT", Refused(PROHIBITED)),
    ("INSERT OR ROLLBACK INTO survivors VALUES (-1, 'x'), (-1, 'x')", Refused("(SQLSTATE 23505)")),
    // What runs later, or is nobody's.
    ("CREATE TRIGGER x AFTER INSERT ON survivors BEGIN DELETE FROM survivors; END", Refused(PROHIBITED)),
    ("CREATE TEMP TABLE survivors (position INT, note TEXT)", Refused(PROHIBITED)),
    ("CREATE TEMP TRIGGER x AFTER INSERT ON survivors BEGIN DELETE FROM survivors; END", Refused(PROHIBITED)),
    ("CREATE VIRTUAL TABLE x USING fts5(a)", Refused(PROHIBITED)),
    ("ANALYZE", Refused(PROHIBITED)),
    // Time.
    (
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        Refused("(SQLSTATE 57014)"),
    ),
    // What is its own to break.
    ("DELETE FROM survivors", Contained),
    ("CREATE VIEW spy AS SELECT * FROM _projectionist_checkpoints", Contained),
    ("EXPLAIN DELETE FROM survivors", Contained),
];
