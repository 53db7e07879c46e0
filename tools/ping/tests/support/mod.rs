//! A server to examine, certificates of every kind, and the program run to its end.
#![allow(dead_code, unreachable_pub, reason = "shared by test programs")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use serde_json::Value;
use tempfile::TempDir;
use tsc_demo::{
    lab::{Lab, LabOptions},
    pki::{Authority, PemIdentity},
};
use tsc_tapi::Transport;

/// An authority whose certificate is in a file.
pub struct Pki {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        Self::named("Test authority")
    }

    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), certificate).unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> String {
        self.file("ca.pem").display().to_string()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// For 127.0.0.1 and localhost.
    pub fn server(&self) -> PemIdentity {
        self.identity(|_| ())
    }

    /// The same until the first day of 2002.
    pub fn expired(&self) -> PemIdentity {
        self.identity(|params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    /// For somebody else.
    pub fn stranger(&self) -> PemIdentity {
        self.identity(|params| {
            params.subject_alt_names = vec![SanType::DnsName("other.example".try_into().unwrap())];
        })
    }

    fn identity(&self, change: impl FnOnce(&mut CertificateParams)) -> PemIdentity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let loopback = SanType::IpAddress([127, 0, 0, 1].into());
        params.subject_alt_names.push(loopback);
        params
            .distinguished_name
            .push(DnType::CommonName, "Test server");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        PemIdentity {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A running server; dropping it stops it.
pub struct Server(tsc_server::Server);

impl Server {
    pub fn start(identity: &PemIdentity, options: &LabOptions) -> Self {
        let authority = Authority::new("unused").unwrap();
        let config = Lab::config(options, &authority, identity).unwrap();
        Self(tsc_server::Server::start(&config).unwrap())
    }

    /// `tls://127.0.0.1:PORT` and its like.
    pub fn url(&self, transport: Transport) -> String {
        let mut ports = self.0.ports().iter();
        let port = ports.find(|port| port.interface == "access" && port.transport == transport);
        format!("{transport}://{}", port.unwrap().address)
    }
}

/// What the program said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn ping(arguments: &[&str]) -> Said {
    let output: Output = Command::new(env!("CARGO_BIN_EXE_tsc-ping"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The same as JSON.
pub fn examine(arguments: &[&str]) -> (i32, Value) {
    let mut all = vec!["--json"];
    all.extend_from_slice(arguments);
    let said = ping(&all);
    let value: Value = serde_json::from_str(&said.out)
        .unwrap_or_else(|error| panic!("{error}: {}{}", said.out, said.err));
    assert_eq!(value["exit_code"], said.code);
    (said.code, value["targets"].clone())
}

/// The step of this name, the last one if there are several.
pub fn step<'a>(target: &'a Value, name: &str) -> &'a Value {
    let steps = target["steps"].as_array().unwrap();
    let found = steps.iter().rfind(|step| step["step"] == name);
    found.unwrap_or_else(|| panic!("no step {name} in {target:#}"))
}

/// All that the diagnosis says.
pub fn diagnosis(target: &Value) -> String {
    let findings = target["diagnosis"].as_array().unwrap();
    let texts = findings
        .iter()
        .map(|finding| finding["text"].as_str().unwrap());
    texts.collect::<Vec<_>>().join("\n")
}
