//! What a host tells of itself: its log in JSON, read from the file that it writes, as it grows.
//!
//! The file is the process's own standard error, so a process that is killed has written everything it had to say. Its
//! last line about a worker tells whether that worker was in the middle of a batch.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A worker: its projection and its partition, `2 of 3`.
pub type Worker = (String, String);

/// A claim that a host has made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimed {
    /// Of what.
    pub worker: Worker,
    /// Its epoch.
    pub epoch: u64,
}

/// A log, as far as it was read.
#[derive(Debug)]
pub struct Journal {
    /// The file.
    path: PathBuf,
    /// How many bytes of it were read.
    read: u64,
    /// The beginning of a line that was not yet whole.
    rest: Vec<u8>,
    /// Workers in the middle of a batch: how many events it has.
    open: BTreeMap<Worker, u64>,
    /// How many plugins were loaded at the start.
    pub plugins_loaded: u32,
    /// Its claims, in order.
    pub claims: Vec<Claimed>,
    /// How many batches were committed, and how many events with them.
    pub committed: (u64, u64),
    /// Batches that failed and were applied event by event.
    pub careful: u64,
    /// How many times a worker took up another plugin.
    pub swapped: u64,
    /// How many times a changed file was refused.
    pub refused: u64,
    /// How many aggregates were parked.
    pub parked: u64,
    /// How many workers were fenced.
    pub fenced: u64,
    /// How many times it replaced a worker that gave no sign of life.
    pub replaced: u64,
    /// How many times a worker waited and tried again.
    pub retries: u64,
    /// Workers that have left although their process goes on.
    pub left: u64,
    /// Lines that are no log lines: errors and panics.
    pub plain: String,
}

impl Journal {
    /// Of the process that writes this file.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: 0,
            rest: Vec::new(),
            open: BTreeMap::new(),
            plugins_loaded: 0,
            claims: Vec::new(),
            committed: (0, 0),
            careful: 0,
            swapped: 0,
            refused: 0,
            parked: 0,
            fenced: 0,
            replaced: 0,
            retries: 0,
            left: 0,
            plain: String::new(),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what has come since.
    ///
    /// # Panics
    /// When the file cannot be read.
    pub fn catch_up(&mut self) {
        let mut file = File::open(&self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
        file.seek(SeekFrom::Start(self.read)).expect("a file can be sought");
        let mut bytes = std::mem::take(&mut self.rest);
        self.read += file.read_to_end(&mut bytes).expect("reading a log") as u64;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.rest = bytes.split_off(whole);
        for line in String::from_utf8_lossy(&bytes).lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(line) => self.note(&line),
                Err(_) => {
                    self.plain.push_str(line);
                    self.plain.push('\n');
                }
            }
        }
    }

    /// How many workers are in the middle of a batch.
    #[must_use]
    pub fn in_mid_batch(&self) -> usize {
        self.open.len()
    }

    /// Takes in a line.
    fn note(&mut self, line: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let number = |key: &str| line[key].as_u64().unwrap_or(0);
        let message = line["message"].as_str().unwrap_or_default();
        let worker = (text(&line["span"]["projection"]), text(&line["span"]["partition"]));
        match message {
            "plugin loaded" => self.plugins_loaded += 1,
            "batch begins" => drop(self.open.insert(worker, number("events"))),
            "batch committed" => {
                self.committed = (self.committed.0 + 1, self.committed.1 + number("applied"));
                self.open.remove(&worker);
            }
            "partition claimed" => {
                self.open.remove(&worker);
                self.claims.push(Claimed { worker, epoch: number("epoch") });
            }
            "will try again; nothing is lost" => {
                self.retries += 1;
                self.open.remove(&worker);
            }
            "claiming the partition again" => drop(self.open.remove(&worker)),
            "no sign of life: replaced" => self.replaced += 1,
            "a batch failed: applying its events one by one" => self.careful += 1,
            "the projection was replaced" => self.swapped += 1,
            "this worker leaves" => {
                self.fenced += 1;
                self.left += 1;
            }
            "a worker cannot run" | "a worker gave up; the others go on" => self.left += 1,
            _ if message.starts_with("the changed plugin is not taken up") => self.refused += 1,
            _ if message.starts_with("aggregate parked") => self.parked += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_open_from_its_begin_to_its_commit_and_half_a_line_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let span = r#""span":{"projection":"alpha","partition":"0 of 2","name":"worker"}"#;
        let begins = format!("{{\"message\":\"batch begins\",\"events\":3,{span}}}\n");
        let commits = format!("{{\"message\":\"batch committed\",\"applied\":3,{span}}}\n");
        let half = commits.len() / 2;
        std::fs::write(&path, format!("{begins}{}", &commits[..half])).unwrap();
        let mut journal = Journal::new(path.clone());
        journal.catch_up();
        assert_eq!((journal.in_mid_batch(), journal.committed), (1, (0, 0)));
        std::fs::write(&path, format!("{begins}{commits}error: something\n")).unwrap();
        journal.catch_up();
        assert_eq!((journal.in_mid_batch(), journal.committed), (0, (1, 3)));
        assert_eq!(journal.plain, "error: something\n");
    }
}
