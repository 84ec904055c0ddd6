//! One worker a partition: others stand by, take over when it ends however it ends, and whoever has lost its partition
//! can do no harm.

use projectionist_tests::{
    Cluster, Event, Kind, Setup, flights, on_all_combinations, on_both_databases, on_both_databases_and_by_login,
    plugin, wait_for, wait_until,
};
use serde_json::json;

use crate::sabotage::{catch_up, follow, note, noted, notes, order};

on_both_databases_and_by_login!(a_second_process_stands_by_and_takes_over_when_the_first_is_killed);
fn a_second_process_stands_by_and_takes_over_when_the_first_is_killed(setup: &Setup) {
    setup.insert(&[note("a")]);
    let first = follow(setup, &[]);
    wait_until("the first process works", || noted(setup) == 1);
    let mut second = follow(setup, &[]);
    second.wait_for_log("standing by: somebody else works on this partition");
    let claim = setup.checkpoints("saboteur").remove(0);
    assert!(claim.owner.ends_with(&format!("/{}", first.pid())), "{claim:?}");
    assert!(second.log().contains(&claim.owner), "it says for whom:\n{}", second.log());
    first.kill();
    setup.insert(&[note("b")]);
    wait_until("the second process has taken over", || noted(setup) == 2);
    let takeover = setup.checkpoints("saboteur").remove(0);
    assert!(takeover.owner.ends_with(&format!("/{}", second.pid())), "{takeover:?}");
    assert_eq!(takeover.epoch, claim.epoch + 1);
    second.terminate();
    second.wait().success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 2);
}

on_both_databases!(a_process_that_is_asked_to_end_releases_its_partition);
fn a_process_that_is_asked_to_end_releases_its_partition(setup: &Setup) {
    let first = follow(setup, &[]);
    wait_until("the first process works", || !setup.checkpoints("saboteur").is_empty());
    let mut second = follow(setup, &[]);
    second.wait_for_log("standing by");
    first.terminate();
    first.wait().success();
    second.wait_for_log("partition claimed");
    second.interrupt();
    second.wait().success();
}

#[test]
fn a_batch_that_cannot_end_in_time_is_applied_whole_or_not_at_all() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    catch_up(&setup, &[]).success();
    setup.insert(&[note("b"), note("c")]);
    let mut reader = setup.connect();
    reader.execute("BEGIN; LOCK TABLE saboteur.notes IN SHARE MODE");
    let mut host = follow(&setup, &["--shutdown-timeout", "1"]);
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'saboteur.notes'::regclass";
    wait_until("the batch waits for the table", || setup.connect().value(waiting) != "0");
    host.terminate();
    host.wait_for_log("not finished in time");
    host.wait().success();
    reader.execute("ROLLBACK");
    // The server may find out late that its client has gone: until then the partition is its session's.
    catch_up(&setup, &[]).success();
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"], ["c", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 3);
}

on_both_databases_and_by_login!(whoever_was_fenced_writes_nothing_and_exits_with_4);
fn whoever_was_fenced_writes_nothing_and_exits_with_4(setup: &Setup) {
    setup.insert(&[note("a")]);
    let host = follow(setup, &[]);
    wait_until("it works", || noted(setup) == 1);
    let table = setup.own_table("checkpoints");
    let takeover = format!("UPDATE {table} SET epoch = epoch + 1, owner = 'elsewhere/7'");
    setup.read_model().connect_to("saboteur").execute(&takeover);
    setup.insert(&[note("b")]);
    let error = "fenced: partition 0 of 1 of saboteur was taken over by elsewhere/7, epoch 2\n\
                 hint: nothing was written by this process since";
    host.wait().failed(4, error);
    assert_eq!(notes(setup), [["a", "1"]]);
    assert_eq!(setup.position("saboteur"), 1);
}

on_both_databases!(a_worker_that_has_nothing_to_do_notices_that_its_checkpoint_was_put_back);
fn a_worker_that_has_nothing_to_do_notices_that_its_checkpoint_was_put_back(setup: &Setup) {
    setup.insert(&[note("a"), note("b")]);
    let mut host = follow(setup, &[]);
    wait_until("it works", || noted(setup) == 2);
    // As a rebuild does: the rows and the checkpoint that goes with them.
    let table = setup.own_table("checkpoints");
    setup.read_model().connect_to("saboteur").execute(&format!(
        "BEGIN; DELETE FROM notes WHERE aggregate = 'b';
         UPDATE {table} SET position = 1, events_applied = 1, epoch = epoch + 1, owner = 'projectionist rebuild there/7';
         COMMIT"
    ));
    host.wait_for_log("claiming the partition again");
    wait_until("it has applied the second event again", || noted(setup) == 2);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 2);
}

