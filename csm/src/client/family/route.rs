//! Where packets of the inner stack go: over the main tunnel, beside it, or over several streams.

use std::time::{Duration, Instant};

use tsc_tpl::{IpPacket, Limits};

use super::super::Client;
use super::super::event::Epoch;
use super::{DDT, DTTE, Family};
use crate::flow::FlowKey;
use crate::redundancy::{MAX_WAYS, Spread};

/// Where a packet of the inner stack goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    ways: [Option<Epoch>; MAX_WAYS],
    /// In the frame that was written, and not as it is.
    pub framed: bool,
    /// Over all of its ways, or over one of them: the owner's choice, by its queues; the first of those that are alike.
    pub spread: Spread,
}

impl Outgoing {
    const fn over(epoch: Epoch, framed: bool) -> Self {
        Self {
            ways: [Some(epoch), None, None],
            framed,
            spread: Spread::All,
        }
    }

    /// It must not leave: the tunnel that it is for has no transport, or is over.
    const NOWHERE: Self = Self {
        ways: [None; MAX_WAYS],
        framed: false,
        spread: Spread::All,
    };

    /// The transports, at most [`MAX_WAYS`]; if there is none the packet is to be dropped.
    pub fn epochs(&self) -> impl Iterator<Item = Epoch> + use<> {
        self.ways.into_iter().flatten()
    }
}

impl Family {
    /// Where a packet of the inner stack goes, and in what: where it travels in a redundancy frame, that is written to `frame`,
    /// which is empty. `None` while the main tunnel, which it is for, has no transport: hold it back, or drop it.
    #[inline]
    pub fn outgoing(
        &mut self,
        now: Instant,
        packet: &[u8],
        frame: &mut Vec<u8>,
    ) -> Option<Outgoing> {
        self.passed = self.passed.wrapping_add(1);
        if self.is_of_companion(packet) {
            return Some(self.encrypted(now, packet, frame));
        }
        if self.is_divided()
            && let Some(key) = self.own_flow(packet)
        {
            if let Some(epoch) = self.beside_stream(key, packet.len())
                && let Some(companion) = self.companions.get_mut(DDT).and_then(Option::as_mut)
            {
                let framed = companion.client.frame(now, packet, frame);
                return Some(Outgoing::over(epoch, framed));
            }
            if let Some((ways, spread)) = self.stream_ways(key)
                && let Some(first) = ways.into_iter().flatten().next()
            {
                // What is not framed would not be known for a copy.
                return Some(if self.main.frame(now, packet, frame) {
                    Outgoing {
                        ways,
                        framed: true,
                        spread,
                    }
                } else {
                    Outgoing::over(first, false)
                });
            }
        }
        let epoch = self.main.can_send()?;
        let framed = self.main.frame(now, packet, frame);
        Some(Outgoing::over(epoch, framed))
    }

    /// Whether the main tunnel may carry this packet. Since there was another with addresses of its own, only one that is from an address
    /// of this one, or from behind this client.
    fn is_mains(&self, packet: &[u8]) -> bool {
        let Ok(packet) = IpPacket::decode(packet, &Limits::WIDEST) else {
            return false;
        };
        let source = packet.source();
        // Whoever sits on a clear path can have any prefix granted to a gateway that takes what it gets.
        if self.foreign.contains(&source) {
            return false;
        }
        let mut prefixes = self.main.routed_prefixes().iter();
        self.main.has_address(source) || prefixes.any(|prefix| prefix.has_host(source))
    }

