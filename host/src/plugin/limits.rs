//! What a guest may take: memory, tables, instances, stack, time, data that passes between it and the host, log lines.
//! What it may ask of the database is [`SqlLimits`].

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use crate::read_model::unit_of_work::SqlLimits;

/// The limits of one projection. Each worker has an instance of its own, so what is said of an instance is for a worker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of linear memory, all of an instance's memories together.
    pub memory: usize,
    /// How many memories an instance may have. Each takes some gigabytes of address space, though no memory.
    pub memories: usize,
    /// Elements of all of an instance's tables together, 8 bytes each. Function tables of large programs have some
    /// thousands.
    pub table_elements: usize,
    /// How many tables an instance may have.
    pub tables: usize,
    /// How many core instances a component may be made of. A component of one core module has three or four; one that
    /// carries an interpreter and its libraries some dozens.
    pub core_instances: usize,
    /// Bytes of stack. Past it a call traps, and the host's own stack is untouched.
    pub stack: usize,
    /// How long one call may compute. Time in the database does not count; it has its own limit.
    pub call: Duration,
    /// Bytes of an event, all its fields together, that is passed to the guest.
    pub event: usize,
    /// Bytes that a guest may pass to the host in one call, either as arguments or as its answer. A list may name the
    /// same bytes of memory many times over, so the guest's memory is no bound for what the host would have to copy.
    pub call_data: usize,
    /// Bytes of one log line; what is longer is cut. So is what a projection says of a failure.
    pub log_line: usize,
    /// Log lines a second, of all the projection's workers together; what is more is dropped and counted.
    pub log_lines: u32,
    /// Bytes of log lines a second, likewise.
    pub log_bytes: usize,
    /// What it may ask of the database.
    pub sql: SqlLimits,
}

impl Default for Limits {
    /// Generous for a projection, harmless for a machine; docs/security.md lists them.
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            memories: 16,
            table_elements: 100_000,
            tables: 64,
            core_instances: 256,
            stack: 512 << 10,
            call: Duration::from_secs(1),
            event: 16 << 20,
            call_data: 64 << 20,
            log_line: 8 << 10,
            log_lines: 1_000,
            log_bytes: 1 << 20,
            sql: SqlLimits::default(),
        }
    }
}

/// A number of bytes: `65536`, or `64KiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

/// What may stand behind a number of bytes, the largest first.
const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
        let (number, unit) = unit.unwrap_or((text, 1));
        let number = number.trim_end().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
        number.map(Self).ok_or_else(|| "say a number of bytes, such as 65536, 64KiB, 16MiB or 1GiB".to_owned())
    }
}

/// What was refused first, so that the trap which follows can be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// More memory.
    Memory,
    /// More elements in tables.
    TableElements,
}

/// Keeps an instance within its memory and its tables.
#[derive(Debug)]
pub(super) struct Resources {
    /// What is allowed.
    limits: Limits,
    /// Bytes in use, of all memories.
    memory: usize,
    /// Elements in use, of all tables.
    table_elements: usize,
    /// What was refused.
    pub(super) refused: Option<Refused>,
}

impl Resources {
    /// Allows what the limits say.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, memory: 0, table_elements: 0, refused: None }
    }

    /// Bytes in use, of all memories.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Counts growth, if it fits.
    fn grow(used: &mut usize, current: usize, desired: usize, allowed: usize) -> bool {
        let all = (*used - current.min(*used)).saturating_add(desired);
        if all <= allowed {
            *used = all;
        }
        all <= allowed
    }
}

impl ResourceLimiter for Resources {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = Self::grow(&mut self.memory, current, desired, self.limits.memory);
        if !fits {
            self.refused.get_or_insert(Refused::Memory);
        }
        Ok(fits)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = Self::grow(&mut self.table_elements, current, desired, self.limits.table_elements);
        if !fits {
            self.refused.get_or_insert(Refused::TableElements);
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        self.limits.core_instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}

/// Lets through so much of a log a second. One for all instances of a projection: an instance that is dropped after each
/// trap, or one of many workers, gets no second share.
#[derive(Debug)]
pub(super) struct LogRate {
    /// Lines a second.
    lines_allowed: u32,
    /// Bytes a second.
    bytes_allowed: usize,
    /// When the running second began.
    since: Instant,
    /// Lines written in it.
    lines: u32,
    /// Bytes written in it.
    bytes: usize,
    /// Lines dropped since the last that was written.
    dropped: u64,
}

/// What becomes of a log line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LogVerdict {
    /// It is written.
    Write,
    /// It is written, after a line that says how many were dropped.
    WriteAfterDropping(u64),
    /// It is dropped.
    Drop,
}

