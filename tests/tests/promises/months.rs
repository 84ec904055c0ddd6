//! Events in months (`host migrate --partition-events monthly`): whatever holds of one table holds of its months, old months can be
//! dropped, and whoever has not applied them is told.

use std::sync::atomic::Ordering;

use projectionist_tests::{Cluster, Connection, Host, Kind, Output, Setup, plugin, wait_for, wait_until};
use serde_json::{Value, json};

use crate::metrics::{HTTP, wait_for_metric};
use crate::replica_sets::{AGGREGATES, every_note_once, under_load};
use crate::sabotage::{catch_up, follow, note, noted, notes};

/// Lays events out in months.
fn partition(setup: &Setup) -> Output {
    setup.run(["migrate", "--partition-events", "monthly"])
}

/// Events in months.
fn in_months() -> Setup {
    let setup = Setup::new(Kind::Postgres);
    partition(&setup).success();
    setup
}

/// The partitions of the events table, in order, with their bounds.
fn months(connection: &mut Connection) -> Vec<Vec<String>> {
    connection.execute("SET timezone = 'UTC'");
    connection.rows(
        "SELECT relname, pg_get_expr(relpartbound, pg_class.oid) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'events'::regclass ORDER BY relname",
    )
}

/// The first moment of a month, so many behind the current one.
fn first_of_month(setup: &Setup, number: i32) -> String {
    setup.connect().value(&format!(
        "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => {number}), 'YYYY-MM-DD')"
    )) + "T00:00:00.000000Z"
}

/// Has the first partition end with the current month, and no month behind it have one: as if nobody had run `host migrate` since
/// then. Where two days are left of the month, it would end with the next one.
fn forget_the_coming_months(setup: &Setup) {
    let mut connection = setup.connect();
    for month in months(&mut connection) {
        if month[1] != "DEFAULT" {
            connection.execute(&format!("DROP TABLE {}", month[0]));
        }
    }
    connection.execute("CREATE TABLE events_before (LIKE events_default INCLUDING ALL)");
    let next = first_of_month(setup, 1);
    connection.execute(&format!(
        "ALTER TABLE events ATTACH PARTITION events_before FOR VALUES FROM (MINVALUE) TO ('{next}')"
    ));
}

/// Detaches a partition, and drops it.
fn drop_month(setup: &Setup, name: &str) {
    setup.connect().execute(&format!("ALTER TABLE events DETACH PARTITION {name}; DROP TABLE {name}"));
}

/// The partition with everything that there was at first.
fn first_partition(setup: &Setup) -> String {
    let months = months(&mut setup.connect());
    let first = months.into_iter().map(|mut month| month.remove(0)).find(|name| name.starts_with("events_before"));
    first.expect("a first partition")
}

/// What `host doctor` says of months that is not well.
fn doctor(setup: &Setup) -> Vec<String> {
    let output = setup.run(["doctor", "--json"]);
    let found: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let list = found["findings"].as_array().expect("findings").clone();
    let is_one = |finding: &&Value| finding["kind"] == "months" && finding["grade"] != "ok";
    let told = |finding: &Value| format!("{}: {}", finding["grade"], finding["message"]).replace('"', "");
    list.iter().filter(is_one).map(told).collect()
}

