//! The moment of the swap: readers see the old or the new and never half, live workers go on, no event is lost between
//! the two and none counts twice, and a process that is killed there leaves the one or the other.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use projectionist_tests::{
    Kind, Setup, flights, on_both_databases, on_both_databases_and_by_login, plugin, wait_until,
};
use serde_json::json;

use crate::rebuild::{
    REBUILT, begin, is_as_it_was, is_rebuilt, leaves_nothing_behind, open, rebuild, wait_at_the_gate, with_a_gate,
};
use crate::sabotage::{catch_up, follow, note, noted, notes, order};

on_both_databases_and_by_login!(live_workers_go_on_with_the_new_tables_and_every_event_counts_once);
fn live_workers_go_on_with_the_new_tables_and_every_event_counts_once(setup: &Setup) {
    let events = flights::events();
    let (first, rest) = events.split_at(3_000);
    setup.insert(first);
    let carrier_delays = plugin("carrier_delays");
    let run = ["run", "--plugin", &carrier_delays, "--workers", "2", "--batch-size", "50"];
    let mut live = setup.start(run);
    let sum = || setup.rows("carrier_delays", "SELECT sum(departed + cancelled) FROM carrier_delays");
    wait_until("it has caught up", || setup.events_applied("carrier_delays") == 3_000);
    std::thread::scope(|scope| {
        let (meanwhile, later) = rest.split_at(1_900);
        let appends = scope.spawn(|| meanwhile.chunks(10).for_each(|chunk| setup.insert(chunk)));
        // Several swaps while events come in, also from another number of partitions.
        for workers in ["2", "1", "3", "2"] {
            let rebuild = ["rebuild", "--plugin", &*carrier_delays, "--workers", workers];
            setup.run(rebuild).success();
        }
        appends.join().unwrap();
        // Whoever had nothing to do learns of the last swap only now.
        setup.insert(later);
    });
    wait_until("it has caught up", || {
        setup.checkpoints("carrier_delays").iter().all(|checkpoint| checkpoint.position == 5_000)
    });
    live.wait_for_log("claiming the partition again");
    live.terminate();
    live.wait().success();
    assert_eq!(sum(), [["5000"]]);
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    assert_eq!(setup.events_applied("carrier_delays"), 5_000);
    assert_eq!(setup.checkpoints("carrier_delays").iter().map(|c| c.total).collect::<Vec<_>>(), [2, 2]);
    leaves_nothing_behind(setup);
}

on_both_databases!(readers_see_the_old_tables_or_the_new_ones_and_never_half);
fn readers_see_the_old_tables_or_the_new_ones_and_never_half(setup: &Setup) {
    const EVENTS: usize = 300;
    const SWAPS: u64 = 5;
    setup.insert(&(0..EVENTS).map(|_| order("a", json!({"do": "fold", "name": "x", "amount": 1}))).collect::<Vec<_>>());
    catch_up(setup, &[]).success();
    let live = follow(setup, &["--batch-size", "1"]);
    let over = AtomicBool::new(false);
    // Two tables in one statement, on a connection that keeps its statements and stays open.
    let look = "SELECT (SELECT count(*) FROM notes), (SELECT min(note) FROM notes WHERE note LIKE 'old%'),
                       (SELECT max(amount) FROM totals)";
    let tamper = |number: u64| {
        let mut live = setup.read_model().connect_to("saboteur");
        // Whole or not at all: a transaction.
        live.execute(&format!(
            "BEGIN; UPDATE notes SET note = 'old{number}'; UPDATE totals SET amount = -{number}; COMMIT"
        ));
    };
    let read = || {
        let mut connection = setup.read_model().connect_to("saboteur");
        let (mut old, mut new) = (0_u64, 0_u64);
        while !over.load(Ordering::Relaxed) {
            let row = connection.rows(look).remove(0);
            assert_eq!(row[0], EVENTS.to_string(), "a whole table: {row:?}");
            match row[1].strip_prefix("old") {
                Some(number) => {
                    assert_eq!(row[2], format!("-{number}"), "of one age");
                    old += 1;
                }
                None => {
                    assert_eq!(row[1..], ["NULL", &EVENTS.to_string()], "of one age");
                    new += 1;
                }
            }
        }
        (old, new)
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        for number in 1..=SWAPS {
            tamper(number);
            rebuild(setup, &[]).success();
        }
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            let (old, new) = reader.join().unwrap();
            assert!(old > SWAPS && new > SWAPS, "it has read both: {old} and {new}");
        }
    });
    live.terminate();
    live.wait().success();
    assert_eq!(setup.events_applied("saboteur"), EVENTS as u64);
}

