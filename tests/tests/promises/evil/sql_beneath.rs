//! What holds where the guard does not, for attacks of several statements, and for those that need to know what the host
//! sends. That each single one is held is in `sql_unguarded`.
//!
//! These tests stand beneath the guard: they claim the partition of a projection as a worker does, and give its store
//! statements that nobody has judged.

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

use super::outside::outside;
use super::sql_attacks::DENIED;
use super::{catch_up, harmless};

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

/// What is outside of the attacker's schema, its own checkpoint included.
fn beside(setup: &Setup) -> Vec<String> {
    outside(setup, "counter", "^evil$", "^$")
}

#[test]
fn a_change_of_role_beneath_the_guard_is_noticed_before_the_commit() {
    // Roles belong to the server, and other tests make some.
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    let before = beside(&setup);
    let mut attacker = Attacker::claim(&setup, Isolation::Role);
    let escape = (Does::Reading, "SELECT set_config('role', 'none', true)");
    let delete = (Does::Writing, "DELETE FROM public.events");
    let error = attacker.attack(&[escape, delete]).unwrap_err();
    assert!(error.contains("has left its role; nothing of it is kept"), "{error}");
    attacker.end();
    assert_eq!(beside(&setup), before);
}

#[test]
fn a_login_of_its_own_has_no_other_role_to_change_to() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    Attacker::claim(&setup, Isolation::Login).end();
    let before = beside(&setup);
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
    assert_eq!(beside(&setup), before);
}

#[test]
fn a_seal_that_a_projection_has_found_is_worth_nothing_more() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    Attacker::claim(&setup, Isolation::Login).end();
    let before = beside(&setup);
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
    assert_eq!(beside(&setup), before);
}

#[test]
fn the_host_runs_nothing_that_was_prepared_under_a_name_of_its_drivers() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    for isolation in [Isolation::Role, Isolation::Login] {
        Attacker::claim(&setup, isolation).end();
        let before = beside(&setup);
        let mut attacker = Attacker::claim(&setup, isolation);
        // All that the host asks in such a session.
        let ask = |attacker: &mut Attacker| {
            attacker.store.verify().unwrap();
            assert!(!attacker.store.is_paused().unwrap());
            attacker.store.begin().unwrap();
            assert_eq!(attacker.store.schema_version().unwrap().0, 1);
            attacker.store.rollback().unwrap();
        };
        ask(&mut attacker);
        attacker.store.begin().unwrap();
        let taken = "SELECT coalesce(string_agg(name, ' '), '') FROM pg_prepared_statements WHERE name ~ '^sqlx'";
        assert_eq!(attacker.ask(taken).unwrap(), Value::Text(String::new()), "names that could be taken");
        // It is not looked at what it may do until it is run.
        for number in 0..64 {
            attacker.run(Does::Definition, &format!("PREPARE sqlx_s_{number} AS DELETE FROM public.events")).unwrap();
        }
        attacker.commit().unwrap();
        ask(&mut attacker);
        attacker.attack(&[(Does::Writing, "UPDATE survivors SET note = 'after' WHERE position < 0")]).unwrap();
        attacker.end();
        assert_eq!(beside(&setup), before);
    }
}

#[test]
fn a_cursor_that_is_to_outlive_its_transaction_runs_nothing_as_the_host() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    for isolation in [Isolation::Role, Isolation::Login] {
        Attacker::claim(&setup, isolation).end();
        let before = beside(&setup);
        let mut attacker = Attacker::claim(&setup, isolation);
        // The server reads it to its end when the transaction commits, as whoever is there then.
        attacker
            .attack(&[
                (
                    Does::Definition,
                    "CREATE OR REPLACE FUNCTION loot() RETURNS INT LANGUAGE plpgsql AS
                         'BEGIN DELETE FROM public.events; RETURN 1; END'",
                ),
                (Does::Definition, "DECLARE late CURSOR WITH HOLD FOR SELECT evil.loot()"),
            ])
            .unwrap();
        attacker.end();
        assert_eq!(beside(&setup), before);
    }
}

/// Calls a function as the login of `evil`, with a seal that was made with the key on record.
fn call_sealed(setup: &Setup, function: &str, said: &serde_json::Value) -> Result<Vec<Vec<String>>, String> {
    let said = said.to_string();
    let mut connection = setup.read_model().connect();
    let seal = connection.value(&format!(
        "SELECT encode(sha256(outer_key || sha256(inner_key || convert_to('{function} {said}', 'UTF8'))), 'hex')
         FROM projectionist.seals WHERE projection = 'evil'"
    ));
    let role = connection.value("SELECT 'evil@' || oid FROM pg_database WHERE datname = current_database()");
    connection.execute(&format!("SET SESSION AUTHORIZATION \"{role}\""));
    connection.try_rows(&format!("SELECT projectionist.{function}('{said}', '\\x{seal}')"))
}

#[test]
fn a_key_that_has_outlived_its_claim_opens_nothing() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    Attacker::claim(&setup, Isolation::Login).end();
    let epoch = setup.checkpoints("evil")[0].epoch;
    let claim = serde_json::json!({"projection": "evil", "total": 1, "key": 0, "epoch": epoch});
    let with = |more: serde_json::Value| {
        let mut all = claim.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let letter = with(serde_json::json!({
        "position": 99, "bounded_context": "default", "aggregate_type": "Evil", "aggregate_id": "a",
        "aggregate_version": 1, "event_id": "8ece95ad-2113-5fd4-9d84-ad11ad3e8569", "event_type": "Attack",
        "reason": "poison", "error": "forged", "attempts": 1, "digest": "x",
    }));
    let version = with(serde_json::json!({"version": 7}));
    // As long as its claim counts, it is the key.
    call_sealed(&setup, "bury", &letter).unwrap();
    assert_eq!(setup.dead_letters("evil").len(), 1);
    setup.read_model().connect().execute("DELETE FROM projectionist.dead_letters");
    // Whoever claims next has no use for a key, and leaves this one where it is.
    catch_up(&setup, &["--isolation", "role"]).success();
    let left = format!("SELECT count(*) FROM projectionist.seals WHERE projection = 'evil' AND epoch = {epoch}");
    assert_eq!(setup.read_model().connect().value(&left), "1");
    assert!(setup.checkpoints("evil")[0].epoch > epoch);
    let before = beside(&setup);
    call_sealed(&setup, "bury", &letter).unwrap();
    call_sealed(&setup, "set_version", &version).unwrap();
    let locked = call_sealed(&setup, "lock_version", &claim).unwrap();
    assert_eq!(locked, [[""; 0]; 0], "it is told nothing");
    let advance = with(serde_json::json!(
        {"from": 0, "to": 9, "applied": 9, "version": 1, "digest": "x", "forgets": false}
    ));
    let error = call_sealed(&setup, "advance", &advance).unwrap_err();
    assert!(error.contains("the checkpoint is not where this claim has left it"), "{error}");
    assert_eq!(beside(&setup), before);
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
