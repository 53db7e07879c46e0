//! UDP and DTLS: receiving batches, opening records, decoding.

use std::{
    fmt::Arguments,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
    time::Instant,
};

use tsc_csm::{
    Transport,
    server::{BadUnit, BindingId, BindingInfo, BindingLoss, Shard, Unbound, Verdict},
};
use tsc_osaa::{
    datagram::RecvBatch,
    dtls::{AssociationKey, DtlsEndpointEvent, DtlsError, Opened},
};
use tsc_tpl::Unit;

use super::{Worker, captures::Entry, identity, mesh::Item, ports::Kind, way::Way};

/// Batches of one UDP port in one turn before the others get theirs.
const BATCHES_PER_PORT: usize = 16;

/// Where a datagram came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Index of the port.
    pub(super) port: usize,
    pub(super) peer: SocketAddr,
    /// Our address that it was sent to.
    pub(super) local: Option<IpAddr>,
    /// The worker whose socket it came to, if not ours.
    pub(super) via: Option<Shard>,
}

impl Worker {
    pub(super) fn read_ports(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(mut receive) = self.receive.take() else {
            return;
        };
        for port in 0..self.ports.len() {
            self.read_port(cx, now, port, &mut receive);
            self.dtls_events(cx, now, port);
        }
        self.receive = Some(receive);
    }

