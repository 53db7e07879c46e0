//! A server in several shards: one server to its clients.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use tsc_csm::server::{
    AuthPolicy, BindingId, BindingInfo, CONFIGURATION_TIME, CloseReason, Event, Identity,
    OpenError, Server, ServerConfig, ServerConfigError, SessionId, Unbound, Verdict,
};
use tsc_csm::{BoxedRandom, Prefix, Transport};
use tsc_sim::{Rng, server_config};
use tsc_tpl::{
    CmType, Cookie, Limits, MessageBuilder, Padding, ResponseCode, ResumeProof, Sequence,
    ServiceType, Tlv, TlvType, Tsid, Unit,
};

use common::{code, configuration_request, message, resume_request};

struct Shards {
    now: Instant,
    shards: Vec<Server>,
    next_port: u16,
}

impl Shards {
    fn new(config: ServerConfig, shards: u64) -> Self {
        let now = Instant::now();
        let randoms = (1..=shards)
            .map(|seed| -> BoxedRandom { Box::new(Rng::new(seed)) })
            .collect();
        Self {
            now,
            shards: Server::sharded(config, now, randoms).unwrap(),
            next_port: 1000,
        }
    }

    fn info(&mut self, name: Option<&str>) -> BindingInfo {
        self.next_port += 1;
        BindingInfo {
            interface: 0,
            transport: Transport::Tcp,
            peer: SocketAddr::from(([192, 0, 2, 1], self.next_port)),
            local: SocketAddr::from(([203, 0, 113, 1], 5060)),
            identity: name.map(Identity::new),
        }
    }

    fn open(&mut self, shard: usize) -> BindingId {
        let info = self.info(None);
        self.shards[shard].open_binding(self.now, info).unwrap()
    }

    fn say(&mut self, shard: usize, binding: BindingId, bytes: &[u8]) -> (Verdict, Vec<Bytes>) {
        let unit = Unit::decode_datagram(bytes, &Limits::WIDEST).unwrap();
        let verdict = self.shards[shard].handle_unit(self.now, binding, &unit);
        (verdict, self.answers(shard))
    }

    fn answers(&mut self, shard: usize) -> Vec<Bytes> {
        std::iter::from_fn(|| self.shards[shard].poll_transmit())
            .map(|transmit| transmit.bytes)
            .collect()
    }

    /// Asks a shard for a tunnel.
    fn configure(&mut self, shard: usize) -> Result<Tunnel, ResponseCode> {
        let binding = self.open(shard);
        let (_, answers) = self.say(shard, binding, &configuration_request(1));
        let (tsid, key) = granted(&answers[0]).ok_or_else(|| code(&answers[0]))?;
        let session = self.shards[shard].session_of(binding).unwrap();
        let _ = self.say(shard, binding, &message(CmType::KEEPALIVE, tsid, 2));
        Ok(Tunnel {
            binding,
            session,
            tsid,
            key,
        })
    }

    fn address(&self, tunnel: &Tunnel) -> IpAddr {
        let shard = usize::from(tunnel.session.shard());
        let mut leases = self.shards[shard].assigned_addresses(tunnel.session);
        leases.next().unwrap().address
    }
}

struct Tunnel {
    binding: BindingId,
    session: SessionId,
    tsid: Tsid,
    key: [u8; 32],
}

fn granted(answer: &[u8]) -> Option<(Tsid, [u8; 32])> {
    let Ok(Unit::Control(answer)) = Unit::decode_datagram(answer, &Limits::WIDEST) else {
        return None;
    };
    let key = answer.raw_value(TlvType::RESUME_KEY)?.try_into().ok()?;
    Some((answer.header().tsid, key))
}

