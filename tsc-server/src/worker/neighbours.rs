//! What other workers send, and what goes to them beside packets: transports that resume a tunnel there.

use std::{net::SocketAddr, task::Context, time::Instant};

use tsc_csm::server::{BindingId, BindingLoss, Shard};
use tsc_osaa::dtls::AssociationKey;
use tsc_tpl::{IpPacket, Limits};

use super::{
    Worker,
    inbound_datagrams::Origin,
    mesh::{Crossing, INBOX, Item, MovingAssociation, MovingStream, News, Parcel},
    way::Way,
};
use crate::egress::rewrite::Edits;

impl Worker {
    /// Takes in what other workers have sent.
    pub(super) fn read_neighbours(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.mesh.arm(cx.waker());
        for _ in 0..INBOX {
            let Some(parcel) = self.mesh.next() else {
                return;
            };
            match parcel {
                Parcel::Crossing(mut crossing) => {
                    self.take_crossing(cx, now, &mut crossing);
                    self.mesh.give_back(crossing);
                }
                Parcel::Stream(moving) => self.take_stream(now, *moving),
                Parcel::Association(moving) => self.take_association(cx, now, *moving),
                Parcel::Brokered(relayed) => self.core.handle_relayed(now, *relayed),
                Parcel::Peer {
                    port,
                    peer,
                    from,
                    news,
                } => self.hear_of_peer(now, port, peer, from, news),
            }
            self.forward(cx, now);
        }
        self.again = true;
    }

    fn take_crossing(&mut self, cx: &mut Context<'_>, now: Instant, crossing: &mut Crossing) {
        let own = self.core.shard_number();
        // As in a batch of a port; here the ports alternate.
        let (mut run, mut run_port) = (None, None);
        for (item, bytes) in crossing.iter_mut() {
            match item {
                Item::Packet { to, sender } => {
                    let Ok(packet) = IpPacket::decode(bytes, &Limits::WIDEST) else {
                        continue;
                    };
                    let sender = sender.target();
                    self.switch()
                        .arrive(now, sender, to, &packet, Edits::default());
                    if self.batch.is_full() {
                        self.forward(cx, now);
                    }
                }
                Item::Datagram {
                    port,
                    peer,
                    local,
                    via,
                } => {
                    if run_port.replace(port) != Some(port) {
                        run = None;
                    }
                    let via = (via != own).then_some(via);
                    let origin = Origin {
                        port,
                        peer,
                        local,
                        via,
                    };
                    self.datagram(cx, now, &origin, bytes, &mut run);
                }
            }
        }
    }

    /// Hands a stream over to the worker whose tunnel it resumes.
    pub(super) fn move_stream(
        &mut self,
        shard: Shard,
        slot: usize,
        binding: BindingId,
        bytes: Vec<u8>,
    ) {
        self.ways.remove(binding);
        let moved = self.core.hand_over(binding);
        let Some((stream, moved)) = self.streams.take(slot).zip(moved) else {
            return;
        };
        let listener = stream.listener;
        match stream.transport.detach() {
            Ok(stream) => {
                let moving = MovingStream {
                    moved,
                    listener,
                    stream,
                    bytes,
                };
                self.mesh.move_to(shard, Parcel::Stream(Box::new(moving)));
            }
            Err(error) => {
                tracing::debug!(peer = %moved.info.peer, %error, "connection cannot move");
            }
        }
    }

