//! `/metrics` tells Prometheus what a host does: every metric moves, and every metric is documented.

use std::collections::BTreeSet;

use projectionist_tests::http::Answer;
use projectionist_tests::{Cluster, Event, Host, Kind, Setup, on_both_databases, wait_for, wait_until};
use serde_json::json;

use crate::reload::{bytes, deploy, touched};
use crate::sabotage::{follow, note, noted, order};

/// What a host serves.
pub(crate) const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

/// The metrics of a host.
fn metrics(host: &mut Host) -> Answer {
    let answer = host.get("/metrics").ask();
    assert_eq!(answer.code, 200, "{answer:?}");
    answer
}

/// Waits until a metric has this value; gives all of them then.
#[track_caller]
pub(crate) fn wait_for_metric(host: &mut Host, name: &str, labels: &[&str], value: f64) -> Answer {
    let what = format!("{name} {labels:?} is {value}");
    wait_for(&what, || Some(metrics(host)).filter(|answer| answer.metric(name, labels) == Some(value)))
}

/// An event of the year 2013 that fails transiently until [`switch_on`].
pub(crate) fn held_up() -> Event {
    order("late", json!({"do": "fail_until", "switch": "on"})).at("2013-01-01T00:00:00.000000Z")
}

/// Lets [`held_up`] through.
pub(crate) fn switch_on(setup: &Setup) {
    setup.read_model().connect_to("saboteur").execute("INSERT INTO switches VALUES ('on')");
}

/// Its partition and projection, where it runs undivided.
const WHOLE: [&str; 2] = ["projection=\"saboteur\"", "partition=\"0 of 1\""];

on_both_databases!(applying_events_moves_what_is_counted_and_timed);
fn applying_events_moves_what_is_counted_and_timed(setup: &Setup) {
    let mut host = follow(setup, &[&HTTP[..], &["--workers", "2"]].concat());
    let value = |answer: &Answer, name: &str, partition: &str| {
        answer.metric(name, &["projection=\"saboteur\"", &format!("partition=\"{partition} of 2\"")]).unwrap_or(-1.0)
    };
    let before = wait_for_metric(&mut host, "projectionist_workers", &["state=\"running\""], 2.0);
    assert_eq!(value(&before, "projectionist_events_applied_total", "0"), 0.0);
    let orders: Vec<_> = (0..40).map(|n| order(&format!("a{n}"), json!({"do": "note_count"}))).collect();
    setup.insert(&orders);
    wait_until("all are applied", || noted(setup) == 40);
    let names = [
        "projectionist_batches_total",
        "projectionist_batch_seconds_count",
        "projectionist_batch_seconds_sum",
        "projectionist_guest_seconds_count",
        "projectionist_guest_seconds_sum",
        "projectionist_sql_seconds_count",
        "projectionist_sql_seconds_sum",
        "projectionist_commit_seconds_count",
        "projectionist_commit_seconds_sum",
        "projectionist_guest_memory_bytes",
    ];
    let sum = |answer: &Answer, name: &str| value(answer, name, "0") + value(answer, name, "1");
    let after = wait_for("all are counted, and the report is of afterwards", || {
        let answer = metrics(&mut host);
        let all = sum(&answer, "projectionist_events_applied_total") == 40.0;
        let reached = ["0", "1"].iter().all(|key| value(&answer, "projectionist_position", key) == 40.0);
        (all && reached).then_some(answer)
    });
    for key in ["0", "1"] {
        for name in names {
            assert!(value(&after, name, key) > 0.0, "{name} of {key}\n{}", after.body);
        }
        let share =
            value(&after, "projectionist_guest_seconds_sum", key) + value(&after, "projectionist_sql_seconds_sum", key);
        assert!(share < value(&after, "projectionist_batch_seconds_sum", key), "parts are less than the whole");
        assert_eq!(value(&after, "projectionist_lag_events", key), 0.0);
        assert_eq!(value(&after, "projectionist_lag_seconds", key), 0.0);
        assert_eq!(value(&after, "projectionist_claimed", key), 1.0);
        assert_eq!(value(&after, "projectionist_claims_total", key), 1.0);
    }
    for (name, labels, expected) in [
        ("projectionist_horizon_position", &[][..], 40.0),
        ("projectionist_last_position", &[], 40.0),
        ("projectionist_horizon_age_seconds", &[], 0.0),
        ("projectionist_up", &[], 1.0),
        ("projectionist_build_info", &["version=\"0.1.0\""], 1.0),
        ("projectionist_connections", &["database=\"read_model\""], 2.0),
    ] {
        assert_eq!(after.metric(name, labels), Some(expected), "{name}\n{}", after.body);
    }
    let readers = after.metric("projectionist_connections", &["database=\"events\""]);
    assert!(readers.is_some_and(|readers| readers >= 1.0), "{readers:?}");
    assert!(after.body.ends_with("# EOF\n"), "as OpenMetrics has it");
    assert!(after.head.to_lowercase().contains("content-type: application/openmetrics-text"), "{}", after.head);
}