#[test]
fn a_table_with_events_is_laid_out_in_months_under_load_and_every_event_is_applied_once() {
    let setup = Setup::new(Kind::Postgres);
    let mut hosts = Vec::new();
    let rounds = under_load(&setup, |rounds| {
        hosts = vec![follow(&setup, &["--workers", "2"])];
        wait_until("events are applied", || noted(&setup) > 4 * AGGREGATES as u64);
        let before = rounds.load(Ordering::SeqCst);
        partition(&setup).success();
        wait_until("writers write on", || rounds.load(Ordering::SeqCst) > before + 20);
        // And again, while all of it goes on.
        partition(&setup).success();
        setup.run(["migrate", "--notify", "off"]).success();
        setup.run(["migrate", "--notify", "on"]).success();
    });
    wait_until("all is applied", || noted(&setup) == (rounds * AGGREGATES) as u64);
    for host in hosts {
        host.terminate();
        host.wait().success();
    }
    every_note_once(&setup, rounds);
    let mut connection = setup.connect();
    let keys = "SELECT count(*) FROM projectionist.event_keys FULL JOIN events USING (global_position, event_id, bounded_context,
                    aggregate_type, aggregate_id, aggregate_version) WHERE created_at IS NOT NULL AND event_keys IS NOT NULL";
    assert_eq!(connection.value(keys), (rounds * AGGREGATES).to_string(), "each event has its keys");
    let trigger =
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'events'::regclass AND tgname = 'projectionist_notify'";
    assert_eq!(connection.value(trigger), "1", "and hosts are woken");
    let months = months(&mut connection);
    assert!(months.len() >= 4, "{months:?}");
    assert!(months.iter().any(|month| month == &["events_default", "DEFAULT"]), "{months:?}");
    assert_eq!(doctor(&setup), Vec::<String>::new());
}

#[test]
fn a_log_of_many_months_is_applied_in_the_order_of_its_positions() {
    let setup = in_months();
    let times: Vec<_> = (-2..=5).map(|number| first_of_month(&setup, number)).collect();
    let mut connection = setup.connect();
    // Up and down: positions and months go different ways.
    for round in 0..5 {
        for at in times.iter().rev() {
            connection.insert(&[note(&format!("a{round}")).at(at), note("all").at(at)]);
        }
        connection.execute("BEGIN");
        connection.insert(&[note("never")]);
        connection.execute("ROLLBACK");
    }
    catch_up(&setup, &["--workers", "3", "--batch-size", "7"]).success();
    let all: Vec<Vec<String>> = notes(&setup).into_iter().filter(|note| note[0] == "all").collect();
    assert_eq!(all, (1..=40).map(|version| vec!["all".to_owned(), version.to_string()]).collect::<Vec<_>>());
    assert_eq!((noted(&setup), setup.events_applied("saboteur")), (80, 80));
    // An export is the log, too.
    let export = setup.run(["export"]).success().stdout.clone();
    assert_eq!(export.lines().count(), 80);
    let other = in_months();
    let file = other.file("events.ndjson", export);
    other.run(["import", &file.display().to_string()]).success();
    other.run(["import", &file.display().to_string()]).success();
    assert_eq!(other.connect().value("SELECT count(*) FROM events"), "80");
}

#[test]
fn a_writer_of_any_month_keeps_the_horizon_back() {
    let setup = in_months();
    let host = follow(&setup, &[]);
    let mut late = setup.connect();
    late.execute("BEGIN");
    late.insert(&[note("late").at(&first_of_month(&setup, 3))]);
    setup.insert(&[note("early")]);
    wait_until("it is seen to write", || {
        let report = setup.run(["status", "--json"]);
        report.success().stdout.contains("\"pid\"")
    });
    assert_eq!(noted(&setup), 0);
    late.execute("COMMIT");
    wait_until("both are applied", || noted(&setup) == 2);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(&setup), [["late", "1"], ["early", "1"]]);
}

#[test]
fn a_page_is_a_walk_along_the_keys_of_all_months() {
    let setup = in_months();
    let at = first_of_month(&setup, 2);
    let mut connection = setup.connect();
    for _ in 0..20 {
        let page: Vec<_> = (0..50).flat_map(|n| [note(&format!("a{n}")), note(&format!("b{n}")).at(&at)]).collect();
        connection.insert(&page);
    }
    connection.execute("SET enable_sort = off; SET jit = off");
    for analyze in ["SELECT 1", "ANALYZE events"] {
        connection.execute(analyze);
        for query in [
            "SELECT * FROM events WHERE global_position > 10 AND global_position <= 2000 ORDER BY global_position LIMIT 100",
            "SELECT max(global_position) FROM events",
            "SELECT created_at FROM events WHERE global_position > 10 ORDER BY global_position LIMIT 1",
        ] {
            let plan = connection.rows(&format!("EXPLAIN (COSTS off) {query}")).concat().join("\n");
            assert!(plan.contains("Merge Append") && plan.contains("Index"), "{analyze}: {query}\n{plan}");
            assert!(!plan.contains("->  Sort") && !plan.contains("Seq Scan"), "{analyze}: {query}\n{plan}");
        }
    }
}

