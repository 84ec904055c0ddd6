//! The hosts that are tormented: several processes that share the partitions and stand by for each other.
//!
//! Half of them divide the partitions, the others stand by for all of them, so whoever ends is replaced at once, and is
//! a standby itself when it comes back. A process that ends without having been told to is an error, unless it was
//! fenced, or the server was disturbed while it started.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::journal::{Claimed, Journal};
use super::report::Figures;
use crate::{Setup, wait_until};

/// How many processes there are.
pub const SLOTS: usize = 4;

/// How many of them divide the partitions; the rest stands by for all.
const ACTIVE: usize = 2;

/// What is logged: batches as they begin and end, and everything that `info` has.
const LOG: &str = "info,projectionist_host::processor::paths=debug";

/// How long an aim waits for its target to be in the middle of a batch.
const AIM: Duration = Duration::from_millis(500);

/// The batch sizes: a small one, so that there are many commits, and a large one, so that much is in each.
const BATCH_SIZES: [&str; 2] = ["7", "400"];

/// A host of the fleet.
#[derive(Debug)]
pub struct Member {
    /// Which process it is, of all that were ever started.
    pub number: u32,
    /// Out of how many partitions it works.
    total: u32,
    /// The process.
    child: Child,
    /// Its log.
    journal: Journal,
    /// When it started.
    began: Instant,
    /// Until when it is frozen.
    frozen: Option<Instant>,
    /// Whether it was asked to end.
    asked: bool,
}

impl Member {
    /// Sends a signal.
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalling a process that was not waited for");
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Its log, as far as it goes now.
    pub fn journal(&mut self) -> &Journal {
        self.journal.catch_up();
        &self.journal
    }
}

/// The hosts.
#[derive(Debug)]
pub struct Fleet<'setup> {
    /// Where they run.
    setup: &'setup Setup,
    /// Where their logs are.
    logs: PathBuf,
    /// The arguments that all have in common.
    arguments: Vec<String>,
    /// Out of how many partitions they work, by slot.
    totals: [u32; SLOTS],
    /// Who runs.
    members: [Option<Member>; SLOTS],
    /// Who is to be started again, and when.
    due: [Option<Instant>; SLOTS],
    /// How many were ever started.
    started: u32,
    /// When the server was disturbed last.
    disturbed: Option<Instant>,
    /// Every claim that was made, by processes that are gone.
    claims: Vec<(Claimed, u32)>,
    /// What happened.
    pub figures: Figures,
}

impl<'setup> Fleet<'setup> {
    /// Nobody runs yet.
    #[must_use]
    pub fn new(setup: &'setup Setup, arguments: Vec<String>, total: u32) -> Self {
        let logs = setup.folder().join("logs");
        std::fs::create_dir_all(&logs).expect("a folder for logs");
        Self {
            setup,
            logs,
            arguments,
            totals: [total; SLOTS],
            members: [const { None }; SLOTS],
            due: [None; SLOTS],
            started: 0,
            disturbed: None,
            claims: Vec::new(),
            figures: Figures::default(),
        }
    }

    /// Starts whoever does not run.
    pub fn start_all(&mut self) {
        (0..SLOTS).for_each(|slot| self.start(slot));
    }

