//! Network namespaces, by name.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};

/// A network namespace that we made. It goes when this is dropped and the last in it has ended.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A new one, with nothing but a loopback device.
    ///
    /// # Errors
    ///
    /// The system allows none, or there is one of this name.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self {
            name: name.to_owned(),
        };
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// Has TCP in here do as on most hosts, whatever this one does: cubic, or reno where the kernel keeps namespaces from it, which
    /// is the same with as few segments under way as a call has. Gives what it does.
    ///
    /// # Errors
    ///
    /// Neither is there.
    pub fn usual_tcp(&self) -> anyhow::Result<&'static str> {
        for control in ["cubic", "reno"] {
            let line = format!("echo {control} >/proc/sys/net/ipv4/tcp_congestion_control");
            if run(self.command("sh").args(["-c", &line])).is_ok() {
                return Ok(control);
            }
        }
        bail!("TCP can do neither cubic nor reno")
    }

    /// A command that runs in here.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // `ip` becomes the program: the process identifier stays.
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of words and blanks to its end.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn run(&self, line: &str) -> anyhow::Result<()> {
        let mut words = line.split_whitespace();
        run(self.command(words.next().unwrap_or_default()).args(words))
    }

    /// Does `work` on a thread in here: devices and sockets that it makes stay here, wherever they are used.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let done = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
                Ok::<_, io::Error>(work())
            });
            thread.join()
        });
        match done {
            Ok(done) => done.with_context(|| path),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // At the latest it goes with the namespaces around it.
        let _gone = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().context("ip (iproute2) is needed")?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
