//! Digest authentication (RFC 7616, RFC 3261 22.4, RFC 8760): MD5 and SHA-256, `qop=auth`.
//!
//! The server's end keeps no state for strangers: a nonce carries its time and a keyed hash, so it can
//! be checked without having been stored. Only nonces that a right password came with are remembered, with their
//! count, against replay.

mod server;

use std::fmt::Write;

use md5::{Digest, Md5};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub use server::{Authenticator, Users, Verdict};

use crate::{secret::Secret, sip};

/// Hash of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// MD5: old, but every SIP peer has it.
    Md5,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// The token on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Md5, Self::Sha256]
            .into_iter()
            .find(|a| a.as_str().eq_ignore_ascii_case(text))
    }

    /// `H(data)` in lower-case hexadecimal digits.
    #[must_use]
    pub fn hash(self, data: &str) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(data)),
            Self::Sha256 => hex(&Sha256::digest(data)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A `WWW-Authenticate: Digest` challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Whose users are asked.
    pub realm: String,
    /// To be used in the answer.
    pub nonce: String,
    /// To be sent back.
    pub opaque: Option<String>,
    /// Hash.
    pub algorithm: Algorithm,
    /// Whether `qop=auth` is offered; without it the answer is that of RFC 2069.
    pub qop_auth: bool,
    /// The password was right, only the nonce too old.
    pub stale: bool,
}

impl Challenge {
    /// Reads the value of a WWW-Authenticate header field. `None` if it is malformed, no Digest, or uses an
    /// algorithm or only qops that are not known here.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let params = Params::of(value)?;
        let qop_auth = match params.take("qop") {
            None => false,
            Some(list) if list.split(',').any(|q| q.trim() == "auth") => true,
            Some(_) => return None,
        };
        Some(Self {
            realm: params.take("realm")?,
            nonce: params.take("nonce")?,
            opaque: params.take("opaque"),
            algorithm: params.algorithm()?,
            qop_auth,
            stale: params
                .take("stale")
                .is_some_and(|s| s.eq_ignore_ascii_case("true")),
        })
    }

    /// The strongest of the challenges in a message that is understood.
    pub fn strongest<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        // Of equals, the first: max_by_key would take the last.
        values.filter_map(Self::parse).reduce(|best, next| {
            if next.algorithm > best.algorithm {
                next
            } else {
                best
            }
        })
    }
}

/// The header value.
impl std::fmt::Display for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { realm, nonce, .. } = self;
        write!(f, "Digest realm={}, nonce={}", quote(realm), quote(nonce))?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", quote(opaque))?;
        }
        if self.stale {
            f.write_str(", stale=true")?;
        }
        write!(f, ", algorithm={}", self.algorithm.as_str())?;
        if self.qop_auth {
            f.write_str(", qop=\"auth\"")?;
        }
        Ok(())
    }
}

/// The parameters of a Digest challenge or of its answer.
struct Params(Vec<(String, String)>);

impl Params {
    fn of(value: &str) -> Option<Self> {
        let (scheme, params) = sip::auth_params(value)?;
        scheme
            .eq_ignore_ascii_case("Digest")
            .then_some(Self(params))
    }

    fn take(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        Some(value.clone())
    }

    /// MD5 if none is named (RFC 7616 3.3); `None` for one that is not known here.
    fn algorithm(&self) -> Option<Algorithm> {
        match self.take("algorithm") {
            None => Some(Algorithm::Md5),
            Some(name) => Algorithm::parse(&name),
        }
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The answer to a challenge: the value of an Authorization header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Of the challenge.
    pub realm: String,
    /// Of the challenge.
    pub nonce: String,
    /// The Request-URI as the client wrote it.
    pub uri: String,
    /// The proof.
    pub response: String,
    /// Hash.
    pub algorithm: Algorithm,
    /// Of the challenge.
    pub opaque: Option<String>,
    /// The client's nonce and the count of uses of the server's, with `qop=auth`.
    pub qop: Option<(String, u32)>,
}

impl Credentials {
    /// Answers a challenge. `count` is how often its nonce was used, this time included.
    #[must_use]
    pub fn answer(
        challenge: &Challenge,
        (username, password): (&str, &Secret),
        (method, uri): (&str, &str),
        cnonce: &str,
        count: u32,
    ) -> Self {
        let mut credentials = Self {
            username: username.to_owned(),
            realm: challenge.realm.clone(),
            nonce: challenge.nonce.clone(),
            uri: uri.to_owned(),
            response: String::new(),
            algorithm: challenge.algorithm,
            opaque: challenge.opaque.clone(),
            qop: challenge.qop_auth.then(|| (cnonce.to_owned(), count)),
        };
        credentials.response = credentials.proof(password, method);
        credentials
    }

