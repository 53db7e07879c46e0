//! How a tunnel is asked for.

use std::{path::PathBuf, time::Duration};

use tokio::sync::broadcast;
use tsc_csm::{
    Secret,
    client::{AddressWish, ClientConfig},
};
use tsc_osaa::{
    cert::{HelloOptions, Identity, Trust},
    dtls::DtlsBackendKind,
    proxy::{ParseProxyError, ProxySettings},
    resolve::Families,
    socket::OuterDscp,
};
use tsc_tpl::ServiceType;

use crate::{
    error::ConnectError,
    memory::PathMemory,
    notification::{NOTIFICATION_BACKLOG, Notification, Notifications},
    peers,
    server::Server,
    trace::TraceOptions,
    tunnel::{self, Tunnel},
};

/// Times that an application gives are cut to this: longer ones mean "for ever", and must not overflow a clock.
pub(crate) const LONGEST_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest [`TunnelBuilder::race_delay`]: with it ways are tried one after the other.
pub const LONGEST_RACE_DELAY: Duration = Duration::from_secs(60);

/// Parameters of a tunnel; made by [`Tunnel::builder`].
///
/// Defaults: the system's certificate authorities are trusted, the certificate must carry the server's host name,
/// no client certificate and no token are sent, the preferred DTLS back end is used, there is no proxy (the environment is not
/// asked), and a minute may pass until the tunnel is up.
#[derive(Debug)]
#[must_use = "a builder does nothing until `connect`"]
pub struct TunnelBuilder {
    pub(crate) servers: Vec<Server>,
    pub(crate) server_name: Option<String>,
    pub(crate) trust: Trust,
    pub(crate) identity: Option<Identity>,
    pub(crate) hello: HelloOptions,
    pub(crate) dtls_backend: Option<DtlsBackendKind>,
    pub(crate) proxy: ProxySettings,
    pub(crate) direct: bool,
    pub(crate) outer_dscp: OuterDscp,
    pub(crate) trace: Option<PathBuf>,
    pub(crate) trace_options: TraceOptions,
    pub(crate) families: Families,
    pub(crate) memory: PathMemory,
    pub(crate) linger: Duration,
    pub(crate) watch_network: bool,
    pub(crate) csm: ClientConfig,
    pub(crate) notifications: broadcast::Sender<Notification>,
}

impl TunnelBuilder {
    pub(crate) fn new(server: Server) -> Self {
        Self {
            servers: vec![server],
            server_name: None,
            trust: Trust::System,
            identity: None,
            hello: HelloOptions::default(),
            dtls_backend: None,
            proxy: ProxySettings::direct(),
            direct: false,
            outer_dscp: OuterDscp::Off,
            trace: None,
            trace_options: TraceOptions::default(),
            families: Families::default(),
            memory: PathMemory::process(),
            linger: Duration::ZERO,
            watch_network: true,
            csm: ClientConfig {
                lookup: true,
                ..ClientConfig::new(Vec::new())
            },
            notifications: broadcast::Sender::new(NOTIFICATION_BACKLOG),
        }
    }

    /// Adds another way to the server, or another server, at most 32 in all. Those before it are preferred; they are tried beside
    /// each other, each begun [`Self::race_delay`] after the one before.
    pub fn server(mut self, server: Server) -> Self {
        self.servers.push(server);
        self
    }

    /// The name that the server's certificate must carry and that SNI announces, instead of the host of each
    /// [`Server`].
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Which certificate authorities are trusted.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// The client's own certificate and key, for servers that ask for one (mutual TLS).
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// What TLS and DTLS handshakes show in clear: the application protocol and the server's name. Default: both.
    pub const fn hello(mut self, hello: HelloOptions) -> Self {
        self.hello = hello;
        self
    }

    /// A token that shows the server who this is. Sent over TLS and DTLS only.
    pub fn auth_token(mut self, token: impl Into<Vec<u8>>) -> Self {
        self.csm.auth_token = Some(Secret::new(token));
        self
    }

