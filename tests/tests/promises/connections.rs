//! The connections of a process: few, however many projections and partitions it works on, and of use to all of them.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use projectionist_tests::{Cluster, Event, Host, Kind, Setup, on_both_databases, plugin, wait_until};
use serde_json::json;

use crate::sabotage::{follow, note, noted, notes, order};

/// Three saboteurs of one process.
const NAMES: [&str; 3] = ["one", "two", "three"];

/// Runs them with these options.
fn start_three(setup: &Setup, more: &[&str]) -> Host {
    let plugins: Vec<String> = NAMES.iter().map(|name| format!("{name}={}", plugin("saboteur"))).collect();
    let mut arguments = vec!["run"];
    plugins.iter().for_each(|plugin| arguments.extend(["--plugin", plugin]));
    setup.start([&arguments, more].concat())
}

/// Notes of many aggregates, and now and then one that takes its time.
fn load(events: u32) -> Vec<Event> {
    let one = |number: u32| match number % 50 {
        0 => order(&format!("a{}", number % 40), json!({"do": "ponder"})),
        _ => note(&format!("a{}", number % 40)),
    };
    (0..events).map(one).collect()
}

on_both_databases!(many_workers_get_by_with_few_connections_and_every_event_counts_once);
fn many_workers_get_by_with_few_connections_and_every_event_counts_once(setup: &Setup) {
    setup.insert(&load(600));
    let host = start_three(setup, &["--workers", "4", "--connections", "2", "--batch-size", "20"]);
    let mut writing = HashMap::<String, u32>::new();
    wait_until("all three have applied all", || {
        if setup.read_model().kind() == Kind::Postgres {
            let sql = "SELECT application_name FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name LIKE 'projectionist % % of %'";
            let sessions = setup.connect().rows(sql);
            assert!(sessions.len() <= 2, "{sessions:?}");
            sessions.into_iter().flatten().for_each(|name| *writing.entry(name).or_default() += 1);
        }
        NAMES.iter().all(|name| setup.count(name, "notes") == 600)
    });
    for name in NAMES {
        assert_eq!(setup.events_applied(name), 600, "{name}");
    }
    if setup.read_model().kind() == Kind::Postgres {
        assert!(writing.len() > 2, "they are handed on: {writing:?}");
    }
    host.terminate();
    host.wait().success();
}

/// The name and the niceness of each thread of a process.
fn threads(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let niceness = |stat: String| {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
    };
    stats.filter_map(niceness).collect()
}

on_both_databases!(projections_of_lower_priority_yield_to_the_others);
fn projections_of_lower_priority_yield_to_the_others(setup: &Setup) {
    setup.insert(&(0..20).map(|number| note(&format!("a{number}"))).collect::<Vec<_>>());
    let host = start_three(setup, &["--for", "one.priority=high", "--for", "three.priority=low", "--connections", "1"]);
    wait_until("all three have applied all", || NAMES.iter().all(|name| setup.count(name, "notes") == 20));
    let threads = threads(host.pid());
    for (name, niceness) in NAMES.iter().zip([0, 5, 10]) {
        let thread = format!("{name} 0 of 1");
        assert!(threads.contains(&(thread, niceness)), "{name}: {threads:?}");
    }
    host.terminate();
    host.wait().success();
}

on_both_databases!(what_is_set_for_one_projection_holds_in_a_replica_set_too);
fn what_is_set_for_one_projection_holds_in_a_replica_set_too(setup: &Setup) {
    setup.insert(&[order("a", json!({"do": "panic"}))]);
    let set = ["--replica-set", "main", "--slots", "2"];
    let for_one = ["--for", "one.priority=high", "--for", "three.priority=low", "--for", "two.on_error=skip"];
    let host = start_three(setup, &[&set[..], &for_one].concat());
    let has_met_it = |name: &&str| !setup.checkpoints(name).is_empty() && setup.dead_letters(name).len() == 1;
    wait_until("all three have met it", || NAMES.iter().all(has_met_it));
    let reasons: Vec<_> = NAMES.iter().map(|name| setup.dead_letters(name).remove(0).reason).collect();
    assert_eq!(reasons, ["poison", "skipped", "poison"]);
    let threads = threads(host.pid());
    for (name, niceness) in NAMES.iter().zip([0, 5, 10]) {
        for slot in 0..2 {
            let thread = format!("{name} {slot} of 2");
            assert!(threads.contains(&(thread, niceness)), "{name}: {threads:?}");
        }
    }
    host.terminate();
    host.wait().success();
    let output = start_three(setup, &[&set[..], &["--for", "two.workers=3"]].concat()).wait();
    output.failed(
        2,
        "two has workers of its own, and the replica set main gives each process its share\n\
         hint: leave them out; --slots main=N says how many processes can share it",
    );
}

