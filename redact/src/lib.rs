//! What a capture may hold of a tunnel, for places where what is said and who says it may not be written down.
//!
//! Pure: bytes in, fewer or other bytes out. Both ends use it for their capture files, and it leaves the length of whatever it
//! masks as it was, so that lengths in headers stay true. **It keeps what it knows to be harmless and takes away the rest**, so that
//! a packet, header or attribute that it does not know never gets through.
//!
//! | | [`Redaction::None`] | [`Redaction::Headers`] | [`Redaction::Sip`] |
//! | --- | --- | --- | --- |
//! | inner IP, UDP, TCP, ICMP headers | whole | whole | whole |
//! | SIP in one packet | whole | cut off | masked: users, numbers, names, credentials, bodies other than SDP |
//! | RTP | whole | cut off | its fixed header |
//! | everything else above | whole | cut off | cut off |
//! | control messages | whole | secrets are zeros | secrets are zeros |
//! | outer packets | whole | end behind their transport header | the same |
//!
//! Addresses and ports stay in all cases: without them a capture tells nothing. Checksums are not mended.

mod control;
mod packet;
mod sip;

/// How much is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Redaction {
    /// Nothing: what is said, who says it, and the keys of tunnels are in the capture.
    #[default]
    None,
    /// Inner and outer packets end behind their transport header.
    Headers,
    /// As [`Headers`](Self::Headers), but SIP stays with identities masked, and RTP with its header.
    Sip,
}

impl Redaction {
    /// All of them, least first.
    pub const ALL: [Self; 3] = [Self::None, Self::Headers, Self::Sip];

    /// The name that configurations use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Headers => "headers",
            Self::Sip => "sip",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|redaction| redaction.name() == name)
    }

    /// Of an inner packet; shortens it, and masks what is left in place. What is no packet is taken away as a whole.
    pub fn packet(self, packet: &mut Vec<u8>) {
        if self != Self::None {
            let kept = packet::redact(packet, self == Self::Sip);
            packet.truncate(kept);
        }
    }

    /// Of an outer packet: only its headers stay, whether what follows is encrypted or not. Tunnels without encryption carry inner packets
    /// there, and handshakes name who makes them.
    pub fn outer(self, packet: &mut Vec<u8>) {
        if self != Self::None {
            Self::Headers.packet(packet);
        }
    }

    /// Of a control message, in place. What is none is taken away as a whole.
    pub fn control(self, message: &mut Vec<u8>) {
        if self != Self::None && !control::redact(message) {
            message.clear();
        }
    }
}
