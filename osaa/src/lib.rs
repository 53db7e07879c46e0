//! Operating system adaptation: everything that OpenTSC takes from the operating system and from TLS libraries.
//!
//! ```text
//!   clients                                     servers
//!   -------                                     -------
//!   client::connect(Target) -> ClientTransport  listener::StreamListener   datagram::DatagramSocket
//!        |                  \                        | yields                   | batches
//!        v                   v                       v                          v
//!   stream::StreamTransport  DatagramTransport  stream::StreamTransport   dtls::DtlsServerEndpoint
//!        |                        |                                             |
//!        +---- tls (rustls) ------+-- dtls::DtlsSession (OpenSSL, dimpl, webrtc)+
//!                                 |
//!                        cert: identities, trust, verification, for all of them
//! ```
//!
//! | module | gives |
//! | --- | --- |
//! | [`cert`] | certificates and keys from PEM, trust, the one verification path, who the peer is |
//! | [`client`] | connecting to a target over TCP, TLS, UDP or DTLS; one shape for all four |
//! | [`proxy`] | the way through an HTTP proxy, for TCP and TLS |
//! | [`stream`], [`tls`] | TCP connections, plain or under TLS, at either end |
//! | [`listener`] | one TCP port for plain and TLS connections, safe against strangers |
//! | [`datagram`] | UDP in batches |
//! | [`dtls`] | DTLS without sockets, by interchangeable libraries |
//! | [`socket`] | options, marks, addresses, source prefixes |
//! | [`netwatch`] | changes of the host's network |
//! | [`resolve`] | names to addresses, by SRV records too |
//! | [`random`] | the operating system's generator |
//! | `tun` | TUN devices on Linux (feature `tun`) |
//! | [`trace`] | capture files for Wireshark |
//!
//! Nothing here knows what the bytes mean, beyond the first byte by which a listener tells plain connections from TLS, and
//! the ALPN name. Everything is polled or awaited within a tokio runtime; record layers have no sockets of their own.
//! Each buffer and table states its bound where it is declared. What strangers cause is counted and logged
//! sparingly, and is never an error of the caller's.
//!
//! Cargo features choose the DTLS libraries: `dtls-openssl` (default), `dtls-dimpl` and `dtls-webrtc`. `tun` adds TUN devices,
//! `proxy-negotiate` NTLM and Kerberos at proxies. `netwatch` (default) watches the network on Linux, `srv` (default) finds
//! servers by DNS SRV records.

pub mod cert;
pub mod client;
pub mod clock;
pub mod datagram;
pub mod dtls;
pub mod listener;
#[cfg(all(any(feature = "netwatch", feature = "tun"), target_os = "linux"))]
mod netlink;
pub mod netwatch;
pub mod proxy;
pub mod random;
pub mod resolve;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod trace;
#[cfg(all(feature = "tun", target_os = "linux"))]
pub mod tun;