    /// Sends the token over TCP and UDP too, **where anyone on the path can read and use it**.
    pub fn dangerous_token_in_clear(mut self) -> Self {
        self.csm.token_in_clear = true;
        self
    }

    /// The library that does DTLS.
    pub const fn dtls_backend(mut self, backend: DtlsBackendKind) -> Self {
        self.dtls_backend = Some(backend);
        self
    }

    /// Reaches the servers through an HTTP proxy: a [`Proxy`](crate::proxy::Proxy) for all, or [`ProxySettings`] with
    /// exceptions. Proxies carry TCP and TLS; servers over UDP and DTLS that are no exceptions are passed over. Wrong
    /// credentials end the attempts at once; see [`ProxyError::is_final`](crate::proxy::ProxyError::is_final).
    pub fn proxy(mut self, proxy: impl Into<ProxySettings>) -> Self {
        self.proxy = proxy.into();
        self
    }

    /// Tries the servers without the proxy as well, and those over UDP and DTLS without it only: for networks that may have a way
    /// around their proxy. Who is on the way then sees which servers are asked for.
    pub const fn also_without_proxy(mut self) -> Self {
        self.direct = true;
        self
    }

    /// Reaches the servers as the environment variables `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` (or in small letters) say,
    /// which may mean without a proxy. See [`ProxySettings::from_environment`].
    ///
    /// # Errors
    ///
    /// What stands there is no HTTP proxy.
    pub fn proxy_from_environment(self) -> Result<Self, ParseProxyError> {
        let settings = ProxySettings::from_environment(|name| std::env::var(name).ok())?;
        Ok(self.proxy(settings))
    }

    /// How outer packets to the server are marked: by default as the server asks for
    /// ([`TunnelConfig::dscp`](crate::TunnelConfig::dscp)), which anything but [`OuterDscp::Off`] overrides.
    ///
    /// [`OuterDscp::Copy`] shows the network between here and the server which packets are urgent, under DTLS too, and has it
    /// treat them so where it knows the marks; over TCP and TLS it does nothing. Sockets mark their packets with
    /// [`UdpSocket::set_dscp`](crate::UdpSocket::set_dscp).
    pub const fn outer_dscp(mut self, marking: OuterDscp) -> Self {
        self.outer_dscp = marking;
        self
    }

    /// Text about this client for the server's logs, at most 128 bytes.
    pub fn client_info(mut self, info: impl Into<String>) -> Self {
        self.csm.client_info = Some(info.into());
        self
    }

    /// Asks for inner addresses of certain families; without it the server chooses.
    pub fn addresses(mut self, wishes: impl IntoIterator<Item = AddressWish>) -> Self {
        self.csm.addresses.extend(wishes);
        self
    }

    /// Asks for a largest inner packet of `bytes`, 576 to 9000; without it the server chooses.
    pub const fn inner_mtu(mut self, bytes: u16) -> Self {
        self.csm.inner_mtu = Some(bytes);
        self
    }

    /// How long a way may be silent until another is tried beside it, at most [`LONGEST_RACE_DELAY`]; default 25 ms. The
    /// order in which ways are tried is told in `docs/networks.md`.
    pub fn race_delay(mut self, delay: Duration) -> Self {
        self.csm.race_delay = delay.min(LONGEST_RACE_DELAY);
        self
    }

    /// Which address families are used to reach the servers, and which is tried first. Default: both, IPv6 first.
    pub const fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Begins with whatever works, and moves the tunnel from TCP or TLS to UDP or DTLS as soon as one of these proves to work: for
    /// networks of which nothing is known. Nothing changes for the application but [`TunnelConfig::transport`].
    ///
    /// [`TunnelConfig::transport`]: crate::TunnelConfig::transport
    pub const fn move_to_datagrams(mut self) -> Self {
        self.csm.upgrade = true;
        self
    }

