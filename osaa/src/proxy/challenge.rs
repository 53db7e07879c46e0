//! What a proxy asks for: the Proxy-Authenticate fields of a 407 (RFC 9110, 11.3 and 11.6.1).

use super::AuthScheme;

/// Most challenges of one response; what is beyond is not read.
pub const MAX_CHALLENGES: usize = 16;

/// Most parameters of one challenge; what is beyond is not kept.
const MAX_PARAMETERS: usize = 32;

/// One way to authenticate that a proxy offers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Challenge {
    /// The scheme as it was written.
    pub scheme: String,
    /// What comes with it.
    pub data: ChallengeData,
}

/// What comes with the name of a scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChallengeData {
    /// Nothing.
    None,
    /// The one token of NTLM and Negotiate, in base64.
    Token(String),
    /// Names in lower case, and values without their quotes. Bytes, as Digest hashes them.
    Parameters(Vec<(String, Vec<u8>)>),
}

impl Challenge {
    /// The scheme, if it is one of ours.
    #[must_use]
    pub fn known(&self) -> Option<AuthScheme> {
        AuthScheme::ALL
            .into_iter()
            .find(|scheme| self.scheme.eq_ignore_ascii_case(scheme.as_str()))
    }

    /// A parameter by its name in lower case.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        match &self.data {
            ChallengeData::Parameters(list) => list
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_slice()),
            ChallengeData::None | ChallengeData::Token(_) => None,
        }
    }

    /// The token, if there is one.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        match &self.data {
            ChallengeData::Token(token) => Some(token),
            ChallengeData::None | ChallengeData::Parameters(_) => None,
        }
    }
}

