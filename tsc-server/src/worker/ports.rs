//! The worker's UDP ports: plain UDP and DTLS on one socket, told apart by the first byte (spec 2).

use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tsc_csm::server::{BindingId, ListenerId};
use tsc_osaa::{
    datagram::{DatagramSocket, SendBatch},
    dtls::{AssociationKey, DtlsEndpointEvent, DtlsSendError, DtlsServerEndpoint, RECORD_OVERHEAD},
    socket::{Dscp, OuterDscp},
};
use tsc_tpl::FirstByte;

use super::{load::Shedder, peers::Peers, sources::Sources};

/// Bytes of datagrams that one turn may queue on a port before it sends them: many calls of GSO.
const SEND_BATCH: usize = 256 * 1024;

/// Pause after errors of a socket itself: trying again at once would only spin, and not trying again would leave the
/// port deaf.
const BACK_OFF: Duration = Duration::from_millis(100);

/// One UDP port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) socket: DatagramSocket,
    pub(super) interface: usize,
    /// Of what is sent.
    pub(super) marking: OuterDscp,
    /// Its number in the session core, if it speaks plain UDP.
    pub(super) plain: Option<ListenerId>,
    dtls: Option<Dtls>,
    out: SendBatch,
    /// Our addresses for answers, where the socket has several.
    pub(super) sources: Sources,
    /// Where the tunnels of addresses are, if not where their datagrams arrive.
    pub(super) peers: Peers,
    pub(super) shedder: Shedder,
    /// Reused for sealing.
    sealed: Vec<u8>,
    /// Mark of what was sealed and is not queued yet.
    sealed_mark: Option<Dscp>,
    /// Datagrams that did not fit the batch even after sending.
    pub(super) unsent: u64,
    /// Until when nothing is received, after errors.
    rests_until: Option<Instant>,
}

#[derive(Debug)]
struct Dtls {
    endpoint: DtlsServerEndpoint,
    /// Bindings by association slot, with the key that must match.
    bindings: Vec<Option<(AssociationKey, BindingId)>>,
    /// Datagrams of strangers that were no handshake, as counted when [`Port::met_noise`] looked last.
    noise: u64,
}

/// What the first byte of a datagram says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A unit, or noise that the decoder refuses.
    Plain,
    /// A DTLS record.
    Dtls,
    /// A STUN message.
    Stun,
    /// Not for this port.
    Foreign,
}

impl Port {
    pub(super) fn new(
        socket: DatagramSocket,
        interface: usize,
        plain: Option<ListenerId>,
        endpoint: Option<DtlsServerEndpoint>,
    ) -> Self {
        Self {
            sources: Sources::new(socket.local_addr()),
            peers: Peers::default(),
            socket,
            interface,
            marking: OuterDscp::Off,
            plain,
            dtls: endpoint.map(|endpoint| Dtls {
                endpoint,
                bindings: Vec::new(),
                noise: 0,
            }),
            out: SendBatch::new(SEND_BATCH),
            shedder: Shedder::default(),
            sealed: Vec::new(),
            sealed_mark: None,
            unsent: 0,
            rests_until: None,
        }
    }

    /// What to do with a datagram, by its first byte and what the port serves.
    pub(super) fn classify(&self, datagram: &[u8]) -> Kind {
        match datagram.first().map(|first| FirstByte::classify(*first)) {
            Some(FirstByte::Dtls) if self.dtls.is_some() => Kind::Dtls,
            Some(FirstByte::Stun) => Kind::Stun,
            Some(FirstByte::Dtls) | None => Kind::Foreign,
            Some(_) if self.plain.is_some() => Kind::Plain,
            Some(_) => Kind::Foreign,
        }
    }

    pub(super) fn endpoint(&mut self) -> Option<&mut DtlsServerEndpoint> {
        self.dtls.as_mut().map(|dtls| &mut dtls.endpoint)
    }

    pub(super) fn endpoint_ref(&self) -> Option<&DtlsServerEndpoint> {
        self.dtls.as_ref().map(|dtls| &dtls.endpoint)
    }

    /// Whether DTLS has met datagrams that are no handshake since this was asked last.
    pub(super) fn met_noise(&mut self) -> bool {
        let Some(dtls) = &mut self.dtls else {
            return false;
        };
        let stats = dtls.endpoint.stats();
        let noise = stats.malformed + stats.strangers + stats.alpn_refused;
        std::mem::replace(&mut dtls.noise, noise) != noise
    }

    pub(super) fn poll_dtls_event(&mut self, cx: &Context<'_>) -> Option<DtlsEndpointEvent> {
        let endpoint = self.endpoint()?;
        endpoint.set_waker(cx.waker());
        endpoint.poll_event()
    }

    /// The binding of an association.
    pub(super) fn binding(&self, key: AssociationKey) -> Option<BindingId> {
        match self.dtls.as_ref()?.bindings.get(key.index())? {
            Some((owner, binding)) if *owner == key => Some(*binding),
            _ => None,
        }
    }

