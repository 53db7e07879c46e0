//! One hop of a tunnel: from a client to its server or back, sealed and opened as its transport does.

use std::future::poll_fn;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tsc_osaa::cert::{
    ClientAuth, ClientSecurity, Identity, PemSource, Roots, ServerName, ServerSecurity, Trust,
};
use tsc_osaa::dtls::{
    AssociationKey, DtlsBackendKind, DtlsClientConfig, DtlsEndpointEvent, DtlsEndpointLimits,
    DtlsOptions, DtlsServerConfig, DtlsServerEndpoint, DtlsSession, DtlsState, MAX_PLAINTEXT,
};
use tsc_osaa::socket::StreamOptions;
use tsc_osaa::stream::{RECV_BUFFER, StreamTransport};
use tsc_tpl::{Limits, StreamDecoder};

use super::{EndToEnd, Operation, Subject, packet};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);

const NAME: &str = "server.test";

/// A handshake is over after so many flights at the latest.
const FLIGHTS: usize = 100;

/// DTLS libraries that work without tasks of their own, and what is measured with each.
pub(super) const DTLS: [(&str, Subject, Subject); 2] = [
    (
        "openssl",
        Subject {
            name: "hop-dtls-openssl",
            what: SEAL_AND_OPEN,
            make: || Ok(Box::new(Hop::new(dtls("openssl")?)?)),
        },
        Subject {
            name: "way-dtls-openssl",
            what: BOTH_HOPS,
            make: || Ok(Box::new(EndToEnd::new(dtls("openssl")?)?)),
        },
    ),
    (
        "dimpl",
        Subject {
            name: "hop-dtls-dimpl",
            what: SEAL_AND_OPEN,
            make: || Ok(Box::new(Hop::new(dtls("dimpl")?)?)),
        },
        Subject {
            name: "way-dtls-dimpl",
            what: BOTH_HOPS,
            make: || Ok(Box::new(EndToEnd::new(dtls("dimpl")?)?)),
        },
    ),
];

const SEAL_AND_OPEN: &str = "seal and open one packet, without sockets";
const BOTH_HOPS: &str = "client to client over two DTLS hops, without sockets";

fn dtls(name: &str) -> anyhow::Result<HopKind> {
    HopKind::dtls(name).with_context(|| format!("this build has no DTLS by {name}"))
}

/// What a hop goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// Nothing is done: plain UDP, without the system's part.
    Plain,
    /// TCP on loopback.
    Tcp,
    /// TLS on loopback.
    Tls,
    /// DTLS records, without sockets.
    Dtls(DtlsBackendKind),
}

impl HopKind {
    /// DTLS by the library of this name, if this build has it.
    #[must_use]
    pub fn dtls(name: &str) -> Option<Self> {
        let kind = name.parse::<DtlsBackendKind>().ok()?;
        kind.is_available().then_some(Self::Dtls(kind))
    }
}

/// See the module.
pub struct Hop {
    runtime: Runtime,
    link: Link,
    packet: Vec<u8>,
    out: Vec<u8>,
}

enum Link {
    Plain,
    Stream(Box<Stream>),
    Dtls(Box<Dtls>),
}

struct Stream {
    near: StreamTransport,
    far: StreamTransport,
    decoder: StreamDecoder,
    buffer: Vec<u8>,
}

struct Dtls {
    client: Box<dyn DtlsSession>,
    endpoint: DtlsServerEndpoint,
    key: AssociationKey,
    datagram: Vec<u8>,
    plaintext: Vec<u8>,
}

impl Hop {
    /// Joins both ends, handshake included.
    ///
    /// # Errors
    ///
    /// What went wrong.
    pub fn new(kind: HopKind) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let link = match kind {
            HopKind::Plain => Link::Plain,
            HopKind::Tcp => Link::Stream(Box::new(runtime.block_on(Stream::connect(None))?)),
            HopKind::Tls => {
                let security = Security::new()?;
                Link::Stream(Box::new(
                    runtime.block_on(Stream::connect(Some(&security)))?,
                ))
            }
            HopKind::Dtls(kind) => Link::Dtls(Box::new(Dtls::connect(kind)?)),
        };
        Ok(Self {
            runtime,
            link,
            packet: packet([10, 64, 0, 1], [10, 64, 0, 2]),
            out: Vec::new(),
        })
    }

    /// Carries one packet; what came out at the other end.
    ///
    /// # Errors
    ///
    /// It did not come out.
    pub(super) fn carry<'a>(&'a mut self, packet: &'a [u8]) -> anyhow::Result<&'a [u8]> {
        self.out.clear();
        match &mut self.link {
            Link::Plain => return Ok(packet),
            Link::Stream(stream) => self.runtime.block_on(stream.carry(packet, &mut self.out))?,
            Link::Dtls(dtls) => dtls.carry(packet, &mut self.out)?,
        }
        Ok(&self.out)
    }
}

