//! State machines of both ends of a TSCF tunnel's control plane, sans-IO.
//!
//! [`client::Client`] is the client's end of one tunnel; [`server::Server`] is the server's end of all tunnels of
//! one worker. Neither owns a socket, a clock, a task or a random source: the owner hands in units that `tsc-tpl`
//! has decoded, the time, and a [`Random`], and drains what comes of it. So everything that follows from loss,
//! delay and chance is tested in virtual time (`tools/sim`).
//!
//! | feed | drain, after each input | meaning |
//! | --- | --- | --- |
//! | `handle_unit(now, ..)`, `handle_bad_unit` | `poll_transmit` | bytes for a transport, one control message each |
//! | what becomes of transports | `poll_event` | what the owner is to do or to know |
//! | `handle_timeout(now)` | `poll_timeout` | when `handle_timeout` is due |
//!
//! Draining is always safe, early timers are harmless, and one input does a bounded amount of work. Transmits come
//! before events: an event that closes a transport means "when what was to be sent over it has been sent".
//!
//! Inner IP packets pass through `handle_unit` for the check of their addresses (spec 8.1), and never through
//! `poll_transmit`: they are the owner's own business, who only asks where they go.
//!
//! # The smallest loop: both ends, joined back to back
//!
//! ```
//! use std::time::Instant;
//! use tsc_csm::client::{self, Client, ClientConfig, Endpoint, Target};
//! use tsc_csm::server::pool::{AddressRange, PoolConfig, PoolRange};
//! use tsc_csm::server::{self, BindingInfo, InterfaceConfig, Server, ServerConfig, Verdict};
//! use tsc_csm::{Random, Transport};
//! use tsc_tpl::{Limits, Unit};
//!
//! struct Chance(u8); // In earnest: the operating system's generator.
//! impl Random for Chance {
//!     fn fill(&mut self, buf: &mut [u8]) {
//!         buf.fill_with(|| { self.0 = self.0.wrapping_mul(29).wrapping_add(7); self.0 });
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = Instant::now();
//!
//! // The server: a pool, an interface, and a connection that was accepted.
//! let range = AddressRange { first: [10, 0, 0, 1].into(), last: [10, 0, 0, 99].into() };
//! let pool = PoolConfig {
//!     name: "inside".into(),
//!     ranges: vec![PoolRange { range, prefix_len: 24 }],
//!     exclusions: vec![],
//!     quarantine: None,
//! };
//! let mut server = Server::new(
//!     ServerConfig {
//!         pools: vec![pool],
//!         interfaces: vec![InterfaceConfig::new("outside", vec![0])],
//!         ..ServerConfig::new()
//!     },
//!     now,
//!     Box::new(Chance(1)),
//! )?;
//! let peer = "192.0.2.1:4000".parse()?;
//! let local = ([203, 0, 113, 1], 443).into();
//! let info = BindingInfo { interface: 0, transport: Transport::Tls, peer, local, identity: None };
//! let binding = server.open_binding(now, info)?;
//!
//! // The client: where to go, and the transport that it asks for.
//! let target = Target { transport: Transport::Tls, endpoint: Endpoint::Configured(0) };
//! let mut client = Client::new(ClientConfig::new(vec![target]), Box::new(Chance(2)))?;
//! client.start(now);
//! let Some(client::Event::Open { epoch, .. }) = client.poll_event() else { panic!() };
//! client.transport_opened(now, epoch);
//!
//! // The loop. With sockets: wait for bytes or for `poll_timeout`, whichever comes first.
//! let limits = Limits::default();
//! loop {
//!     let mut idle = true;
//!     while let Some(transmit) = client.poll_transmit() {
//!         idle = false;
//!         let unit = Unit::decode_datagram(&transmit.bytes, &limits)?;
//!         match server.handle_unit(now, binding, &unit) {
//!             Verdict::Forward(session) => println!("a packet of {session:?} goes to the switch"),
//!             Verdict::ForwardFrame(session, _) => println!("packets of {session:?} do"),
//!             Verdict::Close(reason) => println!("stop reading: {reason:?}"),
//!             Verdict::Consumed | Verdict::Dropped(_) => {}
//!             Verdict::Elsewhere(shard) => println!("to shard {shard}, of a server that has several"),
//!         }
//!     }
//!     while let Some(transmit) = server.poll_transmit() {
//!         idle = false;
//!         // `transmit.to` says over which transport.
//!         let unit = Unit::decode_datagram(&transmit.bytes, &limits)?;
//!         if let client::Inbound::Deliver(packet) = client.handle_unit(now, epoch, unit) {
//!             println!("{} bytes for the inner stack", packet.len());
//!         }
//!     }
//!     if idle {
//!         break;
//!     }
//! }
//!
//! // The tunnel is up at both ends.
//! let Some(client::Event::Configured(assignment)) = client.poll_event() else { panic!() };
//! let Some(server::Event::SessionUp { session, addresses, .. }) = server.poll_event() else { panic!() };
//! assert_eq!(addresses, [assignment.addresses[0].address]);
//! assert_eq!(server.route(addresses[0]), Some(session));
//! assert_eq!(server.binding_of(session), Some(binding));
//! assert_eq!(client.can_send(), Some(epoch));
//! # Ok(())
//! # }
//! ```
//!
//! # Where the specification leaves room
//!
//! - **Confirmation**: the client sends a Keepalive as soon as it is configured and repeats it until the server
//!   has answered *that*; an idle tunnel would otherwise be closed after 30 s as unconfirmed.
//! - **Idle in PERSISTENT** counts from the entry into that state, so that any persistence time makes sense beside
//!   any keepalive time.
//! - **Protocol_Revision** is the highest that its sender speaks; the server answers 1 to every value from 1 on.
//! - **Requests that are refused** leave the transport open until its 10 s are over; the client closes it.
//! - **A late duplicate** of an earlier Configuration_Request (up to 32 sequences behind) on plain UDP is dropped,
//!   so that the network cannot take a living tunnel's transport away.
//! - **Requests beyond their source's rate** are answered `busy`, on plain UDP only as often as strangers are
//!   answered at all, and no event tells of them.
//! - **Answers on plain UDP** that no server gives are not believed at once: to a request without a cookie all but
//!   `cookie_required` are dropped (spec 8.2), and after a malformed answer, or `malformed`, the client goes on
//!   waiting for a better one until the request has failed by time.
//! - **STG**: a prefix is granted exactly as configured or not at all; wanting none means all; what is taken by
//!   another grant is left out. With nothing left the answer is `no_address`, with nothing configured
//!   `not_authorized`. An identity's own older tunnel is another grant, too, until it ends. The IPv4 broadcast address
//!   of a prefix shorter than 31 bits is nobody's. A client has one request about prefixes outstanding.
//! - **Server keepalive**: the client still sends a Keepalive for a reason (another network, nothing heard 5 s after something
//!   was sent), and keeps a NAT awake that is known to forget between two of the server's. The server asks after half
//!   the interval whatever packets it has forwarded meanwhile. An interval of 0 is granted, and nobody sends.
//! - **Redundancy**: the factor is a property of the socket: each of its packets is repeated so often, in frames of whatever socket. Factor
//!   0 is granted too: frames without copies, by which losses are measured. What does not fit a frame of 1200 bytes goes
//!   without. A frame far ahead of, or far behind, all before is believed when others confirm it.
//! - **Redundancy over streams**: the grant is in force at once, over the streams that there are; what does not travel in a frame goes over the
//!   main tunnel only. The client's *adaptive* redundancy is for datagrams.
//! - **Companions**: the server keeps one without flow keys for 30 s, so that a socket that falls back to the stream for a moment finds it again.
//!   Asked again for one that was claimed less than 10 s ago and is not confirmed yet, it offers nothing new: the client may be about to
//!   confirm it. Companion_Endpoint is sent where the default does not hold; a client behind a proxy, which the server does not see, needs
//!   it and does without the service otherwise. A companion can have redundancy by copies and server keepalive, and no other service.
//! - **Peer tunnels**: a pair of inner addresses has one, so what ends it names both, and sockets that use it are not counted as flow
//!   keys. The tag is sent only to an address that has returned a cookie or shown the right certificate. Over TCP the answer
//!   to a request without it may be `cookie_required` or `not_authorized`. B chooses UDP
//!   and TCP only where both main tunnels are clear, and the server strikes clear candidates of its answer elsewhere. Without any
//!   candidate left the answer is `peer_unavailable`. B has no NAT where the server sees its own address, or A's candidates are
//!   private. Where A does not know its outer address by STUN it adds a candidate of a stream with port 9, for the host that it comes from
//!   (RFC 6544). Nothing comes to A's sockets but from B's candidates, and to B's but from hosts of A's. STUN is answered only by interfaces that offer the service.
//! - **Limits by source prefix** count a tunnel where it was configured, for all its life: resuming from elsewhere
//!   would otherwise move it out of the count.
//! - **`unsupported_tlv` and `unsupported_message`** do not count towards the eight message errors: a newer peer
//!   says such things in good faith.
//! - **A resume** needs the interface of the configuration, and rejects a tunnel that is being released.
//! - **Failed attempts**: a target rests with full jitter (1 s doubling to 60 s), and all targets are tried before
//!   one is tried again. `busy` and `no_resources` rest every target of that host. `malformed`,
//!   `unsupported_version`, `unsupported_tlv`, `not_authorized` and certificate errors are final for a target.

mod assignment;
mod backoff;
pub mod client;
mod companion;
mod flow;
mod peer;
mod prefix;
mod random;
mod redundancy;
mod resume;
mod secret;
pub mod server;
mod service;
mod transaction;
mod transport;
mod wire;

pub use assignment::{Alternate, Assignment, InnerAddress};
pub use companion::CompanionRole;
pub use flow::{FlowKey, InnerTransport, MAX_FLOWS};
pub use peer::{Candidate, MAX_CANDIDATES, MOST_UNANSWERED, PathEnd};
pub use prefix::{MAX_ROUTED_PREFIXES, Prefix, PrefixError};
pub use random::{BoxedRandom, Random};
pub use redundancy::MAX_COPIES;
pub use secret::{Key32, Secret};
pub use service::ServiceGrant;
pub use transaction::{ANSWER_MEMORY, MAX_ANSWERS, MAX_OUTSTANDING};
pub use transport::Transport;
