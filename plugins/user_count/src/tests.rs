//! What each event does to a user's row.

use projectionist_sdk::{
    Timestamp, Value,
    testing::{EventBuilder, TestHost, event, json, values},
};

use super::UserCount;

/// An event of the user `u1`.
fn user(event_type: &str) -> EventBuilder {
    event(event_type).aggregate("User", "u1")
}

/// The table after these events.
fn after(events: impl IntoIterator<Item = EventBuilder>) -> Vec<Vec<Value>> {
    let mut host = TestHost::<UserCount>::new();
    host.apply(events);
    host.rows("SELECT user_id, email, created_at, active FROM user_stats ORDER BY user_id")
}

/// The moment that a text means.
fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

#[test]
fn a_created_user_is_active_from_then_on() {
    let rows =
        after([user("UserCreated").payload(json!({"email": "a@example.org"})).created_at("2024-05-01T12:00:00Z")]);
    assert_eq!(rows, [values!["u1", "a@example.org", at("2024-05-01T12:00:00Z"), true]]);
}

#[test]
fn a_verified_email_replaces_the_one_before_where_it_is_given() {
    let created = || user("UserCreated").payload(json!({"email": "a@example.org"}));
    let changed = user("EmailVerified").payload(json!({"email": "b@example.org"}));
    assert_eq!(after([created(), user("EmailVerified")])[0][1], Value::Text("a@example.org".into()));
    assert_eq!(after([created(), changed])[0][1], Value::Text("b@example.org".into()));
}

#[test]
fn a_deactivated_user_stays_in_the_table() {
    let rows = after([
        user("UserCreated").payload(json!({"email": "a@example.org"})),
        user("UserDeactivated"),
        user("EmailVerified"),
        event("UserCreated").aggregate("User", "u2").payload(json!({"email": "c@example.org"})),
    ]);
    assert_eq!(rows.iter().map(|row| row[3].clone()).collect::<Vec<_>>(), values![false, true]);
}

#[test]
fn who_registers_again_is_active_again_and_created_once() {
    let rows = after([
        user("UserCreated").payload(json!({"email": "a@example.org"})).created_at("2024-01-01T00:00:00Z"),
        user("UserDeactivated"),
        user("UserCreated").payload(json!({"email": "b@example.org"})).created_at("2025-01-01T00:00:00Z"),
    ]);
    assert_eq!(rows, [values!["u1", "b@example.org", at("2024-01-01T00:00:00Z"), true]]);
}

#[test]
fn a_user_whose_creation_is_missing_is_not_lost() {
    let unknown = None::<&str>;
    assert_eq!(after([user("UserDeactivated")]), [values!["u1", unknown, unknown, false]]);
    assert_eq!(after([user("EmailVerified")]), [values!["u1", unknown, unknown, true]]);
}

#[test]
fn a_creation_without_email_fails_and_leaves_nothing() {
    let mut host = TestHost::<UserCount>::new();
    let failure = host.try_apply([user("UserDeactivated"), user("UserCreated")]).unwrap_err();
    assert_eq!(failure.call(), "handle of UserCreated at position 2");
    assert!(failure.failure().message().contains("missing field `email`"), "{failure}");
    host.migrate();
    assert_eq!(host.value::<i64>("SELECT count(*) FROM user_stats"), 0);
}
