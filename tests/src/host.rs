//! A host that runs: the real binary as a process of its own, which can be signalled and whose log can be waited for.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::wait::PATIENCE;
use crate::{Output, wait_until};

/// How many characters of a host's log a failed test shows.
const LOG_IN_A_PANIC: usize = 4_000;

/// A process that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Host {
    /// The process.
    child: Child,
    /// What it was started with, for messages.
    command: String,
    /// Standard output, read as it comes.
    stdout: Stream,
    /// Standard error, read as it comes.
    stderr: Stream,
}

impl Host {
    /// Starts a command, as [`Setup::command`](crate::Setup::command) makes it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{}: {error}", command.get_program().to_string_lossy()));
        let stdout = Stream::of(child.stdout.take().expect("a pipe"));
        let stderr = Stream::of(child.stderr.take().expect("a pipe"));
        Self { child, command: format!("host {}", words.join(" ")), stdout, stderr }
    }

    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    /// Waits until it has logged this text.
    ///
    /// # Panics
    /// When it ends before, or does not in two minutes.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        wait_until(&format!("`{}` logs {text:?}", self.command), || {
            if self.stderr.text().contains(text) {
                return true;
            }
            let ended = self.child.try_wait().expect("asking for the process");
            // What it said last may still be on its way.
            if ended.is_some() && self.stderr.is_whole() && !self.stderr.text().contains(text) {
                panic!("`{}` ended without logging {text:?}:\n{}", self.command, self.stderr.text());
            }
            false
        });
    }

    /// SIGTERM: it finishes its batch.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// SIGHUP: it reads its configuration again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGSTOP: it is frozen, and knows nothing of it.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// From now on, none of its files may grow past so many bytes, or (nothing) as far as they like.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let (pid, limit) = (Pid::from_child(&self.child), Rlimit { current: bytes, maximum: None });
        prlimit(Some(pid), Resource::Fsize, limit).unwrap_or_else(|error| panic!("`{}`: {error}", self.command));
    }

    /// SIGKILL: it is gone at once, and its last transaction with it.
    pub fn kill(mut self) {
        self.child.kill().expect("killing the process");
        let status = self.child.wait().expect("waiting for the process");
        assert_eq!(status.signal(), Some(9), "`{}` had ended before it was killed:\n{}", self.command, self.log());
    }

    /// Sends a signal.
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("`{}`: {signal:?}: {error}", self.command));
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not in two minutes.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let began = Instant::now();
        let status = loop {
            let ended = self.child.try_wait().expect("asking for the process");
            if let Some(status) = ended.filter(|_| self.stdout.is_whole() && self.stderr.is_whole()) {
                break status;
            }
            let log = || self.stderr.text();
            assert!(began.elapsed() < PATIENCE, "`{}` does not end; it has logged:\n{}", self.command, log());
            std::thread::sleep(Duration::from_millis(2));
        };
        Output {
            command: self.command.clone(),
            code: status.code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It has mostly ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            // Whatever the test has to say: this is what the host had.
            let log = self.stderr.text();
            let start = log.char_indices().rev().nth(LOG_IN_A_PANIC).map_or(0, |(at, _)| at);
            let text = format!("--- the end of the log of `{}`\n{}\n", self.command, &log[start..]);
            std::io::stderr().lock().write_all(text.as_bytes()).ok();
        }
    }
}

/// A stream that a thread reads as it comes, so that the process never waits for a full pipe.
#[derive(Debug)]
struct Stream {
    /// What has come.
    text: Arc<Mutex<String>>,
    /// Reads until the stream ends.
    reader: JoinHandle<()>,
}

impl Stream {
    /// Reads a pipe.
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let read = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                read.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader }
    }

    /// What has come so far.
    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the stream has ended.
    fn is_whole(&self) -> bool {
        self.reader.is_finished()
    }
}
