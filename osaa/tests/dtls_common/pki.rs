//! Certificates for tests: two authorities, and leaves with one thing wrong each.

use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tsc_osaa::cert::{
    ClientAuth, ClientSecurity, Identity, PemSource, Roots, ServerSecurity, Trust,
};

/// The name in good server certificates.
pub const SERVER_NAME: &str = "server.test";

/// Keys and certificates are made once per process.
pub static PKI: LazyLock<Pki> = LazyLock::new(Pki::new);

pub struct Pki {
    pub ca: Authority,
    pub other_ca: Authority,
    pub server: Leaf,
    pub client: Leaf,
}

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Leaf {
    pub chain: String,
    pub key: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Server,
    Client,
}

impl Pki {
    fn new() -> Self {
        let ca = Authority::new("test authority");
        Self {
            server: ca.leaf(Purpose::Server, |_| {}),
            client: ca.leaf(Purpose::Client, |_| {}),
            other_ca: Authority::new("other authority"),
            ca,
        }
    }

    pub fn expired(&self, purpose: Purpose) -> Leaf {
        self.ca.leaf(purpose, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    pub fn wrong_name(&self) -> Leaf {
        self.ca.leaf(Purpose::Server, |params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName(
                "elsewhere.test".try_into().unwrap(),
            )];
        })
    }

    /// A leaf of an authority below the test authority, with the certificate of that one behind its own.
    pub fn behind_an_intermediate(&self, purpose: Purpose) -> Leaf {
        let (params, key) = Authority::params("intermediate authority");
        let pem = params.signed_by(&key, &self.ca.issuer).unwrap().pem();
        let intermediate = Authority {
            pem,
            issuer: Issuer::new(params, key),
        };
        let mut leaf = intermediate.leaf(purpose, |_| {});
        leaf.chain += &intermediate.pem;
        leaf
    }

    pub fn unknown_issuer(&self, purpose: Purpose) -> Leaf {
        self.other_ca.leaf(purpose, |_| {})
    }
}

impl Authority {
    fn new(name: &str) -> Self {
        let (params, key) = Self::params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn params(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params, KeyPair::generate().unwrap())
    }

    pub fn leaf(&self, purpose: Purpose, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        self.leaf_with_key(purpose, &KeyPair::generate().unwrap(), change)
    }

    pub fn leaf_with_key(
        &self,
        purpose: Purpose,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let names = match purpose {
            Purpose::Server => vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()],
            Purpose::Client => vec!["client.test".to_owned()],
        };
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(
            DnType::CommonName,
            match purpose {
                Purpose::Server => "server",
                Purpose::Client => "client",
            },
        );
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        Leaf {
            chain: params.signed_by(key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn roots(&self) -> Roots {
        Roots::from_pem(&PemSource::from(self.pem.as_str())).unwrap()
    }
}

impl Leaf {
    pub fn identity(&self) -> Identity {
        Identity::from_pem(
            &PemSource::from(self.chain.as_str()),
            &PemSource::from(self.key.as_str()),
        )
        .unwrap()
    }
}

/// A client that trusts the test authority.
pub fn client_security(identity: Option<&Leaf>) -> ClientSecurity {
    ClientSecurity::new(Trust::Roots(PKI.ca.roots()), identity.map(Leaf::identity)).unwrap()
}

pub fn server_security(identity: &Leaf, client_auth: ClientAuth) -> ServerSecurity {
    ServerSecurity::new(identity.identity(), client_auth).unwrap()
}

/// A leaf of the test authority with an RSA key of 2048 bits.
pub fn rsa_leaf(purpose: Purpose) -> Leaf {
    let pem = openssl(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
    ]);
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &rcgen::PKCS_RSA_SHA256).unwrap();
    PKI.ca.leaf_with_key(purpose, &key, |_| {})
}

/// A server's leaf whose key is in the form of RFC 5915 ("BEGIN EC PRIVATE KEY").
pub fn sec1_leaf() -> Leaf {
    let pkcs8 = openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, pkcs8.as_bytes()).unwrap();
    let sec1 = openssl(&["ec", "-in", file.path().to_str().unwrap()]);
    assert!(sec1.contains("BEGIN EC PRIVATE KEY"));
    let key = KeyPair::from_pem(&pkcs8).unwrap();
    let mut leaf = PKI.ca.leaf_with_key(Purpose::Server, &key, |_| {});
    leaf.key = sec1;
    leaf
}

/// What the `openssl` command prints.
fn openssl(arguments: &[&str]) -> String {
    let output = std::process::Command::new("openssl")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
