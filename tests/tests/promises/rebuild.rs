//! A read model is built afresh beside the live one, which is untouched until the swap, however often that is
//! interrupted; and the result is what a fresh run gives.

use projectionist_tests::{
    Host, Kind, Output, Setup, flights, on_all_combinations, on_both_databases, on_both_databases_and_by_login, plugin,
    wait_until,
};
use serde_json::{Value, json};

use crate::sabotage::{catch_up, follow, note, noted, notes, order};

/// The name that the rebuild runs under.
pub(crate) const REBUILT: &str = "saboteur+rebuild";

/// The arguments that rebuild the saboteur.
fn arguments(more: &[&str]) -> Vec<String> {
    let mut arguments = vec!["rebuild".to_owned(), "--plugin".to_owned(), plugin("saboteur")];
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments
}

/// Rebuilds the saboteur to the end.
#[track_caller]
pub(crate) fn rebuild(setup: &Setup, more: &[&str]) -> Output {
    setup.run(arguments(more))
}

/// Begins to rebuild it.
pub(crate) fn begin(setup: &Setup, more: &[&str]) -> Host {
    setup.start(arguments(more))
}

/// A live read model whose rows are not what its events say, so that a rebuild shows; in the middle of the log there is
/// a gate that a rebuild does not pass before [`open`].
pub(crate) fn with_a_gate(setup: &Setup) {
    setup.insert(&[note("a"), note("b")]);
    catch_up(setup, &[]).success();
    setup.read_model().connect_to("saboteur").execute("INSERT INTO switches VALUES ('go')");
    setup.insert(&[order("c", json!({"do": "fail_until", "switch": "go"})), note("d"), note("a")]);
    catch_up(setup, &[]).success();
    setup.read_model().connect_to("saboteur").execute("UPDATE notes SET note = 'old'");
}

/// Waits until a rebuild stands at the gate.
pub(crate) fn wait_at_the_gate(setup: &Setup) {
    wait_until("the rebuild stands at the gate", || noted_by_rebuild(setup) == 2);
}

/// Lets a rebuild pass the gate.
pub(crate) fn open(setup: &Setup) {
    setup.read_model().connect_to(REBUILT).execute("INSERT INTO switches VALUES ('go')");
}

/// How many events a rebuild has noted; 0 before it has begun.
fn noted_by_rebuild(setup: &Setup) -> u64 {
    setup.count(REBUILT, "notes")
}

/// What the live one shows before the swap.
pub(crate) fn is_as_it_was(setup: &Setup) {
    assert_eq!(notes(setup), [["a", "old"], ["b", "old"], ["c", "old"], ["d", "old"], ["a", "old"]]);
    assert_eq!(setup.events_applied("saboteur"), 5);
    let live = &setup.checkpoints("saboteur")[0];
    assert!(!live.owner.contains("rebuild"), "{live:?}");
}

/// What it shows after.
pub(crate) fn is_rebuilt(setup: &Setup) {
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"], ["c", "1"], ["d", "1"], ["a", "2"]]);
    assert_eq!(setup.events_applied("saboteur"), 5, "each event once");
    leaves_nothing_behind(setup);
}

