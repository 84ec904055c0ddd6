//! What holds where the guard does not: each attack is handed to the database as if the guard had let it through.
//!
//! There is no switch in the host that turns the guard off. These tests stand beneath it instead: they claim the partition
//! of a projection as a worker does, and give its store statements that no guard has judged.

use projectionist_host::database::DatabaseUrl;
use projectionist_host::event::Position;
use projectionist_host::partition::Partition;
use projectionist_host::processor::Priority;
use projectionist_host::read_model::ReadModel;
use projectionist_host::read_model::checkpoint::{Advance, Slot};
use projectionist_host::read_model::guard::{Judged, Kind as Does};
use projectionist_host::read_model::store::{CommitError, Store};
use projectionist_host::read_model::value::SqlError;
use projectionist_tests::{Cluster, Connection, Setup};

use super::{catch_up, harmless, survivors};

/// How an attack ends.
enum Ends {
    /// In an error that contains this.
    Refused(&'static str),
    /// Either way; nothing outside has changed.
    Contained,
}
use Ends::{Contained, Refused};

/// The attacker's partition.
struct Attacker {
    /// Beneath the guard.
    store: Box<dyn Store>,
    /// Where its checkpoint stands.
    position: Position,
    /// Of the next statement.
    number: u32,
    /// Sees whether the session is there.
    observer: Connection,
    /// Its connections live there.
    _runtime: tokio::runtime::Runtime,
}

impl Attacker {
    /// Claims the partition of the projection `evil`.
    fn claim(setup: &Setup) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url: DatabaseUrl = setup.read_model().url().parse().unwrap();
        let read_model = ReadModel::new(&url, runtime.handle());
        let slot = Slot { projection: "evil".to_owned(), partition: Partition::new(0, 1).unwrap() };
        let claim = read_model.claim(&slot, "attacker/1", Priority::Normal).unwrap();
        Self {
            store: claim.store,
            position: claim.position,
            number: 0,
            observer: setup.read_model().connect(),
            _runtime: runtime,
        }
    }

    /// Runs a statement that nobody has judged.
    fn run(&mut self, does: Does, sql: &str) -> Result<(), SqlError> {
        self.number += 1;
        let judged = Judged { sql: sql.to_owned(), kind: does, number: self.number, multi_row: None };
        self.store.execute(&judged, vec![])?;
        self.store.send()
    }

    /// Runs statements in a transaction, up to the first error, and commits.
    fn attack(&mut self, statements: &[(Does, &str)]) -> Result<(), String> {
        self.store.begin().map_err(|error| error.to_string())?;
        for (does, sql) in statements {
            if let Err(error) = self.run(*does, sql) {
                self.store.rollback().ok();
                return Err(error.to_string());
            }
        }
        self.commit().map_err(|error| error.to_string())
    }

    /// Ends its session, and waits until the server knows.
    fn end(self) {
        let pid = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'projectionist evil %'";
        let Self { store, mut observer, .. } = self;
        drop(store);
        projectionist_tests::wait_until("the session has ended", || observer.value(pid) == "0");
    }

    /// Commits where the checkpoint stands.
    fn commit(&mut self) -> Result<(), CommitError> {
        let advance = Advance { to: self.position, applied: 0, plugin_version: 1, plugin_digest: "x".into() };
        self.store.commit(&advance)
    }
}