    pub(super) fn bind(&mut self, key: AssociationKey, binding: BindingId) {
        if let Some(dtls) = &mut self.dtls {
            let index = key.index();
            if index >= dtls.bindings.len() {
                dtls.bindings.resize(index + 1, None);
            }
            if let Some(slot) = dtls.bindings.get_mut(index) {
                *slot = Some((key, binding));
            }
        }
    }

    pub(super) fn unbind(&mut self, key: AssociationKey) -> Option<BindingId> {
        let binding = self.binding(key)?;
        if let Some(slot) = self.dtls.as_mut()?.bindings.get_mut(key.index()) {
            *slot = None;
        }
        Some(binding)
    }

    /// Queues a datagram; sends what waits first if there is no room. Nothing is kept for a socket that
    /// does not take more: with UDP dropping is as good as sending.
    pub(super) fn queue(&mut self, cx: &mut Context<'_>, peer: SocketAddr, payload: &[u8]) {
        self.queue_marked(cx, peer, self.marking.of_unit(payload), payload);
    }

    fn queue_marked(
        &mut self,
        cx: &mut Context<'_>,
        peer: SocketAddr,
        mark: Option<Dscp>,
        payload: &[u8],
    ) {
        let source = self.sources.for_peer(peer);
        if self.out.push_marked(peer, source, mark, payload) {
            return;
        }
        self.send(cx);
        if !self.out.push_marked(peer, source, mark, payload) {
            self.unsent += 1;
        }
    }

    /// Seals a unit for an association, where it leaves from; it leaves with the next [`Port::flush`], or at once what
    /// waits before it if a burst of this turn has filled the queue.
    pub(super) fn seal(
        &mut self,
        cx: &mut Context<'_>,
        key: AssociationKey,
        unit: &[u8],
    ) -> Result<(), DtlsSendError> {
        let mark = self.marking.of_unit(unit);
        if mark != self.sealed_mark {
            // What a record holds is not to be seen from outside, so what is sealed in the background until here is queued
            // with its mark.
            self.queue_sealed(cx);
            self.sealed_mark = mark;
        }
        match self.try_seal(key, mark, unit) {
            Err(DtlsSendError::QueueFull) => {
                self.queue_sealed(cx);
                self.send(cx);
                self.try_seal(key, mark, unit)
            }
            sealed => sealed,
        }
    }

    fn try_seal(
        &mut self,
        key: AssociationKey,
        mark: Option<Dscp>,
        unit: &[u8],
    ) -> Result<(), DtlsSendError> {
        let dtls = self.dtls.as_mut().ok_or(DtlsSendError::Closed)?;
        let peer = dtls.endpoint.peer(key).ok_or(DtlsSendError::Closed)?;
        let source = self.sources.for_peer(peer);
        let longest = unit.len() + RECORD_OVERHEAD;
        let sealed = self.out.push_with(peer, source, mark, longest, |out| {
            dtls.endpoint.seal(key, unit, out)
        });
        // What a back end seals in the background comes with the next flush.
        sealed.unwrap_or(Err(DtlsSendError::QueueFull)).map(drop)
    }

    /// Sends everything that was queued or sealed, and what the DTLS handshakes want to say.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        self.queue_sealed(cx);
        self.sealed_mark = None;
        self.send(cx);
    }

    fn queue_sealed(&mut self, cx: &mut Context<'_>) {
        while let Some(dtls) = &mut self.dtls {
            self.sealed.clear();
            let Some(transmit) = dtls.endpoint.poll_transmit(&mut self.sealed) else {
                break;
            };
            let sealed = std::mem::take(&mut self.sealed);
            self.queue_marked(
                cx,
                transmit.peer,
                self.sealed_mark,
                sealed.get(..transmit.len).unwrap_or_default(),
            );
            self.sealed = sealed;
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) {
        match self.socket.poll_send(cx, &mut self.out) {
            Poll::Ready(Ok(())) => {}
            // The rest waits for room in the socket; the waker comes back here.
            Poll::Pending => {}
            Poll::Ready(Err(error)) => {
                tracing::debug!(local = %self.socket.local_addr(), %error, "cannot send");
                self.out.clear();
            }
        }
    }

    /// Receives nothing for a moment.
    pub(super) fn rest(&mut self, now: Instant) {
        self.rests_until = Some(now + BACK_OFF);
    }

    /// Whether the port still rests; ends the rest when it is over.
    pub(super) fn rests(&mut self, now: Instant) -> bool {
        self.rests_until = self.rests_until.filter(|until| *until > now);
        self.rests_until.is_some()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let endpoint = self
            .endpoint_ref()
            .and_then(DtlsServerEndpoint::poll_timeout);
        [endpoint, self.rests_until, self.shedder.due()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(endpoint) = self.endpoint() {
            endpoint.handle_timeout(now);
        }
    }
}