/// Stores an event past the host, as a writer that takes care of everything itself.
fn store(connection: &mut Connection, id: u32, aggregate: &str, version: u32, at: &str) -> Result<(), String> {
    connection.try_execute(&format!(
        "INSERT INTO events (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, created_at)
         VALUES ('00000000-0000-0000-0000-{id:012}', 'Saboteur', '{aggregate}', {version}, 'Order', '{{\"do\": \"note\"}}', '{at}')"
    ))
}

#[test]
fn what_is_unique_of_an_event_is_so_across_months_for_every_writer() {
    let setup = Setup::new(Kind::Postgres);
    let mut connection = setup.connect();
    let now = first_of_month(&setup, 0);
    store(&mut connection, 1, "a", 1, &now).unwrap();
    partition(&setup).success();
    // A writer that may do nothing else.
    connection.execute("DROP ROLE IF EXISTS months_writer; CREATE ROLE months_writer");
    connection.execute(
        "GRANT INSERT ON events TO months_writer; GRANT USAGE ON SEQUENCE events_global_position_seq TO months_writer",
    );
    connection.execute("SET ROLE months_writer");
    let later = first_of_month(&setup, 3);
    store(&mut connection, 2, "a", 2, &later).unwrap();
    for (id, aggregate, version) in [(1, "b", 1), (2, "b", 1), (3, "a", 1), (3, "a", 2)] {
        for at in [&now, &later] {
            let error = store(&mut connection, id, aggregate, version, at).unwrap_err();
            assert!(error.contains("duplicate key value violates unique constraint \"events_"), "{error}");
        }
    }
    // Two at the same moment: the second waits for the first, and loses.
    let mut other = setup.connect();
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ");
    store(&mut other, 4, "a", 3, &now).unwrap();
    let pid = connection.value("SELECT pg_backend_pid()");
    let error = std::thread::scope(|scope| {
        let second = scope.spawn(|| store(&mut connection, 5, "a", 3, &later));
        let waits = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'");
        let mut look = setup.connect();
        wait_until("the second one waits", || look.value(&waits) == "1");
        other.execute("COMMIT");
        second.join().expect("it ends").unwrap_err()
    });
    assert!(error.contains("violates unique constraint"), "{error}");
    connection.execute("RESET ROLE");
    assert_eq!(connection.value("SELECT count(*) FROM events"), "3");
    connection.execute("DROP OWNED BY months_writer; DROP ROLE months_writer");
}

#[test]
fn an_append_knows_what_was_stored_in_months_that_are_gone() {
    let setup = in_months();
    let append = |more: &[&str]| {
        let user = [
            "append",
            "--aggregate-type",
            "User",
            "--aggregate-id",
            "u1",
            "--event-type",
            "UserCreated",
            "--payload",
            "{}",
        ];
        setup.run([&user[..], more].concat())
    };
    let id = ["--event-id", "018f3b7e-7c00-7000-8000-000000000001"];
    append(&id).success();
    append(&["--expected-version", "1"]).success();
    let first = first_partition(&setup);
    drop_month(&setup, &first);
    // Also where nobody keeps heads.
    setup.connect().execute("DELETE FROM aggregate_heads");
    let again = append(&id);
    assert!(again.exited(1).error().contains("is stored already, at position 1"), "{}", again.error());
    let at = first_of_month(&setup, 3);
    let next = append(&["--expected-version", "2", "--created-at", &at]);
    assert_eq!(next.success().stdout, "position 3, version 3\n");
}