/// All that an attacker could change outside of its own schema, as text.
fn outside(setup: &Setup) -> Vec<String> {
    let mut connection = setup.read_model().connect();
    let mut all = Vec::new();
    for sql in [
        "SELECT global_position, encode(payload, 'hex') FROM events ORDER BY 1",
        "SELECT * FROM aggregate_heads ORDER BY 1, 2, 3",
        "SELECT last_value FROM events_global_position_seq",
        "SELECT projection, total_partitions, partition_key, position, events_applied, term FROM projectionist.checkpoints
         ORDER BY 1, 2, 3",
        "SELECT projection, schema_version FROM projectionist.projections ORDER BY 1",
        "SELECT projection, global_position, reason FROM projectionist.dead_letters ORDER BY 1, 2",
        "SELECT projection, action FROM projectionist.dead_letter_requests ORDER BY id",
        "SELECT owner FROM projectionist.workers WHERE owner <> 'attacker/1' ORDER BY 1",
        "SELECT * FROM counter.counter ORDER BY 1",
        "SELECT rolname, rolsuper, rolcanlogin, rolcreaterole, rolinherit FROM pg_roles ORDER BY 1",
        "SELECT pg_get_userbyid(roleid), pg_get_userbyid(member) FROM pg_auth_members ORDER BY 1, 2",
        "SELECT nspname, pg_get_userbyid(nspowner), nspacl::text FROM pg_namespace
         WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY 1",
        "SELECT nspname, relname, relkind, pg_get_userbyid(relowner), relacl::text, reloptions::text, relhastriggers
         FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE nspname <> 'evil' AND nspname !~ '^pg_' ORDER BY 1, 2",
        "SELECT pronamespace::regnamespace, proname, pg_get_userbyid(proowner) FROM pg_proc
         WHERE pronamespace::regnamespace::text <> 'evil' ORDER BY pg_proc.oid",
        "SELECT extname FROM pg_extension ORDER BY 1",
        "SELECT setdatabase, setrole, setconfig::text FROM pg_db_role_setting ORDER BY 1, 2",
        "SELECT lomowner FROM pg_largeobject_metadata ORDER BY oid",
        "SELECT gid FROM pg_prepared_xacts ORDER BY 1",
        "SELECT locktype FROM pg_locks WHERE locktype = 'advisory' AND database =
             (SELECT oid FROM pg_database WHERE datname = current_database())",
    ] {
        all.push(format!("{sql}\n{:?}", connection.rows(sql)));
    }
    all
}

/// What Postgres says to a role that may not do something; the words differ with its version.
const DENIED: &str = "(SQLSTATE 42501)";

