//! Probes and people learn whether a host is well, why not, and nobody else does.

use projectionist_tests::http::Answer;
use projectionist_tests::{Cluster, Host, Kind, Setup, on_both_databases, plugin, wait_for, wait_until};
use serde_json::{Value, json};

use crate::metrics::{HTTP, held_up, switch_on};
use crate::sabotage::{follow, note, noted, order};

/// A token that is long enough.
const TOKEN: &str = "correct horse battery staple";

/// Waits until the health of a host is this; gives it.
#[track_caller]
fn wait_for_health(host: &mut Host, status: &str) -> Value {
    let answer: Answer = wait_for(&format!("it is {status}"), || {
        Some(host.get("/health").ask()).filter(|answer| answer.json()["status"] == status)
    });
    assert_eq!(answer.code, if status == "unhealthy" { 503 } else { 200 }, "{answer:?}");
    answer.json()
}

on_both_databases!(a_host_that_works_is_live_ready_and_healthy);
fn a_host_that_works_is_live_ready_and_healthy(setup: &Setup) {
    let mut host = follow(setup, &HTTP);
    assert_eq!(host.get("/live").ask().code, 200);
    wait_until("it is ready", || host.get("/ready").ask().code == 200);
    assert_eq!(wait_for_health(&mut host, "healthy"), json!({"status": "healthy", "reasons": []}));
    assert_eq!(host.get("/nothing").ask().code, 404);
    // Who stands by is ready to take over, and as well as he should be.
    let mut second = follow(setup, &HTTP);
    second.wait_for_log("standing by");
    wait_until("it is ready", || second.get("/ready").ask().code == 200);
    wait_for_health(&mut second, "healthy");
}

on_both_databases!(a_parked_aggregate_degrades_health);
fn a_parked_aggregate_degrades_health(setup: &Setup) {
    let mut host = follow(setup, &HTTP);
    setup.insert(&[order("a", json!({"do": "panic"}))]);
    let health = wait_for_health(&mut host, "degraded");
    let message = "1 parked: `host dlq list --projection saboteur` shows why";
    let reason = json!({"status": "degraded", "kind": "parked", "projection": "saboteur", "message": message});
    assert_eq!(health["reasons"], json!([reason]));
}

on_both_databases!(lag_over_its_limit_degrades_health_until_it_is_gone);
fn lag_over_its_limit_degrades_health_until_it_is_gone(setup: &Setup) {
    let limits = ["--max-lag", "saboteur=60", "--max-attempts", "1000000"];
    let mut host = follow(setup, &[&HTTP[..], &limits].concat());
    setup.insert(&[held_up()]);
    // The checkpoint is there before the projection's tables are.
    host.wait_for_log("trying an event again");
    let health = wait_for_health(&mut host, "degraded");
    let reason = &health["reasons"][0];
    assert_eq!((&reason["kind"], &reason["partition"]), (&json!("lag"), &json!("0 of 1")));
    assert!(reason["message"].as_str().is_some_and(|text| text.ends_with("60 s are allowed")), "{reason}");
    switch_on(setup);
    wait_for_health(&mut host, "healthy");
}

#[test]
fn a_horizon_that_is_held_back_degrades_health_and_names_who_does_it() {
    let setup = Setup::new(Kind::Postgres);
    let mut host = follow(&setup, &HTTP);
    let mut writer = setup.connect();
    writer.execute("BEGIN");
    writer.execute("SET application_name = 'billing'");
    writer.insert(&[note("late")]);
    setup.insert(&[note("waits").at("2013-01-01T00:00:00.000000Z")]);
    let health = wait_for_health(&mut host, "degraded");
    assert_eq!(health["reasons"][0]["kind"], "horizon");
    assert!(health["reasons"][0]["message"].as_str().is_some_and(|text| text.contains("(billing)")), "{health}");
    writer.execute("ROLLBACK");
    wait_for_health(&mut host, "healthy");
}