#[test]
fn whoever_has_not_applied_what_went_with_its_month_is_told() {
    let setup = in_months();
    setup.insert(&[note("a")]);
    let counter = ["run", "--once", "--plugin", &*plugin("counter")];
    catch_up(&setup, &[]).success();
    setup.run(counter).success();
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    let first = first_partition(&setup);
    drop_month(&setup, &first);
    setup.insert(&[note("b").at(&first_of_month(&setup, 3))]);
    let told = doctor(&setup);
    let gone = "problem: counter is at 1, and events after that, up to 2, have been taken away with their months: it will not apply them";
    assert_eq!(told, [gone]);
    let warning = "they went with their months, and will not be applied";
    let output = catch_up(&setup, &[]);
    assert!(!output.success().stderr.contains(warning), "{}", output.stderr);
    assert_eq!(notes(&setup), [["a", "1"], ["a", "2"], ["b", "1"]]);
    let output = setup.run(counter);
    assert!(output.success().stderr.contains(warning), "{}", output.stderr);
    assert_eq!(setup.events_applied("counter"), 2);
    // Events go on being numbered: the sequence did not go with the month.
    assert_eq!(setup.last_position(), 3);
}

/// Waits until a host's health has this reason, or none.
fn wait_for_health(host: &mut Host, kind: Option<&str>) {
    wait_for(&format!("its health has this reason: {kind:?}"), || {
        let health = host.get("/health").ask().json();
        let first = health["reasons"].get(0).map_or(Value::Null, |reason| reason["kind"].clone());
        (first == kind.map_or(Value::Null, |kind| json!(kind))).then_some(())
    });
}

#[test]
fn events_of_a_month_that_nobody_has_made_are_applied_and_move_when_somebody_does() {
    let setup = in_months();
    forget_the_coming_months(&setup);
    let mut host = follow(&setup, &HTTP);
    wait_for_metric(&mut host, "projectionist_events_months_ahead", &[], 0.0);
    wait_for_health(&mut host, Some("months"));
    let ahead = "warning: the events of the next month have no partition, and would go to events_default";
    assert_eq!(doctor(&setup), [ahead]);
    let next = first_of_month(&setup, 1);
    setup.insert(&[note("a").at(&next), note("b")]);
    wait_until("both are applied", || noted(&setup) == 2);
    assert_eq!(setup.connect().value("SELECT count(*) FROM events_default"), "1");
    setup.run(["migrate"]).success();
    assert_eq!(setup.connect().value("SELECT count(*) FROM events_default"), "0");
    assert_eq!(setup.connect().value("SELECT count(*) FROM events"), "2");
    wait_for_metric(&mut host, "projectionist_events_months_ahead", &[], 3.0);
    wait_for_health(&mut host, None);
    setup.insert(&[note("a").at(&next), note("b").at(&first_of_month(&setup, 9))]);
    wait_until("all are applied", || noted(&setup) == 4);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"], ["a", "2"], ["b", "2"]]);
    assert_eq!(doctor(&setup), Vec::<String>::new());
    // What lies in the default partition too late is told of.
    setup.connect().execute(&format!("ALTER TABLE events DETACH PARTITION {}", "events_before"));
    setup.insert(&[note("c")]);
    let late = "events_default has events of a month whose partition was not there in time";
    assert!(doctor(&setup).iter().any(|told| told.contains(late)), "{:?}", doctor(&setup));
    // And moves, also to a month that has passed.
    setup.insert(&[note("c").at(&first_of_month(&setup, -2))]);
    setup.run(["migrate"]).success();
    let left = format!("SELECT count(*) FROM events_default WHERE created_at < '{next}'");
    assert_eq!(setup.connect().value(&left), "0");
    assert_eq!(setup.connect().value("SELECT count(*) FROM events WHERE aggregate_id = 'c'"), "2");
    assert_eq!(doctor(&setup), Vec::<String>::new());
}

