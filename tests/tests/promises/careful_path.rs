//! An event that cannot be applied shows itself, and the operator's policy says what becomes of it. Nothing of it is
//! kept, neither in the database nor in the projection's memory, and nothing else is lost.

use projectionist_tests::{Kind, Setup, on_both_databases, wait_until};
use serde_json::{Value, json};

use crate::sabotage::{catch_up, follow, note, noted, notes, order};

/// Orders that fail, each in its own way, and how the dead letter says so.
fn failures(kind: Kind) -> Vec<(Value, &'static str)> {
    let twice = json!({"do": "execute", "sql": "INSERT INTO totals VALUES ('twice', 1), ('twice', 2)"});
    let no_column = "(SQLSTATE 42703)";
    let (duplicate, rows) = match kind {
        Kind::Postgres => (
            "duplicate key value violates unique constraint \"totals_pkey\"",
            "SELECT n FROM generate_series(1, 10001) AS n",
        ),
        Kind::Sqlite => (
            "UNIQUE constraint failed: totals.name",
            "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 10001) SELECT n FROM r",
        ),
    };
    let long = format!("SELECT '{}'", "x".repeat(64 << 10));
    vec![
        (json!({"do": "fail_permanently"}), "the projection failed: told to fail permanently"),
        (json!({"do": "fail_in_flush"}), "the projection failed: told to fail in flush"),
        (json!({"do": "nonsense"}), "the payload of Order at position"),
        (json!({"do": "panic"}), "the projection trapped: wasm trap: wasm `unreachable` instruction executed"),
        (json!({"do": "spin"}), "the projection ran longer than 1s and was stopped"),
        (json!({"do": "allocate"}), "the projection wanted more than its 64 MiB of memory, and stopped"),
        (json!({"do": "recurse"}), "the projection trapped: wasm trap: "),
        (twice, duplicate),
        (json!({"do": "execute", "sql": "INSERT INTO totals (absent) VALUES (1)"}), no_column),
        (json!({"do": "query", "sql": "SELECT absent FROM totals"}), no_column),
        (json!({"do": "swallow", "sql": "SELECT absent FROM totals"}), no_column),
        (json!({"do": "execute", "sql": "INSERT INTO totals (name) VALUES ('no amount')"}), "(SQLSTATE 23502)"),
        (json!({"do": "execute", "sql": "COMMIT"}), "a projection may not run `COMMIT …` (SQLSTATE 42501)"),
        (json!({"do": "execute", "sql": "SELECT 1; SELECT 2"}), "one statement a call, and this text holds 2"),
        (json!({"do": "execute", "sql": "CREATE TABLE more (a TEXT)"}), "in `migrate` only (SQLSTATE 42501)"),
        (json!({"do": "execute", "sql": long}), "the statement has 65545 bytes, and 65536 are allowed"),
        (json!({"do": "query", "sql": rows}), "the result has more than 10000 rows (SQLSTATE 54000)"),
    ]
}

on_both_databases!(whatever_an_event_does_it_alone_becomes_a_dead_letter);
fn whatever_an_event_does_it_alone_becomes_a_dead_letter(setup: &Setup) {
    let failures = failures(setup.read_model().kind());
    // All in one batch, each between events that are to be applied, the last one among them.
    let mut events = vec![note("good")];
    for (number, (failure, _)) in failures.iter().enumerate() {
        events.push(order(&format!("bad-{number}"), failure.clone()));
        events.push(note("good"));
    }
    setup.insert(&events);
    catch_up(setup, &[]).success();
    let good = failures.len() + 1;
    let versions: Vec<_> = (1..=good).map(|version| vec!["good".to_owned(), version.to_string()]).collect();
    assert_eq!(notes(setup), versions);
    assert_eq!(setup.events_applied("saboteur"), good as u64);
    assert_eq!(setup.position("saboteur"), setup.last_position());
    let letters = setup.dead_letters("saboteur");
    assert_eq!(letters.len(), failures.len());
    for (number, (letter, (failure, error))) in letters.iter().zip(&failures).enumerate() {
        assert_eq!((&*letter.reason, letter.attempts), ("poison", 1), "{failure}");
        assert_eq!(letter.aggregate_id, format!("bad-{number}"));
        assert!(letter.error.contains(error), "{failure}: {} should contain {error}", letter.error);
    }
}

