//! Carrying something over a rollback: whatever an event has left in memory, wherever it has put it, is gone with it.

use projectionist_tests::{Setup, on_both_databases};
use serde_json::{Value, json};

use super::{attack, catch_up, survivors};

/// Remembers something, and ends like this.
fn remember(and: &str) -> Value {
    json!({"attack": "remember", "and": and})
}

on_both_databases!(nothing_of_an_event_that_failed_is_remembered);
fn nothing_of_an_event_that_failed_is_remembered(setup: &Setup) {
    let tell = || attack("good", remember("tell"));
    let mut events = vec![tell()];
    for (number, and) in ["fail", "trap", "spin", "fail_in_sql"].into_iter().enumerate() {
        events.extend([attack(&format!("bad-{number}"), remember(and)), tell()]);
    }
    setup.insert(&events);
    catch_up(setup, &["--max-call-time", "300"]).success();
    assert_eq!(setup.dead_letters("evil").len(), 4);
    assert_eq!(survivors(setup), ["remembers 0"; 5]);
}
