//! A parked aggregate comes back whole and in order, or stays parked as it was: retried or skipped, against a worker
//! that runs or one that does not. What an operator reads and types is in `dead_letter_tools`, and what goes wrong on
//! the way in `replay_crashes`.

use projectionist_tests::{
    Event, Kind, Output, Setup, event, on_both_databases, on_both_databases_and_by_login, plugin, wait_until,
};
use serde_json::json;

use crate::sabotage::{catch_up, follow, note, noted, notes, order};

/// What mends the projection.
pub(crate) const MENDED: [&str; 2] = ["--set", "mended=yes"];

/// An event that cannot be applied before the projection is mended.
pub(crate) fn bad(aggregate: &str) -> Event {
    order(aggregate, json!({"do": "fail_unless", "setting": "mended"}))
}

/// An event that notes how many notes there were before it: so the notes tell the order in which they came.
pub(crate) fn count(aggregate: &str) -> Event {
    order(aggregate, json!({"do": "note_count"}))
}

/// `host dlq …`
#[track_caller]
pub(crate) fn dlq(setup: &Setup, arguments: &[&str]) -> Output {
    setup.run([&["dlq"], arguments].concat())
}

/// As [`dlq`], carried out by the command itself.
#[track_caller]
pub(crate) fn dlq_by_itself(setup: &Setup, arguments: &[&str]) -> Output {
    let mut all = arguments.to_vec();
    let saboteur = plugin("saboteur");
    all.extend(["--plugin", &saboteur]);
    dlq(setup, &all)
}

/// Position and reason of each letter.
pub(crate) fn reasons(setup: &Setup) -> Vec<(u64, String)> {
    setup.dead_letters("saboteur").into_iter().map(|letter| (letter.position, letter.reason)).collect()
}

/// An aggregate `a` that is parked at its second event with two behind it, and `b`, which has gone on.
pub(crate) fn parked(setup: &Setup) {
    setup.insert(&[count("a"), bad("a"), count("b"), count("a"), count("b"), count("a")]);
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "0"], ["b", "1"], ["b", "2"]]);
}

on_both_databases_and_by_login!(retry_against_a_worker_that_runs_brings_the_aggregate_up_to_date);
fn retry_against_a_worker_that_runs_brings_the_aggregate_up_to_date(setup: &Setup) {
    parked(setup);
    let mut host = follow(setup, &MENDED);
    host.wait_for_log("partition claimed");
    let output = dlq(setup, &["retry", "default/Saboteur/a"]);
    assert_eq!(output.success().stdout, "saboteur: default/Saboteur/a: live again, 3 events applied\n");
    // The worker did it.
    host.wait_for_log("a parked aggregate is live again");
    // In order of position: each of the three came behind the one before it.
    assert_eq!(notes(setup), [["a", "0"], ["a", "3"], ["b", "1"], ["a", "4"], ["b", "2"], ["a", "5"]]);
    assert_eq!(setup.dead_letters("saboteur"), []);
    // And it is live.
    setup.insert(&[count("a")]);
    wait_until("its next event is applied", || noted(setup) == 7);
    host.terminate();
    host.wait().success();
    assert_eq!(setup.events_applied("saboteur"), 7);
    assert_eq!(setup.position("saboteur"), setup.last_position());
    assert_eq!(setup.dead_letters("saboteur"), []);
}

on_both_databases!(retry_where_no_worker_runs_is_done_by_the_command_itself);
fn retry_where_no_worker_runs_is_done_by_the_command_itself(setup: &Setup) {
    parked(setup);
    let before = setup.checkpoints("saboteur").remove(0);
    let output = dlq_by_itself(setup, &["retry", "default/Saboteur/a", "--set", "mended=yes"]);
    assert_eq!(output.success().stdout, "saboteur: default/Saboteur/a: live again, 3 events applied\n");
    assert_eq!(notes(setup), [["a", "0"], ["a", "3"], ["b", "1"], ["a", "4"], ["b", "2"], ["a", "5"]]);
    assert_eq!(setup.dead_letters("saboteur"), []);
    let after = setup.checkpoints("saboteur").remove(0);
    assert_eq!((after.position, after.epoch), (before.position, before.epoch + 1));
    assert_eq!(after.events_applied, before.events_applied + 3);
    assert!(after.owner.starts_with("projectionist dlq "), "{after:?}");
    // It has let go of the partition.
    setup.insert(&[count("a")]);
    catch_up(setup, &[]).success();
    assert_eq!(noted(setup), 7);
}

