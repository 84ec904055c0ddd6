//! Something around the projection is broken: a permission is missing, a disk is full. No event is blamed for it, and
//! when it is mended the worker goes on by itself.
//!
//! A full disk is a small tmpfs, filled: the real ENOSPC. Only root may mount one. Where that is not possible the test
//! says so and proves the same with what anybody can have: on SQLite a process whose files may not grow
//! (RLIMIT_FSIZE), on Postgres a query for which the server has no room (`temp_file_limit`).

use projectionist_tests::{
    Cluster, Database, Host, Kind, Setup, SmallDisk, event, on_both_databases, plugin, wait_until,
};
use serde_json::json;

use crate::sabotage::{catch_up, follow, note, noted, order};

/// Says that something else is proved in place of a full disk.
#[expect(clippy::print_stderr, reason = "it is for whoever reads the test's output")]
fn instead(reason: &str) {
    eprintln!("no small file system can be mounted here ({reason}): see this module for what is proved instead");
}

/// How many events need room: more than the pages hold that are there already.
const MANY: u64 = 2_000;

/// So many events.
fn many() -> Vec<projectionist_tests::Event> {
    (0..MANY).map(|number| note(&format!("many-{number}"))).collect()
}

/// That nobody was blamed, and all of it is applied.
fn recovered(setup: &Setup, host: &Host, expected: u64) {
    wait_until("it goes on by itself", || noted(setup) == expected);
    host.terminate();
    assert_eq!(setup.dead_letters("saboteur"), []);
    assert_eq!(setup.events_applied("saboteur"), expected);
}

on_both_databases!(a_table_that_somebody_alters_is_no_reason_to_give_up_an_event);
fn a_table_that_somebody_alters_is_no_reason_to_give_up_an_event(setup: &Setup) {
    let look = || {
        let statement = "SELECT * FROM survivors";
        event("Attack", "Evil", "one").payload(json!({"attack": "sql", "how": "query", "statement": statement}))
    };
    let host = setup.start(["run", "--plugin", &plugin("evil")]);
    setup.insert(&[look(), look()]);
    wait_until("it has looked", || setup.count("evil", "survivors") == 2);
    setup.read_model().connect_to("evil").execute("ALTER TABLE survivors ADD COLUMN more TEXT");
    setup.insert(&[look(), look()]);
    wait_until("it looks again", || setup.count("evil", "survivors") == 4);
    host.terminate();
    host.wait().success();
    assert_eq!(setup.dead_letters("evil"), []);
}

#[test]
fn a_lock_that_somebody_keeps_is_waited_for_however_long_it_takes() {
    let setup = Setup::new(Kind::Postgres);
    let mut host = follow(&setup, &["--max-statement-time", "400", "--max-attempts", "1"]);
    setup.insert(&[note("a")]);
    wait_until("it works", || noted(&setup) == 1);
    let mut other = setup.connect();
    other.execute("BEGIN; LOCK TABLE saboteur.notes IN SHARE MODE");
    setup.insert(&[note("a"), note("b")]);
    for _ in 0..3 {
        host.wait_for_log("(SQLSTATE 55P03)");
    }
    host.wait_for_log("will try again; nothing is lost");
    assert_eq!(setup.dead_letters("saboteur"), []);
    other.execute("ROLLBACK");
    recovered(&setup, &host, 3);
}

#[test]
fn a_permission_that_is_missing_is_waited_for() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    let mut owner = setup.connect();
    // What docs/operations.md gives to an administrator is enough to work with.
    owner.execute(include_str!("../../../deploy/postgres/roles.sql"));
    let mut command = setup.command(["run", "--plugin", &plugin("saboteur")]);
    command.env("DATABASE_URL", setup.source().url().replace("postgres@", "projectionist_host@"));
    setup.insert(&[note("a")]);
    let mut host = Host::spawn(command);
    wait_until("the first event is applied", || noted(&setup) == 1);
    let role = owner.value("SELECT quote_ident(tableowner) FROM pg_tables WHERE tablename = 'notes'");
    owner.execute(&format!("REVOKE INSERT ON saboteur.notes FROM {role}"));
    setup.insert(&[note("a"), note("b"), note("c")]);
    host.wait_for_log("permission denied for table notes");
    host.wait_for_log("(SQLSTATE 42501)");
    host.wait_for_log("will try again; nothing is lost");
    assert_eq!((noted(&setup), setup.dead_letters("saboteur")), (1, vec![]));
    owner.execute(&format!("GRANT INSERT ON saboteur.notes TO {role}"));
    recovered(&setup, &host, 4);
    host.wait().success();
}

