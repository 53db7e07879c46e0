//! UDP inside a tunnel.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tsc_tapi::UdpSocket as Inner;

use crate::{
    address::Address,
    engine::{listen, lock},
    error::{ListenerError, Result, TscError},
    held::Held,
    service::{
        Encryption, MediaQuality, MediaWatch, PeerPackets, Redundancy, RedundancyStatus,
        TunnelTransport,
    },
    tunnel::Core,
};

/// No datagram is longer.
const LONGEST: usize = 65_535;
/// Datagrams of one call of a listener, at most.
const BATCH: usize = 32;

/// A datagram that was received.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Datagram {
    /// What it holds.
    pub payload: Vec<u8>,
    /// Who sent it.
    pub sender: Address,
}

/// Gets the datagrams of a socket as they come, by a thread of the socket's own. While it does not return they wait in the socket's queue,
/// where the oldest are dropped when it is full. It may call everything, also `release`.
#[uniffi::export(foreign)]
pub trait DatagramListener: Send + Sync {
    /// One or more have come, at most 32.
    fn on_datagrams(&self, datagrams: Vec<Datagram>) -> std::result::Result<(), ListenerError>;

    /// The tunnel is over: nothing comes any more. Not called when the application releases the socket or its tunnel.
    fn on_end(&self, reason: String) -> std::result::Result<(), ListenerError>;
}

/// A UDP socket inside a tunnel. Sending never waits: where the network is slower than the application the oldest datagrams are
/// dropped, as media wants it, and so it is with those that are not received in time.
#[derive(Debug, uniffi::Object)]
pub struct UdpSocket {
    held: Held<Inner>,
    buffer: Mutex<Vec<u8>>,
    delivers: AtomicBool,
}

impl UdpSocket {
    pub(crate) fn of(core: Arc<Core>, socket: Inner) -> Arc<Self> {
        Arc::new(Self {
            held: Held::new(core, socket),
            buffer: Mutex::default(),
            delivers: AtomicBool::new(false),
        })
    }

    fn socket(&self) -> Result<Arc<Inner>> {
        self.held.get()
    }
}

/// The next datagram, if there is one.
fn next(socket: &Inner, buffer: &mut Vec<u8>) -> io::Result<Datagram> {
    buffer.resize(LONGEST, 0);
    let (length, sender) = socket.try_recv_from(buffer)?;
    Ok(Datagram {
        payload: buffer.get(..length).unwrap_or_default().to_vec(),
        sender: sender.into(),
    })
}

#[uniffi::export]
impl UdpSocket {
    /// The inner address that the socket is bound to. One that is encrypted has that of the tunnel that does it.
    pub fn local_address(&self) -> Result<Address> {
        Ok(self.socket()?.local_addr()?.into())
    }

    /// The peer that the socket is connected to.
    pub fn peer_address(&self) -> Result<Address> {
        Ok(self.socket()?.peer_addr()?.into())
    }

    /// Sets the peer: `send` sends to it, and datagrams are received from it only.
    pub fn connect(&self, peer: Address) -> Result<()> {
        let (socket, peer) = (self.socket()?, peer.parse()?);
        self.held
            .wait(None, async { Ok(socket.connect(peer).await?) })?;
        Ok(())
    }

    /// Sends a datagram to the peer that the socket is connected to.
    pub fn send(&self, payload: Vec<u8>) -> Result<()> {
        self.socket()?.try_send(&payload)?;
        Ok(())
    }

    /// Sends a datagram.
    pub fn send_to(&self, payload: Vec<u8>, target: Address) -> Result<()> {
        self.socket()?.try_send_to(&payload, target.parse()?)?;
        Ok(())
    }

    /// Receives a datagram: waits for it at most so long, and gives none if none has come; without a timeout it waits as long as the
    /// tunnel lives. `ConnectionRefused` and `Unreachable` come from connected peers, and leave the socket as it is.
    #[uniffi::method(default(timeout = None))]
    pub fn receive(&self, timeout: Option<Duration>) -> Result<Option<Datagram>> {
        if self.delivers.load(Ordering::Relaxed) {
            return Err(TscError::invalid(
                "a listener gets the datagrams of this socket",
            ));
        }
        let socket = self.socket()?;
        self.held.wait(timeout, async {
            loop {
                match next(&socket, &mut lock(&self.buffer)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return Ok(received?),
                }
                socket.readable().await?;
            }
        })
    }

