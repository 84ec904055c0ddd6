//! What a guest may take: memory, time, log lines.

use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use crate::read_model::unit_of_work::SqlLimits;

/// The limits of one projection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of linear memory, all of an instance's memories together.
    pub memory: usize,
    /// How long one call may compute. Time in the database does not count; it has its own limit.
    pub call: Duration,
    /// Bytes of one log line; what is longer is cut.
    pub log_line: usize,
    /// Log lines a second; what is more is dropped and counted.
    pub log_rate: u32,
    /// What it may ask of the database.
    pub sql: SqlLimits,
}

impl Default for Limits {
    /// 64 MiB, 1 s a call, lines of 8 KiB, 1,000 a second, and [`SqlLimits::default`].
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            call: Duration::from_secs(1),
            log_line: 8 << 10,
            log_rate: 1_000,
            sql: SqlLimits::default(),
        }
    }
}

/// How many table elements a guest may have: function tables of large programs have some thousands.
const TABLE_ELEMENTS: usize = 100_000;

/// Keeps an instance within its memory, and remembers when it did not fit, so that the trap which follows can be
/// explained.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    /// Bytes allowed.
    allowed: usize,
    /// Bytes in use, of all memories.
    used: usize,
    /// Whether growth was refused.
    pub(super) refused: bool,
}

impl MemoryLimit {
    /// Allows so many bytes.
    pub(super) fn new(allowed: usize) -> Self {
        Self { allowed, used: 0, refused: false }
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used - current.min(self.used) + desired;
        if used > self.allowed {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}

/// Lets through so many log lines a second.
#[derive(Debug)]
pub(super) struct LogRate {
    /// Lines a second.
    allowed: u32,
    /// When the running second began.
    since: Instant,
    /// Lines in it.
    lines: u32,
}

/// What becomes of a log line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogVerdict {
    /// It is written.
    Write,
    /// It is written, after a line that says how many were dropped.
    WriteAfterDropping(u32),
    /// It is dropped.
    Drop,
}

impl LogRate {
    /// Allows so many lines a second.
    pub(super) fn new(allowed: u32) -> Self {
        Self { allowed, since: Instant::now(), lines: 0 }
    }

    /// Counts a line.
    pub(super) fn count(&mut self) -> LogVerdict {
        if self.since.elapsed() >= Duration::from_secs(1) {
            let dropped = self.lines.saturating_sub(self.allowed);
            self.since = Instant::now();
            self.lines = 1;
            return if dropped > 0 { LogVerdict::WriteAfterDropping(dropped) } else { LogVerdict::Write };
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines > self.allowed { LogVerdict::Drop } else { LogVerdict::Write }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_past_the_limit_is_refused_and_remembered() {
        let mut limit = MemoryLimit::new(100);
        assert!(limit.memory_growing(0, 60, None).unwrap());
        assert!(limit.memory_growing(60, 90, None).unwrap());
        assert!(!limit.refused);
        assert!(!limit.memory_growing(0, 20, None).unwrap(), "a second memory counts with the first");
        assert!(limit.refused);
    }

    #[test]
    fn a_flood_of_log_lines_is_cut() {
        let mut rate = LogRate::new(2);
        let verdicts: Vec<_> = (0..4).map(|_| rate.count()).collect();
        assert_eq!(verdicts, [LogVerdict::Write, LogVerdict::Write, LogVerdict::Drop, LogVerdict::Drop]);
    }
}
