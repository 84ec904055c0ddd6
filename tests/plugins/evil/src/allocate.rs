//! Taking memory, in each way that a program has.

use std::hint::black_box;

use serde::Deserialize;

/// `{"attack": "allocate", "how": "large"}`
#[derive(Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub(crate) enum Attack {
    /// A mebibyte at a time, without end.
    Large,
    /// A few bytes at a time, without end.
    Small,
    /// Grows its memory as far as that goes, takes the refusal as it comes, and says that all is well.
    Politely,
    /// Nothing: only tells how much it has.
    Tell,
    /// Grows within its limit, and gives the memory back to its allocator, which keeps it.
    AndGiveBack {
        /// By how much.
        mebibytes: usize,
    },
}

impl Attack {
    /// Takes it; gives what to note.
    pub(crate) fn run(self) -> String {
        match self {
            Self::Large => hoard(1 << 20),
            Self::Small => hoard(8),
            Self::Politely => {
                while pages::grow_by_one() {}
                format!("{} MiB", pages::count() >> 4)
            }
            Self::Tell => format!("{} MiB", pages::count() >> 4),
            Self::AndGiveBack { mebibytes } => {
                black_box(vec![1_u8; mebibytes << 20]);
                format!("{} MiB", pages::count() >> 4)
            }
        }
    }
}

/// Takes pieces of memory without end.
fn hoard(bytes: usize) -> ! {
    let mut hoard: Vec<Box<[u8]>> = Vec::new();
    loop {
        hoard.push(vec![1; bytes].into_boxed_slice());
        black_box(&hoard);
    }
}

/// Its memory, in pages of 64 KiB.
#[cfg(target_family = "wasm")]
mod pages {
    /// Grows it, if the host lets it.
    pub(super) fn grow_by_one() -> bool {
        core::arch::wasm32::memory_grow::<0>(1) != usize::MAX
    }

    /// How many there are.
    pub(super) fn count() -> usize {
        core::arch::wasm32::memory_size::<0>()
    }
}

/// Natively there are none; this is for the lints.
#[cfg(not(target_family = "wasm"))]
mod pages {
    /// Never.
    pub(super) fn grow_by_one() -> bool {
        false
    }

    /// None.
    pub(super) fn count() -> usize {
        0
    }
}