/// Appends the challenges of one field to `found`. Where the syntax is broken, what was understood before counts: the
/// rest of the proxy's offer may do.
pub fn parse_challenges(field: &[u8], found: &mut Vec<Challenge>) {
    let mut cursor = Cursor { rest: field };
    while found.len() < MAX_CHALLENGES {
        cursor.skip(|byte| byte == b',' || is_blank(byte));
        let Some(scheme) = cursor.token() else {
            return;
        };
        let Some(data) = cursor.data() else {
            return;
        };
        found.push(Challenge { scheme, data });
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Takes what fits, perhaps nothing.
    fn skip(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !fits(*byte));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn token(&mut self) -> Option<String> {
        let taken = self.skip(is_token);
        let text = std::str::from_utf8(taken).ok()?;
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// What follows a scheme's name; `None` if the syntax is broken.
    fn data(&mut self) -> Option<ChallengeData> {
        let blanks = self.skip(is_blank).len();
        if matches!(self.peek(), None | Some(b',')) {
            return Some(ChallengeData::None);
        }
        if blanks == 0 {
            return None;
        }
        if let Some(token) = self.token68() {
            return Some(ChallengeData::Token(token));
        }
        let mut list = Vec::new();
        while let Some(parameter) = self.parameter() {
            if list.len() < MAX_PARAMETERS {
                list.push(parameter?);
            }
        }
        (!list.is_empty()).then_some(ChallengeData::Parameters(list))
    }

    /// A token68, which stands alone; otherwise nothing is taken.
    fn token68(&mut self) -> Option<String> {
        let before = self.rest;
        let body = self.skip(is_token68).len();
        let padding = self.skip(|byte| byte == b'=').len();
        let taken = before.get(..body + padding).unwrap_or_default();
        self.skip(is_blank);
        if body > 0 && matches!(self.peek(), None | Some(b',')) {
            return String::from_utf8(taken.to_vec()).ok();
        }
        self.rest = before;
        None
    }

    /// The next parameter of the same challenge; `None` if there is no more, `Some(None)` if its value is broken.
    fn parameter(&mut self) -> Option<Option<(String, Vec<u8>)>> {
        let before = self.rest;
        self.skip(|byte| byte == b',' || is_blank(byte));
        let name = self.token();
        self.skip(is_blank);
        let Some(name) = name.filter(|_| self.peek() == Some(b'=')) else {
            // The name of another scheme.
            self.rest = before;
            return None;
        };
        self.rest = self.rest.get(1..).unwrap_or_default();
        self.skip(is_blank);
        let value = match self.peek() {
            Some(b'"') => self.quoted(),
            // Some write values without quotes that need them.
            _ => Some(self.skip(|byte| byte != b',' && !is_blank(byte)).to_vec()),
        };
        Some(value.map(|value| (name.to_ascii_lowercase(), value)))
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.rest.iter().enumerate().skip(1);
        let mut value = Vec::new();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.rest = self.rest.get(at + 1..).unwrap_or_default();
                    return Some(value);
                }
                b'\\' => value.push(*bytes.next()?.1),
                byte => value.push(*byte),
            }
        }
        None
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110, 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

const fn is_token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(fields: &[&str]) -> Vec<Challenge> {
        let mut found = Vec::new();
        for field in fields {
            parse_challenges(field.as_bytes(), &mut found);
        }
        found
    }

    #[test]
    fn several_challenges_in_one_field_and_in_several() {
        let found = parse(&[
            r#"Negotiate, NTLM , Digest realm="a, \"b\"", nonce=x,qop="auth,auth-int" , Basic realm="c""#,
            "Bearer",
        ]);
        let schemes: Vec<_> = found.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["Negotiate", "NTLM", "Digest", "Basic", "Bearer"]);
        assert_eq!(found[2].parameter("realm"), Some(&b"a, \"b\""[..]));
        assert_eq!(found[2].parameter("nonce"), Some(&b"x"[..]));
        assert_eq!(found[2].parameter("qop"), Some(&b"auth,auth-int"[..]));
        assert_eq!(found[3].parameter("realm"), Some(&b"c"[..]));
        assert_eq!(found[3].known(), Some(AuthScheme::Basic));
        assert_eq!(found[4].known(), None);
    }

    #[test]
    fn tokens_stand_alone() {
        let found = parse(&[
            "NTLM TlRMTVNTUAACAAAA==",
            "negotiate YII/+a.b , Basic realm=x",
        ]);
        assert_eq!(found[0].token(), Some("TlRMTVNTUAACAAAA=="));
        assert_eq!(found[1].token(), Some("YII/+a.b"));
        assert_eq!(found[1].known(), Some(AuthScheme::Negotiate));
        assert_eq!(found[2].parameter("realm"), Some(&b"x"[..]));
    }

    #[test]
    fn what_is_sloppy_is_understood() {
        let found = parse(&[
            "Digest realm = \"x\" , NONCE=a=b==, stale=TRUE",
            ",, ,Basic",
        ]);
        assert_eq!(found[0].parameter("realm"), Some(&b"x"[..]));
        assert_eq!(found[0].parameter("nonce"), Some(&b"a=b=="[..]));
        assert_eq!(found[1].data, ChallengeData::None);
    }

    #[test]
    fn what_is_broken_ends_the_field_only() {
        for broken in [
            "Digest realm=\"x",
            "Digest \"",
            "Basic=x",
            "\"",
            "Digest realm=\"x\\",
        ] {
            let found = parse(&[broken, "Basic realm=a"]);
            assert_eq!(found.len(), 1, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_bounded_challenges(fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let mut found = Vec::new();
            for field in &fields {
                parse_challenges(field, &mut found);
            }
            prop_assert!(found.len() <= MAX_CHALLENGES);
        }

        #[test]
        fn what_is_written_is_read(
            challenges in prop::collection::vec(
                ("[a-zA-Z][a-zA-Z0-9-]{0,8}", prop::collection::vec(("[a-z]{1,8}", prop::collection::vec(0x20u8..=0xFF, 0..12)), 1..4)),
                1..5,
            ),
        ) {
            let mut field = Vec::new();
            for (scheme, parameters) in &challenges {
                field.extend(if field.is_empty() { &b""[..] } else { b", " });
                field.extend(scheme.as_bytes());
                for (index, (name, value)) in parameters.iter().enumerate() {
                    field.extend(if index == 0 { &b" "[..] } else { b"," });
                    field.extend(name.as_bytes());
                    field.extend(b"=\"");
                    for byte in value {
                        if matches!(byte, b'"' | b'\\') {
                            field.push(b'\\');
                        }
                        field.push(*byte);
                    }
                    field.push(b'"');
                }
            }
            let mut found = Vec::new();
            parse_challenges(&field, &mut found);
            prop_assert_eq!(found.len(), challenges.len());
            for (read, (scheme, parameters)) in found.iter().zip(&challenges) {
                prop_assert_eq!(&read.scheme, scheme);
                prop_assert_eq!(&read.data, &ChallengeData::Parameters(parameters.clone()));
            }
        }
    }
}
