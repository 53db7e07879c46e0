//! From egresses into tunnels, and from tunnels to the TUN device.

use std::{task::Context, time::Instant};

use tsc_csm::server::SessionId;
use tsc_osaa::trace::{Direction, Interface as Side};
use tsc_tpl::{IpPacket, Limits};

use super::{Worker, batch::Target, switch::Switch};

impl Worker {
    /// Takes in what the egresses have.
    pub(super) fn read_core(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.read_tun(cx, now);
        self.forward(cx);
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
        let capture = self.capture.as_ref();
        let received = tun.receive(cx, |bytes| {
            if let Ok(packet) = IpPacket::decode(bytes, &Limits::WIDEST) {
                if let Some((_, capture)) = capture {
                    capture.record(Side::Inner, Direction::Inbound, bytes);
                }
                switch.from_core(now, Target::Tun(None), None, &packet);
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
            // Tunnels go on without it, and their packets for the core are unreachable.
            Err(error) => {
                tracing::error!(event = "tun-failed", name = tun.name(), %error);
            }
        }
    }

    /// Queues a packet for the TUN device.
    pub(super) fn to_tun(&mut self, from: Option<SessionId>, packet: &[u8]) {
        if let Some(tun) = &mut self.tun {
            tun.queue(from.map_or(0, SessionId::index), packet);
            if let Some((_, capture)) = &self.capture {
                capture.record(Side::Inner, Direction::Outbound, packet);
            }
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
