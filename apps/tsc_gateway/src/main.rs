//! `tsc-gateway`: a LAN behind one tunnel. See the library for how it is made, `--help` for how it is used.

#[cfg(target_os = "linux")]
mod program;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    program::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("tsc-gateway: needs the TUN devices of Linux");
    ExitCode::from(4)
}
