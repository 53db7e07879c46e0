//! Programs in C, built by every compiler there is as C99 and as C++, and run against a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
#![cfg(target_os = "linux")]

mod misuse;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tsc_demo::{
    alone,
    lab::{Lab, LabOptions, Side},
    peer,
};
use tsc_sip::{
    report::Outcome,
    server::{ServerOptions, SipServer},
};
use tsc_tapi::{DtlsBackendKind, Transport};

const LIMIT: Duration = Duration::from_secs(10);
/// Compilers with the flags that make them strict.
const C: [&str; 4] = ["-std=c99", "-D_DEFAULT_SOURCE", "-x", "c"];
const CXX: [&str; 3] = ["-std=c++11", "-x", "c++"];

/// What the environment adds: `TSC_CFLAGS` to the compiler's flags, `TSC_RUNNER` in front of each program (Valgrind). `TSC_CC` stands in for
/// gcc, and `TSC_BUILT` is a directory with another libtsc (ThreadSanitizer).
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
        Self::of(Lab::start(options).unwrap())
    }

    fn of(lab: Lab) -> Self {
        let directory = TempDir::new().unwrap();
        let own = std::env::current_exe().unwrap();
        let built = std::env::var_os("TSC_BUILT").map(PathBuf::from);
        let installed = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh"))
            .arg("--built")
            .arg(built.as_deref().unwrap_or_else(|| own.parent().unwrap()))
            .arg("--prefix")
            .arg(directory.path())
            .env_remove("DESTDIR")
            .status();
        assert!(installed.unwrap().success());
        let authority = directory.path().join("ca.pem");
        fs::write(authority, lab.authority.certificate()).unwrap();
        Self { lab, directory }
    }

    /// What pkg-config says of the library as it is installed.
    fn package(&self, questions: &[&str]) -> Vec<String> {
        let said = Command::new("pkg-config")
            .args(questions)
            .arg("tsc")
            .env(
                "PKG_CONFIG_PATH",
                self.directory.path().join("lib/pkgconfig"),
            )
            .output()
            .expect("pkg-config is there");
        assert!(said.status.success(), "{questions:?}");
        let said = String::from_utf8(said.stdout).unwrap();
        said.split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles a program of `tests/c`, or one by its path from there.
    fn build(&self, compiler: &str, language: &[&str], name: &str) -> PathBuf {
        let mut linked = self.package(&["--cflags", "--libs"]);
        let library = self.directory.path().join("lib");
        linked.push(format!("-Wl,-rpath,{}", library.display()));
        self.build_linked(compiler, language, name, &linked)
    }

    fn build_linked(
        &self,
        compiler: &str,
        language: &[&str],
        name: &str,
        linked: &[String],
    ) -> PathBuf {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        let source = tests.join(name).with_extension("c");
        let name = source.file_stem().unwrap().display();
        let program = self.directory.path().join(format!("{name}-{compiler}"));
        let other = std::env::var("TSC_CC").ok().filter(|_| compiler == "gcc");
        let mut command = Command::new(other.as_deref().unwrap_or(compiler));
        command
            .args(words("TSC_CFLAGS"))
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread", "-g"])
            .args(language)
            .arg(&source)
            .args(["-x", "none", "-o"])
            .arg(&program)
            .args(linked);
        let output = command.output().expect("the compiler is there");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler} {name}: {errors}");
        program
    }

    /// The program of the porting guide, as somebody would copy it.
    fn guide(&self) -> PathBuf {
        let guide = include_str!("../../../docs/porting.md");
        let code = guide.split("```c\n").nth(1).unwrap();
        let file = self.directory.path().join("guide.c");
        fs::write(&file, code.split("```").next().unwrap()).unwrap();
        file
    }

    /// Runs a program with a transport to the server; what it prints.
    fn run(&self, program: &Path, transport: Transport) -> String {
        self.run_with(program, transport, &[&transport.to_string()])
    }

    /// One with these arguments, the server's port and the authority's file.
    fn command(&self, program: &Path, side: Side, transport: Transport, first: &[&str]) -> Command {
        let backend = DtlsBackendKind::OpenSsl;
        let server = self.lab.server_for(side, transport, backend).unwrap();
        self.command_to(program, first, &server.port().unwrap().to_string())
    }

    fn command_to(&self, program: &Path, first: &[&str], port: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg("300")
            .args(words("TSC_RUNNER"))
            .arg(program)
            .args(first)
            .arg(port)
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
fn each_service_of_a_socket_is_told_of_and_carries_its_packets() {
    let world = World::new();
    let program = world.build("gcc", &C, "services");
    for transport in Transport::ALL {
        world.run(&program, transport);
    }
}

/// In a network of its own: on loopback there are no peer tunnels.
#[test]
fn packets_of_peers_leave_the_server() {
    if !alone::is_inside() {
        let this = ["--exact", "packets_of_peers_leave_the_server"];
        assert!(alone::again_with(this).unwrap());
        return;
    }
    let world = World::of(peer::lab().unwrap());
    let program = world.build("gcc", &C, "services");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let relayed = || runtime.block_on(peer::relayed(&world.lab)).unwrap();
    for transport in [Transport::Udp, Transport::Dtls] {
        let server = peer::address(&world.lab, transport, DtlsBackendKind::OpenSsl).unwrap();
        let first = [&*transport.to_string()];
        let mut command = world.command_to(&program, &first, &server.to_string());
        let pipes = command.arg("peer").stdin(Stdio::piped());
        let mut client = pipes.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "peer tunnel");
        let before = relayed();
        assert!(before > 0, "{transport}: {before} packets over the server");
        client.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(client.wait().unwrap().success(), "{transport}");
        let beside = relayed() - before;
        // Of a hundred.
        assert!(beside < 10, "{transport}: {beside} packets over the server");
    }
}

