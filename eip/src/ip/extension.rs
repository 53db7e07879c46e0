//! The chain of IPv6 extension headers (RFC 8200, section 4).

use smoltcp::wire::{Ipv6ExtHeader, Ipv6FragmentHeader};

use super::{Fragment, Pair, ParameterProblem, Refusal, protocol};

/// Extension headers accepted in one packet. RFC 8200 gives four kinds that may occur, one of them
/// twice; a longer chain serves only to make receivers work (RFC 8504, section 5.3 allows the
/// limit).
pub(crate) const MAX_EXTENSION_HEADERS: usize = 8;

/// Where a walk starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// After the fixed header. The offsets serve the pointer of a parameter problem.
    Packet {
        next_header_at: usize,
        chain_at: usize,
    },
    /// In a datagram put together from fragments, or in its first fragment: no second fragment
    /// header and no hop-by-hop options may follow.
    Reassembled,
}

/// End of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upper<'a> {
    pub(crate) protocol: u8,
    pub(crate) protocol_at: usize,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) payload: &'a [u8],
}

/// Why a chain was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainRefusal {
    /// Cut short, too long, or in an impossible order.
    Malformed,
    /// To be answered with a parameter problem.
    Parameter { code: u8, pointer: usize },
}

impl ChainRefusal {
    /// The refusal of the packet between `pair`.
    pub(crate) const fn at(self, pair: Pair) -> Refusal {
        match self {
            Self::Malformed => Refusal::Malformed,
            Self::Parameter { code, pointer } => Refusal::Parameter(ParameterProblem {
                pair,
                code,
                pointer,
            }),
        }
    }
}

/// Codes of a parameter problem (RFC 4443, section 3.4).
pub(crate) const ERRONEOUS_FIELD: u8 = 0;
pub(crate) const UNRECOGNIZED_NEXT_HEADER: u8 = 1;
const UNRECOGNIZED_OPTION: u8 = 2;

/// Walks extension headers from the one named `next_header` up to a fragment or the upper layer.
pub(crate) fn walk(start: Start, next_header: u8, chain: &[u8]) -> Result<Upper<'_>, ChainRefusal> {
    let (mut protocol_at, mut at) = match start {
        Start::Packet {
            next_header_at,
            chain_at,
        } => (next_header_at, chain_at),
        Start::Reassembled => (0, 0),
    };
    let mut upper = next_header;
    let mut rest = chain;
    for index in 0..=MAX_EXTENSION_HEADERS {
        let len = match upper {
            protocol::HOP_BY_HOP if index == 0 && matches!(start, Start::Packet { .. }) => {
                options(at, rest)?
            }
            protocol::HOP_BY_HOP => {
                return Err(ChainRefusal::Parameter {
                    code: UNRECOGNIZED_NEXT_HEADER,
                    pointer: protocol_at,
                });
            }
            protocol::DESTINATION_OPTIONS => options(at, rest)?,
            protocol::ROUTING => routing(at, rest)?,
            protocol::FRAGMENT => {
                if matches!(start, Start::Reassembled) {
                    return Err(ChainRefusal::Malformed);
                }
                let (named, fragment, payload) = fragment(rest)?;
                if fragment.more || fragment.offset != 0 {
                    return Ok(Upper {
                        protocol: named,
                        protocol_at: at,
                        fragment: Some(fragment),
                        payload,
                    });
                }
                // RFC 6946: a lone fragment is a whole datagram, whatever else carries its
                // identification.
                super::v6::FRAGMENT_HEADER_LEN
            }
            _ => {
                return Ok(Upper {
                    protocol: upper,
                    protocol_at,
                    fragment: None,
                    payload: rest,
                });
            }
        };
        upper = *rest.first().ok_or(ChainRefusal::Malformed)?;
        rest = rest.get(len..).ok_or(ChainRefusal::Malformed)?;
        protocol_at = at;
        at = at.saturating_add(len);
    }
    Err(ChainRefusal::Malformed)
}

/// Length of an options header at `at`, if it asks for nothing we do not know.
fn options(at: usize, rest: &[u8]) -> Result<usize, ChainRefusal> {
    let header = Ipv6ExtHeader::new_checked(rest).map_err(|_| ChainRefusal::Malformed)?;
    let mut options = header.payload();
    let mut option_at = at.saturating_add(2);
    while let Some((&kind, after)) = options.split_first() {
        let skip = match kind {
            0 => 1,
            _ => {
                let len = usize::from(*after.first().ok_or(ChainRefusal::Malformed)?);
                len.saturating_add(2)
            }
        };
        options = options.get(skip..).ok_or(ChainRefusal::Malformed)?;
        // Pad1, PadN and the router alert ask nothing of a host. The two highest bits of others say
        // what to do.
        if !matches!(kind, 0 | 1 | 5) {
            match kind >> 6 {
                0b00 => {}
                0b01 => return Err(ChainRefusal::Malformed),
                _ => {
                    return Err(ChainRefusal::Parameter {
                        code: UNRECOGNIZED_OPTION,
                        pointer: option_at,
                    });
                }
            }
        }
        option_at = option_at.saturating_add(skip);
    }
    Ok(extension_len(&header))
}

/// Length of a routing header at `at`, if its route ends here (RFC 8200, section 4.4; type 0 is
/// dead, RFC 5095).
fn routing(at: usize, rest: &[u8]) -> Result<usize, ChainRefusal> {
    let header = Ipv6ExtHeader::new_checked(rest).map_err(|_| ChainRefusal::Malformed)?;
    match header.payload() {
        [_, 0, ..] => Ok(extension_len(&header)),
        [_, _, ..] => Err(ChainRefusal::Parameter {
            code: ERRONEOUS_FIELD,
            pointer: at.saturating_add(2),
        }),
        [] | [_] => Err(ChainRefusal::Malformed),
    }
}

fn extension_len(header: &Ipv6ExtHeader<&[u8]>) -> usize {
    (usize::from(header.header_len()) + 1) * 8
}

/// The fragment header at the front: next header, which piece, and what follows.
fn fragment(rest: &[u8]) -> Result<(u8, Fragment, &[u8]), ChainRefusal> {
    let (header, payload) = rest
        .split_first_chunk::<{ super::v6::FRAGMENT_HEADER_LEN }>()
        .ok_or(ChainRefusal::Malformed)?;
    let [next_header, _reserved, piece @ ..] = header;
    let view = Ipv6FragmentHeader::new_unchecked(piece);
    let fragment = Fragment {
        identification: view.ident(),
        offset: usize::from(view.frag_offset()) * 8,
        more: view.more_frags(),
    };
    Ok((*next_header, fragment, payload))
}

/// Protocol and payload of the upper layer behind a chain that may be faulty: extension headers are
/// skipped by their lengths alone. `None` if it cannot be told.
pub(crate) fn upper_layer(packet: &[u8]) -> Option<(u8, &[u8])> {
    let (header, mut rest) = packet.split_at_checked(super::v6::HEADER_LEN)?;
    let mut next_header = *header.get(super::v6::NEXT_HEADER_AT)?;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let len = match next_header {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {
                extension_len(&Ipv6ExtHeader::new_checked(rest).ok()?)
            }
            protocol::FRAGMENT => super::v6::FRAGMENT_HEADER_LEN,
            upper => return Some((upper, rest)),
        };
        next_header = *rest.first()?;
        rest = rest.get(len..)?;
    }
    None
}
