//! The step between TCP and TLS: asking an HTTP proxy to connect (RFC 9110, section 9.3.6), without authentication.

use std::{fmt, io, str::FromStr, time::Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout_at,
};
use tsc_osaa::client::Host;

use crate::{
    problem::{Kind, Problem},
    target::{ParseTargetError, host_port},
};

/// Port of proxies that name none.
const DEFAULT_PORT: u16 = 3128;

/// Longest answer that is read.
const MAX_ANSWER: usize = 8192;

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl FromStr for Proxy {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ParseTargetError::Host),
            None => text,
        };
        let (host, port) = host_port(rest.strip_suffix('/').unwrap_or(rest))?;
        Ok(Self {
            host,
            port: port.unwrap_or(DEFAULT_PORT),
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

/// Asks the proxy to connect to the server; afterwards the connection is the server's.
pub(crate) async fn connect(
    stream: &mut TcpStream,
    server: &str,
    until: Instant,
) -> Result<String, Problem> {
    let request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        answer(stream).await
    };
    let answer = match timeout_at(until.into(), exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Problem::new(Kind::Proxy, format!("the proxy: {error}"))),
        Err(_) => return Err(Problem::new(Kind::Proxy, "the proxy does not answer")),
    };
    let line = answer.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).unwrap_or_default();
    match status.chars().next() {
        Some('2') => Ok(line.to_owned()),
        _ if status == "407" => Err(Problem::new(
            Kind::ProxyAuthentication,
            format!("the proxy wants to know who asks: {line}"),
        )),
        _ => Err(Problem::new(
            Kind::ProxyRefused,
            format!("the proxy refuses: {line}"),
        )),
    }
}

/// Up to the empty line, byte by byte: what follows is the server's.
async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == MAX_ANSWER {
            return Err(io::Error::other("its answer has no end"));
        }
        answer.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_http_urls_or_hosts() {
        for (text, expected) in [
            ("http://proxy.example:8080", "http://proxy.example:8080"),
            ("proxy.example/", "http://proxy.example:3128"),
            ("HTTP://192.0.2.1", "http://192.0.2.1:3128"),
        ] {
            assert_eq!(text.parse::<Proxy>().unwrap().to_string(), expected);
        }
        assert!("socks5://proxy.example".parse::<Proxy>().is_err());
    }
}
