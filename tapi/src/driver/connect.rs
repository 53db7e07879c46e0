//! Transports that are being opened.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{
    collections::VecDeque,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tsc_csm::{
    Transport,
    client::{
        AttemptFailure, Endpoint, Epoch, MAX_GIVEN_TARGETS, MAX_TARGETS, Target, TransportFailure,
    },
};
use tsc_osaa::{
    client::{self as transport, ClientTransport},
    proxy::ProxySettings,
    resolve::DEFAULT_PORT,
    socket::OuterDscp,
};
use tsc_tpl::StreamDecoder;

use super::{Driver, links::Link, mark};
use crate::{notification::Notification, server::Server};

type Opened = Result<ClientTransport, transport::ConnectError>;

/// A transport that is being opened.
pub(super) struct Opening {
    pub(super) epoch: Epoch,
    pub(super) target: Target,
    pub(super) server: Server,
    pub(super) future: Pin<Box<dyn Future<Output = Opened> + Send>>,
}

impl Driver {
    pub(super) fn open(
        &mut self,
        now: Instant,
        epoch: Epoch,
        target: Target,
        address: Option<SocketAddr>,
    ) {
        let Some(server) = self.server(target) else {
            return self
                .client
                .transport_failed(now, epoch, TransportFailure::Unsupported);
        };
        if epoch.tunnel() == 0 {
            self.notify(Notification::Connecting(server.clone()));
        }
        let future = self.connect(&server, target, address);
        self.openings.push(Opening {
            epoch,
            target,
            server,
            future,
        });
    }

    /// Where a target is.
    pub(super) fn server(&self, target: Target) -> Option<Server> {
        match target.endpoint {
            Endpoint::Configured(_) => self.routes.of(target).map(|route| route.server.clone()),
            Endpoint::Address { address, .. } => Some(Server::new(
                target.transport,
                address.ip().to_string(),
                address.port(),
            )),
        }
    }

    fn connect(
        &mut self,
        server: &Server,
        target: Target,
        address: Option<SocketAddr>,
    ) -> Pin<Box<dyn Future<Output = Opened> + Send>> {
        let target_transport = target.transport;
        let kind = kind(server.transport());
        // Where a redirect leads is reached as the one who sent us there.
        let route = self.routes.of(target);
        let route = route.or_else(|| self.routes.origin(target.endpoint.origin()));
        let origin = route.map_or(server, |route| &route.server);
        let name = self.server_name.as_deref().unwrap_or_else(|| origin.host());
        let host = match address {
            Some(address) => Ok(address.ip().into()),
            None => server.host().parse::<transport::Host>(),
        };
        let port = address.map_or_else(
            || server.port().unwrap_or(DEFAULT_PORT),
            |address| address.port(),
        );
        // Names were checked when the driver was made; a redirect brings addresses.
        let target = match (host, name.parse::<transport::Host>()) {
            (Ok(host), Ok(name)) => {
                transport::Target::new(kind, host, port).with_server_name(name.server_name())
            }
            _ => {
                let host = server.host().to_owned();
                return Box::pin(async { Err(transport::ConnectError::NoAddress { host }) });
            }
        };
        let security = match target_transport
            .is_protected()
            .then(|| self.security.load())
            .transpose()
        {
            Ok(security) => security,
            Err(error) => return Box::pin(async { Err(error.into()) }),
        };
        let mut options = self.options.clone();
        // There is no proxy for datagrams.
        if !kind.is_stream() || !route.is_some_and(|route| route.proxied) {
            options.proxy = ProxySettings::direct();
        }
        Box::pin(async move { transport::connect(&target, security.as_ref(), &options).await })
    }

