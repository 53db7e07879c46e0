//! What this client and the server say to each other about peer tunnels.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::{Header, Message, MessageError, ResponseCode, ServiceType};

use super::super::super::event::{Epoch, RequestId};
use super::super::super::{Client, State};
use super::ENABLE;
use super::event::{PathId, PeerEvent, PeerGuest};
use super::pair::{Invited, Pair, Stage};
use crate::flow::InnerTransport;
use crate::peer::{
    self, Candidate, Found, Granted, Invitation, Path, PathEnd, Reach, Terms, connection_info,
};
use crate::random::Random;
use crate::secret::Secret;
use crate::transport::Transport;
use crate::wire;

/// Where the server does not offer the service after all.
const UNAVAILABLE_REST: Duration = Duration::from_secs(600);
/// Where a candidate says of which host a stream may come, and not where to reach it (RFC 6544, 4.5, "active").
const NO_PORT: u16 = 9;
/// Told with `busy`.
const BUSY_REST: Duration = Duration::from_secs(5);

/// The request under way: one at a time, of either kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asking {
    /// For a tunnel.
    Begin(RequestId),
    /// To end one.
    End,
}

/// What is said to a request of the server.
#[derive(Debug)]
pub(in super::super) enum Reply {
    /// This.
    Now(Option<Bytes>),
    /// Nothing yet.
    Later,
}

impl Client {
    /// A path knows by which addresses it may be reached.
    pub(super) fn gathered(&mut self, now: Instant, id: PathId, found: &Found) {
        let Some(fingerprint) = self.config.peer_fingerprint else {
            return;
        };
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let protected = tunnel.protected;
        let seen = tunnel
            .assignment
            .nat_view
            .map(|seen| seen.ip().to_canonical());
        let Some(pair) = tunnel.services.peer.pair_of(id) else {
            return;
        };
        let Some((slot, stage)) = pair.setup(id) else {
            return;
        };
        match stage {
            Stage::Wanted {
                own,
                peer,
                transport,
            } => {
                let hosts = found.datagrams.iter().map(SocketAddr::ip);
                // Where nothing was heard of STUN the one who is asked would not know this host by its outer address.
                let stream = seen
                    .filter(|seen| !hosts.clone().any(|host| host == *seen))
                    .map(|seen| SocketAddr::new(seen, NO_PORT));
                *stage = Stage::Ready(Box::new(Invitation {
                    own: *own,
                    peer: *peer,
                    transport: match transport {
                        InnerTransport::Tcp => Transport::Tcp,
                        InnerTransport::Udp => Transport::Udp,
                    },
                    candidates: candidates(!protected, &found.datagrams, stream),
                    fingerprint,
                }));
            }
            Stage::Invited(invited) => {
                let is_clear = invited.is_clear;
                let is_reachable = |own: &SocketAddr| {
                    // No NAT on the way to the server; or both in one network, as the server has let such a candidate pass.
                    let mut theirs = invited.invitation.candidates.iter();
                    seen == Some(own.ip())
                        || theirs.any(|their| Reach::of(their.address.ip()) == Reach::Private)
                };
                let stream = found.streams.filter(is_reachable);
                let is_hidden = found.streams.is_some() && stream.is_none();
                let mut tag = [0; 16];
                self.random.fill(&mut tag);
                let granted = Granted {
                    candidates: candidates(is_clear, &found.datagrams, stream),
                    tag: Secret::new(tag),
                    fingerprint,
                };
                let (header, epoch) = (invited.header, invited.epoch);
                slot.path.listen(
                    now,
                    &invited.invitation,
                    &granted,
                    is_clear,
                    &mut self.random,
                );
                *stage = Stage::Listening;
                if is_hidden {
                    self.peer_event(PeerEvent::StopListening { path: id });
                }
                let bytes = peer::answer(&header, &granted);
                self.answer_later(now, epoch, &header, bytes);
            }
            Stage::Ready(_) | Stage::Asked(_) | Stage::Searching | Stage::Listening => {}
        }
    }

