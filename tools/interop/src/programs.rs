//! Where programs are.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// Directory of OpenTSC's programs, in place of the build that the test belongs to: for optimised ones.
const DIRECTORY: &str = "TSC_INTEROP_PROGRAMS";

/// An OpenTSC program by its name. `cargo test --workspace` has built it; where a test is run alone and the program is
/// missing, it is built now.
///
/// # Panics
///
/// When it cannot be built.
#[must_use]
#[allow(clippy::panic, reason = "a test has no better way to fail")]
pub fn program(name: &str) -> PathBuf {
    /// One build at a time.
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if let Some(directory) = env::var_os(DIRECTORY) {
        return PathBuf::from(directory).join(name);
    }
    // target/PROFILE/deps/test-HASH
    let test = env::current_exe().unwrap_or_default();
    let Some(directory) = test.parent().and_then(Path::parent) else {
        panic!("{} is no test of cargo's", test.display());
    };
    let path = directory.join(name);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if path.exists() || !built.insert(name.to_owned()) {
        return path;
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--workspace", "--bin", name])
        .env("CARGO_TARGET_DIR", directory.parent().unwrap_or(directory))
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{name} cannot be built"
    );
    path
}

/// What a foreign program says about its version: the first line with a digit.
///
/// # Panics
///
/// When it is not installed; `.ci/run` installs it.
#[must_use]
#[allow(clippy::panic, reason = "a test has no better way to fail")]
pub fn version(program: &str, option: &str) -> String {
    let output = match Command::new(program).arg(option).output() {
        Ok(output) => output,
        Err(error) => panic!("{program} is needed ({error}); .ci/run knows its package"),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text
        .lines()
        .find(|line| line.contains(|c: char| c.is_ascii_digit()));
    line.unwrap_or_default().trim().to_owned()
}