    pub(super) fn poll_openings(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        let mut index = 0;
        while let Some(opening) = self.openings.get_mut(index) {
            let Poll::Ready(result) = opening.future.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            progress = true;
            let Opening {
                epoch,
                target,
                server,
                ..
            } = self.openings.swap_remove(index);
            match result {
                Ok(mut transport) => {
                    // A companion, or another way for the tunnel: the server has said how before.
                    if self.marking != OuterDscp::Off {
                        mark(&mut transport, self.marking);
                    }
                    self.links.push(Link {
                        epoch,
                        target,
                        server,
                        transport,
                        decoder: StreamDecoder::new(self.limits),
                        control: VecDeque::new(),
                    });
                    self.client.transport_opened(now, epoch);
                }
                Err(error) => {
                    self.attempt_failed(now, epoch, server, error);
                }
            }
        }
        progress
    }
}

impl Driver {
    /// No transport came of an attempt; without effect on the tunnel if the attempt is over.
    pub(super) fn attempt_failed(
        &mut self,
        now: Instant,
        epoch: Epoch,
        server: Server,
        error: transport::ConnectError,
    ) {
        tracing::debug!(%server, %error, "transport failed");
        let failure = failure(&error);
        if epoch.tunnel() != 0 && failure.is_final() {
            // Of companions the control plane tells no more than that the service is not in force.
            self.notify(Notification::AttemptFailed {
                server: server.clone(),
                reason: error.to_string(),
            });
        }
        self.keep_failure(server, error);
        self.client.transport_failed(now, epoch, failure);
    }

    /// Keeps the details of a failure, one for each server.
    pub(super) fn keep_failure(&mut self, server: Server, error: transport::ConnectError) {
        self.failures.retain(|(at, _)| *at != server);
        if self.failures.len() >= MAX_TARGETS + MAX_GIVEN_TARGETS {
            self.failures.remove(0);
        }
        self.failures.push((server, error));
    }

    /// The details of the last failure of this kind.
    pub(super) fn take_failure(
        &mut self,
        kind: TransportFailure,
    ) -> Option<(Server, transport::ConnectError)> {
        let place = self
            .failures
            .iter()
            .rposition(|(_, error)| failure(error) == kind)?;
        Some(self.failures.remove(place))
    }

    /// Tells of an attempt that failed, in as much detail as is known.
    pub(super) fn tell_failure(&self, target: Target, failure: &AttemptFailure) {
        let Some(server) = self.server(target) else {
            return;
        };
        let detail = self.failures.iter().find(|(at, _)| *at == server);
        let reason = match (failure, detail) {
            (AttemptFailure::Transport(_), Some((_, error))) => error.to_string(),
            _ => failure.to_string(),
        };
        self.notify(Notification::AttemptFailed { server, reason });
    }
}

/// What the control plane wants to know of a failure; the details are kept for people.
fn failure(error: &transport::ConnectError) -> TransportFailure {
    use transport::ConnectError;
    match error {
        ConnectError::Lookup(_) | ConnectError::Resolve { .. } | ConnectError::NoAddress { .. } => {
            TransportFailure::Resolve
        }
        ConnectError::Certificate(_) => TransportFailure::Certificate,
        ConnectError::ClientCertificate(_) => TransportFailure::ClientCertificate,
        ConnectError::Refused { .. } => TransportFailure::Refused,
        ConnectError::NoSecurity(_)
        | ConnectError::Credentials(_)
        | ConnectError::DtlsConfig(_) => TransportFailure::Unsupported,
        ConnectError::Proxy(error) if error.is_final() => TransportFailure::Proxy,
        ConnectError::Proxy(_) => TransportFailure::ProxyTrouble,
        ConnectError::ProxyNeedsStream(_) => TransportFailure::Proxy,
        ConnectError::Alert(_)
        | ConnectError::Alpn
        | ConnectError::Tls(_)
        | ConnectError::Dtls(_) => TransportFailure::Handshake,
        _ => TransportFailure::Unreachable,
    }
}

pub(super) const fn kind(transport: Transport) -> transport::TransportKind {
    match transport {
        Transport::Tcp => transport::TransportKind::Tcp,
        Transport::Tls => transport::TransportKind::Tls,
        Transport::Udp => transport::TransportKind::Udp,
        Transport::Dtls => transport::TransportKind::Dtls,
    }
}
