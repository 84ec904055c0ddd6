//! Computing without end: stopped at the limit of a call, wherever it is, and the rest of the process goes on.

use projectionist_tests::{Setup, on_both_databases, plugin};
use serde_json::json;

use super::{contained, harmless, run};

/// What the message says.
const STOPPED: &str = "the projection ran longer than 300ms and was stopped";

/// So that the tests need not wait for a second each.
const SHORT: [&str; 2] = ["--max-call-time", "300"];

on_both_databases!(a_call_that_does_not_end_is_stopped);
fn a_call_that_does_not_end_is_stopped(setup: &Setup) {
    let spin = |at: &str| (json!({"attack": "spin", "at": at}), STOPPED);
    // Also one that is never long in the guest, and one that ends the batch.
    contained(setup, &[spin("handle"), spin("calls"), spin("flush")], &SHORT);
}

on_both_databases!(a_migration_that_does_not_end_is_stopped_and_others_go_on);
fn a_migration_that_does_not_end_is_stopped_and_others_go_on(setup: &Setup) {
    setup.insert(&[harmless("a"), harmless("b")]);
    let output = run(setup, &plugin("evil"), &[&SHORT[..], &["--set", "evil.spin=migrate"]].concat());
    output.failed(1, &format!("evil failed in `migrate`: {STOPPED}"));
    assert_eq!(setup.events_applied("counter"), 2, "the other projection has caught up");
    // Nothing of it was kept: the next one begins from nothing.
    run(setup, &plugin("evil"), &[]).success();
    assert_eq!(super::survivors(setup), ["harmless", "harmless"]);
}

on_both_databases!(a_description_that_does_not_end_is_no_plugin);
fn a_description_that_does_not_end_is_no_plugin(setup: &Setup) {
    let evil = plugin("evil");
    let named = format!("evil={evil}");
    let output = run(setup, &named, &[&SHORT[..], &["--set", "evil.spin=describe"]].concat());
    output.exited(1);
    assert!(
        output.error().starts_with(&format!("the plugin {evil} failed in `describe`: {STOPPED}")),
        "{}",
        output.stderr
    );
    assert_eq!(setup.checkpoints("evil"), [], "nothing was run");
}
