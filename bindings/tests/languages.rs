//! The bindings as programs in other languages use them: generated from the library, and run against a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
#![cfg(target_os = "linux")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tsc_demo::lab::{Lab, LabOptions, Side};
use tsc_sip::{
    report::{CallReport, Outcome},
    server::{ServerOptions, SipServer},
};
use tsc_tapi::{DtlsBackendKind, Transport};
use uniffi_bindgen::{
    BindgenPaths,
    bindings::{GenerateOptions, TargetLanguage, generate_with_bindgen_paths},
};

const LIMIT: Duration = Duration::from_secs(10);
const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The library as it was built for this test.
fn library() -> PathBuf {
    let built = std::env::current_exe().unwrap();
    built.parent().unwrap().join("libtsc_uniffi.so")
}

/// A server, and a directory with what other programs need.
struct World {
    lab: Lab,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        let lab = Lab::start(&LabOptions::default()).unwrap();
        let directory = TempDir::new().unwrap();
        let authority = lab.authority.certificate();
        fs::write(directory.path().join("ca.pem"), authority).unwrap();
        Self { lab, directory }
    }

    /// Writes the bindings of a language; where they are.
    fn generate(&self, language: TargetLanguage) -> PathBuf {
        let path = self.directory.path();
        let config = path.join("roots.toml");
        fs::write(&config, format!("[crate-roots]\ntsc_uniffi = {HERE:?}\n")).unwrap();
        let out = path.join("generated");
        let utf8 = |path: &Path| path.to_str().unwrap().into();
        let options = GenerateOptions {
            languages: vec![language],
            source: utf8(&library()),
            out_dir: utf8(&out),
            config_override: Some(utf8(&config)),
            ..GenerateOptions::default()
        };
        generate_with_bindgen_paths(options, BindgenPaths::default()).unwrap();
        out
    }

    fn url(&self, transport: Transport) -> String {
        let backend = DtlsBackendKind::OpenSsl;
        let server = self.lab.server_for(Side::Access, transport, backend);
        server.unwrap().to_string()
    }

    /// A program in Python that finds the bindings and the library.
    fn python(&self, program: &str, arguments: &[&str]) -> String {
        let generated = self.generate(TargetLanguage::Python);
        let placed = generated.join("libtsc_uniffi.so");
        if !placed.exists() {
            std::os::unix::fs::symlink(library(), &placed).unwrap();
        }
        let mut command = Command::new("timeout");
        command
            .args(["120", "python3", "-X", "faulthandler", "-W", "error"])
            .arg(Path::new(HERE).join("python").join(program))
            .args(arguments)
            .env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        said_by(&mut command)
    }

    fn authority(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }

    /// Does something while the SIP server of this project answers; its reports about calls.
    fn with_sip_server(&self, transport: Transport, work: impl FnOnce()) -> Vec<CallReport> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let backend = DtlsBackendKind::OpenSsl;
        let tunnel = self.lab.tunnel_to(Side::Core, transport, backend);
        let (tunnel, server) = runtime.block_on(async {
            let tunnel = Arc::new(tunnel.unwrap().connect().await.unwrap());
            let server = SipServer::start(Arc::clone(&tunnel), ServerOptions::default()).await;
            (tunnel, server.unwrap())
        });
        work();
        runtime.block_on(async {
            let reports = server.stop(LIMIT).await.unwrap();
            let tunnel = Arc::into_inner(tunnel).expect("given up by the server");
            tunnel.close(LIMIT).await.unwrap();
            reports
        })
    }

    /// A call of two seconds, made by a program that is given the server.
    fn call(&self, transport: Transport, program: impl FnOnce(&str, &str) -> String) {
        let (url, authority) = (self.url(transport), self.authority());
        let mut said = String::new();
        let reports = self.with_sip_server(transport, || said = program(&url, &authority));
        for line in [
            "tunnel: 10.64.0.",
            "REGISTER: 200",
            "INVITE: 200",
            "100 of 100 packets came back",
            "BYE: 200",
            "down: released",
        ] {
            assert!(said.contains(line), "{transport}: no '{line}' in:\n{said}");
        }
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert_eq!(
            (reports[0].outcome, reports[0].received),
            (Outcome::Ok, 100)
        );
    }
}

/// What a program prints that succeeds.
fn said_by(command: &mut Command) -> String {
    let output = command.output().expect("timeout is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "{command:?}: {status}\n{said}{errors}");
    said + &errors
}

#[test]
fn a_script_in_python_makes_a_call_over_datagrams_and_over_tls() {
    let world = World::new();
    for transport in [Transport::Udp, Transport::Tls] {
        world.call(transport, |url, authority| {
            world.python("examples/call.py", &[url, "--ca", authority])
        });
    }
}

#[test]
fn misuse_from_python_is_a_typed_exception_and_nothing_else() {
    let world = World::new();
    let said = world.python(
        "tests/misuse.py",
        &[&world.url(Transport::Udp), &world.authority()],
    );
    assert!(said.contains("\nOK"), "{said}");
}

/// As far as it can be looked at without a compiler.
#[test]
fn the_swift_code_has_what_its_guide_uses() {
    let world = World::new();
    let generated = world.generate(TargetLanguage::Swift);
    let read = |name: &str| fs::read_to_string(generated.join(name)).unwrap();
    let code = read("OpenTSC.swift");
    for part in [
        "import OpenTSCFFI",
        "open class Client",
        "func `open`(settings: TunnelSettings, listener: TunnelListener? = nil)throws",
        "func waitUntilUp(timeout: TimeInterval? = nil)throws",
        "func setNetworkAvailable(available: Bool)throws",
        "func networkChanged()throws",
        "func setActivity(activity: Activity)throws",
        "case pem(",
        "case background",
        "enum TscError: Swift.Error",
    ] {
        assert!(code.contains(part), "no '{part}'");
    }
    assert!(read("OpenTSCFFI.modulemap").contains("header \"OpenTSCFFI.h\""));
    assert!(read("OpenTSCFFI.h").contains("uniffi_tsc_uniffi_fn_constructor_client_new"));
}

/// `.ci/run` gets what it needs.
#[test]
#[ignore = "needs Java, JNA and a Kotlin compiler: see bindings/kotlin/run-on-jvm.sh"]
fn a_program_in_kotlin_makes_a_call_on_a_jvm() {
    let world = World::new();
    let generated = world.generate(TargetLanguage::Kotlin);
    std::os::unix::fs::symlink(library(), generated.join("libtsc_uniffi.so")).unwrap();
    world.call(Transport::Tls, |url, authority| {
        let mut command = Command::new("timeout");
        command
            .arg("300")
            .arg(Path::new(HERE).join("kotlin/run-on-jvm.sh"))
            .args([url, "--ca", authority])
            .env("TSC_BINDINGS", &generated);
        said_by(&mut command)
    });
}
