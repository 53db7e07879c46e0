//! Runs `tsc-load` and reads what it says.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs the program with these arguments, without the priority and the processors that a shared machine is not to give.
pub(crate) fn tsc_load(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tsc-load"))
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

/// The same for a run that goes well; its report.
pub(crate) fn report(arguments: &str) -> Value {
    let output = tsc_load(&format!("{arguments} --json --quiet --no-pin"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments}\n{said}\n{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A number in a report.
pub(crate) fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path);
    let found = found.and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number at {path} in {value:#}"))
}
