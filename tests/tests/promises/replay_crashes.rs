//! Whatever happens in the middle of a replay, nothing of it is half there, nobody else waits for it, and what was
//! asked is done in the end.

use projectionist_tests::{Kind, Setup, on_both_databases, on_both_databases_and_by_login, wait_until};
use serde_json::{Value, json};

use crate::dead_letters::{MENDED, bad, count, dlq, dlq_by_itself, reasons};
use crate::sabotage::{catch_up, follow, note, noted, notes, order};

/// An aggregate `a` whose replay takes long once its first events are applied, unless `hurry` is switched on.
fn parked(setup: &Setup, millions: u32) {
    let linger = order("a", json!({"do": "linger", "switch": "hurry", "millions": millions}));
    setup.insert(&[bad("a"), count("a"), linger, count("a"), count("b")]);
    catch_up(setup, &[]).success();
    assert_eq!((notes(setup), reasons(setup).len()), (vec![vec!["b".to_owned(), "0".to_owned()]], 4));
}

/// Ends the sessions that work on the partition; a server finds out late that its client has gone.
fn end_sessions(setup: &Setup) {
    if setup.read_model().kind() == Kind::Postgres {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'projectionist saboteur 0 of 1'";
        setup.connect().value(end);
        let there = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'projectionist saboteur 0 of 1'";
        wait_until("the session has ended", || setup.connect().value(there) == "0");
    }
}

/// That nothing has happened to [`parked`].
fn untouched(setup: &Setup) {
    assert_eq!(notes(setup), [["b", "0"]]);
    let letters = setup.dead_letters("saboteur");
    let letters: Vec<_> = letters.iter().map(|letter| (letter.position, &*letter.reason, letter.attempts)).collect();
    assert_eq!(letters, [(1, "poison", 1), (2, "behind", 0), (3, "behind", 0), (4, "behind", 0)]);
}

/// That [`parked`] is whole, each event applied once and in order.
fn whole(setup: &Setup) {
    assert_eq!(notes(setup), [["a", "1"], ["a", "2"], ["a", "3"], ["a", "4"], ["b", "0"]]);
    assert_eq!((setup.dead_letters("saboteur"), setup.events_applied("saboteur")), (vec![], 5));
}

/// Lets the next replay go through quickly.
fn hurry(setup: &Setup) {
    setup.read_model().connect_to("saboteur").execute("INSERT INTO switches VALUES ('hurry')");
}

on_both_databases_and_by_login!(a_worker_that_is_killed_in_the_middle_of_a_replay_leaves_nothing_of_it);
fn a_worker_that_is_killed_in_the_middle_of_a_replay_leaves_nothing_of_it(setup: &Setup) {
    parked(setup, 10_000);
    let mut host = follow(setup, &MENDED);
    dlq(setup, &["retry", "default/Saboteur/a", "--timeout", "0"]).success();
    host.wait_for_log("lingering");
    host.kill();
    end_sessions(setup);
    untouched(setup);
    hurry(setup);
    // What was asked is done by whoever comes.
    catch_up(setup, &MENDED).success();
    whole(setup);
}

on_both_databases!(a_command_that_is_killed_in_the_middle_of_a_replay_leaves_nothing_of_it);
fn a_command_that_is_killed_in_the_middle_of_a_replay_leaves_nothing_of_it(setup: &Setup) {
    parked(setup, 10_000);
    let saboteur = projectionist_tests::plugin("saboteur");
    let arguments = ["dlq", "retry", "default/Saboteur/a", "--plugin", &saboteur, "--set", "mended=yes"];
    let mut command = setup.start([&arguments[..], &["--log", "info"]].concat());
    command.wait_for_log("lingering");
    command.kill();
    end_sessions(setup);
    untouched(setup);
    hurry(setup);
    setup.run(arguments).success();
    whole(setup);
    // That has answered the first one, too.
    let table = setup.own_table("dead_letter_requests");
    let open = setup.rows("saboteur", &format!("SELECT id, outcome, applied FROM {table} ORDER BY id"));
    assert_eq!(open, [["1", "applied", "4"], ["2", "applied", "4"]]);
}

#[test]
fn a_connection_that_is_lost_in_the_middle_of_a_replay_is_made_again() {
    let setup = Setup::new(Kind::Postgres);
    parked(&setup, 10_000);
    let mut host = follow(&setup, &MENDED);
    dlq(&setup, &["retry", "default/Saboteur/a", "--timeout", "0"]).success();
    host.wait_for_log("lingering");
    hurry(&setup);
    end_session_of_worker(&setup);
    host.wait_for_log("will try again; nothing is lost");
    wait_until("the replay comes through", || noted(&setup) == 5);
    host.terminate();
    host.wait().success();
    whole(&setup);
}

