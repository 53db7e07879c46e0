//! Digest (RFC 7616, and what it replaced: RFC 2617 and RFC 2069).

use md5::Md5;
use sha2::{Sha256, Sha512_256};
use zeroize::Zeroizing;

use super::{Challenge, Credentials};

/// A proxy's challenge, ready to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    opaque: Option<Vec<u8>>,
    algorithm: Algorithm,
    /// Its name as the proxy wrote it; it need not name MD5.
    algorithm_name: Option<String>,
    session: bool,
    quality: Quality,
    user_hash: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Md5,
    Sha256,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quality {
    /// As in RFC 2069.
    None,
    Auth,
    /// With the hash of the body, which CONNECT does not have.
    AuthInt,
}

impl Digest {
    /// Reads a challenge.
    pub(super) fn new(challenge: &Challenge) -> Result<Self, &'static str> {
        let owned = |name| challenge.parameter(name).map(<[u8]>::to_vec);
        let text = |name: &str| {
            let value = challenge.parameter(name)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let name = text("algorithm");
        let (base, session) = match name.as_deref() {
            None => ("MD5", false),
            Some(name) => match name.get(name.len().saturating_sub(5)..) {
                Some(end) if end.eq_ignore_ascii_case("-sess") => {
                    (name.get(..name.len() - 5).unwrap_or_default(), true)
                }
                _ => (name, false),
            },
        };
        let algorithm = match base {
            base if base.eq_ignore_ascii_case("MD5") => Algorithm::Md5,
            base if base.eq_ignore_ascii_case("SHA-256") => Algorithm::Sha256,
            base if base.eq_ignore_ascii_case("SHA-512-256") => Algorithm::Sha512,
            _ => return Err("unknown algorithm"),
        };
        let quality = match text("qop") {
            None => Quality::None,
            Some(list) => {
                let offers = |wanted: &str| {
                    list.split(',')
                        .any(|word| word.trim().eq_ignore_ascii_case(wanted))
                };
                if offers("auth") {
                    Quality::Auth
                } else if offers("auth-int") {
                    Quality::AuthInt
                } else if list.trim().is_empty() {
                    Quality::None
                } else {
                    return Err("unknown quality of protection");
                }
            }
        };
        let is_true = |name| {
            challenge
                .parameter(name)
                .is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
        };
        Ok(Self {
            realm: owned("realm").ok_or("no realm")?,
            nonce: owned("nonce").ok_or("no nonce")?,
            opaque: owned("opaque"),
            algorithm,
            algorithm_name: name.filter(|name| name.bytes().all(|b| b.is_ascii_graphic())),
            session,
            quality,
            user_hash: is_true("userhash"),
        })
    }

