//! The messages of peer tunnels: between clients by way of the server, and between them directly.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tsc_tpl::registry::{MIN_UNAUTHENTICATED_REQUEST, PROTOCOL_REVISION};
use tsc_tpl::{
    CertificateFingerprint, CmType, Cookie, Header, Ipv4Netmask, Ipv6PrefixLength, Message,
    MessageBuilder, ResponseCode, ResumeKey, Seconds, Sequence, ServiceType, Tlv, Tsid, TunnelTag,
};

use super::candidate::{Candidate, candidates, connection_info};
use crate::secret::{Key32, Secret};
use crate::transport::Transport;
use crate::wire;

/// Bytes of a Tunnel_Tag.
pub(super) const TAG_LEN: usize = 16;

/// What one client lets another know of itself when it asks: both inner addresses, its own first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    /// Of the one who asks.
    pub(crate) own: SocketAddr,
    /// Of the one who is asked.
    pub(crate) peer: SocketAddr,
    /// What the socket speaks.
    pub(crate) transport: Transport,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) fingerprint: [u8; 32],
}

impl Invitation {
    /// `None` if the request lacks something, or says too much.
    pub(crate) fn read(request: &Message<'_>) -> Option<Self> {
        let mut flows = request.flows();
        let who = flows.next()?;
        let transport = Transport::from_code(who.transport)?;
        let is_complete = matches!(transport, Transport::Tcp | Transport::Udp)
            && who.source.port() != 0
            && !who.source.ip().is_unspecified()
            && !who.destination.ip().is_unspecified();
        let found = candidates(flows)?;
        (is_complete && !found.is_empty()).then_some(())?;
        Some(Self {
            own: who.source,
            peer: who.destination,
            transport,
            candidates: found,
            fingerprint: *request.certificate_fingerprint()?.0,
        })
    }

    /// The request's TLVs but Service_Type.
    pub(crate) fn tlvs(&self) -> Vec<Tlv<'_>> {
        let who = connection_info(self.transport, self.own, Some(self.peer));
        let found = self.candidates.iter().map(|candidate| candidate.tlv());
        let fingerprint = CertificateFingerprint(&self.fingerprint);
        std::iter::once(who)
            .chain(found)
            .chain([Tlv::CertificateFingerprint(fingerprint)])
            .collect()
    }
}

/// The request as it is forwarded.
pub(crate) fn ask(tsid: Tsid, sequence: Sequence, invitation: &Invitation) -> Option<Bytes> {
    wire::service_request(tsid, sequence, ServiceType::ENABLE_PEER, invitation.tlvs())
}

/// What the one who is asked answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) tag: Secret,
    pub(crate) fingerprint: [u8; 32],
}

impl Granted {
    /// `None` if the answer lacks something, or says too much.
    pub(crate) fn read(answer: &Message<'_>) -> Option<Self> {
        let is_available = answer.peer_service_response() == Some(true);
        let found = candidates(answer.flows())?;
        let is_alone = answer.companions().next().is_none();
        (is_available && is_alone && !found.is_empty()).then_some(())?;
        Some(Self {
            candidates: found,
            tag: Secret::new(*answer.tunnel_tag()?.expose()),
            fingerprint: *answer.certificate_fingerprint()?.0,
        })
    }
}

/// The answer to a request for a peer tunnel.
pub(crate) fn answer(request: &Header, granted: &Granted) -> Option<Bytes> {
    let tag: &[u8; TAG_LEN] = granted.tag.expose().try_into().ok()?;
    let builder = MessageBuilder::response(request, ResponseCode::SUCCESS)?
        .tlv(Tlv::ServiceType(ServiceType::ENABLE_PEER))
        .tlv(Tlv::PeerServiceResponse(true))
        .tlvs(granted.candidates.iter().map(|candidate| candidate.tlv()))
        .tlv(Tlv::TunnelTag(TunnelTag::new(tag)))
        .tlv(Tlv::CertificateFingerprint(CertificateFingerprint(
            &granted.fingerprint,
        )));
    wire::encode(&builder)
}

/// There will be no peer tunnel.
pub(crate) fn refusal(
    request: &Header,
    code: ResponseCode,
    retry_after: Option<Duration>,
) -> Option<Bytes> {
    let retry_after = retry_after.map(wire::retry_after);
    let builder = MessageBuilder::response(request, code)?
        .tlv(Tlv::ServiceType(ServiceType::ENABLE_PEER))
        .tlv(Tlv::PeerServiceResponse(false));
    wire::encode(&builder.tlvs(retry_after))
}

/// A Configuration_Request to the other client. Without its cookie it has no tag: whoever answers at that address first shows that
/// he is there.
pub(super) fn configuration_request(
    sequence: Sequence,
    is_clear: bool,
    tag: Option<&[u8; TAG_LEN]>,
    cookie: Option<&[u8]>,
) -> Option<Bytes> {
    let request = CmType::CONFIGURATION_REQUEST;
    let cookie = match cookie {
        Some(cookie) => Some(Tlv::Cookie(Cookie::new(cookie).ok()?)),
        None => None,
    };
    let mut builder = MessageBuilder::new(request, Tsid::UNASSIGNED, sequence)
        .tlv(Tlv::ProtocolRevision(PROTOCOL_REVISION))
        .tlvs(tag.map(|tag| Tlv::TunnelTag(TunnelTag::new(tag))))
        .tlvs(cookie);
    if is_clear {
        builder = builder.pad_to(MIN_UNAUTHENTICATED_REQUEST);
    }
    wire::encode(&builder)
}

/// What the one who was asked assigns: the inner address that the other has already.
#[derive(Debug)]
pub(super) struct Configured<'a> {
    pub(super) tsid: Tsid,
    /// Of the one who asked.
    pub(super) inner: IpAddr,
    pub(super) keepalive: Duration,
    pub(super) inner_mtu: u16,
    /// Of no use, as peer tunnels are not resumed; no response goes without one (spec 3.6).
    pub(super) resume_key: &'a Key32,
    pub(super) seen: SocketAddr,
}

pub(super) fn configuration_response(request: &Header, given: &Configured<'_>) -> Option<Bytes> {
    let (address, prefix) = match given.inner {
        IpAddr::V4(address) => (
            Tlv::InternalIpv4Address(address),
            Tlv::InternalIpv4Netmask(Ipv4Netmask::new(32).ok()?),
        ),
        IpAddr::V6(address) => (
            Tlv::InternalIpv6Address(address),
            Tlv::InternalIpv6PrefixLength(Ipv6PrefixLength::new(128).ok()?),
        ),
    };
    let seconds = Seconds(u16::try_from(given.keepalive.as_secs()).ok()?);
    let builder = MessageBuilder::response(request, ResponseCode::SUCCESS)?
        .tsid(given.tsid)
        .tlv(Tlv::ProtocolRevision(PROTOCOL_REVISION))
        .tlv(address)
        .tlv(prefix)
        .tlv(Tlv::KeepaliveInterval(seconds))
        .tlv(Tlv::PersistenceTime(seconds))
        .tlv(Tlv::InnerMtu(given.inner_mtu))
        .tlv(Tlv::ResumeKey(ResumeKey::new(given.resume_key.expose())))
        .tlv(wire::nat_info(given.seen));
    wire::encode(&builder)
}
