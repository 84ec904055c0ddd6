//! Another number of partitions: nothing is applied twice, nothing is left out, and no aggregate loses its order.

use projectionist_tests::{
    Event, Host, Setup, flights, on_both_databases, on_both_databases_and_by_login, plugin, wait_until,
};
use serde_json::{Value, json};

use crate::sabotage::{catch_up, follow, note, noted, notes, order};

/// Notes of several aggregates, in turn.
fn rounds(aggregates: usize, rounds: usize) -> Vec<Event> {
    let round = |_| (0..aggregates).map(|number| note(&format!("aggregate-{number}")));
    (0..rounds).flat_map(round).collect()
}

/// The arguments for some partitions out of so many.
fn partitions<'a>(first: &'a str, count: &'a str, total: &'a str) -> [&'a str; 6] {
    ["--partition-key", first, "--workers", count, "--total-partitions", total]
}

/// Catches up with one partition of so many.
#[track_caller]
fn catch_up_with(setup: &Setup, key: u32, total: u32) {
    catch_up(setup, &partitions(&key.to_string(), "1", &total.to_string())).success();
}

/// The totals of the checkpoints, with their keys.
fn shape(setup: &Setup) -> Vec<(u32, u32)> {
    setup.checkpoints("saboteur").iter().map(|checkpoint| (checkpoint.key, checkpoint.total)).collect()
}

/// Sees that all notes are there, once each and in the order of their aggregate.
#[track_caller]
fn every_note_once(setup: &Setup, aggregates: usize, rounds: usize) {
    let found = notes(setup);
    assert_eq!(found.len(), aggregates * rounds);
    for number in 0..aggregates {
        let aggregate = format!("aggregate-{number}");
        let versions: Vec<_> = found.iter().filter(|row| row[0] == aggregate).map(|row| row[1].clone()).collect();
        assert_eq!(versions, (1..=rounds).map(|version| version.to_string()).collect::<Vec<_>>(), "{aggregate}");
    }
    assert_eq!(setup.events_applied("saboteur"), (aggregates * rounds) as u64);
}

on_both_databases!(uneven_partitions_are_divided_anew_and_every_event_counts_once);
fn uneven_partitions_are_divided_anew_and_every_event_counts_once(setup: &Setup) {
    let events = flights::events();
    let carrier_delays = plugin("carrier_delays");
    let run = |arguments: &[&str]| {
        setup.run([&["run", "--once", "--plugin", &*carrier_delays], arguments].concat()).success();
    };
    // One partition of two is far ahead when there are three, of which one goes ahead when there are five, then two.
    setup.insert(&events[..1_000]);
    run(&partitions("0", "1", "2"));
    setup.insert(&events[1_000..3_000]);
    run(&partitions("1", "1", "2"));
    let ahead = setup.checkpoints("carrier_delays");
    assert_eq!(ahead.iter().map(|checkpoint| checkpoint.position).collect::<Vec<_>>(), [1_000, 3_000]);
    run(&partitions("2", "1", "3"));
    setup.insert(&events[3_000..4_000]);
    run(&partitions("1", "2", "5"));
    run(&["--workers", "2"]);
    setup.insert(&events[4_000..]);
    run(&["--workers", "4"]);
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    assert_eq!(setup.events_applied("carrier_delays"), events.len() as u64);
    let checkpoints = setup.checkpoints("carrier_delays");
    assert!(checkpoints.iter().all(|c| c.total == 4 && c.position == setup.last_position()), "{checkpoints:?}");
}