on_both_databases!(a_worker_that_has_ended_is_unhealthy_while_others_go_on);
fn a_worker_that_has_ended_is_unhealthy_while_others_go_on(setup: &Setup) {
    let mut host = setup.start(
        [
            &["run", "--plugin", &*plugin("saboteur"), "--plugin", &*plugin("counter")][..],
            &["--set", "saboteur.fail_in_migrate=yes"],
            &HTTP,
        ]
        .concat(),
    );
    let health = wait_for_health(&mut host, "unhealthy");
    let reason = &health["reasons"][0];
    assert_eq!((&reason["kind"], &reason["projection"]), (&json!("worker"), &json!("saboteur")));
    assert!(reason["message"].as_str().is_some_and(|text| text.contains("told to fail in migrate")), "{reason}");
    setup.insert(&[note("a")]);
    wait_until("the other one goes on", || setup.events_applied("counter") == 1);
    assert_eq!(host.get("/live").ask().code, 200, "a restart would help nobody");
}

#[test]
fn a_database_that_is_away_is_unhealthy_until_it_is_back() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    let mut host = follow(&setup, &HTTP);
    setup.insert(&[note("a")]);
    wait_until("it works", || noted(&setup) == 1);
    cluster.stop("immediate");
    let health = wait_for("both are told", || {
        let answer = host.get("/health").ask().json();
        (answer["reasons"].as_array().is_some_and(|reasons| reasons.len() == 2)).then_some(answer)
    });
    assert_eq!((&health["reasons"][0]["kind"], &health["reasons"][1]["kind"]), (&json!("worker"), &json!("database")));
    assert_eq!(host.get("/ready").ask().code, 503);
    assert_eq!(host.get("/live").ask().code, 200);
    cluster.resume();
    wait_for_health(&mut host, "healthy");
}

#[test]
fn where_others_can_connect_everything_but_the_probes_needs_the_token() {
    let setup = Setup::new(Kind::Sqlite);
    let error = setup.run(["run", "--plugin", &plugin("saboteur"), "--http", "0.0.0.0:0"]);
    error.failed(
        2,
        "--http 0.0.0.0:0: others than this machine can connect, and there is no token\n\
         hint: say --http-token-file FILE, or serve at 127.0.0.1",
    );
    drop(setup.file("token", format!("{TOKEN}\n")));
    let mut host = follow(&setup, &["--http", "0.0.0.0:0", "--http-token-file", "token"]);
    wait_until("it is ready", || host.get("/ready").ask().code == 200);
    assert_eq!(host.get("/live").ask().code, 200);
    for path in ["/metrics", "/health"] {
        assert_eq!(host.get(path).ask().code, 401, "{path} without a token");
        assert_eq!(host.get(path).bearing("correct horse battery stapl").ask().code, 401, "{path} with a wrong one");
        let answer = host.get(path).bearing(TOKEN).ask();
        assert_eq!(answer.code, 200, "{path}: {answer:?}");
    }
}

#[test]
fn a_page_in_a_browser_cannot_ask_under_a_name_of_its_own() {
    let setup = Setup::new(Kind::Sqlite);
    let mut host = follow(&setup, &HTTP);
    for path in ["/metrics", "/health"] {
        assert_eq!(host.get(path).with("Host: evil.example").ask().code, 403, "{path}");
        assert_eq!(host.get(path).with("Host: localhost:9187").ask().code, 200, "{path}");
    }
}

#[test]
fn what_cannot_be_served_is_told_before_anything_runs() {
    let setup = Setup::new(Kind::Sqlite);
    let run = |more: &[&str]| setup.run([&["run", "--once", "--plugin", &*plugin("saboteur")], more].concat());
    drop(setup.file("token", "short"));
    let served = ["--http", "127.0.0.1:0"];
    run(&[&served[..], &["--http-token-file", "token"]].concat())
        .failed(2, "the token in token has fewer than 16 characters\nhint: make one: openssl rand -hex 32 >FILE");
    let missing = run(&[&served[..], &["--http-token-file", "nowhere"]].concat());
    assert!(missing.exited(2).error().starts_with("the token in nowhere cannot be read: "), "{}", missing.error());
    run(&[&served[..], &["--max-lag", "sabotuer=60"]].concat()).failed(
        2,
        "--max-lag is for sabotuer, and no plugin is called that\nhint: say NAME=… of one that is loaded: saboteur",
    );
    assert!(run(&["--max-lag", "soon"]).exited(2).stderr.contains("--max-lag"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--http", &address]);
    assert!(output.exited(1).error().starts_with(&format!("cannot serve at {address}: ")), "{}", output.error());
    assert!(setup.checkpoints("saboteur").is_empty(), "nothing has run");
}
