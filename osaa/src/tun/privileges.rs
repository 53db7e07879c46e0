//! Giving up what was needed for the set-up.

use std::{fs, io};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Why capabilities are still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DropError {
    /// Capabilities belong to threads: others of this process, started earlier, keep theirs.
    #[error(
        "{threads} other threads of this process still have capabilities; drop them before threads are started"
    )]
    OtherThreads {
        /// How many.
        threads: usize,
    },
    /// The operating system refused.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// Gives up all capabilities of the calling thread and of the threads and programs that it starts from now on, for good,
/// root's included. To be called after the set-up and before a runtime starts its threads.
///
/// # Errors
///
/// [`DropError::OtherThreads`] if other threads keep theirs (the calling one has none left then), [`DropError::System`].
pub fn drop_capabilities() -> Result<(), DropError> {
    let failed = |action| {
        move |error: rustix::io::Errno| DropError::System {
            action,
            source: error.into(),
        }
    };
    // So that no program that is started gets them back, from its file or by being root's.
    set_no_new_privs(true).map_err(failed("forbidding new privileges"))?;
    let held = capabilities(None).map_err(failed("reading capabilities"))?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter() {
            // Newer kernels know more than older ones.
            match remove_capability_from_bounding_set(capability) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(failed("emptying the bounding set")(error)),
            }
        }
    }
    clear_ambient_capability_set().map_err(failed("clearing ambient capabilities"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(failed("dropping capabilities"))?;
    match threads_with_capabilities() {
        Ok(0) => Ok(()),
        Ok(threads) => Err(DropError::OtherThreads { threads }),
        Err(source) => Err(DropError::System {
            action: "reading the threads' capabilities",
            source,
        }),
    }
}

/// Threads of this process that may have something to give up.
fn threads_with_capabilities() -> io::Result<usize> {
    let mut threads = 0;
    for task in fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let permitted = status
            .lines()
            .find_map(|line| line.strip_prefix("CapPrm:"))
            .map_or("", str::trim);
        if permitted.bytes().any(|digit| digit != b'0') {
            threads += 1;
        }
    }
    Ok(threads)
}
