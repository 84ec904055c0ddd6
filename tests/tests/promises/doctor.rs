//! `host doctor` finds what is wrong, says what to do, and is content where nothing is.

use projectionist_tests::{Cluster, Kind, Setup, on_both_databases, wait_for, wait_until};
use serde_json::{Value, json};

use crate::sabotage::{catch_up, follow, note, noted, order};

/// What it finds that is not as it should be, as `grade kind`, and the whole.
fn findings(setup: &Setup, more: &[&str]) -> (Vec<String>, Value) {
    let output = setup.run([&["doctor", "--json", "--quiet"], more].concat());
    let found: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let expected = if found["worst"] == "problem" { 1 } else { 0 };
    output.exited(expected);
    let list = found["findings"].as_array().expect("findings").clone();
    for finding in &list {
        assert!(finding["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{finding}");
    }
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut short: Vec<_> = list.iter().map(|one| format!("{} {}", text(&one["grade"]), text(&one["kind"]))).collect();
    short.sort();
    (short, found)
}

/// Whether it says so.
fn says(found: &Value, text: &str) -> bool {
    let said = |finding: &Value| finding["message"].as_str().is_some_and(|message| message.contains(text));
    found["findings"].as_array().is_some_and(|findings| findings.iter().any(said))
}

/// A server whose tests commit as they should, unlike the usual one of tests.
fn careful_server() -> (Cluster, Setup) {
    let cluster = Cluster::start_with("synchronous_commit = on\n");
    let setup = Setup::on(&cluster);
    (cluster, setup)
}

#[test]
fn where_all_is_well_it_is_content() {
    let (_cluster, postgres) = careful_server();
    for setup in [&postgres, &Setup::new(Kind::Sqlite)] {
        setup.insert(&[note("a")]);
        let host = follow(setup, &[]);
        wait_until("it works", || noted(setup) == 1);
        let (found, all) = findings(setup, &[]);
        assert_eq!((found, &all["worst"]), (Vec::<String>::new(), &json!("ok")));
        let told = setup.run(["doctor"]).success().stdout.clone();
        assert!(told.contains("ok       workers: saboteur: all 1 partitions are run\n"), "{told}");
        host.terminate();
        host.wait().success();
    }
}

on_both_databases!(what_waits_for_an_operator_is_found);
fn what_waits_for_an_operator_is_found(setup: &Setup) {
    setup.insert(&[order("a", json!({"do": "panic"})), note("b")]);
    catch_up(setup, &["--workers", "2"]).success();
    setup.run(["pause", "saboteur"]).success();
    let (found, all) = findings(setup, &[]);
    let found: Vec<_> = found.iter().filter(|found| !found.contains("replication")).collect();
    assert_eq!(found, ["problem dead letters", "warning pause", "warning workers"]);
    assert!(says(&all, "saboteur: 1 aggregates are parked, with 1 dead letters"), "{all}");
    assert!(says(&all, "saboteur: nobody runs 2 of 2 partitions"), "{all}");
    setup.insert(&[note("b")]);
    let (found, all) = findings(setup, &[]);
    assert!(found.contains(&"problem workers".to_owned()), "{all}");
    assert!(says(&all, "nobody runs 2 of 2 partitions that have events to apply"), "{all}");
}

#[test]
fn what_is_wrong_with_a_server_is_found() {
    let (_cluster, setup) = careful_server();
    setup.insert(&[note("a")]);
    let host = follow(&setup, &[]);
    wait_until("it works", || noted(&setup) == 1);
    let mut operator = setup.connect();
    let mut mended = |breaks: &[&str], mends: &[&str], finding: &str, text: &str| {
        for statement in breaks {
            operator.execute(statement);
        }
        let (found, all) = findings(&setup, &[]);
        assert!(found.contains(&finding.to_owned()) && says(&all, text), "{finding}: {text}\n{all:#}");
        for statement in mends {
            operator.execute(statement);
        }
        assert_eq!(findings(&setup, &[]).0, Vec::<String>::new(), "mended: {mends:?}");
    };
    let database = setup.source().shown();
    let (_, database) = database.rsplit_once('/').unwrap();
    let set = |value: &str| format!("ALTER DATABASE \"{database}\" {value}");
    mended(
        &[&set("SET synchronous_commit = off")],
        &[&set("RESET synchronous_commit")],
        "warning replication",
        "synchronous_commit is off",
    );
    mended(
        &["SELECT pg_create_physical_replication_slot('forgotten')"],
        &["SELECT pg_drop_replication_slot('forgotten')"],
        "warning replication",
        "the server keeps all WAL for them: forgotten",
    );
    let constraint = "events_bounded_context_aggregate_type_aggregate_id_aggregat_key";
    mended(
        &[&format!("ALTER TABLE events DROP CONSTRAINT {constraint}")],
        &["CREATE UNIQUE INDEX again ON events (bounded_context, aggregate_type, aggregate_id, aggregate_version)"],
        "problem indexes",
        "replaying and exporting an aggregate is slow",
    );
    mended(
        &["ALTER SEQUENCE events_global_position_seq CACHE 10"],
        &["ALTER SEQUENCE events_global_position_seq CACHE 1"],
        "problem events",
        "CACHE",
    );
    host.terminate();
    host.wait().success();
}

#[test]
fn who_holds_the_horizon_back_is_found() {
    let (_cluster, setup) = careful_server();
    let mut writer = setup.connect();
    writer.execute("BEGIN");
    writer.execute("SET application_name = 'billing'");
    writer.insert(&[note("late")]);
    setup.insert(&[note("waits").at("2013-01-01T00:00:00.000000Z")]);
    let (found, all) = findings(&setup, &[]);
    assert!(found.contains(&"problem horizon".to_owned()) && says(&all, "(billing)"), "{all}");
}

#[test]
fn a_user_who_may_not_is_told_what_is_missing() {
    let (cluster, setup) = careful_server();
    setup.connect().execute("CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA projectionist TO guest");
    setup.connect().execute("GRANT SELECT ON ALL TABLES IN SCHEMA projectionist TO guest");
    let (_, database) = setup.source().shown().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let url = cluster.url_as("guest", &database);
    let (found, all) = findings(&setup, &["--database-url", &url]);
    assert!(found.iter().filter(|found| *found == "problem privileges").count() == 2, "{all}");
    assert!(says(&all, "INSERT on projectionist.checkpoints") && says(&all, "CREATE on the database"), "{all}");
    assert!(says(&all, "this user may not read events"), "{all}");
}

#[test]
fn a_worker_that_gives_no_sign_of_life_is_found() {
    let (_cluster, setup) = careful_server();
    setup.insert(&[note("a")]);
    let host = follow(&setup, &[]);
    wait_until("it works", || noted(&setup) == 1);
    host.freeze();
    let found = wait_for("it is found", || {
        let (found, all) = findings(&setup, &[]);
        found.contains(&"problem workers".to_owned()).then_some(all)
    });
    assert!(says(&found, &format!("/{}, which has partition 0 of 1 of saboteur", host.pid())), "{found}");
    host.thaw();
    wait_until("it is well again", || findings(&setup, &[]).0.is_empty());
}

#[test]
fn a_database_that_cannot_be_used_is_a_finding_and_no_crash() {
    let setup = Setup::empty(Kind::Sqlite);
    let (found, all) = findings(&setup, &[]);
    assert_eq!(found, ["problem events"]);
    assert!(says(&all, "there is no such file"), "{all}");
    let url = "postgres://me:secret@localhost/shop?host=/nonexistent";
    let (found, all) = findings(&setup, &["--database-url", url]);
    assert!(found.contains(&"problem events".to_owned()) && says(&all, "cannot connect"), "{all}");
    assert!(!all.to_string().contains("secret"));
    let setup = Setup::empty(Kind::Postgres);
    let (_, all) = findings(&setup, &[]);
    assert!(says(&all, "has no events tables yet"), "{all}");
}
