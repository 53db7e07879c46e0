//! Certificates: what is refused, and in which words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{fs, process::Command, time::Duration};

use common::{Ca, Wish, client, server};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use tsc_osaa::cert::{
    CertificateDer, CertificateError, ClientAuth, ClientSecurity, CredentialError, Identity,
    PeerIdentity, PemSource, PrivateKeyDer, Roots, ServerName, ServerSecurity, SubjectName, Trust,
    UnixTime,
};

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    PemSource::from(pem).certificates().unwrap()
}

fn verify(wish: &Wish) -> Result<PeerIdentity, CertificateError> {
    let ca = Ca::new("root");
    let (certificate, _) = ca.issue(wish);
    ca.client_security()
        .verify_server_chain(&chain(&certificate), &localhost(), UnixTime::now())
}

#[test]
fn a_good_server_is_accepted_and_named() {
    let peer = verify(&server()).unwrap();
    assert_eq!(peer.subject(), r"CN=server,O=Open\, Inc.");
    assert_eq!(peer.identity(), peer.subject());
    assert_eq!(peer.common_name(), Some("server"));
    assert_eq!(peer.names()[0], SubjectName::Dns("localhost".into()));
    assert_eq!(peer.names()[2].to_string(), "IP:::1");
    assert_eq!(peer.chain().len(), 1);
}

#[test]
fn each_mistake_has_its_own_words() {
    let expired = verify(&Wish {
        years: (2000, 2001),
        ..server()
    });
    let error = expired.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate expired on 2001-01-01 00:00:00 UTC"
    );

    let early = verify(&Wish {
        years: (2080, 2081),
        ..server()
    });
    assert!(matches!(
        early,
        Err(CertificateError::NotYetValid { not_before }) if not_before > 3_400_000_000
    ));

    let other = verify(&Wish {
        sans: &["elsewhere.example"],
        ..server()
    });
    let text = other.unwrap_err().to_string();
    assert!(
        text.contains("not valid for localhost") && text.contains("elsewhere.example"),
        "{text}"
    );

    let purpose = verify(&Wish {
        usage: client().usage,
        ..server()
    });
    assert_eq!(
        purpose,
        Err(CertificateError::WrongPurpose { required: "server" })
    );

    let (certificate, _) = Ca::new("root").issue(&server());
    let stranger = Ca::new("another root").client_security();
    let verdict = stranger.verify_server_chain(&chain(&certificate), &localhost(), UnixTime::now());
    assert_eq!(verdict, Err(CertificateError::UnknownIssuer));

    let nothing = stranger.verify_server_chain(&[], &localhost(), UnixTime::now());
    assert_eq!(nothing, Err(CertificateError::Missing));

    let garbage = [CertificateDer::from(vec![0x30, 0x82, 1])];
    let verdict = stranger.verify_server_chain(&garbage, &localhost(), UnixTime::now());
    assert_eq!(verdict, Err(CertificateError::Malformed));
}

#[test]
fn a_certificate_authority_is_no_server() {
    let ca = Ca::new("root");
    let verdict =
        ca.client_security()
            .verify_server_chain(&chain(&ca.pem), &localhost(), UnixTime::now());
    assert_eq!(verdict, Err(CertificateError::CaAsEndEntity));
}

#[test]
fn time_is_an_argument() {
    let ca = Ca::new("root");
    let (certificate, _) = ca.issue(&server());
    let later = UnixTime::since_unix_epoch(Duration::from_secs(4_000_000_000));
    let verdict =
        ca.client_security()
            .verify_server_chain(&chain(&certificate), &localhost(), later);
    assert!(matches!(verdict, Err(CertificateError::Expired { .. })));
}

