//! Replica sets: processes share the slots of a projection by themselves, fairly and in full, whoever comes, goes, is killed or
//! freezes; and every event is applied once, in the order of its aggregate.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use projectionist_tests::chaos::random::Random;
use projectionist_tests::{
    Event, Host, Kind, Setup, on_both_databases, on_both_databases_and_by_login, plugin, wait_until,
};
use serde_json::Value;

use crate::metrics::{HTTP, wait_for_metric};
use crate::sabotage::{catch_up, follow, note, noted, notes, order};

/// How many aggregates the notes are of: enough for every slot to have some.
pub(crate) const AGGREGATES: usize = 64;

/// Starts a process that shares the work.
pub(crate) fn join(setup: &Setup, more: &[&str]) -> Host {
    follow(setup, &[&["--replica-set", "main"], more].concat())
}

/// A round of notes: one of each aggregate.
fn round() -> Vec<Event> {
    (0..AGGREGATES).map(|number| note(&format!("a{number}"))).collect()
}

/// What `host status` says.
fn status(setup: &Setup) -> Value {
    let output = setup.run(["status", "--json"]);
    output.success();
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// A list in what it says.
fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The owners of the slots by the roster, and of the checkpoints by what they really are.
fn owners(setup: &Setup, set: &str, projection: &str) -> (BTreeMap<u64, String>, BTreeMap<u64, String>) {
    let status = status(setup);
    let (mut by_roster, mut in_truth) = (BTreeMap::new(), BTreeMap::new());
    for member in
        list(&status["replica_sets"]).iter().filter(|other| other["name"] == set).flat_map(|set| list(&set["members"]))
    {
        let name = member["name"].as_str().expect("a name");
        let owner = name.rsplit_once('#').expect("an owner and a number").0;
        for slot in list(&member["slots"][projection]) {
            by_roster.insert(slot.as_u64().expect("a slot"), owner.to_owned());
        }
    }
    for partition in list(&status["projections"])
        .iter()
        .filter(|other| other["name"] == projection)
        .flat_map(|of| list(&of["partitions"]))
    {
        if partition["running"] == true {
            let key = partition["partition_key"].as_u64().expect("a key");
            in_truth.insert(key, partition["owner"].as_str().expect("an owner").to_owned());
        }
    }
    (by_roster, in_truth)
}

/// Waits until exactly these processes work, each on its share of the slots; gives how many slots each has.
#[track_caller]
pub(crate) fn settled(setup: &Setup, hosts: &[&Host], slots: usize) -> Vec<usize> {
    let is_of = |host: &Host, owner: &String| owner.ends_with(&format!("/{}", host.pid()));
    let mut shares = Vec::new();
    wait_until("every slot is worked on by whom the roster says", || {
        let (by_roster, in_truth) = owners(setup, "main", "saboteur");
        shares = hosts.iter().map(|host| in_truth.values().filter(|owner| is_of(host, owner)).count()).collect();
        by_roster == in_truth
            && by_roster.len() == slots
            && shares.iter().sum::<usize>() == slots
            && !shares.contains(&0)
    });
    shares
}

/// Sees that all rounds are there, each note once and in the order of its aggregate.
#[track_caller]
pub(crate) fn every_note_once(setup: &Setup, rounds: usize) {
    let mut of_aggregate: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in notes(setup) {
        of_aggregate.entry(row[0].clone()).or_default().push(row[1].clone());
    }
    let expected: Vec<String> = (1..=rounds).map(|version| version.to_string()).collect();
    assert_eq!(of_aggregate.len(), AGGREGATES);
    for (aggregate, notes) in of_aggregate {
        assert_eq!(notes, expected, "{aggregate}");
    }
    assert_eq!(setup.events_applied("saboteur"), (AGGREGATES * rounds) as u64);
    assert!(setup.dead_letters("saboteur").is_empty());
}

/// Ends a process as an operator would; gives how many events it has applied, by its own account.
#[track_caller]
pub(crate) fn leave(host: Host) -> u64 {
    host.terminate();
    let ended = host.wait();
    ended.success();
    let line = ended.stderr.lines().find(|line| line.contains("left the replica set")).expect("it says so");
    let events = line.rsplit_once("events=").expect("and how many").1;
    events.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Stores rounds without a pause, until what is done beside it is done; gives how many.
pub(crate) fn under_load(setup: &Setup, beside: impl FnOnce(&AtomicUsize)) -> usize {
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = setup.connect();
            while !done.load(Ordering::SeqCst) {
                connection.insert(&round());
                rounds.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        // Also when a test fails in there: the writer has to end.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _end = End(&done);
        beside(&rounds);
    });
    rounds.into_inner()
}

on_both_databases!(who_comes_or_goes_moves_only_the_slots_that_must_move);
fn who_comes_or_goes_moves_only_the_slots_that_must_move(setup: &Setup) {
    let last = |setup: &Setup| status(setup)["replica_sets"][0]["last_change"].clone();
    let first = join(setup, &[]);
    assert_eq!(settled(setup, &[&first], 16), [16]);
    assert!(last(setup)["reason"].as_str().is_some_and(|reason| reason.ends_with("joined, with 16 slots")));
    let second = join(setup, &[]);
    assert_eq!(settled(setup, &[&first, &second], 16), [8, 8]);
    assert_eq!(last(setup)["moved"], 8);
    let third = join(setup, &[]);
    assert_eq!(settled(setup, &[&first, &second, &third], 16), [6, 5, 5]);
    assert_eq!(last(setup)["moved"], 5);
    let epochs = |setup: &Setup| -> Vec<u64> { setup.checkpoints("saboteur").iter().map(|slot| slot.epoch).collect() };
    let before = epochs(setup);
    leave(second);
    assert_eq!(settled(setup, &[&first, &third], 16), [8, 8]);
    assert!(last(setup)["reason"].as_str().is_some_and(|reason| reason.ends_with(" left")), "{}", last(setup));
    assert_eq!((last(setup)["generation"].as_u64(), last(setup)["moved"].as_u64()), (Some(4), Some(5)));
    let claimed = before.iter().zip(epochs(setup)).filter(|(before, now)| **before != *now).count();
    assert_eq!(claimed, 5, "nobody else had to claim again");
    setup.insert(&round());
    wait_until("all is applied", || noted(setup) == AGGREGATES as u64);
    let text = setup.run(["status"]);
    text.success();
    assert!(text.stdout.contains("replica set main: 2 members, 16 slots, generation 4 ("), "{}", text.stdout);
    assert!(text.stdout.contains(": 8 of saboteur\n"), "{}", text.stdout);
    leave(first);
    leave(third);
    every_note_once(setup, 1);
    assert_eq!(status(setup)["replica_sets"][0]["members"], serde_json::json!([]));
}

on_both_databases_and_by_login!(of_three_workers_one_is_killed_and_one_added_and_every_one_did_part_of_the_work);
fn of_three_workers_one_is_killed_and_one_added_and_every_one_did_part_of_the_work(setup: &Setup) {
    let mut survivors = Vec::new();
    let rounds = under_load(setup, |_| {
        let (first, second, third) = (join(setup, &[]), join(setup, &[]), join(setup, &[]));
        settled(setup, &[&first, &second, &third], 16);
        let owner = format!("/{}", second.pid());
        wait_until("the second has done part of the work", || {
            let checkpoints = setup.checkpoints("saboteur");
            checkpoints.iter().any(|slot| slot.owner.ends_with(&owner) && slot.events_applied > 0)
        });
        second.kill();
        settled(setup, &[&first, &third], 16);
        let fourth = join(setup, &[]);
        settled(setup, &[&first, &third, &fourth], 16);
        let before = noted(setup);
        wait_until("and on it goes", || noted(setup) > before + 4 * AGGREGATES as u64);
        survivors = vec![first, third, fourth];
    });
    wait_until("all is applied", || noted(setup) == (rounds * AGGREGATES) as u64);
    for (number, host) in survivors.into_iter().enumerate() {
        assert!(leave(host) > 0, "survivor {number} did part of the work");
    }
    every_note_once(setup, rounds);
}

on_both_databases!(a_frozen_worker_is_replaced_within_stale_after_and_comes_back_as_another);
fn a_frozen_worker_is_replaced_within_stale_after_and_comes_back_as_another(setup: &Setup) {
    let stale = ["--stale-after", "3"];
    let (mut first, second) = (join(setup, &stale), join(setup, &stale));
    settled(setup, &[&first, &second], 16);
    setup.insert(&round());
    wait_until("both work", || noted(setup) == AGGREGATES as u64);
    second.freeze();
    setup.insert(&round());
    first.wait_for_log("gave no sign of life");
    assert_eq!(settled(setup, &[&first], 16), [16]);
    wait_until("the first does it all", || noted(setup) == 2 * AGGREGATES as u64);
    second.thaw();
    assert_eq!(settled(setup, &[&first, &second], 16), [8, 8]);
    setup.insert(&round());
    wait_until("both work again", || noted(setup) == 3 * AGGREGATES as u64);
    leave(first);
    leave(second);
    every_note_once(setup, 3);
}

#[test]
fn who_works_but_gives_no_sign_of_life_stays_away_until_it_does() {
    let setup = Setup::new(Kind::Postgres);
    let stale = ["--stale-after", "3"];
    let first = join(&setup, &stale);
    assert_eq!(settled(&setup, &[&first], 16), [16]);
    let mut second = join(&setup, &stale);
    settled(&setup, &[&first, &second], 16);
    // Its sign of life cannot be written, and all its other sessions work.
    let mut in_the_way = setup.connect();
    let row = format!("SELECT FROM projectionist.workers WHERE owner LIKE '%/{}' FOR UPDATE", second.pid());
    in_the_way.execute(&format!("BEGIN; {row}"));
    second.wait_for_log("taken out of the replica set");
    assert_eq!(settled(&setup, &[&first], 16), [16]);
    for rounds in 1..=3 {
        setup.insert(&round());
        wait_until("the first does it all", || noted(&setup) == rounds * AGGREGATES as u64);
    }
    in_the_way.execute("COMMIT");
    assert_eq!(settled(&setup, &[&first, &second], 16), [8, 8]);
    let reasons = setup.connect().rows("SELECT reason FROM projectionist.replica_generations ORDER BY generation");
    assert_eq!(reasons.len(), 4, "came, came, was taken out, came back: {reasons:?}");
    leave(first);
    leave(second);
    every_note_once(&setup, 3);
}

on_both_databases_and_by_login!(another_number_of_slots_is_an_exact_rescale_that_all_members_follow);
fn another_number_of_slots_is_an_exact_rescale_that_all_members_follow(setup: &Setup) {
    let mut hosts = Vec::new();
    let rounds = under_load(setup, |_| {
        let (first, second) = (join(setup, &["--slots", "6"]), join(setup, &["--slots", "6"]));
        assert_eq!(settled(setup, &[&first, &second], 6), [3, 3]);
        let mut third = join(setup, &["--slots", "main=4"]);
        let mut shares = settled(setup, &[&first, &second, &third], 4);
        shares.sort_unstable();
        assert_eq!(shares, [1, 1, 2]);
        third.wait_for_log("joined, and changed 6 slots to 4");
        let before = noted(setup);
        wait_until("and on it goes", || noted(setup) > before + 2 * AGGREGATES as u64);
        hosts = vec![first, second, third];
    });
    wait_until("all is applied", || noted(setup) == (rounds * AGGREGATES) as u64);
    for host in hosts {
        leave(host);
    }
    every_note_once(setup, rounds);
    assert!(setup.checkpoints("saboteur").iter().all(|slot| slot.total == 4));
}

on_both_databases!(at_random_processes_come_go_and_are_killed_and_no_event_is_lost_or_doubled);
fn at_random_processes_come_go_and_are_killed_and_no_event_is_lost_or_doubled(setup: &Setup) {
    let seed = std::process::id().into();
    let mut random = Random::new(seed);
    let mut hosts = vec![join(setup, &[])];
    let rounds = under_load(setup, |rounds| {
        for step in 0..14 {
            match random.below(4) {
                0 if hosts.len() > 1 => hosts.remove(0).kill(),
                1 if hosts.len() > 1 => {
                    let mut host = hosts.remove(0);
                    // Before it listens for signals, one ends it as a kill does.
                    host.wait_for_log("following the roster");
                    leave(host);
                }
                _ if hosts.len() < 5 => hosts.push(join(setup, &[])),
                _ => hosts.remove(0).kill(),
            }
            if hosts.is_empty() {
                hosts.push(join(setup, &[]));
            }
            // Some changes come in the middle of the one before.
            if random.percent(60) {
                let (stored, before) = (rounds.load(Ordering::SeqCst), noted(setup));
                wait_until(&format!("seed {seed}, step {step}: the set goes on"), || {
                    noted(setup) > before && rounds.load(Ordering::SeqCst) > stored
                });
            }
        }
    });
    wait_until(&format!("seed {seed}: all is applied"), || noted(setup) == (rounds * AGGREGATES) as u64);
    for mut host in hosts {
        host.wait_for_log("following the roster");
        leave(host);
    }
    every_note_once(setup, rounds);
}

on_both_databases!(an_operator_sees_who_is_in_a_set_in_the_metrics);
fn an_operator_sees_who_is_in_a_set_in_the_metrics(setup: &Setup) {
    let of = ["replica_set=\"main\""];
    let mut first = join(setup, &HTTP);
    wait_for_metric(&mut first, "projectionist_replica_set_members", &of, 1.0);
    let second = join(setup, &[]);
    settled(setup, &[&first, &second], 16);
    wait_for_metric(&mut first, "projectionist_replica_set_members", &of, 2.0);
    wait_for_metric(&mut first, "projectionist_replica_set_generation", &of, 2.0);
    wait_for_metric(&mut first, "projectionist_replica_set_slots", &of, 16.0);
    wait_for_metric(&mut first, "projectionist_workers", &["state=\"running\""], 8.0);
    leave(second);
    wait_for_metric(&mut first, "projectionist_workers", &["state=\"running\""], 16.0);
    leave(first);
}

on_both_databases!(one_process_takes_part_in_several_sets);
fn one_process_takes_part_in_several_sets(setup: &Setup) {
    let (second, one, two) = (format!("second={}", plugin("saboteur")), "main=saboteur", "other=second");
    let arguments =
        ["--plugin", &*second, "--replica-set", one, "--replica-set", two, "--slots", "4", "--slots", "other=2"];
    let (both, half) = (follow(setup, &arguments), join(setup, &[]));
    assert_eq!(settled(setup, &[&both, &half], 4), [2, 2]);
    wait_until("the other set is the first process's alone", || {
        let (by_roster, in_truth) = owners(setup, "other", "second");
        by_roster == in_truth && by_roster.len() == 2
    });
    setup.insert(&round());
    wait_until("all is applied", || {
        noted(setup) == AGGREGATES as u64 && setup.count("second", "notes") == AGGREGATES as u64
    });
    assert!(leave(half) > 0);
    leave(both);
    assert_eq!(setup.events_applied("second"), AGGREGATES as u64);
    every_note_once(setup, 1);
}

on_both_databases!(a_process_that_cannot_go_on_leaves_its_slots_to_others);
fn a_process_that_cannot_go_on_leaves_its_slots_to_others(setup: &Setup) {
    let strict = join(setup, &["--on-error", "stop"]);
    settled(setup, &[&strict], 16);
    setup.insert(&[note("a1"), order("poisoned", serde_json::json!({"do": "fail"})), note("a2")]);
    strict.wait().exited(3);
    assert_eq!(status(setup)["replica_sets"][0]["members"], serde_json::json!([]));
    let tolerant = join(setup, &[]);
    wait_until("the others are applied, and one is parked", || {
        noted(setup) == 2 && setup.dead_letters("saboteur").len() == 1
    });
    leave(tolerant);
}

#[test]
fn a_restart_of_the_server_ends_no_process_and_moves_no_slot() {
    let cluster = projectionist_tests::Cluster::start();
    let setup = Setup::on(&cluster);
    let (first, second) = (join(&setup, &[]), join(&setup, &[]));
    settled(&setup, &[&first, &second], 16);
    let before = status(&setup)["replica_sets"][0]["last_change"].clone();
    cluster.stop("immediate");
    cluster.resume();
    settled(&setup, &[&first, &second], 16);
    assert_eq!(
        status(&setup)["replica_sets"][0]["last_change"],
        before,
        "nobody was taken for dead, and no slot has moved"
    );
    setup.insert(&round());
    wait_until("all is applied", || noted(&setup) == AGGREGATES as u64);
    leave(first);
    leave(second);
    every_note_once(&setup, 1);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let setup = Setup::new(Kind::Sqlite);
    for (arguments, expected) in [
        (&["--replica-set", "main", "--workers", "2"][..], "cannot be used with"),
        (&["--replica-set", "main", "--once"], "cannot be used with"),
        (&["--slots", "4"], "--replica-set"),
        (&["--replica-set", "Main"], "Main"),
        (&["--replica-set", "main", "--slots", "0"], "say 1 to 1024 slots"),
        (&["--replica-set", "main=other"], "the replica set main has no projection other to share"),
        (&["--replica-set", "main", "--slots", "mian=4"], "--slots is for mian, and no replica set is called that"),
    ] {
        let output = follow(&setup, arguments).wait();
        assert!(output.stderr.contains(expected), "{arguments:?}: {}", output.stderr);
        output.exited(2);
    }
    catch_up(&setup, &[]).success();
}