    /// Gives all datagrams to a listener from now on, instead of `receive`; once for a socket. They come as long as this object is held.
    pub fn deliver_to(&self, listener: Arc<dyn DatagramListener>) -> Result<()> {
        let socket = self.socket()?;
        let engine = self.held.core.enter()?;
        if self.delivers.swap(true, Ordering::Relaxed) {
            return Err(TscError::invalid("the socket has a listener already"));
        }
        let released = self.held.released();
        let tunnel_released = self.held.core.released();
        let started = listen(
            "tsc-datagrams",
            engine,
            listener,
            move |engine, listener| {
                let mut buffer = Vec::new();
                let mut released = std::pin::pin!(async move {
                    tokio::select! {
                        () = released => {}
                        () = tunnel_released => {}
                    }
                });
                loop {
                    // Nothing of the application runs inside the runtime, so that listeners may block.
                    let batch = engine.handle().block_on(async {
                        tokio::select! {
                            biased;
                            () = &mut released => None,
                            batch = batch(&socket, &mut buffer) => Some(batch),
                        }
                    });
                    let told = match batch {
                        None => return,
                        Some(Ok(datagrams)) => listener.on_datagrams(datagrams),
                        Some(Err(error)) => {
                            if let Err(error) = listener.on_end(error.to_string()) {
                                tracing::warn!(%error, "of a socket");
                            }
                            return;
                        }
                    };
                    if let Err(error) = told {
                        tracing::warn!(%error, "of a socket");
                    }
                }
            },
        );
        if started.is_err() {
            self.delivers.store(false, Ordering::Relaxed);
        }
        started
    }

    /// How packets are protected against loss, in both directions. Whether and when that is in force is told by `ServiceChanged`.
    pub fn set_redundancy(&self, redundancy: Redundancy) -> Result<()> {
        Ok(self.socket()?.set_redundancy(redundancy.into())?)
    }

    /// What redundancy does for this socket.
    pub fn redundancy_status(&self) -> Result<RedundancyStatus> {
        let socket = self.socket()?;
        let status = self
            .held
            .wait(None, async { Ok(socket.redundancy_status().await?) })?;
        Ok(status.unwrap_or_default().into())
    }

    /// Which tunnel carries the datagrams, in both directions (DDT). Told by `ServiceChanged`.
    pub fn set_tunnel_transport(&self, transport: TunnelTransport) -> Result<()> {
        Ok(self.socket()?.set_tunnel_transport(transport.into())?)
    }

    /// Whether packets are encrypted (DTTE). On a tunnel over TLS or DTLS they are. An encrypted socket of a clear tunnel gets another inner
    /// address: `wait_until_encrypted`, and `ServiceChanged`.
    pub fn set_encryption(&self, level: Encryption) -> Result<()> {
        Ok(self.socket()?.set_encryption(level.into())?)
    }

    /// Waits until it is known whether the packets are encrypted, and gives the address that the socket then has: what belongs
    /// into its signalling. `NotEncrypted` where they are not.
    #[uniffi::method(default(timeout = None))]
    pub fn wait_until_encrypted(&self, timeout: Option<Duration>) -> Result<Address> {
        let socket = self.socket()?;
        match self
            .held
            .wait(timeout, async { Ok(socket.encrypted().await?) })?
        {
            Some(address) => Ok(address.into()),
            None => Err(TscError::late("it is not known yet")),
        }
    }

    /// Whether packets are to reach other clients of the server without it. Told by `ServiceChanged` and `PeerTunnelUp`.
    pub fn set_peer(&self, wanted: bool) -> Result<()> {
        Ok(self.socket()?.set_peer(wanted)?)
    }

    /// Packets of this socket's port that travelled without the server.
    pub fn peer_packets(&self) -> Result<PeerPackets> {
        Ok(self.socket()?.peer_packets().into())
    }

    /// The mark (DSCP) of the inner packets that are sent from now on, 0 to 63.
    pub fn set_dscp(&self, dscp: u8) -> Result<()> {
        Ok(self.socket()?.set_dscp(dscp)?)
    }

    /// Watches the media that comes to this socket, from now on. Alarms are told by `QualityChanged`. Only headers are looked at: SRTP is as
    /// good.
    pub fn watch_media(&self, watch: MediaWatch) -> Result<()> {
        Ok(self.socket()?.watch_media(watch.into())?)
    }

    /// How the media is that comes to this socket; none before a window of it has passed.
    pub fn media_quality(&self) -> Result<Option<MediaQuality>> {
        Ok(self.socket()?.media_quality().map(Into::into))
    }

    /// Closes the socket. Calls that wait for it return at once; a listener is not called again, but may still be running.
    pub fn release(&self) {
        self.held.release();
    }
}

/// What has come, as soon as anything has; the tunnel's end.
async fn batch(socket: &Inner, buffer: &mut Vec<u8>) -> io::Result<Vec<Datagram>> {
    let mut datagrams = Vec::new();
    loop {
        match next(socket, buffer) {
            Ok(datagram) => datagrams.push(datagram),
            Err(_) if !datagrams.is_empty() => return Ok(datagrams),
            // What is said of a peer, or nothing; the end is told here.
            Err(_) => socket.readable().await?,
        }
        if datagrams.len() >= BATCH {
            return Ok(datagrams);
        }
    }
}
