//! The members of a family: how companions come, what they tell, and how they go.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::config::{ClientConfig, Endpoint, Target};
use super::super::event::{DownReason, Event, RequestError, Transmit};
use super::super::service::Redundancy;
use super::super::{Client, State};
use super::{Companion, DDT, DTTE, EPOCH_BITS, EPOCH_MASK, Family, MAX_FOREIGN, ROLES, STREAMS};
use crate::companion::{Claim, CompanionRole, Offer};
use crate::flow::FlowKey;

/// A companion that does not come up in this time is not to be had.
const CLAIM_TIME: Duration = Duration::from_secs(10);

impl Family {
    /// Carries out what one member of the family wants of another, and gathers what they tell.
    pub(super) fn settle(&mut self, now: Instant) {
        let mut down = None;
        self.settle_judge(now);
        loop {
            self.companion_events(now);
            self.tell_addresses();
            let before = self.events.len();
            while let Some(event) = self.main.poll_event() {
                if let Event::Down(_) = event {
                    down = Some(event);
                } else {
                    self.events.push_back(event);
                }
            }
            if down.is_some() {
                break;
            }
            if let Some(offer) = self.main.take_offer() {
                self.claim(now, DDT, offer);
            } else if let Some(offer) = self.main.take_encrypted_offer() {
                self.claim(now, DTTE, offer);
            } else if let Some((place, offer)) = self.take_stream_offer() {
                self.claim(now, place, offer);
            } else if let Some(place) = self.unneeded() {
                self.end_companion(now, place);
            } else if self.events.len() == before {
                break;
            }
        }
        let streams = self.streams().count();
        if down.is_none() && usize::from(self.main.wanted_streams()) > streams {
            // The server may hold one that this end does not.
            self.main.stream_over(now);
        }
        self.tell_addresses();
        if let Some(down) = down {
            // Its companions end with it, and there is nobody left to tell.
            for mut companion in self.companions.iter_mut().filter_map(Option::take) {
                companion.client.abandon();
                self.events.extend(last_words(&mut companion.client).0);
            }
            self.events.push_back(down);
        }
    }

    /// Tells which addresses the encrypted companion has, if these are others than they were.
    fn tell_addresses(&mut self) {
        let companion = self.companion(CompanionRole::Dtte);
        let own = companion.map_or(&[][..], |own| &own.addresses);
        let own = own.iter().map(|inner| inner.address);
        if !own.clone().eq(self.encrypted.iter().copied()) {
            let own: Vec<IpAddr> = own.collect();
            for address in &own {
                if !self.foreign.contains(address) {
                    self.foreign.push_back(*address);
                }
            }
            while self.foreign.len() > MAX_FOREIGN {
                self.foreign.pop_front();
            }
            self.events
                .push_back(Event::EncryptedAddresses(own.clone()));
            self.encrypted = own;
        }
    }

    /// A further stream that the server offers, and a place for it.
    fn take_stream_offer(&mut self) -> Option<(usize, Offer)> {
        let offer = self.main.take_stream_offer()?;
        let free = |place: &usize| matches!(self.companions.get(*place), Some(None));
        let mut places = STREAMS;
        let place = places.find(free)?;
        let role = *ROLES.get(place)?;
        Some((place, Offer { role, ..offer }))
    }

    /// A companion that no socket needs any more.
    fn unneeded(&self) -> Option<usize> {
        let streams = usize::from(self.main.wanted_streams());
        let is_needed = |place: usize| match place {
            DDT => self.main.needs_companion(),
            DTTE => self.main.needs_encryption(),
            stream => stream < STREAMS.start + streams,
        };
        let mut places = self.companions.iter().enumerate();
        let unneeded = places.find(|(place, found)| found.is_some() && !is_needed(*place));
        unneeded.map(|(place, _)| place)
    }

    /// Gathers what the companions tell, and tells the main tunnel what they are worth.
    fn companion_events(&mut self, now: Instant) {
        for place in 0..ROLES.len() {
            self.events_of(now, place);
        }
        self.move_redundancy(now);
    }

