//! The host that figures are from.

use std::fs;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// When, in UTC.
    pub date: String,
    /// Which state of this repository.
    pub commit: String,
    /// Model of the processor.
    pub cpu: String,
    /// How many processors.
    pub processors: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Most open files of a process.
    pub descriptors: u64,
    /// The compiler.
    pub rustc: String,
    /// Versions of what we are compared with.
    pub packages: Vec<String>,
}

impl HostInfo {
    /// This host, now, with the versions of these Debian packages. What cannot be found out stays empty.
    #[must_use]
    pub fn read(packages: &[&str]) -> Self {
        let file = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = file("/proc/cpuinfo");
        let models = || {
            cpuinfo
                .lines()
                .filter_map(|line| line.strip_prefix("model name"))
        };
        let cpu = models().next().unwrap_or_default();
        let meminfo = file("/proc/meminfo");
        let memory = meminfo.lines().find_map(|line| {
            let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
            kib.trim().parse::<u64>().ok()
        });
        let limits = file("/proc/self/limits");
        let descriptors = limits.lines().find_map(|line| {
            let mut words = line.strip_prefix("Max open files")?.split_whitespace();
            words.nth(1)?.parse().ok()
        });
        let packages = packages
            .iter()
            .filter_map(|name| {
                let version = say("dpkg-query", &["-W", "-f=${Version}", name])?;
                Some(format!("{name} {version}"))
            })
            .collect();
        Self {
            date: say("date", &["-u", "+%F %H:%M"]).unwrap_or_default(),
            commit: say("git", &["describe", "--always", "--dirty", "--abbrev=7"])
                .unwrap_or_default(),
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            processors: models().count(),
            memory_gib: memory.unwrap_or_default().div_ceil(1 << 20),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            descriptors: descriptors.unwrap_or_default(),
            rustc: say("rustc", &["--version"]).unwrap_or_default(),
            packages,
        }
    }

    /// In one sentence.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}, {} processors ({}), {} GiB, Linux {}, at most {} descriptors, {}; {}",
            self.date,
            self.processors,
            self.cpu,
            self.memory_gib,
            self.kernel,
            self.descriptors,
            self.rustc,
            self.packages.join(", ")
        )
    }
}

/// What a program says; `None` if it does not exist or fails.
#[must_use]
pub fn say(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_known() {
        let host = HostInfo::read(&["libc6", "no-such-package"]);
        assert!(host.processors > 0 && host.memory_gib > 0 && host.descriptors > 0);
        assert!(!host.text().is_empty());
    }
}
