//! The messages that the machines send, each made in one place from what the machines know.
//!
//! Every function gives `None` where the values cannot be encoded. Configurations are checked for that when a
//! machine is made, so it does not happen; and if it does, a message that is not sent is a lost message, which
//! both ends can cope with.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tsc_tpl::registry::{MIN_UNAUTHENTICATED_REQUEST, PROTOCOL_REVISION};
use tsc_tpl::{
    AddressRequest, AuthToken, CmType, Cookie, Dscp, Family, Header, Ipv4Netmask, Ipv6PrefixLength,
    Message, MessageBuilder, MessageError, ReceptionReport, ResponseCode, ResumeKey, ResumeProof,
    Seconds, Sequence, ServerEndpoint, ServiceList, ServiceType, Text, Tlv, TlvType, Tsid,
    TunnelTag, UnknownTlv,
};

use crate::assignment::Alternate;
use crate::client::ClientConfig;
use crate::companion::Reservation;
use crate::resume;
use crate::secret::Key32;
use crate::server::pool::Lease;
use crate::server::{InterfaceConfig, Offers, TunnelTimers};
use crate::transport::Transport;

/// Values of a successful configuration or resume.
#[derive(Debug)]
pub(crate) struct Grant<'a> {
    pub(crate) answer: CmType,
    pub(crate) tsid: Tsid,
    pub(crate) sequence: Sequence,
    pub(crate) leases: &'a [Lease],
    pub(crate) timers: TunnelTimers,
    /// In a Configuration_Response.
    pub(crate) resume_key: Option<&'a Key32>,
    /// In a Resume_Response.
    pub(crate) active_services: Option<&'a [ServiceType]>,
    pub(crate) inner_mtu: u16,
    pub(crate) interface: &'a InterfaceConfig,
    pub(crate) offers: &'a Offers,
    /// The client as seen from outside.
    pub(crate) peer: SocketAddr,
}

/// What a refusal carries beside its code.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RefusalDetails<'a> {
    pub(crate) cookie: Option<&'a [u8]>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) alternates: &'a [Alternate],
}

/// What a Resume_Request proves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof<'a> {
    pub(crate) tsid: Tsid,
    pub(crate) key: &'a Key32,
    pub(crate) counter: u32,
}

pub(crate) fn configuration_request(
    config: &ClientConfig,
    claim: Option<&Reservation>,
    transport: Transport,
    sequence: Sequence,
    cookie: Option<&[u8]>,
) -> Option<Bytes> {
    let mut builder =
        MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, sequence)
            .tlv(Tlv::ProtocolRevision(PROTOCOL_REVISION));
    if let Some(claim) = claim {
        builder = builder
            .tlv(Tlv::TunnelSessionId(claim.tsid))
            .tlv(Tlv::TunnelTag(TunnelTag::new(claim.tag.expose())));
    }
    for wish in &config.addresses {
        builder = builder.tlv(Tlv::AddressRequest(AddressRequest {
            family: wish.family,
            count: wish.count,
        }));
    }
    if let Some(mtu) = config.inner_mtu {
        builder = builder.tlv(Tlv::InnerMtu(mtu));
    }
    if let Some(info) = &config.client_info {
        builder = builder.tlv(Tlv::ClientInfo(Text::truncated(info)));
    }
    if !config.supported_services.is_empty() {
        builder = builder.tlv(Tlv::SupportedServices(
            ServiceList::new(&config.supported_services).ok()?,
        ));
    }
    finish_request(builder, config, transport, cookie)
}

pub(crate) fn resume_request(
    config: &ClientConfig,
    transport: Transport,
    sequence: Sequence,
    proof: &Proof<'_>,
    cookie: Option<&[u8]>,
) -> Option<Bytes> {
    let mac = resume::proof(
        proof.key,
        proof.tsid,
        proof.counter,
        cookie.unwrap_or_default(),
    );
    let builder = MessageBuilder::new(CmType::CONFIGURATION_RESUME_REQUEST, proof.tsid, sequence)
        .tlv(Tlv::ProtocolRevision(PROTOCOL_REVISION))
        .tlv(Tlv::ResumeProof(ResumeProof {
            counter: proof.counter,
            mac: &mac,
        }));
    finish_request(builder, config, transport, cookie)
}

/// What both requests end with: token, cookie, and on plain UDP the padding that makes them eligible (spec 8.2).
fn finish_request<'a>(
    mut builder: MessageBuilder<'a>,
    config: &'a ClientConfig,
    transport: Transport,
    cookie: Option<&'a [u8]>,
) -> Option<Bytes> {
    let token = config
        .auth_token
        .as_ref()
        .filter(|_| transport.is_protected() || config.token_in_clear);
    if let Some(token) = token {
        builder = builder.tlv(Tlv::AuthToken(AuthToken::new(token.expose()).ok()?));
    }
    if let Some(cookie) = cookie {
        builder = builder.tlv(Tlv::Cookie(Cookie::new(cookie).ok()?));
    }
    if transport == Transport::Udp {
        builder = builder.pad_to(MIN_UNAUTHENTICATED_REQUEST);
    }
    if transport.is_stream() {
        encode_stream(&builder)
    } else {
        encode(&builder)
    }
}

