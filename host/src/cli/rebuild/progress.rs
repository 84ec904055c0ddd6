//! How far a rebuild is: a bar on a terminal, else a line on stderr every few seconds.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::event::Position;
use crate::processor::Progress;

/// How often a bar is drawn.
const DRAW: Duration = Duration::from_millis(100);

/// How often a line is written where there is no terminal.
const TELL: Duration = Duration::from_secs(5);

/// Watches the workers of a round.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Dropped when the round is over.
    _over: Sender<()>,
    /// Draws and tells.
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches workers until they have come to `goal`.
    pub(super) fn start(projection: &str, workers: Vec<Arc<Progress>>, goal: Position) -> Self {
        let (over, ended) = channel();
        let name = projection.to_owned();
        let run = move || watch(&name, &workers, goal, &ended);
        // Without a thread there is a rebuild all the same, and nothing is told of it.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(run).ok();
        Self { _over: over, thread }
    }

    /// Stops watching.
    pub(super) fn finish(self) {
        let Self { _over: over, thread } = self;
        drop(over);
        if let Some(thread) = thread {
            thread.join().ok();
        }
    }
}

/// Draws or tells, until it is over.
fn watch(projection: &str, workers: &[Arc<Progress>], goal: Position, over: &Receiver<()>) {
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal { ProgressBar::new(goal.get()) } else { ProgressBar::hidden() };
    let template = "{prefix}  {bar:30.cyan/blue} {pos}/{len}  {per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(format!("rebuilding {projection}"));
    // Where the count of events a second begins: a rebuild that goes on has claimed its partitions by then.
    let mut first: Option<(Instant, Position)> = None;
    let mut every = DRAW;
    loop {
        let wait = over.recv_timeout(every);
        let at = mean(workers);
        if wait != Err(RecvTimeoutError::Timeout) {
            bar.finish_and_clear();
            return;
        }
        if first.is_none() && at > Position::START {
            first = Some((Instant::now(), at));
            bar.set_position(at.get());
            bar.reset_eta();
        }
        bar.set_position(at.get());
        if !terminal {
            every = TELL;
            let (since, from) = first.unwrap_or((Instant::now(), at));
            say(&line(projection, from, at, goal, since.elapsed()));
        }
    }
}

/// Where the workers are: each passes over the whole log, so this is their mean.
fn mean(workers: &[Arc<Progress>]) -> Position {
    let sum: u64 = workers.iter().map(|worker| worker.position().get()).sum();
    Position::new(sum / (workers.len() as u64).max(1))
}

/// A line of progress: how far, how fast, how long to go.
fn line(projection: &str, from: Position, at: Position, goal: Position, took: Duration) -> String {
    let (at, goal) = (at.get(), goal.get().max(at.get()));
    let percent = (at * 100).checked_div(goal).unwrap_or(100);
    let passed = at - from.get().min(at);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = passed as f64 / took.as_secs_f64().max(0.001);
    let mut line = format!("rebuilding {projection}: position {at} of {goal} ({percent} %)");
    if passed > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let left = Duration::from_secs_f64(((goal - at) as f64 / rate).min(1e9));
        line.push_str(&format!(", {rate:.0} events/s, {} left", HumanDuration(left)));
    }
    line
}

/// Says something to whoever watches. A closed stderr is no reason to end.
pub(super) fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_how_fast_and_how_long_to_go() {
        let line = |from, at, seconds| {
            let [from, at, goal] = [from, at, 5_000].map(Position::new);
            line("users", from, at, goal, Duration::from_secs(seconds))
        };
        assert_eq!(line(0, 0, 0), "rebuilding users: position 0 of 5000 (0 %)");
        assert_eq!(
            line(1_000, 3_000, 10),
            "rebuilding users: position 3000 of 5000 (60 %), 200 events/s, 10 seconds left"
        );
        assert_eq!(line(0, 6_000, 10), "rebuilding users: position 6000 of 6000 (100 %), 600 events/s, 0 seconds left");
    }
}
