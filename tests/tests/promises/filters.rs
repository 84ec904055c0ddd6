//! A projection sees no more than the operator lets it: aggregates of some types, payloads without some fields. On every
//! way that an event has into it: from the log, from a replay, in a rebuild, and behind a reload.

use projectionist_tests::{Event, Host, Kind, Setup, event, on_both_databases, plugin, wait_until};
use serde_json::json;

use crate::dead_letters::{bad, dlq, dlq_by_itself};
use crate::reload::{bytes, deploy};
use crate::sabotage::{catch_up, follow, notes, order};

/// An event that has its payload noted, as it is shown.
fn shown(aggregate: &str) -> Event {
    order(aggregate, json!({"do": "note_payload", "customer": {"email": "SECRET", "city": "Oslo"}, "iban": "SECRET"}))
}

/// What the operator takes out of that.
const REDACT: [&str; 4] = ["--redact-payload", "customer.email", "--redact-payload", "saboteur=iban"];

/// What is left of it.
const LEFT: &str = r#"{"do":"note_payload","customer":{"city":"Oslo"}}"#;

/// Everything that the saboteur has noted.
fn noted(setup: &Setup) -> Vec<String> {
    let rows = notes(setup).into_iter().map(|row| row[1].clone());
    rows.map(|note| serde_json::from_str::<serde_json::Value>(&note).map_or(note, |json| sorted(&json))).collect()
}

/// JSON as text, whatever the order of its members was.
fn sorted(json: &serde_json::Value) -> String {
    json.to_string()
}

/// [`LEFT`], as [`noted`] gives it.
fn left() -> String {
    sorted(&serde_json::from_str(LEFT).unwrap())
}

on_both_databases!(redacted_fields_are_shown_neither_in_a_run_nor_a_replay_nor_a_rebuild);
fn redacted_fields_are_shown_neither_in_a_run_nor_a_replay_nor_a_rebuild(setup: &Setup) {
    // First without: so it would be shown.
    setup.insert(&[shown("a")]);
    catch_up(setup, &[]).success();
    assert!(noted(setup)[0].contains("SECRET"));
    setup.insert(&[shown("b"), bad("c"), shown("c"), bad("d"), shown("d")]);
    let output = catch_up(setup, &REDACT);
    assert!(output.success().stderr.contains("payloads are shown without these fields"), "{}", output.stderr);
    assert_eq!(noted(setup)[1..], [left()]);
    // A replay by a worker that runs, and one by the command itself.
    let mended = [&REDACT[..], &["--set", "mended=yes"]].concat();
    let mut host = follow(setup, &mended);
    host.wait_for_log("partition claimed");
    dlq(setup, &["retry", "default/Saboteur/c"]).success();
    host.terminate();
    host.wait().success();
    dlq_by_itself(setup, &[&["retry", "default/Saboteur/d"][..], &mended].concat()).success();
    let payloads =
        |notes: Vec<String>| notes.into_iter().filter(|note| note.contains("note_payload")).collect::<Vec<_>>();
    assert_eq!(payloads(noted(setup))[1..], [left(), left(), left()]);
    // A rebuild shows the first event again, and not as it was. The environment says it here.
    let mut command = setup.command(["rebuild", "--plugin", &plugin("saboteur"), "--set", "mended=yes"]);
    command.env("REDACT_PAYLOAD", "customer.email,saboteur=iban");
    Host::spawn(command).wait().success();
    assert_eq!(payloads(noted(setup)), [left(), left(), left(), left()]);
}

on_both_databases!(a_payload_that_cannot_be_redacted_is_not_shown);
fn a_payload_that_cannot_be_redacted_is_not_shown(setup: &Setup) {
    setup.insert(&[shown("a"), event("Order", "Saboteur", "b").payload("SECRET, but no JSON"), shown("c")]);
    catch_up(setup, &REDACT).success();
    assert_eq!(noted(setup), [left(), left()]);
    let letters = setup.dead_letters("saboteur");
    let error = "the payload is no JSON that customer.email, iban could be taken out of, so the projection was not shown \
                 the event";
    assert_eq!(letters.iter().map(|letter| &*letter.error).collect::<Vec<_>>(), [error]);
}