#[test]
fn a_table_that_something_hangs_on_is_refused_with_what_to_do() {
    let setup = Setup::new(Kind::Postgres);
    let mut connection = setup.connect();
    connection.execute(
        "CREATE VIEW latest AS SELECT max(global_position) FROM events;
         CREATE TABLE mails (event BIGINT REFERENCES events);
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER outbox AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION nothing();
         ALTER TABLE events DROP CONSTRAINT events_event_id_key;
         ALTER TABLE events ALTER event_id DROP NOT NULL;
         CREATE PUBLICATION of_all FOR ALL TABLES; CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA public;
         CREATE PUBLICATION by_root FOR ALL TABLES WITH (publish_via_partition_root = true)",
    );
    let output = partition(&setup);
    let error = output.exited(2).error();
    for obstacle in [
        "no unique index on (event_id) says that its keys are unique",
        "the foreign key mails_event_fkey of mails: drop it, a partitioned table has no key for one to point to",
        "the view latest, which reads it: drop it, and make it again afterwards",
        "the trigger outbox: drop it, and make it again afterwards",
        "event_id may be NULL, and is a key of an event: ALTER TABLE events ALTER event_id SET NOT NULL",
        "the publication of_all of all tables, which would send events under the names of months",
        "the publication of_schema of all tables in its schema, which would send events under the names of months",
        "hint: events are stored as before; do what stands there, and run it again",
    ] {
        assert!(error.contains(obstacle), "{obstacle}: {error}");
    }
    assert!(!error.contains("by_root"), "{error}");
    assert_eq!(connection.value("SELECT to_regclass('projectionist.event_keys') IS NULL"), "true");
    connection.execute(
        "DROP VIEW latest; DROP TABLE mails; DROP TRIGGER outbox ON events; CREATE UNIQUE INDEX again ON events (event_id);
         ALTER TABLE events ALTER event_id SET NOT NULL; ALTER PUBLICATION of_all SET (publish_via_partition_root = true);
         ALTER PUBLICATION of_schema SET (publish_via_partition_root = true)",
    );
    // An event of the far future is found before anything is made.
    let mut late = setup.connect();
    late.execute("BEGIN");
    late.insert(&[note("a").at("2999-01-01T00:00:00.000000Z")]);
    late.execute("COMMIT");
    let error = partition(&setup);
    assert!(error.exited(2).error().contains("until then there would be one partition only"), "{}", error.error());
    assert_eq!(connection.value("SELECT to_regclass('projectionist.event_keys') IS NULL"), "true");
    connection.execute("DELETE FROM events");
    partition(&setup).success();
    // Who has laid it out otherwise has done so for a reason.
    let other = Setup::new(Kind::Postgres);
    other.connect().execute(
        "ALTER TABLE events RENAME TO plain; CREATE TABLE events (LIKE plain INCLUDING DEFAULTS) PARTITION BY HASH (aggregate_id);
         CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    );
    let error = partition(&other);
    assert!(error.exited(2).error().contains("it is partitioned already, and not by this host"), "{}", error.error());
    other.run(["migrate"]).success();
}

#[test]
fn a_file_has_no_months() {
    let setup = Setup::new(Kind::Sqlite);
    let error = format!(
        "--partition-events monthly is for Postgres, and the events are in {}\n\
         hint: leave it out: a file has no partitions to drop",
        setup.source().shown()
    );
    partition(&setup).failed(2, &error);
}

#[test]
fn an_attempt_that_is_ended_half_way_leaves_the_table_as_it_was() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    // A reader lets the trigger and the copying of keys pass, and nothing that comes then.
    let mut reader = setup.connect();
    reader.execute("BEGIN; LOCK TABLE events IN ACCESS SHARE MODE");
    for signal in [Host::terminate, Host::interrupt] {
        let mut migrate = setup.start(["migrate", "--partition-events", "monthly"]);
        migrate.wait_for_log("somebody uses the events table");
        signal(&migrate);
        reader.execute("COMMIT");
        let ended = migrate.wait();
        assert!(ended.exited(1).error().contains("partitioning the events table was interrupted"), "{}", ended.error());
        reader.execute("BEGIN; LOCK TABLE events IN ACCESS SHARE MODE");
    }
    let bound = "SELECT count(*) FROM pg_constraint WHERE conname = 'projectionist_until'";
    assert_eq!(reader.value(bound), "0");
    reader.execute("COMMIT");
    // What a kill would leave.
    reader.execute("ALTER TABLE events ADD CONSTRAINT projectionist_until CHECK (created_at < '2100-01-01') NOT VALID");
    assert!(
        doctor(&setup)[0].contains("is at work, or was killed: events takes none but CHECK"),
        "{:?}",
        doctor(&setup)
    );
    let migrated = setup.run(["migrate"]);
    assert!(migrated.success().stderr.contains("was killed half-way"), "{}", migrated.stderr);
    assert_eq!(reader.value(bound), "0");
    setup.insert(&[note("a")]);
    partition(&setup).success();
    catch_up(&setup, &[]).success();
    assert_eq!(notes(&setup), [["a", "1"], ["a", "2"]]);
    assert_eq!(reader.value(bound), "0");
}