    /// The response that belongs to these credentials (RFC 7616 3.4.1).
    fn proof(&self, password: &Secret, method: &str) -> String {
        let Self {
            username, realm, ..
        } = self;
        let password = password.expose();
        let ha1 = Zeroizing::new(
            self.algorithm
                .hash(&Zeroizing::new(format!("{username}:{realm}:{password}"))),
        );
        let ha2 = self.algorithm.hash(&format!("{method}:{}", self.uri));
        let middle = match &self.qop {
            Some((cnonce, count)) => format!("{}:{count:08x}:{cnonce}:auth", self.nonce),
            None => self.nonce.clone(),
        };
        let all = Zeroizing::new(format!("{}:{middle}:{ha2}", ha1.as_str()));
        self.algorithm.hash(&all)
    }

    /// Whether the proof is right. Takes the same time for all wrong ones.
    #[must_use]
    pub fn verify(&self, password: &Secret, method: &str) -> bool {
        let wanted = self.proof(password, method);
        wanted
            .as_bytes()
            .ct_eq(self.response.to_ascii_lowercase().as_bytes())
            .into()
    }

    /// Reads the value of an Authorization header field; `None` if malformed or no Digest.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let params = Params::of(value)?;
        let qop = match params.take("qop") {
            None => None,
            Some(qop) if qop == "auth" => {
                let count = params.take("nc").filter(|nc| nc.len() == 8)?;
                Some((
                    params.take("cnonce")?,
                    u32::from_str_radix(&count, 16).ok()?,
                ))
            }
            Some(_) => return None,
        };
        Some(Self {
            username: params.take("username")?,
            realm: params.take("realm")?,
            nonce: params.take("nonce")?,
            uri: params.take("uri")?,
            response: params.take("response")?,
            algorithm: params.algorithm()?,
            opaque: params.take("opaque"),
            qop,
        })
    }
}

/// The header value.
impl std::fmt::Display for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{}\", algorithm={}",
            quote(&self.username),
            quote(&self.realm),
            quote(&self.nonce),
            quote(&self.uri),
            self.response,
            self.algorithm.as_str(),
        )?;
        if let Some((cnonce, count)) = &self.qop {
            write!(f, ", qop=auth, nc={count:08x}, cnonce={}", quote(cnonce))?;
        }
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", quote(opaque))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616 3.9.1.
    #[test]
    fn vectors_of_rfc_7616() {
        for (algorithm, response) in [
            (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
            (
                Algorithm::Sha256,
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let challenge = Challenge {
                realm: "http-auth@example.org".into(),
                nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v".into(),
                opaque: Some("FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS".into()),
                algorithm,
                qop_auth: true,
                stale: false,
            };
            let password = Secret::new("Circle of Life");
            let credentials = Credentials::answer(
                &challenge,
                ("Mufasa", &password),
                ("GET", "/dir/index.html"),
                "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
                1,
            );
            assert_eq!(credentials.response, response);
            assert!(credentials.verify(&password, "GET"));
            assert!(!credentials.verify(&password, "PUT"));
            let again = Credentials::parse(&credentials.to_string());
            assert_eq!(again, Some(credentials));
            assert_eq!(Challenge::parse(&challenge.to_string()), Some(challenge));
        }
    }

    /// RFC 2617 3.5, with and without qop.
    #[test]
    fn vectors_of_rfc_2617() {
        let mut challenge = Challenge {
            realm: "testrealm@host.com".into(),
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093".into(),
            opaque: None,
            algorithm: Algorithm::Md5,
            qop_auth: true,
            stale: false,
        };
        let password = Secret::new("Circle Of Life");
        let answer = |challenge: &Challenge| {
            let request = ("GET", "/dir/index.html");
            Credentials::answer(challenge, ("Mufasa", &password), request, "0a4f113b", 1).response
        };
        assert_eq!(answer(&challenge), "6629fae49393a05397450978507c4ef1");
        challenge.qop_auth = false;
        assert_eq!(answer(&challenge), "670fd8c2df070c60b045671b8b24ff02");
    }

    #[test]
    fn the_strongest_challenge_is_taken() {
        let values = [
            "Digest realm=\"r\", nonce=\"1\", algorithm=SHA-512-256",
            "Digest realm=\"r\", nonce=\"2\"",
            "Digest realm=\"r\", nonce=\"3\", algorithm=SHA-256, qop=\"auth,auth-int\"",
            "Basic realm=\"r\"",
        ];
        let best = Challenge::strongest(values.into_iter()).unwrap();
        assert_eq!(best.nonce, "3");
        assert_eq!(Challenge::strongest(std::iter::empty()), None);
    }
}
