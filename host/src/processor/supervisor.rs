//! The workers of a process: a thread each, started together, ended together.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::progress::State;
use super::reader::Reader;
use super::stop::Stop;
use super::worker::{Outcome, Worker};

/// How often a supervisor that waits looks whether it is time to end.
const LOOK: Duration = Duration::from_millis(50);

/// The stack of a thread that runs a projection. Parsing and dropping a statement recurses as deep as its expressions
/// nest, which the guard bounds before (half of this is enough for it in a debug build, and its tests show that); an
/// overflow would end the process. Pages that are not touched cost nothing.
pub(super) const STACK: usize = 32 << 20;

/// Runs the workers of a process.
#[derive(Debug)]
pub struct Supervisor {
    /// When to end.
    stop: Stop,
    /// Workers that still run.
    running: usize,
    /// How they end.
    outcomes: Receiver<Outcome>,
    /// For their threads.
    sender: Sender<Outcome>,
}

/// Runs a worker on a thread of its own, and tells how it ended.
pub(super) fn spawn(
    worker: Worker,
    reader: Reader,
    tell: impl FnOnce(Outcome) + Send + 'static,
) -> std::io::Result<()> {
    let plugin = worker.plugin.get();
    let name = format!("{} {}", plugin.descriptor.name, worker.partition);
    let progress = Arc::clone(&worker.progress);
    let thread = std::thread::Builder::new().name(name).stack_size(STACK);
    let niceness = worker.options.get().niceness;
    thread.spawn(move || {
        // On Linux that is the thread's own, not the process's.
        if niceness > 0
            && let Err(error) = rustix::process::setpriority_process(None, niceness)
        {
            tracing::warn!(%error, niceness, "the system does not let this worker yield to others");
        }
        // A panic of ours ends this worker only; its transaction rolls back with its connection.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run(reader)))
            .unwrap_or_else(|_| Outcome::Failed("a worker panicked: this is a bug of the host".to_owned()));
        progress.is(match &outcome {
            Outcome::Done => State::Done,
            Outcome::StoppedByPolicy(reason)
            | Outcome::Fenced(reason)
            | Outcome::Misconfigured { message: reason, .. }
            | Outcome::Failed(reason) => State::Failed { reason: reason.clone() },
        });
        tell(outcome);
    })?;
    Ok(())
}

impl Supervisor {
    /// Nobody runs yet.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        let (sender, outcomes) = channel();
        Self { stop, running: 0, outcomes, sender }
    }

    /// Starts workers, each on a thread of its own.
    ///
    /// # Errors
    /// When the system has no thread for one of them.
    pub fn start(&mut self, workers: Vec<Worker>) -> std::io::Result<()> {
        let readers: Vec<Reader> = workers.iter().map(Worker::reader).collect();
        workers.into_iter().zip(readers).try_for_each(|(worker, reader)| self.start_one(worker, reader))
    }

    /// Starts one.
    fn start_one(&mut self, worker: Worker, reader: Reader) -> std::io::Result<()> {
        let sender = self.sender.clone();
        // Nobody listens any more when the process is ending.
        spawn(worker, reader, move |outcome| drop(sender.send(outcome)))?;
        self.running += 1;
        Ok(())
    }

    /// Waits until all workers have ended; gives how, in the order in which they did.
    ///
    /// One that fails does not end the others, unless the policy is to stop. After [`Stop::request`] they have
    /// `patience` to finish or roll back; those that have not are left to the end of the process, whose connections
    /// then roll back.
    #[must_use]
    pub fn wait(mut self, patience: Duration) -> Vec<Outcome> {
        let mut ended = Vec::new();
        let mut deadline = None;
        while self.running > 0 {
            match self.outcomes.recv_timeout(LOOK) {
                Ok(outcome) => {
                    self.running -= 1;
                    match &outcome {
                        Outcome::Done => {}
                        Outcome::StoppedByPolicy(reason) => {
                            tracing::error!(reason, "stopping, as --on-error stop says; nothing is lost");
                            self.stop.request();
                        }
                        Outcome::Fenced(reason) => tracing::error!(reason, "this worker leaves"),
                        Outcome::Misconfigured { message, .. } => {
                            tracing::error!(reason = message, "a worker cannot run")
                        }
                        Outcome::Failed(reason) => tracing::error!(reason, "a worker gave up; the others go on"),
                    }
                    ended.push(outcome);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if deadline.is_none() && self.stop.is_requested() {
                deadline = Some(Instant::now() + patience);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                tracing::warn!(workers = self.running, "not finished in time: their batches are rolled back");
                break;
            }
        }
        ended
    }
}