on_both_databases!(a_transaction_that_has_begun_sees_the_old_tables_to_its_end);
fn a_transaction_that_has_begun_sees_the_old_tables_to_its_end(setup: &Setup) {
    with_a_gate(setup);
    let mut host = begin(setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(setup);
    // A snapshot of half a rebuild; on Postgres of a transaction that has not touched the live tables yet.
    let mut reader = setup.read_model().connect_to("saboteur");
    match setup.read_model().kind() {
        Kind::Postgres => reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.events"),
        Kind::Sqlite => reader.execute("BEGIN; SELECT count(*) FROM notes"),
    }
    let old = |reader: &mut projectionist_tests::Connection| {
        assert_eq!(reader.rows("SELECT count(*), min(note), max(note) FROM notes"), [["5", "old", "old"]]);
    };
    open(setup);
    if setup.read_model().kind() == Kind::Postgres {
        // There it is waited for; others read meanwhile.
        host.wait_for_log(
            "saboteur is ready to be swapped in, and waits for those who use the live tables: a client, pid ",
        );
        old(&mut reader);
        is_as_it_was(setup);
        host.wait_for_log(
            "saboteur is ready to be swapped in, and waits for those who use the live tables: a client, pid ",
        );
        old(&mut reader);
        reader.execute("COMMIT");
        host.wait().success();
    } else {
        host.wait().success();
        old(&mut reader);
        reader.execute("COMMIT");
    }
    assert_eq!(reader.rows("SELECT count(*), min(note), max(note) FROM notes"), [["5", "1", "2"]]);
    is_rebuilt(setup);
}

on_both_databases!(killed_before_the_swap_is_committed_it_is_done_the_next_time);
fn killed_before_the_swap_is_committed_it_is_done_the_next_time(setup: &Setup) {
    with_a_gate(setup);
    let mut host = begin(setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(setup);
    // Somebody who keeps the swap from its end.
    let mut other = setup.read_model().connect_to("saboteur");
    match setup.read_model().kind() {
        Kind::Postgres => other.execute("BEGIN; LOCK TABLE notes IN ACCESS SHARE MODE"),
        Kind::Sqlite => other.execute("BEGIN IMMEDIATE"),
    }
    open(setup);
    match setup.read_model().kind() {
        Kind::Postgres => host.wait_for_log("is ready to be swapped in"),
        Kind::Sqlite => {
            let sql = "SELECT count(*) FROM _projectionist_checkpoints WHERE projection = 'saboteur'";
            let named = || setup.read_model().connect_to(REBUILT).value(sql) == "1";
            wait_until("the rebuilt file has the live names", named);
        }
    }
    host.kill();
    other.execute("ROLLBACK");
    is_as_it_was(setup);
    // The live one goes on meanwhile.
    setup.insert(&[note("e")]);
    catch_up(setup, &[]).success();
    assert_eq!(noted(setup), 6);
    rebuild(setup, &[]).success();
    assert_eq!(notes(setup).last(), Some(&vec!["e".to_owned(), "1".to_owned()]));
    assert_eq!(notes(setup)[..2], [["a", "1"], ["b", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 6);
    leaves_nothing_behind(setup);
}

/// The size of a file; 0 without one.
fn size(path: &std::path::Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

#[test]
fn killed_while_pages_are_copied_it_leaves_the_old_file_whole() {
    let setup = Setup::new(Kind::Sqlite);
    with_a_gate(&setup);
    let host = begin(&setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(&setup);
    host.kill();
    // So much that the copy takes a while.
    let mut rebuilt = setup.read_model().connect_to(REBUILT);
    rebuilt.execute(
        "CREATE TABLE ballast AS
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         SELECT i, randomblob(65536) AS bytes FROM n;
         PRAGMA wal_checkpoint(TRUNCATE)",
    );
    drop(rebuilt);
    open(&setup);
    let live = setup.read_model().file_of("saboteur");
    let wal: PathBuf = format!("{}-wal", live.display()).into();
    let mut reader = setup.read_model().connect_to("saboteur");
    let mut hits = 0;
    for _ in 0..3 {
        let host = begin(&setup, &[]);
        wait_until("pages are copied", || size(&wal) > 8 << 20);
        // It ends before it is killed only if it was done already.
        if noted_by(&mut reader) != "old" {
            break;
        }
        host.freeze();
        assert_eq!(noted_by(&mut reader), "old", "a reader does not wait for it");
        host.kill();
        assert_eq!(noted_by(&mut reader), "old");
        assert_eq!(reader.value("PRAGMA integrity_check"), "ok");
        is_as_it_was(&setup);
        // A writer goes on, over what is left of the copy.
        reader.execute("CREATE TABLE IF NOT EXISTS other (i INTEGER); INSERT INTO other VALUES (1)");
        reader.execute("PRAGMA wal_checkpoint(TRUNCATE)");
        hits += 1;
    }
    assert!(hits > 0, "it was killed while it copied");
    rebuild(&setup, &[]).success();
    is_rebuilt(&setup);
    assert_eq!(reader.value("PRAGMA integrity_check"), "ok");
    assert_eq!(reader.value("SELECT count(*) FROM ballast"), "2000");
    assert_eq!(setup.read_model().connect_to("saboteur").value("SELECT max(note) FROM notes"), "2");
}

/// A note that tells the old tables from the new ones.
fn noted_by(reader: &mut projectionist_tests::Connection) -> String {
    reader.value("SELECT min(note) FROM notes")
}

#[test]
fn killed_after_the_copy_it_leaves_nothing_that_the_next_one_goes_on_with() {
    let setup = Setup::new(Kind::Sqlite);
    with_a_gate(&setup);
    let host = begin(&setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(&setup);
    // A copy of what is there in the moment before the swap has ended: the rebuilt file with the live names.
    let mut other = setup.read_model().connect_to("saboteur");
    other.execute("BEGIN IMMEDIATE");
    open(&setup);
    let sql = "SELECT count(*) FROM _projectionist_checkpoints WHERE projection = 'saboteur'";
    wait_until("it has the live names", || setup.read_model().connect_to(REBUILT).value(sql) == "1");
    let file = setup.read_model().file_of(REBUILT);
    let kept = setup.folder().join("kept");
    let copy = format!("VACUUM INTO '{}'", kept.display());
    setup.read_model().connect_to(REBUILT).execute(&copy);
    other.execute("ROLLBACK");
    host.wait().success();
    is_rebuilt(&setup);
    std::fs::rename(&kept, &file).unwrap();
    // It is known for what it is: nothing to go on with.
    assert_eq!(rebuild(&setup, &["--discard"]).success().stdout, "there was no rebuild of saboteur to discard\n");
    is_rebuilt(&setup);
}

#[test]
fn pages_of_another_size_are_copied_too() {
    let setup = Setup::new(Kind::Sqlite);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    let mut live = setup.read_model().connect_to("saboteur");
    live.execute("PRAGMA journal_mode = DELETE; PRAGMA page_size = 16384; VACUUM; UPDATE notes SET note = 'old'");
    assert_eq!(live.value("PRAGMA page_size"), "16384");
    drop(live);
    rebuild(&setup, &[]).success();
    assert_eq!(notes(&setup), [["a", "1"]]);
    assert_eq!(setup.read_model().connect_to("saboteur").value("PRAGMA page_size"), "16384");
}

#[test]
fn who_may_read_the_live_tables_may_read_the_new_ones() {
    let setup = Setup::new(Kind::Postgres);
    with_a_gate(&setup);
    let mut connection = setup.connect();
    let role = format!("reader_{}", std::process::id());
    connection.execute(&format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA saboteur TO {role}; GRANT SELECT ON saboteur.notes TO {role};
         GRANT SELECT (name) ON saboteur.totals TO {role};
         ALTER DEFAULT PRIVILEGES IN SCHEMA saboteur GRANT SELECT ON TABLES TO {role}"
    ));
    let host = begin(&setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(&setup);
    open(&setup);
    host.wait().success();
    is_rebuilt(&setup);
    connection.execute("CREATE TABLE saboteur.later ()");
    connection.execute(&format!("SET ROLE {role}"));
    assert_eq!(connection.value("SELECT count(*) FROM saboteur.notes"), "5");
    assert_eq!(connection.value("SELECT count(name) FROM saboteur.totals"), "0");
    assert_eq!(connection.value("SELECT count(*) FROM saboteur.later"), "0");
    let denied = connection.try_execute("SELECT amount FROM saboteur.totals").unwrap_err();
    assert!(denied.contains("permission denied"), "{denied}");
    connection.execute(&format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_reader_that_stays_is_named_and_makes_nobody_wait_for_long() {
    let setup = Setup::new(Kind::Postgres);
    with_a_gate(&setup);
    let mut host = begin(&setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(&setup);
    let mut reader = setup.connect();
    reader.execute("SET application_name = 'report'; BEGIN; SELECT count(*) FROM saboteur.notes");
    open(&setup);
    host.wait_for_log("saboteur is ready to be swapped in, and waits for those who use the live tables: report, pid ");
    // Whoever comes later is let through between two attempts, whatever is asked.
    for _ in 0..20 {
        assert_eq!(setup.rows("saboteur", "SELECT count(*) FROM notes"), [["5"]]);
    }
    is_as_it_was(&setup);
    reader.execute("COMMIT");
    host.wait().success();
    is_rebuilt(&setup);
}

on_both_databases!(killed_again_and_again_rows_and_checkpoint_always_tell_the_same);
fn killed_again_and_again_rows_and_checkpoint_always_tell_the_same(setup: &Setup) {
    let events = flights::events();
    let (first, rest) = events.split_at(2_000);
    setup.insert(first);
    let carrier_delays = plugin("carrier_delays");
    let live = setup.start(["run", "--plugin", &carrier_delays, "--workers", "2", "--batch-size", "50"]);
    wait_until("it has caught up", || setup.events_applied("carrier_delays") == 2_000);
    let checkpoints = setup.own_table("checkpoints");
    let look = format!(
        "SELECT (SELECT coalesce(sum(departed + cancelled), 0) FROM carrier_delays),
                (SELECT sum(events_applied) FROM {checkpoints} WHERE projection = 'carrier_delays')"
    );
    let over = AtomicBool::new(false);
    let killed = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut connection = setup.read_model().connect_to("carrier_delays");
            let mut looks = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let row = connection.rows(&look).remove(0);
                assert_eq!(row[0], row[1], "what the rows say and what the checkpoints say");
                looks += 1;
            }
            looks
        });
        let appends = scope.spawn(|| rest.chunks(20).for_each(|chunk| setup.insert(chunk)));
        let mut killed = 0;
        // From its start to its end, and a little later each time.
        for number in 0..24_u32 {
            let workers = (number % 3 + 1).to_string();
            let mut command = setup.command(["rebuild", "--plugin", &carrier_delays, "--workers", &workers]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let mut host = command.spawn().expect("a host");
            std::thread::sleep(std::time::Duration::from_millis(u64::from(number) * 40));
            if host.try_wait().expect("asking for the process").is_none() {
                killed += 1;
            }
            host.kill().expect("killing it");
            host.wait().expect("waiting for it");
        }
        appends.join().unwrap();
        wait_until("a rebuild comes to its end", || {
            setup.run(["rebuild", "--plugin", &carrier_delays]).code == Some(0)
        });
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 100);
        killed
    });
    assert!(killed > 5, "{killed} were killed on their way");
    wait_until("it has caught up", || {
        setup.checkpoints("carrier_delays").iter().all(|checkpoint| checkpoint.position == 5_000)
    });
    live.terminate();
    live.wait().success();
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    assert_eq!(setup.events_applied("carrier_delays"), 5_000);
    leaves_nothing_behind(setup);
}
