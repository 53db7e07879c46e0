//! How a tunnel is asked for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tsc_tapi::{
    AddressWish, Dscp, Family, HelloOptions, OuterDscp, PemSource, Roots, Server, Trust, Tunnel,
    TunnelBuilder,
    proxy::{Credentials, NoProxy, Proxy, ProxySettings},
};

use crate::{
    error::{Result, TscError},
    secret::{Identity, Secret},
    trace::TraceSettings,
};

/// A tunnel that is asked for. Only `servers` is needed; all else has a default that is right for most.
#[derive(Clone, Debug, uniffi::Record)]
pub struct TunnelSettings {
    /// Ways to the server, the best first, at most 32: `tls://sbc.example.com:443`, `dtls://[2001:db8::1]:4567`, and tcp and udp. Without a
    /// port the domain's SRV records are asked. They are tried beside each other.
    pub servers: Vec<String>,
    /// The name that the server's certificate must carry, instead of the host in `servers`.
    #[uniffi(default)]
    pub server_name: Option<String>,
    /// Who may vouch for the server. Default: who the system trusts. Android and iOS do not show that to libraries: name it there.
    #[uniffi(default)]
    pub trust: Option<ServerTrust>,
    /// The client's own certificate.
    #[uniffi(default)]
    pub identity: Option<Arc<Identity>>,
    /// A token that shows the server who this is. Sent over TLS and DTLS only.
    #[uniffi(default)]
    pub auth_token: Option<Arc<Secret>>,
    /// Sends the token over TCP and UDP too, where anyone on the path can read and use it.
    #[uniffi(default = false)]
    pub dangerous_token_in_clear: bool,
    /// Follows redirects that came over TCP or UDP, by which anyone on the path can lead the client away.
    #[uniffi(default = false)]
    pub dangerous_follow_clear_redirects: bool,
    /// An HTTP proxy on the way. Default: none.
    #[uniffi(default)]
    pub proxy: Option<HttpProxy>,
    /// Leaves the application protocol (ALPN) out of TLS handshakes, for boxes on the way that refuse what they do not know.
    #[uniffi(default = false)]
    pub hide_protocol: bool,
    /// Leaves the server's name (SNI) out of TLS handshakes.
    #[uniffi(default = false)]
    pub hide_server_name: bool,
    /// Text about this client for the server's logs, at most 128 bytes.
    #[uniffi(default)]
    pub client_info: Option<String>,
    /// Families of inner addresses that are asked for, one address for each entry. Default: the server chooses.
    #[uniffi(default)]
    pub addresses: Vec<IpFamily>,
    /// The longest inner packet that is asked for, 576 to 9000 bytes. Default: the server chooses.
    #[uniffi(default)]
    pub inner_mtu: Option<u16>,
    /// How long a way may be silent until another is tried beside it. Default: 25 ms.
    #[uniffi(default)]
    pub race_delay: Option<Duration>,
    /// How long one attempt may take. Default: 20 s.
    #[uniffi(default)]
    pub attempt_timeout: Option<Duration>,
    /// How long all attempts together may take. Default: 60 s.
    #[uniffi(default)]
    pub connect_timeout: Option<Duration>,
    /// How long a tunnel that has lost its transport is tried to be resumed. Default: as long as the server keeps it.
    #[uniffi(default)]
    pub resume_timeout: Option<Duration>,
    /// Begins with whatever works, and moves from TCP or TLS to UDP or DTLS as soon as that proves to work.
    #[uniffi(default = false)]
    pub move_to_datagrams: bool,
    /// Lets other clients of the server ask for a tunnel to this one; they learn this host's addresses.
    #[uniffi(default = false)]
    pub accept_peer_tunnels: bool,
    /// Whether the library watches the host's network by itself, which it can on Linux. Elsewhere, and on Android, tell it:
    /// `Tunnel.network_changed`.
    #[uniffi(default = true)]
    pub watch_network: bool,
    /// How outer packets are marked. Default: as the server asks for.
    #[uniffi(default)]
    pub outer_mark: Option<OuterMark>,
    /// Writes the tunnel's packets to a file.
    #[uniffi(default)]
    pub trace: Option<TraceSettings>,
}

/// Who may vouch for a server.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum ServerTrust {
    /// Who the system trusts.
    System,
    /// These certificates, a PEM text.
    Pem {
        /// One or more.
        certificates: Vec<u8>,
    },
    /// Those of a PEM file.
    PemFile {
        /// Where it is.
        path: String,
    },
    /// Anyone: whoever is on the path can read and change everything.
    DangerousAnyone,
}

/// A family of inner addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum IpFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// How outer packets are marked (DSCP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum OuterMark {
    /// As the server asks for.
    AsServerAsks,
    /// Each datagram as the inner packet in it.
    Copy,
    /// All alike.
    Fixed {
        /// 0 to 63; 46 is what voice uses.
        dscp: u8,
    },
}

/// An HTTP proxy. It carries TCP and TLS only.
#[derive(Clone, Debug, uniffi::Record)]
pub struct HttpProxy {
    /// `http://host:port` or `https://host:port`, without a user or password.
    pub url: String,
    /// Who this is, if the proxy wants to know.
    #[uniffi(default)]
    pub user: Option<String>,
    /// The user's password.
    #[uniffi(default)]
    pub password: Option<Arc<Secret>>,
    /// Hosts that are reached without it, as in `NO_PROXY`.
    #[uniffi(default)]
    pub exceptions: Vec<String>,
    /// Tries the servers without it as well; who is on the way then sees which servers are asked for.
    #[uniffi(default = false)]
    pub also_without: bool,
}

