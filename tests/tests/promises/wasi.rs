//! What a projection makes of its events follows from the events, also when its language needs an operating system: the
//! WASI it is given has no files, no network and no environment, shows the time of the event, and draws numbers that
//! follow from projection and position.

use projectionist_tests::{Event, Kind, Output, Setup, event, on_both_databases, plugin, wait_until};
use serde_json::{Value, json};

/// An event that tells the projection what to do.
fn order(aggregate: &str, payload: Value) -> Event {
    event("Order", "Dice", aggregate).payload(payload)
}

/// Throws of some aggregates, at times of their own, the last of which are before those of others.
fn throws(count: u32) -> Vec<Event> {
    let one = |number: u32| {
        let time = format!("2013-01-{:02}T10:{:02}:00.{:06}Z", number % 28 + 1, number % 60, number * 7);
        order(&format!("a{}", number % 5), json!({"do": "throw"})).at(&time)
    };
    (0..count).map(one).collect()
}

/// Runs it under this name until it has caught up.
#[track_caller]
fn catch_up(setup: &Setup, name: &str, more: &[&str]) -> Output {
    setup.run([&["run", "--once", "--plugin", &format!("{name}={}", plugin("dice"))][..], more].concat())
}

/// What it has written down.
fn thrown(setup: &Setup, name: &str) -> Vec<Vec<String>> {
    setup.rows(name, "SELECT position, throw FROM throws ORDER BY position")
}

on_both_databases!(a_projection_is_a_function_of_its_events);
fn a_projection_is_a_function_of_its_events(setup: &Setup) {
    setup.insert(&throws(60));
    catch_up(setup, "dice", &[]).success();
    let first = thrown(setup, "dice");
    assert_eq!(first.len(), 60);
    setup.run(["rebuild", "--plugin", &plugin("dice")]).success();
    assert!(thrown(setup, "dice") == first, "a rebuild arrives at the same");
    // Once more, in four partitions and in small batches: each instance begins somewhere else.
    let other = Setup::new(setup.source().kind());
    let export = setup.folder().join("events.ndjson");
    let export = export.to_str().unwrap();
    setup.run(["export", export]).success();
    other.run(["import", export]).success();
    catch_up(&other, "dice", &["--workers", "4", "--batch-size", "7"]).success();
    assert!(thrown(&other, "dice") == first, "other partitions and other batches do, too");
    // Every event is shown another world, and another projection another one.
    let worlds: std::collections::BTreeSet<_> = first.iter().map(|row| &row[1]).collect();
    assert_eq!(worlds.len(), 60);
    catch_up(setup, "other_dice", &[]).success();
    let others = thrown(setup, "other_dice");
    assert!(first.iter().zip(&others).all(|(one, other)| one[1] != other[1]));
    assert!(first.iter().zip(&others).all(|(one, other)| one[1].split(' ').next() == other[1].split(' ').next()));
}

on_both_databases!(a_restart_in_the_middle_changes_nothing);
fn a_restart_in_the_middle_changes_nothing(setup: &Setup) {
    let name = format!("restarted={}", plugin("dice"));
    setup.insert(&throws(20));
    let host = setup.start(["run", "--plugin", &name, "--batch-size", "3"]);
    wait_until("it is on its way", || setup.events_applied("restarted") >= 10);
    host.kill();
    setup.insert(&throws(40).split_off(20));
    catch_up(setup, "restarted", &["--batch-size", "5"]).success();
    let restarted = thrown(setup, "restarted");
    assert_eq!(restarted.len(), 40);
    setup.run(["rebuild", "--plugin", &name]).success();
    assert!(thrown(setup, "restarted") == restarted, "in one go it is the same");
}

