//! `host status` tells scripts and people how far everything is.

use projectionist_tests::{Kind, Setup, on_both_databases, plugin, wait_until};
use serde_json::{Value, json};

use crate::sabotage::{catch_up, follow, note, noted, order};

/// The report.
fn report(setup: &Setup) -> Value {
    serde_json::from_str(&setup.run(["status", "--json"]).success().stdout).expect("JSON")
}

on_both_databases!(status_tells_position_lag_owner_and_what_is_parked);
fn status_tells_position_lag_owner_and_what_is_parked(setup: &Setup) {
    assert_eq!(report(setup)["projections"], json!([]));
    assert!(setup.run(["status"]).success().stdout.starts_with("No projection has run yet."));
    setup.insert(&[note("a"), order("b", json!({"do": "panic"})), note("b"), note("c")]);
    catch_up(setup, &["--workers", "2"]).success();
    setup.insert(&[note("a").at("2013-01-01T00:00:00.000000Z"), note("d")]);
    let found = report(setup);
    assert_eq!(found["horizon"], json!({"position": 6, "last_position": 6, "age_seconds": 0.0, "blockers": []}));
    let projection = &found["projections"][0];
    assert_eq!(projection["name"], "saboteur");
    assert_eq!((&projection["dead_letters"], &projection["parked_aggregates"]), (&json!(2), &json!(1)));
    let partitions = projection["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 2);
    let digest = setup.run(["plugin", "inspect", "--json", &plugin("saboteur")]);
    let digest: Value = serde_json::from_str(&digest.success().stdout).unwrap();
    for (key, partition) in partitions.iter().enumerate() {
        let stored = &setup.checkpoints("saboteur")[key];
        assert_eq!(partition["partition_key"], key);
        assert_eq!(partition["total_partitions"], 2);
        assert_eq!(partition["position"], 4);
        assert_eq!(partition["lag_events"], 2);
        let ten_years = 10.0 * 365.0 * 86_400.0;
        assert!(partition["lag_seconds"].as_f64().is_some_and(|age| age > ten_years), "{partition}");
        assert_eq!(partition["epoch"], 1);
        assert_eq!(partition["owner"], stored.owner);
        assert_eq!(partition["running"], false);
        assert_eq!(partition["events_applied"], stored.events_applied);
        assert_eq!(partition["plugin_version"], 1);
        assert_eq!(partition["plugin_digest"], digest["digest"]);
        assert!(partition["updated_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{partition}");
    }
    let told = setup.run(["status"]).success().stdout.clone();
    assert!(told.contains("0 of 2") && told.contains("1 of 2"), "{told}");
    assert!(told.contains("horizon 6, the last event"), "{told}");
}

on_both_databases!(status_tells_who_runs_and_who_does_not);
fn status_tells_who_runs_and_who_does_not(setup: &Setup) {
    setup.insert(&[note("a")]);
    let host = follow(setup, &[]);
    wait_until("it works", || noted(setup) == 1);
    let partition = || report(setup)["projections"][0]["partitions"][0].clone();
    assert_eq!(partition()["running"], true);
    assert_eq!(partition()["lag_events"], 0);
    assert_eq!(partition()["lag_seconds"].as_f64(), Some(0.0));
    let owner = partition()["owner"].as_str().unwrap().to_owned();
    assert!(owner.ends_with(&format!("/{}", host.pid())), "{owner}");
    host.kill();
    wait_until("it is known to be gone", || partition()["running"] == false);
    assert!(setup.run(["status"]).success().stdout.contains(&format!("({owner})")), "in brackets");
}

on_both_databases!(the_view_of_checkpoints_that_monitoring_knows_is_there);
fn the_view_of_checkpoints_that_monitoring_knows_is_there(setup: &Setup) {
    setup.insert(&[note("a"), note("b"), note("c")]);
    catch_up(setup, &["--workers", "2"]).success();
    let view = "SELECT projection_name, last_global_position FROM projection_checkpoints";
    let mut connection = match setup.read_model().kind() {
        Kind::Postgres => setup.connect(),
        Kind::Sqlite => setup.read_model().connect_to("saboteur"),
    };
    assert_eq!(connection.rows(view), [["saboteur", "3"]]);
}

#[test]
fn looking_at_a_database_that_is_not_there_makes_none() {
    let setup = Setup::empty(Kind::Sqlite);
    let output = setup.run(["status"]);
    assert_ne!(output.code, Some(0));
    assert!(output.error().contains("projectionist.db"), "{}", output.error());
    assert_eq!(std::fs::read_dir(setup.folder()).unwrap().count(), 0, "nothing was made");
}
