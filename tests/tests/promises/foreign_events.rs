//! An events table that somebody else has made is read as it is: one that is partitioned by month, and that of a
//! pupsourcing application, which has its own columns, indexes and consumers, and nothing of ours.

use projectionist_tests::{Cluster, Connection, Kind, Setup, wait_for, wait_until};
use serde_json::Value;

use crate::sabotage::{catch_up, follow, noted, notes};

/// The columns of an events table, on Postgres, as pupsourcing has them: no default for the context.
const COLUMNS: &str = "
    bounded_context TEXT NOT NULL, aggregate_type TEXT NOT NULL, aggregate_id TEXT NOT NULL,
    aggregate_version BIGINT NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL,
    event_version INT NOT NULL DEFAULT 1, payload BYTEA NOT NULL, trace_id TEXT, correlation_id TEXT,
    causation_id TEXT, metadata JSONB, created_at TIMESTAMPTZ NOT NULL DEFAULT now()";

/// An events table partitioned by month. Unique constraints have to include the partition key.
pub(crate) fn partitioned(cluster: &Cluster) -> Setup {
    let setup = Setup::empty_on(cluster);
    let mut connection = setup.connect();
    connection.execute(&format!(
        "CREATE TABLE events (global_position BIGSERIAL, {COLUMNS},
             PRIMARY KEY (global_position, created_at), UNIQUE (event_id, created_at),
             UNIQUE (bounded_context, aggregate_type, aggregate_id, aggregate_version, created_at)
         ) PARTITION BY RANGE (created_at)"
    ));
    for (month, next) in [("2026_05", "2026_06"), ("2026_06", "2026_07")] {
        connection.execute(&partition(month, next));
    }
    setup
}

/// Makes the partition of a month.
fn partition(month: &str, next: &str) -> String {
    let first = |month: &str| format!("{}-01", month.replace('_', "-"));
    let (from, to) = (first(month), first(next));
    format!("CREATE TABLE events_{month} PARTITION OF events FOR VALUES FROM ('{from}') TO ('{to}')")
}

/// Inserts an event that the saboteur notes, into any table, at any time.
fn insert(connection: &mut Connection, table: &str, aggregate: &str, version: u32, at: &str) {
    let id = uuid::Uuid::new_v4();
    connection.execute(&format!(
        "INSERT INTO {table} (bounded_context, aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
                              event_version, payload, created_at)
         VALUES ('default', 'Saboteur', '{aggregate}', {version}, '{id}', 'Order', 1, '{{\"do\": \"note\"}}', '{at}')"
    ));
}

/// A transaction that has inserted an event into this table and is still open.
fn open_transaction(setup: &Setup, table: &str, aggregate: &str, at: &str) -> Connection {
    let mut connection = setup.connect();
    connection.execute("BEGIN");
    insert(&mut connection, table, aggregate, 1, at);
    connection
}

/// Waits until `host status` says that somebody keeps the horizon back.
fn wait_until_blocked(setup: &Setup) {
    wait_for("the horizon is kept back", || {
        let output = setup.run(["status", "--json"]);
        let report: Value = serde_json::from_str(&output.success().stdout).expect("a report in JSON");
        report["horizon"]["blockers"].as_array().is_some_and(|blockers| !blockers.is_empty()).then_some(())
    });
}

#[test]
fn whoever_writes_directly_into_a_partition_keeps_the_horizon_back() {
    let setup = partitioned(Cluster::shared());
    setup.run(["migrate"]).success();
    let host = follow(&setup, &[]);
    let mut late = open_transaction(&setup, "events_2026_05", "late", "2026-05-20T12:00:00Z");
    insert(&mut setup.connect(), "events", "early", 1, "2026-06-20T12:00:00Z");
    wait_until_blocked(&setup);
    assert_eq!(noted(&setup), 0);
    late.execute("COMMIT");
    wait_until("both are applied", || noted(&setup) == 2);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(&setup), [["late", "1"], ["early", "1"]]);
}