    /// Of several challenges the one with the strongest hash; the reason why if there is none.
    pub(super) fn best<'a>(
        challenges: impl Iterator<Item = &'a Challenge>,
    ) -> Result<Self, &'static str> {
        let mut best: Result<Self, &str> = Err("none");
        for challenge in challenges {
            match (Self::new(challenge), &best) {
                (Ok(new), Ok(known)) if new.algorithm <= known.algorithm => {}
                (Ok(new), _) => best = Ok(new),
                (Err(why), Err(_)) => best = Err(why),
                (Err(_), Ok(_)) => {}
            }
        }
        best
    }

    /// Whether the proxy takes the answer to an older challenge for a right one, given too late.
    pub(super) fn is_stale(challenge: &Challenge) -> bool {
        challenge
            .parameter("stale")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"true"))
    }

    /// The value of Proxy-Authorization for the first request with this nonce. `client_nonce` is new for each.
    pub(super) fn answer(
        &self,
        credentials: &Credentials,
        method: &str,
        uri: &str,
        client_nonce: &str,
    ) -> Zeroizing<Vec<u8>> {
        let hash = |parts: &[&[u8]]| self.algorithm.hash(parts);
        let user = credentials.user().as_bytes();
        let password = credentials.expose_password().as_bytes();
        let mut secret = hash(&[user, b":", &self.realm, b":", password]);
        let client_nonce = client_nonce.as_bytes();
        if self.session {
            secret = hash(&[secret.as_bytes(), b":", &self.nonce, b":", client_nonce]);
        }
        let request = match self.quality {
            Quality::None | Quality::Auth => hash(&[method.as_bytes(), b":", uri.as_bytes()]),
            Quality::AuthInt => {
                let body = hash(&[]);
                let body = body.as_bytes();
                hash(&[method.as_bytes(), b":", uri.as_bytes(), b":", body])
            }
        };
        let quality = match self.quality {
            Quality::None => None,
            Quality::Auth => Some("auth"),
            Quality::AuthInt => Some("auth-int"),
        };
        let (secret, request) = (secret.as_bytes(), request.as_bytes());
        let response = match quality {
            None => hash(&[secret, b":", &self.nonce, b":", request]),
            Some(quality) => hash(&[
                secret,
                b":",
                &self.nonce,
                b":00000001:",
                client_nonce,
                b":",
                quality.as_bytes(),
                b":",
                request,
            ]),
        };

        let mut out = Zeroizing::new(b"Digest ".to_vec());
        if self.user_hash {
            let user = hash(&[user, b":", &self.realm]);
            quote(&mut out, "username", user.as_bytes());
            out.extend(b", userhash=true");
        } else if user.is_ascii() {
            quote(&mut out, "username", user);
        } else {
            out.extend(b"username*=UTF-8''");
            for byte in user {
                if byte.is_ascii_alphanumeric() {
                    out.push(*byte);
                } else {
                    out.extend(format!("%{byte:02X}").bytes());
                }
            }
        }
        for (name, value) in [
            (", realm", self.realm.as_slice()),
            (", nonce", &self.nonce),
            (", uri", uri.as_bytes()),
            (", response", response.as_bytes()),
        ] {
            quote(&mut out, name, value);
        }
        if let Some(name) = &self.algorithm_name {
            out.extend(format!(", algorithm={name}").bytes());
        }
        if let Some(quality) = quality {
            out.extend(format!(", qop={quality}, nc=00000001").bytes());
        }
        // RFC 2617 forbids it without a quality of protection, but without it nobody could check a session.
        if quality.is_some() || self.session {
            quote(&mut out, ", cnonce", client_nonce);
        }
        if let Some(opaque) = &self.opaque {
            quote(&mut out, ", opaque", opaque);
        }
        out
    }
}

impl Algorithm {
    /// In hexadecimal.
    fn hash(self, parts: &[&[u8]]) -> Zeroizing<String> {
        match self {
            Self::Md5 => hash::<Md5>(parts),
            Self::Sha256 => hash::<Sha256>(parts),
            Self::Sha512 => hash::<Sha512_256>(parts),
        }
    }
}

fn hash<D: sha2::Digest>(parts: &[&[u8]]) -> Zeroizing<String> {
    let mut hasher = D::new();
    for part in parts {
        hasher.update(part);
    }
    let bytes = hasher.finalize();
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in &bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}

