//! No event is lost because its transaction commits late. On Postgres positions are handed out before the commit, so a
//! lower one can appear after a higher one was read.

use projectionist_tests::{Cluster, Connection, Kind, Setup, on_both_databases, wait_for, wait_until};
use serde_json::Value;

use crate::sabotage::{catch_up, follow, note, noted, notes};

/// A transaction that has inserted an event of this aggregate and is still open.
fn open_transaction(setup: &Setup, aggregate: &str) -> Connection {
    let mut connection = setup.connect();
    connection.execute("BEGIN");
    connection.insert(&[note(aggregate)]);
    connection
}

/// Waits until `host status` names who keeps the horizon back; gives the report.
fn blocked(setup: &Setup) -> Value {
    wait_for("the horizon is kept back", || {
        let output = setup.run(["status", "--json"]);
        let report: Value = serde_json::from_str(&output.success().stdout).expect("a report in JSON");
        let blocked = report["horizon"]["blockers"].as_array().is_some_and(|blockers| !blockers.is_empty());
        blocked.then_some(report)
    })
}

#[test]
fn an_event_that_commits_late_is_applied_once_and_in_its_place() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("first")]);
    let host = follow(&setup, &[]);
    wait_until("the first event is applied", || noted(&setup) == 1);
    let mut late = open_transaction(&setup, "late");
    setup.insert(&[note("early")]);
    let report = blocked(&setup);
    assert_eq!(report["horizon"]["position"], 1);
    assert_eq!(report["horizon"]["last_position"], 3);
    assert_eq!(noted(&setup), 1, "what stands behind the hole waits");
    late.execute("COMMIT");
    wait_until("both are applied", || noted(&setup) == 3);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(&setup), [["first", "1"], ["late", "1"], ["early", "1"]]);
    assert_eq!((setup.events_applied("saboteur"), setup.position("saboteur")), (3, 3));
}

#[test]
fn a_rollback_leaves_a_hole_and_the_host_goes_on() {
    let setup = Setup::new(Kind::Postgres);
    let host = follow(&setup, &[]);
    let mut never = open_transaction(&setup, "never");
    setup.insert(&[note("early")]);
    blocked(&setup);
    never.execute("ROLLBACK");
    wait_until("the event behind the hole is applied", || noted(&setup) == 1);
    host.terminate();
    host.wait().success();
    assert_eq!((notes(&setup), setup.position("saboteur")), (vec![vec!["early".to_owned(), "1".to_owned()]], 2));
}

#[test]
fn a_writer_whose_session_ends_leaves_a_hole_and_the_host_goes_on() {
    let setup = Setup::new(Kind::Postgres);
    let host = follow(&setup, &[]);
    // One is cut off by the server, the other one dies.
    let mut never = open_transaction(&setup, "never");
    let neither = open_transaction(&setup, "neither");
    setup.insert(&[note("early")]);
    blocked(&setup);
    let pid = never.value("SELECT pg_backend_pid()");
    setup.connect().execute(&format!("SELECT pg_terminate_backend({pid})"));
    drop(neither);
    wait_until("the event behind the holes is applied", || noted(&setup) == 1);
    host.terminate();
    host.wait().success();
    assert_eq!((notes(&setup), setup.position("saboteur")), (vec![vec!["early".to_owned(), "1".to_owned()]], 3));
}

