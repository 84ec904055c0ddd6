//! The projection `saboteur`, which does what its events tell it: see tests/plugins/saboteur.

use projectionist_tests::{Event, Host, Output, Setup, event, plugin};
use serde_json::Value;

/// An event that tells the saboteur something.
pub(crate) fn order(aggregate: &str, payload: Value) -> Event {
    event("Order", "Saboteur", aggregate).payload(payload)
}

/// An event that it simply notes.
pub(crate) fn note(aggregate: &str) -> Event {
    order(aggregate, serde_json::json!({"do": "note"}))
}

/// The arguments that run it.
fn arguments(more: &[&str]) -> Vec<String> {
    let mut arguments = vec!["run".to_owned(), "--plugin".to_owned(), plugin("saboteur")];
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments
}

/// Runs it until it has caught up.
#[track_caller]
pub(crate) fn catch_up(setup: &Setup, more: &[&str]) -> Output {
    setup.run(arguments(&[&["--once"], more].concat()))
}

/// Starts it, to follow the events.
pub(crate) fn follow(setup: &Setup, more: &[&str]) -> Host {
    setup.start(arguments(more))
}

/// What it has noted: aggregate and note, by position.
pub(crate) fn notes(setup: &Setup) -> Vec<Vec<String>> {
    setup.rows("saboteur", "SELECT aggregate, note FROM notes ORDER BY position")
}

/// How many events it has noted; 0 before it has run.
pub(crate) fn noted(setup: &Setup) -> u64 {
    setup.count("saboteur", "notes")
}
