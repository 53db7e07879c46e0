//! Client SDK: tunnels, and sockets that live inside them.
//!
//! A [`Tunnel`] carries an application's IP packets to a tunnel server, over TCP, TLS, UDP or DTLS. Its sockets look
//! like tokio's and need no privileges: the IP stack is part of this library.
//!
//! ```no_run
//! use std::time::Duration;
//! use tsc_tapi::Tunnel;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tunnel = Tunnel::builder("tls://sbc.example.com:443".parse()?).connect().await?;
//! let config = tunnel.config();
//! let sip_server = *config.sip_servers.first().ok_or("no SIP server assigned")?;
//!
//! let socket = tunnel.bind_udp((tunnel.local_address_for(sip_server)?, 5060).into())?;
//! socket.send_to(b"OPTIONS sip:example.com SIP/2.0\r\n\r\n", sip_server).await?;
//! let mut buffer = [0; 1500];
//! let (length, from) = socket.recv_from(&mut buffer).await?;
//! println!("{length} bytes from {from}");
//!
//! tunnel.close(Duration::from_secs(2)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`TunnelBuilder`]: servers in order of preference, trust, credentials, time limits.
//! - [`TunnelConfig`]: what the server assigned.
//! - [`UdpSocket`]: inner UDP.
//! - [`TcpStream`], [`TcpListener`], [`TcpSocket`]: inner TCP.
//! - [`Tunnel::lookup_host`]: names, by the DNS servers inside.
//! - [`PacketSocket`]: packets of a network behind this client, for gateways, which put them on a TUN device (`tun`,
//!   feature `tun`, Linux).
//! - [`proxy`]: HTTP proxies on the way, with their credentials (feature `proxy-negotiate` for NTLM and Kerberos).
//! - [`Notification`]: what happens to a tunnel, as a stream of typed events.
//! - [`ErrorCode`] and [`Coded`]: the SDK guide's error codes 0-12 for each typed error.
//!
//! Each tunnel has one task, spawned on the runtime in which it was opened, and ends when its [`Tunnel`] is
//! dropped or closed.

mod builder;
mod code;
mod config;
mod driver;
mod encryption;
mod error;
mod linger;
mod lookup;
mod memory;
mod notification;
mod peers;
mod routed;
mod routes;
mod server;
mod services;
mod shared;
mod tcp;
mod trace;
mod tunnel;
mod udp;
mod wakers;

pub use builder::{LONGEST_RACE_DELAY, TunnelBuilder};
pub use code::{Coded, ErrorCode};
pub use config::TunnelConfig;
pub use error::{CloseError, ConnectError, LookupError, ServiceError, SocketError, TraceError};
pub use linger::MAX_LINGERING;
pub use lookup::{LOOKUP_TIME, MAX_ADDRESSES};
pub use memory::{MAX_REMEMBERED, PathMemory};
pub use notification::{NOTIFICATION_BACKLOG, Notification, Notifications};
pub use peers::PeerPackets;
pub use routed::{MAX_BATCH, MAX_ROUTED_PACKETS, PacketBatch, PacketSocket, PacketStats};
pub use server::{DEFAULT_PORT, ParseServerError, Server};
pub use services::Service;
pub use tcp::{
    DEFAULT_BACKLOG, OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, TcpListener, TcpSocket,
    TcpStream, WriteHalf,
};
pub use trace::TraceOptions;
pub use tsc_csm::{
    Candidate, InnerAddress, MAX_COPIES, MAX_FLOWS, MAX_ROUTED_PREFIXES, PathEnd, Prefix,
    PrefixError, Transport,
    client::{
        AddressWish, AttemptFailure, ClientConfigError, DownReason, Encryption, MAX_DIRECT_PACKET,
        MAX_PEERS, Redundancy, RedundancyStatus, Refusal, SuspendReason, TunnelTransport,
    },
    server::pool::Family,
};
/// Quality of media: what [`UdpSocket::watch_media`] tells, and the E-model (G.107) that estimates it.
pub use tsc_eip::media;
/// HTTP proxies on the way to a server: what [`TunnelBuilder::proxy`] takes.
pub use tsc_osaa::proxy;
pub use tsc_osaa::trace::{CaptureError, CaptureStats};
#[cfg(all(feature = "tun", target_os = "linux"))]
pub use tsc_osaa::tun;
pub use tsc_osaa::{
    cert::{CertificateError, CredentialError, HelloOptions, Identity, PemSource, Roots, Trust},
    client::ConnectError as TransportConnectError,
    dtls::DtlsBackendKind,
    socket::{Dscp, OuterDscp},
};
pub use tsc_redact::Redaction;
pub use tsc_tpl::{ReceptionReport, ResponseCode};
pub use tunnel::{Activity, Tunnel};
pub use udp::UdpSocket;
