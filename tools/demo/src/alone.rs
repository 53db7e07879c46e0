//! This program again, in a network of its own: for what cannot be shown on loopback.
//!
//! Peer tunnels are one such thing: nobody is sent to a loopback address that somebody else has named. In a network namespace there
//! can be any address, nobody else is reached by it, and it is gone with the program.

use std::{
    env,
    ffi::OsStr,
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// Tells the inner run that it is one.
const MARK: &str = "TSC_DEMO_ALONE";

/// What it takes, for people.
const NEEDS: &str = "it takes unshare (util-linux) and ip (iproute2), and root or user namespaces";

/// Whether this process was started by [`again`].
#[must_use]
pub fn is_inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Runs this program with the same arguments in a network namespace of its own, and gives whether it ended well.
///
/// # Errors
///
/// It cannot be run so, or says that it cannot do what it was asked for.
pub fn again() -> anyhow::Result<bool> {
    again_with(env::args_os().skip(1))
}

/// [`again`], with arguments of its own.
///
/// # Errors
///
/// As [`again`].
pub fn again_with(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<bool> {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let program = env::current_exe()?;
    let status = command
        .args(["--net", "--kill-child", "--fork"])
        .arg(program)
        .args(arguments)
        .env(MARK, "1")
        .status()
        .context(NEEDS)?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        // It has said why.
        Some(2) => bail!("nothing was shown"),
        _ => bail!("the run in a network of its own ended with {status}; {NEEDS}"),
    }
}

/// Gives this host an address, in a namespace that is ours.
///
/// # Errors
///
/// `ip` is missing, or says no.
pub fn add_address(address: &str) -> anyhow::Result<()> {
    ensure!(is_inside(), "not in a network of our own");
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &format!("{address}/32"), "dev", "lo"])
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context(NEEDS)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(())
}

/// Whether this process may make namespaces without another user's.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // CAP_SYS_ADMIN.
    effective.is_some_and(|bits| bits & (1 << 21) != 0)
}