pub(crate) fn grant(grant: &Grant<'_>) -> Option<Bytes> {
    let (interface, offers) = (grant.interface, grant.offers);
    let mut builder = MessageBuilder::new(grant.answer, grant.tsid, grant.sequence)
        .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
        .tlv(Tlv::ProtocolRevision(PROTOCOL_REVISION));
    for lease in grant.leases {
        builder =
            match lease.address {
                std::net::IpAddr::V4(address) => builder
                    .tlv(Tlv::InternalIpv4Address(address))
                    .tlv(Tlv::InternalIpv4Netmask(
                        Ipv4Netmask::new(lease.prefix_len).ok()?,
                    )),
                std::net::IpAddr::V6(address) => builder
                    .tlv(Tlv::InternalIpv6Address(address))
                    .tlv(Tlv::InternalIpv6PrefixLength(
                        Ipv6PrefixLength::new(lease.prefix_len).ok()?,
                    )),
            };
    }
    builder = builder
        .tlv(Tlv::KeepaliveInterval(seconds(grant.timers.keepalive)))
        .tlv(Tlv::PersistenceTime(seconds(grant.timers.persistence)))
        .tlv(Tlv::InnerMtu(grant.inner_mtu));
    if let Some(key) = grant.resume_key {
        builder = builder.tlv(Tlv::ResumeKey(ResumeKey::new(key.expose())));
    }
    if let Some(services) = grant.active_services {
        builder = builder.tlv(Tlv::ActiveServices(ServiceList::new(services).ok()?));
    }
    builder = builder
        .tlvs(offers.sip_servers.iter().map(|server| match server {
            SocketAddr::V4(server) => Tlv::SipServerIpv4(*server),
            SocketAddr::V6(server) => Tlv::SipServerIpv6(*server),
        }))
        .tlvs(interface.dns_servers.iter().map(|server| match server {
            std::net::IpAddr::V4(server) => Tlv::DnsServerIpv4(*server),
            std::net::IpAddr::V6(server) => Tlv::DnsServerIpv6(*server),
        }))
        .tlv(nat_info(grant.peer))
        .tlvs(interface.alternates.iter().map(alternate));
    if !offers.services.is_empty() {
        builder = builder.tlv(Tlv::SupportedServices(
            ServiceList::new(&offers.services).ok()?,
        ));
    }
    if let Some(dscp) = interface.dscp {
        builder = builder.tlv(Tlv::Dscp(Dscp::new(dscp).ok()?));
    }
    encode(&builder)
}

/// A refusal of a request that could be read.
pub(crate) fn refusal(
    request: &Header,
    code: ResponseCode,
    details: &RefusalDetails<'_>,
) -> Option<Bytes> {
    let mut builder =
        MessageBuilder::response(request, code)?.tlvs(details.alternates.iter().map(alternate));
    if let Some(cookie) = details.cookie {
        builder = builder.tlv(Tlv::Cookie(Cookie::new(cookie).ok()?));
    }
    encode(&builder.tlvs(details.retry_after.map(retry_after)))
}

/// The answer to a request that breaks a rule; `None` for what is not answered.
pub(crate) fn refuse_message(request: &Header, error: &MessageError) -> Option<Bytes> {
    encode(&MessageBuilder::refuse(request, error)?)
}

/// The answer to a request for a service that is granted, or is ended.
pub(crate) fn service_success<'a>(
    request: &Message<'_>,
    granted: impl IntoIterator<Item = Tlv<'a>>,
) -> Option<Bytes> {
    let service = request.service_type()?;
    let builder = MessageBuilder::response(&request.header(), ResponseCode::SUCCESS)?;
    encode(&builder.tlv(Tlv::ServiceType(service)).tlvs(granted))
}

/// The answer to a request for a service that is not to be had.
pub(crate) fn service_refusal(
    request: &Message<'_>,
    code: ResponseCode,
    retry_after: Option<Duration>,
) -> Option<Bytes> {
    let service = request.service_type()?;
    let builder = MessageBuilder::response(&request.header(), code)?;
    let retry_after = retry_after.map(self::retry_after);
    encode(&builder.tlv(Tlv::ServiceType(service)).tlvs(retry_after))
}

/// A plain success.
pub(crate) fn success(request: &Header) -> Option<Bytes> {
    encode(&MessageBuilder::response(request, ResponseCode::SUCCESS)?)
}

