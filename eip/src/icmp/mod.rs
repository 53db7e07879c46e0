//! ICMP and ICMPv6 (RFC 792, RFC 1122, RFC 4443): messages in, messages out.
//!
//! Pure translation between bytes and meaning; who may be answered, and how often, is decided in
//! [`crate::stack`].

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "smoltcp's message enums hold unknown values anyway: what we do not name, we ignore"
)]

mod limit;
mod quote;

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv6DstUnreachable, Icmpv6Message,
    Icmpv6Packet,
};

pub(crate) use limit::RateLimit;
pub(crate) use quote::Quoted;

use crate::error::RecvError;
use crate::ip::{Pair, UNRECOGNIZED_NEXT_HEADER, protocol, upper_layer, v4, v6};

/// Length of the ICMP header in the messages that we know.
const HEADER_LEN: usize = 8;

/// Largest IPv4 error packet (RFC 1812, section 4.3.2.3).
const MAX_ERROR_V4: usize = 576;

/// Largest IPv6 error packet (RFC 4443, section 2.4 c: the minimum MTU).
const MAX_ERROR_V6: usize = 1280;

/// A received message that concerns us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// Somebody asks whether we are there: identifier and sequence number, then data.
    EchoRequest { identifier: [u8; 4], data: &'a [u8] },
    /// A datagram did not arrive.
    Failure { error: RecvError, quote: &'a [u8] },
    /// A packet was too big; `mtu` is what passes, 0 if the router does not say.
    TooBig { mtu: u32, quote: &'a [u8] },
    /// Answers to questions that we do not ask, and everything else.
    Other,
}

/// Reads a message whose checksum has been verified. `None` if it is too short.
pub(crate) fn parse<'a>(pair: &Pair, bytes: &'a [u8]) -> Option<Message<'a>> {
    let (header, data) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let [_, _, _, _, rest @ ..] = *header;
    Some(match pair {
        Pair::V4 { .. } => {
            let view = Icmpv4Packet::new_unchecked(header.as_slice());
            match view.msg_type() {
                Icmpv4Message::EchoRequest if view.msg_code() == 0 => Message::EchoRequest {
                    identifier: rest,
                    data,
                },
                Icmpv4Message::DstUnreachable => {
                    match Icmpv4DstUnreachable::from(view.msg_code()) {
                        Icmpv4DstUnreachable::FragRequired => {
                            // RFC 1191, section 4: the MTU is in the last two bytes, 0 in old
                            // routers.
                            let [.., high, low] = rest;
                            Message::TooBig {
                                mtu: u32::from(u16::from_be_bytes([high, low])),
                                quote: data,
                            }
                        }
                        reason => Message::Failure {
                            error: unreachable_v4(reason),
                            quote: data,
                        },
                    }
                }
                Icmpv4Message::TimeExceeded => Message::Failure {
                    error: RecvError::TimeExceeded,
                    quote: data,
                },
                _ => Message::Other,
            }
        }
        Pair::V6 { .. } => {
            // Unchecked: of other messages only the type, which is there, is looked at.
            let view = Icmpv6Packet::new_unchecked(header.as_slice());
            match view.msg_type() {
                Icmpv6Message::EchoRequest if view.msg_code() == 0 => Message::EchoRequest {
                    identifier: rest,
                    data,
                },
                Icmpv6Message::DstUnreachable => Message::Failure {
                    error: unreachable_v6(Icmpv6DstUnreachable::from(view.msg_code())),
                    quote: data,
                },
                Icmpv6Message::PktTooBig => Message::TooBig {
                    mtu: view.pkt_too_big_mtu(),
                    quote: data,
                },
                Icmpv6Message::TimeExceeded => Message::Failure {
                    error: RecvError::TimeExceeded,
                    quote: data,
                },
                // A host that does not speak UDP at all.
                Icmpv6Message::ParamProblem if view.msg_code() == UNRECOGNIZED_NEXT_HEADER => {
                    Message::Failure {
                        error: RecvError::PortUnreachable,
                        quote: data,
                    }
                }
                _ => Message::Other,
            }
        }
    })
}

