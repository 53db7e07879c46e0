//! UDP inside a tunnel, shaped like tokio's.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, oneshot};
use tsc_csm::{
    FlowKey, InnerTransport, MAX_COPIES,
    client::{Encryption, Redundancy, RedundancyStatus, TunnelTransport},
};
use tsc_eip::{
    Dscp, SendOptions, UdpHandle, UdpPlacement,
    media::{MediaQuality, MediaWatch},
};

use crate::{
    error::SocketError,
    peers::{self, PeerPackets},
    services::{What, Wish},
    shared::{Shared, State},
};

/// A UDP socket whose packets travel inside the tunnel.
///
/// It has the methods of `tokio::net::UdpSocket`, so that moving an application into a tunnel is one changed line.
/// Sending never waits: a datagram goes into the tunnel's transmit queue, and when that is full (the network is
/// slower than the application) the *oldest* packet is dropped, as media wants it. Receiving does likewise with
/// datagrams that are not read.
///
/// Dropping the socket closes it. It may outlive its [`Tunnel`](crate::Tunnel); its calls then fail with
/// [`SocketError::TunnelDown`].
#[derive(Debug)]
pub struct UdpSocket {
    shared: Arc<Shared>,
    handle: UdpHandle,
    local: SocketAddr,
    readable: Arc<Notify>,
    options: Mutex<SendOptions>,
    encryption: Mutex<Encryption>,
}

impl UdpSocket {
    pub(crate) fn bind(shared: &Arc<Shared>, address: SocketAddr) -> io::Result<Self> {
        let mut state = shared.lock();
        state.check_up()?;
        let handle = state
            .stack
            .udp_bind(address)
            .map_err(|error| bind_error(&error, address))?;
        let local = state.stack.udp_local_addr(handle).unwrap_or(address);
        let readable = state.add_reader(handle);
        state.peer_counts.add_socket(local.port());
        drop(state);
        Ok(Self {
            shared: Arc::clone(shared),
            handle,
            local,
            readable,
            options: Mutex::default(),
            encryption: Mutex::default(),
        })
    }