    /// Answers a request of the server that has waited: over the transport of now, if it is another.
    fn answer_later(&mut self, now: Instant, epoch: Epoch, request: &Header, bytes: Option<Bytes>) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let epoch = tunnel.link.as_ref().map_or(epoch, |link| link.epoch);
        let answer = request.cm_type.response();
        if let Some((bytes, answer)) = bytes.zip(answer) {
            tunnel.inbox.remember(now, request.sequence, answer, &bytes);
            self.transmit(epoch, bytes);
        }
    }

    /// Asks what is to be asked, one request after the other; where there is no room it is done when another is over.
    pub(in super::super) fn settle_peers(&mut self, now: Instant) {
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let peers = &mut tunnel.services.peer;
        if peers.asking.is_some() {
            return;
        }
        if let Some((own, peer)) = peers.ends.pop_front() {
            let (local, remote) = (SocketAddr::new(own, 0), SocketAddr::new(peer, 0));
            let between = connection_info(Transport::Udp, local, Some(remote));
            match self.ask_service(now, ServiceType::DISABLE_PEER, [between]) {
                Ok(_) => self.now_asking(Asking::End),
                Err(_) => {
                    if let Ok(tunnel) = self.open_tunnel() {
                        tunnel.services.peer.ends.push_front((own, peer));
                    }
                }
            }
            return;
        }
        let ready = peers.pairs.iter().find_map(|pair| match pair.stage() {
            Some(Stage::Ready(invitation)) => {
                Some((pair.setup_id()?, Invitation::clone(invitation)))
            }
            _ => None,
        });
        let Some((id, invitation)) = ready else {
            return;
        };
        let Ok(request) = self.ask_service(now, ENABLE, invitation.tlvs()) else {
            return;
        };
        self.now_asking(Asking::Begin(request));
        if let Ok(tunnel) = self.open_tunnel()
            && let Some((_, stage)) = tunnel
                .services
                .peer
                .pair_of(id)
                .and_then(|pair| pair.setup(id))
        {
            *stage = Stage::Asked(request);
        }
    }

    fn now_asking(&mut self, asking: Asking) {
        if let Ok(tunnel) = self.open_tunnel() {
            tunnel.services.peer.asking = Some(asking);
        }
    }

    /// A request about peer tunnels is over.
    pub(in super::super) fn peer_over(
        &mut self,
        now: Instant,
        request: RequestId,
        answer: Option<Result<&Message<'_>, &MessageError>>,
    ) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let peers = &mut tunnel.services.peer;
        let asked = peers.asking.take();
        if !matches!(asked, Some(Asking::Begin(begun)) if begun == request) {
            return self.settle_peers(now);
        }
        let answer = answer.and_then(Result::ok);
        let code = answer.and_then(Message::response_code);
        let granted = answer
            .filter(|answer| answer.service_type() == Some(ENABLE))
            .filter(|_| code == Some(ResponseCode::SUCCESS))
            .and_then(Granted::read);
        let found = peers.pairs.iter().position(
            |pair| matches!(pair.stage(), Some(Stage::Asked(asked)) if *asked == request),
        );
        match (found, granted) {
            (Some(place), Some(granted)) => self.begin_search(now, place, request, &granted),
            (Some(place), None) => {
                let retry_after = answer.and_then(Message::retry_after);
                let retry_after = retry_after.map(|seconds| seconds.duration());
                self.not_granted(now, place, code, retry_after);
            }
            // Given up meanwhile, or the other end's request stands.
            (None, _) => {}
        }
        self.settle_peers(now);
    }

    fn begin_search(&mut self, now: Instant, place: usize, request: RequestId, granted: &Granted) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let protected = tunnel.protected;
        let pairs = &mut tunnel.services.peer.pairs;
        let Some((slot, stage)) = pairs.get_mut(place).and_then(|pair| pair.asked(request)) else {
            return;
        };
        // The end that is asked decides, and may not choose a clear path for a protected tunnel (spec 5, "No downgrade").
        let offers_clear = granted
            .candidates
            .iter()
            .any(|candidate| !candidate.transport.is_protected());
        let is_clear = offers_clear && !protected;
        slot.path.search(now, granted, is_clear, &mut self.random);
        *stage = Stage::Searching;
        let id = slot.id;
        self.drain_path(now, id);
    }

    /// The server, or the other end, does not want it.
    fn not_granted(
        &mut self,
        now: Instant,
        place: usize,
        code: Option<ResponseCode>,
        retry_after: Option<Duration>,
    ) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let Some(pair) = tunnel.services.peer.pairs.get_mut(place) else {
            return;
        };
        let (own, peer, users) = (pair.own, pair.peer, pair.users.clone());
        let slot = pair.setup_id().and_then(|id| pair.take(id));
        let is_offered = !matches!(
            code,
            Some(
                ResponseCode::SERVICE_UNAVAILABLE
                    | ResponseCode::UNSUPPORTED_SERVICE
                    | ResponseCode::UNSUPPORTED_MESSAGE
                    | ResponseCode::UNSUPPORTED_TLV
            )
        );
        match code {
            Some(ResponseCode::BUSY | ResponseCode::NO_RESOURCES) => {
                pair.rest_until(now + retry_after.unwrap_or(BUSY_REST));
            }
            _ if !is_offered => pair.rest_until(now + UNAVAILABLE_REST),
            _ => pair.rest(now, PathEnd::NoPath),
        }
        tracing::debug!(%own, %peer, ?code, "no peer tunnel");
        if let Some(slot) = slot {
            self.close_path(slot);
        }
        if is_offered {
            self.tell_users(own, peer);
        } else {
            for key in users {
                self.tell(key, false, false);
            }
        }
    }

    /// A request of the server that is about peer tunnels; `None` if it is about something else.
    pub(in super::super) fn peer_request(
        &mut self,
        now: Instant,
        epoch: Epoch,
        request: &Message<'_>,
    ) -> Option<Reply> {
        match request.service_type()? {
            ServiceType::DISABLE_PEER => {
                self.ended_by_server(now, request);
                Some(Reply::Now(wire::service_success(request, [])))
            }
            ENABLE if self.config.supported_services.contains(&ENABLE) => {
                let header = request.header();
                Some(match self.invite(now, epoch, request) {
                    Ok(()) => Reply::Later,
                    Err(code) => {
                        let busy = code == ResponseCode::BUSY;
                        Reply::Now(peer::refusal(&header, code, busy.then_some(BUSY_REST)))
                    }
                })
            }
            _ => None,
        }
    }

    fn ended_by_server(&mut self, now: Instant, request: &Message<'_>) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let Some(flow) = request.flows().next() else {
            return;
        };
        let (own, peer) = (flow.source.ip(), flow.destination.ip());
        let peers = &mut tunnel.services.peer;
        let Some(pair) = peers.pair(own, peer) else {
            return;
        };
        // What is being asked for now is not what has ended.
        let is_new = pair.outlives(request.header().sequence);
        let is_over = !is_new && (!pair.is_asking() || pair.up.is_some());
        let ids: Vec<PathId> = match &pair.up {
            Some(up) => vec![up.id],
            None => pair.ids().collect(),
        };
        if is_over {
            for id in ids {
                self.path_ended(now, id, PathEnd::ByServer);
            }
        }
    }

    /// Another client wants a tunnel: by its request, as the server has let it pass.
    fn invite(
        &mut self,
        now: Instant,
        epoch: Epoch,
        request: &Message<'_>,
    ) -> Result<(), ResponseCode> {
        let unavailable = ResponseCode::PEER_UNAVAILABLE;
        let invitation = Invitation::read(request).ok_or(ResponseCode::MALFORMED)?;
        if self.config.peer_fingerprint.is_none() {
            return Err(unavailable);
        }
        let header = request.header();
        let tunnel = self.open_tunnel().map_err(|_| unavailable)?;
        let (own, peer) = (invitation.peer.ip(), invitation.own.ip());
        if !tunnel.owns(own) || tunnel.owns(peer) {
            return Err(unavailable);
        }
        let terms = Terms {
            own,
            peer,
            inner_mtu: tunnel.assignment.inner_mtu,
        };
        // Clear only where both main tunnels are (spec 7.4).
        let mut theirs = invitation.candidates.iter();
        let asks_clear = theirs.all(|candidate| !candidate.transport.is_protected());
        let is_clear = asks_clear && !tunnel.protected;
        let peers = &mut tunnel.services.peer;
        if !peers.invited.take(now) {
            return Err(ResponseCode::BUSY);
        }
        peers.tidy(now);
        let known = peers.pair(own, peer);
        let is_asking = known.as_ref().is_some_and(|pair| pair.is_asking());
        // Crossing requests: that of the lower inner address stands (spec 7.5).
        if is_asking && own < peer {
            return Err(ResponseCode::BUSY);
        }
        let is_active = known.is_some_and(|pair| pair.is_active());
        if !is_active && !peers.has_room() {
            return Err(ResponseCode::BUSY);
        }
        let id = peers.next_id();
        let place = peers.place(own, peer);
        let pair = peers.pairs.get_mut(place).ok_or(unavailable)?;
        let before = pair.setup_id().and_then(|id| pair.take(id));
        let guest = PeerGuest {
            fingerprint: (!is_clear).then_some(invitation.fingerprint),
            hosts: hosts(&invitation),
        };
        let invited = Box::new(Invited {
            header,
            epoch,
            invitation,
            is_clear,
        });
        pair.set_up(id, Path::new(terms), Stage::Invited(invited));
        if let Some(before) = before {
            self.close_path(before);
        }
        self.peer_event(PeerEvent::Open {
            path: id,
            guest: Some(guest),
        });
        Ok(())
    }

    /// The main tunnel was resumed: what the server does not list any more is over (spec 5, "Resume").
    pub(in super::super) fn peers_resumed(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let is_active = tunnel.assignment.active_services.contains(&ENABLE);
        let peers = &mut tunnel.services.peer;
        if !is_active {
            let ups = peers.pairs.iter().filter_map(|pair| pair.up.as_ref());
            let ids: Vec<PathId> = ups.map(|up| up.id).collect();
            for id in ids {
                self.path_ended(now, id, PathEnd::ByServer);
            }
        }
        if let State::Up(tunnel) = &mut self.state {
            tunnel.services.peer.pairs.iter_mut().for_each(Pair::wake);
        }
        self.settle_peers(now);
    }
}

/// Candidates of this client.
fn candidates(
    is_clear: bool,
    datagrams: &[SocketAddr],
    stream: Option<SocketAddr>,
) -> Vec<Candidate> {
    let (datagram, tcp) = if is_clear {
        (Transport::Udp, Transport::Tcp)
    } else {
        (Transport::Dtls, Transport::Tls)
    };
    let datagrams = datagrams.iter().map(|address| (datagram, *address));
    let stream = stream.map(|address| (tcp, address));
    let all = datagrams.chain(stream);
    all.map(|(transport, address)| Candidate { transport, address })
        .collect()
}

/// From where the one who asks may come.
fn hosts(invitation: &Invitation) -> Vec<IpAddr> {
    let mut hosts: Vec<IpAddr> = Vec::new();
    for candidate in &invitation.candidates {
        let host = candidate.address.ip();
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}
