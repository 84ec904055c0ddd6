//! What an operator reads of dead letters, types about them, and is told.

use projectionist_tests::{Setup, on_both_databases, plugin};
use serde_json::{Value, json};

use crate::dead_letters::{bad, dlq, dlq_by_itself, reasons};
use crate::sabotage::{catch_up, note, noted, order};

/// What a command printed as JSON.
#[track_caller]
fn printed(setup: &Setup, arguments: &[&str]) -> Value {
    serde_json::from_str(&dlq(setup, arguments).success().stdout).expect("JSON")
}

/// The digest of the saboteur.
fn digest(setup: &Setup) -> String {
    let inspected = setup.run(["plugin", "inspect", "--json", &plugin("saboteur")]);
    let inspected: Value = serde_json::from_str(&inspected.success().stdout).unwrap();
    inspected["digest"].as_str().unwrap().to_owned()
}

/// Takes a time out of a report, having seen that it is one.
fn take_time(report: &mut Value, field: &str) {
    let time = report[field].take();
    assert!(time.as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{field}: {time}");
}

/// An event was skipped, an aggregate is parked with two events behind it, and another has gone on.
fn letters(setup: &Setup) {
    setup.insert(&[bad("s"), note("b")]);
    catch_up(setup, &["--on-error", "skip"]).success();
    let mut event = bad("a");
    event.event_id = "6f2c6ab0-6d1c-4d43-8c1b-1f7f8a7e2c11".parse().unwrap();
    setup.insert(&[event, note("a"), note("b"), note("a")]);
    catch_up(setup, &[]).success();
}

on_both_databases!(list_tells_what_is_parked_and_what_was_skipped);
fn list_tells_what_is_parked_and_what_was_skipped(setup: &Setup) {
    assert_eq!(printed(setup, &["list", "--json"]), json!({"parked": [], "skipped": []}));
    assert_eq!(dlq(setup, &["list"]).success().stdout, "There are no dead letters.\n");
    letters(setup);
    dlq(setup, &["retry", "default/Saboteur/a", "--timeout", "0"]).success();
    let mut list = printed(setup, &["list", "--json"]);
    let error = "the projection failed: not mended: mended is not set";
    take_time(&mut list["parked"][0], "since");
    take_time(&mut list["parked"][0]["request"], "requested_at");
    take_time(&mut list["skipped"][0], "since");
    assert!(list["skipped"][0]["event_id"].take().is_string());
    let by = list["parked"][0]["request"]["requested_by"].take();
    assert!(by.as_str().is_some_and(|by| by.starts_with("projectionist dlq ")), "{by}");
    let expected = json!({
        "parked": [{
            "projection": "saboteur", "bounded_context": "default", "aggregate_type": "Saboteur", "aggregate_id": "a",
            "first_position": 3, "last_position": 6, "poison_position": 3, "event_type": "Order", "error": error,
            "attempts": 1, "plugin_digest": digest(setup), "waiting": 2, "since": null,
            "request": {"id": 1, "action": "retry", "requested_by": null, "requested_at": null, "message": ""},
        }],
        "skipped": [{
            "projection": "saboteur", "bounded_context": "default", "aggregate_type": "Saboteur", "aggregate_id": "s",
            "position": 1, "event_id": null, "event_type": "Order", "error": error, "attempts": 1,
            "plugin_digest": digest(setup), "since": null,
        }],
    });
    assert_eq!(list, expected);
    let told = dlq(setup, &["list"]).success().stdout.clone();
    for part in
        ["default/Saboteur/a", "default/Saboteur/s", "not mended", "saboteur default/Saboteur/a: retry asked for by"]
    {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    // Only some of them.
    let some = |arguments: &[&str]| {
        let list = printed(setup, &[&["list", "--json"], arguments].concat());
        (list["parked"].as_array().unwrap().len(), list["skipped"].as_array().unwrap().len())
    };
    assert_eq!(some(&["--projection", "saboteur"]), (1, 1));
    assert_eq!(some(&["default/Saboteur/a"]), (1, 0));
    assert_eq!(some(&["--aggregate-id", "s"]), (0, 1));
    assert_eq!(some(&["--position", "6"]), (1, 0));
    assert_eq!(some(&["--position", "5"]), (0, 0));
    assert_eq!(some(&["--bounded-context", "stage"]), (0, 0));
}

on_both_databases!(show_tells_all_there_is_to_know_of_a_letter);
fn show_tells_all_there_is_to_know_of_a_letter(setup: &Setup) {
    letters(setup);
    let mut shown = printed(setup, &["show", "default/Saboteur/a", "--json"]);
    assert_eq!(shown["letters"].as_array().unwrap().len(), 3);
    let letter = &mut shown["letters"][0];
    take_time(letter, "since");
    take_time(letter, "created_at");
    let expected = json!({
        "projection": "saboteur", "position": 3, "bounded_context": "default", "aggregate_type": "Saboteur",
        "aggregate_id": "a", "aggregate_version": 1, "event_id": "6f2c6ab0-6d1c-4d43-8c1b-1f7f8a7e2c11",
        "event_type": "Order", "reason": "poison", "error": "the projection failed: not mended: mended is not set",
        "attempts": 1, "plugin_digest": digest(setup), "since": null, "in_log": true, "event_version": 1,
        "created_at": null, "payload": {"do": "fail_unless", "setting": "mended"}, "metadata": {},
    });
    assert_eq!(*letter, expected);
    assert_eq!((&shown["letters"][1]["reason"], &shown["letters"][1]["attempts"]), (&json!("behind"), &json!(0)));
    // Bytes that are no JSON.
    let mut event = note("x");
    event.payload = "\u{1}no json".to_owned();
    setup.insert(&[event]);
    catch_up(setup, &[]).success();
    let shown = printed(setup, &["show", "--position", "7", "--json"]);
    assert_eq!(shown["letters"][0]["payload_base64"], "AW5vIGpzb24=");
    assert_eq!(shown["letters"][0]["payload"], Value::Null);
    let told = dlq(setup, &["show", "--position", "3"]).success().stdout.clone();
    let beginning = "event 3 of saboteur: Order of default/Saboteur/a, version 1\n  reason    it failed, and its aggregate \
                     is parked for it\n  error     the projection failed: not mended: mended is not set\n  attempts  1\n";
    assert!(told.starts_with(beginning), "{told}");
    assert!(told.contains("payload   {\"do\":\"fail_unless\",\"setting\":\"mended\"}"), "{told}");
}

on_both_databases!(only_letters_of_skipped_events_are_purged);
fn only_letters_of_skipped_events_are_purged(setup: &Setup) {
    letters(setup);
    let error = "event 3 of default/Saboteur/a is parked, not skipped: without its letter the events behind it would be \
                 applied on top of one that is missing\n\
                 hint: host dlq retry default/Saboteur/a applies it, host dlq skip default/Saboteur/a gives it up; then it \
                 can be purged";
    dlq(setup, &["purge", "--position", "3"]).failed(2, error);
    dlq(setup, &["purge", "default/Saboteur/a"]).failed(2, error);
    assert_eq!(
        dlq(setup, &["purge", "--older-than", "1d"]).success().stdout,
        "purged the letters of 0 skipped events\n"
    );
    assert_eq!(setup.dead_letters("saboteur").len(), 4);
    // As if it had been there for long.
    let old = format!("UPDATE {} SET created_at = '2013-01-01T00:00:00.000000Z'", setup.own_table("dead_letters"));
    setup.read_model().connect_to("saboteur").execute(&old);
    assert_eq!(dlq(setup, &["purge", "--older-than", "1d"]).success().stdout, "purged the letter of 1 skipped event\n");
    let left = ["poison", "behind", "behind"];
    assert_eq!(reasons(setup).iter().map(|(_, reason)| &**reason).collect::<Vec<_>>(), left);
    dlq_by_itself(setup, &["skip", "default/Saboteur/a"]).success();
    assert_eq!(printed(setup, &["purge", "--all", "--json"]), json!({"purged": 1}));
    assert_eq!(setup.dead_letters("saboteur"), []);
    assert_eq!(noted(setup), 4);
}

on_both_databases!(what_came_of_a_retry_is_told_to_scripts_too);
fn what_came_of_a_retry_is_told_to_scripts_too(setup: &Setup) {
    setup.insert(&[bad("a"), note("a"), order("b", json!({"do": "panic"}))]);
    catch_up(setup, &[]).success();
    let arguments = ["retry", "--all", "--json", "--set", "mended=yes"];
    let output = dlq_by_itself(setup, &arguments);
    let report: Value = serde_json::from_str(&output.exited(1).stdout).unwrap();
    let mut results = report["results"].as_array().unwrap().clone();
    for result in &mut results {
        assert!(result["done_by"].take().as_str().unwrap().starts_with("projectionist dlq "));
    }
    let told = results[1]["message"].take();
    assert!(told.as_str().unwrap().starts_with("stays parked, event 3 failed: the projection trapped"), "{told}");
    let of = |id: &str, request: u32| {
        json!({"request": request, "projection": "saboteur", "bounded_context": "default", "aggregate_type": "Saboteur",
            "aggregate_id": id, "action": "retry", "skipped_position": null, "done_by": null})
    };
    let with = |mut result: Value, more: Value| {
        result.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        result
    };
    let message = "live again, 2 events applied";
    let first = json!({"outcome": "applied", "applied": 2, "failed_position": null, "message": message});
    let second = json!({"outcome": "failed", "applied": 0, "failed_position": 3, "message": null});
    assert_eq!(results, [with(of("a", 1), first), with(of("b", 2), second)]);
    // Nobody runs.
    let output = dlq(setup, &["retry", "default/Saboteur/b", "--json"]);
    let report: Value = serde_json::from_str(&output.exited(1).stdout).unwrap();
    assert_eq!((&report["results"][0]["outcome"], &report["results"][0]["request"]), (&json!("queued"), &json!(3)));
}

on_both_databases!(what_cannot_be_meant_is_said_with_what_to_type);
fn what_cannot_be_meant_is_said_with_what_to_type(setup: &Setup) {
    let none = "there is no projection saboteur\n\
                hint: no projection has run there yet; check the URL (READ_MODEL_URL, DATABASE_URL)";
    dlq(setup, &["list", "--projection", "saboteur"]).failed(2, none);
    letters(setup);
    let look = "hint: `host dlq list` shows what is parked and what was skipped";
    let name = "hint: name an aggregate, such as default/Account/eve, or an event with --position";
    let cases: [(&[&str], String); 11] = [
        (&["list", "--projection", "other"], "there is no projection other\nhint: there are: saboteur".to_owned()),
        (&["show"], format!("that does not say which letters to show\n{name}")),
        (&["show", "default/Saboteur/b"], format!("there is no such dead letter\n{look}")),
        (&["retry"], format!("that does not say which aggregates\n{name}; or say --all")),
        (&["skip", "--projection", "saboteur"], format!("that does not say which aggregates\n{name}; or say --all")),
        (&["retry", "default/Saboteur/nobody"], format!("there is no aggregate default/Saboteur/nobody\n{look}")),
        (&["retry", "--position", "5"], format!("there is no dead letter of event 5\n{look}")),
        (
            &["retry", "--position", "1"],
            "event 1 was skipped, and default/Saboteur/s has gone on without it\n\
             hint: its place in the order is gone: only a rebuild applies it again"
                .to_owned(),
        ),
        (
            &["skip", "--position", "6"],
            "event 6 has not failed: it waits, because default/Saboteur/a is parked for event 3\n\
             hint: host dlq skip --position 3 gives up on that one"
                .to_owned(),
        ),
        (
            &["purge"],
            "that does not say which letters to remove\n\
             hint: name a projection, an aggregate, a position or an age; or --all"
                .to_owned(),
        ),
        (&["purge", "default/Saboteur/b"], format!("there is no such dead letter\n{look}")),
    ];
    for (arguments, error) in cases {
        dlq(setup, arguments).failed(2, &error);
    }
    // An aggregate that is there and not parked is no mistake.
    assert_eq!(dlq(setup, &["retry", "default/Saboteur/b"]).success().stdout, "nothing is parked there\n");
    // Another plugin than the one whose letters they are.
    let counter = plugin("counter");
    let output = dlq(setup, &["retry", "--all", "--projection", "saboteur", "--plugin", &counter]);
    let error = "that plugin is counter, and --projection says something else\n\
                 hint: run it under that name: --plugin NAME=FILE";
    output.failed(2, error);
    assert_eq!(setup.dead_letters("saboteur").len(), 4, "nothing of that has changed anything");
}

on_both_databases!(a_plugin_of_another_version_than_the_tables_replays_nothing);
fn a_plugin_of_another_version_than_the_tables_replays_nothing(setup: &Setup) {
    use projectionist_tests::event;
    setup.insert(&[event("Odd", "Thing", "a")]);
    setup.run(["run", "--once", "--plugin", &plugin("counter_picky")]).success();
    let output = dlq(setup, &["retry", "--all", "--plugin", &plugin("counter_v2")]);
    let error = "the tables of counter are at version 1, and this plugin is version 2; what was asked is queued\n\
                 hint: host run --plugin FILE --once brings the tables up, and carries out what was asked";
    output.failed(2, error);
    // As the hint says.
    setup.run(["run", "--once", "--plugin", &plugin("counter_v2")]).success();
    assert_eq!(setup.rows("counter", "SELECT aggregate, events FROM counter"), [["a", "1"]]);
    assert_eq!(setup.dead_letters("counter"), []);
}

on_both_databases!(what_is_not_done_in_time_stays_queued);
fn what_is_not_done_in_time_stays_queued(setup: &Setup) {
    setup.insert(&[bad("a")]);
    catch_up(setup, &[]).success();
    let host = crate::sabotage::follow(setup, &[]);
    projectionist_tests::wait_until("it works", || setup.checkpoints("saboteur")[0].epoch == 2);
    host.freeze();
    let error = "saboteur: default/Saboteur/a: not done within 1 s, request 1 stays queued\n\
                 hint: `host status` shows who works on its partition, and their log what they wait for";
    dlq(setup, &["retry", "default/Saboteur/a", "--timeout", "1"]).failed(1, error);
    host.thaw();
    let table = setup.own_table("dead_letter_requests");
    let outcome = || setup.rows("saboteur", &format!("SELECT outcome FROM {table}"));
    projectionist_tests::wait_until("it is done later", || outcome() == [["failed"]]);
    host.terminate();
    host.wait().success();
}

on_both_databases!(letters_of_a_rebuild_that_is_under_way_are_left_alone);
fn letters_of_a_rebuild_that_is_under_way_are_left_alone(setup: &Setup) {
    letters(setup);
    // As a rebuild keeps them.
    let rename = format!("UPDATE {} SET projection = 'saboteur+rebuild'", setup.own_table("dead_letters"));
    setup.read_model().connect_to("saboteur").execute(&rename);
    assert_eq!(dlq(setup, &["list"]).success().stdout, "There are no dead letters.\n");
    assert_eq!(dlq(setup, &["retry", "--all"]).success().stdout, "nothing is parked there\n");
    assert_eq!(dlq(setup, &["purge", "--all"]).success().stdout, "purged the letters of 0 skipped events\n");
}

on_both_databases!(whoever_waits_for_an_answer_is_told_when_a_rebuild_has_made_it_void);
fn whoever_waits_for_an_answer_is_told_when_a_rebuild_has_made_it_void(setup: &Setup) {
    setup.insert(&[bad("a")]);
    catch_up(setup, &[]).success();
    let host = crate::sabotage::follow(setup, &[]);
    projectionist_tests::wait_until("it works", || setup.checkpoints("saboteur")[0].epoch == 2);
    host.freeze();
    let command = setup.start(["dlq", "retry", "default/Saboteur/a", "--timeout", "120"]);
    let table = setup.own_table("dead_letter_requests");
    let asked = || setup.rows("saboteur", &format!("SELECT id FROM {table}"));
    projectionist_tests::wait_until("it has asked", || asked() == [["1"]]);
    setup.read_model().connect_to("saboteur").execute(&format!("DELETE FROM {table}"));
    let error = "saboteur: default/Saboteur/a: request 1 is gone, and with it the dead letters that it was about: a \
                 rebuild, say\n\
                 hint: `host dlq list` shows what is parked and what was skipped";
    command.wait().failed(1, error);
}