    /// The inner address this socket is bound to, with the port chosen if port 0 was asked for. One that is encrypted has the address
    /// of the tunnel that does that ([`UdpSocket::set_encryption`]), unless it is bound to all.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let placement = self.shared.lock().stack.udp_placement(self.handle);
        let bound = !self.local.ip().is_unspecified();
        Ok(match placement {
            Some(UdpPlacement::At { address, .. }) if bound => {
                SocketAddr::new(address, self.local.port())
            }
            _ => self.local,
        })
    }

    /// The peer this socket is connected to.
    ///
    /// # Errors
    ///
    /// [`SocketError::NotConnected`].
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let peer = self.shared.lock().stack.udp_peer_addr(self.handle);
        peer.ok_or_else(|| SocketError::NotConnected.into())
    }

    /// Sets the default destination, and from now on receives from it only.
    ///
    /// # Errors
    ///
    /// The address cannot be a peer, or the tunnel is over.
    pub async fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.check_up()?;
        let connected = state.stack.udp_connect(self.handle, peer);
        connected.map_err(|error| match error {
            tsc_eip::ConnectError::InvalidPeer(peer) => SocketError::BadDestination(peer),
            tsc_eip::ConnectError::FamilyMismatch(peer) => SocketError::Family(peer),
            _ => SocketError::NotConnected,
        })?;
        drop(state);
        // From now on its peer knows it by the address that it has.
        let level = self.encryption();
        if level.is_wanted() {
            self.want(What::Encryption(level, true))?;
        }
        Ok(())
    }

    /// Sends one datagram to `target`; returns the payload's length.
    ///
    /// # Errors
    ///
    /// [`SocketError`] inside: the datagram is too long, the destination cannot be reached from inside a tunnel, or
    /// the tunnel is over.
    pub async fn send_to(&self, payload: &[u8], target: SocketAddr) -> io::Result<usize> {
        self.try_send_to(payload, target)
    }

    /// Sends one datagram to the connected peer; returns the payload's length.
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::send_to`], and [`SocketError::NotConnected`].
    pub async fn send(&self, payload: &[u8]) -> io::Result<usize> {
        self.try_send(payload)
    }

    /// [`UdpSocket::send_to`] for code that is not async: it never waits anyway.
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::send_to`].
    pub fn try_send_to(&self, payload: &[u8], target: SocketAddr) -> io::Result<usize> {
        let options = self.options();
        self.transmit(payload.len(), |state, handle| {
            state
                .stack
                .udp_send_to(Instant::now(), handle, target, payload, &options)
        })
    }

    /// [`UdpSocket::send`] for code that is not async.
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::send`].
    pub fn try_send(&self, payload: &[u8]) -> io::Result<usize> {
        let options = self.options();
        self.transmit(payload.len(), |state, handle| {
            state
                .stack
                .udp_send(Instant::now(), handle, payload, &options)
        })
    }

    fn transmit(
        &self,
        length: usize,
        send: impl FnOnce(&mut State, UdpHandle) -> Result<(), tsc_eip::SendError>,
    ) -> io::Result<usize> {
        self.shared.with(|state| {
            state.check_up()?;
            send(state, self.handle).map_err(|error| send_error(&error, length))?;
            Ok(length)
        })
    }

    /// Receives one datagram; what does not fit `buffer` is cut off. Returns the bytes written and the sender.
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`SocketError::Refused`] or [`SocketError::Unreachable`] on a connected socket whose peer cannot be
    /// reached (the socket stays usable), [`SocketError::TunnelDown`].
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        // A batch is mostly read without waiting.
        match self.try_recv_from(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        loop {
            let mut notified = std::pin::pin!(self.readable.notified());
            // Registered before looking, so that nothing arrives unseen in between.
            notified.as_mut().enable();
            match self.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => notified.await,
                done => return done,
            }
        }
    }

    /// Receives one datagram from the connected peer. As [`UdpSocket::recv_from`].
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::recv_from`], and [`SocketError::NotConnected`].
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.peer_addr()?;
        Ok(self.recv_from(buffer).await?.0)
    }

    /// Receives a datagram if one is waiting.
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::recv_from`], and [`io::ErrorKind::WouldBlock`].
    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let mut state = self.shared.lock();
        let received = state.stack.udp_recv(self.handle, buffer);
        received_from(&state, received)
    }

    /// As [`UdpSocket::try_recv_from`], but leaves the datagram, or the error, for the next call.
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::try_recv_from`].
    pub fn try_peek_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let state = self.shared.lock();
        let received = state.stack.udp_peek(self.handle, buffer);
        received_from(&state, received)
    }

    /// Waits until there is something to read, or the tunnel is over.
    ///
    /// # Errors
    ///
    /// [`SocketError::TunnelDown`].
    pub async fn readable(&self) -> io::Result<()> {
        loop {
            let mut notified = std::pin::pin!(self.readable.notified());
            notified.as_mut().enable();
            {
                let state = self.shared.lock();
                if state.stack.udp_peek(self.handle, &mut []).is_some() {
                    return Ok(());
                }
                state.check_up()?;
            }
            notified.await;
        }
    }

    /// DSCP of the inner packets sent from now on, 0-63 (46 is what voice uses).
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] above 63.
    pub fn set_dscp(&self, dscp: u8) -> io::Result<()> {
        let dscp = Dscp::new(dscp)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a DSCP is at most 63"))?;
        self.options
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dscp = dscp;
        Ok(())
    }

    /// Sets how this socket's packets are protected against loss, in both directions, from now on and over every resume (service
    /// *redundancy*; SDK guide, "Enabling Redundancy"). The call returns at once; whether the server offers it and from
    /// when on it is in force is told by [`Notification::Service`](crate::Notification::Service), and by
    /// [`UdpSocket::redundancy_status`]. Over UDP and DTLS packets are repeated in the datagrams that follow; over TCP and TLS they
    /// travel over further streams as well ([`Redundancy::Copies`]), or over the fastest of several ([`Redundancy::Balanced`]).
    ///
    /// ```no_run
    /// # use tsc_tapi::{Redundancy, UdpSocket};
    /// # fn example(rtp: &UdpSocket) -> std::io::Result<()> {
    /// // As much as the network needs, and nothing while it loses nothing.
    /// rtp.set_redundancy(Redundancy::Adaptive { most: 2 })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// More than [`MAX_COPIES`] copies, [`SocketError::TooManyServices`], or the tunnel is over.
    pub fn set_redundancy(&self, redundancy: Redundancy) -> io::Result<()> {
        let copies = match redundancy {
            Redundancy::Off => 0,
            Redundancy::Copies(copies)
            | Redundancy::Balanced(copies)
            | Redundancy::Adaptive { most: copies } => copies,
        };
        if copies > MAX_COPIES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a packet is repeated {MAX_COPIES} times at most"),
            ));
        }
        self.want(What::Redundancy(redundancy))
    }

    /// Sets which tunnel carries this socket's datagrams, in both directions, from now on and over every resume (service *DDT*).
    /// Over TCP and TLS one lost packet delays all that follow it; with [`TunnelTransport::Datagram`] the socket's datagrams
    /// travel in a tunnel over UDP or DTLS beside the stream, with the same inner address, as long as that works. Where it does
    /// not (a firewall), or not any more, they go over the stream, and what was lost is tried again from time to time.
    ///
    /// With [`TunnelTransport::Automatic`] they go over the stream until that turns out to be bad for media, and then beside it if that is
    /// better: while media passes both are measured, by Keepalives four times a second, and what was moved stays for ten seconds or
    /// more. Half a minute after the last media it is back on the stream.
    ///
    /// The call returns at once; whether the server offers it, and from when on the datagrams are beside the stream or on it
    /// again, is told by [`Notification::Service`](crate::Notification::Service). On a tunnel over UDP or DTLS the wish is fulfilled
    /// already, and told to be in force.
    ///
    /// # Errors
    ///
    /// [`SocketError::TooManyServices`], or the tunnel is over.
    pub fn set_tunnel_transport(&self, transport: TunnelTransport) -> io::Result<()> {
        self.want(What::Transport(transport))
    }

    /// Sets whether this socket's packets are encrypted between this host and the server, in both directions, from now on and over
    /// every resume (service *DTTE*); what was sent before, and waits, goes as it would have gone. On a tunnel over TLS or DTLS they are, whatever is set here. Beside one over TCP or UDP an
    /// encrypted tunnel is opened for the sockets that want it, with **inner addresses of its own**: when the socket has moved
    /// there, [`Notification::Service`](crate::Notification::Service) tells it, and the address that others reach it by from then on.
    ///
    /// - [`Encryption::Preferred`]: until there is such a tunnel, where there is none, and when there has been none for 5 s, packets
    ///   go over the main tunnel in clear. What is sent to the address that the socket does not have any more reaches a socket that is
    ///   bound to all as long as the encrypted tunnel lives.
    /// - [`Encryption::Only`]: nothing is sent in clear. Until there is such a tunnel, and when there is none any more, sending fails
    ///   with [`SocketError::NotEncrypted`], and nothing is received that came in clear.
    ///
    /// A socket that is connected keeps the address that it has, since its peer knows it by that: set this before, and connect when
    /// it is in force. Only one that must be encrypted moves even then.
    ///
    /// ```no_run
    /// # use tsc_tapi::{Encryption, UdpSocket};
    /// # fn example(signalling: &UdpSocket) -> std::io::Result<()> {
    /// signalling.set_encryption(Encryption::Only)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SocketError::TooManyServices`], [`SocketError::AddressInUse`] where a socket of the other IP version with the same port has it,
    /// or the tunnel is over.
    pub fn set_encryption(&self, level: Encryption) -> io::Result<()> {
        self.shared.with(|state| {
            state.check_up()?;
            let (key, local) = (self.key(), self.local);
            let is_held = state.wants_encryption(key, self.handle);
            if !level.is_wanted() && !is_held {
                return Ok(());
            }
            // In one go, so that what is told of it finds it.
            state.encrypt(key, self.handle, level)?;
            let connected = state.stack.udp_peer_addr(self.handle).is_some();
            let what = What::Encryption(level, connected);
            if let Err(error) = state.wishes.set(Wish { key, local, what }) {
                drop(state.encrypt(key, self.handle, Encryption::Default));
                return Err(error.into());
            }
            *self.level() = level;
            Ok(())
        })
    }

    /// Waits until it is known whether this socket's packets are encrypted ([`UdpSocket::set_encryption`]), and gives the address that
    /// it then has: what an application writes into its signalling. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`SocketError::NotEncrypted`]: they are not, for now; a socket that is not encrypted *only* sends in clear. Or the tunnel is
    /// over.
    pub async fn encrypted(&self) -> io::Result<SocketAddr> {
        loop {
            let news = {
                let state = self.shared.lock();
                state.check_up()?;
                match state.is_encrypted(self.key()) {
                    Ok(false) => return Err(SocketError::NotEncrypted.into()),
                    Ok(true) => return Ok(self.inner_addr(&state)),
                    Err(news) => news,
                }
            };
            news.await;
        }
    }

    /// The address that packets leave with.
    fn inner_addr(&self, state: &State) -> SocketAddr {
        let address = match state.stack.udp_placement(self.handle) {
            Some(UdpPlacement::At { address, .. }) => Some(address),
            _ if !self.local.ip().is_unspecified() => None,
            _ => {
                let mut own = state.stack.addresses().iter().copied();
                own.find(|own| own.is_ipv4() == self.local.is_ipv4())
            }
        };
        let address = address.unwrap_or_else(|| self.local.ip());
        SocketAddr::new(address, self.local.port())
    }

    /// What was set.
    fn encryption(&self) -> Encryption {
        *self.level()
    }

    fn level(&self) -> MutexGuard<'_, Encryption> {
        self.encryption
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, what: What) -> io::Result<()> {
        self.shared.with(|state| {
            state.check_up()?;
            let (key, local) = (self.key(), self.local);
            state.wishes.set(Wish { key, local, what })?;
            Ok(())
        })
    }

    /// Sets whether this socket's packets are to reach their receivers without the server, where these are clients of the same server
    /// that let others ask for it ([`TunnelBuilder::peer_tunnels`](crate::TunnelBuilder::peer_tunnels); service *peer*). The call
    /// returns at once. With the first packet to each receiver the server is asked to bring both together, and a way is looked for:
    /// in the same network, or through NATs. [`Notification::Service`](crate::Notification::Service) tells whether there is one to
    /// any of this socket's receivers, and [`Notification::PeerTunnel`](crate::Notification::PeerTunnel) of each. Until there is,
    /// and when there is not any more, packets go over the server; so do those of more than
    /// [`MAX_DIRECT_PACKET`](crate::MAX_DIRECT_PACKET) bytes.
    ///
    /// The other end learns this host's addresses: that in its own network, if both are seen at one address, and that by which it is
    /// seen from outside.
    ///
    /// ```no_run
    /// # fn example(rtp: &tsc_tapi::UdpSocket) -> std::io::Result<()> {
    /// rtp.set_peer(true)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SocketError::TooManyServices`], or the tunnel is over; [`io::ErrorKind::Unsupported`] where this build has no DTLS.
    pub fn set_peer(&self, wanted: bool) -> io::Result<()> {
        if wanted && peers::certificate().is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.want(What::Peer(wanted))
    }

    /// The packets of this socket's port that went to peers, and came from them, without the server since it was bound; whoever
    /// of both asked for that. All others went over the server.
    #[must_use]
    pub fn peer_packets(&self) -> PeerPackets {
        let state = self.shared.lock();
        state.peer_counts.of_port(self.local.port())
    }

    /// What redundancy does for this socket; nothing of it before it was asked for.
    ///
    /// # Errors
    ///
    /// The tunnel is over.
    pub async fn redundancy_status(&self) -> io::Result<RedundancyStatus> {
        let (answer, answered) = oneshot::channel();
        self.shared.with(|state| {
            state.check_up()?;
            state.wishes.ask((self.key(), answer))
        })?;
        match answered.await {
            Ok(status) => Ok(status.unwrap_or_default()),
            Err(_) => {
                self.shared.lock().check_up()?;
                Ok(RedundancyStatus::default())
            }
        }
    }

    /// Watches the media that comes to this socket: loss, bursts and jitter of its RTP, and an estimate of what is heard (G.107), over
    /// windows of [`WINDOW`](crate::media::WINDOW). [`Notification::MediaQuality`](crate::Notification::MediaQuality) tells
    /// when something becomes bad (loss 5 %, jitter 30 ms, round trip 300 ms, MOS 2.5) and when it is good again;
    /// [`UdpSocket::media_quality`] can be asked at any time.
    ///
    /// Only headers are looked at: SRTP is as good. The figures begin anew with each call.
    ///
    /// # Errors
    ///
    /// The tunnel is over.
    pub fn watch_media(&self, watch: MediaWatch) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.check_up()?;
        state.stack.udp_watch_media(self.handle, watch);
        Ok(())
    }

    /// How the media is that comes to this socket; `None` before a whole window of it, or if it is not watched.
    #[must_use]
    pub fn media_quality(&self) -> Option<MediaQuality> {
        self.shared.lock().stack.udp_media_quality(self.handle)
    }

    const fn key(&self) -> FlowKey {
        FlowKey {
            transport: InnerTransport::Udp,
            port: self.local.port(),
        }
    }

    fn options(&self) -> SendOptions {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let (key, local) = (self.key(), self.local);
        self.shared.with(|state| {
            let is_encrypted = state.wants_encryption(key, self.handle);
            // One that wants nothing always has room. What another socket with this port wants is not this one's to end.
            let nothing = What::NOTHING.into_iter();
            let is_its = |what: &What| is_encrypted || !matches!(what, What::Encryption(..));
            for what in nothing.filter(is_its) {
                drop(state.wishes.set(Wish { key, local, what }));
            }
            drop(state.encrypt(key, self.handle, Encryption::Default));
            state.peer_counts.remove_socket(local.port());
            state.remove_socket(self.handle);
        });
    }
}

