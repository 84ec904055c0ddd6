//! An event that is stored while a host runs shows up in the read model.

use std::time::{Duration, Instant};

use projectionist_tests::{Host, Kind, Setup, event, on_all_combinations, plugin, wait_until};
use serde_json::json;

/// Whether the events table has the trigger that notifies.
fn notifies(setup: &Setup) -> bool {
    setup.connect().value("SELECT count(*) FROM pg_trigger WHERE tgname = 'projectionist_notify'") == "1"
}

/// Starts `user_count`, and waits until it has claimed its partition.
fn start(setup: &Setup) -> Host {
    let mut host = setup.start(["run", "--plugin", &plugin("user_count")]);
    host.wait_for_log("partition claimed");
    host
}

/// Stores users one by one, each when the one before is visible, and tells how long that took: for people, because a
/// loaded machine is slow, and that is no error.
#[expect(clippy::print_stderr, reason = "the measure is for whoever reads the test's output")]
fn measure(setup: &Setup, name: &str) {
    let mut writer = setup.connect();
    wait_until("the tables are there", || setup.count("user_count", "user_stats") == 0 && is_migrated(setup));
    let mut reader = setup.read_model().connect_to("user_count");
    let mut times: Vec<Duration> = Vec::new();
    for number in 1..=30 {
        let user = event("UserCreated", "User", &format!("u{number}")).payload(json!({"email": "a@example.org"}));
        let began = Instant::now();
        writer.insert(&[user]);
        let visible = number.to_string();
        while reader.value("SELECT count(*) FROM user_stats") != visible {
            assert!(began.elapsed() < Duration::from_secs(120), "event {number} does not show up");
            std::thread::yield_now();
        }
        times.push(began.elapsed());
    }
    times.sort();
    eprintln!("append to visible, {name}: median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
}

/// Whether the projection has its tables.
fn is_migrated(setup: &Setup) -> bool {
    let sql = format!("SELECT coalesce(max(schema_version), 0) FROM {}", setup.own_table("projections"));
    setup.read_model().connect_to("user_count").value(&sql) == "1"
}

on_all_combinations!(an_event_stored_while_the_host_runs_shows_up);
fn an_event_stored_while_the_host_runs_shows_up(setup: &Setup) {
    let host = start(setup);
    let kinds = format!("{:?} into {:?}", setup.source().kind(), setup.read_model().kind());
    measure(setup, &kinds);
    host.terminate();
    host.wait().success();
    assert_eq!(setup.events_applied("user_count"), 30);
}

#[test]
fn without_notifications_polling_alone_suffices() {
    let setup = Setup::new(Kind::Postgres);
    assert!(notifies(&setup));
    setup.run(["migrate", "--notify", "off"]).success();
    assert!(!notifies(&setup));
    let host = start(&setup);
    measure(&setup, "Postgres by polling");
    host.terminate();
    host.wait().success();
    // A migration that says nothing of it leaves it as it is.
    setup.run(["migrate"]).success();
    assert!(!notifies(&setup));
    setup.run(["migrate", "--notify", "on"]).success();
    assert!(notifies(&setup), "and they can be had again");
    // Nor does the first word have to be the last.
    let other = Setup::empty(Kind::Postgres);
    other.run(["migrate", "--notify", "off"]).success();
    other.run(["migrate"]).success();
    assert!(!notifies(&other));
}

#[test]
fn switching_notifications_never_keeps_writers_waiting_behind_a_long_transaction() {
    let setup = Setup::new(Kind::Postgres);
    let (mut long, mut other) = (setup.connect(), setup.connect());
    long.execute("BEGIN");
    long.insert(&[event("UserCreated", "User", "u1")]);
    let mut switch = setup.start(["migrate", "--notify", "off"]);
    switch.wait_for_log("somebody uses the events table");
    // Behind a lock that is waited for, this would wait as long as the lock does.
    other.execute("SET statement_timeout = '60s'");
    other.insert(&[event("UserCreated", "User", "u2")]);
    let ended = switch.wait();
    ended.exited(1);
    assert!(ended.error().contains("is in use: process"), "{}", ended.error());
    assert!(ended.error().contains("run it again when that has ended"), "{}", ended.error());
    assert!(notifies(&setup), "nothing was changed");
    let mut switch = setup.start(["migrate", "--notify", "off"]);
    switch.wait_for_log("somebody uses the events table");
    long.execute("COMMIT");
    switch.wait().success();
    assert!(!notifies(&setup));
}

#[test]
fn an_events_table_of_another_system_is_read_as_it_is() {
    let setup = Setup::empty(Kind::Postgres);
    // As pupsourcing makes it: without a schema of ours, a trigger or a head.
    setup.connect().execute(
        "CREATE TABLE events (global_position BIGSERIAL PRIMARY KEY, bounded_context TEXT NOT NULL,
             aggregate_type TEXT NOT NULL, aggregate_id TEXT NOT NULL, aggregate_version BIGINT NOT NULL,
             event_id UUID NOT NULL UNIQUE, event_type TEXT NOT NULL, event_version INT NOT NULL DEFAULT 1,
             payload BYTEA NOT NULL, trace_id TEXT, correlation_id TEXT, causation_id TEXT, metadata JSONB,
             created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
             UNIQUE (bounded_context, aggregate_type, aggregate_id, aggregate_version))",
    );
    let store = "INSERT INTO events (bounded_context, aggregate_type, aggregate_id, aggregate_version, event_id,
                     event_type, payload)
                 VALUES ('crm', 'User', 'ada', 1, gen_random_uuid(), 'UserCreated', '{\"email\": \"ada@example.org\"}')";
    setup.connect().execute(store);
    let folder = setup.folder().join("projectionist.db");
    let read_model = format!("sqlite://{}", folder.display());
    let plugin = plugin("user_count");
    setup.run(["run", "--once", "--plugin", &plugin, "--read-model-url", &read_model]).success();
    let users = rusqlite::Connection::open(setup.folder().join("projectionist.user_count.db")).unwrap();
    let user: String = users.query_row("SELECT email FROM user_stats", [], |row| row.get(0)).unwrap();
    assert_eq!(user, "ada@example.org");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'projectionist'";
    assert_eq!(setup.connect().value(schemas), "0", "nothing of ours was put there");
}

#[test]
fn sqlite_needs_no_setting_up() {
    let setup = Setup::empty(Kind::Sqlite);
    let user = ["append", "--aggregate-type", "User", "--aggregate-id", "ada", "--event-type", "UserCreated"];
    setup.run([&user[..], &["--payload", r#"{"email": "ada@example.org"}"#]].concat()).success();
    setup.run(["run", "--once", "--plugin", &plugin("user_count")]).success();
    assert_eq!(setup.rows("user_count", "SELECT email FROM user_stats"), [["ada@example.org"]]);
}