on_both_databases!(workers_of_another_total_stand_by_until_those_of_the_old_one_have_ended);
fn workers_of_another_total_stand_by_until_those_of_the_old_one_have_ended(setup: &Setup) {
    setup.insert(&rounds(20, 2));
    let old: Vec<Host> = ["0", "1"].map(|key| follow(setup, &partitions(key, "1", "2"))).into();
    wait_until("the old workers have caught up", || noted(setup) == 40);
    let mut new = follow(setup, &["--workers", "3"]);
    new.wait_for_log("standing by: the number of partitions changes when those of the old number have ended");
    for host in &old {
        let owner = format!("/{} holds=", host.pid());
        wait_until("it says for whom", || new.log().contains(&owner));
    }
    setup.insert(&rounds(20, 1));
    wait_until("the old workers still work", || noted(setup) == 60);
    assert_eq!(shape(setup), [(0, 2), (1, 2)]);
    let [first, second] = old.try_into().expect("two hosts");
    first.terminate();
    first.wait().success();
    assert_eq!(shape(setup), [(0, 2), (1, 2)], "one of them is still there");
    setup.insert(&rounds(20, 1));
    second.kill();
    wait_until("the new workers have taken over", || noted(setup) == 80);
    assert_eq!(shape(setup), [(0, 3), (1, 3), (2, 3)]);
    new.terminate();
    new.wait().success();
    every_note_once(setup, 20, 4);
}

on_both_databases!(status_shows_a_rescale_that_is_not_through_and_what_is_left_of_it);
fn status_shows_a_rescale_that_is_not_through_and_what_is_left_of_it(setup: &Setup) {
    setup.insert(&rounds(20, 5));
    catch_up_with(setup, 0, 2);
    // The new partition 0 has events of both old ones: it reads from the start, and leaves out what was done.
    let table = setup.own_table("checkpoints");
    catch_up_with(setup, 2, 3);
    let report = setup.run(["status", "--json"]).success().stdout.clone();
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let rescale = |key: usize| report["projections"][0]["partitions"][key]["rescale"].clone();
    let expected = json!({"from_partitions": [2], "until_position": 100, "events_left": 100});
    assert_eq!((rescale(0), rescale(1), rescale(2)), (expected.clone(), expected, Value::Null));
    let told = setup.run(["status"]).success().stdout.clone();
    let line = "rescale of saboteur, 0 of 3: was 2 partitions, through at position 100, 100 events to look at";
    assert!(told.contains(line), "{told}");
    catch_up(setup, &["--workers", "3"]).success();
    every_note_once(setup, 20, 5);
    let left = format!("SELECT count(*) FROM {table} WHERE lineage IS NOT NULL");
    assert_eq!(setup.rows("saboteur", &left), [["0"]], "what is through is forgotten");
    assert!(!setup.run(["status"]).success().stdout.contains("rescale"));
}

on_both_databases!(a_parked_aggregate_stays_parked_across_a_rescale);
fn a_parked_aggregate_stays_parked_across_a_rescale(setup: &Setup) {
    let poison = order("aggregate-1", json!({"do": "panic"}));
    setup.insert(&[rounds(4, 1), vec![poison], rounds(4, 1)].concat());
    catch_up(setup, &["--workers", "2"]).success();
    setup.insert(&rounds(4, 1));
    catch_up(setup, &["--workers", "3"]).success();
    let letters = setup.dead_letters("saboteur");
    let letters: Vec<_> = letters.iter().map(|l| (l.position, &*l.aggregate_id, &*l.reason)).collect();
    assert_eq!(letters, [(5, "aggregate-1", "poison"), (7, "aggregate-1", "behind"), (11, "aggregate-1", "behind")]);
    assert_eq!(noted(setup), 10, "the others went on");
    // A rescale that reads those events again does not park them again, nor apply them.
    catch_up(setup, &["--workers", "5"]).success();
    assert_eq!((noted(setup), setup.dead_letters("saboteur").len()), (10, 3));
}

on_both_databases_and_by_login!(killed_at_any_moment_of_a_rescale_it_counts_every_event_once);
fn killed_at_any_moment_of_a_rescale_it_counts_every_event_once(setup: &Setup) {
    setup.insert(&rounds(50, 20));
    for (turn, workers) in ["2", "3", "4", "3", "1", "5"].into_iter().enumerate() {
        let before = setup.events_applied("saboteur");
        let host = follow(setup, &["--workers", workers, "--batch-size", "1"]);
        wait_until("it is on its way", || setup.events_applied("saboteur") >= before + 30 + turn as u64);
        host.kill();
        let applied = setup.events_applied("saboteur");
        assert!(applied < 1_000, "killed on its way: {applied}");
        assert_eq!(applied, noted(setup), "rows and checkpoints are one");
    }
    catch_up(setup, &["--workers", "3"]).success();
    every_note_once(setup, 50, 20);
}
