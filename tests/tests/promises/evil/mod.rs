//! A hostile projection changes nothing but its own read model, and takes no more than its share: one module for each
//! class of attack, mirroring the modules of tests/plugins/evil.
//!
//! Each attack runs beside a `counter`, a projection of somebody else's in the same process. What is shown for each, on
//! each database: it is refused with a message that says why, or contained; the host lives; the attacker's next events
//! are applied; the other projection is on its way.

mod allocate;
mod flood;
mod malformed;
mod outside;
mod recurse;
mod remember;
mod spin;

use projectionist_tests::{Event, Output, Setup, event, on_both_databases, plugin};
use serde_json::{Value, json};

mod sql_attacks;
mod sql_beneath;
mod sql_endless;
mod sql_functions;
mod sql_unguarded;

/// An event that tells the evil one what to do.
pub(crate) fn attack(aggregate: &str, payload: Value) -> Event {
    event("Attack", "Evil", aggregate).payload(payload)
}

/// An event that tells it to do no harm.
pub(crate) fn harmless(aggregate: &str) -> Event {
    attack(aggregate, json!({"attack": "none"}))
}

/// Runs it beside a `counter` until both have caught up.
#[track_caller]
pub(crate) fn catch_up(setup: &Setup, options: &[&str]) -> Output {
    run(setup, &plugin("evil"), options)
}

/// As [`catch_up`], with another build of the evil one.
#[track_caller]
pub(crate) fn run(setup: &Setup, evil: &str, options: &[&str]) -> Output {
    setup.run([&["run", "--once", "--plugin", evil, "--plugin", &plugin("counter")][..], options].concat())
}

/// What those that came through have noted, by position.
pub(crate) fn survivors(setup: &Setup) -> Vec<String> {
    setup.rows("evil", "SELECT note FROM survivors ORDER BY position").into_iter().flatten().collect()
}

/// Stores the attacks, each between harmless events, in one batch, and runs them: each fails with an error that contains
/// what stands beside it, nothing else of the batch is lost, and the other projection has counted all of it.
#[track_caller]
pub(crate) fn contained(setup: &Setup, attacks: &[(Value, &str)], options: &[&str]) -> Output {
    contained_from(setup, &plugin("evil"), attacks, options)
}

/// As [`contained`], with another build of the evil one.
#[track_caller]
pub(crate) fn contained_from(setup: &Setup, evil: &str, attacks: &[(Value, &str)], options: &[&str]) -> Output {
    let mut events = vec![harmless("good")];
    for (number, (payload, _)) in attacks.iter().enumerate() {
        events.extend([attack(&format!("bad-{number}"), payload.clone()), harmless("good")]);
    }
    setup.insert(&events);
    let output = run(setup, evil, options);
    output.success();
    let letters = setup.dead_letters("evil");
    for (number, (payload, error)) in attacks.iter().enumerate() {
        let aggregate = format!("bad-{number}");
        let letter = letters.iter().find(|letter| letter.aggregate_id == aggregate);
        let letter = letter.unwrap_or_else(|| panic!("{payload} came through: {:?}", survivors(setup)));
        assert!(letter.error.contains(error), "{payload}: {} should contain {error}", letter.error);
    }
    assert_eq!(letters.len(), attacks.len(), "{letters:?}");
    assert_eq!(survivors(setup), vec!["harmless"; attacks.len() + 1]);
    assert_eq!(setup.events_applied("counter"), events.len() as u64, "the other projection is on its way");
    output
}

/// An attack by SQL.
pub(crate) fn sql(how: &str, statement: &str) -> Value {
    json!({"attack": "sql", "how": how, "statement": statement})
}

on_both_databases!(a_statement_runs_as_its_event_says);
fn a_statement_runs_as_its_event_says(setup: &Setup) {
    setup.insert(&[
        attack("a", sql("query", "SELECT note FROM survivors")),
        attack("a", sql("execute", "UPDATE survivors SET note = 'changed' WHERE position = 1")),
    ]);
    catch_up(setup, &["--set", "evil.migrate=INSERT INTO survivors VALUES (0, 'migrated')"]).success();
    assert_eq!(survivors(setup), ["migrated", "changed", "executed"]);
}

on_both_databases!(a_statement_that_is_not_allowed_is_refused);
fn a_statement_that_is_not_allowed_is_refused(setup: &Setup) {
    let error = "a projection may not run `COMMIT …` (SQLSTATE 42501)";
    contained(setup, &[(sql("execute", "COMMIT"), error), (sql("query", "COMMIT"), error)], &[]);
}
