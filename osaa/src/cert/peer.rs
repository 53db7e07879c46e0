//! Who the other end is.

use std::{fmt, net::IpAddr};

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::der;

/// Most names that are read from one certificate; a real one has a few.
pub const MAX_NAMES: usize = 100;

/// One subject alternative name (RFC 5280, 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubjectName {
    /// A DNS name, in lower case, perhaps with a wildcard label.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
    /// A URI, such as `sip:alice@example.com`.
    Uri(String),
    /// A mail address.
    Email(String),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{name}"),
            Self::Ip(address) => write!(f, "IP:{address}"),
            Self::Uri(uri) => write!(f, "URI:{uri}"),
            Self::Email(address) => write!(f, "email:{address}"),
        }
    }
}

/// The other end, as its certificate describes it.
///
/// It says as much as the verification that came before it: with [`Trust::DangerousNone`](super::Trust) the names are
/// only claims, while the fingerprint always belongs to a key whose holder completed the handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    fingerprint: [u8; 32],
    subject: String,
    common_name: Option<String>,
    names: Vec<SubjectName>,
    chain: Vec<CertificateDer<'static>>,
}

impl PeerIdentity {
    /// Reads the end entity of a chain; `None` for an empty chain. A certificate that cannot be read
    /// has a fingerprint and no names.
    #[must_use]
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        let holder = der::holder(leaf).unwrap_or_default();
        Some(Self {
            fingerprint: fingerprint(leaf),
            subject: distinguished_name(&holder.subject),
            common_name: holder
                .subject
                .iter()
                .flatten()
                .rfind(|(kind, _)| kind == "CN")
                .map(|(_, value)| value.clone()),
            names: holder.names,
            chain: chain.iter().map(|c| c.clone().into_owned()).collect(),
        })
    }

    /// SHA-256 of the end entity certificate in DER (spec 3.3, TLV 37).
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The subject by RFC 4514, such as `CN=alice,O=Example`; empty if the certificate names none.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The most specific common name of the subject.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The subject alternative names, at most [`MAX_NAMES`].
    #[must_use]
    pub fn names(&self) -> &[SubjectName] {
        &self.names
    }

    /// The chain as presented, end entity first, DER.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// A stable name for "the same identity" (spec 5, *no downgrade*; spec 8.3, limits per identity): the
    /// subject, or without one the first alternative name, or without any the fingerprint.
    ///
    /// It survives the renewal of a certificate. It is unambiguous among certificates of one trust store: a subject has
    /// a `=` before any `:`, the other forms begin `DNS:`, `IP:`, `URI:`, `email:` or `SHA256:`.
    #[must_use]
    pub fn identity(&self) -> String {
        if !self.subject.is_empty() {
            return self.subject.clone();
        }
        self.names.first().map_or_else(
            || format!("SHA256:{}", hex(&self.fingerprint)),
            ToString::to_string,
        )
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("identity", &self.identity())
            .field("names", &self.names)
            .field("fingerprint", &hex(&self.fingerprint))
            .finish_non_exhaustive()
    }
}

pub(super) fn fingerprint(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 4514: last relative name first, `+` inside one, specials escaped.
fn distinguished_name(subject: &[Vec<(String, String)>]) -> String {
    let relative: Vec<String> = subject
        .iter()
        .rev()
        .map(|set| {
            let parts: Vec<String> = set
                .iter()
                .map(|(kind, value)| format!("{kind}={}", escape(value)))
                .collect();
            parts.join("+")
        })
        .collect();
    relative.join(",")
}

/// RFC 4514, 2.4. Control characters are escaped too, so that a name cannot forge log lines.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => out.extend(['\\', c]),
            '#' | ' ' if at == 0 => out.extend(['\\', c]),
            ' ' if at == last => out.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    out.push_str(&format!("\\{byte:02x}"));
                }
            }
            c => out.push(c),
        }
    }
    out
}