on_both_databases!(the_time_is_that_of_the_event_and_stands_still);
fn the_time_is_that_of_the_event_and_stands_still(setup: &Setup) {
    setup.insert(&[
        order("a", json!({"do": "throw"})).at("2013-01-01T10:15:00.123456Z"),
        order("a", json!({"do": "throw"})).at("1969-12-31T23:59:59.000000Z"),
        order("a", json!({"do": "sleep"})),
    ]);
    catch_up(setup, "dice", &[]).success();
    let thrown = thrown(setup, "dice");
    assert!(thrown[0][1].starts_with("1357035300.123456000 1357035300123456000 ["), "{thrown:?}");
    assert!(thrown[1][1].starts_with("0.000000000 0 ["), "{thrown:?}");
    assert_eq!(thrown[2][1], "0 later", "a year of sleep is over at once");
}

on_both_databases!(there_is_nothing_around_a_projection);
fn there_is_nothing_around_a_projection(setup: &Setup) {
    setup.insert(&[order("a", json!({"do": "look"}))]);
    catch_up(setup, "dice", &[]).success();
    assert_eq!(thrown(setup, "dice")[0][1], "[] [] None 0 Err(StreamError::Closed) false");
}

on_both_databases!(what_is_printed_goes_to_the_log_within_its_limits);
fn what_is_printed_goes_to_the_log_within_its_limits(setup: &Setup) {
    let long = "x".repeat(9_000);
    setup.insert(&[
        order("a", json!({"do": "print", "out": "one\ntwo", "err": format!("oh\u{1b}[2J\n{long}\n")})),
        order("a", json!({"do": "print", "out": "three", "err": ""})),
    ]);
    let output = catch_up(setup, "dice", &["--log-format", "json"]);
    let lines = output.success().stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<_> = lines.filter(|line| line["target"] == "plugin").collect();
    let said: Vec<_> = lines
        .iter()
        .map(|line| (line["level"].as_str().unwrap(), line["message"].as_str().unwrap(), line["position"].as_u64()))
        .collect();
    let cut = &long[..8 << 10];
    let (one, two) = (Some(1), Some(2));
    assert_eq!(
        said,
        [
            ("INFO", "one", one),
            ("WARN", "oh\u{1b}[2J", one),
            ("WARN", cut, one),
            ("INFO", "two", one),
            ("INFO", "three", two)
        ]
    );
    // Without end, it is dropped and counted like any other log.
    setup.insert(&[order("b", json!({"do": "print_for_ever"}))]);
    let output = catch_up(setup, "dice", &["--max-call-time", "300", "--max-log-lines", "5"]);
    let lines = output.success().stderr.matches("flood flood flood").count();
    assert!((1..50).contains(&lines), "{lines} lines");
}

on_both_databases!(what_could_only_do_harm_is_a_trap);
fn what_could_only_do_harm_is_a_trap(setup: &Setup) {
    let cases = [
        (json!({"do": "exit"}), "the projection called `exit`: nothing of the event is kept"),
        (
            json!({"do": "connect"}),
            "the projection called `wasi:sockets/instance-network#instance-network`, and there is nothing behind it: no \
             files and no network",
        ),
        (json!({"do": "hoard"}), "the projection holds 10000 handles of WASI, and none is left"),
        (
            json!({"do": "draw", "bytes": 1_u64 << 40}),
            "the projection asked for 1099511627776 random bytes at once, and 1048576 are allowed",
        ),
    ];
    for (number, (payload, _)) in cases.iter().enumerate() {
        setup.insert(&[order(&format!("bad-{number}"), payload.clone()), order("good", json!({"do": "throw"}))]);
    }
    catch_up(setup, "dice", &[]).success();
    assert_eq!(thrown(setup, "dice").len(), cases.len());
    let letters = setup.dead_letters("dice");
    assert_eq!(letters.len(), cases.len(), "{letters:?}");
    for (letter, (_, error)) in letters.iter().zip(cases) {
        assert_eq!(letter.error, format!("the projection trapped: {error}"));
    }
}

#[test]
fn inspecting_shows_what_is_imported() {
    let setup = Setup::empty(Kind::Sqlite);
    let shown = setup.run(["plugin", "inspect", &plugin("dice")]).success().stdout.clone();
    assert!(shown.contains("wasi:clocks/wall-clock@0.2"), "{shown}");
}