fn received_from(
    state: &State,
    received: Option<Result<tsc_eip::Received, tsc_eip::RecvError>>,
) -> io::Result<(usize, SocketAddr)> {
    match received {
        Some(Ok(received)) => Ok((received.len, received.from)),
        Some(Err(error)) => Err(match error {
            tsc_eip::RecvError::PortUnreachable => SocketError::Refused,
            _ => SocketError::Unreachable,
        }
        .into()),
        // What arrived before the end can still be read.
        None => {
            state.check_up()?;
            Err(SocketError::WouldBlock.into())
        }
    }
}

fn bind_error(error: &tsc_eip::BindError, address: SocketAddr) -> SocketError {
    match error {
        tsc_eip::BindError::AddressInUse(_) => SocketError::AddressInUse(address),
        tsc_eip::BindError::AddressNotAvailable(_) => SocketError::AddressNotAvailable(address),
        _ => SocketError::Exhausted,
    }
}

fn send_error(error: &tsc_eip::SendError, length: usize) -> SocketError {
    match *error {
        tsc_eip::SendError::InvalidDestination(target) => SocketError::BadDestination(target),
        tsc_eip::SendError::FamilyMismatch(target) => SocketError::Family(target),
        tsc_eip::SendError::NoSourceAddress(target) => {
            SocketError::BadDestination(SocketAddr::new(target, 0))
        }
        tsc_eip::SendError::SourceNotAvailable(source) => {
            SocketError::AddressNotAvailable(SocketAddr::new(source, 0))
        }
        tsc_eip::SendError::MessageTooLong { max } => {
            SocketError::MessageTooLong { length, limit: max }
        }
        tsc_eip::SendError::Nowhere => SocketError::NotEncrypted,
        _ => SocketError::NotConnected,
    }
}
