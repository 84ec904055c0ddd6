//! What holds where the guard does not: each attack is handed to the database as if the guard had let it through.
//!
//! There is no switch in the host that turns the guard off, since what is there can be thrown. These tests stand beneath it
//! instead: they claim the partition of a projection as a worker does, and give its store statements that no guard has
//! judged. With `--isolation role` all of them are held but a change of role, which is noticed before the commit; with
//! `--isolation login` that one, too.

use projectionist_host::database::DatabaseUrl;
use projectionist_host::event::Position;
use projectionist_host::partition::Partition;
use projectionist_host::processor::Priority;
use projectionist_host::read_model::ReadModel;
use projectionist_host::read_model::checkpoint::{Advance, Slot};
use projectionist_host::read_model::dead_letter::{DeadLetter, Reason};
use projectionist_host::read_model::guard::{Judged, Kind as Does};
use projectionist_host::read_model::isolation::Isolation;
use projectionist_host::read_model::store::{CommitError, Store};
use projectionist_host::read_model::value::{SqlError, Value};
use projectionist_host::source;
use projectionist_tests::{Cluster, Connection, Setup};

use super::{catch_up, harmless, survivors};

/// How an attack ends.
enum Ends {
    /// In an error that contains this.
    Refused(&'static str),
    /// Either way; nothing outside has changed.
    Contained,
    /// It leaves the role, which is noticed; where there is no other to go to, it changes nothing.
    Left,
}
use Ends::{Contained, Left, Refused};

/// The attacker's partition.
pub(super) struct Attacker {
    /// Beneath the guard.
    pub(super) store: Box<dyn Store>,
    /// Where its checkpoint stands.
    position: Position,
    /// Of the next statement.
    number: u32,
    /// Sees whether the session is there.
    pub(super) observer: Connection,
    /// Its connections live there.
    _runtime: tokio::runtime::Runtime,
}

impl Attacker {
    /// Claims the partition of the projection `evil`.
    pub(super) fn claim(setup: &Setup, isolation: Isolation) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url: DatabaseUrl = setup.read_model().url().parse().unwrap();
        let read_model = ReadModel::new(&url, runtime.handle());
        let slot = Slot { projection: "evil".to_owned(), partition: Partition::new(0, 1).unwrap() };
        let claim = read_model.claim(&slot, "attacker/1", Priority::Normal, isolation).unwrap();
        Self {
            store: claim.store,
            position: claim.position,
            number: 0,
            observer: setup.read_model().connect(),
            _runtime: runtime,
        }
    }

    /// Runs a statement that nobody has judged.
    pub(super) fn run(&mut self, does: Does, sql: &str) -> Result<(), SqlError> {
        self.number += 1;
        let judged = Judged { sql: sql.to_owned(), kind: does, number: self.number, multi_row: None };
        self.store.execute(&judged, vec![])?;
        self.store.send()
    }

