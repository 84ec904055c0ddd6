//! A component that fails in its first batch has changed nothing: the last good one takes the batch, and goes on.

use projectionist_tests::{Host, Setup, event, on_both_databases, on_both_databases_and_by_login, plugin, wait_until};

use super::{bytes, count_one, deploy, start, touched};

/// Stores an event that some builds cannot count, and waits until it is counted.
fn count_odd(setup: &Setup, kind: &str, expected: u64) {
    setup.insert(&[event(kind, "Thing", "odd")]);
    wait_until("the event is counted", || setup.events_applied("counter") == expected);
}

/// What the tables have, and that nothing is parked.
#[track_caller]
fn counted(setup: &Setup) -> Vec<Vec<String>> {
    assert_eq!(setup.dead_letters("counter"), [], "nothing is parked");
    setup.rows("counter", "SELECT aggregate, events FROM counter ORDER BY aggregate")
}

/// Ends a host.
fn end(host: Host) {
    host.terminate();
    host.wait().success();
}

/// What the log says of a component that was given back.
const GIVEN_BACK: &str = "the new plugin failed in its first batch; the last good one goes on";

on_both_databases!(one_that_fails_in_its_first_batch_gives_way_to_the_last_good_one);
fn one_that_fails_in_its_first_batch_gives_way_to_the_last_good_one(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    deploy(setup, &bytes("counter_picky"));
    host.wait_for_log("the projection was replaced");
    count_odd(setup, "Odd", 2);
    assert!(
        host.log().contains(GIVEN_BACK) && host.log().contains("this counter knows no odd events"),
        "{}",
        host.log()
    );
    // It is not taken up again until it changes; and what has changed is.
    count_odd(setup, "Odd", 3);
    assert_eq!(counted(setup), [["a", "1"], ["odd", "2"]]);
    deploy(setup, &touched(bytes("counter")));
    wait_until("another one is taken up", || host.log().matches("the projection was replaced").count() == 2);
    count_odd(setup, "Odd", 4);
    assert_eq!(counted(setup), [["a", "1"], ["odd", "3"]]);
    end(host);
}

on_both_databases!(one_that_fails_after_it_has_changed_the_tables_leaves_nothing_that_the_last_good_one_trips_over);
fn one_that_fails_after_it_has_changed_the_tables_leaves_nothing_that_the_last_good_one_trips_over(setup: &Setup) {
    let mut host = start(setup, &["--set", "tally=on"]);
    count_one(setup, 1);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    // The new one writes a text into the column that it has made one, in the very words of the last good one, and traps.
    setup.insert(&[event("Thing", "Thing", "b"), event("Trap", "Thing", "c")]);
    wait_until("the events are counted", || setup.events_applied("counter") == 3);
    assert!(host.log().contains(GIVEN_BACK), "{}", host.log());
    assert_eq!(counted(setup), [["a", "1"], ["b", "1"], ["c", "1"]]);
    assert_eq!(setup.rows("counter", "SELECT n FROM tally"), [["1"], ["1"], ["1"]]);
    end(host);
}

on_both_databases!(one_that_has_proved_itself_is_treated_like_any_other);
fn one_that_has_proved_itself_is_treated_like_any_other(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    deploy(setup, &bytes("counter_picky"));
    host.wait_for_log("the projection was replaced");
    count_one(setup, 2);
    setup.insert(&[event("Odd", "Thing", "odd")]);
    wait_until("the event is parked", || setup.dead_letters("counter").len() == 1);
    assert!(!host.log().contains(GIVEN_BACK), "{}", host.log());
    end(host);
}

on_both_databases_and_by_login!(a_higher_version_that_traps_leaves_the_tables_as_they_were);
fn a_higher_version_that_traps_leaves_the_tables_as_they_were(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    count_odd(setup, "Trap", 2);
    assert!(
        host.log().contains("the projection's tables are brought up with its first batch from=1 to=2"),
        "{}",
        host.log()
    );
    assert!(host.log().contains(GIVEN_BACK), "{}", host.log());
    assert_eq!(counted(setup), [["a", "1"], ["odd", "1"]]);
    let columns = setup.read_model().connect_to("counter").try_rows("SELECT seen_by_v2 FROM counter");
    assert!(columns.is_err(), "its column is not there: {columns:?}");
    // A build of it that can, takes over; its migration runs once more.
    deploy(setup, &touched(bytes("counter_v2")));
    wait_until("another one is taken up", || host.log().matches("the projection was replaced").count() == 2);
    count_one(setup, 3);
    let rows = setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter ORDER BY aggregate");
    assert_eq!(rows, [["a", "2", "1"], ["odd", "1", "0"]]);
    end(host);
}

on_both_databases_and_by_login!(a_migration_that_fails_leaves_everything_to_the_last_good_one);
fn a_migration_that_fails_leaves_everything_to_the_last_good_one(setup: &Setup) {
    let mut host = start(setup, &["--set", "migrate_v2=fail"]);
    count_one(setup, 1);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    count_one(setup, 2);
    assert!(host.log().contains(GIVEN_BACK) && host.log().contains("told to fail in migrate"), "{}", host.log());
    count_one(setup, 3);
    assert_eq!(counted(setup), [["a", "3"]]);
    end(host);
    // Without it, the next one brings the tables up.
    setup.run(["run", "--once", "--plugin", &plugin("counter_v2")]).success();
    assert_eq!(setup.rows("counter", "SELECT events, seen_by_v2 FROM counter"), [["3", "0"]]);
}

on_both_databases!(where_another_worker_has_migrated_there_is_no_way_back);
fn where_another_worker_has_migrated_there_is_no_way_back(setup: &Setup) {
    let host = start(setup, &["--workers", "2"]);
    // `a` and `b` belong to different partitions of two.
    setup.insert(&[event("Anything", "Thing", "a"), event("Anything", "Thing", "b")]);
    wait_until("both are counted", || setup.events_applied("counter") == 2);
    let positions: Vec<_> = setup.checkpoints("counter").iter().map(|row| row.events_applied).collect();
    assert_eq!(positions, [1, 1], "each worker has counted one");
    deploy(setup, &bytes("counter_v2"));
    wait_until("both have replaced it", || host.log().matches("the projection was replaced").count() == 2);
    setup.insert(&[event("Anything", "Thing", "a")]);
    wait_until("one has migrated", || setup.events_applied("counter") == 3);
    setup.insert(&[event("Trap", "Thing", "b"), event("Anything", "Thing", "a")]);
    wait_until("the others are counted", || setup.events_applied("counter") == 4);
    wait_until("the event is parked, as any other would be", || setup.dead_letters("counter").len() == 1);
    assert!(!host.log().contains(GIVEN_BACK), "{}", host.log());
    let rows = setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter ORDER BY aggregate");
    assert_eq!(rows, [["a", "3", "2"], ["b", "1", "0"]]);
    end(host);
}

on_both_databases!(a_parked_aggregate_comes_back_with_a_higher_version_before_any_event);
fn a_parked_aggregate_comes_back_with_a_higher_version_before_any_event(setup: &Setup) {
    deploy(setup, &bytes("counter_picky"));
    let mut host = setup.start(["run", "--plugin", "counter.wasm", "--watch"]);
    host.wait_for_log("partition claimed");
    setup.insert(&[event("Odd", "Thing", "odd")]);
    wait_until("the event is parked", || setup.dead_letters("counter").len() == 1);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    crate::dead_letters::dlq(setup, &["retry", "--all"]).success();
    assert_eq!(setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter"), [["odd", "1", "1"]]);
    end(host);
}
