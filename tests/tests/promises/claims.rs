//! One worker a partition: others stand by, take over when it ends however it ends, and whoever has lost its partition
//! can do no harm.

use projectionist_tests::{
    Cluster, Kind, Setup, flights, on_all_combinations, on_both_databases, plugin, wait_for, wait_until,
};

use crate::sabotage::{catch_up, follow, note, noted, notes};

on_both_databases!(a_second_process_stands_by_and_takes_over_when_the_first_is_killed);
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

on_both_databases!(whoever_was_fenced_writes_nothing_and_exits_with_4);
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

#[test]
fn a_frozen_worker_that_wakes_up_after_a_takeover_doubles_nothing() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[note("a")]);
    let mut zombie = follow(&setup, &[]);
    wait_until("it works", || noted(&setup) == 1);
    zombie.freeze();
    setup.insert(&[note("b")]);
    // Its session holds the claim for as long as the server keeps it; a server that has lost a client ends it.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'projectionist saboteur 0 of 1'";
    assert_eq!(setup.connect().value(end), "1");
    let other = follow(&setup, &[]);
    wait_until("another has taken over", || noted(&setup) == 2);
    zombie.thaw();
    zombie.wait_for_log("standing by");
    setup.insert(&[note("c")]);
    wait_until("the other works", || noted(&setup) == 3);
    // And it is of use again.
    other.kill();
    setup.insert(&[note("d")]);
    wait_until("the former zombie works", || noted(&setup) == 4);
    zombie.terminate();
    zombie.wait().success();
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"], ["c", "1"], ["d", "1"]]);
    let checkpoint = setup.checkpoints("saboteur").remove(0);
    assert_eq!((checkpoint.events_applied, checkpoint.epoch), (4, 3));
}

#[test]
fn a_frozen_worker_on_sqlite_keeps_its_partition_until_it_is_gone() {
    let setup = Setup::new(Kind::Sqlite);
    setup.insert(&[note("a")]);
    let frozen = follow(&setup, &[]);
    wait_until("it works", || noted(&setup) == 1);
    frozen.freeze();
    let mut other = follow(&setup, &[]);
    other.wait_for_log("standing by");
    setup.insert(&[note("b")]);
    frozen.kill();
    wait_until("the other has taken over", || noted(&setup) == 2);
    other.terminate();
    other.wait().success();
    assert_eq!(notes(&setup), [["a", "1"], ["b", "1"]]);
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