impl TunnelSettings {
    /// The tunnel that is asked for.
    pub(crate) fn builder(&self) -> Result<TunnelBuilder> {
        let mut servers = self.servers.iter().map(|url| url.parse::<Server>());
        let first = servers
            .next()
            .ok_or_else(|| TscError::invalid("no server"))?;
        let mut builder = Tunnel::builder(first.map_err(TscError::invalid)?);
        for server in servers {
            builder = builder.server(server.map_err(TscError::invalid)?);
        }
        builder = self.secure(builder)?;
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.settings()?);
            if proxy.also_without {
                builder = builder.also_without_proxy();
            }
        }
        builder = self.assign(builder);
        builder = self.timed(builder);
        if self.move_to_datagrams {
            builder = builder.move_to_datagrams();
        }
        if !self.watch_network {
            builder = builder.do_not_watch_network();
        }
        builder = builder.peer_tunnels(self.accept_peer_tunnels);
        match self.outer_mark {
            None | Some(OuterMark::AsServerAsks) => {}
            Some(OuterMark::Copy) => builder = builder.outer_dscp(OuterDscp::Copy),
            Some(OuterMark::Fixed { dscp }) => {
                let dscp =
                    Dscp::new(dscp).ok_or_else(|| TscError::invalid("a DSCP is at most 63"))?;
                builder = builder.outer_dscp(OuterDscp::Set(dscp));
            }
        }
        if let Some(trace) = &self.trace {
            builder = builder
                .trace(PathBuf::from(&trace.path))
                .trace_options(trace.options());
        }
        Ok(builder)
    }

    fn secure(&self, mut builder: TunnelBuilder) -> Result<TunnelBuilder> {
        let roots = |source: PemSource| {
            let roots = Roots::from_pem(&source);
            roots.map_err(|error| TscError::Credentials(error.to_string()))
        };
        builder = match &self.trust {
            None | Some(ServerTrust::System) => builder,
            Some(ServerTrust::Pem { certificates }) => builder.trust(Trust::Roots(roots(
                PemSource::Memory(certificates.clone()),
            )?)),
            Some(ServerTrust::PemFile { path }) => {
                builder.trust(Trust::Roots(roots(PemSource::File(path.into()))?))
            }
            Some(ServerTrust::DangerousAnyone) => builder.trust(Trust::DangerousNone),
        };
        if let Some(name) = &self.server_name {
            builder = builder.server_name(name.clone());
        }
        if let Some(identity) = &self.identity {
            builder = builder.identity(identity.inner());
        }
        if let Some(token) = &self.auth_token {
            builder = builder.auth_token(token.bytes());
        }
        if self.dangerous_token_in_clear {
            builder = builder.dangerous_token_in_clear();
        }
        if self.dangerous_follow_clear_redirects {
            builder = builder.dangerous_follow_clear_redirects();
        }
        Ok(builder.hello(HelloOptions {
            alpn: !self.hide_protocol,
            sni: !self.hide_server_name,
        }))
    }

    fn assign(&self, mut builder: TunnelBuilder) -> TunnelBuilder {
        if let Some(info) = &self.client_info {
            builder = builder.client_info(info.clone());
        }
        let wishes = self.addresses.iter().map(|family| AddressWish {
            family: match family {
                IpFamily::Ipv4 => Family::Ipv4,
                IpFamily::Ipv6 => Family::Ipv6,
            },
            count: 1,
        });
        builder = builder.addresses(wishes);
        match self.inner_mtu {
            Some(bytes) => builder.inner_mtu(bytes),
            None => builder,
        }
    }

    fn timed(&self, mut builder: TunnelBuilder) -> TunnelBuilder {
        if let Some(delay) = self.race_delay {
            builder = builder.race_delay(delay);
        }
        if let Some(limit) = self.attempt_timeout {
            builder = builder.attempt_timeout(limit);
        }
        if let Some(limit) = self.connect_timeout {
            builder = builder.connect_timeout(limit);
        }
        match self.resume_timeout {
            Some(limit) => builder.resume_timeout(limit),
            None => builder,
        }
    }
}

impl HttpProxy {
    fn settings(&self) -> Result<ProxySettings> {
        // What stands there would be printed with the settings.
        if self.url.contains('@') {
            return Err(TscError::invalid(
                "a proxy's user and password are not written into its URL",
            ));
        }
        let mut proxy = self.url.parse::<Proxy>().map_err(TscError::invalid)?;
        if let Some(user) = &self.user {
            let password = self.password.as_deref();
            let password = password.map_or(Ok(""), |password| password.text("the password"))?;
            proxy = proxy.with_credentials(Credentials::new(user.clone(), password));
        } else if self.password.is_some() {
            return Err(TscError::invalid("a password without a user"));
        }
        let exceptions = NoProxy::new(&self.exceptions.join(","));
        Ok(ProxySettings::from(proxy).with_exceptions(exceptions))
    }
}