/// As [`end_sessions`], where the next one may be there at once.
fn end_session_of_worker(setup: &Setup) {
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'projectionist saboteur 0 of 1'";
    assert_eq!(setup.connect().value(end), "1");
}

on_both_databases!(events_that_arrive_during_a_replay_come_behind_it);
fn events_that_arrive_during_a_replay_come_behind_it(setup: &Setup) {
    // Some seconds.
    parked(setup, if setup.read_model().kind() == Kind::Postgres { 60 } else { 4 });
    let mut host = follow(setup, &MENDED);
    dlq(setup, &["retry", "default/Saboteur/a", "--timeout", "0"]).success();
    host.wait_for_log("lingering");
    setup.insert(&[count("a"), count("b"), count("a")]);
    assert_eq!(reasons(setup).len(), 4, "the replay is under way");
    wait_until("all is applied", || noted(setup) == 8);
    host.terminate();
    host.wait().success();
    let replayed = [["a", "1"], ["a", "2"], ["a", "3"], ["a", "4"], ["b", "0"]];
    assert_eq!(notes(setup), [&replayed[..], &[["a", "5"], ["b", "6"], ["a", "7"]]].concat());
    assert_eq!(setup.dead_letters("saboteur"), []);
}

on_both_databases_and_by_login!(an_aggregate_stays_parked_in_order_through_a_takeover);
fn an_aggregate_stays_parked_in_order_through_a_takeover(setup: &Setup) {
    let first = follow(setup, &[]);
    setup.insert(&[bad("a"), count("a"), count("b")]);
    wait_until("it is parked", || noted(setup) == 1);
    let mut second = follow(setup, &MENDED);
    second.wait_for_log("standing by");
    first.kill();
    second.wait_for_log("partition claimed");
    setup.insert(&[count("a"), count("b")]);
    wait_until("others go on", || noted(setup) == 2);
    assert_eq!(reasons(setup).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2, 4]);
    dlq(setup, &["retry", "default/Saboteur/a"]).success();
    assert_eq!(notes(setup), [["a", "2"], ["a", "3"], ["b", "0"], ["a", "4"], ["b", "1"]]);
    second.terminate();
    second.wait().success();
}

on_both_databases!(a_replay_that_meets_a_broken_environment_waits_and_nobody_else_does);
fn a_replay_that_meets_a_broken_environment_waits_and_nobody_else_does(setup: &Setup) {
    let then = "INSERT INTO side VALUES (1)";
    setup.insert(&[order("a", json!({"do": "fail_unless", "setting": "mended", "then": then})), note("a")]);
    catch_up(setup, &[]).success();
    let before = setup.dead_letters("saboteur");
    let mut host = follow(setup, &MENDED);
    dlq(setup, &["retry", "default/Saboteur/a", "--timeout", "0"]).success();
    host.wait_for_log("a replay waits; nothing is lost");
    setup.insert(&[note("b"), note("a")]);
    wait_until("others go on", || noted(setup) == 1);
    assert_eq!(setup.dead_letters("saboteur")[..2], before, "no event is blamed");
    wait_until("whoever asked can see why", || {
        let list: Value = serde_json::from_str(&dlq(setup, &["list", "--json"]).success().stdout).unwrap();
        list["parked"][0]["request"]["message"].as_str().is_some_and(|message| message.contains("side"))
    });
    let mut administrator = setup.read_model().connect_to("saboteur");
    administrator.execute("CREATE TABLE side (number BIGINT)");
    if setup.read_model().kind() == Kind::Postgres {
        // A projection's statements run as its role, which has to own what it writes.
        let owner =
            "SELECT quote_ident(tableowner) FROM pg_tables WHERE (schemaname, tablename) = ('saboteur', 'notes')";
        let owner = administrator.value(owner);
        administrator.execute(&format!("ALTER TABLE side OWNER TO {owner}"));
    }
    wait_until("the replay comes through", || noted(setup) == 4);
    host.terminate();
    host.wait().success();
    assert_eq!(setup.dead_letters("saboteur"), []);
    // Where the command does it itself, it says so.
    setup.insert(&[bad("c"), order("c", json!({"do": "execute", "sql": "INSERT INTO other VALUES (1)"}))]);
    catch_up(setup, &[]).success();
    let output = dlq_by_itself(setup, &["retry", "default/Saboteur/c", "--set", "mended=yes"]);
    output.exited(1);
    let error = output.error();
    assert!(error.starts_with("saboteur: default/Saboteur/c: not done, request 2 stays queued: "), "{error}");
    assert!(error.contains("other"), "{error}");
}
