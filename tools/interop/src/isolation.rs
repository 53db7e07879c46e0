//! A test in namespaces of its own.

use std::{
    env, fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Tells the inner run that it is one, and which case is to be run.
const MARK: &str = "TSC_INTEROP_CASE";

/// How long a test may take that does not say otherwise; a loaded machine needs a fraction of it.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs `test` in namespaces of its own; `name` is that of the `#[test]` function. See [`isolated_within`].
///
/// # Panics
///
/// When the test fails, or the kernel allows no namespaces.
pub fn isolated(name: &str, test: impl FnOnce()) {
    isolated_within(LIMIT, name, test);
}

/// Runs this test program again for the one test `name`, in new network, mount and process namespaces; there `test` runs.
/// When it fails, or takes longer than `limit`, its output is shown and this panics. Nothing of it outlives it: the kernel
/// ends all its processes with the first, and removes devices and mounts with the last.
///
/// It takes root, or user namespaces and a `/dev/net/tun` that everybody may open.
///
/// # Panics
///
/// When the test fails, or the kernel allows no namespaces.
pub fn isolated_within(limit: Duration, name: &str, test: impl FnOnce()) {
    if env::var_os(MARK).is_some() {
        set_up();
        test();
    } else {
        run(limit, name, "the test");
    }
}

/// Runs all cases of one test at the same time, each in namespaces of its own: for tests that wait more than they work.
/// `name` is that of the `#[test]` function; names of cases are for reports, and differ. See [`isolated_within`].
///
/// # Panics
///
/// When a case fails, or the kernel allows no namespaces.
pub fn isolated_cases(name: &str, cases: &[(&str, fn())]) {
    if let Ok(wanted) = env::var(MARK) {
        set_up();
        for (_, case) in cases.iter().filter(|(case, _)| *case == wanted) {
            case();
        }
        return;
    }
    // A panic in one of them is passed on when all have ended.
    thread::scope(|scope| {
        for (case, _) in cases {
            scope.spawn(|| run(LIMIT, name, case));
        }
    });
}

/// The outer run.
#[allow(clippy::panic, reason = "a test has no better way to fail")]
fn run(limit: Duration, name: &str, case: &str) {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", &limit.as_secs().to_string()])
        .arg("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = env::current_exe().and_then(|program| {
        command
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
            .arg("--mount-proc")
            .arg(program)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(MARK, case)
            .stdin(Stdio::null())
            .output()
    });
    let output = match output {
        Ok(output) => output,
        Err(error) => panic!("timeout (coreutils) and unshare (util-linux) are needed: {error}"),
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        let hint = match output.status.code() {
            Some(124 | 137) => format!("took longer than {} s", limit.as_secs()),
            _ => output.status.to_string(),
        };
        panic!("{name} ({case}) failed in its namespaces: {hint}\n{out}\n{err}");
    }
    // What a test reports, such as rates, is seen with --nocapture.
    eprint!("{err}");
}

/// A place of our own for what `ip netns` keeps and foreign programs write.
#[allow(clippy::panic, reason = "a test has no better way to fail")]
fn set_up() {
    for directory in ["/run", "/var/log", "/var/lib"] {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs", directory])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "no tmpfs on {directory}"
        );
    }
    if let Err(error) = fs::create_dir_all("/run/netns") {
        panic!("/run/netns: {error}");
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // CAP_SYS_ADMIN makes namespaces.
    effective.is_some_and(|bits| bits & (1 << 21) != 0)
}