#[test]
fn a_full_disk_of_the_server_is_waited_for() {
    let cluster = Cluster::start();
    let disk = match SmallDisk::mount(1_024, cluster.owner()) {
        Ok(disk) => disk,
        Err(reason) => {
            instead(&reason);
            return a_query_for_which_the_server_has_no_room_is_waited_for();
        }
    };
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    let mut connection = setup.connect();
    connection.execute(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
    connection.execute("ALTER TABLE saboteur.notes SET TABLESPACE small");
    let mut host = follow(&setup, &[]);
    wait_until("it works", || setup.checkpoints("saboteur")[0].epoch == 2);
    disk.fill();
    setup.insert(&many());
    host.wait_for_log("No space left on device");
    host.wait_for_log("(SQLSTATE 53100)");
    host.wait_for_log("will try again; nothing is lost");
    assert_eq!(setup.dead_letters("saboteur"), []);
    disk.clear();
    recovered(&setup, &host, 1 + MANY);
    host.wait().success();
}

#[test]
fn a_full_disk_of_a_read_model_file_is_waited_for() {
    let disk = match SmallDisk::mount(4_096, None) {
        Ok(disk) => disk,
        Err(reason) => {
            instead(&reason);
            return a_read_model_file_that_may_not_grow_is_waited_for();
        }
    };
    let setup = Setup::with_read_model(Kind::Sqlite, Database::Sqlite(disk.path().join("projectionist.db")));
    setup.insert(&[note("a")]);
    let mut host = follow(&setup, &[]);
    wait_until("the first event is applied", || noted(&setup) == 1);
    disk.fill();
    setup.insert(&many());
    host.wait_for_log("database or disk is full (SQLSTATE 53100)");
    host.wait_for_log("will try again; nothing is lost");
    disk.clear();
    recovered(&setup, &host, 1 + MANY);
    host.wait().success();
    drop(setup);
}

#[test]
fn a_read_model_file_that_may_not_grow_is_waited_for() {
    let setup = Setup::new(Kind::Sqlite);
    setup.insert(&[note("a")]);
    let mut host = Host::spawn(setup.told_of_limits(["run", "--plugin", &plugin("saboteur")]));
    wait_until("the first event is applied", || noted(&setup) == 1);
    host.limit_files(Some(1_024));
    setup.insert(&many());
    host.wait_for_log("disk I/O error (SQLSTATE 58030)");
    host.wait_for_log("will try again; nothing is lost");
    assert_eq!((noted(&setup), setup.dead_letters("saboteur")), (1, vec![]));
    host.limit_files(None);
    recovered(&setup, &host, 1 + MANY);
    host.wait().success();
}

#[test]
fn a_query_for_which_the_server_has_no_room_is_waited_for() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    let limit = |set: &str| {
        let alter = format!("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {set}', current_database()); END $$");
        setup.connect().execute(&alter);
    };
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    limit("SET temp_file_limit = 64");
    let sql = "SELECT count(*) AS n FROM generate_series(1, 1000000) AS n";
    setup.insert(&[order("a", json!({"do": "query", "sql": sql})), note("b")]);
    let mut host = follow(&setup, &[]);
    host.wait_for_log("temporary file size exceeds");
    host.wait_for_log("will try again; nothing is lost");
    assert_eq!((noted(&setup), setup.dead_letters("saboteur")), (1, vec![]));
    limit("RESET temp_file_limit");
    recovered(&setup, &host, 3);
    host.wait().success();
}
