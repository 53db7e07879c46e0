//! What test files share: worlds with a tunnel (`tunnel`) or with two (`call`), a client machine without a server (`asking`), and a
//! server machine with connections to it without a client machine (`Bench`).
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod asking;
pub(crate) mod call;
pub(crate) mod ddt;
pub(crate) mod services;
pub(crate) mod tunnel;

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tsc_csm::Transport;
use tsc_csm::server::{BindingId, BindingInfo, Identity, Server, ServerConfig, Verdict};
use tsc_sim::{Rng, server_config};
use tsc_tpl::{
    CmType, Limits, MessageBuilder, ResponseCode, ResumeProof, Sequence, Tlv, TlvType, Tsid, Unit,
};

/// A server, and connections to it without a client.
pub(crate) struct Bench {
    pub(crate) now: Instant,
    pub(crate) server: Server,
    next_port: u16,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(server_config(9))
    }

    pub(crate) fn with(config: ServerConfig) -> Self {
        let now = Instant::now();
        let server = Server::new(config, now, Box::new(Rng::new(1))).unwrap();
        Self {
            now,
            server,
            next_port: 1000,
        }
    }

    pub(crate) fn open(&mut self, transport: Transport) -> BindingId {
        self.open_as(transport, None)
    }

    pub(crate) fn open_as(&mut self, transport: Transport, name: Option<&str>) -> BindingId {
        self.next_port += 1;
        let peer = SocketAddr::from(([192, 0, 2, 1], self.next_port));
        let info = BindingInfo {
            interface: 0,
            transport,
            peer,
            local: SocketAddr::from(([203, 0, 113, 1], 5060)),
            identity: name.map(Identity::new),
        };
        self.server.open_binding(self.now, info).unwrap()
    }

    pub(crate) fn say_quietly(&mut self, binding: BindingId, bytes: &[u8]) -> Verdict {
        let unit = Unit::decode_datagram(bytes, &Limits::WIDEST).unwrap();
        self.server.handle_unit(self.now, binding, &unit)
    }

    pub(crate) fn say(&mut self, binding: BindingId, bytes: &[u8]) -> (Verdict, Vec<Bytes>) {
        let verdict = self.say_quietly(binding, bytes);
        let answers = std::iter::from_fn(|| self.server.poll_transmit())
            .map(|transmit| transmit.bytes)
            .collect();
        (verdict, answers)
    }

    /// Handles all that is due now; panics if that does not end.
    pub(crate) fn catch_up(&mut self) {
        for _ in 0..100 {
            match self.server.poll_timeout() {
                Some(at) if at <= self.now => self.server.handle_timeout(self.now),
                _ => return,
            }
        }
        panic!("the server is never done with what is due");
    }

    /// A confirmed tunnel: its name and resume key.
    pub(crate) fn tunnel(&mut self, transport: Transport) -> (BindingId, Tsid, [u8; 32]) {
        let binding = self.open(transport);
        let (tsid, key) = self.configure(binding);
        let (verdict, _) = self.say(binding, &message(CmType::KEEPALIVE, tsid, 2));
        assert_eq!(verdict, Verdict::Consumed);
        (binding, tsid, key)
    }

    /// An unconfirmed tunnel over `binding`: its name and resume key.
    pub(crate) fn configure(&mut self, binding: BindingId) -> (Tsid, [u8; 32]) {
        let (_, answers) = self.say(binding, &configuration_request(1));
        let Ok(Unit::Control(answer)) = Unit::decode_datagram(&answers[0], &Limits::WIDEST) else {
            panic!()
        };
        let key = answer
            .raw_value(TlvType::RESUME_KEY)
            .unwrap()
            .try_into()
            .unwrap();
        (answer.header().tsid, key)
    }
}

pub(crate) fn configuration_request(sequence: u32) -> Vec<u8> {
    let mut request = Vec::new();
    MessageBuilder::new(
        CmType::CONFIGURATION_REQUEST,
        Tsid::UNASSIGNED,
        Sequence(sequence),
    )
    .tlv(Tlv::ProtocolRevision(1))
    .encode(&mut request)
    .unwrap();
    request
}

pub(crate) fn message(cm_type: CmType, tsid: Tsid, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    MessageBuilder::new(cm_type, tsid, Sequence(sequence))
        .encode(&mut bytes)
        .unwrap();
    bytes
}

pub(crate) fn resume_request(tsid: Tsid, counter: u32, mac: &[u8; 32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    MessageBuilder::new(CmType::CONFIGURATION_RESUME_REQUEST, tsid, Sequence(50))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::ResumeProof(ResumeProof { counter, mac }))
        .encode(&mut bytes)
        .unwrap();
    bytes
}

pub(crate) fn proof(key: &[u8; 32], tsid: Tsid, counter: u32) -> [u8; 32] {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(b"tscf resume 1");
    mac.update(&tsid.0.to_be_bytes());
    mac.update(&counter.to_be_bytes());
    mac.finalize().into_bytes().into()
}

pub(crate) fn code(answer: &[u8]) -> ResponseCode {
    let Ok(Unit::Control(answer)) = Unit::decode_datagram(answer, &Limits::WIDEST) else {
        panic!()
    };
    answer.parse().unwrap().response_code().unwrap()
}