    /// Where a packet goes that the main tunnel must not carry.
    fn encrypted(&mut self, now: Instant, packet: &[u8], frame: &mut Vec<u8>) -> Outgoing {
        let source = IpPacket::decode(packet, &Limits::WIDEST).map(|packet| packet.source());
        let companion = self.companions.get_mut(DTTE).and_then(Option::as_mut);
        let tunnel = companion.map(|companion| &mut companion.client);
        let is_its = |tunnel: &&mut Client| source.is_ok_and(|source| tunnel.has_address(source));
        let Some(tunnel) = tunnel.filter(is_its) else {
            return Outgoing::NOWHERE;
        };
        let fits = tunnel
            .assignment()
            .is_some_and(|own| packet.len() <= usize::from(own.inner_mtu));
        match tunnel.can_send().filter(|_| fits) {
            Some(epoch) => Outgoing::over(epoch, tunnel.frame(now, packet, frame)),
            None => Outgoing::NOWHERE,
        }
    }

    /// The socket of ours that a packet is from.
    fn own_flow(&self, packet: &[u8]) -> Option<FlowKey> {
        let packet = IpPacket::decode(packet, &Limits::WIDEST).ok()?;
        self.main
            .has_address(packet.source())
            .then(|| FlowKey::of_source(&packet))?
    }

    /// The datagram companion's transport, if it is that which carries a packet of this socket.
    fn beside_stream(&self, key: FlowKey, len: usize) -> Option<Epoch> {
        let companion = self.ddt().filter(|companion| companion.worked)?;
        let fits = len <= usize::from(companion.client.assignment()?.inner_mtu);
        let epoch = companion.client.can_send()?;
        (fits && self.main.is_on_companion(key)).then_some(epoch)
    }

    /// The transports for packets of a socket that has further streams: for a choice of one, the fastest first.
    fn stream_ways(&self, key: FlowKey) -> Option<([Option<Epoch>; MAX_WAYS], Spread)> {
        let (streams, is_each) = self.main.streams_of(key)?;
        let further = self.streams().take(usize::from(streams));
        let works = further.filter(|companion| companion.worked);
        let tunnels = std::iter::once(&self.main).chain(works.map(|companion| &companion.client));
        let mut ways = [(None, Duration::MAX); MAX_WAYS];
        let open = tunnels.filter_map(|tunnel| {
            let delay = tunnel.round_trip().unwrap_or_default();
            Some((Some(tunnel.can_send()?), delay))
        });
        for (way, found) in ways.iter_mut().zip(open) {
            *way = found;
        }
        let spread = if is_each {
            Spread::All
        } else {
            ways.sort_by_key(|(_, delay)| *delay);
            Spread::One
        };
        Some((ways.map(|(way, _)| way), spread))
    }

    /// The transport of the tunnel in this place of the family, as [`Self::can_send`].
    #[must_use]
    pub fn transport(&self, tunnel: usize) -> Option<Epoch> {
        match tunnel.checked_sub(1) {
            None => self.main.can_send(),
            Some(place) => self.companions.get(place)?.as_ref()?.client.can_send(),
        }
    }

    /// Whether the packet has another way than the main tunnel, or is to be dropped.
    #[must_use]
    #[inline]
    pub fn is_beside(&self, packet: &[u8]) -> bool {
        self.is_of_companion(packet)
            || self.is_divided()
                && self.own_flow(packet).is_some_and(|key| {
                    let main = self.main.can_send();
                    let is_other = |way: Option<Epoch>| way.is_some() && way != main;
                    let streams = self.stream_ways(key);
                    self.beside_stream(key, packet.len()).is_some()
                        || streams.is_some_and(|(ways, _)| ways.into_iter().any(is_other))
                })
    }

    /// Whether the packet is from an address of an encrypted companion, or of one that is over.
    #[must_use]
    #[inline]
    pub fn is_of_companion(&self, packet: &[u8]) -> bool {
        !self.foreign.is_empty() && !self.is_mains(packet)
    }

    /// Whether any packet may have another way, or none.
    #[must_use]
    #[inline]
    pub fn has_other_ways(&self) -> bool {
        !self.foreign.is_empty() || self.is_divided()
    }

    /// Whether a companion works.
    #[inline]
    pub(super) fn is_divided(&self) -> bool {
        let mut companions = self.companions.iter().flatten();
        companions.any(|companion| companion.worked)
    }
}
