//! Static forwards: what comes in here goes out there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use crate::{
    accept::{Shared, relay, serve},
    dial::dial,
    net::Net,
    streams::Reset as _,
    target::{Host, Target, TargetError},
};

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A forward as `-L` and `-R` write it: `[tcp:|udp:][BIND:]PORT:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Of what.
    pub protocol: Protocol,
    /// Address to listen on; without one the loopback address for `-L`, all of the tunnel's own for `-R`.
    pub bind: Option<IpAddr>,
    /// Port to listen on; 0 lets the network choose.
    pub port: u16,
    /// Where to.
    pub target: Target,
}

/// A text that is no forward.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The part before the target, or there is no such part.
    #[error("{0:?}: write [tcp:|udp:][BIND:]PORT:HOST:PORT, IPv6 addresses in brackets")]
    Listen(String),
}

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let (protocol, rest) = match text.split_once(':') {
            Some(("tcp", rest)) => (Protocol::Tcp, rest),
            Some(("udp", rest)) => (Protocol::Udp, rest),
            _ => (Protocol::Tcp, text),
        };
        // From the right, as an IPv6 address in brackets has colons of its own.
        let no_target = || ForwardError::Listen(text.to_owned());
        let (before, port) = rest.rsplit_once(':').ok_or_else(no_target)?;
        let cut = if before.ends_with(']') {
            before.rfind('[')
        } else {
            before.rfind(':').map(|colon| colon + 1)
        };
        let (listen, host) = cut
            .and_then(|cut| before.split_at_checked(cut))
            .ok_or_else(no_target)?;
        let target = format!("{host}:{port}").parse()?;
        let no_listen = || ForwardError::Listen(listen.to_owned());
        let listen = listen.strip_suffix(':').ok_or_else(no_listen)?;
        let (bind, port) = match listen.rsplit_once(':') {
            None => (None, listen),
            Some(("*", port)) => (Some(Ipv4Addr::UNSPECIFIED.into()), port),
            Some((bind, port)) => match Host::parse(bind) {
                Ok(Host::Address(address)) => (Some(address), port),
                _ => return Err(no_listen()),
            },
        };
        Ok(Self {
            protocol,
            bind,
            port: port.parse().map_err(|_| no_listen())?,
            target,
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Udp {
            f.write_str("udp:")?;
        }
        match self.bind {
            Some(bind) => SocketAddr::new(bind, self.port).fmt(f)?,
            None => self.port.fmt(f)?,
        }
        write!(f, ":{}", self.target)
    }
}

/// Takes the connections of `listener` to `target` in the network `net`.
pub async fn forward<N: Net>(
    listener: impl crate::net::Listener<
        Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    >,
    net: N,
    target: Target,
    shared: Shared,
) {
    let target = Arc::new(target);
    let counters = Arc::clone(&shared.counters);
    serve(listener, shared, "forward", move |near, _| {
        let (net, target, counters) = (net.clone(), Arc::clone(&target), Arc::clone(&counters));
        async move {
            match dial(&net, &target).await {
                Ok(far) => relay(near, far, counters).await,
                Err(error) => {
                    // Not an empty answer, but none.
                    near.reset_on_drop();
                    Err(error)
                }
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_forms_are_read() {
        let read = |text: &str| text.parse::<Forward>().unwrap();
        let plain = read("8080:example.com:80");
        assert_eq!(
            (plain.protocol, plain.bind, plain.port),
            (Protocol::Tcp, None, 8080)
        );
        assert_eq!(plain.target.to_string(), "example.com:80");
        let full = read("udp:[::1]:5060:[2001:db8::5]:5061");
        assert_eq!(full.protocol, Protocol::Udp);
        assert_eq!(full.bind, Some("::1".parse().unwrap()));
        assert_eq!(full.target.to_string(), "[2001:db8::5]:5061");
        assert_eq!(read("*:80:h:81").bind, Some(Ipv4Addr::UNSPECIFIED.into()));
        assert_eq!(read("tcp:127.0.0.1:0:10.0.0.1:81").port, 0);
    }

    #[test]
    fn what_lacks_a_part_is_refused_with_the_form() {
        for text in [
            "",
            "80",
            "80:host",
            "host:80",
            "x:80:host:81",
            "80:host:0",
            "name:80:host:81",
            "[::1]:host:80",
        ] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
        for text in ["x:host:81", "80", "80:host"] {
            let error = text.parse::<Forward>().unwrap_err().to_string();
            assert!(error.contains("[BIND:]PORT:HOST:PORT"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            udp: bool, bind: Option<IpAddr>, port: u16, host: IpAddr, to in 1..=u16::MAX, name: bool
        ) {
            let host = if name { Host::Name("h.example".into()) } else { Host::Address(host) };
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let forward = Forward { protocol, bind, port, target: Target { host, port: to } };
            prop_assert_eq!(forward.to_string().parse::<Forward>().unwrap(), forward);
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Forward>();
        }
    }
}
