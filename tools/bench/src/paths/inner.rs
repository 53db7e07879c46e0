//! What happens to inner packets: routed by the server, sent and received by embedded stacks.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use tsc_eip::{SendOptions, Stack, StackConfig, TcpHandle, TcpOptions, UdpHandle};
use tsc_server::config::{Config, Overrides};
use tsc_server::harness::PacketPath;

use super::{Operation, packet};

/// RTP header and 20 ms of G.711.
const PAYLOAD: [u8; 172] = [0x5a; 172];

/// A server's way of packets with `tunnels` tunnels, which may reach each other.
pub(super) fn server(tunnels: usize) -> anyhow::Result<PacketPath> {
    let text = r#"
[tscf-config]
max-tunnels = 200000
[[tscf-interface]]
realm-id = "access"
local-address-pools = ["clients"]
authentication = "none"
[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = "tcp"
[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0/14"]
"#;
    let config = Config::parse_with(text, "bench", &Overrides::default())?;
    Ok(PacketPath::new(&config, Instant::now(), tunnels)?)
}

/// The IPv4 address of a tunnel.
pub(super) fn address(path: &PacketPath, tunnel: usize) -> anyhow::Result<[u8; 4]> {
    let address = path.addresses(tunnel).first();
    let Some(IpAddr::V4(address)) = address else {
        anyhow::bail!("tunnel {tunnel} has no IPv4 address");
    };
    Ok(address.octets())
}

/// From tunnel to tunnel.
pub(super) struct Route {
    path: PacketPath,
    /// Of each tunnel a packet to another.
    packets: Vec<Vec<u8>>,
    next: usize,
}

impl Route {
    pub(super) fn new(tunnels: usize) -> anyhow::Result<Self> {
        let path = server(tunnels)?;
        let packets = (0..tunnels).map(|tunnel| {
            // Prime, so that no two packets in a row go to neighbours.
            let to = (tunnel + 7919) % tunnels;
            Ok(packet(address(&path, tunnel)?, address(&path, to)?))
        });
        Ok(Self {
            packets: packets.collect::<anyhow::Result<_>>()?,
            path,
            next: 0,
        })
    }
}

impl Operation for Route {
    fn run(&mut self, count: u32) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut got = 0;
        for number in 1..=count {
            let packet = self.packets.get(self.next).context("no packet")?;
            self.path.tunnel_packet(now, self.next, black_box(packet));
            self.next = (self.next + 1) % self.packets.len();
            // As many as a worker takes at once.
            if number.is_multiple_of(64) || number == count {
                self.path.drain(|_, packet| {
                    black_box(packet);
                    got += 1;
                });
            }
        }
        ensure!(got == count, "{got} of {count} packets were routed");
        Ok(())
    }
}

/// One end of a call: an embedded stack and its socket.
pub(super) struct Phone {
    pub(super) stack: Stack,
    socket: UdpHandle,
    buffer: Vec<u8>,
}

impl Phone {
    pub(super) fn new(address: [u8; 4]) -> anyhow::Result<Self> {
        let mut stack = Stack::new(StackConfig::default(), 1);
        stack.set_addresses(&[IpAddr::from(address)])?;
        let socket = stack.udp_bind((address, 5004).into())?;
        Ok(Self {
            stack,
            socket,
            buffer: vec![0; 2048],
        })
    }

    /// A packet with a payload for a phone at `to`. To be [recycled](Stack::recycle).
    pub(super) fn send(&mut self, now: Instant, to: [u8; 4]) -> anyhow::Result<Vec<u8>> {
        let options = SendOptions::default();
        let payload = black_box(&PAYLOAD);
        self.stack
            .udp_send_to(now, self.socket, (to, 5004).into(), payload, &options)?;
        self.stack.poll_transmit().context("nothing is sent")
    }

    /// Takes a packet, and what the application gets of it.
    pub(super) fn receive(&mut self, now: Instant, packet: &[u8]) -> anyhow::Result<()> {
        self.stack.handle_packet(now, black_box(packet));
        let _readable = black_box(self.stack.poll_event());
        let received = self.stack.udp_recv(self.socket, &mut self.buffer);
        black_box(received.context("nothing is received")??);
        Ok(())
    }
}

/// From one embedded stack to another.
pub(super) struct Udp(Phone, Phone);

const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [10, 0, 0, 2];

impl Udp {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self(Phone::new(HERE)?, Phone::new(THERE)?))
    }
}

impl Operation for Udp {
    fn run(&mut self, count: u32) -> anyhow::Result<()> {
        let now = Instant::now();
        for _ in 0..count {
            let packet = self.0.send(now, THERE)?;
            self.1.receive(now, &packet)?;
            self.0.stack.recycle(packet);
        }
        Ok(())
    }
}

/// Inner TCP.
pub(super) struct Tcp {
    client: Stack,
    server: Stack,
    near: TcpHandle,
    far: TcpHandle,
    buffer: Vec<u8>,
}

impl Tcp {
    pub(super) fn new() -> anyhow::Result<Self> {
        let now = Instant::now();
        let mut client = Stack::new(StackConfig::default(), 1);
        let mut server = Stack::new(StackConfig::default(), 2);
        client.set_addresses(&[IpAddr::from(HERE)])?;
        server.set_addresses(&[IpAddr::from(THERE)])?;
        let listener = server.tcp_listen((THERE, 80).into(), 16)?;
        let any = ([0; 4], 0).into();
        let near = client.tcp_connect(now, any, (THERE, 80).into(), TcpOptions::default())?;
        for _ in 0..2 {
            exchange(now, &mut client, &mut server);
            exchange(now, &mut server, &mut client);
        }
        let (far, _) = server.tcp_accept(listener).context("not connected")?;
        Ok(Self {
            client,
            server,
            near,
            far,
            buffer: vec![0; 2048],
        })
    }
}

impl Operation for Tcp {
    fn run(&mut self, count: u32) -> anyhow::Result<()> {
        let now = Instant::now();
        for _ in 0..count {
            let sent = self.client.tcp_send(now, self.near, black_box(&[7; 500]))?;
            exchange(now, &mut self.client, &mut self.server);
            let got = self.server.tcp_recv(now, self.far, &mut self.buffer)?;
            exchange(now, &mut self.server, &mut self.client);
            while self.client.poll_event().is_some() {}
            while self.server.poll_event().is_some() {}
            ensure!(
                (sent, got) == (500, Some(500)),
                "{sent} bytes, then {got:?}"
            );
        }
        Ok(())
    }
}

fn exchange(now: Instant, from: &mut Stack, to: &mut Stack) {
    while let Some(packet) = from.poll_transmit() {
        to.handle_packet(now, &packet);
        from.recycle(packet);
    }
}