#[test]
fn a_partition_that_is_made_while_the_host_runs_is_read_and_watched() {
    let setup = partitioned(Cluster::shared());
    setup.run(["migrate"]).success();
    let host = follow(&setup, &[]);
    insert(&mut setup.connect(), "events", "june", 1, "2026-06-20T12:00:00Z");
    wait_until("the first is applied", || noted(&setup) == 1);
    setup.connect().execute(&partition("2026_07", "2026_08"));
    let mut late = open_transaction(&setup, "events_2026_07", "late", "2026-07-01T12:00:00Z");
    insert(&mut setup.connect(), "events", "early", 1, "2026-06-30T12:00:00Z");
    wait_until_blocked(&setup);
    late.execute("COMMIT");
    wait_until("both are applied", || noted(&setup) == 3);
    // One that stood alone, and is attached with nothing in it.
    let (like, attach) = (
        "CREATE TABLE events_2026_08 (LIKE events INCLUDING ALL)",
        "ALTER TABLE events ATTACH PARTITION events_2026_08 FOR VALUES FROM ('2026-08-01') TO ('2026-09-01')",
    );
    setup.connect().execute(like);
    setup.connect().execute(attach);
    let mut late = open_transaction(&setup, "events_2026_08", "later", "2026-08-01T12:00:00Z");
    insert(&mut setup.connect(), "events", "august", 1, "2026-08-02T12:00:00Z");
    wait_until_blocked(&setup);
    late.execute("COMMIT");
    wait_until("all are applied", || noted(&setup) == 5);
    host.terminate();
    host.wait().success();
    let expected = [["june", "1"], ["late", "1"], ["early", "1"], ["later", "1"], ["august", "1"]];
    assert_eq!(notes(&setup), expected);
}

#[test]
fn whoever_makes_a_partition_and_fills_it_in_one_transaction_is_waited_for() {
    let setup = partitioned(Cluster::shared());
    setup.run(["migrate"]).success();
    let host = follow(&setup, &[]);
    insert(&mut setup.connect(), "events", "june", 1, "2026-06-20T12:00:00Z");
    wait_until("the first is applied", || noted(&setup) == 1);
    // It locks the events table for everybody, readers too, until it commits.
    let mut late = setup.connect();
    late.execute("BEGIN");
    late.execute(&partition("2026_07", "2026_08"));
    insert(&mut late, "events_2026_07", "late", 1, "2026-07-01T12:00:00Z");
    late.execute("COMMIT");
    insert(&mut setup.connect(), "events", "early", 1, "2026-06-30T12:00:00Z");
    wait_until("both are applied", || noted(&setup) == 3);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(&setup), [["june", "1"], ["late", "1"], ["early", "1"]]);
}

#[test]
fn events_are_stored_and_exported_in_a_partitioned_table() {
    let setup = partitioned(Cluster::shared());
    setup.run(["migrate"]).success();
    let append =
        ["append", "--aggregate-type", "Saboteur", "--aggregate-id", "a", "--event-type", "Order", "--payload"];
    for version in ["no-stream", "1"] {
        let more = [r#"{"do": "note"}"#, "--created-at", "2026-06-01T00:00:00Z", "--expected-version", version];
        setup.run([&append[..], &more].concat()).success();
    }
    let again = [r#"{"do": "note"}"#, "--created-at", "2026-05-01T00:00:00Z", "--expected-version", "1"];
    setup.run([&append[..], &again].concat()).exited(1);
    catch_up(&setup, &[]).success();
    assert_eq!(notes(&setup), [["a", "1"], ["a", "2"]]);
    let exported = setup.run(["export", "-"]);
    assert_eq!(exported.success().stdout.lines().count(), 2);
}

/// The database of a pupsourcing application, as its own migration leaves it.
fn pupsourcing(kind: Kind) -> Setup {
    let setup = Setup::empty(kind);
    let (columns, position) = match kind {
        Kind::Postgres => (COLUMNS.to_owned(), "BIGSERIAL PRIMARY KEY"),
        Kind::Sqlite => {
            let columns = COLUMNS.replace("BIGINT", "INTEGER").replace("INT NOT NULL", "INTEGER NOT NULL");
            let columns = columns.replace("UUID", "TEXT").replace("JSONB", "TEXT").replace("BYTEA", "BLOB");
            (
                columns.replace("TIMESTAMPTZ NOT NULL DEFAULT now()", "TEXT NOT NULL DEFAULT (datetime('now'))"),
                "INTEGER PRIMARY KEY AUTOINCREMENT",
            )
        }
    };
    let (time, now) = match kind {
        Kind::Postgres => ("TIMESTAMPTZ", "now()"),
        Kind::Sqlite => ("TEXT", "(datetime('now'))"),
    };
    if let Kind::Sqlite = kind {
        std::fs::File::create(setup.folder().join("projectionist.db")).expect("a file");
    }
    let key = "bounded_context, aggregate_type, aggregate_id";
    setup.connect().execute(&format!(
        "CREATE TABLE events (global_position {position}, {columns}, UNIQUE (event_id),
                              UNIQUE ({key}, aggregate_version));
         CREATE INDEX idx_events_aggregate ON events ({key}, aggregate_version);
         CREATE INDEX idx_events_event_type ON events (event_type, global_position);
         CREATE INDEX idx_events_correlation ON events (correlation_id) WHERE correlation_id IS NOT NULL;
         CREATE TABLE aggregate_heads (bounded_context TEXT NOT NULL, aggregate_type TEXT NOT NULL,
             aggregate_id TEXT NOT NULL, aggregate_version BIGINT NOT NULL, updated_at {time} NOT NULL DEFAULT {now},
             PRIMARY KEY ({key}));
         CREATE INDEX idx_aggregate_heads_updated ON aggregate_heads (updated_at);
         CREATE TABLE consumer_checkpoints (consumer_name TEXT PRIMARY KEY,
             last_global_position BIGINT NOT NULL DEFAULT 0, updated_at {time} NOT NULL DEFAULT {now});
         CREATE INDEX idx_consumer_checkpoints_updated ON consumer_checkpoints (updated_at);
         CREATE TABLE consumer_segments (consumer_name TEXT NOT NULL, segment_id INT NOT NULL,
             total_segments INT NOT NULL, owner_id TEXT, checkpoint BIGINT NOT NULL DEFAULT 0, last_heartbeat {time},
             PRIMARY KEY (consumer_name, segment_id));
         CREATE INDEX idx_consumer_segments_owner ON consumer_segments (consumer_name, owner_id)"
    ));
    setup
}

/// Stores an event as such an application does: it reads the head, inserts, and raises the head.
fn append(connection: &mut Connection, aggregate: &str, version: u32) {
    // Its times on SQLite have no offset.
    let at = "2026-06-20 12:00:00.123456";
    insert(connection, "events", aggregate, version, at);
    connection.execute(&format!(
        "INSERT INTO aggregate_heads (bounded_context, aggregate_type, aggregate_id, aggregate_version, updated_at)
         VALUES ('default', 'Saboteur', '{aggregate}', {version}, '{at}')
         ON CONFLICT (bounded_context, aggregate_type, aggregate_id)
         DO UPDATE SET aggregate_version = {version}, updated_at = '{at}'"
    ));
}

/// What its tables look like, which nobody may change.
fn shape(setup: &Setup) -> Vec<Vec<String>> {
    setup.connect().rows(match setup.source().kind() {
        Kind::Postgres => {
            "SELECT table_name, column_name, data_type, column_default, is_nullable FROM information_schema.columns
             WHERE table_name IN ('events', 'aggregate_heads', 'consumer_checkpoints', 'consumer_segments')
             ORDER BY table_name, ordinal_position"
        }
        Kind::Sqlite => {
            "SELECT name, sql FROM sqlite_master WHERE tbl_name IN ('events', 'aggregate_heads', 'consumer_checkpoints',
             'consumer_segments') ORDER BY name"
        }
    })
}

