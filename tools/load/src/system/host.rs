//! Processors, descriptors and socket buffers of this host.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// Where the kernel keeps the receive buffer that sockets get unless they ask.
const RECEIVE_BUFFER: &str = "/proc/sys/net/core/rmem_default";

/// Priority of this process's session (sched(7), "The autogroup feature").
const AUTOGROUP: &str = "/proc/self/autogroup";

/// The least nice value.
const HIGHEST: i32 = -20;

/// Which processors the generator and the system under test run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// For this process; `None` where there is only one processor, which both share then.
    pub load: Option<usize>,
    /// For the system under test.
    pub server: Option<usize>,
}

impl Cores {
    /// The first two that this process may use.
    #[must_use]
    pub fn choose() -> Self {
        let none = Self {
            load: None,
            server: None,
        };
        let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
            return none;
        };
        let mut usable = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
        match (usable.next(), usable.next()) {
            (Some(load), Some(server)) => Self {
                load: Some(load),
                server: Some(server),
            },
            _ => none,
        }
    }
}

/// Keeps the calling thread, and what it starts from now on, to one processor; `None` changes nothing.
///
/// # Errors
///
/// The system does not allow it.
pub fn pin(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// Runs `start` on another processor, so that the process it starts is kept there with all its threads from the first
/// moment.
///
/// # Errors
///
/// The system does not allow it, or `start` fails.
pub fn start_on<T>(cpu: Option<usize>, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    pin(cpu)?;
    let result = start();
    sched_setaffinity(this, &before)?;
    result
}

/// Priority over what else runs on this host, given back when dropped.
#[derive(Debug)]
pub struct Priority {
    nice: i32,
    group: Option<String>,
}

impl Priority {
    /// Puts this process, what it starts from now on, and the rest of its session before all others of the host, so that
    /// they disturb measurements as little as possible.
    ///
    /// # Errors
    ///
    /// Only the privileged may.
    pub fn take() -> io::Result<Self> {
        let nice = rustix::process::getpriority_process(None)?;
        rustix::process::setpriority_process(None, HIGHEST)?;
        // Where the scheduler shares time out by session first, being nice counts only within one.
        let group = fs::read_to_string(AUTOGROUP)
            .ok()
            .and_then(|text| Some(text.trim().rsplit_once("nice ")?.1.to_owned()))
            .filter(|_| fs::write(AUTOGROUP, HIGHEST.to_string()).is_ok());
        Ok(Self { nice, group })
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        // What could be taken can be given back.
        let _given_back = rustix::process::setpriority_process(None, self.nice);
        if let Some(group) = &self.group {
            let _given_back = fs::write(AUTOGROUP, group);
        }
    }
}

/// Allows as many descriptors as the system lets us have, at most `wanted`; how many that are. Children inherit it.
///
/// # Errors
///
/// The limit cannot be read or set at all.
pub fn raise_descriptors(wanted: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(soft);
    }
    // Only the privileged may raise the hard limit.
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    let limit = hard.min(wanted).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    Ok(limit)
}

/// The receive buffer of sockets that do not ask for one, in bytes.
#[must_use]
pub fn receive_buffer_default() -> Option<u64> {
    fs::read_to_string(RECEIVE_BUFFER).ok()?.trim().parse().ok()
}

/// Sets it for the whole host; needs root.
///
/// # Errors
///
/// The system does not allow it.
pub fn set_receive_buffer_default(bytes: u64) -> io::Result<()> {
    fs::write(RECEIVE_BUFFER, bytes.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_and_server_do_not_share_a_processor() {
        let cores = Cores::choose();
        assert!(cores.load.is_none() || cores.load != cores.server);
        assert!(receive_buffer_default().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn what_is_started_stays_on_its_processor() {
        let Some(cpu) = Cores::choose().server else {
            return;
        };
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let status = start_on(Some(cpu), || fs::read_to_string("/proc/thread-self/status"));
        let allowed = format!("Cpus_allowed_list:\t{cpu}\n");
        assert!(status.unwrap().contains(&allowed));
        assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
    }

    #[test]
    fn limits_are_raised_as_far_as_possible() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(raise_descriptors(soft).unwrap() >= soft);
        assert!(raise_descriptors(1).unwrap() >= soft, "never lowered");
    }
}
