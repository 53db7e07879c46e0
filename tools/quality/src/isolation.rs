//! This program again, in namespaces of its own: what it starts ends with it, and nobody else's network is touched.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::ensure;

/// Tells the inner run that it is one.
const MARK: &str = "TSC_QUALITY_INSIDE";

/// A command that runs `program`, which is ours, in new network, mount and process namespaces. The kernel ends all processes
/// with the first, and removes devices and mounts with the last. Where that may be they go before the others of the host: a
/// machine that is busy with something else is not to count as a bad network.
///
/// It takes root, or user namespaces and a `/dev/net/tun` that everybody may open; `nice` (coreutils); `setpriv`,
/// `chrt` and `unshare` (util-linux).
#[must_use]
pub fn command(program: &Path) -> Command {
    // Ends with us, even if we are killed.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .args(before_others())
        .arg("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(program)
        .env(MARK, "1")
        .stdin(Stdio::null());
    command
}

/// What runs a command in real time; or else only as nice as it may.
fn before_others() -> [&'static str; 3] {
    let real_time = ["chrt", "--rr", "10"];
    let [program, arguments @ ..] = real_time;
    let tried = Command::new(program)
        .args(arguments)
        .arg("true")
        .stderr(Stdio::null())
        .status();
    match tried {
        Ok(status) if status.success() => real_time,
        _ => ["nice", "-n", "-10"],
    }
}

/// Whether this process was started by [`command`]. If so, `/run/netns` is its own from now on.
///
/// # Errors
///
/// It cannot be made.
pub fn enter() -> anyhow::Result<bool> {
    if env::var_os(MARK).is_none() {
        return Ok(false);
    }
    // `ip netns` keeps its names there; those of others are hidden by this.
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs", "/run"])
        .status()?;
    ensure!(status.success(), "no tmpfs on /run");
    fs::create_dir_all("/run/netns")?;
    Ok(true)
}

/// Whether this process may make namespaces without another user's.
#[must_use]
pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // CAP_SYS_ADMIN.
    effective.is_some_and(|bits| bits & (1 << 21) != 0)
}