impl LogRate {
    /// Allows what the limits say.
    pub(super) fn new(limits: &Limits) -> Self {
        let (lines_allowed, bytes_allowed) = (limits.log_lines, limits.log_bytes);
        Self { lines_allowed, bytes_allowed, since: Instant::now(), lines: 0, bytes: 0, dropped: 0 }
    }

    /// Counts a line of so many bytes.
    pub(super) fn count(&mut self, bytes: usize) -> LogVerdict {
        if self.since.elapsed() >= Duration::from_secs(1) {
            (self.since, self.lines, self.bytes) = (Instant::now(), 0, 0);
        }
        let (lines, bytes) = (self.lines.saturating_add(1), self.bytes.saturating_add(bytes));
        if lines > self.lines_allowed || bytes > self.bytes_allowed {
            self.dropped += 1;
            return LogVerdict::Drop;
        }
        (self.lines, self.bytes) = (lines, bytes);
        match std::mem::take(&mut self.dropped) {
            0 => LogVerdict::Write,
            dropped => LogVerdict::WriteAfterDropping(dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_past_the_limit_is_refused_and_remembered() {
        let mut resources = Resources::new(Limits { memory: 100, ..Limits::default() });
        assert!(resources.memory_growing(0, 60, None).unwrap());
        assert!(resources.memory_growing(60, 90, None).unwrap());
        assert_eq!(resources.refused, None);
        assert!(!resources.memory_growing(0, 20, None).unwrap(), "a second memory counts with the first");
        assert_eq!(resources.refused, Some(Refused::Memory));
        assert!(resources.memory_growing(0, 10, None).unwrap(), "what was refused does not count");
    }

    #[test]
    fn table_elements_count_together() {
        let mut resources = Resources::new(Limits { table_elements: 100, ..Limits::default() });
        assert!(resources.table_growing(0, 60, None).unwrap());
        assert!(!resources.table_growing(0, 60, None).unwrap(), "a second table counts with the first");
        assert_eq!(resources.refused, Some(Refused::TableElements));
    }

    #[test]
    fn a_module_of_more_memories_or_tables_than_allowed_is_not_instantiated() {
        let engine = super::super::engine::new(512 << 10).unwrap();
        let two_memories: &[u8] = b"\0asm\x01\0\0\0\x05\x05\x02\0\0\0\0";
        let two_tables: &[u8] = b"\0asm\x01\0\0\0\x04\x07\x02\x70\0\0\x70\0\0";
        let instantiate = |bytes: &[u8], limits: Limits| {
            let mut store = wasmtime::Store::new(&engine, Resources::new(limits));
            store.limiter(|resources| resources);
            let module = wasmtime::Module::new(&engine, bytes).unwrap();
            wasmtime::Instance::new(&mut store, &module, &[]).map(drop).map_err(|error| error.to_string())
        };
        for (bytes, limits, what) in [
            (two_memories, Limits { memories: 1, ..Limits::default() }, "memory"),
            (two_tables, Limits { tables: 1, ..Limits::default() }, "table"),
        ] {
            let expected = format!("resource limit exceeded: {what} count too high at 2");
            assert_eq!(instantiate(bytes, limits), Err(expected));
            assert_eq!(instantiate(bytes, Limits::default()), Ok(()));
        }
    }

    #[test]
    fn a_flood_of_log_lines_is_cut() {
        let mut rate = LogRate::new(&Limits { log_lines: 2, log_bytes: 100, ..Limits::default() });
        let verdicts: Vec<_> = (0..4).map(|_| rate.count(10)).collect();
        assert_eq!(verdicts, [LogVerdict::Write, LogVerdict::Write, LogVerdict::Drop, LogVerdict::Drop]);
        // A second later.
        rate.since = rate.since.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(rate.count(90), LogVerdict::WriteAfterDropping(2));
        assert_eq!(rate.count(11), LogVerdict::Drop, "few lines, and too many bytes");
        assert_eq!(rate.count(10), LogVerdict::WriteAfterDropping(1), "a shorter one still fits");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes, shown) in [
            ("65536", 65_536, "64 KiB"),
            ("64KiB", 65_536, "64 KiB"),
            ("16 MiB", 16 << 20, "16 MiB"),
            ("1GiB", 1 << 30, "1 GiB"),
            ("1000", 1_000, "1000 bytes"),
            ("0", 0, "0 bytes"),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), shown);
        }
        for wrong in ["", "MiB", "64MB", "-1", "1.5GiB", "99999999999GiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
