//! Child processes: what they say is collected, and they end with their owner.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for a line or for the end of a process that should end by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// Lines that are kept of each process, enough for the longest report; the first ones go.
const KEPT: usize = 50_000;

/// A running program. Dropping it kills it; when that happens in a panic, what it said is shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    said: Arc<Said>,
    readers: Vec<thread::JoinHandle<()>>,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output, as far as it is kept.
    pub output: String,
}

#[derive(Debug, Default)]
struct Said {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    /// With the stream that each came from.
    list: VecDeque<(Stream, String)>,
    /// Streams that have ended.
    ended: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Output,
    Error,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, stream: Stream, source: impl Read) {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while matches!(source.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let mut lines = self.lock();
            if lines.list.len() >= KEPT {
                lines.list.pop_front();
            }
            lines.list.push_back((stream, text));
            drop(lines);
            self.more.notify_all();
            line.clear();
        }
        self.lock().ended += 1;
        self.more.notify_all();
    }
}

impl Process {
    /// Starts `command`. `name` is what reports call it.
    ///
    /// # Panics
    ///
    /// When the program cannot be started.
    #[must_use]
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn start(name: impl Into<String>, mut command: Command) -> Self {
        let name = name.into();
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("RUST_LOG")
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => panic!("{name}: {error}: {command:?}"),
        };
        let said = Arc::new(Said::default());
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            let said = Arc::clone(&said);
            readers.push(thread::spawn(move || said.collect(Stream::Output, output)));
        }
        if let Some(errors) = child.stderr.take() {
            let said = Arc::clone(&said);
            readers.push(thread::spawn(move || said.collect(Stream::Error, errors)));
        }
        Self {
            name,
            child,
            said,
            readers,
        }
    }

    /// Runs `command` to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or does not end within `limit`.
    #[must_use]
    pub fn run(name: impl Into<String>, command: Command, limit: Duration) -> Outcome {
        Self::start(name, command).wait_within(limit)
    }

    /// Its process identifier.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it said so far, both streams.
    #[must_use]
    pub fn said(&self) -> String {
        let lines = self.said.lock();
        let texts: Vec<_> = lines.list.iter().map(|(_, text)| text.as_str()).collect();
        texts.join("\n")
    }

    /// Waits for the first line, past or to come, that contains `wanted`, and gives it.
    ///
    /// # Panics
    ///
    /// When there is none within a minute, or the program ends without it.
    #[must_use]
    pub fn wait_for(&self, wanted: &str) -> String {
        self.wait_for_nth(0, wanted)
    }

    /// As [`wait_for`](Self::wait_for), but lets `skipped` such lines pass.
    ///
    /// # Panics
    ///
    /// When there is none within a minute, or the program ends without it.
    #[must_use]
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn wait_for_nth(&self, skipped: usize, wanted: &str) -> String {
        let end = Instant::now() + LIMIT;
        let mut lines = self.said.lock();
        loop {
            let mut fitting = lines.list.iter().filter(|(_, text)| text.contains(wanted));
            if let Some((_, text)) = fitting.nth(skipped) {
                return text.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended == self.readers.len() {
                drop(lines);
                panic!("{} did not say {wanted:?}", self.name);
            }
            lines = self
                .said
                .more
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Sends a signal, by its name without SIG.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    pub fn signal(&self, signal: &str) {
        // Built into every shell; the program is not installed everywhere.
        let line = format!("kill -s {signal} {}", self.id());
        let status = Command::new("sh").args(["-c", &line]).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{}: signal {signal}",
            self.name
        );
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end within a minute.
    #[must_use]
    pub fn wait(self) -> Outcome {
        self.wait_within(LIMIT)
    }

    /// Asks it to end with SIGTERM, and waits.
    ///
    /// # Panics
    ///
    /// When it has ended already, or does not end within a minute.
    #[must_use]
    pub fn stop(self) -> Outcome {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end within `limit`.
    #[must_use]
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn wait_within(mut self, limit: Duration) -> Outcome {
        let end = Instant::now() + limit;
        // Both streams end with it, unless it leaves children behind.
        let mut lines = self.said.lock();
        while lines.ended < self.readers.len() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(lines);
                panic!("{} did not end within {limit:?}", self.name);
            }
            lines = self
                .said
                .more
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let output: Vec<_> = lines
            .list
            .iter()
            .filter(|(stream, _)| *stream == Stream::Output)
            .map(|(_, text)| text.as_str())
            .collect();
        let output = output.join("\n");
        drop(lines);
        match self.child.wait() {
            Ok(status) => Outcome { status, output },
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    /// Resident memory in KiB.
    ///
    /// # Panics
    ///
    /// When it has ended.
    #[must_use]
    #[allow(clippy::panic, reason = "a test has no better way to fail")]
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let value = line.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok());
        value.unwrap_or_else(|| panic!("{}: no VmRSS in {path}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            let lines = self.said.lock();
            let last = lines.list.len().saturating_sub(120);
            eprintln!("--- {} said:", self.name);
            for (_, text) in lines.list.iter().skip(last) {
                eprintln!("    {text}");
            }
        }
    }
}
