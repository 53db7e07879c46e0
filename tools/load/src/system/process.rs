//! What another process costs: processor time to the nanosecond, and memory.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::clock::nanos;

/// The processor time of a process, all threads, user and system.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(ClockId);

impl CpuClock {
    /// That of the process `pid`.
    ///
    /// # Errors
    ///
    /// There is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self(clock_getcpuclockid(Pid::from_raw(pid))?))
    }

    /// Nanoseconds used so far.
    ///
    /// # Errors
    ///
    /// The process has ended.
    pub fn ns(self) -> io::Result<u64> {
        Ok(nanos(&clock_gettime(self.0)?))
    }
}

/// Memory of a process in KiB, its share of what it shares included (PSS). Kernel memory of sockets is not in it.
///
/// # Errors
///
/// The process has ended, or is somebody else's.
pub fn memory(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Runs a program to its end; what it wrote.
///
/// # Errors
///
/// It is not installed, or did not succeed; what it said is in the message.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Child processes that end with their owner.
#[derive(Debug, Default)]
pub struct Children(Vec<Child>);

impl Children {
    /// Takes one; its process number.
    pub fn add(&mut self, child: Child) -> u32 {
        let pid = child.id();
        self.0.push(child);
        pid
    }

    /// Whether any has ended by itself.
    pub fn any_ended(&mut self) -> bool {
        self.0
            .iter_mut()
            .any(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &self.0 {
            if let Ok(pid) = i32::try_from(child.id()) {
                // It may have ended already.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        for child in &mut self.0 {
            let _status = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cost() {
        let clock = CpuClock::of(std::process::id()).unwrap();
        let before = clock.ns().unwrap();
        let mut sum = 0u64;
        while clock.ns().unwrap() < before + 1_000_000 {
            sum = sum.wrapping_add(clock.ns().unwrap());
        }
        assert!(sum > 0);
        assert!(memory(std::process::id()).unwrap() > 100);
    }

    #[test]
    fn no_such_process() {
        assert!(memory(u32::MAX).is_err());
        assert!(CpuClock::of(u32::MAX).is_err());
    }
}