/// That nothing of a rebuild is left.
pub(crate) fn leaves_nothing_behind(setup: &Setup) {
    assert_eq!(setup.checkpoints(REBUILT), []);
    let files = std::fs::read_dir(setup.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = files.filter(|name| name.to_string_lossy().contains("+rebuild")).collect();
    assert!(left.is_empty(), "{left:?}");
    if setup.read_model().kind() == Kind::Postgres {
        let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%+%'";
        assert_eq!(setup.read_model().connect().value(schemas), "0");
    }
}

/// What `host status --json` says of the rebuild.
fn status(setup: &Setup) -> Value {
    let report: Value = serde_json::from_str(&setup.run(["status", "--json"]).success().stdout).expect("JSON");
    assert_eq!(report["projections"].as_array().map(Vec::len), Some(1), "a rebuild is no projection: {report}");
    report["projections"][0]["rebuild"].clone()
}

on_all_combinations!(a_rebuild_gives_what_a_fresh_run_gives);
fn a_rebuild_gives_what_a_fresh_run_gives(setup: &Setup) {
    setup.insert(&flights::events());
    let carrier_delays = plugin("carrier_delays");
    setup.run(["run", "--once", "--plugin", &carrier_delays, "--workers", "2"]).success();
    let before = setup.checkpoints("carrier_delays");
    let mut live = setup.read_model().connect_to("carrier_delays");
    live.execute("UPDATE carrier_delays SET departed = 0");
    let output = setup.run(["rebuild", "--plugin", &carrier_delays]);
    let said = "carrier_delays was rebuilt: position 5000, 5000 events applied, 0 dead letters\n";
    assert_eq!(output.success().stdout, said);
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    let after = setup.checkpoints("carrier_delays");
    assert_eq!(after.iter().map(|c| (c.key, c.total, c.position)).collect::<Vec<_>>(), [(0, 2, 5_000), (1, 2, 5_000)]);
    assert!(after.iter().all(|c| c.epoch == before[0].epoch + 1 && c.events_applied > 2_000), "{after:?}");
    assert!(after.iter().all(|c| c.owner.starts_with("projectionist rebuild ")), "{after:?}");
    // And it goes on from there.
    setup.insert(&[flights::events()[0].clone()].map(|mut event| {
        event.event_id = Default::default();
        event
    }));
    setup.run(["run", "--once", "--plugin", &carrier_delays, "--workers", "2"]).success();
    assert_eq!(setup.events_applied("carrier_delays"), 5_001);
}

on_both_databases_and_by_login!(killed_at_any_time_it_leaves_the_live_one_untouched_and_goes_on_later);
fn killed_at_any_time_it_leaves_the_live_one_untouched_and_goes_on_later(setup: &Setup) {
    with_a_gate(setup);
    let killed = begin(setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(setup);
    killed.kill();
    is_as_it_was(setup);
    wait_until("it is known to be gone", || status(setup)["running"] == false);
    let begun = status(setup);
    assert_eq!((&begun["position"], &begun["percent"], &begun["dead_letters"]), (&json!(2), &json!(40), &json!(0)));
    let view = "SELECT projection_name, last_global_position FROM projection_checkpoints";
    let mut monitoring = setup.read_model().connect_to("saboteur");
    if setup.read_model().kind() == Kind::Postgres {
        monitoring = setup.read_model().connect();
    }
    assert_eq!(monitoring.rows(view), [["saboteur", "5"]], "to monitoring it is no projection");
    drop(monitoring);
    let told = setup.run(["status"]).success().stdout.clone();
    assert!(told.contains("rebuild of saboteur: position 2 (40 %), interrupted, last by "), "{told}");
    let mut other = begin(setup, &["--max-attempts", "1000"]);
    other.wait_for_log("going on with the rebuild of saboteur at position 2 (--discard throws it away)");
    wait_until("it works", || status(setup)["running"] == true);
    open(setup);
    other.wait().success();
    is_rebuilt(setup);
    assert_eq!(status(setup), Value::Null);
}

on_both_databases!(interrupted_it_says_where_it_is_and_how_to_go_on);
fn interrupted_it_says_where_it_is_and_how_to_go_on(setup: &Setup) {
    with_a_gate(setup);
    let host = begin(setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(setup);
    host.terminate();
    let error = "the rebuild of saboteur was interrupted at position 2; the live one is as it was\n\
                 hint: the same command goes on from there; --discard throws it away";
    host.wait().failed(1, error);
    is_as_it_was(setup);
    open(setup);
    rebuild(setup, &[]).success();
    is_rebuilt(setup);
}

on_both_databases!(another_component_starts_over);
fn another_component_starts_over(setup: &Setup) {
    let [counter, counter_v2] = ["counter", "counter_v2"].map(plugin);
    setup.insert(&(0..2_000).map(|_| note("a")).collect::<Vec<_>>());
    setup.run(["run", "--once", "--plugin", &counter]).success();
    let begun = setup.start(["rebuild", "--plugin", &counter, "--batch-size", "1"]);
    wait_until("it is on its way", || setup.position("counter+rebuild") > 10);
    begun.kill();
    assert!(setup.position("counter+rebuild") < 2_000, "killed on its way");
    let output = setup.run(["rebuild", "--plugin", &counter_v2]);
    let said = "starting over: the rebuild of counter was begun with another component, ";
    assert!(output.success().stderr.contains(said), "{}", output.stderr);
    assert_eq!(setup.rows("counter", "SELECT events, seen_by_v2 FROM counter"), [["2000", "2000"]]);
    assert_eq!(setup.events_applied("counter"), 2_000);
    // The live one is of version 2 now, and whoever runs version 1 is told.
    let error = "the tables of counter are at version 2, and this plugin is version 1\n\
                 hint: run the newer plugin; there is no way back but a rebuild";
    setup.run(["run", "--once", "--plugin", &counter]).failed(2, error);
    // That way back.
    setup.run(["rebuild", "--plugin", &counter]).success();
    setup.run(["run", "--once", "--plugin", &counter]).success();
    assert_eq!(setup.rows("counter", "SELECT * FROM counter"), [["a", "2000"]]);
}

on_both_databases!(a_rebuild_that_was_begun_can_be_discarded);
fn a_rebuild_that_was_begun_can_be_discarded(setup: &Setup) {
    with_a_gate(setup);
    let output = rebuild(setup, &["--discard"]);
    assert_eq!(output.success().stdout, "there was no rebuild of saboteur to discard\n");
    let host = begin(setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(setup);
    host.kill();
    wait_until("it is known to be gone", || status(setup)["running"] == false);
    assert_eq!(rebuild(setup, &["--discard"]).success().stdout, "the rebuild of saboteur was discarded\n");
    is_as_it_was(setup);
    leaves_nothing_behind(setup);
    assert_eq!(status(setup), Value::Null);
}

on_both_databases!(in_place_it_drops_the_tables_and_builds_them_again);
fn in_place_it_drops_the_tables_and_builds_them_again(setup: &Setup) {
    setup.insert(&[note("a"), order("b", json!({"do": "panic"})), note("c")]);
    catch_up(setup, &["--workers", "2"]).success();
    let mut live = setup.read_model().connect_to("saboteur");
    live.execute("UPDATE notes SET note = 'old'; CREATE VIEW own AS SELECT * FROM notes");
    drop(live);
    let output = rebuild(setup, &["--in-place", "--on-error", "skip"]);
    let said = "saboteur was rebuilt in place: position 3, 2 events applied, 1 dead letters\n";
    assert_eq!(output.success().stdout, said);
    assert_eq!(notes(setup), [["a", "1"], ["c", "1"]]);
    let letters = setup.dead_letters("saboteur");
    assert_eq!(letters.iter().map(|letter| &*letter.reason).collect::<Vec<_>>(), ["skipped"]);
    catch_up(setup, &["--workers", "2"]).success();
    assert_eq!(setup.events_applied("saboteur"), 2);
}

on_both_databases!(interrupted_in_place_it_is_gone_on_with_by_a_run);
fn interrupted_in_place_it_is_gone_on_with_by_a_run(setup: &Setup) {
    with_a_gate(setup);
    let host = begin(setup, &["--in-place", "--max-attempts", "1000"]);
    wait_until("it stands at the gate", || setup.position("saboteur") == 2);
    host.interrupt();
    let error = "the rebuild of saboteur was interrupted at position 2; the live one is incomplete\n\
                 hint: `host run` goes on from there; the same command would begin again";
    host.wait().failed(1, error);
    setup.read_model().connect_to("saboteur").execute("INSERT INTO switches VALUES ('go')");
    catch_up(setup, &[]).success();
    is_rebuilt(setup);
}

on_both_databases!(in_place_it_leaves_the_work_to_workers_that_run);
fn in_place_it_leaves_the_work_to_workers_that_run(setup: &Setup) {
    setup.insert(&[note("a"), note("b")]);
    let live = follow(setup, &[]);
    wait_until("it works", || noted(setup) == 2);
    setup.read_model().connect_to("saboteur").execute("UPDATE notes SET note = 'old'");
    let output = rebuild(setup, &["--in-place"]);
    assert_eq!(output.success().stdout, "saboteur was emptied: the workers that run build it again\n");
    setup.insert(&[note("a")]);
    wait_until("they have", || noted(setup) == 3);
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"], ["a", "2"]]);
    live.terminate();
    live.wait().success();
    assert_eq!(setup.events_applied("saboteur"), 3);
}

on_both_databases!(a_rebuild_goes_on_with_another_number_of_partitions);
fn a_rebuild_goes_on_with_another_number_of_partitions(setup: &Setup) {
    setup.insert(&flights::events());
    let carrier_delays = plugin("carrier_delays");
    setup.run(["run", "--once", "--plugin", &carrier_delays, "--workers", "3"]).success();
    setup.read_model().connect_to("carrier_delays").execute("UPDATE carrier_delays SET departed = 0");
    let built = || setup.events_applied("carrier_delays+rebuild");
    for workers in ["2", "4"] {
        let before = built();
        let host = setup.start(["rebuild", "--plugin", &carrier_delays, "--batch-size", "1", "--workers", workers]);
        wait_until("it is on its way", || built() > before + 50);
        host.kill();
        assert!(built() < 5_000, "killed on its way");
    }
    setup.run(["rebuild", "--plugin", &carrier_delays, "--workers", "1"]).success();
    assert_eq!(setup.sorted_rows("carrier_delays", "SELECT * FROM carrier_delays"), flights::carrier_delays());
    let checkpoints = setup.checkpoints("carrier_delays");
    assert_eq!(checkpoints.iter().map(|c| (c.key, c.total)).collect::<Vec<_>>(), [(0, 3), (1, 3), (2, 3)]);
    assert_eq!(setup.events_applied("carrier_delays"), 5_000);
}

on_both_databases!(a_rebuild_follows_what_is_appended_meanwhile);
fn a_rebuild_follows_what_is_appended_meanwhile(setup: &Setup) {
    with_a_gate(setup);
    let host = begin(setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(setup);
    // Behind where its first round ends.
    setup.insert(&[note("e"), note("f")]);
    open(setup);
    wait_until("it is swapped in while more is appended", || {
        setup.insert(&[note("g")]);
        notes(setup).first().is_some_and(|first| first[1] == "1")
    });
    host.wait().success();
    // No live worker runs: what came after the swap is left to the next one.
    let swapped_at = setup.position("saboteur");
    assert!(swapped_at >= 5 && setup.events_applied("saboteur") == swapped_at, "at {swapped_at}");
    catch_up(setup, &[]).success();
    let rows = notes(setup);
    assert_eq!(rows[5..7], [["e", "1"], ["f", "1"]]);
    assert_eq!(setup.events_applied("saboteur"), setup.last_position());
    assert_eq!(rows.len() as u64, setup.last_position());
}
