//! Memory that an instance has grown does not stay with the host for ever.
//!
//! WebAssembly's memory only grows: what a guest frees goes back to its own allocator, never to the host. So an instance
//! that needed much once would keep it for as long as it lives, and so would one in each of a hundred workers. Dropping
//! it is the one way to have the memory back. Between two batches that is allowed at any time: a projection keeps nothing
//! in memory that is not in a table, because after a rollback it would be gone, too.

/// Growth that is no matter: what an allocator takes in advance.
const SLACK: usize = 1 << 20;

/// How many batches an instance that has grown is kept for. Growing again costs a millisecond for some mebibytes, and
/// reading what it had cached some queries: nothing, once in so many batches.
const BATCHES: u32 = 100;

/// What is known of one instance's memory.
#[derive(Debug)]
pub(super) struct Growth {
    /// What it began with.
    at_first: usize,
    /// Batches since it has grown.
    batches: u32,
}

impl Growth {
    /// An instance that begins with so many bytes.
    pub(super) fn from(at_first: usize) -> Self {
        Self { at_first, batches: 0 }
    }

    /// Whether an instance with so many bytes has taken more than it began with.
    pub(super) fn has_grown(&self, memory: usize) -> bool {
        memory.saturating_sub(self.at_first) > SLACK
    }

    /// A batch is done, after which the instance has so many bytes out of those allowed. Says whether it has had them for
    /// long enough. One that is past half of what it may have is not kept at all: what it grows by in the next batch could
    /// make that fail.
    pub(super) fn has_had_enough(&mut self, memory: usize, allowed: usize) -> bool {
        if !self.has_grown(memory) {
            return false;
        }
        self.batches += 1;
        memory > allowed / 2 || self.batches >= BATCHES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_grown_stays() {
        let mut growth = Growth::from(60 << 20);
        assert!((0..1_000).all(|_| !growth.has_had_enough(61 << 20, 64 << 20)));
    }

    #[test]
    fn what_has_grown_stays_for_some_batches() {
        let mut growth = Growth::from(1 << 20);
        assert!((1..BATCHES).all(|_| !growth.has_had_enough(8 << 20, 64 << 20)));
        assert!(growth.has_had_enough(8 << 20, 64 << 20));
    }

    #[test]
    fn what_has_grown_past_half_of_its_limit_goes_at_once() {
        assert!(Growth::from(1 << 20).has_had_enough(33 << 20, 64 << 20));
    }
}
