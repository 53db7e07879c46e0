//! From the session core and the switch to the transports.

use std::{net::SocketAddr, task::Context, time::Instant};

use tsc_csm::{
    Transport,
    server::{BindingId, Destination, Event, SessionId, Spread},
};

use super::{
    Worker,
    batch::{Sender, Target},
    mesh::{Item, Parcel},
    record::Outer,
    way::Way,
};

impl Worker {
    /// Moves the packets of the batch to the send queues of their tunnels, and to the egresses.
    pub(super) fn forward(&mut self, cx: &mut Context<'_>, now: Instant) {
        if self.batch.is_empty() {
            return;
        }
        let own = self.core.shard_number();
        let mut batch = std::mem::take(&mut self.batch);
        self.forwarded += batch.len();
        for (target, packet) in batch.iter() {
            let to = match target {
                Target::Tunnel(session) if session.shard() == own => session,
                // What we say to the tunnel of another worker.
                Target::Tunnel(to) => {
                    let sender = Sender::Core;
                    self.mesh
                        .push(to.shard(), Item::Packet { to, sender }, packet);
                    continue;
                }
                Target::Neighbour { to, sender } => {
                    self.mesh
                        .push(to.shard(), Item::Packet { to, sender }, packet);
                    continue;
                }
                Target::UserSpace { from, interface } => {
                    self.give_user_space(now, from, interface, packet);
                    continue;
                }
                Target::Tun(from) => {
                    self.give_tun(from, packet);
                    continue;
                }
            };
            self.send_to_tunnel(cx, now, to, packet);
        }
        batch.clear();
        self.batch = batch;
        self.flush_tun();
    }

    /// Moves a packet to the send queue of each transport that it goes over.
    fn send_to_tunnel(&mut self, cx: &mut Context<'_>, now: Instant, to: SessionId, packet: &[u8]) {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        let outgoing = self.core.outgoing(now, to, packet, &mut frame);
        let (mut is_known, mut is_sent, mut used) = (false, false, [None; 3]);
        if let Some(outgoing) = outgoing {
            let unit = if outgoing.framed { &*frame } else { packet };
            let mut ways = outgoing
                .bindings()
                .filter_map(|binding| self.ways.find(binding));
            let ways = match outgoing.spread {
                Spread::All => [ways.next(), ways.next(), ways.next()],
                // Each on the one that has least to do.
                Spread::One => {
                    let shortest = ways.min_by_key(|way| self.waiting_on(*way));
                    [shortest, None, None]
                }
            };
            used = ways;
            for way in ways.into_iter().flatten() {
                is_known = true;
                is_sent |= self.send_unit(cx, now, way, unit);
            }
        }
        self.frame = frame;
        if !is_known {
            self.counters.no_transport += 1;
        } else if is_sent {
            self.counters.switched += 1;
            if !self.captures.is_idle() {
                self.capture_sent(to, used, packet);
            }
        } else {
            self.counters.queue_full += 1;
        }
    }

    /// Bytes that wait for a transport.
    fn waiting_on(&self, way: Way) -> usize {
        match way {
            Way::Stream(slot) => self.streams.waiting_on(slot),
            Way::Udp { .. } | Way::Dtls { .. } => 0,
        }
    }

    /// Moves a unit to the send queue of a transport.
    #[inline]
    fn send_unit(&mut self, cx: &mut Context<'_>, now: Instant, way: Way, unit: &[u8]) -> bool {
        match way {
            Way::Stream(slot) => self.streams.queue_packet(now, slot, unit),
            Way::Udp { port, peer } => {
                if let Some(port) = self.ports.get_mut(port) {
                    port.queue(cx, peer, unit);
                }
                true
            }
            Way::Dtls { port, key } => self
                .ports
                .get_mut(port)
                .is_some_and(|port| port.seal(cx, key, unit).is_ok()),
        }
    }