/// Over UDP: large enough for a stranger, with the cookie that was given.
fn resume_datagram(tunnel: &Tunnel, counter: u32, cookie: Option<&[u8]>) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&tunnel.key).unwrap();
    mac.update(b"tscf resume 1");
    mac.update(&tunnel.tsid.0.to_be_bytes());
    mac.update(&counter.to_be_bytes());
    mac.update(cookie.unwrap_or_default());
    let mac: [u8; 32] = mac.finalize().into_bytes().into();
    let cookie = cookie.map(|cookie| Tlv::Cookie(Cookie::new(cookie).unwrap()));
    let mut bytes = Vec::new();
    let request = CmType::CONFIGURATION_RESUME_REQUEST;
    MessageBuilder::new(request, tunnel.tsid, Sequence(60 + counter))
        .tlv(Tlv::ProtocolRevision(1))
        .tlvs(cookie)
        .tlv(Tlv::ResumeProof(ResumeProof { counter, mac: &mac }))
        .tlv(Tlv::Padding(Padding::saturating(128)))
        .encode(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn shards_share_the_addresses_and_every_shard_knows_who_has_them() {
    let mut server = Shards::new(server_config(7), 3);
    // All through one shard and then another: no shard has a part of the pool for itself.
    let tunnels: Vec<Tunnel> = [0, 0, 0, 0, 0, 2, 1]
        .into_iter()
        .map(|shard| {
            let tunnel = server.configure(shard).unwrap();
            assert_eq!(usize::from(tunnel.session.shard()), shard);
            tunnel
        })
        .collect();
    assert_eq!(server.configure(1).err(), Some(ResponseCode::NO_ADDRESS));
    let mut addresses = BTreeSet::new();
    for tunnel in &tunnels {
        let address = server.address(tunnel);
        assert!(addresses.insert(address), "{address} was given twice");
        for shard in &server.shards {
            assert_eq!(shard.route(address), Some(tunnel.session));
        }
    }
    assert_eq!(server.shards[2].pool_stats()[0].leased, 7);
    // The end of a tunnel is known to all too.
    let gone = server.address(&tunnels[5]);
    let release = message(CmType::CONFIGURATION_RELEASE_REQUEST, tunnels[5].tsid, 3);
    let _ = server.say(2, tunnels[5].binding, &release);
    assert_eq!(server.shards[0].route(gone), None);
}

#[test]
fn names_tell_the_shard_and_a_shard_knows_nothing_of_the_tunnels_of_another() {
    let mut server = Shards::new(server_config(60), 3);
    for round in 0..60 {
        let shard = round % 3;
        let tunnel = server.configure(shard).unwrap();
        assert_eq!(usize::try_from(tunnel.tsid.0 % 3).unwrap(), shard);
        let other = &server.shards[(shard + 1) % 3];
        assert_eq!(other.state(tunnel.session), None);
        assert_eq!(other.inner_mtu(tunnel.session), None);
        assert_eq!(other.binding_of(tunnel.session), None);
        assert_eq!(other.assigned_addresses(tunnel.session).count(), 0);
        assert_eq!(other.pool_of(tunnel.session), None);
    }
}

#[test]
fn limits_are_for_all_shards_together() {
    let mut config = server_config(60);
    config.limits.tunnels_per_prefix = 3;
    let mut server = Shards::new(config, 2);
    for shard in [0, 1, 0] {
        let _ = server.configure(shard).unwrap();
    }
    assert_eq!(server.configure(1).err(), Some(ResponseCode::NO_RESOURCES));

    let mut config = server_config(60);
    config.limits.tunnels = 2;
    let mut server = Shards::new(config, 2);
    let _ = server.configure(0).unwrap();
    let _ = server.configure(1).unwrap();
    assert_eq!(server.configure(0).err(), Some(ResponseCode::NO_RESOURCES));

    let mut config = server_config(60);
    config.limits.pending = 3;
    let mut server = Shards::new(config, 2);
    for shard in [0, 1, 0] {
        server.open(shard);
    }
    let info = server.info(None);
    let refused = server.shards[1].open_binding(server.now, info);
    assert_eq!(refused, Err(OpenError::TooManyPending));

    let mut config = server_config(60);
    (
        config.limits.requests_per_second,
        config.limits.request_burst,
    ) = (1, 4);
    let mut server = Shards::new(config, 2);
    let admitted = (0..10).filter(|round| {
        let info = server.info(None);
        let opened = server.shards[round % 2].open_binding(server.now, info);
        opened != Err(OpenError::RateLimited)
    });
    assert_eq!(admitted.count(), 4);
}

#[test]
fn a_tunnel_is_resumed_where_it_lives() {
    let mut server = Shards::new(server_config(9), 2);
    let tunnel = server.configure(0).unwrap();
    let address = server.address(&tunnel);
    let info = server.info(None);
    let strange = server.shards[1]
        .open_binding(server.now, info.clone())
        .unwrap();
    let proof = common::proof(&tunnel.key, tunnel.tsid, 1);
    let request = resume_request(tunnel.tsid, 1, &proof);
    let (verdict, answers) = server.say(1, strange, &request);
    assert_eq!(verdict, Verdict::Elsewhere(0));
    assert!(answers.is_empty(), "its own shard answers");
    let handed = server.shards[1].hand_over(strange).unwrap();
    assert_eq!(handed.info.peer, info.peer);
    assert!(handed.until <= server.now + CONFIGURATION_TIME);
    assert!(server.shards[1].hand_over(strange).is_none());
    assert!(
        server.shards[0].hand_over(tunnel.binding).is_none(),
        "what carries a tunnel stays"
    );
    assert_eq!(server.shards[1].stats().pending, 0);
    assert!(
        server.shards[1].poll_event().is_none(),
        "the transport is handed over, not closed"
    );

    let moved = server.shards[0].open_moved(handed).unwrap();
    let (verdict, answers) = server.say(0, moved, &request);
    assert_eq!(verdict, Verdict::Consumed);
    assert_eq!(code(&answers[0]), ResponseCode::SUCCESS);
    assert_eq!(server.shards[0].binding_of(tunnel.session), Some(moved));
    assert_eq!(server.shards[0].stats().pending, 0);
    let events: Vec<Event> = std::iter::from_fn(|| server.shards[0].poll_event()).collect();
    assert!(events.contains(&Event::CloseBinding {
        binding: tunnel.binding,
        reason: CloseReason::Superseded,
    }));
    assert_eq!(server.shards[1].route(address), Some(tunnel.session));
    // A wrong proof is refused by the tunnel's own shard as well.
    let binding = server.open(0);
    let (_, answers) = server.say(0, binding, &request);
    assert_eq!(code(&answers[0]), ResponseCode::RESUME_REJECTED);
}

#[test]
fn the_cookie_of_one_shard_is_good_for_all() {
    let mut server = Shards::new(server_config(9), 2);
    let local: SocketAddr = "203.0.113.1:5060".parse().unwrap();
    let peer: SocketAddr = "192.0.2.9:4000".parse().unwrap();
    let listeners: Vec<_> = server
        .shards
        .iter_mut()
        .map(|shard| shard.add_listener(0, local).unwrap())
        .collect();
    let tunnel = server.configure(1).unwrap();
    let now = server.now;

    // Strangers are told their cookie where they come in, whoever's tunnel they speak of.
    let request = resume_datagram(&tunnel, 1, None);
    let asked = server.shards[0].handle_unbound(now, listeners[0], peer, &request);
    assert_eq!(asked, Unbound::Answered);
    let answers = server.answers(0);
    let Ok(Unit::Control(answer)) = Unit::decode_datagram(&answers[0], &Limits::WIDEST) else {
        panic!()
    };
    let cookie = answer.raw_value(TlvType::COOKIE).unwrap();

    let request = resume_datagram(&tunnel, 2, Some(cookie));
    let asked = server.shards[0].handle_unbound(now, listeners[0], peer, &request);
    assert_eq!(asked, Unbound::Elsewhere(1));
    assert_eq!(server.shards[0].lookup(listeners[0], peer), None);
    let asked = server.shards[1].handle_unbound(now, listeners[1], peer, &request);
    let Unbound::Bound(binding) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(server.shards[1].binding_of(tunnel.session), Some(binding));
}

#[test]
fn a_granted_prefix_is_known_to_all_shards_and_taken_for_all() {
    let lan: Prefix = "10.1.0.0/16".parse().unwrap();
    let mut config = server_config(9);
    config.interfaces[0].services.push(ServiceType::ENABLE_STG);
    config.interfaces[0].auth = AuthPolicy::Mtls;
    config.interfaces[0]
        .routed_prefixes
        .insert(Identity::new("gate"), vec![lan]);
    let mut server = Shards::new(config, 2);
    let mut ask = |shard: usize| {
        let info = server.info(Some("gate"));
        let binding = server.shards[shard].open_binding(server.now, info).unwrap();
        let (_, answers) = server.say(shard, binding, &configuration_request(1));
        let (tsid, _) = granted(&answers[0]).unwrap();
        let mut request = Vec::new();
        MessageBuilder::new(CmType::CLIENT_SERVICE_REQUEST, tsid, Sequence(2))
            .tlv(Tlv::ServiceType(ServiceType::ENABLE_STG))
            .encode(&mut request)
            .unwrap();
        let (_, answers) = server.say(shard, binding, &request);
        let session = server.shards[shard].session_of(binding).unwrap();
        let host = "10.1.2.3".parse().unwrap();
        let routes: Vec<_> = server
            .shards
            .iter()
            .map(|shard| shard.route(host))
            .collect();
        (code(&answers[0]), session, routes)
    };
    let (first, owner, routes) = ask(1);
    assert_eq!(first, ResponseCode::SUCCESS);
    assert_eq!(routes, [Some(owner), Some(owner)]);
    let (second, _, routes) = ask(0);
    assert_eq!(second, ResponseCode::NO_ADDRESS);
    assert_eq!(routes, [Some(owner), Some(owner)]);
}

#[test]
fn the_number_of_shards_has_bounds() {
    let make = |count: u64| {
        let randoms = (0..count)
            .map(|seed| -> BoxedRandom { Box::new(Rng::new(seed)) })
            .collect();
        Server::sharded(server_config(9), Instant::now(), randoms)
    };
    assert!(matches!(make(0), Err(ServerConfigError::Shards)));
    assert!(matches!(make(65), Err(ServerConfigError::Shards)));
    assert_eq!(make(64).unwrap().len(), 64);
}

/// Brings what one shard has for another there, until there is nothing left.
fn cross(server: &mut Shards) -> Vec<Bytes> {
    let mut relayed = Vec::new();
    let mut sent = Vec::new();
    loop {
        for shard in 0..server.shards.len() {
            sent.extend(server.answers(shard));
            while let Some(event) = server.shards[shard].poll_event() {
                if let Event::Relay(news) = event {
                    relayed.push(news);
                }
            }
        }
        if relayed.is_empty() {
            return sent;
        }
        for news in relayed.drain(..) {
            let shard = usize::from(news.shard());
            server.shards[shard].handle_relayed(server.now, news);
        }
    }
}

/// The client that asks and the one that is asked are at different workers.
#[test]
fn peer_tunnels_are_brokered_between_shards_and_their_end_is_told_there() {
    use tsc_tpl::{CertificateFingerprint, ConnectionInfo, ServiceList, TransportCode, TunnelTag};
    const PEER: ServiceType = ServiceType::ENABLE_PEER;
    let mut config = server_config(7);
    config.interfaces[0].services = vec![PEER];
    let mut server = Shards::new(config, 3);
    let tunnel = |server: &mut Shards, shard: usize| {
        let binding = server.open(shard);
        let mut bytes = Vec::new();
        let request = CmType::CONFIGURATION_REQUEST;
        MessageBuilder::new(request, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(1))
            .tlv(Tlv::SupportedServices(ServiceList::new(&[PEER]).unwrap()))
            .encode(&mut bytes)
            .unwrap();
        let (_, answers) = server.say(shard, binding, &bytes);
        let (tsid, key) = granted(&answers[0]).unwrap();
        let session = server.shards[shard].session_of(binding).unwrap();
        let _ = server.say(shard, binding, &message(CmType::KEEPALIVE, tsid, 2));
        Tunnel {
            binding,
            session,
            tsid,
            key,
        }
    };
    let (near, far) = (tunnel(&mut server, 0), tunnel(&mut server, 2));
    let v4 = |address: IpAddr, port| match address {
        IpAddr::V4(address) => std::net::SocketAddrV4::new(address, port),
        IpAddr::V6(_) => panic!("IPv4 here"),
    };
    let info = |source, destination| {
        Tlv::ConnectionInfoIpv4(ConnectionInfo {
            transport: TransportCode::UDP,
            source,
            destination,
        })
    };
    let (from, to) = (server.address(&near), server.address(&far));
    let outer = v4([192, 0, 2, 1].into(), 4000);
    let any = v4([0, 0, 0, 0].into(), 0);
    let mut ask = Vec::new();
    MessageBuilder::new(CmType::CLIENT_SERVICE_REQUEST, near.tsid, Sequence(3))
        .tlv(Tlv::ServiceType(PEER))
        .tlv(info(v4(from, 9), v4(to, 9)))
        .tlv(info(outer, any))
        .tlv(Tlv::CertificateFingerprint(CertificateFingerprint(
            &[1; 32],
        )))
        .encode(&mut ask)
        .unwrap();
    let (verdict, answers) = server.say(0, near.binding, &ask);
    assert_eq!((verdict, answers), (Verdict::Consumed, vec![]));
    let forwarded = cross(&mut server);
    let Ok(Unit::Control(forwarded)) = Unit::decode_datagram(&forwarded[0], &Limits::WIDEST) else {
        panic!("nothing forwarded")
    };
    let header = forwarded.header();
    assert_eq!(
        (header.tsid, header.cm_type),
        (far.tsid, CmType::CLIENT_SERVICE_REQUEST)
    );
    let mut answer = Vec::new();
    MessageBuilder::response(&header, ResponseCode::SUCCESS)
        .unwrap()
        .tlv(Tlv::ServiceType(PEER))
        .tlv(Tlv::PeerServiceResponse(true))
        .tlv(info(outer, any))
        .tlv(Tlv::TunnelTag(TunnelTag::new(&[5; 16])))
        .tlv(Tlv::CertificateFingerprint(CertificateFingerprint(
            &[2; 32],
        )))
        .encode(&mut answer)
        .unwrap();
    let _ = server.say(2, far.binding, &answer);
    let answers = cross(&mut server);
    let Ok(Unit::Control(answered)) = Unit::decode_datagram(&answers[0], &Limits::WIDEST) else {
        panic!("no answer")
    };
    assert_eq!(code(&answers[0]), ResponseCode::SUCCESS);
    assert_eq!(
        (answered.header().tsid, answered.header().sequence),
        (near.tsid, Sequence(3))
    );
    assert!(server.shards[0].has_service(near.session, PEER));
    assert!(server.shards[2].has_service(far.session, PEER));
    // A repeat gets the same answer, and asks nobody.
    let (_, repeated) = server.say(0, near.binding, &ask);
    assert_eq!(repeated, answers);
    // The end of one is told to the other.
    let release = message(CmType::CONFIGURATION_RELEASE_REQUEST, far.tsid, 9);
    let _ = server.say(2, far.binding, &release);
    let told = cross(&mut server);
    let Ok(Unit::Control(told)) = Unit::decode_datagram(told.last().unwrap(), &Limits::WIDEST)
    else {
        panic!("nothing told")
    };
    assert_eq!(
        (told.header().tsid, told.header().cm_type),
        (near.tsid, CmType::SERVICE_REQUEST)
    );
    let service = told.raw_value(TlvType::SERVICE_TYPE).unwrap();
    assert_eq!(service, ServiceType::DISABLE_PEER.0.to_be_bytes());
    assert!(!server.shards[0].has_service(near.session, PEER));
}
