//! What sockets can ask of their tunnel, and what comes of it.

use std::time::Duration;

use tsc_tapi::media;

/// A service that is chosen for each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Service {
    /// Packets are repeated: `set_redundancy`.
    Redundancy,
    /// Datagrams travel beside a stream tunnel (DDT): `set_tunnel_transport`.
    DatagramTransport,
    /// Packets travel in an encrypted tunnel beside one that is not (DTTE): `set_encryption`.
    Encryption,
    /// Peers are reached without the server: `set_peer`.
    Peer,
}

impl Service {
    pub(crate) fn of(service: tsc_tapi::Service) -> Option<Self> {
        match service {
            tsc_tapi::Service::Redundancy => Some(Self::Redundancy),
            tsc_tapi::Service::Ddt => Some(Self::DatagramTransport),
            tsc_tapi::Service::Dtte => Some(Self::Encryption),
            tsc_tapi::Service::Peer => Some(Self::Peer),
            _ => None,
        }
    }
}

/// How a socket's packets are protected against loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Redundancy {
    /// They are not.
    Off,
    /// Each is repeated so often, at most twice: in the datagrams that follow it, or, where the tunnel is a stream, over as many
    /// further streams.
    Copies {
        /// 1 or 2.
        count: u8,
    },
    /// Where the tunnel is a stream each goes over the fastest of it and so many further ones.
    Balanced {
        /// 1 or 2.
        streams: u8,
    },
    /// As often as the losses make it necessary, and not at all without any.
    Adaptive {
        /// At most so often.
        most: u8,
    },
}

impl From<Redundancy> for tsc_tapi::Redundancy {
    fn from(redundancy: Redundancy) -> Self {
        match redundancy {
            Redundancy::Off => Self::Off,
            Redundancy::Copies { count } => Self::Copies(count),
            Redundancy::Balanced { streams } => Self::Balanced(streams),
            Redundancy::Adaptive { most } => Self::Adaptive { most },
        }
    }
}

/// Which tunnel carries a socket's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum TunnelTransport {
    /// The main one, whatever it runs over.
    Main,
    /// One over UDP or DTLS, beside a stream if need be, while there is one that works.
    Datagram,
    /// Whichever is better for media, as measured.
    Automatic,
}

impl From<TunnelTransport> for tsc_tapi::TunnelTransport {
    fn from(transport: TunnelTransport) -> Self {
        match transport {
            TunnelTransport::Main => Self::Main,
            TunnelTransport::Datagram => Self::Datagram,
            TunnelTransport::Automatic => Self::Automatic,
        }
    }
}

/// Whether a socket's packets are encrypted between this host and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Encryption {
    /// As the tunnel is.
    AsTunnel,
    /// They need not be.
    Unencrypted,
    /// They must be: where there is no encrypted tunnel, nothing is sent.
    Only,
    /// Where that can be had.
    Preferred,
}

impl From<Encryption> for tsc_tapi::Encryption {
    fn from(level: Encryption) -> Self {
        match level {
            Encryption::AsTunnel => Self::Default,
            Encryption::Unencrypted => Self::Unencrypted,
            Encryption::Only => Self::Only,
            Encryption::Preferred => Self::Preferred,
        }
    }
}

/// What redundancy does for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct RedundancyStatus {
    /// Copies that the server has granted, or further streams; none while the service is not in force.
    pub granted: Option<u8>,
    /// Copies of each packet that this end sends now.
    pub sending: u8,
    /// Packets sent in frames.
    pub sent: u64,
    /// Copies that were to be sent of them.
    pub copies: u64,
    /// Packets received, each once.
    pub received: u64,
    /// Of those, the ones that only a copy has brought.
    pub recovered: u64,
    /// Copies received of packets that had come before.
    pub duplicates: u64,
}

impl From<tsc_tapi::RedundancyStatus> for RedundancyStatus {
    fn from(status: tsc_tapi::RedundancyStatus) -> Self {
        Self {
            granted: status.granted,
            sending: status.sending,
            sent: status.sent,
            copies: status.copies,
            received: status.received,
            recovered: status.recovered,
            duplicates: status.duplicates,
        }
    }
}

/// Inner packets that travelled without the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct PeerPackets {
    /// Handed to a peer tunnel.
    pub sent: u64,
    /// Taken from one.
    pub received: u64,
}

impl From<tsc_tapi::PeerPackets> for PeerPackets {
    fn from(packets: tsc_tapi::PeerPackets) -> Self {
        Self {
            sent: packets.sent,
            received: packets.received,
        }
    }
}

/// Whether the media that comes to a socket is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum MediaWatch {
    /// It is not.
    Off,
    /// If it is RTP.
    Detect,
    /// It is RTP.
    Rtp {
        /// Ticks of its timestamps in a second. Default: those of its payload type, else measured.
        #[uniffi(default)]
        clock_rate: Option<u32>,
    },
}

impl From<MediaWatch> for media::MediaWatch {
    fn from(watch: MediaWatch) -> Self {
        match watch {
            MediaWatch::Off => Self::Off,
            MediaWatch::Detect => Self::Detect,
            MediaWatch::Rtp { clock_rate } => Self::Rtp { clock_rate },
        }
    }
}

/// How the media is that comes to a socket.
#[derive(Clone, Copy, Debug, PartialEq, uniffi::Record)]
pub struct MediaQuality {
    /// The stream's SSRC.
    pub ssrc: u32,
    /// Payload type of its last packet.
    pub payload_type: u8,
    /// Packets since it began, each once.
    pub received: u64,
    /// Packets since it began that are missing.
    pub lost: u64,
    /// Share of the packets of the last seconds that is missing, 0 to 1.
    pub loss: f64,
    /// How many packets are missing in a row, on average.
    pub burst: f64,
    /// Interarrival jitter.
    pub jitter: Duration,
    /// The tunnel's round trip.
    pub round_trip: Option<Duration>,
    /// Mean opinion score, estimated by G.107: 1 to 4.41.
    pub mos: f64,
    /// Loss of 5 % or more.
    pub loss_alarm: bool,
    /// Jitter of 30 ms or more.
    pub jitter_alarm: bool,
    /// Round trip of 300 ms or more.
    pub round_trip_alarm: bool,
    /// MOS of 2.5 or less.
    pub mos_alarm: bool,
}

impl From<media::MediaQuality> for MediaQuality {
    fn from(quality: media::MediaQuality) -> Self {
        Self {
            ssrc: quality.ssrc,
            payload_type: quality.payload_type,
            received: quality.received,
            lost: quality.lost,
            loss: quality.loss,
            burst: quality.burst,
            jitter: quality.jitter,
            round_trip: quality.round_trip,
            mos: quality.mos,
            loss_alarm: quality.alarms.loss,
            jitter_alarm: quality.alarms.jitter,
            round_trip_alarm: quality.alarms.round_trip,
            mos_alarm: quality.alarms.mos,
        }
    }
}
