//! What the program says before it touches anything. No device is made here: its name is one that the kernel refuses, so
//! that all that is found later than the device has another exit code.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    net::TcpListener,
    process::{Command, Output},
};

const NO_DEVICE: &str = "--tun-name no/such/device";

fn run(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tsc-gateway"))
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

#[test]
fn a_server_inside_the_core_is_refused_before_anything_is_made_or_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for (server, core) in [
        ("127.0.0.1", "127.0.0.0/8"),
        ("127.0.0.1", "0.0.0.0/0"),
        ("[::ffff:127.0.0.1]", "127.0.0.0/8"),
        ("[::1]", "::/0"),
        ("localhost", "127.0.0.0/8 --core ::1/128"),
    ] {
        let output = run(&format!("-s {server}:{port} --core {core} {NO_DEVICE}"));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{server} {core}: {error}");
        assert!(error.contains("the server's address"), "{error}");
        assert!(error.contains("--core"), "{error}");
    }
    assert!(listener.accept().is_err(), "somebody has connected");
    // Elsewhere it is not refused, nor for a name that nobody knows: then it is the device's turn.
    for server in ["127.0.0.1", "localhost", "no-such-name.invalid"] {
        let output = run(&format!(
            "-s {server}:{port} --core 203.0.113.0/24 {NO_DEVICE}"
        ));
        assert_eq!(output.status.code(), Some(4), "{server}");
    }
}
