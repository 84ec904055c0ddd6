//! Several projections, several partitions, one process or many; each gets the events it wants and no others.

use projectionist_tests::{Setup, event, flights, on_both_databases, plugin, wait_until};
use serde_json::json;

use crate::sabotage::{catch_up, follow, note, noted, notes, order};

on_both_databases!(several_projections_run_in_one_process);
fn several_projections_run_in_one_process(setup: &Setup) {
    setup.insert(&flights::events());
    setup.insert(&[event("UserCreated", "User", "u1").payload(json!({"email": "ada@example.org"}))]);
    let [delays, log, users] = ["carrier_delays", "aircraft_log", "user_count"].map(plugin);
    setup.run(["run", "--once", "--plugin", &delays, "--plugin", &log, "--plugin", &users]).success();
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    let log = setup.sorted_rows("aircraft_log", "SELECT aircraft, flights, miles, last_airport FROM aircraft_log");
    assert_eq!(log, flights::aircraft_log());
    assert_eq!(setup.rows("user_count", "SELECT user_id, email FROM user_stats"), [["u1", "ada@example.org"]]);
}

on_both_databases!(workers_divide_a_projection_within_one_process);
fn workers_divide_a_projection_within_one_process(setup: &Setup) {
    setup.insert(&flights::events());
    setup.run(["run", "--once", "--plugin", &plugin("carrier_delays"), "--workers", "3"]).success();
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    let checkpoints = setup.checkpoints("carrier_delays");
    assert_eq!(checkpoints.iter().map(|c| (c.key, c.total)).collect::<Vec<_>>(), [(0, 3), (1, 3), (2, 3)]);
    assert!(checkpoints.iter().all(|checkpoint| checkpoint.events_applied > 1_000), "{checkpoints:?}");
    assert_eq!(setup.events_applied("carrier_delays"), 5_000);
}

on_both_databases!(a_process_may_work_on_some_of_the_partitions);
fn a_process_may_work_on_some_of_the_partitions(setup: &Setup) {
    setup.insert(&flights::events());
    let carrier_delays = plugin("carrier_delays");
    let run = |key| {
        let partitions = ["--partition-key", key, "--total-partitions", "4", "--workers", "2"];
        setup.run([&["run", "--once", "--plugin", &*carrier_delays], &partitions[..]].concat()).success();
    };
    run("2");
    assert_eq!(setup.checkpoints("carrier_delays").iter().map(|c| c.key).collect::<Vec<_>>(), [2, 3]);
    assert!(setup.events_applied("carrier_delays") < 5_000);
    run("0");
    assert_eq!(setup.events_applied("carrier_delays"), 5_000);
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
}

on_both_databases!(one_component_runs_twice_under_two_names_and_settings);
fn one_component_runs_twice_under_two_names_and_settings(setup: &Setup) {
    let setting = |key| order("a", json!({"do": "note_setting", "key": key}));
    setup.insert(&[setting("colour"), setting("shape"), setting("unknown")]);
    let [one, other] = ["one", "other"].map(|name| format!("{name}={}", plugin("saboteur")));
    let settings = ["--set", "one.colour=red", "--set", "other.colour=blue=green", "--set", "shape=round"];
    setup.run([&["run", "--once", "--plugin", &*one, "--plugin", &*other], &settings[..]].concat()).success();
    let notes = |projection| setup.rows(projection, "SELECT note FROM notes ORDER BY position");
    assert_eq!(notes("one"), [["red"], ["round"], ["unset"]]);
    assert_eq!(notes("other"), [["blue=green"], ["round"], ["unset"]]);
    assert_eq!(setup.checkpoints("saboteur"), [], "nothing ran under its own name");
}

on_both_databases!(a_projection_that_fails_does_not_stop_the_others);
fn a_projection_that_fails_does_not_stop_the_others(setup: &Setup) {
    let bad = format!("bad={}", plugin("saboteur"));
    let mut host = follow(setup, &["--plugin", &bad, "--set", "bad.fail_in_migrate=1"]);
    host.wait_for_log("a worker gave up; the others go on");
    setup.insert(&[note("a")]);
    wait_until("the other projection goes on", || noted(setup) == 1);
    host.terminate();
    host.wait().failed(1, "bad failed in `migrate`: the projection failed: told to fail in migrate");
}

on_both_databases!(an_error_that_stops_one_projection_stops_the_process);
fn an_error_that_stops_one_projection_stops_the_process(setup: &Setup) {
    setup.insert(&[order("a", json!({"do": "panic"}))]);
    let users = plugin("user_count");
    follow(setup, &["--plugin", &users, "--on-error", "stop"]).wait().exited(3);
}

on_both_databases!(a_projection_gets_the_events_that_it_describes_and_passes_over_the_others);
fn a_projection_gets_the_events_that_it_describes_and_passes_over_the_others(setup: &Setup) {
    let other_type = event("Command", "Saboteur", "type").payload(json!({"do": "note"}));
    let other_aggregate = event("Order", "Customer", "aggregate").payload(json!({"do": "note"}));
    let other_context = note("context").context("billing");
    setup.insert(&[note("a"), other_type, other_aggregate, note("b").context("stage"), other_context]);
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 2);
    assert_eq!(setup.position("saboteur"), 5, "the checkpoint is behind what it passed over");
}

on_both_databases!(user_count_follows_users_through_their_life);
fn user_count_follows_users_through_their_life(setup: &Setup) {
    let user = |event_type, id, payload| event(event_type, "User", id).payload(payload);
    setup.insert(&[
        user("UserCreated", "ada", json!({"email": "ada@example.org"})).at("2013-01-01T10:15:00.000000Z"),
        user("UserCreated", "bob", json!({"email": "bob@example.org"})),
        user("EmailVerified", "ada", json!({})),
        user("UserDeactivated", "bob", json!({})),
        user("PasswordChanged", "ada", json!({})),
        user("EmailVerified", "bob", json!({"email": "b@example.org"})),
    ]);
    setup.run(["run", "--once", "--plugin", &plugin("user_count")]).success();
    let users = "SELECT user_id, email, CASE WHEN active THEN 'active' ELSE 'left' END FROM user_stats";
    let expected = [["ada", "ada@example.org", "active"], ["bob", "b@example.org", "left"]];
    assert_eq!(setup.sorted_rows("user_count", users), expected);
    assert_eq!(setup.events_applied("user_count"), 5);
    let created = setup.rows("user_count", "SELECT created_at FROM user_stats WHERE user_id = 'ada'");
    assert!(created[0][0].replace('T', " ").starts_with("2013-01-01 10:15:00"), "{created:?}");
}
