//! What a projection that got past the guard could do to take longer than it may: its session's limits are settings, which it
//! could lift, and a cancellation can be caught. The host ends it, and works on.

use std::time::Duration;

use projectionist_host::read_model::guard::Kind as Does;
use projectionist_host::read_model::isolation::Isolation;
use projectionist_host::read_model::store::StatementLimits;
use projectionist_host::read_model::unit_of_work::SqlLimits;
use projectionist_host::read_model::value::Value;
use projectionist_tests::{Cluster, Setup, wait_until};

use super::sql_beneath::Attacker;
use super::{catch_up, harmless};

/// What it is told.
const ENDED: &str = "the statement took longer than 300ms, and the server did not end it: the host did (--max-statement-time) (SQLSTATE 57014)";

#[test]
fn what_lifts_its_own_limits_is_ended_by_the_host() {
    ends_what_takes_too_long(Isolation::Role);
}

#[test]
fn what_lifts_its_own_limits_is_ended_by_the_host_in_a_session_of_its_own() {
    ends_what_takes_too_long(Isolation::Login);
}

/// Tries it.
#[track_caller]
fn ends_what_takes_too_long(isolation: Isolation) {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[harmless("a")]);
    catch_up(&setup, &[]).success();
    let mut attacker = Attacker::claim(&setup, isolation);
    let limits = StatementLimits { time: Duration::from_millis(300), ..SqlLimits::default().statement };
    attacker.store.limit(limits).unwrap();
    // It is cancelled, and the session is as good as before.
    attacker.store.begin().unwrap();
    attacker.ask("SELECT set_config('statement_timeout', '0', false)").unwrap();
    let session = attacker.ask("SELECT pg_backend_pid()").unwrap();
    let error = attacker.ask("SELECT pg_sleep(3600)").unwrap_err();
    assert_eq!(error.to_string(), ENDED);
    attacker.store.rollback().unwrap();
    attacker.store.begin().unwrap();
    assert_eq!(attacker.ask("SELECT pg_backend_pid()").unwrap(), session);
    // It catches that, as only a function can: its process is ended.
    let stubborn =
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$";
    let error = attacker.run(Does::Definition, stubborn).unwrap_err();
    assert_eq!(error.to_string(), ENDED);
    attacker.store.rollback().ok();
    let Value::Int64(pid) = session else { panic!("a number: {session:?}") };
    let it = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    wait_until("it has ended", || attacker.observer.value(&it) == "0");
    // In the middle of a commit, where a trigger has waited for it: nothing is committed.
    attacker.store.begin().unwrap();
    for sql in [
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM set_config(''statement_timeout'', ''0'', true), pg_sleep(3600); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON survivors DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait()",
    ] {
        attacker.run(Does::Definition, sql).unwrap();
    }
    attacker.run(Does::Writing, "INSERT INTO survivors VALUES (-7, 'late')").unwrap();
    attacker.ask("SELECT set_config('statement_timeout', '0', false)").unwrap();
    let error = attacker.commit().unwrap_err();
    assert_eq!(error.to_string(), ENDED);
    assert_eq!(setup.rows("evil", "SELECT position FROM survivors"), [["1"]]);
    // Its next transaction is as good as any.
    attacker.store.begin().unwrap();
    attacker.ask("SELECT 1").unwrap();
    attacker.commit().unwrap();
    attacker.end();
}