on_both_databases!(a_backlog_is_as_late_as_its_oldest_event);
fn a_backlog_is_as_late_as_its_oldest_event(setup: &Setup) {
    let mut host = follow(setup, &[&HTTP[..], &["--max-attempts", "1000000"]].concat());
    setup.insert(&[held_up(), note("behind")]);
    let late = wait_for_metric(&mut host, "projectionist_lag_events", &WHOLE, 2.0);
    let ten_years = 10.0 * 365.0 * 86_400.0;
    assert!(late.metric("projectionist_lag_seconds", &WHOLE).is_some_and(|age| age > ten_years), "{}", late.body);
    wait_until("it is tried again and again", || {
        let answer = metrics(&mut host);
        let transient = [WHOLE[0], WHOLE[1], "kind=\"transient\""];
        let failures = answer.metric("projectionist_failures_total", &transient).unwrap_or_default();
        let retries = answer.metric("projectionist_retries_total", &WHOLE).unwrap_or_default();
        failures >= 3.0 && retries >= 2.0
    });
    switch_on(setup);
    let caught_up = wait_for_metric(&mut host, "projectionist_lag_events", &WHOLE, 0.0);
    assert_eq!(caught_up.metric("projectionist_lag_seconds", &WHOLE), Some(0.0));
}

on_both_databases!(what_is_parked_is_counted);
fn what_is_parked_is_counted(setup: &Setup) {
    let mut host = follow(setup, &HTTP);
    setup.insert(&[order("a", json!({"do": "panic"})), note("a"), note("b")]);
    let parked = wait_for_metric(&mut host, "projectionist_dead_letters", &[WHOLE[0]], 2.0);
    assert_eq!(parked.metric("projectionist_parked_aggregates", &[WHOLE[0]]), Some(1.0));
    assert_eq!(parked.metric("projectionist_dead_letters_written_total", &WHOLE), Some(2.0));
    let permanent = parked.metric("projectionist_failures_total", &[WHOLE[0], WHOLE[1], "kind=\"permanent\""]);
    assert!(permanent.is_some_and(|count| count >= 1.0), "{}", parked.body);
}

on_both_databases!(reloads_are_counted_by_what_became_of_them);
fn reloads_are_counted_by_what_became_of_them(setup: &Setup) {
    deploy(setup, &bytes("counter"));
    let mut host = setup.start([&["run", "--plugin", "counter.wasm", "--watch"][..], &HTTP].concat());
    host.wait_for_log("partition claimed");
    assert_eq!(metrics(&mut host).metric("projectionist_reloads_total", &["result=\"taken\""]), None);
    deploy(setup, &touched(bytes("counter")));
    wait_for_metric(&mut host, "projectionist_reloads_total", &["projection=\"counter\"", "result=\"taken\""], 1.0);
    deploy(setup, b"no component");
    wait_for_metric(&mut host, "projectionist_reloads_total", &["projection=\"counter\"", "result=\"refused\""], 1.0);
}

