//! The demo's program itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tsc-demo"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let output = demo(&["pki", "/proc/x"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.starts_with("error: cannot write to /proc/x: "),
        "{errors}"
    );
}

/// Root is given up where the test has it; elsewhere it is not needed to begin with.
#[cfg(target_os = "linux")]
#[test]
fn a_call_needs_no_root() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    const NOBODY: &str = "65534";
    let directory = tempfile::tempdir().unwrap();
    let mut command = if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Where the build is may be closed to others.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let program = directory.path().join("tsc-demo");
        std::fs::copy(env!("CARGO_BIN_EXE_tsc-demo"), &program).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
            .arg(program);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_tsc-demo"))
    };
    let output = command
        .args(["--transport", "udp", "--duration", "1", "--json"])
        .current_dir("/")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let legs = report["legs"].as_array().unwrap();
    assert_eq!(legs.len(), 2, "{report}");
    assert!(legs.iter().all(|leg| leg["ok"] == true), "{report}");
    let all = &legs[1]["inner_tcp"];
    for (what, count) in [
        ("calls", 50),
        ("chats", 100),
        ("files", 10),
        ("downloads", 10),
    ] {
        assert_eq!(all[what], count, "{report}");
    }
}
