//! Programs in C, built by every compiler there is as C99 and as C++, and run against a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tsc_demo::lab::{Lab, LabOptions, Side};
use tsc_sip::{
    report::Outcome,
    server::{ServerOptions, SipServer},
};
use tsc_tapi::{DtlsBackendKind, Transport};

const LIMIT: Duration = Duration::from_secs(10);
/// Compilers with the flags that make them strict.
const C: [&str; 4] = ["-std=c99", "-D_DEFAULT_SOURCE", "-x", "c"];
const CXX: [&str; 3] = ["-std=c++11", "-x", "c++"];

/// What the environment adds: `TSC_CFLAGS` to the compiler's flags, `TSC_RUNNER` in front of each program (Valgrind).
fn words(variable: &str) -> Vec<String> {
    let words = std::env::var(variable).unwrap_or_default();
    words.split_whitespace().map(str::to_owned).collect()
}

/// A server, and a directory for programs with the library as it is installed.
struct World {
    lab: Lab,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(&LabOptions::default())
    }

    fn with(options: &LabOptions) -> Self {
        let lab = Lab::start(options).unwrap();
        let directory = TempDir::new().unwrap();
        let built = std::env::current_exe().unwrap();
        let installed = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh"))
            .arg("--built")
            .arg(built.parent().unwrap())
            .arg("--prefix")
            .arg(directory.path())
            .env_remove("DESTDIR")
            .status();
        assert!(installed.unwrap().success());
        let authority = directory.path().join("ca.pem");
        fs::write(authority, lab.authority.certificate()).unwrap();
        Self { lab, directory }
    }

    /// Compiles a program of `tests/c`, or one by its path from there.
    fn build(&self, compiler: &str, language: &[&str], name: &str) -> PathBuf {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        let source = tests.join(name).with_extension("c");
        let name = source.file_stem().unwrap().display();
        let program = self.directory.path().join(format!("{name}-{compiler}"));
        let library = self.directory.path().join("lib");
        let flags = Command::new("pkg-config")
            .args(["--cflags", "--libs", "tsc"])
            .env("PKG_CONFIG_PATH", library.join("pkgconfig"))
            .output()
            .expect("pkg-config is there");
        let flags = String::from_utf8(flags.stdout).unwrap();
        let mut command = Command::new(compiler);
        command
            .args(words("TSC_CFLAGS"))
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread", "-g"])
            .args(language)
            .arg(&source)
            .args(["-x", "none", "-o"])
            .arg(&program)
            .args(flags.split_whitespace())
            .arg(format!("-Wl,-rpath,{}", library.display()));
        let output = command.output().expect("the compiler is there");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler} {name}: {errors}");
        program
    }

    /// Runs a program with a transport to the server.
    fn run(&self, program: &Path, transport: Transport) {
        self.run_with(program, transport, &[&transport.to_string()]);
    }

    /// One with these arguments, the server's port and the authority's file.
    fn command(&self, program: &Path, side: Side, transport: Transport, first: &[&str]) -> Command {
        let backend = DtlsBackendKind::OpenSsl;
        let server = self.lab.server_for(side, transport, backend).unwrap();
        let mut command = Command::new("timeout");
        command
            .arg("300")
            .args(words("TSC_RUNNER"))
            .arg(program)
            .args(first)
            .arg(server.port().unwrap().to_string())
            .arg(self.directory.path().join("ca.pem"));
        command
    }

    /// Runs it to its end; what it prints.
    fn run_with(&self, program: &Path, transport: Transport, first: &[&str]) -> String {
        let mut command = self.command(program, Side::Access, transport, first);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program:?} {transport}: {}\n{said}{errors}",
            output.status
        );
        said
    }
}

#[test]
fn sockets_behave_as_the_headers_say_over_every_transport() {
    let world = World::new();
    let program = world.build("gcc", &C, "sockets");
    for transport in Transport::ALL {
        world.run(&program, transport);
    }
}