#[test]
fn clients_are_verified_as_the_server_says() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let now = UnixTime::now();
    let (good, _) = ca.issue(&client());
    let (bad, _) = other.issue(&client());
    let server = |auth| ServerSecurity::new(ca.identity(&server()), auth).unwrap();

    let required = server(ClientAuth::Required(ca.roots()));
    let peer = required.verify_client_chain(&chain(&good), now).unwrap();
    assert_eq!(peer.unwrap().identity(), r"CN=alice,O=Open\, Inc.");
    assert_eq!(
        required.verify_client_chain(&[], now),
        Err(CertificateError::Missing)
    );

    let optional = server(ClientAuth::Optional(ca.roots()));
    assert_eq!(optional.verify_client_chain(&[], now), Ok(None));
    for security in [&required, &optional] {
        assert_eq!(
            security.verify_client_chain(&chain(&bad), now),
            Err(CertificateError::UnknownIssuer)
        );
    }
    let none = server(ClientAuth::None);
    assert_eq!(none.verify_client_chain(&chain(&bad), now), Ok(None));
}

#[test]
fn dangerous_trust_accepts_anyone_but_still_names_them() {
    let dangerous = ClientSecurity::new(Trust::DangerousNone, None).unwrap();
    let (certificate, _) = Ca::new("root").issue(&Wish {
        years: (2000, 2001),
        sans: &[],
        ..server()
    });
    let peer = dangerous
        .verify_server_chain(&chain(&certificate), &localhost(), UnixTime::now())
        .unwrap();
    assert_eq!(peer.common_name(), Some("server"));
    assert!(
        dangerous
            .verify_server_chain(&[], &localhost(), UnixTime::now())
            .is_err()
    );
}

#[test]
fn identities_without_a_subject_have_other_stable_names() {
    let ca = Ca::new("root");
    let name_of = |sans: &[&str]| {
        let sans: Vec<String> = sans.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        PeerIdentity::from_chain(&[certificate.der().clone()])
            .unwrap()
            .identity()
    };
    assert_eq!(name_of(&["Phone-1.example"]), "DNS:phone-1.example");
    assert!(name_of(&[]).starts_with("SHA256:"));
    // The subject outlives the certificate.
    let (a, b) = (ca.issue(&client()).0, ca.issue(&client()).0);
    let [a, b] = [a, b].map(|pem| PeerIdentity::from_chain(&chain(&pem)).unwrap());
    assert_eq!(a.identity(), b.identity());
    assert_ne!(a.fingerprint(), b.fingerprint());
}

#[test]
fn a_name_cannot_forge_log_lines_or_other_names() {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "eve\nadmin,CN=root+O=x");
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let peer = PeerIdentity::from_chain(&[certificate.der().clone()]).unwrap();
    assert_eq!(peer.identity(), r"CN=eve\0aadmin\,CN\=root\+O\=x");
}

#[test]
fn credentials_say_what_is_wrong_with_them() {
    let ca = Ca::new("root");
    let (certificate, key) = ca.issue(&server());
    let (certificate, key) = (certificate.as_str(), key.as_str());
    let load = |c: &str, k: &str| Identity::from_pem(&c.into(), &k.into()).unwrap_err();

    assert!(matches!(
        load(key, key),
        CredentialError::NoCertificate { .. }
    ));
    let error = load(certificate, certificate);
    assert!(matches!(error, CredentialError::NoKey { .. }));
    assert!(error.to_string().starts_with("no private key in"));
    let (_, other_key) = ca.issue(&server());
    assert!(matches!(
        load(certificate, &other_key),
        CredentialError::KeyMismatch
    ));
    assert!(matches!(
        load("-----BEGIN CERTIFICATE-----\nAAAA", key),
        CredentialError::Pem { .. }
    ));
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(matches!(
        load(certificate, encrypted),
        CredentialError::EncryptedKey { .. }
    ));
    let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(
        load(certificate, bad_key),
        CredentialError::UnusableKey(_)
    ));
    assert!(matches!(
        load(&certificate.repeat(17), key),
        CredentialError::ChainTooLong { limit: 16, .. }
    ));
    let missing = PemSource::File("/nonexistent/server.pem".into());
    let error = Identity::from_pem(&missing, &key.into()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read /nonexistent/server.pem: ")
    );
    let too_long = PemSource::Memory(vec![b'\n'; tsc_osaa::cert::MAX_PEM_LEN + 1]);
    assert!(matches!(
        Roots::from_pem(&too_long),
        Err(CredentialError::TooLong { .. })
    ));
}