    /// The first value that a query gives.
    pub(super) fn ask(&mut self, sql: &str) -> Result<Value, SqlError> {
        self.number += 1;
        let judged = Judged { sql: sql.to_owned(), kind: Does::Reading, number: self.number, multi_row: None };
        self.store.query(&judged, vec![]).map(|rowset| rowset.rows[0][0].clone())
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
    pub(super) fn end(self) {
        let pid =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^projectionist (evil|claims attacker/)'";
        let Self { store, mut observer, .. } = self;
        drop(store);
        projectionist_tests::wait_until("the session has ended", || observer.value(pid) == "0");
    }

    /// Commits where the checkpoint stands.
    pub(super) fn commit(&mut self) -> Result<(), CommitError> {
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
        // Before or after its rights are looked at.
        Refused("(SQLSTATE "),
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
    (Does::Definition, "SET LOCAL ROLE NONE", Left),
    (Does::Definition, "RESET ROLE", Left),
    // What a login of its own may call, and whatever it says there.
    (Does::Reading, "SELECT * FROM projectionist.seals", Refused(DENIED)),
    (Does::Reading, "SELECT * FROM projectionist.own_checkpoint('counter', 1, 0)", Refused(DENIED)),
    (Does::Reading, "SELECT projectionist.own_letters('counter', 'default', 'Evil', 'a')", Refused(DENIED)),
    (Does::Reading, "SELECT projectionist.check_login('evil')", Refused(DENIED)),
    (Does::Reading, "SELECT projectionist.unseal('advance', '{}', '')", Refused(DENIED)),
    (Does::Reading, "SELECT projectionist.advance('{}', NULL)", Refused(DENIED)),
    (
        Does::Reading,
        "SELECT projectionist.set_version('{\"projection\": \"counter\", \"version\": 9}', sha256('x'))",
        Refused(DENIED),
    ),
    (
        Does::Definition,
        "CREATE FUNCTION projectionist.advance(a TEXT, b TEXT) RETURNS INT LANGUAGE sql AS 'SELECT 1'",
        Refused(DENIED),
    ),
    (Does::Definition, "ALTER FUNCTION projectionist.advance OWNER TO CURRENT_USER", Refused(DENIED)),
    (Does::Definition, "ALTER ROLE CURRENT_USER LOGIN", Refused(DENIED)),
    (Does::Definition, "ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'", Refused(DENIED)),
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
    holds_every_attack(Isolation::Role);
}

#[test]
fn a_login_of_its_own_holds_what_the_guard_would_have_let_through() {
    holds_every_attack(Isolation::Login);
}

/// Tries every attack, each in a claim of its own.
#[track_caller]
fn holds_every_attack(isolation: Isolation) {
    // Roles belong to the server, and other tests make some.
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a"), harmless("b")]);
    catch_up(&setup, &[]).success();
    // What a login may use is given to it at the first claim.
    Attacker::claim(&setup, isolation).end();
    let before = outside(&setup);
    let mut wrong = Vec::new();
    for (does, sql, ends) in ATTACKS {
        let mut attacker = Attacker::claim(&setup, isolation);
        let result = attacker.attack(&[(*does, *sql)]);
        match (ends, result) {
            (Left, Ok(())) if isolation == Isolation::Login => {}
            (Left, Err(error)) if isolation == Isolation::Role && error.contains("left its role") => {}
            (Left, result) => wrong.push(format!("{sql}: {result:?}")),
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
    let mut attacker = Attacker::claim(&setup, Isolation::Role);
    let escape = (Does::Reading, "SELECT set_config('role', 'none', true)");
    let delete = (Does::Writing, "DELETE FROM public.events");
    let error = attacker.attack(&[escape, delete]).unwrap_err();
    assert!(error.contains("has left its role; nothing of it is kept"), "{error}");
    attacker.end();
    assert_eq!(outside(&setup), before);
}

#[test]
fn a_login_of_its_own_has_no_other_role_to_change_to() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    Attacker::claim(&setup, Isolation::Login).end();
    let before = outside(&setup);
    for escape in [
        "SELECT set_config('role', 'none', true)",
        "SELECT set_config('role', 'postgres', true)",
        "SELECT set_config('session_authorization', 'postgres', true)",
    ] {
        for then in ["DELETE FROM public.events", "UPDATE projectionist.checkpoints SET position = 0"] {
            let mut attacker = Attacker::claim(&setup, Isolation::Login);
            let error = attacker.attack(&[(Does::Reading, escape), (Does::Writing, then)]).unwrap_err();
            assert!(error.contains(DENIED), "{escape}; {then}: {error}");
            attacker.end();
        }
    }
    assert_eq!(outside(&setup), before);
}

#[test]
fn a_seal_that_a_projection_has_found_is_worth_nothing_more() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    Attacker::claim(&setup, Isolation::Login).end();
    let before = outside(&setup);
    let mut attacker = Attacker::claim(&setup, Isolation::Login);
    // A trigger that waits for the end of the transaction reads the message in which the checkpoint moves.
    attacker
        .attack(&[
            (Does::Definition, "CREATE TABLE found (message TEXT)"),
            (
                Does::Definition,
                "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS
                     'BEGIN INSERT INTO evil.found VALUES (current_query()); RETURN NULL; END'",
            ),
            (
                Does::Definition,
                "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON survivors DEFERRABLE INITIALLY DEFERRED
                     FOR EACH ROW EXECUTE FUNCTION look()",
            ),
            (Does::Writing, "INSERT INTO survivors VALUES (-7, 'look')"),
        ])
        .unwrap();
    attacker.store.begin().unwrap();
    let Value::Text(message) = attacker.ask("SELECT message FROM found LIMIT 1").unwrap() else { panic!("a text") };
    attacker.store.rollback().unwrap();
    let call =
        message.split(';').find(|part| part.contains("projectionist.advance(")).expect("the seal is in there").trim();
    // As it is, it would move the checkpoint from where it stands to where it stands, and was used.
    let error = attacker.attack(&[(Does::Reading, call)]).unwrap_err();
    assert!(error.contains("advance was sealed for a transaction that is not this one any more"), "{error}");
    // With another goal, or for another projection, it is no seal any more.
    for (from, to) in [("\"to\":", "\"to\":9"), ("\"evil\"", "\"counter\""), ("\"applied\":", "\"applied\":9")] {
        let forged = call.replace(from, to);
        assert_ne!(forged, call);
        let error = attacker.attack(&[(Does::Reading, &forged)]).unwrap_err();
        assert!(error.contains(DENIED), "{forged}: {error}");
    }
    attacker.end();
    // Under the next claim it is nothing at all.
    let mut attacker = Attacker::claim(&setup, Isolation::Login);
    let error = attacker.attack(&[(Does::Reading, call)]).unwrap_err();
    assert!(error.contains("the checkpoint is not where this claim has left it"), "{error}");
    attacker.end();
    assert_eq!(outside(&setup), before);
}

#[test]
fn a_dead_letter_cannot_be_taken_back_while_the_checkpoint_moves_past_its_event() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    setup.insert(&[harmless("b")]);
    let url: DatabaseUrl = setup.source().url().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let event = source::open(&url, runtime.handle()).unwrap().events_at(&[Position::from_sql(2)]).unwrap().remove(0);
    let letter = DeadLetter { event: &event, reason: Reason::Poison, error: "poison", attempts: 1 };
    let mut attacker = Attacker::claim(&setup, Isolation::Login);
    // The host gives up the event; what the projection runs then ends that transaction, and begins another.
    attacker.store.begin().unwrap();
    attacker.store.bury(&letter, "x").unwrap();
    for sql in ["ROLLBACK", "BEGIN"] {
        attacker.run(Does::Definition, sql).ok();
    }
    let past = Advance { to: event.position(), applied: 0, plugin_version: 1, plugin_digest: "x".into() };
    let error = attacker.store.commit(&past).unwrap_err().to_string();
    assert!(error.contains("advance was sealed for a transaction that is not this one any more"), "{error}");
    // Left alone, it is given up as it should be.
    attacker.store.begin().unwrap();
    attacker.store.bury(&letter, "x").unwrap();
    attacker.store.commit(&past).unwrap();
    attacker.end();
    assert_eq!(setup.dead_letters("evil").iter().map(|letter| letter.position).collect::<Vec<_>>(), [2]);
    assert_eq!(setup.position("evil"), 2);
}
