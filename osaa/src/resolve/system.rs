//! By the system: whatever it takes names from.

use std::{io, net::IpAddr};

use tokio::net::lookup_host;

use super::ResolveError;

/// Addresses that the system may give; more are not looked at.
const MOST: usize = 64;

/// In the system's order (RFC 6724).
pub(super) async fn addresses(name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    match lookup_host((name, 0)).await {
        Ok(found) => Ok(found.map(|address| address.ip()).take(MOST).collect()),
        Err(error) => match verdict(&error.to_string()) {
            Verdict::NoName => Err(ResolveError::NoSuchName {
                host: name.to_owned(),
            }),
            Verdict::NoAddress => Ok(Vec::new()),
            Verdict::Unknown => Err(ResolveError::NoAnswer {
                host: name.to_owned(),
                source: plain(error),
            }),
        },
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    NoName,
    NoAddress,
    Unknown,
}

/// The standard library keeps the text of `getaddrinfo`'s error code and not the code. The texts are not translated, as
/// no Rust program sets a locale unless it asks for it; one that is not known counts as no answer.
fn verdict(text: &str) -> Verdict {
    // glibc, musl, Apple and the BSDs, Windows.
    const NO_NAME: [&str; 4] = [
        "Name or service not known",
        "Name does not resolve",
        "nodename nor servname provided, or not known",
        "No such host is known",
    ];
    const NO_ADDRESS: [&str; 3] = [
        "No address associated with",
        "Name has no usable address",
        "no data record of the requested type",
    ];
    if NO_NAME.iter().any(|known| text.contains(known)) {
        Verdict::NoName
    } else if NO_ADDRESS.iter().any(|known| text.contains(known)) {
        Verdict::NoAddress
    } else {
        Verdict::Unknown
    }
}

/// Without the prefix that says what our own error says.
fn plain(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.strip_prefix("failed to lookup address information: ") {
        Some(rest) => io::Error::new(error.kind(), rest.to_owned()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_getaddrinfo_are_told_apart() {
        let prefix = "failed to lookup address information: ";
        for (text, expected) in [
            ("Name or service not known", Verdict::NoName),
            ("Name does not resolve", Verdict::NoName),
            ("No address associated with hostname", Verdict::NoAddress),
            ("Temporary failure in name resolution", Verdict::Unknown),
            ("Try again", Verdict::Unknown),
        ] {
            assert_eq!(verdict(&format!("{prefix}{text}")), expected, "{text}");
            let error = plain(io::Error::other(format!("{prefix}{text}")));
            assert_eq!(error.to_string(), text);
        }
    }
}