    /// Sends what the session core wants to say, and acts on what it tells.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>, now: Instant) {
        for index in 0..self.ports.len() {
            self.dtls_events(cx, now, index);
        }
        while let Some(transmit) = self.core.poll_transmit() {
            let way = match transmit.to {
                Destination::Connection(binding) => self.ways.find(binding),
                Destination::Udp { listener, peer } => {
                    let port = self.plain_ports.get(listener.index());
                    port.map(|port| Way::Udp { port: *port, peer })
                }
            };
            if !self.captures.is_idle() {
                let binding = match transmit.to {
                    Destination::Connection(binding) => Some(binding),
                    Destination::Udp { listener, peer } => self.core.lookup(listener, peer),
                };
                self.capture_said(way, binding, &transmit.bytes);
            }
            let sent = match way {
                None => false,
                Some(Way::Stream(slot)) => self.streams.queue(slot, &transmit.bytes).is_ok(),
                Some(Way::Udp { port, peer }) => self.ports.get_mut(port).is_some_and(|port| {
                    port.queue(cx, peer, &transmit.bytes);
                    true
                }),
                Some(Way::Dtls { port, key }) => self
                    .ports
                    .get_mut(port)
                    .is_some_and(|port| port.seal(cx, key, &transmit.bytes).is_ok()),
            };
            if !sent {
                self.counters.control_unsent += 1;
            }
        }
        self.captures_answered();
        while let Some(event) = self.core.poll_event() {
            if let Event::Relay(relayed) = event {
                let shard = relayed.shard();
                self.mesh.notify(shard, Parcel::Brokered(Box::new(relayed)));
                continue;
            }
            let outer = if let Event::SessionUp { binding, .. }
            | Event::CompanionUp { binding, .. }
            | Event::Bound { binding, .. } = &event
            {
                self.outer(*binding)
            } else {
                None
            };
            if let Event::SessionUp { session, .. }
            | Event::CompanionUp {
                companion: session, ..
            } = &event
            {
                self.captures.forget(*session);
            }
            self.log.event(now, &event, outer);
            if let Event::SessionUp {
                session, addresses, ..
            } = &event
            {
                self.router.session_up(*session, addresses);
            } else if let Event::SessionDown { session, .. } = &event
                && let Some(user_space) = &mut self.user_space
            {
                user_space.session_ended(*session);
            }
            if let Event::CloseBinding { binding, reason } = event {
                if let Some(peer) = self.peer(binding) {
                    tracing::debug!(event = "transport-closed", %peer, ?reason);
                }
                self.close(now, binding);
            }
        }
    }

    /// The outer address behind a binding.
    fn peer(&self, binding: BindingId) -> Option<SocketAddr> {
        match self.ways.find(binding)? {
            Way::Stream(slot) => self.streams.peer(slot),
            Way::Udp { peer, .. } => Some(peer),
            Way::Dtls { port, key } => self.ports.get(port)?.endpoint_ref()?.peer(key),
        }
    }

    /// The interface that a transport came in on.
    pub(super) fn interface_of(&self, way: Way) -> Option<usize> {
        match way {
            Way::Stream(slot) => {
                let listener = self.streams.get(slot)?.listener;
                Some(self.listeners.get(listener)?.interface)
            }
            Way::Udp { port, .. } | Way::Dtls { port, .. } => Some(self.ports.get(port)?.interface),
        }
    }

    /// What the log says about the transport of a tunnel.
    fn outer(&self, binding: BindingId) -> Option<Outer> {
        let way = self.ways.find(binding)?;
        let transport = match way {
            Way::Stream(slot) => match self.streams.get(slot)?.transport.tls_info() {
                Some(_) => Transport::Tls,
                None => Transport::Tcp,
            },
            Way::Udp { .. } => Transport::Udp,
            Way::Dtls { .. } => Transport::Dtls,
        };
        Some(Outer {
            peer: self.peer(binding)?,
            interface: self.interface_of(way)?,
            transport,
        })
    }

    /// Ends the transport of a binding that the session core has given up.
    pub(super) fn close(&mut self, now: Instant, binding: BindingId) {
        match self.ways.remove(binding) {
            Some(Way::Stream(slot)) => self.streams.close(slot),
            Some(Way::Dtls { port: index, key }) => {
                if let Some(port) = self.ports.get_mut(index) {
                    port.unbind(key);
                    if let Some(endpoint) = port.endpoint() {
                        let peer = endpoint.peer(key);
                        endpoint.close(now, key);
                        if let Some(peer) = peer {
                            self.peer_left(index, peer);
                        }
                    }
                }
            }
            Some(Way::Udp { port, peer }) => self.peer_left(port, peer),
            None => {}
        }
    }

    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        self.again |= self.mesh.flush();
        self.streams.flush();
        let drops = self.streams.take_drops();
        self.counters.queue_late += drops.late;
        self.counters.queue_full += drops.full;
        for port in &mut self.ports {
            port.flush(cx);
        }
    }
}
