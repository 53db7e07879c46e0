//! Wire format of the TSCF tunnel protocol: bytes to typed units and back.
//!
//! A tunnel carries *units* and nothing else (spec 2). The first byte says which:
//!
//! ```text
//! 0x10        control message   |0x10|type|count  |TSID, 8 bytes |sequence| type|len|value ...
//! 0x4_, 0x6_  inner IP packet   bare, as IP wrote it
//! 0x1C        redundancy frame  |0x1C|count| sequence | IP packet | sequence | IP packet ...
//! 0x1D-0x1F   reserved frames   |0x1D|..|len | payload
//! ```
//!
//! Decoding goes in two steps, since what is to be done about an error differs:
//!
//! 1. **Framing**: [`Unit::decode_datagram`] and [`StreamDecoder`] delimit a unit and return a view that
//!    borrows from the input. Nothing is copied; only a stream decoder keeps bytes, and only of a unit
//!    that is incomplete. A [`DatagramError`] drops the datagram, a [`FramingError`] ends the transport.
//! 2. **Meaning**: [`ControlMessage::parse`] types every value and checks what each message must and may
//!    carry (spec 3.6). A [`MessageError`] says how a request is to be answered; the stream goes on.
//!
//! Encoders ([`MessageBuilder`], [`RedundancyFrame::encode_datagram`], [`ReservedFrame::encode`]) share these
//! checks and cannot produce what the decoders refuse.
//!
//! All numbers are in [`registry`]. Nothing here does I/O, knows the time, or panics on any input. Memory
//! is bounded by the protocol's limits: 64 TLV views per parsed message, and per stream one unit.
//!
//! # The smallest decode loop
//!
//! ```
//! use tsc_tpl::{CmType, Limits, MessageBuilder, Sequence, StreamDecoder, Tlv, Tsid, Unit, registry};
//!
//! # let mut wire = Vec::new();
//! # MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
//! #     .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
//! #     .encode(&mut wire)?;
//! # let mut parsed = 0;
//! let mut decoder = StreamDecoder::expecting_request(Limits::default());
//! for chunk in wire.chunks(5) {
//!     // What a read returned, whole units or not.
//!     let mut feed = decoder.feed(chunk);
//!     while let Some(unit) = feed.next()? {
//!         match unit {
//!             Unit::Control(control) => match control.parse() {
//!                 Ok(message) => {
//! #                   parsed += 1;
//!                     println!("{message}")
//!                 }
//!                 Err(error) => println!("answer {}: {error}", error.response_code()),
//!             },
//!             Unit::Ip(packet) => println!("{} -> {}", packet.source(), packet.destination()),
//!             Unit::Redundancy(frame) => println!("{frame}"),
//!             Unit::Reserved(frame) => println!("refused: {frame}"),
//!         }
//!     }
//! }
//! # assert_eq!(parsed, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod control;
mod cursor;
mod error;
mod ids;
mod ip;
mod limits;
mod message;
mod redundancy;
pub mod registry;
mod reserved;
mod room;
mod stream;
mod stun;
mod tlv;
mod unit;

pub use self::control::{ControlMessage, Header, RawTlv};
pub use self::error::{
    DatagramError, EncodeError, FramingError, MessageError, UnitError, ValueError,
};
pub use self::ids::{Sequence, Tsid};
pub use self::ip::{IpPacket, IpVersion};
pub use self::limits::Limits;
pub use self::message::{AssignedAddress, Flow, Message, MessageBuilder};
pub use self::redundancy::{RedundancyEntries, RedundancyEntry, RedundancyFrame};
pub use self::registry::{
    CmType, FirstByte, RedundancyMethod, ResponseCode, ServiceType, TlvType, TransportCode,
};
pub use self::reserved::{ReservedFrame, ReservedKind};
pub use self::stream::{Feed, StreamDecoder};
pub use self::stun::{
    MAX_STUN_GROWTH, MAX_STUN_MESSAGE, STUN_HEADER_LEN, StunError, StunKind, StunMessage,
    StunTransaction,
};
pub use self::tlv::{
    AddressRequest, AuthToken, CertificateFingerprint, ConnectionInfo, Cookie, Dscp, Family,
    Ipv4Netmask, Ipv6PrefixLength, Padding, PayloadType, ReceptionReport, RedundancyFactor,
    ResumeKey, ResumeProof, RoutedPrefix, Seconds, ServerEndpoint, ServiceList, Text, Tlv,
    TunnelTag, UnknownTlv,
};
pub use self::unit::Unit;