impl Operation for Hop {
    fn run(&mut self, count: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            self.out.clear();
            let (packet, out) = (black_box(&self.packet), &mut self.out);
            match &mut self.link {
                Link::Plain => {}
                Link::Stream(stream) => self.runtime.block_on(stream.carry(packet, out))?,
                Link::Dtls(dtls) => dtls.carry(packet, out)?,
            }
            black_box(&self.out);
        }
        Ok(())
    }
}

/// Certificates of both ends.
struct Security {
    client: ClientSecurity,
    server: ServerSecurity,
}

impl Security {
    fn new() -> anyhow::Result<Self> {
        let certified = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let certificate = PemSource::from(certified.cert.pem().as_str());
        let key = PemSource::from(certified.signing_key.serialize_pem().as_str());
        let identity = Identity::from_pem(&certificate, &key)?;
        let trust = Trust::Roots(Roots::from_pem(&certificate)?);
        Ok(Self {
            client: ClientSecurity::new(trust, None)?,
            server: ServerSecurity::new(identity, ClientAuth::None)?,
        })
    }
}

impl Stream {
    async fn connect(security: Option<&Security>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let near = TcpStream::connect(listener.local_addr()?).await?;
        let (far, _) = listener.accept().await?;
        let (near, far) = match security {
            None => (
                StreamTransport::plain(near, &StreamOptions::client())?,
                StreamTransport::plain(far, &StreamOptions::server())?,
            ),
            Some(security) => {
                let name = ServerName::try_from(NAME)?;
                let (here, there) = (StreamOptions::client(), StreamOptions::server());
                let server = StreamTransport::tls_server(far, &security.server, &there);
                let client = StreamTransport::tls_client(near, &security.client, name, &here);
                let (far, near) = both(server, client).await;
                (near?, far?)
            }
        };
        Ok(Self {
            near,
            far,
            decoder: StreamDecoder::new(Limits::WIDEST),
            buffer: vec![0; RECV_BUFFER],
        })
    }

    async fn carry(&mut self, packet: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        self.near.queue(packet)?;
        poll_fn(|cx| self.near.poll_flush(cx)).await?;
        while out.len() < packet.len() {
            let length = self.far.recv(&mut self.buffer).await?;
            let bytes = self.buffer.get(..length).unwrap_or_default();
            let mut feed = self.decoder.feed(bytes);
            while let Some(unit) = feed.next()? {
                out.extend_from_slice(unit.as_bytes());
            }
        }
        Ok(())
    }
}

/// Both ends of a handshake, in one task.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut one, mut other) = (None, None);
    poll_fn(|cx| {
        if one.is_none()
            && let std::task::Poll::Ready(done) = a.as_mut().poll(cx)
        {
            one = Some(done);
        }
        if other.is_none()
            && let std::task::Poll::Ready(done) = b.as_mut().poll(cx)
        {
            other = Some(done);
        }
        match (one.take(), other.take()) {
            (Some(one), Some(other)) => std::task::Poll::Ready((one, other)),
            (first, second) => {
                (one, other) = (first, second);
                std::task::Poll::Pending
            }
        }
    })
    .await
}

impl Dtls {
    fn connect(kind: DtlsBackendKind) -> anyhow::Result<Self> {
        let security = Security::new()?;
        let options = DtlsOptions::default();
        let client = DtlsClientConfig::new(kind, &security.client, &options)?;
        let server = DtlsServerConfig::new(kind, &security.server, &options)?;
        let now = Instant::now();
        let mut client = client.connect(now, &ServerName::try_from(NAME)?)?;
        let mut endpoint =
            DtlsServerEndpoint::new(&server, DtlsEndpointLimits::default(), &[1; 32]);
        let mut datagram = Vec::new();
        let mut key = None;
        for _ in 0..FLIGHTS {
            while client.poll_transmit(&mut datagram).is_some() {
                let _readable = endpoint.handle_datagram(now, PEER, &datagram);
                datagram.clear();
            }
            while let Some(event) = endpoint.poll_event() {
                if let DtlsEndpointEvent::Connected { key: one, .. } = event {
                    key = Some(one);
                }
            }
            while endpoint.poll_transmit(&mut datagram).is_some() {
                client.handle_datagram(now, &datagram);
                datagram.clear();
            }
            while client.poll_event().is_some() {}
            if let Some(key) = key
                && client.state() == DtlsState::Connected
            {
                return Ok(Self {
                    client,
                    endpoint,
                    key,
                    datagram,
                    plaintext: vec![0; MAX_PLAINTEXT],
                });
            }
        }
        bail!("no DTLS handshake by {}", kind.name())
    }

    fn carry(&mut self, packet: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        let now = Instant::now();
        self.client.send(packet)?;
        while self.client.poll_transmit(&mut self.datagram).is_some() {
            let _readable = self.endpoint.handle_datagram(now, PEER, &self.datagram);
            self.datagram.clear();
        }
        while let Some(length) = self.endpoint.recv(self.key, &mut self.plaintext) {
            out.extend_from_slice(self.plaintext.get(..length).unwrap_or_default());
        }
        while self.endpoint.poll_event().is_some() {}
        if out.len() == packet.len() {
            return Ok(());
        }
        bail!("{} bytes came out of {}", out.len(), packet.len())
    }
}