/// The attacks: what a projection would do if it could, and how each ends when only Postgres' own privileges are there.
const ATTACKS: &[(Does, &str, Ends)] = &[
    // Reading what is not its own.
    (Does::Reading, "SELECT * FROM public.events", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM projectionist.checkpoints", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM projectionist.dead_letters", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM public.projection_checkpoints", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM counter.counter", Refused(DENIED)),
    (Does::Reading, "TABLE counter.counter", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM pg_authid", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM pg_shadow", Refused(DENIED)),
    (Does::Reading, "SELECT pg_read_file('postgresql.conf')", Refused(DENIED)),
    (Does::Reading, "SELECT pg_ls_dir('.')", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM pg_stat_file('postgresql.conf')", Refused(DENIED)),
    (Does::Reading, "SELECT lo_import('/etc/passwd')", Refused(DENIED)),
    (Does::Reading, "SELECT current_setting('config_file')", Refused(DENIED)),
    // Text that is run.
    (Does::Reading, "SELECT query_to_xml('SELECT * FROM public.events', true, true, '')", Refused(DENIED)),
    (Does::Reading, "SELECT table_to_xml('public.events', true, true, '')", Refused(DENIED)),
    (
        Does::Reading,
        "SELECT * FROM ts_stat('SELECT to_tsvector(owner) FROM projectionist.checkpoints')",
        Refused(DENIED),
    ),
    (
        Does::Reading,
        "SELECT query_to_xml('UPDATE projectionist.checkpoints SET position = 0 RETURNING 1', true, true, '')",
        Refused(DENIED),
    ),
    (Does::Definition, "DO $$ BEGIN EXECUTE 'DELETE FROM public.events'; END $$", Refused(DENIED)),
    // Writing it.
    (Does::Writing, "DELETE FROM public.events", Refused(DENIED)),
    (Does::Writing, "UPDATE projectionist.checkpoints SET position = 0", Refused(DENIED)),
    (Does::Writing, "INSERT INTO projectionist.dead_letter_requests (projection) VALUES ('counter')", Refused(DENIED)),
    (Does::Writing, "UPDATE counter.counter SET events = 0", Refused(DENIED)),
    (Does::Writing, "WITH x AS (DELETE FROM counter.counter RETURNING 1) SELECT * FROM x", Refused(DENIED)),
    (Does::Writing, "UPDATE pg_class SET relowner = 10", Refused(DENIED)),
    (Does::Writing, "DELETE FROM pg_proc", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM counter.counter FOR UPDATE", Refused(DENIED)),
    (Does::Reading, "SELECT nextval('public.events_global_position_seq')", Refused(DENIED)),
    (Does::Reading, "SELECT setval('public.events_global_position_seq', 1)", Refused(DENIED)),
    (Does::Definition, "TRUNCATE projectionist.checkpoints", Refused(DENIED)),
    (Does::Definition, "LOCK TABLE public.events", Refused(DENIED)),
    (Does::Definition, "COPY public.events TO STDOUT", Refused(DENIED)),
    (Does::Definition, "COPY survivors TO '/tmp/projectionist-evil'", Refused(DENIED)),
    (Does::Definition, "COPY survivors FROM PROGRAM 'id'", Refused(DENIED)),
    // Defining what outlives the statement.
    (Does::Definition, "DROP TABLE counter.counter", Refused(DENIED)),
    (Does::Definition, "DROP SCHEMA projectionist CASCADE", Refused(DENIED)),
    (Does::Definition, "ALTER TABLE public.events DISABLE TRIGGER ALL", Refused(DENIED)),
    (Does::Definition, "CREATE TABLE projectionist.x (a int)", Refused(DENIED)),
    (Does::Definition, "CREATE TABLE counter.x (a int)", Refused(DENIED)),
    (Does::Definition, "CREATE SCHEMA other", Refused(DENIED)),
    (Does::Definition, "CREATE VIEW spy AS SELECT * FROM counter.counter; SELECT * FROM spy", Contained),
    (Does::Definition, "CREATE TABLE x (a int REFERENCES projectionist.projections)", Refused(DENIED)),
    (Does::Definition, "CREATE TABLE x () INHERITS (public.events)", Refused(DENIED)),
    (
        Does::Definition,
        "CREATE TRIGGER x BEFORE INSERT ON public.events EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        Refused(DENIED),
    ),
    (Does::Definition, "CREATE RULE x AS ON INSERT TO public.events DO INSTEAD NOTHING", Refused(DENIED)),
    (Does::Definition, "CREATE EXTENSION dblink", Refused(DENIED)),
    (Does::Definition, "CREATE EVENT TRIGGER x ON ddl_command_end EXECUTE FUNCTION public.x()", Refused(DENIED)),
    (Does::Definition, "CREATE FUNCTION x() RETURNS int LANGUAGE c AS '/lib/x.so', 'x'", Refused(DENIED)),
    (Does::Definition, "ALTER FUNCTION projectionist.notify_events() OWNER TO CURRENT_USER", Refused(DENIED)),
    (Does::Definition, "GRANT ALL ON counter.counter TO PUBLIC", Refused(DENIED)),
    (Does::Definition, "ALTER SCHEMA evil OWNER TO postgres", Refused(DENIED)),
    (Does::Definition, "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC", Refused(DENIED)),
    (Does::Definition, "ALTER DATABASE postgres SET search_path = evil", Refused(DENIED)),
    (Does::Definition, "ALTER SYSTEM SET fsync = off", Refused("(SQLSTATE 25001)")),
    (Does::Definition, "REASSIGN OWNED BY postgres TO CURRENT_USER", Refused(DENIED)),
    (Does::Definition, "SECURITY LABEL ON ROLE postgres IS 'x'", Refused("no security label providers")),
    // Roles.
    (Does::Definition, "CREATE ROLE x SUPERUSER", Refused(DENIED)),
    (Does::Definition, "ALTER ROLE CURRENT_USER SUPERUSER", Refused(DENIED)),
    (Does::Definition, "ALTER ROLE CURRENT_USER LOGIN PASSWORD 'x'", Refused(DENIED)),
    (Does::Definition, "GRANT postgres TO CURRENT_USER", Refused(DENIED)),
    (Does::Definition, "SET SESSION AUTHORIZATION counter", Refused("does not exist")),
    // The transaction, which is the host's.
    (Does::Definition, "COMMIT", Refused("ended the transaction")),
    (Does::Definition, "ROLLBACK", Refused("ended the transaction")),
    (Does::Definition, "COMMIT AND CHAIN", Refused("ended the transaction")),
    (Does::Definition, "ABORT", Refused("ended the transaction")),
    (Does::Definition, "DISCARD ALL", Refused("cannot run inside a transaction block")),
    (Does::Definition, "SET LOCAL ROLE NONE", Refused("left its role")),
    (Does::Definition, "RESET ROLE", Refused("left its role")),
    // What is its own to break, and nobody else's.
    (Does::Definition, "SET search_path = projectionist, public", Contained),
    (Does::Definition, "SET LOCAL session_replication_role = replica", Refused(DENIED)),
    (Does::Reading, "SELECT set_config('search_path', 'projectionist', false)", Contained),
    (Does::Writing, "DELETE FROM survivors", Contained),
    (Does::Definition, "CREATE TEMPORARY TABLE checkpoints (position bigint)", Contained),
    (Does::Definition, "CREATE TEMPORARY VIEW pg_prepared_statements AS SELECT 1 AS a", Contained),
    (
        Does::Reading,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        Refused(DENIED),
    ),
    (Does::Reading, "SELECT pg_reload_conf()", Refused(DENIED)),
    (Does::Reading, "SELECT pg_advisory_xact_lock(1)", Contained),
    (Does::Reading, "SELECT pg_notify('projectionist_events', 'x')", Contained),
    (Does::Definition, "LISTEN projectionist_events", Contained),
    (
        Does::Definition,
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
];

#[test]
fn a_role_of_its_own_holds_what_the_guard_would_have_let_through() {
    // Roles belong to the server, and other tests make some.
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a"), harmless("b")]);
    catch_up(&setup, &[]).success();
    let before = outside(&setup);
    let mut wrong = Vec::new();
    for (does, sql, ends) in ATTACKS {
        let mut attacker = Attacker::claim(&setup);
        let result = attacker.attack(&[(*does, *sql)]);
        match (ends, result) {
            (Refused(why), Err(error)) if error.contains(why) => {}
            (Refused(why), Err(error)) => wrong.push(format!("{sql}: {error} should contain {why}")),
            (Refused(_), Ok(())) => wrong.push(format!("{sql} came through")),
            (Contained, _) => {}
        }
        attacker.end();
        let after = outside(&setup);
        wrong.extend(
            before
                .iter()
                .zip(after)
                .filter(|(old, new)| *old != new)
                .map(|(old, new)| format!("{sql} has changed\n{old}\nto\n{new}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The host works on, with the attacker's projection, too.
    setup.insert(&[harmless("c")]);
    catch_up(&setup, &[]).success();
    assert_eq!(setup.events_applied("counter"), 3);
    assert!(survivors(&setup).contains(&"harmless".to_owned()));
}

#[test]
fn a_change_of_role_beneath_the_guard_is_noticed_before_the_commit() {
    // Roles belong to the server, and other tests make some.
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    let before = outside(&setup);
    let mut attacker = Attacker::claim(&setup);
    let escape = (Does::Reading, "SELECT set_config('role', 'none', true)");
    let delete = (Does::Writing, "DELETE FROM public.events");
    let error = attacker.attack(&[escape, delete]).unwrap_err();
    assert!(error.contains("has left its role; nothing of it is kept"), "{error}");
    attacker.end();
    assert_eq!(outside(&setup), before);
}