#[test]
fn the_least_that_a_host_needs_is_enough_where_events_lie_in_months() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    partition(&setup).success();
    setup.connect().execute(include_str!("../../../deploy/postgres/roles.sql"));
    setup.insert(&[note("a"), note("a").at(&first_of_month(&setup, 2))]);
    let mut command = setup.command(["run", "--once", "--plugin", &plugin("saboteur")]);
    command.env("DATABASE_URL", setup.source().url().replace("postgres@", "projectionist_host@"));
    Host::spawn(command).wait().success();
    assert_eq!(notes(&setup), [["a", "1"], ["a", "2"]]);
    let mut command = setup.command(["doctor", "--json", "--quiet"]);
    command.env("DATABASE_URL", setup.source().url().replace("postgres@", "projectionist_host@"));
    let told = Host::spawn(command).wait().stdout.clone();
    assert!(!told.contains("this user lacks") && !told.contains("permission denied"), "{told}");
}

/// How many wait for a lock in this database, by what they are called in their session.
fn waiting(connection: &mut Connection, named: &str) -> u64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE wait_event_type = 'Lock' AND datname = current_database() AND application_name = '{named}'"
    );
    connection.value(&sql).parse().expect("a number")
}

#[test]
fn a_page_and_an_event_that_wait_while_a_month_is_made_miss_nothing() {
    let setup = in_months();
    forget_the_coming_months(&setup);
    let next = first_of_month(&setup, 1);
    let host = follow(&setup, &[]);
    setup.insert(&[note("a").at(&next)]);
    let (mut look, mut holder) = (setup.connect(), setup.connect());
    // Lets readers and writers pass, and the month wait.
    holder.execute("BEGIN; LOCK TABLE events_default IN ACCESS SHARE MODE");
    let migrate = setup.start(["migrate"]);
    std::thread::scope(|scope| {
        let mut version = 1;
        // A try of the month lasts half a second only: again, until both have come in time to wait behind it.
        let (reader, writer) = loop {
            version += 1;
            wait_until("the month waits", || waiting(&mut look, "projectionist migrate") == 1);
            let (mut page, mut event) = (setup.connect(), setup.connect());
            page.execute("SET application_name = 'reader'");
            event.execute("SET application_name = 'writer'");
            let next = &next;
            let reader = scope.spawn(move || page.value("SELECT count(*) FROM events WHERE aggregate_version = 1"));
            let writer = scope.spawn(move || store(&mut event, version, "a", version, next));
            let both = |look: &mut Connection| waiting(look, "reader") + waiting(look, "writer") == 2;
            wait_until("they wait, or have ended", || both(&mut look) || reader.is_finished() && writer.is_finished());
            if both(&mut look) && waiting(&mut look, "projectionist migrate") == 1 {
                break (reader, writer);
            }
            assert_eq!(reader.join().expect("it ends"), "1");
            writer.join().expect("it ends").unwrap();
        };
        holder.execute("COMMIT");
        assert_eq!(reader.join().expect("it ends"), "1", "the event that moved is on the page");
        writer.join().expect("it ends").unwrap();
        migrate.wait().success();
        assert_eq!(look.value("SELECT count(*) FROM events_default"), "0");
        wait_until("all is applied", || noted(&setup) == u64::from(version));
        host.terminate();
        host.wait().success();
        let all: Vec<_> = (1..=version).map(|version| vec!["a".to_owned(), version.to_string()]).collect();
        assert_eq!(notes(&setup), all);
    });
}