#[test]
fn whoever_loses_the_connection_that_holds_its_claims_claims_again_and_loses_nothing() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&load(50));
    let mut host = start_three(&setup, &["--workers", "2", "--batch-size", "5"]);
    for round in 1..=5 {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'projectionist claims %'";
        wait_until("it claims", || setup.connect().value(end) == "1");
        setup.insert(&load(50));
        wait_until("all three go on", || NAMES.iter().all(|name| setup.count(name, "notes") == 50 + 50 * round));
    }
    host.wait_for_log("will try again; nothing is lost");
    for name in NAMES {
        assert_eq!(setup.events_applied(name), 300, "{name}");
        assert!(setup.dead_letters(name).is_empty());
    }
    host.terminate();
    host.wait().success();
}

/// A way to a server that can be cut without a word to anybody: what went over it stays open, and silent.
struct Way {
    /// Where its socket is.
    folder: PathBuf,
    /// How often it was cut.
    cuts: Arc<AtomicU64>,
}

impl Way {
    /// To the server whose socket of this port is in a folder.
    fn to(server: &Path, port: u16, folder: &Path) -> Self {
        let name = format!(".s.PGSQL.{port}");
        let (from, to) = (folder.join(&name), server.join(&name));
        let listener = UnixListener::bind(&from).expect("a socket");
        let cuts = Arc::new(AtomicU64::new(0));
        let way = Self { folder: folder.to_owned(), cuts: Arc::clone(&cuts) };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&to) else { continue };
                let clone = |stream: &UnixStream| stream.try_clone().expect("another handle");
                carry(clone(&client), clone(&server), Arc::clone(&cuts));
                carry(server, client, Arc::clone(&cuts));
            }
        });
        way
    }

    /// Cuts what is open. What comes later gets through.
    fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Carries bytes one way, until the way is cut.
fn carry(mut from: UnixStream, mut to: UnixStream, cuts: Arc<AtomicU64>) {
    let before = cuts.load(Ordering::SeqCst);
    std::thread::spawn(move || {
        let mut bytes = [0; 65_536];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if cuts.load(Ordering::SeqCst) != before {
                // Neither end hears of it.
                std::thread::sleep(Duration::from_secs(3_600));
            }
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        to.shutdown(std::net::Shutdown::Both).ok();
    });
}

#[test]
fn a_server_that_is_gone_without_a_word_is_not_waited_for_forever() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    setup.insert(&[note("a")]);
    let url = setup.read_model().url();
    let (address, socket) = url.split_once("?host=").expect("a server with a socket");
    let way = Way::to(Path::new(socket), cluster.port(), setup.folder());
    let mut command = setup.command(["run", "--plugin", &plugin("saboteur")]);
    command.env("READ_MODEL_URL", format!("{address}?host={}", way.folder.display()));
    let mut host = Host::spawn(command);
    wait_until("it works", || noted(&setup) == 1);
    // In the middle of a batch: its statements wait for the table, and the answer never comes.
    let mut reader = setup.connect();
    reader.execute("BEGIN; LOCK TABLE saboteur.notes IN SHARE MODE");
    setup.insert(&[note("b"), note("c")]);
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'saboteur.notes'::regclass";
    wait_until("the batch waits for the table", || setup.connect().value(waiting) != "0");
    way.cut();
    reader.execute("ROLLBACK");
    host.wait_for_log("will try again; nothing is lost");
    setup.insert(&[note("d")]);
    wait_until("it works again", || noted(&setup) == 4);
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"], ["c", "1"], ["d", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 4);
    // And nobody else has to wait for what it left behind.
    host.kill();
    let other = follow(&setup, &[]);
    setup.insert(&[note("e")]);
    wait_until("another works", || noted(&setup) == 5);
    other.terminate();
    other.wait().success();
}