/// Events that take their time, and whose rows are written when the batch ends.
fn ponderings(count: usize) -> Vec<Event> {
    (0..count).map(|number| order(&format!("p{number}"), json!({"do": "ponder"}))).collect()
}

on_both_databases_and_by_login!(a_worker_frozen_in_mid_batch_is_replaced_and_what_it_commits_later_is_refused);
fn a_worker_frozen_in_mid_batch_is_replaced_and_what_it_commits_later_is_refused(setup: &Setup) {
    setup.insert(&[note("a")]);
    let mut zombie = follow(setup, &[]);
    wait_until("it works", || noted(setup) == 1);
    let mut other = follow(setup, &["--stale-after", "3"]);
    other.wait_for_log("standing by: somebody else works on this partition");
    setup.insert(&ponderings(30));
    zombie.wait_for_log("pondering");
    zombie.freeze();
    assert_eq!(noted(setup), 1, "frozen in mid-batch");
    other.wait_for_log("no sign of life: replaced");
    wait_until("the other has applied the batch", || noted(setup) == 31);
    let takeover = setup.checkpoints("saboteur").remove(0);
    assert!(takeover.owner.ends_with(&format!("/{}", other.pid())), "{takeover:?}");
    zombie.thaw();
    let error = format!(
        "fenced: partition 0 of 1 of saboteur was taken over by {}, epoch {}\n\
         hint: nothing was written by this process since",
        takeover.owner, takeover.epoch
    );
    zombie.wait().failed(4, &error);
    // The partition has another lock now, and whoever comes next stands by for its holder.
    let mut third = follow(setup, &[]);
    third.wait_for_log(&takeover.owner);
    other.kill();
    setup.insert(&[note("b")]);
    wait_until("the third has taken over", || noted(setup) == 32);
    third.terminate();
    third.wait().success();
    assert_eq!(setup.events_applied("saboteur"), 32);
    let twice = "SELECT count(*) - count(DISTINCT position) FROM notes";
    assert_eq!(setup.rows("saboteur", twice), [["0"]]);
}

on_both_databases!(whoever_works_is_not_replaced_however_long_its_batch_takes);
fn whoever_works_is_not_replaced_however_long_its_batch_takes(setup: &Setup) {
    // Some seconds in one batch, more than the other would wait for a sign of life.
    setup.insert(&ponderings(100));
    let mut busy = follow(setup, &[]);
    busy.wait_for_log("pondering");
    let other = follow(setup, &["--stale-after", "3"]);
    wait_until("the batch is applied", || noted(setup) == 100);
    let claim = setup.checkpoints("saboteur").remove(0);
    assert!(claim.owner.ends_with(&format!("/{}", busy.pid())), "{claim:?}");
    assert_eq!(claim.epoch, 1);
    for host in [busy, other] {
        host.terminate();
        host.wait().success();
    }
}

#[test]
fn a_worker_frozen_within_a_transaction_keeps_no_rows_from_the_one_that_replaces_it() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    let mut zombie = follow(&setup, &[]);
    wait_until("it works", || noted(&setup) == 1);
    let mut other = follow(&setup, &["--stale-after", "3"]);
    other.wait_for_log("standing by");
    // The query sends what was kept: the row of `b` is written, and not committed.
    let count = order("b", json!({"do": "note_count"}));
    setup.insert(&[vec![note("b"), count], ponderings(30)].concat());
    zombie.wait_for_log("pondering");
    zombie.freeze();
    wait_until("the other has applied the batch", || noted(&setup) == 33);
    zombie.thaw();
    // Its session was ended, so it is one that has lost its connection, and of use again.
    zombie.wait_for_log("standing by");
    other.kill();
    setup.insert(&[note("c")]);
    wait_until("the former zombie works", || noted(&setup) == 34);
    zombie.terminate();
    zombie.wait().success();
    assert_eq!(setup.events_applied("saboteur"), 34);
}