#[test]
fn what_keeps_events_out_is_taken_back_however_long_that_takes() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    let bound = "SELECT count(*) FROM pg_constraint WHERE conname = 'projectionist_until'";
    let mut look = setup.connect();
    for twice in [true, false] {
        let (mut first, mut second) = (setup.connect(), setup.connect());
        first.execute("BEGIN; LOCK TABLE events IN ACCESS SHARE MODE");
        let mut migrate = setup.start(["migrate", "--partition-events", "monthly"]);
        // Comes between the constraint and the switch, because it waits behind the one and in front of the other.
        second.execute("SET application_name = 'second'");
        second.execute("BEGIN");
        while look.value(bound) == "0" {
            wait_until("the constraint waits", || waiting(&mut look, "projectionist migrate") == 1);
            second.execute("ROLLBACK; BEGIN");
            second = std::thread::scope(|scope| {
                let lock = scope.spawn(|| {
                    second.execute("LOCK TABLE events IN ACCESS SHARE MODE");
                    second
                });
                wait_until("it waits, or has it", || waiting(&mut look, "second") == 1 || lock.is_finished());
                if waiting(&mut look, "second") == 1 {
                    first.execute("ROLLBACK; BEGIN");
                }
                lock.join().expect("it ends")
            });
            if look.value(bound) == "0" {
                first.execute("ROLLBACK; BEGIN; LOCK TABLE events IN ACCESS SHARE MODE");
            }
        }
        wait_until("the switch waits", || waiting(&mut look, "projectionist migrate") == 1);
        migrate.terminate();
        migrate.wait_for_log("cannot take CHECK projectionist_until from the events table yet");
        assert_eq!(look.value(bound), "1");
        if twice {
            migrate.terminate();
            let ended = migrate.wait();
            let error = "events dated later than it says are refused";
            assert!(ended.exited(1).error().contains(error), "{}", ended.error());
            second.execute("COMMIT");
            setup.run(["migrate"]).success();
        } else {
            second.execute("COMMIT");
            let ended = migrate.wait();
            assert!(
                ended.exited(1).error().contains("partitioning the events table was interrupted"),
                "{}",
                ended.error()
            );
        }
        assert_eq!(look.value(bound), "0");
    }
}

#[test]
fn an_autovacuum_is_no_reason_to_give_up() {
    let cluster = Cluster::start_with("autovacuum_naptime = '1s'\n");
    let setup = Setup::on(&cluster);
    let mut connection = setup.connect();
    connection.execute(
        "ALTER TABLE events SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0,
             autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
         INSERT INTO events (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload)
         SELECT gen_random_uuid(), 'Saboteur', 'a', number, 'Order', '{}' FROM generate_series(1, 20000) AS number;
         DELETE FROM events WHERE aggregate_version % 2 = 0",
    );
    let at_work = "SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)
                   WHERE relation = 'events'::regclass AND backend_type = 'autovacuum worker'";
    wait_until("an autovacuum is at work", || connection.value(at_work) == "true");
    let output = partition(&setup);
    assert!(output.success().stderr.contains("autovacuum"), "{}", output.stderr);
}

#[test]
fn a_default_partition_with_much_in_it_keeps_no_migration_back() {
    let setup = in_months();
    forget_the_coming_months(&setup);
    let next = first_of_month(&setup, 1);
    setup.connect().execute(&format!(
        "INSERT INTO events (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, created_at)
         SELECT gen_random_uuid(), 'Saboteur', 'a', number, 'Order', '{{}}', '{next}' FROM generate_series(1, 50001) AS number"
    ));
    let output = setup.run(["migrate"]);
    assert!(output.success().stderr.contains("too many to be moved"), "{}", output.stderr);
    assert_eq!(setup.connect().value("SELECT count(*) FROM events_default"), "50001");
}
