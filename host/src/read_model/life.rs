//! Whether a server is the one that it was, and what has happened to it since.

/// A server at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it was started.
    started: String,
    /// When its statistics were reset: at the latest when it has recovered.
    recovered: String,
}

impl Life {
    /// As the server says it.
    #[must_use]
    pub fn new(started: String, recovered: String) -> Self {
        Self { started, recovered }
    }

    /// Whether one of its processes has died since then, so that it had to recover, without having been started anew.
    #[must_use]
    pub fn has_lost_a_process_since(&self, before: &Self) -> bool {
        self.started == before.started && self.recovered != before.recovered
    }
}