/// The answer to a Keepalive: the client's address as seen from here, and what has become of its redundancy group's packets.
pub(crate) fn keepalive_response(
    request: &Header,
    peer: Option<SocketAddr>,
    report: Option<ReceptionReport>,
) -> Option<Bytes> {
    let builder = MessageBuilder::response(request, ResponseCode::SUCCESS)?;
    let report = report.map(|report| report.to_bytes());
    let report = report
        .as_ref()
        .and_then(|bytes| UnknownTlv::new(TlvType::RECEPTION_REPORT, bytes));
    encode(
        &builder
            .tlvs(peer.map(nat_info))
            .tlvs(report.map(Tlv::Unknown)),
    )
}

pub(crate) fn keepalive(tsid: Tsid, sequence: Sequence) -> Option<Bytes> {
    encode(&MessageBuilder::new(CmType::KEEPALIVE, tsid, sequence))
}

pub(crate) fn release_request(tsid: Tsid, sequence: Sequence, text: Option<&str>) -> Option<Bytes> {
    let text = text.map(|text| Tlv::ReasonText(Text::truncated(text)));
    encode(&MessageBuilder::new(CmType::CONFIGURATION_RELEASE_REQUEST, tsid, sequence).tlvs(text))
}

pub(crate) fn service_request<'a>(
    tsid: Tsid,
    sequence: Sequence,
    service: ServiceType,
    details: impl IntoIterator<Item = Tlv<'a>>,
) -> Option<Bytes> {
    let builder = MessageBuilder::new(CmType::CLIENT_SERVICE_REQUEST, tsid, sequence);
    encode(&builder.tlv(Tlv::ServiceType(service)).tlvs(details))
}

/// Service_Request 20: a peer tunnel between these inner addresses, the client's own first, is over at its other end.
pub(crate) fn peer_ended(
    tsid: Tsid,
    sequence: Sequence,
    own: std::net::IpAddr,
    peer: std::net::IpAddr,
) -> Option<Bytes> {
    let (own, peer) = (SocketAddr::new(own, 0), SocketAddr::new(peer, 0));
    let between = crate::peer::connection_info(Transport::Udp, own, Some(peer));
    let builder = MessageBuilder::new(CmType::SERVICE_REQUEST, tsid, sequence);
    encode(
        &builder
            .tlv(Tlv::ServiceType(ServiceType::DISABLE_PEER))
            .tlv(between),
    )
}

/// Address_Request as wishes.
pub(crate) fn address_wishes(message: &Message<'_>) -> Vec<(Family, u8)> {
    message
        .address_requests()
        .map(|wish: AddressRequest| (wish.family, wish.count))
        .collect()
}

/// Alternate_Server values of transports that are known here.
pub(crate) fn alternates(message: &Message<'_>) -> Vec<Alternate> {
    let known = |endpoint: ServerEndpoint| {
        Transport::from_code(endpoint.transport).map(|transport| Alternate {
            transport,
            address: endpoint.addr,
        })
    };
    message.alternate_servers().filter_map(known).collect()
}

fn alternate<'a>(alternate: &Alternate) -> Tlv<'a> {
    Tlv::AlternateServer(ServerEndpoint {
        transport: alternate.transport.code(),
        addr: alternate.address,
    })
}

/// At least 1 s: zero would be an invitation.
pub(crate) fn retry_after<'a>(time: Duration) -> Tlv<'a> {
    Tlv::RetryAfter(seconds(time).max(Seconds(1)))
}

pub(crate) fn nat_info<'a>(peer: SocketAddr) -> Tlv<'a> {
    // A dual-stack socket shows IPv4 clients with mapped addresses; the client knows itself by IPv4.
    match SocketAddr::new(peer.ip().to_canonical(), peer.port()) {
        SocketAddr::V4(peer) => Tlv::NatInfoIpv4(peer),
        SocketAddr::V6(peer) => Tlv::NatInfoIpv6(peer),
    }
}

fn seconds(time: Duration) -> Seconds {
    Seconds(u16::try_from(time.as_secs()).unwrap_or(u16::MAX))
}

/// Everything but the requests of clients on streams is held to what a datagram carries (spec 3.3).
pub(crate) fn encode(builder: &MessageBuilder<'_>) -> Option<Bytes> {
    let mut bytes = Vec::with_capacity(builder.encoded_len());
    let result = builder.encode_datagram(&mut bytes);
    finish(bytes, result)
}

fn encode_stream(builder: &MessageBuilder<'_>) -> Option<Bytes> {
    let mut bytes = Vec::with_capacity(builder.encoded_len());
    let result = builder.encode(&mut bytes);
    finish(bytes, result)
}

fn finish(bytes: Vec<u8>, result: Result<(), tsc_tpl::EncodeError>) -> Option<Bytes> {
    if let Err(error) = result {
        tracing::error!(%error, "a message could not be encoded");
        debug_assert!(false, "a message could not be encoded: {error}");
        return None;
    }
    Some(bytes.into())
}
