//! A client machine without a server: its answers are made by hand.

use std::time::Instant;

use tsc_csm::Transport;
use tsc_csm::client::{AttemptFailure, Client, DropReason, Epoch, Event, Inbound, TransportLoss};
use tsc_sim::{Rng, client_config};
use tsc_tpl::{
    CmType, Cookie, Header, Limits, MessageBuilder, ResponseCode, ResumeKey, Seconds, Tlv, Tsid,
    Unit,
};

/// A client whose transport is open and whose request has gone out.
pub(crate) struct Asking {
    pub(crate) client: Client,
    pub(crate) now: Instant,
    pub(crate) epoch: Epoch,
    /// The header of its last request.
    pub(crate) request: Header,
}

impl Asking {
    pub(crate) fn new(transport: Transport) -> Self {
        let now = Instant::now();
        let config = client_config(&[transport]);
        let mut client = Client::new(config, Box::new(Rng::new(5))).unwrap();
        client.start(now);
        let Some(Event::Open { epoch, .. }) = client.poll_event() else {
            panic!("nothing to open")
        };
        client.transport_opened(now, epoch);
        let request = request(&mut client).unwrap();
        Self {
            client,
            now,
            epoch,
            request,
        }
    }

    /// With the cookie that the server asked for.
    pub(crate) fn with_cookie() -> Self {
        let mut asking = Self::new(Transport::Udp);
        let cookie = Tlv::Cookie(Cookie::new(&[7; 16]).unwrap());
        asking.answer(refusal(&asking.request, ResponseCode::COOKIE_REQUIRED).tlv(cookie));
        asking.request = request(&mut asking.client).unwrap();
        asking
    }

    /// Its tunnel's transport is lost and another is open, over which the request to resume has gone out.
    pub(crate) fn lose(&mut self) {
        let now = self.now;
        self.client
            .transport_lost(now, self.epoch, TransportLoss::Failed);
        while let Some(event) = self.client.poll_event() {
            if let Event::Open { epoch, .. } = event {
                self.epoch = epoch;
            }
        }
        self.client.transport_opened(now, self.epoch);
        self.request = request(&mut self.client).unwrap();
    }

    pub(crate) fn answer(&mut self, answer: MessageBuilder<'_>) -> Option<DropReason> {
        let mut bytes = Vec::new();
        answer.encode(&mut bytes).unwrap();
        self.answer_bytes(&bytes)
    }

    pub(crate) fn answer_bytes(&mut self, bytes: &[u8]) -> Option<DropReason> {
        let unit = Unit::decode_datagram(bytes, &Limits::WIDEST).unwrap();
        match self.client.handle_unit(self.now, self.epoch, unit) {
            Inbound::Dropped(reason) => Some(reason),
            _ => None,
        }
    }

    /// How the attempts fail when nothing more comes.
    pub(crate) fn failures(&mut self) -> Vec<AttemptFailure> {
        let mut failures = Vec::new();
        loop {
            while let Some(event) = self.client.poll_event() {
                match event {
                    Event::AttemptFailed { failure, .. } => failures.push(failure),
                    Event::Open { .. } | Event::Down(_) => return failures,
                    _ => {}
                }
            }
            self.now = self.client.poll_timeout().unwrap();
            self.client.handle_timeout(self.now);
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.client.assignment().is_some()
    }
}

pub(crate) fn request(client: &mut Client) -> Option<Header> {
    let transmit = client.poll_transmit()?;
    match Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST) {
        Ok(Unit::Control(message)) => Some(message.header()),
        _ => None,
    }
}

pub(crate) fn refusal<'a>(request: &Header, code: ResponseCode) -> MessageBuilder<'a> {
    MessageBuilder::response(request, code).unwrap()
}

/// A tunnel; of a resume without the key.
pub(crate) fn success<'a>(request: &Header) -> MessageBuilder<'a> {
    let configured = request.cm_type == CmType::CONFIGURATION_REQUEST;
    let key = configured.then_some(Tlv::ResumeKey(ResumeKey::new(&[1; 32])));
    refusal(request, ResponseCode::SUCCESS)
        .tsid(Tsid(77))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::InternalIpv4Address([10, 0, 0, 1].into()))
        .tlv(Tlv::InternalIpv4Netmask(
            tsc_tpl::Ipv4Netmask::new(24).unwrap(),
        ))
        .tlv(Tlv::KeepaliveInterval(Seconds(50)))
        .tlv(Tlv::PersistenceTime(Seconds(330)))
        .tlv(Tlv::InnerMtu(1400))
        .tlvs(key)
}
