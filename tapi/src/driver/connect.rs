//! Transports that are being opened.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tsc_csm::{
    Transport,
    client::{AttemptFailure, Endpoint, Epoch, Target, TransportFailure},
};
use tsc_osaa::client::{self as transport, ClientTransport};
use tsc_tpl::StreamDecoder;

use super::{Driver, links::Link};
use crate::{builder::server_of, notification::Notification, server::Server};

type Opened = Result<ClientTransport, transport::ConnectError>;

/// A transport that is being opened.
pub(super) struct Opening {
    pub(super) epoch: Epoch,
    pub(super) server: Server,
    /// The application named this server, not another server.
    configured: bool,
    pub(super) future: Pin<Box<dyn Future<Output = Opened> + Send>>,
}

impl Driver {
    pub(super) fn open(&mut self, now: Instant, epoch: Epoch, target: Target) {
        let Some(server) = self.server(target) else {
            return self
                .client
                .transport_failed(now, epoch, TransportFailure::Unsupported);
        };
        self.notify(Notification::Connecting(server.clone()));
        let future = self.connect(&server, target.endpoint.origin());
        self.openings.push(Opening {
            epoch,
            server,
            configured: matches!(target.endpoint, Endpoint::Configured(_)),
            future,
        });
    }

    /// Where a target is.
    pub(super) fn server(&self, target: Target) -> Option<Server> {
        match target.endpoint {
            Endpoint::Configured(_) => server_of(&self.servers, target).cloned(),
            Endpoint::Address { address, .. } => Some(Server::new(
                target.transport,
                address.ip().to_string(),
                address.port(),
            )),
        }
    }

    pub(super) fn connect(
        &self,
        server: &Server,
        origin: usize,
    ) -> Pin<Box<dyn Future<Output = Opened> + Send>> {
        let kind = kind(server.transport());
        let origin = self.servers.get(origin).unwrap_or(server);
        let name = self.server_name.as_deref().unwrap_or_else(|| origin.host());
        // Names were checked when the driver was made; a redirect brings addresses.
        let target = match (
            server.host().parse::<transport::Host>(),
            name.parse::<transport::Host>(),
        ) {
            (Ok(host), Ok(name)) => transport::Target::new(kind, host, server.port())
                .with_server_name(name.server_name()),
            _ => {
                let host = server.host().to_owned();
                return Box::pin(async { Err(transport::ConnectError::NoAddress { host }) });
            }
        };
        let security = self.security.clone();
        let options = self.options.clone();
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
                server,
                configured,
                ..
            } = self.openings.swap_remove(index);
            match result {
                Ok(transport) => {
                    // Where a redirect led is no host that the application named.
                    if configured {
                        self.client.learn_hosts(&[transport.peer_addr().ip()]);
                    }
                    self.links.push(Link {
                        epoch,
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
        self.client.transport_failed(now, epoch, failure(&error));
        self.last_failure = Some((server, error));
    }

    /// Tells of an attempt that failed, in as much detail as is known.
    pub(super) fn tell_failure(&self, target: Target, failure: &AttemptFailure) {
        let Some(server) = self.server(target) else {
            return;
        };
        let reason = match (failure, &self.last_failure) {
            (AttemptFailure::Transport(_), Some((at, error))) if *at == server => error.to_string(),
            _ => failure.to_string(),
        };
        self.notify(Notification::AttemptFailed { server, reason });
    }
}

/// What the control plane wants to know of a failure; the details are kept for people.
fn failure(error: &transport::ConnectError) -> TransportFailure {
    use transport::ConnectError;
    match error {
        ConnectError::Resolve { .. } | ConnectError::NoAddress { .. } => TransportFailure::Resolve,
        ConnectError::Certificate(_) => TransportFailure::Certificate,
        ConnectError::ClientCertificate(_) => TransportFailure::ClientCertificate,
        ConnectError::Refused { .. } => TransportFailure::Refused,
        ConnectError::NoSecurity(_) | ConnectError::DtlsConfig(_) => TransportFailure::Unsupported,
        ConnectError::Alert(_)
        | ConnectError::Alpn
        | ConnectError::Tls(_)
        | ConnectError::Dtls(_) => TransportFailure::Handshake,
        _ => TransportFailure::Unreachable,
    }
}

const fn kind(transport: Transport) -> transport::TransportKind {
    match transport {
        Transport::Tcp => transport::TransportKind::Tcp,
        Transport::Tls => transport::TransportKind::Tls,
        Transport::Udp => transport::TransportKind::Udp,
        Transport::Dtls => transport::TransportKind::Dtls,
    }
}