on_both_databases!(an_aggregate_is_parked_behind_its_poison_event_and_others_go_on);
fn an_aggregate_is_parked_behind_its_poison_event_and_others_go_on(setup: &Setup) {
    setup.insert(&[note("a"), order("a", json!({"do": "panic"})), note("b"), note("a"), note("b")]);
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"], ["b", "2"]]);
    // Whoever works on it later: a parked aggregate stays parked.
    setup.insert(&[note("a"), note("b")]);
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"], ["b", "2"], ["b", "3"]]);
    let letters = setup.dead_letters("saboteur");
    let letters: Vec<_> = letters.iter().map(|l| (l.position, &*l.aggregate_id, &*l.reason, l.attempts)).collect();
    assert_eq!(letters, [(2, "a", "poison", 1), (4, "a", "behind", 0), (6, "a", "behind", 0)]);
    assert_eq!(setup.events_applied("saboteur"), 4);
}

on_both_databases!(a_skipped_event_leaves_its_aggregate_going_on);
fn a_skipped_event_leaves_its_aggregate_going_on(setup: &Setup) {
    setup.insert(&[note("a"), order("a", json!({"do": "panic"})), note("a"), note("b")]);
    catch_up(setup, &["--on-error", "skip"]).success();
    assert_eq!(notes(setup), [["a", "1"], ["a", "3"], ["b", "1"]]);
    let letters = setup.dead_letters("saboteur");
    let letters: Vec<_> = letters.iter().map(|l| (l.position, &*l.reason)).collect();
    assert_eq!(letters, [(2, "skipped")]);
}

on_both_databases!(stopping_at_an_error_exits_with_3_and_loses_nothing);
fn stopping_at_an_error_exits_with_3_and_loses_nothing(setup: &Setup) {
    setup.insert(&[note("a"), note("b"), order("a", json!({"do": "fail_permanently"})), note("b")]);
    let error = "saboteur cannot apply event 3 (Order of default/Saboteur/a): the projection failed: told to fail \
                 permanently\n\
                 hint: nothing is lost: mend the projection, or run with --on-error park, and start again";
    catch_up(setup, &["--on-error", "stop"]).failed(3, error);
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"]]);
    assert_eq!(setup.position("saboteur"), 2);
    assert_eq!(setup.dead_letters("saboteur"), []);
    // It stops there as long as nothing changes, and goes on from there when the policy does.
    catch_up(setup, &["--on-error", "stop"]).failed(3, error);
    catch_up(setup, &["--on-error", "skip"]).success();
    assert_eq!(notes(setup), [["a", "1"], ["b", "1"], ["b", "2"]]);
    assert_eq!(setup.events_applied("saboteur"), 3);
}

on_both_databases!(what_may_pass_is_tried_again_until_it_does);
fn what_may_pass_is_tried_again_until_it_does(setup: &Setup) {
    setup.insert(&[note("a"), order("a", json!({"do": "fail_until", "switch": "on"})), note("a")]);
    let mut host = follow(setup, &["--max-attempts", "1000"]);
    host.wait_for_log("trying an event again");
    assert_eq!(notes(setup), [["a", "1"]], "what stands before it is committed");
    setup.read_model().connect_to("saboteur").execute("INSERT INTO switches VALUES ('on')");
    wait_until("the event is applied", || noted(setup) == 3);
    host.terminate();
    host.wait().success();
    assert_eq!(notes(setup), [["a", "1"], ["a", "2"], ["a", "3"]]);
    assert_eq!(setup.dead_letters("saboteur"), []);
}

on_both_databases!(what_does_not_pass_is_given_up_after_so_many_attempts);
fn what_does_not_pass_is_given_up_after_so_many_attempts(setup: &Setup) {
    setup.insert(&[order("a", json!({"do": "fail_transiently"})), note("b")]);
    catch_up(setup, &[]).success();
    setup.insert(&[order("c", json!({"do": "fail_transiently"})), note("b")]);
    catch_up(setup, &["--max-attempts", "2"]).success();
    let letters = setup.dead_letters("saboteur");
    let letters: Vec<_> = letters.iter().map(|l| (&*l.aggregate_id, l.attempts, &*l.error)).collect();
    let error = "the projection failed: told to fail transiently";
    assert_eq!(letters, [("a", 5, error), ("c", 2, error)]);
    assert_eq!(notes(setup), [["b", "1"], ["b", "2"]]);
}

