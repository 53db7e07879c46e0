//! What can be wrong with a certificate, in words for the person who has to mend it.

use std::{io, path::PathBuf, sync::Arc};

use rustls::ExtendedKeyPurpose;

/// Why our own certificate, key or list of roots could not be taken into use. Always a matter of
/// configuration: nothing a peer sends leads here.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The file is longer than [`MAX_PEM_LEN`](super::MAX_PEM_LEN), so it is no PEM file of ours.
    #[error("{origin} is longer than {limit} bytes, which no certificate file is")]
    TooLong {
        /// The file, or "the PEM text in memory".
        origin: String,
        /// The limit.
        limit: usize,
    },
    /// The text is not well-formed PEM.
    #[error("{origin} is not valid PEM: {reason}")]
    Pem {
        /// Where the text came from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no `BEGIN CERTIFICATE` section.
    #[error("no certificate in {origin} (a \"BEGIN CERTIFICATE\" section is needed)")]
    NoCertificate {
        /// Where the text came from.
        origin: String,
    },
    /// More than [`MAX_CHAIN`](super::MAX_CHAIN) certificates where one chain is expected.
    #[error(
        "{origin} holds more than {limit} certificates; a chain is the certificate and its intermediates"
    )]
    ChainTooLong {
        /// Where the text came from.
        origin: String,
        /// The limit.
        limit: usize,
    },
    /// There is no private key section.
    #[error(
        "no private key in {origin} (a \"BEGIN PRIVATE KEY\", \"BEGIN EC PRIVATE KEY\" or \"BEGIN RSA PRIVATE KEY\" section is needed)"
    )]
    NoKey {
        /// Where the text came from.
        origin: String,
    },
    /// The private key is protected by a passphrase.
    #[error(
        "the private key in {origin} is encrypted; decrypt it first, for example with \"openssl pkey -in KEY -out PLAIN\""
    )]
    EncryptedKey {
        /// Where the text came from.
        origin: String,
    },
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The key is damaged, or of a kind that cannot sign here.
    #[error("the private key cannot be used: {0}")]
    UnusableKey(String),
    /// The certificate is damaged.
    #[error("the certificate cannot be used: {0}")]
    UnusableCertificate(String),
    /// No usable root certificate was found, so nobody could ever be trusted.
    #[error("no usable root certificate in {origin}")]
    NoRoots {
        /// Where they were looked for.
        origin: String,
    },
}

/// Why the other end's certificate was not accepted. Never worth an automatic retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A certificate is required and none was presented.
    #[error("no certificate was presented, but one is required")]
    Missing,
    /// Its time is over.
    #[error("the certificate expired on {}", date(*not_after))]
    Expired {
        /// Last moment of validity, seconds since 1970 (0 if unknown).
        not_after: u64,
    },
    /// Its time has not begun (or our clock is wrong).
    #[error("the certificate is not valid before {}; is the clock right?", date(*not_before))]
    NotYetValid {
        /// First moment of validity, seconds since 1970 (0 if unknown).
        not_before: u64,
    },
    /// No trusted root issued it.
    #[error("the certificate's issuer is not trusted (unknown issuer)")]
    UnknownIssuer,
    /// It was issued for other names.
    #[error(
        "the certificate is not valid for {expected}; it names {}",
        names(presented)
    )]
    NameMismatch {
        /// The name that was wanted.
        expected: String,
        /// The names in the certificate, as the library prints them.
        presented: Vec<String>,
    },
    /// It is a certificate authority's own certificate, which must not be used by a server or client.
    #[error(
        "the certificate is a certificate authority's own (CA:TRUE) and cannot identify a server or client"
    )]
    CaAsEndEntity,
    /// It was issued for something else, for example a client certificate on a server.
    #[error("the certificate is not meant for this use ({required} authentication)")]
    WrongPurpose {
        /// "server" or "client".
        required: &'static str,
    },
    /// A signature in the chain, or on the handshake, does not verify.
    #[error("a signature does not match the certificate's key")]
    BadSignature,
    /// A signature algorithm or key type is not supported.
    #[error("the certificate uses an unsupported key or signature algorithm")]
    UnsupportedAlgorithm,
    /// It was revoked.
    #[error("the certificate was revoked")]
    Revoked,
    /// It cannot be parsed.
    #[error("the certificate is malformed")]
    Malformed,
    /// Anything rarer; the text is the verifier's.
    #[error("the certificate was not accepted: {0}")]
    Other(String),
}

