//! Computing without end, wherever a guest is called.

use projectionist_sdk::prelude::*;
use serde::Deserialize;

/// `{"attack": "spin", "at": "handle"}`
#[derive(Deserialize)]
pub(crate) struct Attack {
    /// In which call.
    at: At,
}

/// Where it may spin by order of an event.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum At {
    /// Here.
    Handle,
    /// At the end of the batch.
    Flush,
    /// Here, and with calls of the host in between, so that it is never long in the guest.
    Calls,
}

impl Attack {
    /// Spins, or says that `flush` shall.
    pub(crate) fn run(&self, tx: &Transaction) -> bool {
        match self.at {
            At::Handle => spin(),
            At::Calls => loop {
                std::hint::black_box(tx.dialect());
            },
            At::Flush => true,
        }
    }
}

/// Spins if the operator has set `spin` to this call: before there is any event.
pub(crate) fn spin_in(call: &str) {
    if config::get("spin").as_deref() == Some(call) {
        spin();
    }
}

/// Never ends by itself.
pub(crate) fn spin() -> ! {
    let mut number = 0_u64;
    loop {
        number = std::hint::black_box(number).wrapping_add(1);
    }
}