#[test]
fn misuse_of_each_function_is_an_error_and_nothing_else() {
    let world = World::new();
    let said = world.run(&world.build("gcc", &C, "misuse"), Transport::Tls);
    let headers = [
        include_str!("../../include/tsc_control_api.h"),
        include_str!("../../include/tsc_socket_api.h"),
    ];
    let missing = misuse::missing(&headers, &said);
    assert!(missing.is_empty(), "not shown: {missing:#?}");
}

#[test]
fn threads_are_hit_by_no_signal_and_may_be_refused() {
    let world = World::new();
    let program = world.build("gcc", &C, "threads");
    let mut command = world.command(&program, Side::Access, Transport::Tcp, &["tcp"]);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn sockets_and_tunnels_that_come_and_go_leave_nothing() {
    let world = World::new();
    let said = world.run(&world.build("gcc", &C, "stress"), Transport::Udp);
    print!("{said}");
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
    let guide = world.build("gcc", &C, world.guide().to_str().unwrap());
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
        let said = world.run_with(&guide, transport, &first);
        // What it is told of its service may come later.
        assert!(said.contains("\nSIP/2.0 200 OK\n"), "{said}");
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
        for name in [
            "sockets",
            "misuse",
            "notifications",
            "services",
            "stress",
            "threads",
            "ipv6",
        ] {
            world.build(compiler, language, name);
        }
        for name in ["client", "server", "inner_tcp"] {
            world.build(
                compiler,
                language,
                &format!("../../../examples/c/tsc_sip_{name}"),
            );
        }
        world.build(compiler, language, world.guide().to_str().unwrap());
        // Without the macros that make the system's headers generous.
        world.build(
            compiler,
            &[language[0], "-x", language[language.len() - 1]],
            "headers",
        );
    }
    world.run(&world.build("g++", &CXX, "sockets"), Transport::Udp);
}

#[test]
fn a_program_may_hold_the_library_itself() {
    let world = World::new();
    let linked = world.package(&["--cflags", "--libs", "--static"]);
    let linked: Vec<_> = linked
        .iter()
        .map(|flag| flag.replace("-ltsc", "-l:libtsc.a"))
        .collect();
    let program = world.build_linked("gcc", &C, "sockets", &linked);
    let needed = Command::new("readelf").arg("-d").arg(&program).output();
    let needed = String::from_utf8(needed.unwrap().stdout).unwrap();
    assert!(needed.contains("[libc.so"), "{needed}");
    assert!(!needed.contains("libtsc"), "{needed}");
    world.run(&program, Transport::Udp);
}