impl CertificateError {
    /// Reads the verifier's answer; errors that are not about certificates become [`Self::Other`].
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    pub(crate) fn from_rustls(error: rustls::Error, role: &'static str) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::from_certificate(error, role),
            rustls::Error::NoCertificatesPresented => Self::Missing,
            rustls::Error::UnsupportedNameType => Self::Malformed,
            other => Self::Other(other.to_string()),
        }
    }

    #[allow(
        deprecated,
        clippy::wildcard_enum_match_arm,
        reason = "a foreign enum that grows; verifiers may still produce its deprecated variant"
    )]
    pub(crate) fn from_certificate(error: rustls::CertificateError, role: &'static str) -> Self {
        use rustls::CertificateError as E;
        match error {
            E::BadEncoding => Self::Malformed,
            E::Expired => Self::Expired { not_after: 0 },
            E::ExpiredContext { not_after, .. } => Self::Expired {
                not_after: not_after.as_secs(),
            },
            E::NotValidYet => Self::NotYetValid { not_before: 0 },
            E::NotValidYetContext { not_before, .. } => Self::NotYetValid {
                not_before: not_before.as_secs(),
            },
            E::Revoked => Self::Revoked,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::BadSignature => Self::BadSignature,
            E::UnsupportedSignatureAlgorithm
            | E::UnsupportedSignatureAlgorithmContext { .. }
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                Self::UnsupportedAlgorithm
            }
            E::NotValidForName => Self::NameMismatch {
                expected: "the name that was asked for".to_owned(),
                presented: Vec::new(),
            },
            E::NotValidForNameContext {
                expected,
                presented,
            } => Self::NameMismatch {
                expected: expected.to_str().into_owned(),
                presented,
            },
            E::InvalidPurpose => Self::WrongPurpose { required: role },
            E::InvalidPurposeContext { required, .. } => Self::WrongPurpose {
                required: match required {
                    ExtendedKeyPurpose::ServerAuth => "server",
                    ExtendedKeyPurpose::ClientAuth => "client",
                    ExtendedKeyPurpose::Other(_) => role,
                },
            },
            E::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
                Some(webpki::Error::CaUsedAsEndEntity) => Self::CaAsEndEntity,
                _ => Self::Other(other.to_string()),
            },
            rest => Self::Other(rest.to_string()),
        }
    }
}

/// "2026-11-21 06:45:00 UTC"; certificate times are bounded by the year 9999, so plain arithmetic does.
fn date(seconds: u64) -> String {
    if seconds == 0 {
        return "an unknown date".to_owned();
    }
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date, after Howard Hinnant's "chrono-compatible low-level date algorithms".
    let z = days.saturating_add(719_468);
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        "nothing that can be checked (no subject alternative name)".to_owned()
    } else {
        presented.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_readable() {
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_763_707_500), "2025-11-21 06:45:00 UTC");
        assert_eq!(date(253_402_300_799), "9999-12-31 23:59:59 UTC");
        assert_eq!(date(0), "an unknown date");
    }

    #[test]
    fn a_mismatch_says_both_names() {
        let error = CertificateError::NameMismatch {
            expected: "a.example".into(),
            presented: vec!["DnsName(\"b.example\")".into()],
        };
        let text = error.to_string();
        assert!(
            text.contains("a.example") && text.contains("b.example"),
            "{text}"
        );
    }
}
