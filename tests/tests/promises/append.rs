//! Storing one event: versions are what the writer believes, ids are unique.

use projectionist_tests::{Output, Setup, event, on_both_databases};

/// An event id.
const ID: &str = "018f3b7e-7c00-7000-8000-000000000001";

/// Appends an event of the user `u1`.
fn append(setup: &Setup, more: &[&str]) -> Output {
    let user = ["append", "--aggregate-type", "User", "--aggregate-id", "u1", "--event-type", "UserCreated"];
    setup.run([&user[..], &["--payload", r#"{"email":"ada@example.org"}"#], more].concat())
}

on_both_databases!(an_event_is_stored_as_it_was_given);
fn an_event_is_stored_as_it_was_given(setup: &Setup) {
    let more = ["--event-id", ID, "--event-version", "3", "--metadata", r#"{"by":"test"}"#, "--bounded-context", "crm"];
    let traces = ["--trace-id", "t", "--correlation-id", "co", "--causation-id", "ca"];
    let time = ["--created-at", "2013-01-01T05:15:00.25-05:00"];
    let output = append(setup, &[&more[..], &traces, &time].concat());
    assert_eq!(output.success().stdout, "position 1, version 1\n");
    let columns = match setup.source().kind() {
        projectionist_tests::Kind::Postgres => {
            "convert_from(payload, 'UTF8'), metadata->>'by', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        }
        projectionist_tests::Kind::Sqlite => "payload, metadata->>'by', created_at",
    };
    let rows = setup.connect().rows(&format!(
        "SELECT global_position, bounded_context, aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
                event_version, trace_id, correlation_id, causation_id, {columns} FROM events"
    ));
    let event = ["1", "crm", "User", "u1", "1", ID, "UserCreated", "3", "t", "co", "ca"];
    let rest = [r#"{"email":"ada@example.org"}"#, "test", "2013-01-01T10:15:00.250000Z"];
    assert_eq!(rows, [[&event[..], &rest[..]].concat()]);
    let heads = "SELECT bounded_context, aggregate_type, aggregate_id, aggregate_version FROM aggregate_heads";
    assert_eq!(setup.connect().rows(heads), [["crm", "User", "u1", "1"]]);
}

on_both_databases!(an_expected_version_that_is_wrong_stores_nothing);
fn an_expected_version_that_is_wrong_stores_nothing(setup: &Setup) {
    let hint = "hint: another writer was there: read the aggregate again, decide again, and append with the version \
                it has now";
    let found = append(setup, &["--expected-version", "1"]);
    found.failed(1, &format!("User u1 has no events yet, and version 1 was expected\n{hint}"));
    assert_eq!(append(setup, &["--expected-version", "no-stream"]).success().stdout, "position 1, version 1\n");
    let found = append(setup, &["--expected-version", "no-stream"]);
    found.failed(1, &format!("User u1 is at version 1, and it was expected to have none\n{hint}"));
    let found = append(setup, &["--expected-version", "2"]);
    found.failed(1, &format!("User u1 is at version 1, and version 2 was expected\n{hint}"));
    append(setup, &["--expected-version", "1"]).success();
    assert!(append(setup, &[]).success().stdout.ends_with("version 3\n"), "any version is fine where none is said");
    assert_eq!(setup.connect().value("SELECT count(*) FROM events"), "3");
}

on_both_databases!(an_aggregate_that_another_system_wrote_is_continued);
fn an_aggregate_that_another_system_wrote_is_continued(setup: &Setup) {
    setup.insert(&[event("UserCreated", "User", "u1"), event("EmailVerified", "User", "u1")]);
    // Some systems keep no heads.
    setup.connect().execute("DELETE FROM aggregate_heads");
    assert_eq!(append(setup, &["--expected-version", "2"]).success().stdout, "position 3, version 3\n");
}

on_both_databases!(an_event_id_is_stored_once);
fn an_event_id_is_stored_once(setup: &Setup) {
    append(setup, &["--event-id", ID]).success();
    let error = format!(
        "event {ID} is stored already, at position 1\n\
         hint: if this append repeats an earlier one, it is done; a new event needs a new id"
    );
    append(setup, &["--event-id", ID]).failed(1, &error);
    assert_eq!(setup.connect().value("SELECT count(*) FROM events"), "1");
}

on_both_databases!(writers_that_race_for_a_version_have_one_winner);
fn writers_that_race_for_a_version_have_one_winner(setup: &Setup) {
    let arguments = ["append", "--aggregate-type", "User", "--aggregate-id", "u1", "--event-type", "UserCreated"];
    let arguments = [&arguments[..], &["--payload", "{}", "--expected-version", "no-stream"]].concat();
    let racing: Vec<_> = (0..6).map(|_| setup.start(&arguments)).collect();
    let outputs: Vec<_> = racing.into_iter().map(projectionist_tests::Host::wait).collect();
    let codes = outputs.iter().filter(|output| output.code == Some(0)).count();
    assert_eq!(codes, 1, "{outputs:#?}");
    for loser in outputs.iter().filter(|output| output.code != Some(0)) {
        assert!(loser.exited(1).error().contains("is at version 1, and it was expected to have none"), "{loser:?}");
    }
    assert_eq!(setup.connect().value("SELECT count(*) FROM events"), "1");
}

on_both_databases!(a_payload_that_is_no_json_object_is_refused_unless_any_will_do);
fn a_payload_that_is_no_json_object_is_refused_unless_any_will_do(setup: &Setup) {
    let append = |payload: &str, more: &[&str]| {
        let user = ["append", "--aggregate-type", "User", "--aggregate-id", "u1", "--event-type", "UserCreated"];
        setup.run([&user[..], &["--payload", payload], more].concat())
    };
    let hint = "hint: write {…}, or say --allow-any-payload to store these bytes as they are";
    for (payload, what) in [("[1]", "an array"), ("{", "not JSON"), ("7", "a number"), ("\"x\"", "a text")] {
        let error = format!("the payload is {what}; it has to be a JSON object\n{hint}");
        append(payload, &[]).failed(2, &error);
    }
    assert_eq!(setup.connect().value("SELECT count(*) FROM events"), "0");
    append("[1]", &["--allow-any-payload"]).success();
    assert_eq!(setup.connect().value("SELECT count(*) FROM events"), "1");
}