    fn take_stream(&mut self, now: Instant, moving: MovingStream) {
        let MovingStream {
            moved,
            listener,
            stream,
            bytes,
        } = moving;
        let (interface, peer) = (moved.info.interface, moved.info.peer);
        let binding = match self.core.open_moved(moved) {
            Ok(binding) => binding,
            Err(error) => {
                self.counters.not_opened += 1;
                tracing::debug!(%peer, %error, "connection not taken");
                return;
            }
        };
        match stream.attach() {
            Ok(stream) => {
                let slot = self.keep_stream(listener, interface, stream, binding);
                self.decode(now, slot, binding, &bytes);
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "connection cannot move");
                self.core.binding_lost(now, binding, BindingLoss::Failed);
            }
        }
    }

    /// Hands an association over to the worker whose tunnel it resumes; its datagrams follow.
    pub(super) fn move_association(
        &mut self,
        shard: Shard,
        index: usize,
        key: AssociationKey,
        binding: BindingId,
        unit: Vec<u8>,
    ) {
        self.ways.remove(binding);
        let moved = self.core.hand_over(binding);
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        port.unbind(key);
        let association = port.endpoint().and_then(|endpoint| endpoint.detach(key));
        let Some((moved, association)) = moved.zip(association) else {
            return;
        };
        let peer = association.peer();
        // Where its datagrams arrive: here, unless it was a guest here itself.
        let via = port.peers.guest(peer);
        port.peers.farewell(peer);
        if via.is_none() {
            port.peers.moves(peer, shard);
        }
        let moving = MovingAssociation {
            moved,
            via: via.unwrap_or_else(|| self.core.shard_number()),
            port: index,
            association,
            unit,
        };
        let moving = Parcel::Association(Box::new(moving));
        if !self.mesh.move_to(shard, moving)
            && via.is_none()
            && let Some(port) = self.ports.get_mut(index)
        {
            port.peers.leaves(peer, shard);
        }
    }

    fn take_association(&mut self, cx: &mut Context<'_>, now: Instant, moving: MovingAssociation) {
        let MovingAssociation {
            moved,
            via,
            port: index,
            association,
            unit,
        } = moving;
        let (interface, peer) = (moved.info.interface, moved.info.peer);
        // Its datagrams come here from now on; whichever way it ends, that is taken back.
        let via = (via != self.core.shard_number()).then_some(via);
        self.peer_came(index, peer, via);
        let key = self
            .ports
            .get_mut(index)
            .and_then(|port| port.endpoint()?.attach(association));
        // An association of this address that was replaced is told of first.
        self.dtls_events(cx, now, index);
        let Some(key) = key else {
            return self.peer_left(index, peer);
        };
        match self.core.open_moved(moved) {
            Ok(binding) => {
                if let Some(port) = self.ports.get_mut(index) {
                    port.bind(key, binding);
                }
                self.ways.insert(binding, Way::Dtls { port: index, key });
                let _closed_by_event = self.datagram_unit(now, interface, binding, &unit);
                self.dtls_received(cx, now, index, key);
            }
            Err(error) => {
                self.counters.not_opened += 1;
                tracing::debug!(%peer, %error, "association not taken");
                let port = self.ports.get_mut(index);
                if let Some(endpoint) = port.and_then(|port| port.endpoint()) {
                    endpoint.close(now, key);
                }
                self.peer_left(index, peer);
            }
        }
    }

    /// A tunnel of this worker has a transport to `peer`, whose datagrams come by `via`, or to this worker itself.
    pub(super) fn peer_came(&mut self, index: usize, peer: SocketAddr, via: Option<Shard>) {
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        match via {
            Some(via) => {
                if port.peers.welcome(peer, via) {
                    self.tell_of_peer(index, peer, via, News::Came);
                }
            }
            None => {
                if let Some(former) = port.peers.comes_home(peer) {
                    self.tell_of_peer(index, peer, former, News::Taken);
                }
            }
        }
    }

    /// A transport to `peer` has ended; if it was the last, its datagrams need not come here any more.
    pub(super) fn peer_left(&mut self, index: usize, peer: SocketAddr) {
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        let Some(via) = port.peers.guest(peer) else {
            return;
        };
        let plain = port.plain;
        let lives = plain.is_some_and(|listener| self.core.lookup(listener, peer).is_some())
            || port
                .endpoint_ref()
                .is_some_and(|endpoint| endpoint.find(peer).is_some());
        if !lives {
            port.peers.farewell(peer);
            self.tell_of_peer(index, peer, via, News::Left);
        }
    }

    fn tell_of_peer(&mut self, port: usize, peer: SocketAddr, to: Shard, news: News) {
        let from = self.core.shard_number();
        let notice = Parcel::Peer {
            port,
            peer,
            from,
            news,
        };
        self.mesh.notify(to, notice);
    }

    /// See [`News`].
    fn hear_of_peer(
        &mut self,
        now: Instant,
        index: usize,
        peer: SocketAddr,
        from: Shard,
        news: News,
    ) {
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        match news {
            News::Came => match port
                .peers
                .moves(peer, from)
                .filter(|before| *before != from)
            {
                Some(before) => self.tell_of_peer(index, peer, before, News::Taken),
                None => self.lose_address(now, index, peer),
            },
            News::Left => port.peers.leaves(peer, from),
            News::Taken => {
                port.peers.farewell(peer);
                self.lose_address(now, index, peer);
            }
        }
    }

    /// A tunnel that has had the address here has lost it, as to any other client behind it (spec 4).
    fn lose_address(&mut self, now: Instant, index: usize, peer: SocketAddr) {
        let plain = self.ports.get(index).and_then(|port| port.plain);
        if let Some(binding) = plain.and_then(|listener| self.core.lookup(listener, peer)) {
            self.ways.remove(binding);
            self.core.binding_lost(now, binding, BindingLoss::Failed);
        }
    }
}
