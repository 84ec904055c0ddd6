//! A projection is replaced while events flow, and none is lost or counted twice.

mod files;
mod load;
mod trial;

use std::path::Path;

use projectionist_tests::{
    Host, Setup, event, flights, on_both_databases, on_both_databases_and_by_login, plugin, wait_until,
};

/// Puts a plugin into the watched place, as a deployment does: written beside, then renamed.
pub(crate) fn deploy(setup: &Setup, content: &[u8]) {
    let beside = setup.file("counter.wasm.new", content);
    std::fs::rename(beside, setup.folder().join("counter.wasm")).unwrap();
}

/// A plugin's bytes.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(&plugin(name))).unwrap()
}

/// The same component with another digest: a custom section is of no meaning.
pub(crate) fn touched(mut module: Vec<u8>) -> Vec<u8> {
    module.extend(b"\0\x05\x04note");
    module
}

/// Starts `counter`, watched.
fn start(setup: &Setup, more: &[&str]) -> Host {
    deploy(setup, &bytes("counter"));
    let mut host = setup.start([&["run", "--plugin", "counter.wasm", "--watch"], more].concat());
    host.wait_for_log("partition claimed");
    host
}

/// Stores an event and waits until it is counted.
pub(crate) fn count_one(setup: &Setup, expected: u64) {
    setup.insert(&[event("Anything", "Thing", "a")]);
    wait_until("the event is counted", || setup.events_applied("counter") == expected);
}

on_both_databases!(the_same_version_goes_on_with_the_same_tables);
fn the_same_version_goes_on_with_the_same_tables(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    deploy(setup, &touched(bytes("counter")));
    host.wait_for_log("the projection was replaced");
    count_one(setup, 2);
    assert_eq!(setup.rows("counter", "SELECT aggregate, events FROM counter"), [["a", "2"]]);
    host.terminate();
    host.wait().success();
}

on_both_databases_and_by_login!(a_higher_version_brings_the_tables_up_first);
fn a_higher_version_brings_the_tables_up_first(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    count_one(setup, 2);
    assert_eq!(setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter"), [["a", "2", "1"]]);
    // The way back is refused, and the last good one goes on.
    deploy(setup, &bytes("counter"));
    host.wait_for_log("the changed plugin has a lower version; the last good one goes on");
    count_one(setup, 3);
    assert_eq!(setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter"), [["a", "3", "2"]]);
    host.terminate();
    host.wait().success();
    // Also at the next start.
    let output = setup.run(["run", "--once", "--plugin", &plugin("counter")]);
    let error = "the tables of counter are at version 2, and this plugin is version 1";
    assert!(output.exited(2).error().starts_with(error), "{}", output.error());
}

on_both_databases!(a_file_that_is_no_projection_is_refused_and_the_last_good_one_goes_on);
fn a_file_that_is_no_projection_is_refused_and_the_last_good_one_goes_on(setup: &Setup) {
    let mut host = start(setup, &[]);
    count_one(setup, 1);
    deploy(setup, b"no component");
    host.wait_for_log("the changed plugin is not taken up; the last good one goes on");
    count_one(setup, 2);
    deploy(setup, &bytes("user_count"));
    host.wait_for_log("the changed plugin has another name; the last good one goes on");
    count_one(setup, 3);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    count_one(setup, 4);
    assert_eq!(setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter"), [["a", "4", "1"]]);
    host.terminate();
    host.wait().success();
}

on_both_databases_and_by_login!(no_event_is_lost_or_doubled_while_projections_are_replaced_in_full_flow);
fn no_event_is_lost_or_doubled_while_projections_are_replaced_in_full_flow(setup: &Setup) {
    let mut host = start(setup, &["--workers", "2", "--batch-size", "3"]);
    setup.insert(&flights::events());
    wait_until("it is on its way", || setup.events_applied("counter") > 0);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    wait_until("all are counted", || setup.events_applied("counter") == 5_000);
    setup.insert(&[event("Anything", "Thing", "a"), event("Anything", "Thing", "b"), event("Anything", "Thing", "c")]);
    wait_until("the last are counted", || setup.events_applied("counter") == 5_003);
    host.terminate();
    host.wait().success();
    let sums = setup.rows("counter", "SELECT sum(events), sum(seen_by_v2) FROM counter").remove(0);
    assert_eq!(sums[0], "5003");
    let by_v2: u64 = sums[1].parse().unwrap();
    assert!((3..5_003).contains(&by_v2), "both versions have counted: {by_v2}");
    // Each aggregate has as many as there are events of it.
    let mut expected: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for event in flights::events() {
        *expected.entry(event.aggregate_id).or_default() += 1;
    }
    expected.extend(["a", "b", "c"].map(|id| (id.to_owned(), 1)));
    let expected: Vec<_> = expected.into_iter().map(|(id, count)| vec![id, count.to_string()]).collect();
    assert_eq!(setup.sorted_rows("counter", "SELECT aggregate, events FROM counter"), expected);
}
