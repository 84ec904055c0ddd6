//! A statement over which a process of the server dies is poison, and is dealt with like any other poison; a server that restarts,
//! or ends sessions, or loses other processes, is not the event's fault, however often it happens at the same place.

use projectionist_tests::{Cluster, Connection, Host, Setup, plugin, wait_for, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::dead_letters::{dlq, reasons};
use crate::sabotage::{follow, note, noted, notes, order};

/// A statement may take as long as it likes.
const LONG: [&str; 2] = ["--max-statement-time", "3600000"];

/// An event with a statement that takes minutes, until the switch is there.
fn lingering(aggregate: &str) -> projectionist_tests::Event {
    order(aggregate, json!({"do": "linger", "switch": "quick", "millions": 10_000}))
}

/// From now on it takes no time.
fn quicken(setup: &Setup) {
    setup.read_model().connect_to("saboteur").execute("INSERT INTO switches VALUES ('quick')");
}

/// A connection, when the server is there again.
fn connect(setup: &Setup) -> Connection {
    wait_for("the server is there", || setup.read_model().try_connect().ok())
}

/// The process of the server that works on the statement, if it does. The server may be about to recover from what
/// happened before.
fn process(setup: &Setup) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity
               WHERE application_name LIKE 'projectionist saboteur %' AND state = 'active' AND query LIKE '%EXECUTE p%'
                 AND clock_timestamp() - query_start > interval '200 milliseconds'";
    let rows = setup.read_model().try_connect().ok()?.try_rows(sql).ok()?;
    rows.first().map(|row| row[0].parse().expect("a number"))
}

/// The same, once it does.
fn at_work(setup: &Setup) -> i32 {
    wait_for("the statement runs", || process(setup))
}

/// kill -9 for a process of the server.
fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("killing a process of the server");
}

/// Kills the process of each statement that takes its time, until `is_over`.
fn kill_each(setup: &Setup, mut is_over: impl FnMut() -> bool) -> u32 {
    let mut killed = 0;
    let mut last = 0;
    while !is_over() {
        let pid = wait_for("the statement runs, or all is over", || {
            if is_over() { Some(None) } else { process(setup).filter(|pid| *pid != last).map(Some) }
        });
        if let Some(pid) = pid {
            kill(pid);
            (killed, last) = (killed + 1, pid);
        }
    }
    killed
}

/// Whether a connection shows this, of a server that may be about to recover.
fn shows(setup: &Setup, sql: &str, wanted: &str) -> bool {
    setup
        .read_model()
        .try_connect()
        .ok()
        .and_then(|mut it| it.try_rows(sql).ok())
        .is_some_and(|rows| rows.first().is_some_and(|row| row[0] == wanted))
}

/// Whether a process of the server is gone.
fn has_ended(setup: &Setup, pid: i32) -> bool {
    shows(setup, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"), "0")
}

/// All that was to be applied is, and nobody was blamed.
fn nobody_is_blamed(setup: &Setup, host: Host) {
    let pid = at_work(setup);
    quicken(setup);
    connect(setup).execute(&format!("SELECT pg_terminate_backend({pid})"));
    wait_until("all is applied", || shows(setup, "SELECT count(*) FROM saboteur.notes", "4"));
    assert_eq!(setup.dead_letters("saboteur"), []);
    assert_eq!(setup.events_applied("saboteur"), 4);
    host.terminate();
    host.wait().success();
}

#[test]
fn an_event_over_which_processes_of_the_server_die_is_parked_and_the_others_are_applied() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a"), note("b"), lingering("bad"), note("bad"), note("c")]);
    let mut host = follow(&setup, &LONG);
    let parked = "SELECT count(*) FROM projectionist.dead_letters";
    let killed = kill_each(&setup, || shows(&setup, parked, "2"));
    assert!(killed >= 6, "three times with the others, and three times alone, and not only {killed} times");
    wait_until("the others are applied", || noted(&setup) == 3);
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"], ["c", "1"]]);
    let letters = setup.dead_letters("saboteur");
    let error = "the server's process died each of the 3 times that this event was applied alone (SQLSTATE 08X01)";
    assert_eq!((letters[0].error.as_str(), letters[0].attempts), (error, 3));
    assert_eq!(reasons(&setup).iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>(), ["poison", "behind"]);
    host.wait_for_log("a process of the server died over this event");
    assert_eq!(setup.events_applied("saboteur"), 3);
    // Asked to try again, it does not kill processes for ever.
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| dlq(&setup, &["retry", "--all", "--timeout", "100"]));
        kill_each(&setup, || {
            shows(&setup, "SELECT count(*) FROM projectionist.dead_letter_requests WHERE outcome = 'failed'", "1")
        });
        asked.join().expect("the command")
    });
    drop(asked);
    assert!(setup.dead_letters("saboteur")[0].error.contains("the connection was lost each time that it was tried"));
    // Mended, it is applied.
    quicken(&setup);
    dlq(&setup, &["retry", "--all"]).success();
    assert_eq!((setup.dead_letters("saboteur"), noted(&setup)), (vec![], 5));
    host.terminate();
    host.wait().success();
}

#[test]
fn who_is_to_end_when_it_has_caught_up_gets_past_such_an_event() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a"), lingering("bad"), note("c")]);
    let arguments = ["run", "--once", "--plugin", &plugin("saboteur")];
    let host = Host::spawn(setup.command([&arguments[..], &LONG].concat()));
    kill_each(&setup, || shows(&setup, "SELECT count(*) FROM projectionist.dead_letters", "1"));
    host.wait().success();
    assert_eq!(notes(&setup), [["a", "1"], ["c", "1"]]);
}

#[test]
fn an_event_is_not_blamed_for_restarts_ended_sessions_and_the_death_of_others() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a"), lingering("slow"), note("slow"), note("b")]);
    let mut host = follow(&setup, &LONG);
    // Somebody ends its session, until its events go one by one.
    for _ in 0..3 {
        let pid = at_work(&setup);
        connect(&setup).execute(&format!("SELECT pg_terminate_backend({pid})"));
        wait_until("it has ended", || has_ended(&setup, pid));
    }
    host.wait_for_log("applying events one by one");
    for _ in 0..4 {
        // The server is stopped at once, and started.
        at_work(&setup);
        cluster.stop("immediate");
        cluster.resume();
        // Another process dies, and the server ends all and recovers.
        let ours = at_work(&setup);
        let mut other = connect(&setup);
        kill(other.value("SELECT pg_backend_pid()").parse().expect("a number"));
        wait_until("all were ended", || has_ended(&setup, ours));
    }
    nobody_is_blamed(&setup, host);
}
