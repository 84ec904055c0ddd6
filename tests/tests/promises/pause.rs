//! An operator pauses a projection: no worker of it applies an event until it is resumed, and then none is missing.

use projectionist_tests::{
    Host, Setup, on_both_databases, on_both_databases_and_by_login, plugin, wait_for, wait_until,
};
use serde_json::{Value, json};

use crate::metrics::HTTP;
use crate::sabotage::{catch_up, follow, note, noted, order};

/// What `host status` tells of the projection.
fn told(setup: &Setup) -> Value {
    let report = setup.run(["status", "--json"]);
    let report: Value = serde_json::from_str(&report.success().stdout).expect("JSON");
    report["projections"][0].clone()
}

/// Waits until this many workers of a host are in this state.
#[track_caller]
fn wait_for_workers(host: &mut Host, state: &str, count: f64) {
    wait_until(&format!("{count} are {state}"), || {
        let answer = host.get("/metrics").ask();
        answer.metric("projectionist_workers", &[&format!("state=\"{state}\"")]) == Some(count)
    });
}

on_both_databases_and_by_login!(a_paused_projection_applies_nothing_until_it_is_resumed);
fn a_paused_projection_applies_nothing_until_it_is_resumed(setup: &Setup) {
    let mut host = follow(setup, &[&HTTP[..], &["--workers", "2"]].concat());
    setup.insert(&[note("a"), note("b"), note("c"), note("d")]);
    wait_until("they are applied", || noted(setup) == 4);
    let paused = setup.run(["pause", "saboteur"]);
    assert_eq!(paused.success().stdout, "saboteur is paused: `host resume saboteur` lets it go on\n");
    wait_for_workers(&mut host, "paused", 2.0);
    let metrics = host.get("/metrics").ask();
    assert_eq!(metrics.metric("projectionist_paused", &["projection=\"saboteur\""]), Some(1.0));
    setup.insert(&[note("a"), note("b"), note("c"), note("d")]);
    // Long enough for a worker that would not care: its database has told it of them.
    wait_for("what came since counts as lag", || (told(setup)["partitions"][0]["lag_events"] == 4).then_some(()));
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(noted(setup), 4);
    }
    let by = told(setup)["paused"]["by"].as_str().expect("who").to_owned();
    let text = setup.run(["status"]).success().stdout.clone();
    assert!(text.contains(&format!("saboteur is paused, by {by} since ")), "{text}");
    let health = host.get("/health").ask().json();
    assert_eq!((&health["status"], &health["reasons"][0]["kind"]), (&json!("degraded"), &json!("paused")));
    let again = setup.run(["pause", "saboteur"]);
    assert!(again.success().stdout.starts_with(&format!("saboteur is paused already, by {by} since ")), "{again:?}");
    // Also whoever comes now, and whoever takes over.
    host.kill();
    let mut host = follow(setup, &[&HTTP[..], &["--workers", "2"]].concat());
    wait_for_workers(&mut host, "paused", 2.0);
    assert_eq!(noted(setup), 4);
    assert_eq!(setup.run(["resume", "saboteur"]).success().stdout, "saboteur goes on\n");
    wait_until("all are applied", || noted(setup) == 8);
    assert_eq!(told(setup)["paused"], json!(null));
    assert_eq!(setup.run(["resume", "saboteur"]).success().stdout, "saboteur was not paused\n");
    assert_eq!(setup.events_applied("saboteur"), 8);
    host.terminate();
    host.wait().success();
}

on_both_databases!(a_pause_in_the_middle_of_a_backlog_loses_and_doubles_nothing);
fn a_pause_in_the_middle_of_a_backlog_loses_and_doubles_nothing(setup: &Setup) {
    catch_up(setup, &[]).success();
    let orders: Vec<_> = (0..60).map(|n| order(&format!("a{}", n % 7), json!({"do": "ponder"}))).collect();
    setup.insert(&orders);
    let mut host = follow(setup, &["--batch-size", "3", "--workers", "2", "--max-call-time", "60000"]);
    host.wait_for_log("pondering");
    setup.run(["pause", "saboteur"]).success();
    host.wait_for_log("paused by an operator");
    wait_until("both workers stand still", || host.log().matches("paused by an operator").count() == 2);
    let (positions, notes) = (setup.checkpoints("saboteur"), noted(setup));
    assert!(notes < 60, "it was paused in the middle");
    for _ in 0..10 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(setup.checkpoints("saboteur"), positions);
    }
    setup.run(["resume", "saboteur"]).success();
    wait_until("all are applied", || setup.events_applied("saboteur") == 60);
    assert_eq!(noted(setup), 60);
    host.terminate();
    host.wait().success();
}

on_both_databases!(a_rebuild_leaves_the_pause_as_it_is);
fn a_rebuild_leaves_the_pause_as_it_is(setup: &Setup) {
    setup.insert(&[note("a"), note("b")]);
    catch_up(setup, &[]).success();
    setup.run(["pause", "saboteur"]).success();
    setup.run(["rebuild", "--plugin", &plugin("saboteur")]).success();
    assert!(told(setup)["paused"]["by"].is_string(), "{}", told(setup));
    setup.run(["resume", "saboteur"]).success();
    assert_eq!(noted(setup), 2);
}

on_both_databases!(dead_letters_are_replayed_meanwhile_because_that_is_asked_for);
fn dead_letters_are_replayed_meanwhile_because_that_is_asked_for(setup: &Setup) {
    setup.insert(&[order("a", json!({"do": "fail_unless", "setting": "mended"})), note("a")]);
    catch_up(setup, &[]).success();
    setup.run(["pause", "saboteur"]).success();
    let mut host = follow(setup, &["--set", "mended=yes"]);
    host.wait_for_log("paused by an operator");
    setup.run(["dlq", "retry", "default/Saboteur/a"]).success();
    assert_eq!(noted(setup), 2);
    assert!(setup.dead_letters("saboteur").is_empty());
}

on_both_databases!(a_projection_that_never_ran_cannot_be_paused);
fn a_projection_that_never_ran_cannot_be_paused(setup: &Setup) {
    let hint = "no projection has run there yet; check the URL (READ_MODEL_URL, DATABASE_URL)";
    setup.run(["pause", "saboteur"]).failed(2, &format!("there is no projection saboteur\nhint: {hint}"));
    setup.insert(&[note("a")]);
    catch_up(setup, &[]).success();
    for command in ["pause", "resume"] {
        setup.run([command, "sabotuer"]).failed(2, "there is no projection sabotuer\nhint: there are: saboteur");
    }
}

on_both_databases!(status_can_be_watched);
fn status_can_be_watched(setup: &Setup) {
    setup.insert(&[note("a")]);
    catch_up(setup, &[]).success();
    let watch = setup.start(["status", "--watch", "--interval", "0.1"]);
    wait_until("a rate is known", || {
        watch.printed().contains("events/s") && watch.printed().matches("horizon 1, ").count() >= 2
    });
    setup.insert(&[note("a"), note("b")]);
    wait_until("it has seen the new events", || watch.printed().contains("horizon 3, the last event"));
    watch.interrupt();
    watch.wait().success();
    let watch = setup.start(["status", "--watch", "--json", "--interval", "0.1"]);
    wait_until("two reports have come", || watch.printed().lines().count() >= 2);
    for line in watch.printed().lines().take(2) {
        let report: Value = serde_json::from_str(line).expect("a report a line");
        assert_eq!(report["horizon"]["last_position"], 3);
    }
    watch.terminate();
    watch.wait().success();
    setup.run(["status", "--interval", "2"]).exited(2);
}
