//! A backup that was taken while events flow is a read model as it was at some moment, and a host goes on exactly there.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use projectionist_tests::{Kind, Setup, cluster, on_both_databases, wait_until};

use crate::sabotage::{catch_up, follow, note, noted, notes};

/// How many aggregates there are.
const AGGREGATES: usize = 8;

/// Copies everything into an empty place, with the tools that an operator would take.
fn back_up_and_restore(setup: &Setup, into: &Setup) {
    match setup.read_model().kind() {
        Kind::Postgres => {
            let dump = into.folder().join("dump.sql");
            run("pg_dump", &["--dbname", &setup.read_model().url(), "--file"], &dump);
            run(
                "psql",
                &["--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", &into.read_model().url(), "--file"],
                &dump,
            );
        }
        Kind::Sqlite => {
            // The read model first: it may be older than the events, and must not be newer.
            for projection in [Some("saboteur"), None] {
                let (mut from, to) = match projection {
                    Some(name) => (setup.read_model().connect_to(name), into.read_model().file_of(name)),
                    None => (setup.connect(), into.folder().join("projectionist.db")),
                };
                from.execute(&format!("VACUUM INTO '{}'", to.display()));
            }
        }
    }
}

/// Runs a program of Postgres' with a file as its last argument.
fn run(program: &str, arguments: &[&str], file: &Path) {
    let path = cluster::programs().map_or_else(|| program.into(), |folder| folder.join(program));
    let output = Command::new(path).args(arguments).arg(file).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

on_both_databases!(a_backup_taken_while_events_flow_goes_on_elsewhere_without_loss_or_doubles);
fn a_backup_taken_while_events_flow_goes_on_elsewhere_without_loss_or_doubles(setup: &Setup) {
    let restored = Setup::empty(setup.read_model().kind());
    let host = follow(setup, &[]);
    std::thread::scope(|scope| {
        let (done, told) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let mut connection = setup.connect();
            while told.recv_timeout(Duration::from_millis(2)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                connection.insert(&(0..AGGREGATES).map(|number| note(&format!("a{number}"))).collect::<Vec<_>>());
            }
        });
        wait_until("events flow", || noted(setup) > 200);
        back_up_and_restore(setup, &restored);
        drop(done);
    });
    host.terminate();
    host.wait().success();
    let before = noted(&restored);
    assert!(before > 200 && before < noted(setup), "it was taken in the middle: {before}");
    for _ in 0..5 {
        restored.insert(&(0..AGGREGATES).map(|number| note(&format!("a{number}"))).collect::<Vec<_>>());
    }
    catch_up(&restored, &[]).success();
    // Not the last position: `pg_dump` takes the sequence as it is when it comes to it.
    let events: usize = restored.connect().value("SELECT count(*) FROM events").parse().expect("a number");
    let found = notes(&restored);
    assert_eq!(found.len(), events);
    for number in 0..AGGREGATES {
        let aggregate = format!("a{number}");
        let versions: Vec<_> = found.iter().filter(|row| row[0] == aggregate).map(|row| row[1].clone()).collect();
        assert_eq!(versions, (1..=events / AGGREGATES).map(|version| version.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(restored.events_applied("saboteur"), events as u64);
}