const fn unreachable_v4(reason: Icmpv4DstUnreachable) -> RecvError {
    match reason {
        Icmpv4DstUnreachable::PortUnreachable | Icmpv4DstUnreachable::ProtoUnreachable => {
            RecvError::PortUnreachable
        }
        Icmpv4DstUnreachable::NetProhibited
        | Icmpv4DstUnreachable::HostProhibited
        | Icmpv4DstUnreachable::CommProhibited => RecvError::Prohibited,
        _ => RecvError::Unreachable,
    }
}

const fn unreachable_v6(reason: Icmpv6DstUnreachable) -> RecvError {
    match reason {
        Icmpv6DstUnreachable::PortUnreachable => RecvError::PortUnreachable,
        Icmpv6DstUnreachable::AdminProhibit | Icmpv6DstUnreachable::FailedPolicy => {
            RecvError::Prohibited
        }
        _ => RecvError::Unreachable,
    }
}

/// Why a packet is refused, towards its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// Nobody listens on the port.
    PortUnreachable,
    /// We do not speak the protocol; `at` is the offset of the byte that names it.
    ProtocolUnreachable { at: usize },
    /// IPv6 headers that cannot be processed.
    ParameterProblem { code: u8, pointer: usize },
}

/// Type, code and the rest of the header of an error message, checksum zero. `None` if `pair`'s IP
/// version has no such message.
pub(crate) fn error_head(pair: &Pair, complaint: Complaint) -> Option<[u8; HEADER_LEN]> {
    Some(match pair {
        Pair::V4 { .. } => {
            let mut view = Icmpv4Packet::new_unchecked([0; HEADER_LEN]);
            view.set_msg_type(Icmpv4Message::DstUnreachable);
            view.set_msg_code(match complaint {
                Complaint::PortUnreachable => Icmpv4DstUnreachable::PortUnreachable.into(),
                Complaint::ProtocolUnreachable { .. } => {
                    Icmpv4DstUnreachable::ProtoUnreachable.into()
                }
                Complaint::ParameterProblem { .. } => return None,
            });
            view.into_inner()
        }
        Pair::V6 { .. } => {
            let mut view = Icmpv6Packet::new_unchecked([0; HEADER_LEN]);
            let (code, pointer) = match complaint {
                Complaint::PortUnreachable => {
                    view.set_msg_type(Icmpv6Message::DstUnreachable);
                    view.set_msg_code(Icmpv6DstUnreachable::PortUnreachable.into());
                    return Some(view.into_inner());
                }
                Complaint::ProtocolUnreachable { at } => (UNRECOGNIZED_NEXT_HEADER, at),
                Complaint::ParameterProblem { code, pointer } => (code, pointer),
            };
            view.set_msg_type(Icmpv6Message::ParamProblem);
            view.set_msg_code(code);
            view.set_param_problem_ptr(u32::try_from(pointer).unwrap_or(u32::MAX));
            view.into_inner()
        }
    })
}

/// The part of `packet` to be quoted in an error that may be `mtu` bytes long.
pub(crate) fn quotation<'a>(pair: &Pair, packet: &'a [u8], mtu: u16) -> &'a [u8] {
    let room = match pair {
        Pair::V4 { .. } => MAX_ERROR_V4
            .min(mtu.into())
            .saturating_sub(v4::HEADER_LEN + HEADER_LEN),
        Pair::V6 { .. } => MAX_ERROR_V6
            .min(mtu.into())
            .saturating_sub(v6::HEADER_LEN + HEADER_LEN),
    };
    packet.get(..room).unwrap_or(packet)
}

/// Header of an echo reply, checksum zero.
pub(crate) fn echo_head(pair: &Pair, identifier: [u8; 4]) -> [u8; HEADER_LEN] {
    let kind = match pair {
        Pair::V4 { .. } => u8::from(Icmpv4Message::EchoReply),
        Pair::V6 { .. } => u8::from(Icmpv6Message::EchoReply),
    };
    let [a, b, c, d] = identifier;
    [kind, 0, 0, 0, a, b, c, d]
}

/// Whether the IPv6 packet carries an ICMPv6 error, or may do so: then it must not be answered with
/// one (RFC 4443, section 2.4 e).
pub(crate) fn may_be_error_v6(packet: &[u8]) -> bool {
    match upper_layer(packet) {
        Some((protocol::ICMPV6, message)) => message.first().is_none_or(|kind| kind & 0x80 == 0),
        Some(_) => false,
        None => true,
    }
}

/// Offset of the checksum in an ICMP header.
pub(crate) const CHECKSUM_AT: usize = 2;
