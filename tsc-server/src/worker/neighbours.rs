//! What other workers send, and what goes to them beside packets: transports that resume a tunnel there.

use std::{net::SocketAddr, task::Context, time::Instant};

use tsc_csm::server::{BindingId, BindingLoss, Shard};
use tsc_osaa::dtls::AssociationKey;
use tsc_tpl::{IpPacket, Limits};

use super::{
    Worker,
    inbound_datagrams::Origin,
    mesh::{Crossing, INBOX, Item, MovingAssociation, MovingStream, Parcel},
    switch::Switch,
    tun::Tun,
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
                Parcel::Crossing(crossing) => {
                    self.take_crossing(cx, now, &crossing);
                    self.mesh.give_back(crossing);
                }
                Parcel::Stream(moving) => self.take_stream(now, *moving),
                Parcel::Association(moving) => self.take_association(cx, now, *moving),
                Parcel::Home {
                    port,
                    peer,
                    from,
                    here,
                } => self.peer_moves(now, port, peer, from, here),
            }
            self.forward(cx, now);
        }
        self.again = true;
    }

    fn take_crossing(&mut self, cx: &mut Context<'_>, now: Instant, crossing: &Crossing) {
        let mut run = None;
        for (item, bytes) in crossing.iter() {
            match item {
                Item::Packet { to, sender } => {
                    let Ok(packet) = IpPacket::decode(bytes, &Limits::WIDEST) else {
                        continue;
                    };
                    let mut switch = Switch {
                        core: &self.core,
                        router: &mut self.router,
                        batch: &mut self.batch,
                        counters: &mut self.counters,
                        tun_mtu: self.tun.as_ref().map(Tun::mtu),
                        interfaces: &self.interfaces,
                    };
                    switch.arrive(now, sender.target(), to, &packet, Edits::default());
                    if self.batch.is_full() {
                        self.forward(cx, now);
                    }
                }
                Item::Datagram { port, peer, local } => {
                    let via = Some(crossing.from());
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
        let info = self.core.hand_over(binding);
        let Some((stream, info)) = self.streams.take(slot).zip(info) else {
            return;
        };
        let listener = stream.listener;
        match stream.transport.detach() {
            Ok(stream) => {
                let moving = MovingStream {
                    info,
                    listener,
                    stream,
                    bytes,
                };
                self.mesh.move_to(shard, Parcel::Stream(Box::new(moving)));
            }
            Err(error) => tracing::debug!(peer = %info.peer, %error, "connection cannot move"),
        }
    }

    fn take_stream(&mut self, now: Instant, moving: MovingStream) {
        let MovingStream {
            info,
            listener,
            stream,
            bytes,
        } = moving;
        let (interface, peer) = (info.interface, info.peer);
        let binding = match self.core.open_moved(now, info) {
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
        let info = self.core.hand_over(binding);
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        port.unbind(key);
        let association = port.endpoint().and_then(|endpoint| endpoint.detach(key));
        let Some((info, association)) = info.zip(association) else {
            return;
        };
        let peer = association.peer();
        let moving = MovingAssociation {
            info,
            via: self.core.shard_number(),
            port: index,
            association,
            unit,
        };
        if self
            .mesh
            .move_to(shard, Parcel::Association(Box::new(moving)))
            && let Some(port) = self.ports.get_mut(index)
        {
            port.peers.moves(peer, shard, Some(shard));
        }
    }

    fn take_association(&mut self, cx: &mut Context<'_>, now: Instant, moving: MovingAssociation) {
        let MovingAssociation {
            info,
            via,
            port: index,
            association,
            unit,
        } = moving;
        let (interface, peer) = (info.interface, info.peer);
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        // Its datagrams come here from now on; whichever way it ends, that is taken back.
        port.peers.welcome(peer, via);
        let key = port
            .endpoint()
            .and_then(|endpoint| endpoint.attach(association));
        // An association of this address that was replaced is told of first.
        self.dtls_events(cx, now, index);
        let Some(key) = key else {
            return self.peer_left(index, peer);
        };
        match self.core.open_moved(now, info) {
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

    /// A tunnel of this worker has a transport to `peer`, whose datagrams come by `via`.
    pub(super) fn peer_came(&mut self, index: usize, peer: SocketAddr, via: Option<Shard>) {
        let from = self.core.shard_number();
        if let Some(via) = via
            && let Some(port) = self.ports.get_mut(index)
            && port.peers.welcome(peer, via)
        {
            let notice = Parcel::Home {
                port: index,
                peer,
                from,
                here: true,
            };
            self.mesh.notify(via, notice);
        }
    }

    /// A transport to `peer` has ended; if it was the last, its datagrams need not come here any more.
    pub(super) fn peer_left(&mut self, index: usize, peer: SocketAddr) {
        let from = self.core.shard_number();
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
            let notice = Parcel::Home {
                port: index,
                peer,
                from,
                here: false,
            };
            self.mesh.notify(via, notice);
        }
    }

    /// Datagrams of `peer`, which arrive here, are for the worker `from` now, or no more.
    fn peer_moves(
        &mut self,
        now: Instant,
        index: usize,
        peer: SocketAddr,
        from: Shard,
        here: bool,
    ) {
        let Some(port) = self.ports.get_mut(index) else {
            return;
        };
        port.peers.moves(peer, from, here.then_some(from));
        // A tunnel that has had the address here has lost it, as to any other client behind it (spec 4).
        if here
            && let Some(binding) = port
                .plain
                .and_then(|listener| self.core.lookup(listener, peer))
        {
            self.ways.remove(binding);
            self.core.binding_lost(now, binding, BindingLoss::Failed);
        }
    }
}
