//! One line on a terminal that tells people how far it is.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// The line is renewed at most this often while something goes on.
const OFTEN: Duration = Duration::from_millis(100);

/// See the module. It is wiped off when dropped.
#[derive(Debug)]
pub struct Line {
    is_on: bool,
    next: Instant,
}

impl Line {
    /// Shown only on a terminal, and not to those who want `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self {
            is_on: !quiet && stderr().is_terminal(),
            next: Instant::now(),
        }
    }

    /// Shows what goes on.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.is_on && now >= self.next {
            self.next = now + OFTEN;
            self.set(&text());
        }
    }

    /// Shows a result.
    pub fn set(&self, text: &str) {
        if self.is_on {
            // A terminal that has gone away sees nothing.
            let _shown = write!(stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set("");
    }
}