on_both_databases!(what_is_asked_while_nobody_runs_is_done_by_whoever_comes_next);
fn what_is_asked_while_nobody_runs_is_done_by_whoever_comes_next(setup: &Setup) {
    parked(setup);
    let error = "saboteur: default/Saboteur/a: nobody works on partition 0 of 1, request 1 is queued until somebody does\n\
                 hint: start a worker (host run), or do it now: host dlq retry default/Saboteur/a --plugin FILE";
    dlq(setup, &["retry", "default/Saboteur/a"]).failed(1, error);
    setup.insert(&[count("a")]);
    let output = catch_up(setup, &MENDED);
    assert!(output.success().stderr.contains("a parked aggregate is live again"), "{}", output.stderr);
    // The replay comes before the first batch, so that it is in order.
    let expected = [["a", "0"], ["a", "3"], ["b", "1"], ["a", "4"], ["b", "2"], ["a", "5"], ["a", "6"]];
    assert_eq!(notes(setup), expected);
    assert_eq!(setup.dead_letters("saboteur"), []);
}

on_both_databases!(a_worker_that_runs_is_never_pushed_aside);
fn a_worker_that_runs_is_never_pushed_aside(setup: &Setup) {
    parked(setup);
    let host = follow(setup, &MENDED);
    wait_until("it works", || setup.checkpoints("saboteur")[0].epoch == 2);
    // With the plugin that is not mended: had the command done it itself, it would have failed.
    dlq_by_itself(setup, &["retry", "default/Saboteur/a"]).success();
    assert_eq!((noted(setup), setup.checkpoints("saboteur")[0].epoch), (6, 2));
    host.terminate();
    host.wait().success();
}

on_both_databases!(all_parked_aggregates_of_all_partitions_come_back_at_once);
fn all_parked_aggregates_of_all_partitions_come_back_at_once(setup: &Setup) {
    let aggregates = ["a", "b", "c", "d", "e", "f"];
    let events: Vec<Event> = aggregates.iter().flat_map(|aggregate| [bad(aggregate), note(aggregate)]).collect();
    setup.insert(&events);
    catch_up(setup, &["--workers", "2"]).success();
    assert_eq!((noted(setup), setup.dead_letters("saboteur").len()), (0, 12));
    let applied: Vec<u64> = setup.checkpoints("saboteur").iter().map(|found| found.events_applied).collect();
    assert_eq!(applied, [0, 0]);
    let host = follow(setup, &[&MENDED[..], &["--workers", "2"]].concat());
    let output = dlq(setup, &["retry", "--all"]);
    assert_eq!(output.success().stdout.lines().count(), 6, "{}", output.stdout);
    assert_eq!((noted(setup), setup.dead_letters("saboteur")), (12, vec![]));
    host.terminate();
    host.wait().success();
    let applied: Vec<u64> = setup.checkpoints("saboteur").iter().map(|found| found.events_applied).collect();
    assert_eq!(applied, [6, 6], "both partitions worked");
    assert_eq!(dlq(setup, &["retry", "--all"]).success().stdout, "nothing is parked there\n");
}

on_both_databases_and_by_login!(what_is_parked_and_what_was_asked_survive_another_number_of_partitions);
fn what_is_parked_and_what_was_asked_survive_another_number_of_partitions(setup: &Setup) {
    let behind =
        |aggregate: &str| setup.dead_letters("saboteur").iter().filter(|l| l.aggregate_id == aggregate).count();
    setup.insert(&[bad("a"), count("a"), bad("b"), count("c")]);
    catch_up(setup, &[]).success();
    for workers in ["3", "2"] {
        setup.insert(&[count("a"), count("b"), count("c")]);
        catch_up(setup, &["--workers", workers]).success();
    }
    assert_eq!((behind("a"), behind("b"), noted(setup)), (4, 3, 3));
    dlq(setup, &["retry", "default/Saboteur/a", "--timeout", "0"]).success();
    catch_up(setup, &[&MENDED[..], &["--workers", "4"]].concat()).success();
    assert_eq!((behind("a"), behind("b"), noted(setup)), (0, 3, 7));
    let of_a = "SELECT note FROM notes WHERE aggregate = 'a' ORDER BY position";
    assert_eq!(setup.rows("saboteur", of_a), [["3"], ["4"], ["5"], ["6"]]);
    // Whoever does it itself finds the partition of now.
    dlq_by_itself(setup, &["retry", "--all", "--set", "mended=yes"]).success();
    assert_eq!((setup.dead_letters("saboteur"), noted(setup), setup.events_applied("saboteur")), (vec![], 10, 10));
    assert_eq!(setup.checkpoints("saboteur").len(), 4);
}

