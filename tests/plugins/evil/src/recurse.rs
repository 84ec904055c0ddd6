//! Filling the stack.

use std::hint::black_box;

use serde::Deserialize;

/// `{"attack": "recurse", "how": "deep"}`
#[derive(Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub(crate) enum Attack {
    /// A small frame a call: many calls fill the machine's stack.
    Deep,
    /// A large frame a call: few calls fill the guest's own stack in its memory, which must not run over its data.
    Wide,
}

impl Attack {
    /// Never ends well.
    pub(crate) fn run(&self) -> String {
        match self {
            Self::Deep => deep(black_box(1)).to_string(),
            Self::Wide => wide(black_box(1)).to_string(),
        }
    }
}

/// Calls itself, without memory of its own.
#[expect(unconditional_recursion, reason = "that is the point")]
fn deep(depth: u64) -> u64 {
    deep(black_box(depth + 1)) ^ black_box(depth)
}

/// Calls itself with 64 KiB of memory.
#[expect(unconditional_recursion, reason = "that is the point")]
fn wide(depth: u64) -> u64 {
    let mut frame = [depth; 8 << 10];
    black_box(&mut frame);
    wide(depth + 1) ^ black_box(frame[77])
}
