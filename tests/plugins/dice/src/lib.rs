//! Writes down what WASI shows it: clocks, randomness, the order of a hash map, files, streams.
//!
//! It imports the interfaces itself, so that it needs no other target than the other projections; what a language's own
//! runtime asks of WASI is the same.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasher, Hasher as _};

use projectionist_sdk::prelude::*;
use serde::Deserialize;
use wasip2::{cli, clocks, filesystem, random, sockets};

/// Keeps `throws`.
#[derive(Default)]
struct Dice {
    /// Its hash map, which it keeps from event to event.
    seen: HashMap<String, u64, Seeded>,
}

/// Hashes with keys from WASI, drawn once, as the standard library of a target with WASI does.
#[derive(Clone)]
struct Seeded(u64, u64);

impl Default for Seeded {
    fn default() -> Self {
        let (one, two) = random::insecure_seed::insecure_seed();
        Self(one, two)
    }
}

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher.write_u64(self.1);
        hasher
    }
}

/// The payload of an event.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Order {
    /// Writes down what it is shown.
    Throw,
    /// Writes a text to stdout and another to stderr.
    Print {
        /// To stdout.
        out: String,
        /// To stderr.
        err: String,
    },
    /// Writes a text to stdout for ever.
    PrintForEver,
    /// Writes down what there is of files, environment, arguments and terminals.
    Look,
    /// Ends its process.
    Exit,
    /// Connects to a network.
    Connect,
    /// Waits for a year.
    Sleep,
    /// Takes handles without end.
    Hoard,
    /// Draws so many bytes at once.
    Draw {
        /// How many.
        bytes: u64,
    },
}

impl Projection for Dice {
    fn name() -> &'static str {
        "dice"
    }

    fn migrate(&mut self, tx: &Transaction, _from_version: u32) -> Result<(), Failure> {
        tx.execute("CREATE TABLE throws (position BIGINT PRIMARY KEY, throw TEXT NOT NULL)", params![])?;
        Ok(())
    }

    fn handle(&mut self, tx: &Transaction, event: &Event) -> Result<(), Failure> {
        let note = match event.payload()? {
            Order::Throw => self.throw(event),
            Order::Print { out, err } => {
                let written = cli::stdout::get_stdout().blocking_write_and_flush(out.as_bytes());
                let complained = cli::stderr::get_stderr().blocking_write_and_flush(err.as_bytes());
                format!("{written:?} {complained:?}")
            }
            Order::PrintForEver => loop {
                drop(cli::stdout::get_stdout().blocking_write_and_flush(b"flood flood flood\n"));
            },
            Order::Look => look(),
            Order::Exit => {
                cli::exit::exit(Ok(()));
                "still there".to_owned()
            }
            Order::Connect => format!("{:?}", sockets::instance_network::instance_network()),
            Order::Sleep => {
                let before = clocks::monotonic_clock::now();
                clocks::monotonic_clock::subscribe_duration(31_536_000_000_000_000).block();
                format!("{} later", clocks::monotonic_clock::now() - before)
            }
            Order::Hoard => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(cli::stdout::get_stdout());
                }
            }
            Order::Draw { bytes } => random::random::get_random_bytes(bytes).len().to_string(),
        };
        tx.execute("INSERT INTO throws VALUES ($1, $2)", params![event.position(), note])?;
        Ok(())
    }
}

impl Dice {
    /// What it is shown at this event.
    fn throw(&mut self, event: &Event) -> String {
        let wall = clocks::wall_clock::now();
        let monotonic = clocks::monotonic_clock::now();
        let numbers = [random::random::get_random_u64(), random::random::get_random_u64()];
        let bytes = random::random::get_random_bytes(40);
        let insecure = random::insecure::get_insecure_random_u64();
        // The same names for every event: what differs is the map's order, if its keys do.
        self.seen.clear();
        self.seen.extend((0..16).map(|number| (format!("{}-{number}", event.aggregate_id()), number)));
        let order: Vec<_> = self.seen.values().collect();
        let (seconds, nanoseconds) = (wall.seconds, wall.nanoseconds);
        format!("{seconds}.{nanoseconds:09} {monotonic} {numbers:?} {bytes:?} {insecure} {order:?}")
    }
}

/// What there is around it.
fn look() -> String {
    let (environment, arguments) = (cli::environment::get_environment(), cli::environment::get_arguments());
    let folder = cli::environment::initial_cwd();
    let folders = filesystem::preopens::get_directories().len();
    let read = cli::stdin::get_stdin().blocking_read(10);
    let terminal = cli::terminal_stdout::get_terminal_stdout().is_some();
    format!("{environment:?} {arguments:?} {folder:?} {folders} {read:?} {terminal}")
}

export_projection!(Dice);