on_both_databases!(a_mended_plugin_that_is_taken_up_while_events_flow_can_be_retried_with);
fn a_mended_plugin_that_is_taken_up_while_events_flow_can_be_retried_with(setup: &Setup) {
    let deploy = |name: &str| {
        let beside = setup.file("new.wasm", std::fs::read(plugin(name)).unwrap());
        std::fs::rename(beside, setup.folder().join("counter.wasm")).unwrap();
    };
    deploy("counter_picky");
    setup.insert(&[event("Even", "Thing", "a"), event("Odd", "Thing", "a"), event("Even", "Thing", "a")]);
    let mut host = setup.start(["run", "--plugin", "counter.wasm", "--watch"]);
    host.wait_for_log("aggregate parked");
    deploy("counter");
    host.wait_for_log("the projection was replaced");
    setup.insert(&[event("Odd", "Thing", "b")]);
    wait_until("others go on", || setup.events_applied("counter") == 2);
    dlq(setup, &["retry", "default/Thing/a"]).success();
    assert_eq!(setup.sorted_rows("counter", "SELECT aggregate, events FROM counter"), [["a", "3"], ["b", "1"]]);
    assert_eq!(setup.dead_letters("counter"), []);
    host.terminate();
    host.wait().success();
}

on_both_databases!(a_retry_that_fails_changes_nothing_but_what_is_known_of_the_event);
fn a_retry_that_fails_changes_nothing_but_what_is_known_of_the_event(setup: &Setup) {
    setup.insert(&[note("a"), bad("a"), note("a"), order("a", json!({"do": "panic"})), note("a"), note("b")]);
    catch_up(setup, &[]).success();
    let host = follow(setup, &[]);
    // Not mended at all.
    let output = dlq(setup, &["retry", "default/Saboteur/a"]);
    let error = "saboteur: default/Saboteur/a: stays parked, event 2 failed: the projection failed: not mended: mended \
                 is not set\n\
                 hint: mend the projection and `host dlq retry default/Saboteur/a`, or give up on the event with `host \
                 dlq skip default/Saboteur/a`";
    output.failed(1, error);
    let letters = setup.dead_letters("saboteur");
    assert_eq!((&*letters[0].reason, letters[0].attempts), ("poison", 2), "{letters:?}");
    host.terminate();
    host.wait().success();
    // Mended for the first bad event, not for the second: nothing of the first is kept, and the second is the culprit.
    let output = dlq_by_itself(setup, &["retry", "default/Saboteur/a", "--set", "mended=yes"]);
    output.exited(1);
    assert!(output.error().contains("stays parked, event 4 failed: the projection trapped: "), "{}", output.error());
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 2);
    let letters = setup.dead_letters("saboteur");
    let told: Vec<_> = letters.iter().map(|letter| (letter.position, &*letter.reason, letter.attempts)).collect();
    assert_eq!(told, [(2, "behind", 3), (3, "behind", 0), (4, "poison", 1), (5, "behind", 0)]);
    assert!(letters[2].error.starts_with("the projection trapped: "), "{letters:?}");
    assert_eq!(letters[0].error, "it came through, and was rolled back with a later event that failed");
    // It is still parked, for whoever comes.
    setup.insert(&[note("a"), note("b")]);
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"], ["b", "2"]]);
    assert_eq!(setup.dead_letters("saboteur").len(), 5);
}

on_both_databases_and_by_login!(skipping_gives_up_one_event_and_replays_those_behind_it);
fn skipping_gives_up_one_event_and_replays_those_behind_it(setup: &Setup) {
    parked(setup);
    let host = follow(setup, &[]);
    let output = dlq(setup, &["skip", "default/Saboteur/a"]);
    let told = "saboteur: default/Saboteur/a: live again, event 2 is skipped, 2 events applied\n";
    assert_eq!(output.success().stdout, told);
    assert_eq!(notes(setup), [["a", "0"], ["b", "1"], ["a", "3"], ["b", "2"], ["a", "4"]]);
    assert_eq!(reasons(setup), [(2, "skipped".to_owned())]);
    assert!(setup.dead_letters("saboteur")[0].error.contains("not mended"), "what was wrong is kept");
    setup.insert(&[note("a")]);
    wait_until("its next event is applied", || noted(setup) == 6);
    host.terminate();
    host.wait().success();
}