#[test]
fn both_versions_of_ip_are_asked_for_and_used() {
    let world = World::with(&LabOptions {
        address_range: r#"10.64.0.0/24", "fd00:64::/120"#.to_owned(),
        ..LabOptions::default()
    });
    world.run(&world.build("gcc", &C, "ipv6"), Transport::Tcp);
}

#[test]
fn options_take_effect_and_callbacks_are_told() {
    let world = World::new();
    let program = world.build("gcc", &C, "notifications");
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        world.run(&program, transport);
    }
}

#[test]
fn misuse_of_each_function_is_an_error_and_nothing_else() {
    let world = World::new();
    world.run(&world.build("gcc", &C, "misuse"), Transport::Tls);
}

#[test]
fn sockets_and_tunnels_that_come_and_go_leave_nothing() {
    let world = World::new();
    world.run(&world.build("gcc", &C, "stress"), Transport::Udp);
}

/// The examples call each other.
#[test]
fn a_call_from_c_is_answered_by_c_over_every_transport() {
    let world = World::new();
    let client = world.build("gcc", &C, "../../../examples/c/tsc_sip_client");
    let server = world.build("gcc", &C, "../../../examples/c/tsc_sip_server");
    for transport in Transport::ALL {
        let first = [&*transport.to_string(), "127.0.0.1"];
        let mut command = world.command(&server, Side::Core, transport, &first);
        let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready sip:10.65.0.1:5060");
        let said = world.run_with(&client, transport, &first);
        assert!(said.contains("50 of 50 packets came back"), "{said}");
        let lines: Vec<_> = lines.map(Result::unwrap).collect();
        assert_eq!(lines.last().unwrap(), "50 packets sent back", "{lines:?}");
        assert!(server.wait().unwrap().success());
    }
}

/// The example calls the SIP server of this project, which is written in Rust.
#[test]
fn a_call_from_c_is_answered_by_rust_over_every_transport() {
    let world = World::new();
    let client = world.build("gcc", &C, "../../../examples/c/tsc_sip_client");
    let inner_tcp = world.build("gcc", &C, "../../../examples/c/tsc_sip_inner_tcp");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for transport in Transport::ALL {
        let backend = DtlsBackendKind::OpenSsl;
        let tunnel = world.lab.tunnel_to(Side::Core, transport, backend);
        let (tunnel, server) = runtime.block_on(async {
            let tunnel = Arc::new(tunnel.unwrap().connect().await.unwrap());
            let options = ServerOptions {
                http_port: Some(8080),
                ..ServerOptions::default()
            };
            let server = SipServer::start(Arc::clone(&tunnel), options).await;
            (tunnel, server.unwrap())
        });
        let first = [&*transport.to_string(), "127.0.0.1"];
        let said = world.run_with(&client, transport, &first);
        assert!(said.contains("50 of 50 packets came back"), "{said}");
        let said = world.run_with(&inner_tcp, transport, &first);
        assert!(said.contains("100000 of 100000 bytes came"), "{said}");
        let reports = runtime.block_on(async {
            let reports = server.stop(LIMIT).await.unwrap();
            let tunnel = Arc::into_inner(tunnel).expect("given up by the server");
            tunnel.close(LIMIT).await.unwrap();
            reports
        });
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert_eq!((reports[0].outcome, reports[0].received), (Outcome::Ok, 50));
    }
}

#[test]
fn the_headers_are_for_all_compilers_and_for_cxx() {
    let world = World::new();
    for (compiler, language) in [("clang", &C[..]), ("g++", &CXX)] {
        for name in ["sockets", "misuse", "notifications", "stress", "ipv6"] {
            world.build(compiler, language, name);
        }
        // Without the macros that make the system's headers generous.
        world.build(
            compiler,
            &[language[0], "-x", language[language.len() - 1]],
            "headers",
        );
    }
    world.run(&world.build("g++", &CXX, "sockets"), Transport::Udp);
}