    fn events_of(&mut self, now: Instant, place: usize) {
        let Some(slot) = self.companions.get_mut(place) else {
            return;
        };
        let Some(companion) = slot else {
            return;
        };
        let mut over = false;
        while let Some(event) = companion.client.poll_event() {
            if let Event::Open { .. } | Event::Close { .. } | Event::SocketService { .. } = event {
                self.events.push_back(event);
            } else {
                tracing::debug!(?event, "companion");
                over |= matches!(event, Event::Down(_));
            }
        }
        if over {
            let last = std::iter::from_fn(|| companion.client.poll_transmit());
            self.transmits.extend(last);
            self.next_epoch = self.next_epoch.max(companion.attempts());
            *slot = None;
            return self.tell_over(now, place);
        }
        let works = companion.client.is_working();
        if std::mem::replace(&mut companion.worked, works) != works {
            match place {
                DDT => self.main.companion_works(now, works),
                DTTE => self.main.encryption_works(now, works),
                _ if works => self.main.stream_works(),
                _ => {}
            }
        }
    }

    /// Tells the main tunnel that a companion is over, or was not to be had.
    fn tell_over(&mut self, now: Instant, place: usize) {
        match place {
            DDT => self.main.companion_over(now),
            DTTE => self.main.encryption_ended(now),
            _ => self.main.stream_over(now),
        }
    }

    /// The place of the companion that carries a socket's packets, if it is not the main tunnel.
    pub(super) fn carrier(&self, key: FlowKey) -> Option<usize> {
        if self.main.is_encrypted(key) {
            Some(DTTE)
        } else {
            self.main.is_on_companion(key).then_some(DDT)
        }
    }

    /// Asks for redundancy where the sockets' packets go now.
    fn move_redundancy(&mut self, now: Instant) {
        for place in 0..self.redundancy.len() {
            if let Some((key, local, wish)) = self.redundancy.get(place).copied() {
                // There was room for it when it was asked for.
                let _ = self.place_redundancy(now, key, local, wish);
            }
        }
    }

    /// Asks for redundancy where the socket's packets go, and for none elsewhere.
    pub(super) fn place_redundancy(
        &mut self,
        now: Instant,
        key: FlowKey,
        local: SocketAddr,
        wish: Redundancy,
    ) -> Result<(), RequestError> {
        let carrier = self.carrier(key);
        let mut result = Ok(());
        for place in [None, Some(DDT), Some(DTTE)] {
            let tunnel = match place {
                None => Some(&mut self.main),
                Some(place) => {
                    let companion = self.companions.get_mut(place).and_then(Option::as_mut);
                    companion.map(|companion| &mut companion.client)
                }
            };
            let Some(tunnel) = tunnel.filter(|tunnel| tunnel.assignment().is_some()) else {
                continue;
            };
            let wanted = if place == carrier {
                wish
            } else {
                Redundancy::Off
            };
            if tunnel.wanted_redundancy(key) != wanted {
                let own = tunnel.own_address(local);
                let asked = tunnel.set_redundancy(now, key, own, wanted);
                if place == carrier {
                    result = asked;
                }
            }
        }
        result
    }

    /// Begins the companion that the server offers.
    fn claim(&mut self, now: Instant, place: usize, offer: Offer) {
        self.end_companion(now, place);
        let client = self.companion_client(&offer);
        let Some(mut client) = client else {
            tracing::debug!(role = %offer.role, "no way to the companion that was offered");
            return self.tell_over(now, place);
        };
        let tunnel = u32::try_from(place + 1).unwrap_or_default();
        client.next_epoch = (tunnel << EPOCH_BITS) | (self.next_epoch & EPOCH_MASK);
        client.background = self.main.background;
        client.start(now);
        if let Some(slot) = self.companions.get_mut(place) {
            *slot = Some(Box::new(Companion {
                client,
                worked: false,
            }));
        }
    }

