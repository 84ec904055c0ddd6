//! A process's sign of life: something that changes each second for as long as the process runs.
//!
//! It comes from a thread of its own, so a worker that computes, or waits in the database, is alive; a process that is
//! frozen, or cut off from the database, is not. What it is good for stands in [`super::claim`].

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The pause between two beats.
pub const EVERY: Duration = Duration::from_secs(1);

/// Beats for as long as it lives.
#[derive(Debug)]
pub struct Heartbeat {
    /// Its thread ends when this is dropped.
    _alive: Sender<()>,
}

impl Heartbeat {
    /// Calls `beat` each second, on a thread of its own.
    pub(super) fn start(mut beat: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let (alive, dropped) = channel();
        std::thread::Builder::new().name("heartbeat".into()).spawn(move || {
            loop {
                beat();
                if dropped.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
        Ok(Self { _alive: alive })
    }
}
