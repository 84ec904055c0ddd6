//! Functions, types and texts: whatever a statement could call besides what it says.

use projectionist_host::read_model::guard::{Guard, Phase};
use projectionist_host::read_model::value::Dialect;
use projectionist_tests::{Kind, Setup, on_both_databases};
use serde_json::Value;

use super::sql_attacks::{
    DEFINITIONS, DEFINITIONS_POSTGRES, DEFINITIONS_SQLITE, FUNCTIONS_POSTGRES, FUNCTIONS_SQLITE, TEXTS, nested,
};
use super::{attack, catch_up, contained, harmless, sql, survivors};

/// How each of these fails.
const REFUSED: &str = "(SQLSTATE 42";

/// Attacks by these statements, in turns through `execute` and through `query`.
fn attacks(statements: &[&str]) -> Vec<(Value, &'static str)> {
    let how = ["execute", "query"].into_iter().cycle();
    how.zip(statements).map(|(how, statement)| (sql(how, statement), REFUSED)).collect()
}

on_both_databases!(a_function_that_is_not_on_the_list_is_refused);
fn a_function_that_is_not_on_the_list_is_refused(setup: &Setup) {
    let statements = match setup.read_model().kind() {
        Kind::Postgres => FUNCTIONS_POSTGRES,
        Kind::Sqlite => FUNCTIONS_SQLITE,
    };
    contained(setup, &attacks(statements), &[]);
}

on_both_databases!(a_text_that_can_be_read_in_two_ways_is_refused);
fn a_text_that_can_be_read_in_two_ways_is_refused(setup: &Setup) {
    let mut attacks = attacks(TEXTS);
    attacks.push((sql("query", "SELECT 1\0; COMMIT"), "the statement holds U+0000 (SQLSTATE 22021)"));
    contained(setup, &attacks, &[]);
}

on_both_databases!(a_text_that_nests_deep_takes_neither_the_host_nor_its_memory);
fn a_text_that_nests_deep_takes_neither_the_host_nor_its_memory(setup: &Setup) {
    let error = "the statement nests too deep";
    let attacks: Vec<_> = nested().map(|statement| (sql("query", &statement), error)).collect();
    contained(setup, &attacks, &[]);
}

on_both_databases!(what_stands_in_a_definition_is_judged_as_what_runs_at_once);
fn what_stands_in_a_definition_is_judged_as_what_runs_at_once(setup: &Setup) {
    setup.insert(&[harmless("a")]);
    let more = match setup.read_model().kind() {
        Kind::Postgres => DEFINITIONS_POSTGRES,
        Kind::Sqlite => DEFINITIONS_SQLITE,
    };
    for statement in DEFINITIONS.iter().chain(more) {
        let output = catch_up(setup, &["--set", &format!("evil.migrate={statement}")]);
        assert!(output.code != Some(0), "{statement} came through: {}", output.stderr);
        assert!(output.stderr.contains("SQLSTATE 42"), "{statement}: {}", output.stderr);
    }
    assert_eq!(setup.events_applied("counter"), 1, "the other projection is on its way");
    // And without them it is as good as any.
    catch_up(setup, &[]).success();
    assert_eq!(survivors(setup), ["harmless"]);
}

on_both_databases!(a_refusal_that_a_guest_keeps_to_itself_harms_nobody);
fn a_refusal_that_a_guest_keeps_to_itself_harms_nobody(setup: &Setup) {
    let mut swallowed = sql("execute", "SELECT random()");
    swallowed["swallow"] = true.into();
    setup.insert(&[attack("a", swallowed), harmless("a")]);
    catch_up(setup, &[]).success();
    let notes = survivors(setup);
    assert!(notes[0].starts_with("a projection may not call `random`"), "{notes:?}");
    assert_eq!(notes[1], "harmless");
}

#[test]
fn no_function_that_changes_by_itself_is_on_the_list_for_postgres() {
    let setup = Setup::new(Kind::Postgres);
    let volatile = "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
                    AND provolatile = 'v' AND prokind = 'f' ORDER BY 1";
    let names = setup.source().connect().rows(volatile);
    assert!(names.len() > 100, "{names:?}");
    let mut guard = Guard::new(Dialect::Postgres, "mine");
    for name in names.into_iter().flatten() {
        let call = format!("SELECT \"{name}\"(a, b) FROM t");
        assert!(guard.judge(&call, Phase::Rows).is_err(), "{name} changes by itself");
    }
}

#[test]
fn no_function_of_a_row_is_called_as_if_it_was_a_column_unless_it_may_be_called() {
    let setup = Setup::new(Kind::Postgres);
    // Whatever takes one argument that a row fits.
    let of_a_row = "SELECT DISTINCT proname FROM pg_proc
                    WHERE pronamespace = 'pg_catalog'::regnamespace AND pronargs > 0 AND pronargs - pronargdefaults <= 1
                      AND proargtypes[0] IN ('\"any\"'::regtype, 'record'::regtype, 'anyelement'::regtype, 'anynonarray'::regtype,
                                             'anycompatible'::regtype, 'anycompatiblenonarray'::regtype)
                    ORDER BY 1";
    let names = setup.source().connect().rows(of_a_row);
    assert!(names.len() > 20, "{names:?}");
    let mut guard = Guard::new(Dialect::Postgres, "mine");
    let mut refused = Vec::new();
    for name in names.into_iter().flatten() {
        let may_call = guard.judge(&format!("SELECT \"{name}\"(t) FROM t"), Phase::Rows).is_ok();
        for column in ["t", "(t)", "mine.t", "excluded"] {
            let named = guard.judge(&format!("SELECT {column}.\"{name}\" FROM t"), Phase::Rows);
            assert_eq!(named.is_ok(), may_call, "{column}.{name}: {named:?}");
        }
        // A column is named alone: that is never a function.
        assert!(guard.judge(&format!("SELECT \"{name}\" FROM t"), Phase::Rows).is_ok(), "{name}");
        refused.extend((!may_call).then_some(name));
    }
    assert!(refused.contains(&"pg_typeof".to_owned()) && refused.len() < 20, "{refused:?}");
}