on_both_databases!(a_change_of_the_number_of_partitions_is_counted_once);
fn a_change_of_the_number_of_partitions_is_counted_once(setup: &Setup) {
    let mut host = follow(setup, &[&HTTP[..], &["--workers", "2"]].concat());
    setup.insert(&[note("a"), note("b")]);
    wait_until("they are applied", || noted(setup) == 2);
    assert_eq!(metrics(&mut host).metric("projectionist_rescales_total", &[]), None);
    host.terminate();
    host.wait().success();
    let mut host = follow(setup, &[&HTTP[..], &["--workers", "3"]].concat());
    wait_for_metric(&mut host, "projectionist_workers", &["state=\"running\""], 3.0);
    assert_eq!(metrics(&mut host).metric("projectionist_rescales_total", &[WHOLE[0]]), Some(1.0));
}

#[test]
fn a_horizon_that_is_held_back_has_the_age_of_what_waits_for_it() {
    let setup = Setup::new(Kind::Postgres);
    let mut host = follow(&setup, &HTTP);
    setup.insert(&[note("a")]);
    wait_for_metric(&mut host, "projectionist_horizon_position", &[], 1.0);
    let mut writer = setup.connect();
    writer.execute("BEGIN");
    writer.insert(&[note("late")]);
    setup.insert(&[note("waits").at("2013-01-01T00:00:00.000000Z")]);
    let held = wait_for_metric(&mut host, "projectionist_last_position", &[], 3.0);
    assert_eq!(held.metric("projectionist_horizon_position", &[]), Some(1.0));
    assert!(held.metric("projectionist_horizon_age_seconds", &[]).is_some_and(|age| age > 1e8), "{}", held.body);
    writer.execute("COMMIT");
    let free = wait_for_metric(&mut host, "projectionist_horizon_position", &[], 3.0);
    assert_eq!(free.metric("projectionist_horizon_age_seconds", &[]), Some(0.0));
}

#[test]
fn without_its_database_a_host_says_so_and_goes_on_counting() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    let mut host = follow(&setup, &HTTP);
    setup.insert(&[note("a")]);
    wait_until("it is applied", || noted(&setup) == 1);
    wait_for_metric(&mut host, "projectionist_up", &[], 1.0);
    cluster.stop("immediate");
    let away = wait_for_metric(&mut host, "projectionist_up", &[], 0.0);
    assert_eq!(away.metric("projectionist_events_applied_total", &WHOLE), Some(1.0));
    wait_for("the worker waits", || {
        let answer = metrics(&mut host);
        let waits = answer.metric("projectionist_workers", &["state=\"waiting\""]) == Some(1.0);
        let lost = answer.metric("projectionist_failures_total", &["kind=\"lost\""]).unwrap_or_default();
        (waits && lost >= 1.0).then_some(())
    });
    cluster.resume();
    wait_for_metric(&mut host, "projectionist_up", &[], 1.0);
    wait_for_metric(&mut host, "projectionist_claims_total", &WHOLE, 2.0);
}

on_both_databases!(every_metric_is_documented);
fn every_metric_is_documented(setup: &Setup) {
    let docs = include_str!("../../../docs/metrics.md");
    let mut host = follow(setup, &HTTP);
    setup.insert(&[order("a", json!({"do": "panic"}))]);
    let answer = wait_for_metric(&mut host, "projectionist_dead_letters", &[WHOLE[0]], 1.0);
    // What a line `# TYPE name type` announces. What has never happened is not announced.
    let named = |line: &str| line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next().map(str::to_owned));
    let served: BTreeSet<String> = answer.body.lines().filter_map(named).collect();
    let row = |line: &str| line.strip_prefix("| `").and_then(|rest| rest.split('`').next().map(str::to_owned));
    let told: BTreeSet<String> =
        docs.lines().filter_map(row).filter(|name| name.starts_with("projectionist_")).collect();
    let plain = |name: &String| name.trim_end_matches("_total").trim_end_matches("_info").to_owned();
    let (served, told): (BTreeSet<_>, BTreeSet<_>) =
        (served.iter().map(plain).collect(), told.iter().map(plain).collect());
    let unheard: Vec<_> = served.symmetric_difference(&told).collect();
    let never_happened = [
        "projectionist_events_months_ahead",
        "projectionist_reloads",
        "projectionist_replica_set_generation",
        "projectionist_replica_set_members",
        "projectionist_replica_set_slots",
        "projectionist_rescales",
    ];
    assert_eq!(unheard, never_happened, "served or documented, not both");
}