#[test]
fn files_and_memory_load_alike_and_secrets_are_masked() {
    let ca = Ca::new("root");
    let (certificate, key) = ca.issue(&server());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("both.pem");
    fs::write(&path, format!("{key}{certificate}{}", ca.pem)).unwrap();
    let file = PemSource::from(path);
    let identity = Identity::from_pem(&file, &file).unwrap();
    assert_eq!(identity.chain().len(), 2);
    let memory = Identity::from_pem(&certificate.as_str().into(), &key.as_str().into()).unwrap();
    assert_eq!(identity.fingerprint(), memory.fingerprint());

    let secret = PemSource::from(key.as_str());
    let body = key.lines().nth(1).unwrap();
    let debug = format!("{secret:?} {identity:?}");
    assert!(!debug.contains(body), "{debug}");
    let PrivateKeyDer::Pkcs8(der) = identity.key() else {
        panic!("rcgen writes PKCS#8");
    };
    let hex: String = der.secret_pkcs8_der()[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let list = format!("{:?}", &der.secret_pkcs8_der()[..16]);
    assert!(!debug.contains(&hex) && !debug.contains(list.trim_matches(['[', ']'])));
}

/// PKCS#1, SEC1 and PKCS#8 keys as the openssl command writes them.
#[test]
fn keys_of_every_form_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .expect("the openssl command is needed for this test");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    openssl(&["genrsa", "-traditional", "-out", "pkcs1.key", "2048"]);
    openssl(&["pkey", "-in", "pkcs1.key", "-out", "pkcs8.key"]);
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        "sec1.key",
    ]);
    for (key, kind) in [("pkcs1.key", "RSA"), ("pkcs8.key", ""), ("sec1.key", "EC")] {
        openssl(&[
            "req", "-x509", "-key", key, "-subj", "/CN=x", "-out", "x.pem",
        ]);
        let text = fs::read_to_string(at(key)).unwrap();
        assert!(text.contains(&format!("BEGIN {kind} PRIVATE KEY").replace("  ", " ")));
        Identity::from_pem(&at("x.pem").into(), &at(key).into()).unwrap();
    }
    openssl(&[
        "pkey",
        "-in",
        "sec1.key",
        "-aes128",
        "-passout",
        "pass:x",
        "-out",
        "locked.key",
    ]);
    let error = Identity::from_pem(&at("x.pem").into(), &at("locked.key").into()).unwrap_err();
    assert!(matches!(error, CredentialError::EncryptedKey { .. }));
}

proptest! {
    /// Names are read from anything without a panic, and never without a bound.
    #[test]
    fn arbitrary_bytes_have_a_fingerprint(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let peer = PeerIdentity::from_chain(&[CertificateDer::from(bytes)]).unwrap();
        prop_assert!(peer.names().len() <= tsc_osaa::cert::MAX_NAMES);
    }

    /// The same for certificates with a few damaged bytes.
    #[test]
    fn damaged_certificates_are_read_without_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut der = include_bytes!("data/certificate.der").to_vec();
        for (at, value) in damage {
            let at = at.index(der.len());
            der[at] = value;
        }
        der.truncate(cut.index(der.len()) + 1);
        let peer = PeerIdentity::from_chain(&[CertificateDer::from(der)]).unwrap();
        prop_assert!(!peer.identity().is_empty());
    }
}

#[test]
fn the_certificate_of_the_damage_test_is_whole() {
    let der = CertificateDer::from(include_bytes!("data/certificate.der").to_vec());
    let peer = PeerIdentity::from_chain(&[der]).unwrap();
    assert_eq!(peer.subject(), "CN=damage test,O=OpenTSC");
    assert_eq!(
        peer.names(),
        [
            SubjectName::Dns("a.example".into()),
            SubjectName::Ip([192, 0, 2, 1].into()),
            SubjectName::Uri("sip:alice@example.com".into()),
            SubjectName::Email("alice@example.com".into()),
        ]
    );
}
