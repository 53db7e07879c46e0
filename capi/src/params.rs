//! The control API's structures: what the application asks for, and what it is told.

use std::{
    ffi::c_int,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use libc::sockaddr_storage;
use tsc_tapi::{
    AddressWish, ErrorCode, Family, Identity, PemSource, Roots, Server, Transport, Trust, Tunnel,
    TunnelBuilder, TunnelConfig,
    proxy::{Credentials, Proxy, ProxySettings},
};

use crate::{
    address::{self, text},
    ctypes::{
        Config, ConnectionParams, IpAddress, IpPortAddress, Ipv6Address, MAX_CONNECTIONS,
        MAX_SERVERS, Name, Pem, RequestedConfig, SecurityConfig, SocketInfo, TunnelId,
        TunnelParams,
    },
    tunnel::Failure,
};

type Result<T> = std::result::Result<T, Failure>;

const DNS_PORT: u16 = 53;

fn invalid(what: impl ToString) -> Failure {
    Failure::new(ErrorCode::Error, what)
}

fn name(value: &Name, what: &str) -> Result<Option<String>> {
    text(value).map_err(|_| invalid(format!("{what} has no end, or is not UTF-8")))
}

/// The tunnel that is asked for.
pub(crate) fn builder(
    params: &TunnelParams,
    requested: Option<&RequestedConfig>,
) -> Result<TunnelBuilder> {
    let count = usize::try_from(params.max_connections).unwrap_or(usize::MAX);
    if count == 0 || count > MAX_CONNECTIONS {
        return Err(invalid("max_connections is not 1 to TSC_MAX_CONNECTIONS"));
    }
    let ways = params.connection_params.iter().take(count).map(server);
    let mut builder = None;
    for way in ways {
        let way = way?;
        builder = Some(match builder {
            None => Tunnel::builder(way),
            Some(builder) => TunnelBuilder::server(builder, way),
        });
    }
    let mut builder = builder.ok_or_else(|| invalid("no connection"))?;
    if params.connection_timeout_max > 0 {
        let limit = Duration::from_secs(params.connection_timeout_max.into());
        builder = builder.connect_timeout(limit);
    }
    let [security] = &params.sec_config;
    builder = secure(builder, security)?;
    if params.pcap_capture.enabled != 0 {
        let path = name(&params.pcap_capture.filename, "pcap_capture.filename")?;
        builder = builder.trace(path.ok_or_else(|| invalid("pcap_capture has no filename"))?);
    }
    if let Some(token) = name(&params.auth_token, "auth_token")? {
        builder = builder.auth_token(token);
    }
    builder = builder.peer_tunnels(params.accept_peer_tunnels != 0);
    if let Some(proxy) = proxy(params)? {
        builder = builder.proxy(proxy);
    }
    if let Some(requested) = requested {
        builder = wishes(builder, requested)?;
    }
    Ok(builder)
}

fn server(params: &ConnectionParams) -> Result<Server> {
    let transport = match params.transport {
        0 => Transport::Udp,
        1 => Transport::Tcp,
        2 => Transport::Tls,
        3 => Transport::Dtls,
        other => return Err(invalid(format!("{other} is no tsc_transport"))),
    };
    let port = params.server_address.port;
    match name(&params.server_name, "server_name")? {
        Some(host) if port == 0 => Ok(Server::of_domain(transport, host)),
        Some(host) => Ok(Server::new(transport, host, port)),
        None if params.server_address.address == 0 => Err(invalid(
            "a connection has no server_address and no server_name",
        )),
        None => {
            let ip = Ipv4Addr::from(params.server_address.address);
            let port = if port == 0 {
                tsc_tapi::DEFAULT_PORT
            } else {
                port
            };
            Ok(Server::new(transport, ip.to_string(), port))
        }
    }
}

fn secure(mut builder: TunnelBuilder, security: &SecurityConfig) -> Result<TunnelBuilder> {
    let from_file = security.read_from_file != 0;
    let refused = |error: &dyn ToString| Failure::new(ErrorCode::Authenticate, error.to_string());
    if security.auth_disable != 0 {
        builder = builder.trust(Trust::DangerousNone);
    } else {
        match security.ca_count {
            0 => {}
            1 => {
                let source = pem(&security.config_ca, from_file, "config_ca")?;
                let roots = Roots::from_pem(&source).map_err(|error| refused(&error))?;
                builder = builder.trust(Trust::Roots(roots));
            }
            _ => return Err(invalid("ca_count is above 1; put all into one text")),
        }
    }
    match security.cert_count {
        0 => {}
        1 => {
            let chain = pem(&security.config_cert, from_file, "config_cert")?;
            let key = pem(&security.config_key, from_file, "config_key")?;
            let identity = Identity::from_pem(&chain, &key).map_err(|error| refused(&error))?;
            builder = builder.identity(identity);
        }
        _ => return Err(invalid("cert_count is above 1")),
    }
    if let Some(server_name) = name(&security.server_name, "sec_config.server_name")? {
        builder = builder.server_name(server_name);
    }
    Ok(builder)
}

fn pem(value: &Pem, from_file: bool, what: &str) -> Result<PemSource> {
    let length = usize::try_from(value.len).unwrap_or(usize::MAX);
    let text = value
        .text
        .get(..length)
        .ok_or_else(|| invalid(format!("{what} is longer than TSC_PEM_LEN")))?;
    // What was copied with the zero at its end is as good.
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(length);
    let text = text.get(..end).unwrap_or(text);
    if text.is_empty() {
        return Err(invalid(format!("{what} is empty")));
    }
    if !from_file {
        return Ok(PemSource::Memory(text.to_vec()));
    }
    let path = std::str::from_utf8(text).map_err(|_| invalid(format!("{what} is no path")))?;
    Ok(PemSource::File(PathBuf::from(path)))
}

fn proxy(params: &TunnelParams) -> Result<Option<ProxySettings>> {
    let Some(url) = name(&params.proxy, "proxy")? else {
        return Ok(None);
    };
    let settings = if url == "env" {
        ProxySettings::from_environment(|name| std::env::var(name).ok()).map_err(invalid)?
    } else {
        ProxySettings::from(url.parse::<Proxy>().map_err(invalid)?)
    };
    let Some(user) = name(&params.proxy_user, "proxy_user")? else {
        return Ok(Some(settings));
    };
    let password = name(&params.proxy_password, "proxy_password")?.unwrap_or_default();
    let credentials = Credentials::new(user, password);
    let settings = settings.with_proxy(|proxy| proxy.with_credentials(credentials.clone()));
    Ok(Some(settings))
}

fn wishes(mut builder: TunnelBuilder, requested: &RequestedConfig) -> Result<TunnelBuilder> {
    let families = [
        (requested.ipv4, Family::Ipv4),
        (requested.ipv6, Family::Ipv6),
    ];
    let wanted = families.into_iter().filter(|(wanted, _)| *wanted != 0);
    builder = builder.addresses(wanted.map(|(_, family)| AddressWish { family, count: 1 }));
    if requested.mtu != 0 {
        let mtu = u16::try_from(requested.mtu).map_err(|_| invalid("no such mtu"))?;
        builder = builder.inner_mtu(mtu);
    }
    Ok(builder)
}

const fn transport(transport: Transport) -> c_int {
    match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
        Transport::Dtls => 3,
    }
}

