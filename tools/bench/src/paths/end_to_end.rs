//! From an application's socket through two tunnels and the server's switch to another application's socket.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use tsc_server::harness::PacketPath;

use super::inner::{Phone, address, server};
use super::{Hop, HopKind, Operation};

/// See the module. The server has a thousand tunnels; two of them talk.
pub struct EndToEnd {
    caller: Phone,
    callee: Phone,
    to: [u8; 4],
    up: Hop,
    down: Hop,
    server: PacketPath,
    /// What the switch has made of a packet.
    routed: Vec<u8>,
}

impl EndToEnd {
    /// Makes all of it ready.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub fn new(kind: HopKind) -> anyhow::Result<Self> {
        let server = server(1000)?;
        let (from, to) = (address(&server, 0)?, address(&server, 999)?);
        Ok(Self {
            caller: Phone::new(from)?,
            callee: Phone::new(to)?,
            to,
            up: Hop::new(kind)?,
            down: Hop::new(kind)?,
            server,
            routed: Vec::new(),
        })
    }
}

impl Operation for EndToEnd {
    fn run(&mut self, count: u32) -> anyhow::Result<()> {
        let now = Instant::now();
        for _ in 0..count {
            let packet = self.caller.send(now, self.to)?;
            let arrived = self.up.carry(&packet).context("to the server")?;
            self.server.tunnel_packet(now, 0, arrived);
            self.caller.stack.recycle(packet);
            let routed = &mut self.routed;
            routed.clear();
            self.server
                .drain(|_, packet| routed.extend_from_slice(packet));
            ensure!(!routed.is_empty(), "the server has dropped the packet");
            let arrived = self.down.carry(&self.routed).context("from the server")?;
            self.callee.receive(now, arrived)?;
        }
        Ok(())
    }
}