    fn companion_client(&mut self, offer: &Offer) -> Option<Client> {
        let Offer {
            role,
            reservation,
            endpoint,
        } = offer;
        let State::Up(tunnel) = &self.main.state else {
            return None;
        };
        let link = tunnel.link.as_ref()?;
        let transport = role.transport(link.target.transport)?;
        let origin = link.target.endpoint.origin();
        let endpoint = match (endpoint, link.address) {
            (Some((told, address)), _) if *told == transport => Endpoint::Address {
                address: *address,
                origin,
            },
            (Some(_), _) => return None,
            (None, Some(address)) => {
                let port = role.default_port(address.port())?;
                let address = SocketAddr::new(address.ip(), port);
                Endpoint::Address { address, origin }
            }
            // The owner knows, unless there is a proxy on the way that knows.
            (None, None) if !self.main.config.lookup && role.shares_addresses() => {
                Endpoint::Configured(origin)
            }
            (None, None) => return None,
        };
        let config = ClientConfig {
            targets: vec![Target {
                transport,
                endpoint,
            }],
            addresses: Vec::new(),
            inner_mtu: None,
            supported_services: Vec::new(),
            first: None,
            lookup: false,
            upgrade: false,
            attempt_timeout: CLAIM_TIME,
            connect_timeout: CLAIM_TIME,
            known_hosts: Vec::new(),
            ..self.main.config.clone()
        };
        let claim = Claim {
            reservation: reservation.clone(),
            addresses: tunnel.assignment.addresses.clone(),
            shares: role.shares_addresses(),
        };
        let client = Client::with_claim(config, Some(claim), (self.random)());
        client
            .inspect_err(|error| tracing::debug!(%error, "companion"))
            .ok()
    }

    /// Ends the companion: it says goodbye once, and its transports are closed.
    fn end_companion(&mut self, now: Instant, place: usize) {
        let companion = self.companions.get_mut(place).and_then(Option::take);
        let Some(mut companion) = companion else {
            return;
        };
        self.next_epoch = self.next_epoch.max(companion.attempts());
        companion.client.release(now, now + CLAIM_TIME);
        companion.client.abandon();
        let (events, transmits) = last_words(&mut companion.client);
        self.events.extend(events);
        self.transmits.extend(transmits);
    }
}

/// What is to be done for a tunnel that is over.
fn last_words(client: &mut Client) -> (Vec<Event>, Vec<Transmit>) {
    let transmits = std::iter::from_fn(|| client.poll_transmit()).collect();
    let is_close = |event: &Event| matches!(event, Event::Close { .. });
    let events = std::iter::from_fn(|| client.poll_event()).filter(is_close);
    (events.collect(), transmits)
}

impl Client {
    /// Whether the tunnel has a transport that carries it, as far as can be told.
    fn is_working(&self) -> bool {
        let State::Up(tunnel) = &self.state else {
            return false;
        };
        let link = tunnel.link.as_ref().filter(|_| tunnel.confirmed);
        link.is_some_and(|link| !link.is_doubtful())
    }

    /// The address of this tunnel that a socket of the family has: of the same IP version, unless it is this tunnel's already.
    fn own_address(&self, local: SocketAddr) -> SocketAddr {
        let own = self.assignment().map_or(&[][..], |own| &own.addresses);
        let mut addresses = own.iter().map(|inner| inner.address);
        let is_own = addresses.clone().any(|own| own == local.ip());
        let same = |own: &IpAddr| own.is_ipv4() == local.is_ipv4();
        let ip = Some(local.ip()).filter(|_| is_own);
        let ip = ip.or_else(|| addresses.find(same));
        SocketAddr::new(ip.unwrap_or_else(|| local.ip()), local.port())
    }

    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        match &self.state {
            State::Up(tunnel) => tunnel.owns(address),
            State::Idle | State::Connecting(_) | State::Down => false,
        }
    }

    /// A tunnel that is lost is not given up yet.
    pub(super) fn stay(&mut self, now: Instant) {
        let kept = self.kept_for();
        if let State::Up(tunnel) = &mut self.state
            && let Some(seeker) = tunnel.seeker.as_mut().filter(|_| tunnel.link.is_none())
        {
            seeker.deadline = seeker.deadline.max(now + kept);
        }
    }

    /// Ends the tunnel without waiting for anybody.
    fn abandon(&mut self) {
        self.down(DownReason::Released { confirmed: false });
    }
}
