//! Certificates and a good configuration for the configuration's tests.
// Each test file uses its own part of this.
#![allow(dead_code, unreachable_pub)]

pub mod egress;
#[path = "../pki/mod.rs"]
mod pki;

use std::sync::LazyLock;

use self::pki::Authority;
use rcgen::ExtendedKeyUsagePurpose;
use tsc_server::config::{Config, ConfigErrors, Overrides};

/// SHA-256 of "abc".
pub const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// PEM texts under the names that the configurations use.
pub struct Pems {
    pub certificate: String,
    pub key: String,
    pub other_key: String,
    pub ca: String,
}

pub static PEMS: LazyLock<Pems> = LazyLock::new(|| {
    let ca = Authority::new("ca");
    let (certificate, key) = ca.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let (_, other_key) = ca.issue(ExtendedKeyUsagePurpose::ServerAuth);
    Pems {
        certificate,
        key,
        other_key,
        ca: ca.pem,
    }
});

/// The files that [`GOOD`] names, in memory.
pub fn files() -> Overrides {
    Overrides::default()
        .with_file("server.pem", PEMS.certificate.clone())
        .with_file("server.key", PEMS.key.clone())
        .with_file("other.key", PEMS.other_key.clone())
        .with_file("ca.pem", PEMS.ca.clone())
        .with_file("tokens", format!("alice:{ABC}\n"))
        .with_file("empty", "# nobody\n")
        .with_file("bad", format!("alice\nbob:{ABC}\ncarol:{ABC}\n"))
}

/// A small good configuration; tests change single lines of it.
pub const GOOD: &str = r#"[tscf-config]
element-id = 7

[[tls-profile]]
name = "default"
certificate = "server.pem"
private-key = "server.key"
client-ca = ["ca.pem"]

[[tscf-address-pool]]
name = "v4"
address-range = ["10.0.0.0/24"]

[[tscf-address-pool]]
name = "v6"
address-range = ["fd00::/120"]

[[tscf-interface]]
realm-id = "access"
local-address-pools = ["v4"]
authentication = "none"

[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = 5061
transport-protocol = ["tls", "dtls"]
tls-profile = "default"
"#;

pub fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse_with(text, "test.toml", &files())
}

/// [`GOOD`] with one part replaced.
pub fn changed(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?} must be there once");
    GOOD.replace(from, to)
}