on_both_databases!(a_projection_sees_only_the_aggregate_types_it_may);
fn a_projection_sees_only_the_aggregate_types_it_may(setup: &Setup) {
    let events = || {
        [
            event("X", "Thing", "t"),
            event("X", "Other.Kind", "o"),
            event("X", "Third", "3"),
            event("X", "Other.Kind", "o"),
        ]
    };
    setup.insert(&events());
    let (one, two) = (plugin("counter"), format!("two={}", plugin("counter")));
    let both = ["run", "--once", "--plugin", &one, "--plugin", &two];
    let only = ["--only-aggregate-type", "Thing", "--only-aggregate-type", "two=Other.Kind"];
    let output = setup.run([&both[..], &only].concat());
    assert!(output.success().stderr.contains("only events of these aggregate types are shown"), "{}", output.stderr);
    let counted = |projection: &str| setup.sorted_rows(projection, "SELECT aggregate, events FROM counter");
    assert_eq!(counted("counter"), [["t", "1"]]);
    assert_eq!(counted("two"), [["o", "2"], ["t", "1"]]);
    // The checkpoint has passed the others: without the filter they do not come back, and a rebuild brings them.
    assert_eq!((setup.position("counter"), setup.position("two")), (4, 4));
    setup.insert(&events());
    setup.run(both).success();
    assert_eq!(counted("counter"), [["3", "1"], ["o", "2"], ["t", "2"]]);
    setup.run(["rebuild", "--plugin", &one]).success();
    assert_eq!(counted("counter"), [["3", "2"], ["o", "4"], ["t", "2"]]);
    setup.run(["rebuild", "--plugin", &one, "--only-aggregate-type", "counter=Thing"]).success();
    assert_eq!(counted("counter"), [["t", "2"]]);
}

on_both_databases!(a_filter_that_leaves_nothing_is_refused);
fn a_filter_that_leaves_nothing_is_refused(setup: &Setup) {
    setup.insert(&[bad("a")]);
    catch_up(setup, &[]).success();
    let nobody = ["--only-aggregate-type", "Nobody"];
    let error = "saboteur would see no event: it wants aggregates of type Saboteur, and --only-aggregate-type lets it see \
                 Nobody\n\
                 hint: allow one of the types that it wants, or do not run it";
    catch_up(setup, &nobody).failed(2, error);
    dlq_by_itself(setup, &[&["retry", "--all", "--set", "mended=yes"][..], &nobody].concat()).failed(2, error);
    setup.run([&["rebuild", "--plugin", &*plugin("saboteur")][..], &nobody].concat()).failed(2, error);
    assert_eq!(setup.dead_letters("saboteur").len(), 1, "nothing was done");
}

on_both_databases!(a_replay_passes_over_what_may_not_be_seen_any_more);
fn a_replay_passes_over_what_may_not_be_seen_any_more(setup: &Setup) {
    let chronicle = plugin("chronicle");
    setup.insert(&[
        event("Recorded", "Account", "a").payload(r#"{"amount": 1, "poison": "permanent"}"#),
        event("Recorded", "Card", "c").payload(r#"{"amount": 2}"#),
    ]);
    setup.run(["run", "--once", "--plugin", &chronicle]).success();
    assert_eq!(setup.dead_letters("chronicle").len(), 1);
    let retry = ["dlq", "retry", "--all", "--plugin", &chronicle, "--only-aggregate-type", "Card"];
    let told = "chronicle: default/Account/a: live again, 0 events applied, 1 passed over, which the projection does not \
                want any more\n";
    assert_eq!(setup.run(retry).success().stdout, told);
    assert_eq!(setup.dead_letters("chronicle"), []);
    assert_eq!(setup.rows("chronicle", "SELECT position, amount FROM chronicle"), [["2", "2"]]);
}

on_both_databases!(a_reload_sees_no_more_than_the_one_before_it);
fn a_reload_sees_no_more_than_the_one_before_it(setup: &Setup) {
    deploy(setup, &bytes("counter"));
    let mut host =
        setup.start(["run", "--watch", "--plugin", "counter.wasm", "--only-aggregate-type", "counter=Thing"]);
    host.wait_for_log("partition claimed");
    let insert = |expected: u64| {
        setup.insert(&[event("X", "Other", "o"), event("X", "Thing", "t")]);
        wait_until("the event is counted", || setup.events_applied("counter") == expected);
    };
    insert(1);
    deploy(setup, &bytes("counter_v2"));
    host.wait_for_log("the projection was replaced");
    insert(2);
    host.terminate();
    host.wait().success();
    assert_eq!(setup.rows("counter", "SELECT aggregate, events, seen_by_v2 FROM counter"), [["t", "2", "1"]]);
}

#[test]
fn a_filter_for_a_projection_that_is_not_there_is_refused() {
    let setup = Setup::new(Kind::Sqlite);
    let saboteur = plugin("saboteur");
    for filter in [["--redact-payload", "sabotuer=iban"], ["--only-aggregate-type", "sabotuer=Saboteur"]] {
        for command in [&["run", "--once", "--plugin", &saboteur][..], &["rebuild", "--plugin", &saboteur]] {
            let error = format!(
                "{} is for sabotuer, and no plugin is called that\nhint: say NAME=… of one that is loaded: saboteur",
                filter[0]
            );
            setup.run([command, &filter].concat()).failed(2, &error);
        }
    }
    for filter in ["", "a..b", "saboteur=", "Saboteur=iban"] {
        let output = setup.run(["run", "--plugin", &saboteur, "--redact-payload", filter]);
        assert!(output.exited(2).error().contains("--redact-payload"), "{filter}: {}", output.stderr);
    }
    assert_eq!(setup.checkpoints("saboteur"), [], "nothing was run");
}