/// `name="value"`. Values come from a parsed field or from us, so no line ends in them.
fn quote(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend(name.bytes());
    out.extend(b"=\"");
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::parse_challenges, *};

    fn challenges(field: &str) -> Vec<Challenge> {
        let mut found = Vec::new();
        parse_challenges(field.as_bytes(), &mut found);
        found
    }

    fn response(
        field: &str,
        credentials: &Credentials,
        method: &str,
        uri: &str,
        nonce: &str,
    ) -> String {
        let digest = Digest::new(&challenges(field)[0]).unwrap();
        let answer = digest.answer(credentials, method, uri, nonce);
        let text = String::from_utf8(answer.to_vec()).unwrap();
        let (_, rest) = text.split_once("response=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    /// RFC 7616, 3.9.1 and 3.9.2; RFC 2617, 3.5.
    #[test]
    fn the_examples_of_the_rfcs() {
        let mufasa = Credentials::new("Mufasa", "Circle of Life");
        let realm = r#"Digest realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#;
        let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
        let answer = |algorithm: &str| {
            let field = format!("{realm}, algorithm={algorithm}");
            response(&field, &mufasa, "GET", "/dir/index.html", cnonce)
        };
        assert_eq!(answer("MD5"), "8ca523f5e9506fed4657c9700eebdbec");
        let sha256 = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";
        assert_eq!(answer("SHA-256"), sha256);

        let field = r#"Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093""#;
        let mufasa = Credentials::new("Mufasa", "Circle Of Life");
        let response = response(field, &mufasa, "GET", "/dir/index.html", "0a4f113b");
        assert_eq!(response, "6629fae49393a05397450978507c4ef1");
    }

    #[test]
    fn hashed_user_names_as_in_the_rfc() {
        let field = r#"Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", userhash=true"#;
        let jason = Credentials::new("J\u{e4}s\u{f8}n Doe", "Secret, or not?");
        let digest = Digest::new(&challenges(field)[0]).unwrap();
        let nonce = "NTg6RKcb9boFIAS3KrFK9BGeh+niz/sm";
        let text = digest.answer(&jason, "GET", "/doe.json", nonce).to_vec();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("userhash=true"), "{text}");
        // The RFC has another value, which is wrong (erratum 4897).
        let hashed = "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b";
        assert!(text.contains(&format!("username=\"{hashed}\"")), "{text}");
    }

    #[test]
    fn the_strongest_hash_is_taken_and_what_is_unknown_left() {
        let list = challenges(
            r#"Digest realm=a, nonce=1, algorithm=MD5, Digest realm=a, nonce=2, algorithm=sha-256-SESS, Digest realm=a, nonce=3, algorithm=SHA-1"#,
        );
        let best = Digest::best(list.iter()).unwrap();
        assert!(best.nonce == b"2" && best.session);
        assert_eq!(Digest::best(list.iter().skip(2)), Err("unknown algorithm"));
        for bad in [
            "Digest realm=a",
            "Digest nonce=a",
            "Digest realm=a, nonce=b, qop=x",
        ] {
            assert!(Digest::best(challenges(bad).iter()).is_err(), "{bad}");
        }
    }

    #[test]
    fn quotes_are_quoted() {
        let field = r#"Digest realm="a\"b\\", nonce="n""#;
        let digest = Digest::new(&challenges(field)[0]).unwrap();
        let answer = digest.answer(&Credentials::new("u\"", ""), "CONNECT", "h:1", "c");
        let text = String::from_utf8(answer.to_vec()).unwrap();
        assert!(
            text.starts_with(r#"Digest username="u\"", realm="a\"b\\", nonce="n""#),
            "{text}"
        );
    }

    proptest! {
        /// Another implementation finds the same.
        #[test]
        fn answers_are_those_of_digest_auth(
            realm in "[ -~]{0,20}", nonce in "[!-~]{1,30}", user in "[ -~]{1,12}", password in ".{0,20}",
            algorithm in prop::sample::select(vec!["MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess"]),
            quality: bool,
        ) {
            let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            // It sends no client nonce for sessions without a quality of protection.
            let quality = quality || algorithm.ends_with("-sess");
            let mut field = format!(
                "Digest realm=\"{}\", nonce=\"{}\", algorithm={algorithm}", escape(&realm), escape(&nonce),
            );
            if quality {
                field += ", qop=\"auth\"";
            }
            let credentials = Credentials::new(user.as_str(), password.as_str());
            let ours = response(&field, &credentials, "CONNECT", "a:1", "0123");
            let mut prompt = digest_auth::WwwAuthenticateHeader::parse(&field).unwrap();
            let mut context = digest_auth::AuthContext::new_with_method(
                user.as_str(), password.as_str(), "a:1", Option::<&[u8]>::None, digest_auth::HttpMethod::CONNECT,
            );
            context.set_custom_cnonce("0123");
            prop_assert_eq!(ours, prompt.respond(&context).unwrap().response);
        }
    }
}
