//! A rebuild that cannot be done says so and harms nothing: bad events, projections that name the live schema, two at
//! once, nothing there, things that depend on the live tables.

use projectionist_tests::{Kind, Setup, on_both_databases, on_both_databases_and_by_login, plugin, wait_until};
use serde_json::json;

use crate::rebuild::{
    begin, is_as_it_was, is_rebuilt, leaves_nothing_behind, open, rebuild, wait_at_the_gate, with_a_gate,
};
use crate::sabotage::{catch_up, note, notes, order};

/// A live read model of three events, of which the second is a dead letter.
fn with_poison(setup: &Setup) {
    setup.insert(&[note("a"), order("b", json!({"do": "panic"})), note("c"), note("b")]);
    catch_up(setup, &["--on-error", "skip"]).success();
    setup.read_model().connect_to("saboteur").execute("UPDATE notes SET note = 'old'");
}

/// Positions and reasons of its dead letters.
fn letters(setup: &Setup) -> Vec<(u64, String)> {
    setup.dead_letters("saboteur").into_iter().map(|letter| (letter.position, letter.reason)).collect()
}

on_both_databases_and_by_login!(the_dead_letters_of_a_rebuild_take_the_place_of_the_old_ones);
fn the_dead_letters_of_a_rebuild_take_the_place_of_the_old_ones(setup: &Setup) {
    with_poison(setup);
    assert_eq!(letters(setup), [(2, "skipped".to_owned())]);
    let output = rebuild(setup, &["--on-error", "park"]);
    let said = "saboteur was rebuilt: position 4, 2 events applied, 2 dead letters\n";
    assert_eq!(output.success().stdout, said);
    assert_eq!(letters(setup), [(2, "poison".to_owned()), (4, "behind".to_owned())]);
    assert_eq!(notes(setup), [["a", "1"], ["c", "1"]]);
    // Parked is parked for the live workers, too.
    setup.insert(&[note("b")]);
    catch_up(setup, &[]).success();
    assert_eq!(letters(setup).last(), Some(&(5, "behind".to_owned())));
}

on_both_databases!(a_rebuild_may_skip_what_it_cannot_apply);
fn a_rebuild_may_skip_what_it_cannot_apply(setup: &Setup) {
    with_poison(setup);
    rebuild(setup, &["--on-error", "skip"]).success();
    assert_eq!(letters(setup), [(2, "skipped".to_owned())]);
    assert_eq!(notes(setup), [["a", "1"], ["c", "1"], ["b", "2"]]);
}

on_both_databases!(a_rebuild_that_stops_by_policy_is_not_swapped_in);
fn a_rebuild_that_stops_by_policy_is_not_swapped_in(setup: &Setup) {
    with_poison(setup);
    let output = rebuild(setup, &["--on-error", "stop"]);
    let error = output.exited(3).error();
    assert!(error.starts_with("the rebuild of saboteur stopped at position 1; the live one is as it was"), "{error}");
    assert!(error.contains("cannot apply event 2 (Order of default/Saboteur/b)"), "{error}");
    assert_eq!(notes(setup), [["a", "old"], ["c", "old"], ["b", "old"]]);
    rebuild(setup, &["--on-error", "skip"]).success();
    assert_eq!(notes(setup), [["a", "1"], ["c", "1"], ["b", "2"]]);
}

on_both_databases!(a_rebuild_that_fails_in_migrate_says_so);
fn a_rebuild_that_fails_in_migrate_says_so(setup: &Setup) {
    with_a_gate(setup);
    let output = rebuild(setup, &["--set", "saboteur.fail_in_migrate=1"]);
    assert!(output.exited(1).error().contains("failed in `migrate`: the projection failed: told to fail in migrate"));
    is_as_it_was(setup);
}

