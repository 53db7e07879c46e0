//! A certificate authority and deadlines for the tests that open sockets.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{future::Future, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tsc_osaa::cert::{
    ClientAuth, ClientSecurity, Identity, PemSource, Roots, ServerSecurity, Trust,
};

/// Everything in these tests happens within this time, or the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Runs to the end or fails the test.
pub(crate) async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("nothing waits longer than the deadline")
}

/// What a test wants wrong (or right) with a certificate.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) name: &'static str,
    pub(crate) sans: &'static [&'static str],
    pub(crate) years: (i32, i32),
    pub(crate) usage: ExtendedKeyUsagePurpose,
}

pub(crate) fn server() -> Wish {
    Wish {
        name: "server",
        sans: &["localhost", "127.0.0.1", "::1"],
        years: (2020, 2090),
        usage: ExtendedKeyUsagePurpose::ServerAuth,
    }
}

pub(crate) fn client() -> Wish {
    Wish {
        name: "alice",
        sans: &[],
        usage: ExtendedKeyUsagePurpose::ClientAuth,
        ..server()
    }
}

pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn params(wish: &Wish) -> CertificateParams {
        let sans: Vec<String> = wish.sans.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Open, Inc.");
        params
            .distinguished_name
            .push(DnType::CommonName, wish.name);
        params.not_before = date_time_ymd(wish.years.0, 1, 1);
        params.not_after = date_time_ymd(wish.years.1, 1, 1);
        params.extended_key_usages = vec![wish.usage.clone()];
        params
    }

    /// Certificate and key, PEM.
    pub(crate) fn issue(&self, wish: &Wish) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = Self::params(wish).signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn identity(&self, wish: &Wish) -> Identity {
        let (certificate, key) = self.issue(wish);
        Identity::from_pem(&certificate.as_str().into(), &key.as_str().into()).unwrap()
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(&PemSource::from(self.pem.as_str())).unwrap()
    }

    /// Trusts this authority, without an own certificate.
    pub(crate) fn client_security(&self) -> ClientSecurity {
        ClientSecurity::new(Trust::Roots(self.roots()), None).unwrap()
    }

    /// Trusts this authority and presents a certificate.
    pub(crate) fn client_with(&self, identity: Identity) -> ClientSecurity {
        ClientSecurity::new(Trust::Roots(self.roots()), Some(identity)).unwrap()
    }

    pub(crate) fn server_security(&self) -> ServerSecurity {
        ServerSecurity::new(self.identity(&server()), ClientAuth::None).unwrap()
    }

    /// Requires client certificates of this authority.
    pub(crate) fn mutual_server(&self) -> ServerSecurity {
        let auth = ClientAuth::Required(self.roots());
        ServerSecurity::new(self.identity(&server()), auth).unwrap()
    }
}
