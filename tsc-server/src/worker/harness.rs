//! The way of packets without sockets, for benchmarks, fuzz targets and tests outside this crate.

use std::{net::IpAddr, time::Instant};

use tsc_csm::{
    Random, Transport,
    server::{BindingId, BindingInfo, Event, Server as Core, SessionId, Verdict},
};
use tsc_tpl::{CmType, IpPacket, Limits, MessageBuilder, Sequence, Tlv, Tsid, Unit, registry};

use super::{
    Counters,
    batch::{Batch, Target},
    core_config::core_config,
    switch::Switch,
};
use crate::{
    config::Config,
    egress::{rates, router::Router},
    server::StartError,
};

/// As random as it needs to be.
struct Counting(u64);

impl Random for Counting {
    fn fill(&mut self, buf: &mut [u8]) {
        for byte in buf {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = self.0.to_be_bytes().first().copied().unwrap_or_default();
        }
    }
}

/// A session core with tunnels, the router and the switch, as a worker has them, and a TUN device that takes everything.
#[derive(Debug)]
pub struct PacketPath {
    core: Core,
    router: Router,
    batch: Batch,
    counters: Counters,
    tunnels: Vec<Tunnel>,
}

#[derive(Debug)]
struct Tunnel {
    binding: BindingId,
    #[cfg_attr(not(test), expect(dead_code, reason = "unit tests ask for it"))]
    session: SessionId,
    addresses: Vec<IpAddr>,
}

impl PacketPath {
    /// Opens `tunnels` tunnels to the first interface of `config`.
    ///
    /// # Errors
    ///
    /// The session core does not take the configuration.
    pub fn new(config: &Config, now: Instant, tunnels: usize) -> Result<Self, StartError> {
        let core = Core::new(core_config(config), now, Box::new(Counting(1)))?;
        let mut path = Self {
            core,
            router: Router::new(config, rates::all(config, now)),
            batch: Batch::default(),
            counters: Counters::default(),
            tunnels: Vec::new(),
        };
        let mut request = Vec::new();
        let _ = MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
            .encode(&mut request);
        for number in 0..tunnels {
            // Each from an address of its own, so that no limit is met.
            let host = u32::try_from(number).unwrap_or_default();
            let peer = std::net::Ipv4Addr::from_bits(0x0B00_0001_u32.wrapping_add(host));
            let info = BindingInfo {
                interface: 0,
                transport: Transport::Tcp,
                peer: (peer, 1000).into(),
                local: (std::net::Ipv4Addr::LOCALHOST, 5060).into(),
                identity: None,
            };
            let Some(binding) = open(&mut path.core, now, info, &request) else {
                continue;
            };
            while path.core.poll_transmit().is_some() {}
            while let Some(event) = path.core.poll_event() {
                if let Event::SessionUp {
                    session, addresses, ..
                } = event
                {
                    path.router.session_up(session, &addresses);
                    path.tunnels.push(Tunnel {
                        binding,
                        session,
                        addresses,
                    });
                }
            }
        }
        Ok(path)
    }

    /// The addresses of a tunnel.
    #[must_use]
    pub fn addresses(&self, tunnel: usize) -> &[IpAddr] {
        let tunnel = self.tunnels.get(tunnel);
        tunnel.map_or(&[], |tunnel| &tunnel.addresses)
    }

    /// The session core's name of a tunnel.
    #[cfg(test)]
    pub(crate) fn session(&self, tunnel: usize) -> Option<SessionId> {
        self.tunnels.get(tunnel).map(|tunnel| tunnel.session)
    }

    /// A packet that a tunnel sends.
    pub fn tunnel_packet(&mut self, now: Instant, tunnel: usize, packet: &[u8]) {
        let Some(&Tunnel { binding, .. }) = self.tunnels.get(tunnel) else {
            return;
        };
        let Ok(unit) = Unit::decode_datagram(packet, &Limits::WIDEST) else {
            return;
        };
        if let (Verdict::Forward(from), Unit::Ip(packet)) =
            (self.core.handle_unit(now, binding, &unit), &unit)
        {
            self.switch().tunnel_packet(now, 0, from, packet);
        }
    }

    /// A packet from the TUN device.
    pub fn core_packet(&mut self, now: Instant, packet: &[u8]) {
        if let Ok(packet) = IpPacket::decode(packet, &Limits::WIDEST) {
            self.switch()
                .core_packet(now, Target::Tun(None), None, &packet);
        }
    }

    /// Gives what is to be sent: whether into a tunnel, and the packet. Forgets it.
    pub fn drain(&mut self, mut give: impl FnMut(bool, &[u8])) {
        for (target, packet) in self.batch.iter() {
            give(matches!(target, Target::Tunnel(_)), packet);
        }
        self.batch.clear();
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    fn switch(&mut self) -> Switch<'_> {
        Switch {
            core: &self.core,
            router: &mut self.router,
            batch: &mut self.batch,
            counters: &mut self.counters,
            tun_mtu: Some(9000),
        }
    }
}

fn open(core: &mut Core, now: Instant, info: BindingInfo, request: &[u8]) -> Option<BindingId> {
    let binding = core.open_binding(now, info).ok()?;
    let unit = Unit::decode_datagram(request, &Limits::WIDEST).ok()?;
    let _answered = core.handle_unit(now, binding, &unit);
    Some(binding)
}