on_both_databases!(two_cannot_rebuild_one_projection_at_once);
fn two_cannot_rebuild_one_projection_at_once(setup: &Setup) {
    with_a_gate(setup);
    let first = begin(setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(setup);
    for more in [&[][..], &["--discard"], &["--in-place"]] {
        let output = rebuild(setup, more);
        let error = output.exited(1).error();
        let owner = format!("/{}\nhint: `host status` shows how far it is; it goes on by itself", first.pid());
        assert!(error.starts_with("saboteur is being rebuilt already, by ") && error.ends_with(&owner), "{error}");
    }
    open(setup);
    first.wait().success();
    is_rebuilt(setup);
}

on_both_databases!(what_never_ran_cannot_be_rebuilt);
fn what_never_ran_cannot_be_rebuilt(setup: &Setup) {
    setup.insert(&[note("a")]);
    for more in [&[][..], &["--in-place"]] {
        let output = rebuild(setup, more);
        let error = output.exited(2).error();
        assert!(error.starts_with("saboteur has no read model in ") && error.contains(" yet\nhint: "), "{error}");
    }
    leaves_nothing_behind(setup);
    let output = setup.run(["rebuild", "--plugin", "missing.wasm"]);
    assert!(output.exited(2).error().starts_with("cannot read the plugin missing.wasm"), "{}", output.error());
    // A name that is none is part of the file's.
    let output = setup.run(["rebuild", "--plugin", &format!("saboteur+rebuild={}", plugin("saboteur"))]);
    assert!(output.exited(2).error().starts_with("cannot read the plugin saboteur+rebuild="), "{}", output.error());
}

#[test]
fn a_statement_that_names_the_live_schema_ends_a_rebuild() {
    let setup = Setup::new(Kind::Postgres);
    setup.insert(&[
        note("a"),
        order("b", json!({"do": "execute", "sql": "UPDATE saboteur.notes SET note = 'reached'"})),
    ]);
    catch_up(&setup, &[]).success();
    assert_eq!(notes(&setup), [["a", "reached"], ["b", "1"]]);
    setup.read_model().connect_to("saboteur").execute("UPDATE notes SET note = 'old'");
    let output = rebuild(&setup, &["--max-attempts", "2"]);
    let error = output.exited(1).error();
    assert!(
        error.contains("this is a rebuild, which has a schema of its own: write the name without its schema"),
        "{error}"
    );
    assert_eq!(notes(&setup), [["a", "old"], ["b", "old"]]);
    assert_eq!(setup.dead_letters("saboteur+rebuild"), [], "no event is to blame");
}

#[test]
fn what_depends_on_the_live_tables_is_not_dropped_with_them() {
    let setup = Setup::new(Kind::Postgres);
    with_a_gate(&setup);
    let mut connection = setup.connect();
    connection.execute(
        "CREATE VIEW public.report AS SELECT count(*) FROM saboteur.notes;
         CREATE TABLE public.extra (position BIGINT REFERENCES saboteur.notes)",
    );
    let error = "these depend on some of saboteur's tables: foreign key extra_position_fkey of public.extra, \
                 view public.report\n\
                 hint: they would keep the old tables, or be dropped with them: drop them, rebuild, and make them again; \
                 nothing was changed";
    for more in [&[][..], &["--in-place"]] {
        rebuild(&setup, more).failed(2, error);
    }
    // One that comes while it is built.
    connection.execute("DROP VIEW public.report; DROP TABLE public.extra");
    let host = begin(&setup, &["--max-attempts", "1000"]);
    wait_at_the_gate(&setup);
    connection.execute("CREATE VIEW public.late AS SELECT count(*) FROM saboteur.notes");
    open(&setup);
    let output = host.wait();
    assert!(output.exited(2).error().starts_with("this depends on one of saboteur's tables: view public.late"));
    is_as_it_was(&setup);
    connection.execute("DROP VIEW public.late");
    wait_until("it goes on", || rebuild(&setup, &[]).code == Some(0));
    is_rebuilt(&setup);
}

on_both_databases!(what_was_asked_about_the_old_dead_letters_is_forgotten_with_them);
fn what_was_asked_about_the_old_dead_letters_is_forgotten_with_them(setup: &Setup) {
    with_poison(setup);
    // Nobody works, so nobody answers.
    let requests = setup.own_table("dead_letter_requests");
    let ask = format!(
        "INSERT INTO {requests} (projection, bounded_context, aggregate_type, aggregate_id, action, requested_by)
         VALUES ('saboteur', 'default', 'Saboteur', 'b', 'retry', 'somebody')"
    );
    let asked = || setup.rows("saboteur", &format!("SELECT id FROM {requests}"));
    for (more, id) in [(&[][..], "1"), (&["--in-place"], "2"), (&[], "3")] {
        setup.read_model().connect_to("saboteur").execute(&ask);
        assert_eq!(asked(), [[id]], "no number is given twice");
        rebuild(setup, more).success();
        assert!(asked().is_empty());
    }
}