on_both_databases!(no_event_is_blamed_for_what_its_batch_has_used_up);
fn no_event_is_blamed_for_what_its_batch_has_used_up(setup: &Setup) {
    // 80 MiB in all, and an instance may have 64.
    let events: Vec<_> = (0..10).map(|_| order("a", json!({"do": "hoard", "mebibytes": 8}))).collect();
    setup.insert(&events);
    let output = catch_up(setup, &[]);
    assert!(output.success().stderr.contains("wanted more than its 64 MiB of memory"), "{}", output.stderr);
    assert_eq!(noted(setup), 10);
    assert_eq!(setup.dead_letters("saboteur"), []);
}

on_both_databases!(memory_of_events_that_rolled_back_is_never_written);
fn memory_of_events_that_rolled_back_is_never_written(setup: &Setup) {
    let fold = |aggregate, amount| order(aggregate, json!({"do": "fold", "name": "sum", "amount": amount}));
    // The poison comes last, when the others are folded already; and one fails only in the flush of what was folded.
    let events = [fold("a", 1), fold("b", 20), order("c", json!({"do": "panic"})), fold("d", 300)];
    let more = [fold("a", 4_000), order("e", json!({"do": "fail_in_flush"})), fold("b", 50_000)];
    setup.insert(&[&events[..], &more[..]].concat());
    catch_up(setup, &[]).success();
    assert_eq!(setup.rows("saboteur", "SELECT name, amount FROM totals"), [["sum", "54321"]]);
    assert_eq!(setup.dead_letters("saboteur").len(), 2);
}

on_both_databases!(memory_lives_from_batch_to_batch_and_ends_with_a_rollback);
fn memory_lives_from_batch_to_batch_and_ends_with_a_rollback(setup: &Setup) {
    let seen = || order("a", json!({"do": "note_seen"}));
    setup.insert(&[seen(), seen(), seen(), order("b", json!({"do": "panic"})), seen(), seen()]);
    catch_up(setup, &["--batch-size", "1"]).success();
    let seen: Vec<_> = notes(setup).into_iter().map(|row| row[1].clone()).collect();
    assert_eq!(seen, ["1", "2", "3", "1", "2"]);
}

on_both_databases!(a_projection_reads_what_it_has_written_in_the_same_batch);
fn a_projection_reads_what_it_has_written_in_the_same_batch(setup: &Setup) {
    let count = || order("a", json!({"do": "note_count"}));
    setup.insert(&[note("a"), count(), note("a"), count()]);
    catch_up(setup, &[]).success();
    assert_eq!(notes(setup), [["a", "1"], ["a", "1"], ["a", "3"], ["a", "3"]]);
}

on_both_databases!(a_table_that_is_gone_is_waited_for_and_no_event_is_blamed);
fn a_table_that_is_gone_is_waited_for_and_no_event_is_blamed(setup: &Setup) {
    setup.insert(&[note("a")]);
    let mut host = follow(setup, &[]);
    wait_until("the first event is applied", || noted(setup) == 1);
    let mut connection = setup.read_model().connect_to("saboteur");
    connection.execute("ALTER TABLE notes RENAME TO hidden");
    setup.insert(&[note("a")]);
    host.wait_for_log("will try again; nothing is lost");
    connection.execute("ALTER TABLE hidden RENAME TO notes");
    wait_until("the second event is applied", || noted(setup) == 2);
    assert_eq!(setup.dead_letters("saboteur"), []);
    // Whoever only wants to catch up is told.
    host.terminate();
    host.wait().success();
    connection.execute("ALTER TABLE notes RENAME TO hidden");
    setup.insert(&[note("a")]);
    let output = catch_up(setup, &["--max-attempts", "2"]);
    output.exited(1);
    assert!(output.error().starts_with("saboteur, partition 0 of 1: "), "{}", output.error());
    assert!(output.error().contains("notes"), "{}", output.error());
}