    /// Where it is remembered which way worked on which network. Default: [`PathMemory::process`].
    pub fn path_memory(mut self, memory: PathMemory) -> Self {
        self.memory = memory;
        self
    }

    /// Lets other clients of the same server ask for a tunnel to this one, over which UDP packets between both go without the server
    /// (service *peer*). They learn this host's addresses, as the server lets these pass. While such a tunnel is made, a UDP and a TCP port
    /// are open for it. Default: no.
    ///
    /// Sockets of this tunnel ask others by [`UdpSocket::set_peer`](crate::UdpSocket::set_peer), whatever is set here.
    pub fn peer_tunnels(mut self, accept: bool) -> Self {
        let services = &mut self.csm.supported_services;
        services.retain(|service| *service != ServiceType::ENABLE_PEER);
        if accept && peers::certificate().is_some() {
            services.push(ServiceType::ENABLE_PEER);
        }
        self
    }

    /// Leaves it to the application to tell of changes of the network, by [`Tunnel::network_changed`] and
    /// [`Tunnel::set_network_available`]. By default they are noticed, on Linux (feature `netwatch`).
    pub const fn do_not_watch_network(mut self) -> Self {
        self.watch_network = false;
        self
    }

    /// How long one attempt at one server may take, from name resolution to the assigned address. Default 20 s.
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.csm.attempt_timeout = timeout;
        self
    }

    /// How long all attempts together may take until the tunnel is up. Default 60 s. It is not waited for where trying
    /// again is pointless: when every server's host says that nobody listens there, or for certificates.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.csm.connect_timeout = timeout;
        self
    }

    /// How long a tunnel that lost its transport is tried to be resumed. Default: as long as the server keeps it.
    pub const fn resume_timeout(mut self, timeout: Duration) -> Self {
        self.csm.resume_timeout = Some(timeout);
        self
    }

    /// Follows redirects that came over TCP or UDP, **with which anyone on the path can lead the client away**.
    pub const fn dangerous_follow_clear_redirects(mut self) -> Self {
        self.csm.follow_clear_redirects = true;
        self
    }

    /// After the application drops the [`Tunnel`] it stays for this long, and the next request of this process with the same
    /// parameters gets it at once, with its inner addresses; [`Tunnel::close`] ends it all the same. Default: zero.
    ///
    /// Only a tunnel whose sockets are all closed and that needs no proxy lingers, at most [`MAX_LINGERING`](crate::MAX_LINGERING) of a process, on the
    /// runtime that opened it. ("Client-side persistence".)
    pub const fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// Writes inner packets and control messages to a new pcapng file at `path`. It holds what calls say and who
    /// makes them, as far as [`Self::trace_options`] leaves it. [`Tunnel::start_trace`] does so later.
    pub fn trace(mut self, path: impl Into<PathBuf>) -> Self {
        self.trace = Some(path.into());
        self
    }

    /// How the file of [`Self::trace`] is written: what is left out, how long it gets, how many are kept.
    pub const fn trace_options(mut self, options: TraceOptions) -> Self {
        self.trace_options = options;
        self
    }

    /// What happens to the tunnel from the first attempt on, for applications that show the way up. Ends after
    /// [`Notification::Down`], which also comes when the tunnel cannot be opened.
    #[must_use]
    pub fn notifications(&self) -> Notifications {
        Notifications::new(self.notifications.subscribe())
    }

    /// Opens the tunnel: resolves when the inner address is assigned.
    ///
    /// Must be called inside a tokio runtime, which then also runs the tunnel's one task. Dropping the future gives
    /// up.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: each variant says what the application can do.
    pub async fn connect(mut self) -> Result<Tunnel, ConnectError> {
        for time in [
            Some(&mut self.csm.attempt_timeout),
            Some(&mut self.csm.connect_timeout),
            self.csm.resume_timeout.as_mut(),
        ]
        .into_iter()
        .flatten()
        {
            *time = (*time).min(LONGEST_TIME);
        }
        tunnel::open(self).await
    }
}