#[test]
fn a_worker_whose_connection_is_lost_is_replaced_by_the_one_that_stands_by() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    let mut first = follow(&setup, &[]);
    wait_until("it works", || noted(&setup) == 1);
    first.freeze();
    let mut second = follow(&setup, &["--stale-after", "0"]);
    second.wait_for_log("standing by");
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'projectionist claims %'
                 AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)";
    assert_eq!(setup.connect().value(end), "1");
    setup.insert(&[note("b")]);
    wait_until("the second has taken over", || noted(&setup) == 2);
    first.thaw();
    first.wait_for_log("standing by");
    second.kill();
    setup.insert(&[note("c")]);
    wait_until("the first is of use again", || noted(&setup) == 3);
    first.terminate();
    first.wait().success();
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"], ["c", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), 3);
}

#[test]
fn a_server_that_restarts_is_waited_for() {
    for mode in ["fast", "immediate"] {
        let cluster = Cluster::start();
        let setup = Setup::on(&cluster);
        setup.insert(&[note("a")]);
        let mut host = follow(&setup, &[]);
        wait_until("it works", || noted(&setup) == 1);
        cluster.stop(mode);
        host.wait_for_log("will try again; nothing is lost");
        cluster.resume();
        setup.insert(&[note("b")]);
        wait_until("it works again", || noted(&setup) == 2);
        // Notifications too, not only polling.
        let listens = "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN \"projectionist_events\"'";
        wait_until("it listens again", || setup.connect().value(listens) == "1");
        host.terminate();
        host.wait().success();
        assert_eq!(notes(&setup), [["a", "1"], ["b", "1"]]);
    }
}

#[test]
fn a_server_that_restarts_under_load_costs_no_event_and_doubles_none() {
    let cluster = Cluster::start();
    let setup = Setup::on(&cluster);
    // A transaction an event, so that each restart hits all four workers on their way.
    let hosts = ["0", "2"].map(|key| {
        let partitions = ["--partition-key", key, "--workers", "2", "--total-partitions", "4"];
        follow(&setup, &[&partitions[..], &["--batch-size", "1"]].concat())
    });
    let (mut total, mut restarts) = (0, 0);
    for mode in ["fast", "immediate", "immediate", "fast"] {
        let before = noted(&setup);
        let events: Vec<_> = (0..400).map(|number| note(&format!("a{}", number % 40))).collect();
        setup.insert(&events);
        total += events.len() as u64;
        wait_until("the events are on their way", || noted(&setup) > before + 40);
        cluster.stop(mode);
        cluster.resume();
        assert!(noted(&setup) < total, "all was done before the server stopped");
        restarts += 1;
        let again = |setup: &Setup| setup.checkpoints("saboteur").iter().all(|claim| claim.epoch > restarts);
        wait_until("every worker has claimed its partition again", || again(&setup));
    }
    wait_until("all events are applied", || noted(&setup) == total);
    assert_eq!(setup.events_applied("saboteur"), total);
    let checkpoints = setup.checkpoints("saboteur");
    assert!(checkpoints.iter().all(|checkpoint| checkpoint.events_applied > 0), "each worked: {checkpoints:?}");
    let disorder = "SELECT count(*) FROM notes AS n WHERE n.note::int <>
                        (SELECT count(*) FROM notes AS m WHERE m.aggregate = n.aggregate AND m.position <= n.position)";
    assert_eq!(setup.rows("saboteur", disorder), [["0"]]);
    for host in hosts {
        assert!(host.log().contains("will try again; nothing is lost"), "{}", host.log());
        host.terminate();
        host.wait().success();
    }
}

on_all_combinations!(however_often_it_is_killed_every_event_counts_once);
fn however_often_it_is_killed_every_event_counts_once(setup: &Setup) {
    setup.insert(&flights::events());
    let arguments = ["run", "--plugin", &plugin("carrier_delays")];
    let last = setup.last_position();
    let checkpoint = || setup.checkpoints("carrier_delays").pop();
    for epoch in 1..=4 {
        // A transaction an event: there is time enough to hit it on its way.
        let host = setup.start([&arguments[..], &["--batch-size", "1"]].concat());
        let claimed = wait_for("it has its partition", || checkpoint().filter(|found| found.epoch == epoch));
        wait_until("it is on its way", || setup.position("carrier_delays") > claimed.position);
        host.kill();
        let left = checkpoint().expect("a checkpoint");
        assert!(left.position > claimed.position && left.position < last, "killed on its way: {claimed:?}, {left:?}");
        assert_eq!(left.events_applied, left.position, "every flight is an event of this projection");
    }
    setup.run([&arguments[..], &["--once"]].concat()).success();
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    assert_eq!(setup.events_applied("carrier_delays"), 5_000);
    assert_eq!(setup.checkpoints("carrier_delays")[0].epoch, 5);
}