on_both_databases!(what_a_writer_takes_back_to_a_savepoint_is_never_read);
fn what_a_writer_takes_back_to_a_savepoint_is_never_read(setup: &Setup) {
    let host = follow(setup, &[]);
    let mut writer = setup.connect();
    writer.execute("BEGIN");
    writer.insert(&[note("kept")]);
    writer.execute("SAVEPOINT here");
    writer.insert(&[note("taken back"), note("taken back")]);
    writer.execute("ROLLBACK TO SAVEPOINT here");
    writer.insert(&[note("kept, too")]);
    writer.execute("COMMIT");
    setup.insert(&[note("after")]);
    wait_until("what was kept is applied", || noted(setup) == 3);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(setup), [["kept", "1"], ["kept, too", "1"], ["after", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 3);
}

#[test]
fn a_writer_that_comes_later_does_not_keep_the_horizon_back() {
    let setup = Setup::new(Kind::Postgres);
    let mut host = follow(&setup, &[]);
    let mut late = open_transaction(&setup, "late");
    setup.insert(&[note("early")]);
    // Whom it waits for is settled by now; it names them after a while.
    host.wait_for_log("those above the horizon wait for it to end");
    let later = open_transaction(&setup, "later");
    late.execute("COMMIT");
    wait_until("both before the later one are applied", || noted(&setup) == 2);
    drop(later);
    host.terminate();
    host.wait().success();
}

#[test]
fn a_prepared_transaction_is_waited_for() {
    let setup = Setup::on(Cluster::shared());
    // Postgres prepares no transaction that has notified anybody.
    setup.run(["migrate", "--notify", "off"]).success();
    let host = follow(&setup, &[]);
    let mut late = open_transaction(&setup, "late");
    setup.insert(&[note("early")]);
    blocked(&setup);
    late.execute("PREPARE TRANSACTION 'two-phase'");
    drop(late);
    let report = blocked(&setup);
    assert_eq!(report["horizon"]["blockers"][0]["pid"], Value::Null);
    assert_eq!(report["horizon"]["blockers"][0]["application"], "prepared transaction two-phase");
    assert_eq!(noted(&setup), 0);
    setup.connect().execute("COMMIT PREPARED 'two-phase'");
    wait_until("both are applied", || noted(&setup) == 2);
    assert_eq!(notes(&setup), [["late", "1"], ["early", "1"]]);
    host.terminate();
    host.wait().success();
}

#[test]
fn whoever_keeps_the_horizon_back_is_named() {
    let setup = Setup::new(Kind::Postgres);
    let mut late = setup.connect();
    late.execute("SET application_name = 'billing'");
    let pid = late.value("SELECT pg_backend_pid()");
    late.execute("BEGIN");
    late.insert(&[note("late")]);
    late.execute("SELECT 'busy with something else'");
    setup.insert(&[note("early")]);
    let blocker = &blocked(&setup)["horizon"]["blockers"][0];
    assert_eq!(blocker["pid"].to_string(), pid);
    assert_eq!(blocker["application"], "billing");
    assert_eq!(blocker["query"], "SELECT 'busy with something else'");
    assert!(blocker["age_seconds"].as_f64().is_some_and(|age| age > 0.0), "{blocker}");
    let told = setup.run(["status"]).success().stdout.clone();
    assert!(told.contains("horizon 0 of 2: events above wait for writers"), "{told}");
    assert!(told.contains(&format!("pid {pid} (billing), open for ")), "{told}");
}

#[test]
fn catching_up_waits_for_writers_and_ends() {
    let setup = Setup::new(Kind::Postgres);
    let mut late = open_transaction(&setup, "late");
    setup.insert(&[note("early")]);
    let mut host = follow(&setup, &["--once"]);
    host.wait_for_log("partition claimed");
    blocked(&setup);
    late.execute("COMMIT");
    host.wait().success();
    assert_eq!(notes(&setup), [["late", "1"], ["early", "1"]]);
}

#[test]
fn a_sequence_that_hands_out_positions_in_blocks_is_refused() {
    let setup = Setup::new(Kind::Postgres);
    setup.connect().execute("ALTER SEQUENCE events_global_position_seq CACHE 32");
    let error = format!(
        "the events table of {} cannot be read without losing events: its sequence events_global_position_seq has \
         CACHE 32, so positions become visible out of order; run: ALTER SEQUENCE events_global_position_seq CACHE 1",
        setup.source().shown()
    );
    catch_up(&setup, &[]).failed(2, &error);
    setup.connect().execute("ALTER SEQUENCE events_global_position_seq CACHE 1");
    catch_up(&setup, &[]).success();
}

#[test]
fn events_behind_a_view_are_refused_because_it_does_not_show_who_writes() {
    let setup = Setup::new(Kind::Postgres);
    setup.connect().execute("ALTER TABLE events RENAME TO real_events");
    setup.connect().execute("CREATE VIEW events AS SELECT * FROM real_events");
    let error = format!(
        "the events table of {} cannot be read without losing events: it is not a table, and what stands behind it \
         does not show who is writing",
        setup.source().shown()
    );
    catch_up(&setup, &[]).failed(2, &error);
    setup.connect().execute("DROP VIEW events");
    setup.connect().execute("ALTER TABLE real_events RENAME TO events");
    catch_up(&setup, &[]).success();
}