on_both_databases!(one_skip_after_the_other_leads_to_the_end);
fn one_skip_after_the_other_leads_to_the_end(setup: &Setup) {
    setup.insert(&[bad("a"), note("a"), bad("a"), note("a"), note("b")]);
    catch_up(setup, &[]).success();
    let output = dlq_by_itself(setup, &["skip", "default/Saboteur/a"]);
    output.exited(1);
    let error = "saboteur: default/Saboteur/a: stays parked, event 1 is skipped, and behind it event 3 failed: the \
                 projection failed: not mended: mended is not set\nhint: ";
    assert!(output.error().starts_with(error), "{}", output.error());
    // The decision stands, the replay does not.
    let told =
        |reasons: &[&str]| -> Vec<(u64, String)> { (1..).zip(reasons.iter().map(|r| (*r).to_owned())).collect() };
    assert_eq!(reasons(setup), told(&["skipped", "behind", "poison", "behind"]));
    assert_eq!(notes(setup), [["b", "1"]]);
    let output = dlq_by_itself(setup, &["skip", "--position", "3"]);
    assert!(output.success().stdout.contains("event 3 is skipped, 2 events applied"), "{}", output.stdout);
    assert_eq!(notes(setup), [["a", "2"], ["a", "4"], ["b", "1"]]);
    assert_eq!(reasons(setup), [(1, "skipped".to_owned()), (3, "skipped".to_owned())]);
}

on_both_databases!(a_request_to_skip_never_gives_up_an_event_that_nobody_has_looked_at);
fn a_request_to_skip_never_gives_up_an_event_that_nobody_has_looked_at(setup: &Setup) {
    setup.insert(&[bad("a"), order("a", json!({"do": "panic"})), note("a")]);
    catch_up(setup, &[]).success();
    // Two people at once: both have seen event 1, and the first one's skip leaves event 2 behind.
    for request in ["1", "2"] {
        let output = dlq(setup, &["skip", "default/Saboteur/a", "--timeout", "0"]);
        assert!(output.success().stdout.contains(&format!("queued as request {request}")), "{}", output.stdout);
    }
    catch_up(setup, &[]).success();
    let reasons = reasons(setup);
    assert_eq!(reasons.iter().map(|(_, reason)| &**reason).collect::<Vec<_>>(), ["skipped", "poison", "behind"]);
    let table = setup.own_table("dead_letter_requests");
    let answers = setup.rows("saboteur", &format!("SELECT outcome, message FROM {table} ORDER BY id"));
    assert!(answers[0][1].starts_with("event 1 is skipped, and behind it event 2 failed: "), "{answers:?}");
    let message = "default/Saboteur/a is parked for event 2 now, not for 1: nothing was skipped";
    assert_eq!(answers[1], ["failed", message]);
}

on_both_databases!(constraints_that_are_checked_at_the_commit_name_the_event_that_breaks_them);
fn constraints_that_are_checked_at_the_commit_name_the_event_that_breaks_them(setup: &Setup) {
    let child =
        |name: &str| order("a", json!({"do": "execute", "sql": format!("INSERT INTO children VALUES ('{name}')")}));
    setup.insert(&[note("b")]);
    catch_up(setup, &[]).success();
    let mut connection = setup.read_model().connect_to("saboteur");
    connection.execute(
        "CREATE TABLE children (parent TEXT REFERENCES switches (name) DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO switches VALUES ('known')",
    );
    setup.insert(&[bad("a"), child("known"), child("nobody"), child("known")]);
    catch_up(setup, &[]).success();
    let output = dlq_by_itself(setup, &["retry", "default/Saboteur/a", "--set", "mended=yes"]);
    output.exited(1);
    assert!(output.error().contains("stays parked, event 4 failed: "), "{}", output.error());
    assert!(output.error().to_lowercase().contains("foreign key constraint"), "{}", output.error());
    connection.execute("INSERT INTO switches VALUES ('nobody')");
    dlq_by_itself(setup, &["retry", "default/Saboteur/a", "--set", "mended=yes"]).success();
    assert_eq!(connection.value("SELECT count(*) FROM children"), "3");
}

on_both_databases!(limits_count_for_each_event_of_a_replay);
fn limits_count_for_each_event_of_a_replay(setup: &Setup) {
    // 80 MiB in all, and an instance may have 64.
    let hoard = || order("a", json!({"do": "hoard", "mebibytes": 8}));
    setup.insert(&[bad("a")]);
    setup.insert(&(0..10).map(|_| hoard()).collect::<Vec<_>>());
    catch_up(setup, &[]).success();
    dlq_by_itself(setup, &["retry", "default/Saboteur/a", "--set", "mended=yes"]).success();
    assert_eq!(noted(setup), 11);
}

#[test]
fn events_and_read_models_in_two_kinds_of_database_are_replayed_too() {
    for (source, read_model) in [(Kind::Postgres, Kind::Sqlite), (Kind::Sqlite, Kind::Postgres)] {
        let setup = Setup::combined(source, read_model);
        parked(&setup);
        dlq_by_itself(&setup, &["retry", "--all", "--set", "mended=yes"]).success();
        assert_eq!(noted(&setup), 6);
        assert_eq!(setup.dead_letters("saboteur"), []);
    }
}