/// A host takes it as it is, misses nothing and changes nothing.
fn is_taken_as_it_is(kind: Kind) {
    let setup = pupsourcing(kind);
    let mut writer = setup.connect();
    append(&mut writer, "a", 1);
    let before = shape(&setup);
    setup.run(["migrate"]).success();
    assert_eq!(shape(&setup), before);
    let host = follow(&setup, &["--workers", "2"]);
    wait_until("what was there is applied", || noted(&setup) == 1);
    append(&mut writer, "a", 2);
    append(&mut writer, "b", 1);
    // The host's own way to store events goes on from the application's heads.
    let own = ["append", "--aggregate-type", "Saboteur", "--aggregate-id", "b", "--event-type", "Order", "--payload"];
    setup.run([&own[..], &[r#"{"do": "note"}"#, "--expected-version", "1"]].concat()).success();
    wait_until("all are applied", || noted(&setup) == 4);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(&setup), [["a", "1"], ["a", "2"], ["b", "1"], ["b", "2"]]);
    assert_eq!(shape(&setup), before);
    assert_eq!(setup.connect().value("SELECT aggregate_version FROM aggregate_heads WHERE aggregate_id = 'b'"), "2");
    let status = setup.run(["status"]);
    assert!(status.success().stdout.contains("horizon 4, the last event"), "{}", status.stdout);
}

#[test]
fn a_pupsourcing_database_on_postgres_is_taken_as_it_is() {
    is_taken_as_it_is(Kind::Postgres);
}

#[test]
fn a_pupsourcing_database_on_sqlite_is_taken_as_it_is() {
    is_taken_as_it_is(Kind::Sqlite);
}

#[test]
fn an_event_of_a_pupsourcing_application_that_commits_late_is_not_lost() {
    let setup = pupsourcing(Kind::Postgres);
    setup.run(["migrate"]).success();
    let host = follow(&setup, &[]);
    let mut late = setup.connect();
    late.execute("BEGIN");
    append(&mut late, "late", 1);
    append(&mut setup.connect(), "early", 1);
    wait_until_blocked(&setup);
    append(&mut late, "late", 2);
    late.execute("COMMIT");
    wait_until("all are applied", || noted(&setup) == 3);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(&setup), [["late", "1"], ["early", "1"], ["late", "2"]]);
}
