//! Between tunnels and egresses.

use std::{task::Context, time::Instant};

use tsc_csm::server::SessionId;
use tsc_osaa::trace::Direction;
use tsc_tpl::{IpPacket, Limits};

use super::{Worker, batch::Target, switch::Switch};
use crate::{egress::user_space::Way, server::RunError};

/// Of a tunnel that has just ended.
const MIN_INNER_MTU: u16 = 576;

impl Worker {
    /// Takes in what the egresses have.
    pub(super) fn read_core(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.read_tun(cx, now);
        self.forward(cx, now);
        self.read_user_space(cx, now);
        self.forward(cx, now);
    }

    fn read_user_space(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(user_space) = &mut self.user_space else {
            return;
        };
        let mut switch = Switch {
            core: &self.core,
            router: &mut self.router,
            batch: &mut self.batch,
            counters: &mut self.counters,
            tun_mtu: None,
        };
        let captures = &self.captures;
        self.again |= user_space.poll(cx, now, &mut |to, bytes| {
            if let Ok(packet) = IpPacket::decode(bytes, &Limits::WIDEST) {
                captures.core_packet(Direction::Inbound, bytes);
                let sender = Target::UserSpace {
                    from: to,
                    interface: 0,
                };
                switch.core_packet(now, sender, Some(to), &packet);
            }
        });
    }

    /// Gives a packet of the tunnel `from` to the host's sockets.
    pub(super) fn give_user_space(
        &mut self,
        now: Instant,
        from: SessionId,
        interface: usize,
        packet: &[u8],
    ) {
        let Some(user_space) = &mut self.user_space else {
            return;
        };
        let Ok(packet) = IpPacket::decode(packet, &Limits::WIDEST) else {
            return;
        };
        let servers = self.name_servers.get(interface);
        let way = Way {
            mtu: self.core.inner_mtu(from).unwrap_or(MIN_INNER_MTU),
            name_servers: servers.map_or(&[], Vec::as_slice),
        };
        user_space.handle_packet(now, from, &way, &packet);
        self.captures
            .core_packet(Direction::Outbound, packet.as_bytes());
    }

    fn read_tun(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(mut tun) = self.tun.take() else {
            return;
        };
        let mut switch = Switch {
            core: &self.core,
            router: &mut self.router,
            batch: &mut self.batch,
            counters: &mut self.counters,
            tun_mtu: Some(tun.mtu()),
        };
        let captures = &self.captures;
        let received = tun.receive(cx, |bytes| {
            if let Ok(packet) = IpPacket::decode(bytes, &Limits::WIDEST) {
                captures.core_packet(Direction::Inbound, bytes);
                switch.core_packet(now, Target::Tun(None), None, &packet);
            } else {
                switch.counters.egress.incoming += 1;
                switch.counters.egress.unreadable += 1;
            }
        });
        match received {
            Ok(more) => {
                self.again |= more;
                self.tun = Some(tun);
            }
            // It cannot be made again without the capabilities that were given up; whoever starts the server has them.
            Err(error) => {
                tracing::error!(
                    event = "tun-failed",
                    name = tun.name(),
                    %error,
                    "the TUN device is gone: releasing all tunnels, then ending with exit code 1"
                );
                let failure = RunError::TunLost {
                    name: tun.name().to_owned(),
                };
                self.fail(now, failure);
            }
        }
    }

    /// Queues a packet for the TUN device.
    pub(super) fn give_tun(&mut self, from: Option<SessionId>, packet: &[u8]) {
        if let Some(tun) = &mut self.tun {
            tun.queue(from.map_or(0, SessionId::index), packet);
            self.captures.core_packet(Direction::Outbound, packet);
        }
    }

    /// Sends what is queued for the TUN device.
    pub(super) fn flush_tun(&mut self) {
        if let Some(tun) = &mut self.tun {
            tun.flush();
            self.counters.egress.tun_dropped = tun.dropped();
        }
    }
}