    /// Starts the process of a slot, if it does not run.
    pub fn start(&mut self, slot: usize) {
        self.due[slot] = None;
        if self.members[slot].is_some() {
            return;
        }
        self.started += 1;
        let (number, total) = (self.started, self.totals[slot]);
        let path = self.logs.join(format!("{number:04}-slot-{slot}.log"));
        let log = File::create(&path).expect("a log");
        let (first, workers) = share(slot, total);
        let mut command = self.setup.command(&self.arguments);
        command.args(["--log", LOG, "--log-format", "json", "--batch-size", BATCH_SIZES[slot % BATCH_SIZES.len()]]);
        command.args(["--partition-key", &first.to_string(), "--total-partitions", &total.to_string()]);
        command.args(["--workers", &workers.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("starting a host");
        let journal = Journal::new(path);
        let (frozen, asked) = (None, false);
        self.members[slot] = Some(Member { number, total, child, journal, began: Instant::now(), frozen, asked });
        self.figures.starts += 1;
    }

    /// A log for somebody else.
    #[must_use]
    pub fn log(&self, name: &str) -> File {
        File::create(self.logs.join(format!("{name}.log"))).expect("a log")
    }

    /// Who runs in a slot.
    pub fn member(&mut self, slot: usize) -> Option<&mut Member> {
        self.members[slot].as_mut()
    }

    /// The slots of those who run and are not frozen.
    #[must_use]
    pub fn awake(&self) -> Vec<usize> {
        let awake = |slot: &usize| self.members[*slot].as_ref().is_some_and(|member| !member.is_frozen());
        (0..SLOTS).filter(awake).collect()
    }

    /// Waits a moment for one of these to be in the middle of a batch; the first of them, if none is.
    pub fn aim(&mut self, slots: &[usize]) -> Option<usize> {
        let began = Instant::now();
        while began.elapsed() < AIM {
            for slot in slots {
                if self.members[*slot].as_mut().is_some_and(|member| member.journal().in_mid_batch() > 0) {
                    return Some(*slot);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        slots.first().copied()
    }

    /// Kills a process; it is started again after a while. Says whether it was in the middle of a batch.
    pub fn kill(&mut self, slot: usize, again: Duration) -> bool {
        let Some(mut member) = self.members[slot].take() else { return false };
        self.due[slot] = Some(Instant::now() + again);
        member.child.kill().expect("killing a process");
        let status = member.child.wait().expect("waiting for a process");
        if status.signal() != Some(9) {
            self.judge(&mut member, status);
        }
        let mid_batch = member.journal().in_mid_batch() > 0;
        self.figures.kills += 1;
        self.figures.kills_mid_batch += u64::from(mid_batch);
        self.bury(member);
        mid_batch
    }

    /// Asks a process to end; whoever has ended is started again by [`Fleet::tend`].
    pub fn terminate(&mut self, slot: usize) {
        if let Some(member) = self.members[slot].as_mut() {
            member.asked = true;
            member.signal(Signal::TERM);
        }
    }

    /// Freezes a process for a while. Says whether it was in the middle of a batch.
    pub fn freeze(&mut self, slot: usize, time: Duration) -> bool {
        let Some(member) = self.members[slot].as_mut() else { return false };
        member.signal(Signal::STOP);
        member.frozen = Some(Instant::now() + time);
        let mid_batch = member.journal().in_mid_batch() > 0;
        self.figures.freezes += 1;
        self.figures.freezes_mid_batch += u64::from(mid_batch);
        mid_batch
    }

    /// How many processes are in the middle of a batch.
    pub fn in_mid_batch(&mut self) -> u64 {
        let members = self.members.iter_mut().flatten();
        members.map(|member| u64::from(member.journal().in_mid_batch() > 0)).sum()
    }

    /// The server is being disturbed: who starts meanwhile may fail.
    pub fn disturb(&mut self) {
        self.disturbed = Some(Instant::now());
    }

    /// Out of how many partitions a slot works from its next start on.
    pub fn set_total(&mut self, slot: usize, total: u32) {
        self.totals[slot] = total;
    }

    /// Out of how many partitions the first slot works.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.totals[0]
    }

    /// Waits until everybody has read his plugins, so that what is done to their file is done to running hosts.
    pub fn wait_until_loaded(&mut self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            self.tend();
            let ready = |member: &mut Member| member.is_frozen() || member.journal().plugins_loaded >= 2;
            if self.members.iter_mut().flatten().all(ready) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks after the processes: thaws, starts again, and judges those that have ended.
    ///
    /// # Panics
    /// When one has ended as it must not.
    pub fn tend(&mut self) {
        let now = Instant::now();
        for slot in 0..SLOTS {
            if self.due[slot].is_some_and(|due| due <= now) {
                self.start(slot);
            }
            let Some(member) = self.members[slot].as_mut() else { continue };
            if member.frozen.is_some_and(|until| until <= now) {
                member.signal(Signal::CONT);
                member.frozen = None;
            }
            // Who has lost a worker is of less use than a fresh process.
            if member.frozen.is_none() && !member.asked && member.journal().left > 0 {
                self.terminate(slot);
            }
            let Some(member) = self.members[slot].as_mut() else { continue };
            if let Some(status) = member.child.try_wait().expect("asking for a process") {
                let mut member = self.members[slot].take().expect("it was there a moment ago");
                self.judge(&mut member, status);
                self.bury(member);
                self.due[slot] = Some(now + Duration::from_millis(50));
            }
        }
    }

    /// Looks after the processes for a while.
    pub fn tend_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tend();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Thaws whoever is frozen.
    pub fn thaw_all(&mut self) {
        for member in self.members.iter_mut().flatten() {
            member.frozen = member.frozen.map(|_| Instant::now());
        }
        self.tend();
    }

    /// Asks everybody to end, and waits until all have.
    pub fn stop_all(&mut self) {
        self.thaw_all();
        self.due = [None; SLOTS];
        (0..SLOTS).for_each(|slot| self.terminate(slot));
        for slot in 0..SLOTS {
            let Some(mut member) = self.members[slot].take() else { continue };
            let what = format!("process {} ends (its log: {})", member.number, member.journal.path().display());
            let mut status = None;
            wait_until(&what, || {
                status = member.child.try_wait().expect("asking for a process");
                status.is_some()
            });
            self.judge(&mut member, status.expect("it has ended"));
            self.bury(member);
        }
    }

    /// That a process that ended by itself was allowed to.
    fn judge(&mut self, member: &mut Member, status: ExitStatus) {
        let journal = member.journal();
        let (fenced, loaded) = (journal.fenced > 0, journal.plugins_loaded > 0);
        let log = journal.path().display().to_string();
        let plain = journal.plain.clone();
        // A start needs its databases: it fails with 1 where a running host would try again.
        let disturbed = self.disturbed.is_some_and(|at| at + Duration::from_secs(1) >= member.began);
        let fine = match status.code() {
            Some(0) => member.asked,
            Some(4) => fenced,
            Some(1) => disturbed,
            // It had only just begun, and did not listen for signals yet.
            None => status.signal() == Some(15) && member.asked && !loaded,
            _ => false,
        };
        let (number, total) = (member.number, member.total);
        assert!(fine, "process {number} (of {total} partitions) ended with {status}:\n{plain}\nits log: {log}");
        self.figures.fenced += u64::from(fenced);
    }

    /// Keeps what a process that is gone has told.
    fn bury(&mut self, mut member: Member) {
        let number = member.number;
        let journal = member.journal();
        let (path, plain) = (journal.path().display().to_string(), journal.plain.clone());
        assert!(!plain.contains("panicked"), "a host panicked:\n{plain}\nits log: {path}");
        let figures = &mut self.figures;
        figures.batches += journal.committed.0;
        figures.careful += journal.careful;
        figures.swaps += journal.swapped;
        figures.refused += journal.refused;
        figures.parked += journal.parked;
        figures.retries += journal.retries;
        figures.replaced += journal.replaced;
        if journal.committed.1 > 0 {
            figures.workers.push((number, journal.committed.1));
        }
        self.claims.extend(journal.claims.iter().map(|claim| (claim.clone(), number)));
    }

    /// What happened, when all have ended: how often a partition went from one process to another.
    #[must_use]
    pub fn conclude(mut self) -> Figures {
        self.claims.sort();
        let pairs = self.claims.windows(2);
        let changed = |pair: &&[(Claimed, u32)]| pair[0].0.worker == pair[1].0.worker && pair[0].1 != pair[1].1;
        self.figures.takeovers = pairs.filter(changed).count() as u64;
        std::mem::take(&mut self.figures)
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for member in self.members.iter_mut().flatten() {
            member.child.kill().ok();
            member.child.wait().ok();
        }
    }
}

/// Which partitions a slot works on, or stands by for: the first, and how many.
fn share(slot: usize, total: u32) -> (u32, u32) {
    let half = total.div_ceil(2);
    match slot {
        0 => (0, half),
        slot if slot < ACTIVE && total > 1 => (half, total - half),
        _ => (0, total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_active_ones_divide_the_partitions_and_the_others_stand_by_for_all() {
        assert_eq!([share(0, 5), share(1, 5), share(2, 5), share(3, 5)], [(0, 3), (3, 2), (0, 5), (0, 5)]);
        assert_eq!([share(0, 1), share(1, 1)], [(0, 1), (0, 1)]);
    }
}