    pub(super) fn read_port(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        index: usize,
        receive: &mut RecvBatch,
    ) {
        for turn in 0..=BATCHES_PER_PORT {
            let Some(port) = self.ports.get_mut(index) else {
                return;
            };
            if turn == BATCHES_PER_PORT {
                self.again = true;
                return;
            }
            if port.rests(now) {
                return;
            }
            match port.socket.poll_recv(cx, receive) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => {
                    port.rest(now);
                    if let Some(missed) = self.log.port_failed(now) {
                        tracing::warn!(event = "port-failed", local = %port.socket.local_addr(), %error, missed, "UDP port fails");
                    }
                    return;
                }
                Poll::Ready(Ok(count)) => self.received += count,
            }
            // The binding of the datagram before: one lookup for a run of datagrams from one address.
            let mut run: Option<(SocketAddr, BindingId)> = None;
            for datagram in receive.datagrams() {
                let (peer, local) = (datagram.peer, datagram.local_ip);
                let port = self.ports.get(index);
                if let Some(shard) = port.and_then(|port| port.peers.lives_at(peer)) {
                    let (port, via) = (index, self.core.shard_number());
                    let item = Item::Datagram {
                        port,
                        peer,
                        local,
                        via,
                    };
                    self.mesh.push(shard, item, datagram.bytes);
                    continue;
                }
                let origin = Origin {
                    port: index,
                    peer,
                    local,
                    via: None,
                };
                self.datagram(cx, now, &origin, datagram.bytes, &mut run);
            }
            self.forward(cx, now);
        }
    }

    /// A datagram, from the socket or from the worker that the system has given it to.
    pub(super) fn datagram(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        origin: &Origin,
        bytes: &mut [u8],
        run: &mut Option<(SocketAddr, BindingId)>,
    ) {
        let kind = self.ports.get_mut(origin.port).map(|port| {
            port.sources.note(origin.peer, origin.local);
            port.classify(bytes)
        });
        match kind {
            Some(Kind::Plain) => self.plain_datagram(now, origin, bytes, run),
            Some(Kind::Dtls) => self.dtls_datagram(cx, now, origin.port, origin.peer, bytes),
            Some(Kind::Stun) => self.stun(cx, now, origin, bytes),
            Some(Kind::Foreign) | None => {
                let reason = format_args!("a protocol that this port does not speak");
                self.foreign(now, origin.peer, reason);
            }
        }
        if self.batch.is_full() {
            self.forward(cx, now);
        }
    }

    /// Whoever it is, and whatever else its address has here (spec 7, "Peer tunneling").
    fn stun(&mut self, cx: &mut Context<'_>, now: Instant, origin: &Origin, bytes: &[u8]) {
        let Some(port) = self.ports.get_mut(origin.port) else {
            return;
        };
        match self
            .core
            .answer_stun(now, port.interface, origin.peer, bytes)
        {
            Some(answer) => port.queue(cx, origin.peer, &answer),
            None => self.foreign(now, origin.peer, format_args!("STUN")),
        }
    }

    fn plain_datagram(
        &mut self,
        now: Instant,
        origin: &Origin,
        bytes: &[u8],
        run: &mut Option<(SocketAddr, BindingId)>,
    ) {
        let (index, peer) = (origin.port, origin.peer);
        let Some(port) = self.ports.get(index) else {
            return;
        };
        let Some(listener) = port.plain else { return };
        let known = match *run {
            Some((last, binding)) if last == peer => Some(binding),
            _ => self.core.lookup(listener, peer),
        };
        let Some(binding) = known else {
            // An address that has a DTLS tunnel keeps its kind (spec 2).
            if port
                .endpoint_ref()
                .is_some_and(|endpoint| endpoint.find(peer).is_some())
            {
                return self.foreign(
                    now,
                    peer,
                    format_args!("clear, from the address of a DTLS association"),
                );
            }
            let interface = port.interface;
            match self.core.handle_unbound(now, listener, peer, bytes) {
                Unbound::Bound(binding) => {
                    self.ways.insert(binding, Way::Udp { port: index, peer });
                    self.peer_came(index, peer, origin.via);
                    self.captures
                        .request(&self.core, interface, Some(binding), bytes);
                }
                Unbound::Elsewhere(shard) => self.pass_on(shard, origin, bytes),
                Unbound::Answered => self.captures.request(&self.core, interface, None, bytes),
                Unbound::Dropped(reason) => {
                    self.log
                        .datagram_dropped(now, peer, format_args!("{reason:?}"));
                }
            }
            return;
        };
        *run = Some((peer, binding));
        let interface = port.interface;
        match self.datagram_unit(now, interface, binding, bytes) {
            // Packets change nothing, and are nearly all that comes.
            Verdict::Forward(_) | Verdict::ForwardFrame(..) => return,
            Verdict::Close(_) => *run = None,
            Verdict::Elsewhere(shard) => self.pass_on(shard, origin, bytes),
            Verdict::Consumed | Verdict::Dropped(_) => {}
        }
        // A request on a bound address can have made a new tunnel (spec 4): then the binding is another.
        if let Some(current) = self
            .core
            .lookup(listener, peer)
            .filter(|current| *current != binding)
        {
            self.ways.insert(current, Way::Udp { port: index, peer });
            self.peer_came(index, peer, origin.via);
            *run = None;
        }
    }

    /// A request for a tunnel of another worker.
    fn pass_on(&mut self, shard: Shard, origin: &Origin, bytes: &[u8]) {
        let Origin {
            port,
            peer,
            local,
            via,
        } = *origin;
        let via = via.unwrap_or_else(|| self.core.shard_number());
        let item = Item::Datagram {
            port,
            peer,
            local,
            via,
        };
        self.mesh.push(shard, item, bytes);
    }

    pub(super) fn dtls_datagram(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        index: usize,
        peer: SocketAddr,
        bytes: &mut [u8],
    ) {
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        // Nearly all that comes: data of an association that is bound, opened where it lies.
        let opened = match port.endpoint() {
            Some(endpoint) => endpoint.open(peer, bytes),
            None => return,
        };
        match opened {
            Opened::Data(key, unit) => {
                // What is not bound was refused, and is about to be closed.
                let Some(binding) = port.binding(key) else {
                    return;
                };
                let interface = port.interface;
                let verdict = self.datagram_unit(now, interface, binding, unit);
                if let Verdict::Elsewhere(shard) = verdict {
                    self.move_association(shard, index, key, binding, unit.to_vec());
                }
                return;
            }
            Opened::Dropped => return,
            Opened::NotData => {}
        }
        let plain = port
            .plain
            .and_then(|listener| self.core.lookup(listener, peer));
        let Some(endpoint) = port.endpoint() else {
            return;
        };
        if plain.is_some() {
            return self.foreign(
                now,
                peer,
                format_args!("DTLS, from the address of a clear tunnel"),
            );
        }
        let Some(key) = endpoint.handle_datagram(now, peer, bytes) else {
            if port.met_noise() {
                self.log
                    .datagram_dropped(now, peer, format_args!("no DTLS handshake"));
            }
            return;
        };
        // A handshake may have finished with this datagram: then the association is not bound yet.
        if port.binding(key).is_some() {
            self.dtls_received(cx, now, index, key);
        } else {
            self.dtls_events(cx, now, index);
        }
    }

    fn foreign(&mut self, now: Instant, peer: SocketAddr, reason: Arguments<'_>) {
        self.counters.foreign_datagrams += 1;
        self.log.datagram_dropped(now, peer, reason);
    }

    /// Hands in what an association has received, if it is bound.
    pub(super) fn dtls_received(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        index: usize,
        key: AssociationKey,
    ) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        while let Some(port) = self.ports.get_mut(index) {
            let Some(binding) = port.binding(key) else {
                break;
            };
            let interface = port.interface;
            let Some(len) = port
                .endpoint()
                .and_then(|endpoint| endpoint.recv(key, &mut buffer))
            else {
                break;
            };
            let unit = buffer.get(..len).unwrap_or_default();
            match self.datagram_unit(now, interface, binding, unit) {
                Verdict::Close(_) => break,
                Verdict::Elsewhere(shard) => {
                    self.move_association(shard, index, key, binding, unit.to_vec());
                    break;
                }
                Verdict::Forward(_)
                | Verdict::ForwardFrame(..)
                | Verdict::Consumed
                | Verdict::Dropped(_) => {}
            }
            if self.batch.is_full() {
                self.forward(cx, now);
            }
        }
        self.read_buffer = buffer;
    }

    /// Hands in one datagram of a binding.
    pub(super) fn datagram_unit(
        &mut self,
        now: Instant,
        interface: usize,
        binding: BindingId,
        bytes: &[u8],
    ) -> Verdict {
        match Unit::decode_datagram(bytes, &self.limits(interface)) {
            Ok(unit) => {
                let entry = Entry { interface, binding };
                let before = self.captures.unit(&self.core, entry, &unit);
                let verdict = self.core.handle_unit(now, binding, &unit);
                if let Some(before) = before {
                    self.captures
                        .control(&self.core, entry, before, &unit, verdict);
                }
                match (verdict, &unit) {
                    (Verdict::Forward(from), Unit::Ip(packet)) => {
                        self.load.carried_one();
                        self.switch().tunnel_packet(now, interface, from, packet);
                    }
                    (Verdict::ForwardFrame(from, fresh), Unit::Redundancy(frame)) => {
                        for packet in fresh.packets(frame) {
                            self.load.carried_one();
                            self.captures.packet(&self.core, interface, from, &packet);
                            self.switch().tunnel_packet(now, interface, from, &packet);
                        }
                    }
                    _ => {}
                }
                verdict
            }
            Err(error) => self
                .core
                .handle_bad_unit(now, binding, BadUnit::Datagram(error)),
        }
    }

    pub(super) fn dtls_events(&mut self, cx: &mut Context<'_>, now: Instant, index: usize) {
        while let Some(event) = self
            .ports
            .get_mut(index)
            .and_then(|port| port.poll_dtls_event(cx))
        {
            match event {
                DtlsEndpointEvent::Connected { key, peer, info } => {
                    let Some(port) = self.ports.get_mut(index) else {
                        return;
                    };
                    let opened = self.core.open_binding(
                        now,
                        BindingInfo {
                            interface: port.interface,
                            transport: Transport::Dtls,
                            peer,
                            local: port.socket.local_addr(),
                            identity: info.peer.as_ref().map(identity),
                        },
                    );
                    match opened {
                        Ok(binding) => {
                            port.bind(key, binding);
                            self.ways.insert(binding, Way::Dtls { port: index, key });
                            self.dtls_received(cx, now, index, key);
                        }
                        Err(error) => {
                            self.counters.not_opened += 1;
                            tracing::debug!(%peer, %error, "association not taken");
                            if let Some(endpoint) = port.endpoint() {
                                endpoint.close(now, key);
                            }
                        }
                    }
                }
                DtlsEndpointEvent::Readable { key } => self.dtls_received(cx, now, index, key),
                DtlsEndpointEvent::Closed { key, peer, error } => {
                    // Some back ends close behind their caller's back.
                    self.peer_left(index, peer);
                    let Some(binding) = self.ports.get_mut(index).and_then(|port| port.unbind(key))
                    else {
                        continue;
                    };
                    tracing::debug!(%peer, %error, "association ended");
                    self.ways.remove(binding);
                    let why = if matches!(error, DtlsError::PeerClosed) {
                        BindingLoss::ClosedByClient
                    } else {
                        BindingLoss::Failed
                    };
                    self.core.binding_lost(now, binding, why);
                }
                // Counted by the endpoint.
                DtlsEndpointEvent::HandshakeFailed { peer, error } => {
                    self.peer_left(index, peer);
                    match self.log.transport_refused(now) {
                        Some(missed) => {
                            tracing::info!(event = "handshake-failed", %peer, %error, missed);
                        }
                        None => tracing::debug!(event = "handshake-failed", %peer, %error),
                    }
                }
                _ => {}
            }
        }
        self.forward(cx, now);
    }
}