/// All zero.
pub(crate) const fn no_config() -> Config {
    Config {
        tunnel_id: TunnelId { hi: 0, lo: 0 },
        internal_address: IpAddress { address: 0 },
        sip_server: IpPortAddress {
            address: 0,
            port: 0,
        },
        has_internal_ipv6_address: 0,
        internal_ipv6_address: Ipv6Address { address: [0; 16] },
        sip_servers: [address::no_storage(); MAX_SERVERS],
        sip_server_count: 0,
        dns_servers: [address::no_storage(); MAX_SERVERS],
        dns_server_count: 0,
        mtu: 0,
        keepalive_interval: 0,
        persistence_time: 0,
    }
}

/// What the server assigned.
pub(crate) fn config(from: &TunnelConfig) -> Config {
    let mut config = no_config();
    config.tunnel_id = TunnelId {
        hi: u32::try_from(from.tunnel_id >> 32).unwrap_or_default(),
        lo: u32::try_from(from.tunnel_id & u64::from(u32::MAX)).unwrap_or_default(),
    };
    if let Some(IpAddr::V4(address)) = from.ipv4() {
        config.internal_address.address = address.into();
    }
    if let Some(IpAddr::V6(address)) = from.ipv6() {
        config.has_internal_ipv6_address = 1;
        config.internal_ipv6_address.address = address.octets();
    }
    if let Some(server) = from.sip_servers.iter().find(|server| server.is_ipv4()) {
        config.sip_server = address::to_ip_port(*server);
    }
    config.sip_server_count = list(&mut config.sip_servers, from.sip_servers.iter().copied());
    let dns = from
        .dns_servers
        .iter()
        .map(|ip| SocketAddr::new(*ip, DNS_PORT));
    config.dns_server_count = list(&mut config.dns_servers, dns);
    config.mtu = from.inner_mtu.into();
    config.keepalive_interval = seconds(from.keepalive);
    config.persistence_time = seconds(from.persistence);
    config
}

fn list(
    places: &mut [sockaddr_storage; MAX_SERVERS],
    servers: impl Iterator<Item = SocketAddr>,
) -> u32 {
    let mut count = 0;
    for (place, server) in places.iter_mut().zip(servers) {
        *place = address::to_storage(server).0;
        count += 1;
    }
    count
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// How the server is reached.
pub(crate) fn socket_info(from: &TunnelConfig) -> SocketInfo {
    let v4 = |address: Option<_>| address.map_or_else(IpPortAddress::default, address::to_ip_port);
    let any = |address: Option<_>| {
        address.map_or_else(address::no_storage, |address| {
            address::to_storage(address).0
        })
    };
    SocketInfo {
        transport: transport(from.transport),
        local_address: v4(from.outer_local),
        remote_address: v4(from.outer_peer),
        nat_ipport: v4(from.nat_view),
        local_sockaddr: any(from.outer_local),
        remote_sockaddr: any(from.outer_peer),
        nat_sockaddr: any(from.nat_view),
    }
}
