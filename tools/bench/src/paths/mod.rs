//! Pieces of the way of a packet, without a network: what Criterion times and callgrind counts.
//!
//! Each is an [`Operation`] that can be repeated; what is made once, tunnels and handshakes, is made before. Packets have
//! 200 bytes, as RTP with 20 ms of G.711 has.

mod end_to_end;
mod hop;
mod inner;
mod wire;

pub use end_to_end::EndToEnd;
pub use hop::{Hop, HopKind};

/// Something that is done again and again.
pub trait Operation {
    /// Does it `count` times.
    ///
    /// # Errors
    ///
    /// It did not come out as it should: what was counted would mean nothing.
    fn run(&mut self, count: u32) -> anyhow::Result<()>;
}

/// An operation by name.
#[derive(Clone, Copy)]
pub struct Subject {
    /// Its name in tables.
    pub name: &'static str,
    /// What one time is.
    pub what: &'static str,
    make: fn() -> anyhow::Result<Box<dyn Operation>>,
}

impl Subject {
    /// Makes it ready.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub fn make(&self) -> anyhow::Result<Box<dyn Operation>> {
        (self.make)()
    }

    /// Finds one by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        all().into_iter().find(|subject| subject.name == name)
    }
}

/// All of them that this build has.
#[must_use]
pub fn all() -> Vec<Subject> {
    let mut subjects = vec![
        Subject {
            name: "decode",
            what: "decode a datagram, look at addresses and ports",
            make: || Ok(Box::new(wire::Decode::new())),
        },
        Subject {
            name: "frame",
            what: "cut a packet out of a stream read in pieces of 1448 bytes",
            make: || Ok(Box::new(wire::Frame::new())),
        },
        Subject {
            name: "route",
            what: "decode, check the source, find the route among 1000 tunnels, copy",
            make: || Ok(Box::new(inner::Route::new(1000)?)),
        },
        Subject {
            name: "eip-udp",
            what: "send a datagram from one embedded stack to another",
            make: || Ok(Box::new(inner::Udp::new()?)),
        },
        Subject {
            name: "eip-tcp",
            what: "send 500 bytes over inner TCP, acknowledgement included",
            make: || Ok(Box::new(inner::Tcp::new()?)),
        },
        Subject {
            name: "hop-tcp",
            what: "queue, write, read and cut one packet over TCP on loopback",
            make: || Ok(Box::new(Hop::new(HopKind::Tcp)?)),
        },
        Subject {
            name: "hop-tls",
            what: "the same, sealed and opened",
            make: || Ok(Box::new(Hop::new(HopKind::Tls)?)),
        },
    ];
    for (backend, hop, way) in hop::DTLS {
        if HopKind::dtls(backend).is_some() {
            subjects.extend([hop, way]);
        }
    }
    subjects.extend([
        Subject {
            name: "way-udp",
            what: "client to client in memory: send, route, receive",
            make: || Ok(Box::new(EndToEnd::new(HopKind::Plain)?)),
        },
        Subject {
            name: "way-tls",
            what: "the same over two TLS hops",
            make: || Ok(Box::new(EndToEnd::new(HopKind::Tls)?)),
        },
    ]);
    subjects
}

/// An inner UDP packet of 200 bytes.
fn packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let from = std::net::SocketAddrV4::new(from.into(), 5004);
    let to = std::net::SocketAddrV4::new(to.into(), 5004);
    let mut packet = tsc_load::probe::headers(from, to, 200).to_vec();
    packet.resize(200, 0x55);
    packet
}
