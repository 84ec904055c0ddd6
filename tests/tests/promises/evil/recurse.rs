//! Filling the stack: a trap for the guest, and the host's own stack is untouched.

use projectionist_tests::{Setup, on_both_databases};
use serde_json::json;

use super::contained;

on_both_databases!(a_recursion_without_end_traps);
fn a_recursion_without_end_traps(setup: &Setup) {
    let recurse = |how: &str, error| (json!({"attack": "recurse", "how": how}), error);
    contained(
        setup,
        &[
            recurse("deep", "the projection trapped: wasm trap: call stack exhausted"),
            // Its own stack, in its memory, ends below all data: what runs over it leaves the memory.
            recurse("wide", "the projection trapped: wasm trap: out of bounds memory access"),
        ],
        &[],
    );
}
