//! Kerberos key servers, by TCP (RFC 4120, 7.2.2).

use std::{io, time::Duration};

use sspi::{NetworkProtocol, NetworkRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tracing::debug;

/// Most questions for one ticket: two for the user, then one for each realm on the way to the proxy's.
pub(super) const MAX_REQUESTS: usize = 16;

/// For one question.
const LIMIT: Duration = Duration::from_secs(5);

/// Longest answer. Tickets list the groups of their user.
const MAX_ANSWER: u32 = 256 * 1024;

const PORT: u16 = 88;

/// Asks, and gives the answer with its length in front, as it was asked.
pub(super) async fn ask(request: &NetworkRequest) -> io::Result<Vec<u8>> {
    let host = request.url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = request.url.port().unwrap_or(PORT);
    debug!(host, port, "asking a Kerberos key server");
    let exchange = async {
        let length;
        let prefix: &[u8] = match request.protocol {
            NetworkProtocol::Tcp => &[],
            // Who answers there answers here.
            NetworkProtocol::Udp => {
                length = u32::try_from(request.data.len())
                    .map_err(|_| io::ErrorKind::InvalidInput)?
                    .to_be_bytes();
                &length
            }
            NetworkProtocol::Http | NetworkProtocol::Https => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        };
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(prefix).await?;
        stream.write_all(&request.data).await?;
        let length = stream.read_u32().await?;
        if length > MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = Vec::new();
        if request.protocol == NetworkProtocol::Tcp {
            answer.extend(length.to_be_bytes());
        }
        stream.take(length.into()).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    timeout(LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What a key server says of a user. The library tells it only in words, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The name is unknown (KDC_ERR_C_PRINCIPAL_UNKNOWN).
    Unknown,
    /// The password is wrong (KDC_ERR_PREAUTH_FAILED) or has to be changed (KDC_ERR_KEY_EXPIRED).
    Refused,
    /// Anything else, a ticket among it.
    Other,
}

impl Verdict {
    /// Reads an answer, with its length in front.
    pub(super) fn new(answer: &[u8]) -> Self {
        match error_code(answer.get(4..).unwrap_or_default()) {
            Some(6) => Self::Unknown,
            Some(23 | 24) => Self::Refused,
            Some(_) | None => Self::Other,
        }
    }
}

/// The code of a KRB-ERROR (RFC 4120, 5.9.1).
fn error_code(message: &[u8]) -> Option<u8> {
    let (0x7E, body, _) = element(message)? else {
        return None;
    };
    let (0x30, mut fields, _) = element(body)? else {
        return None;
    };
    while let Some((tag, value, rest)) = element(fields) {
        if tag == 0xA6 {
            let (0x02, [code], _) = element(value)? else {
                return None;
            };
            return Some(*code);
        }
        fields = rest;
    }
    None
}

/// The first element of DER: its tag, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7F => (usize::from(short), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(*first & 0x7F))?;
            let length = digits
                .iter()
                .fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_code_of_an_error_is_found() {
        // APPLICATION 30, SEQUENCE, pvno, msg-type, error-code.
        let error = |code| {
            [
                0, 0, 0, 19, 0x7E, 0x11, 0x30, 0x0F, 0xA0, 3, 2, 1, 5, 0xA1, 3, 2, 1, 30, 0xA6, 3,
                2, 1, code,
            ]
        };
        for (code, verdict) in [
            (6, Verdict::Unknown),
            (23, Verdict::Refused),
            (24, Verdict::Refused),
            (25, Verdict::Other),
            (7, Verdict::Other),
        ] {
            assert_eq!(Verdict::new(&error(code)), verdict, "{code}");
        }
        assert_eq!(Verdict::new(&[]), Verdict::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(answer in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Verdict::new(&answer);
        }
    }
}
