//! Signals that end the program in order, so that what it started ends and what it set is put back.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGINT and SIGTERM, which no longer end the process by themselves.
#[derive(Debug)]
pub struct Stop(SignalFd);

impl Stop {
    /// Takes the signals over, for this thread and those that it starts; other programs that it starts are not affected.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&signals, flags)?))
    }

    /// Looks whether one has come.
    ///
    /// # Errors
    ///
    /// One has.
    pub fn check(&self) -> io::Result<()> {
        match self.0.read_signal()? {
            Some(_) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "stopped by a signal",
            )),
            None => Ok(()),
        }
    }
}
