//! Changes of the host's network, and of what the application does.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tsc_csm::client::{Epoch, Target, TransportLoss};
use tsc_osaa::{
    clock::time_asleep,
    netwatch::{Change, NetWatch},
    socket::source_for,
    stream::UnitClass,
};

use super::{Driver, links::framed_packet};
use crate::shared::State;

/// Media that has waited for a transport for longer is not sent any more: who hears it late hears it twice as badly.
pub(super) const MEDIA_AGE: Duration = Duration::from_millis(200);
/// A host that was asleep for longer has to look after its transports when it wakes.
const NAP: Duration = Duration::from_secs(1);

/// What is known of the host's network.
pub(super) struct Network {
    /// `None`: only the application knows.
    watch: Option<NetWatch>,
    asleep: Duration,
    /// When to ask again whether the host was asleep: not in every turn.
    ask_at: Instant,
    /// Where the transport led that the tunnel had last.
    last_peer: Option<SocketAddr>,
}

impl Network {
    pub(super) fn new(watched: bool) -> Self {
        let open = || match NetWatch::open() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::debug!(%error, "changes of the network are not noticed");
                None
            }
        };
        Self {
            watch: watched.then(open).flatten(),
            asleep: time_asleep(),
            ask_at: Instant::now(),
            last_peer: None,
        }
    }
}

impl Driver {
    pub(super) fn poll_network(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = self.wake_up(now);
        while let Some(watch) = &mut self.network.watch
            && let Poll::Ready(change) = watch.poll_changed(cx)
        {
            progress = true;
            tracing::debug!(?change, "the network changed");
            self.network_changed(now, Some(&change));
        }
        progress
    }

    /// Notices that the host was asleep: its clock stood still, the servers' did not.
    fn wake_up(&mut self, now: Instant) -> bool {
        if now < self.network.ask_at {
            return false;
        }
        self.network.ask_at = now + NAP;
        let asleep = time_asleep();
        let nap = asleep.saturating_sub(self.network.asleep);
        if nap < NAP {
            return false;
        }
        self.network.asleep = asleep;
        tracing::debug!(?nap, "the host was asleep");
        self.network_changed(now, None);
        true
    }

    /// Finds out what a change means for the transport. The system is asked which address it would send from: nothing leaves the
    /// host for that.
    pub(super) fn network_changed(&mut self, now: Instant, change: Option<&Change>) {
        let bound = self.client.can_send();
        let link = self.links.iter().find(|link| Some(link.epoch) == bound);
        let Some(link) = link else {
            let reachable = self
                .network
                .last_peer
                .is_none_or(|peer| source_for(peer).is_ok());
            if change.is_none_or(Change::is_online) || reachable {
                self.client.network_changed(now);
            } else {
                self.client.network_gone();
            }
            return;
        };
        let (epoch, local, peer) = (
            link.epoch,
            link.transport.local_addr().ip(),
            link.transport.peer_addr(),
        );
        self.network.last_peer = Some(peer);
        let source = source_for(peer).ok();
        if source == Some(local) {
            return self.client.network_changed(now);
        }
        let is_gone = change.is_some_and(|change| change.lost(local));
        match source {
            Some(_) if !is_gone => self.client.relocate(now, self.remembered()),
            Some(_) => {
                self.client.network_changed(now);
                self.drop_link(now, epoch);
            }
            None => {
                if change.is_none_or(Change::is_online) {
                    // Another family may do.
                    self.client.relocate(now, self.remembered());
                } else {
                    self.client.network_gone();
                }
                if is_gone {
                    self.drop_link(now, epoch);
                }
            }
        }
    }

    /// The transport's address is gone: nothing will come over it any more, and nobody will say so.
    fn drop_link(&mut self, now: Instant, epoch: Epoch) {
        self.client
            .transport_lost(now, epoch, TransportLoss::Failed);
        self.close(epoch);
    }

    /// What worked last on the network of now.
    fn remembered(&self) -> Option<Target> {
        self.memory
            .recall(|name| self.routes.named(name).is_some())
            .and_then(|(name, _)| self.routes.named(&name))
    }

    /// What carries the tunnel now is remembered for this network.
    pub(super) fn remember(&mut self) {
        let bound = self.client.can_send();
        let Some(link) = self.links.iter().find(|link| Some(link.epoch) == bound) else {
            return;
        };
        let (peer, target) = (link.transport.peer_addr(), link.target);
        self.network.last_peer = Some(peer);
        // Where a redirect led is for that server to say again.
        if let Some(route) = self.routes.of(target) {
            self.memory.remember(route.name(), peer);
        }
    }

    /// Puts the address that worked here before first.
    pub(super) fn prefer_remembered(&self, target: Target, addresses: &mut [SocketAddr]) {
        let Some(route) = self.routes.of(target) else {
            return;
        };
        let own = route.name();
        if let Some((_, address)) = self.memory.recall(|name| name == own)
            && let Some(place) = addresses.iter().position(|other| *other == address)
            && let Some(before) = addresses.get_mut(..=place)
        {
            before.rotate_right(1);
        }
    }

    /// Drops media that has waited for too long while there was no transport.
    pub(super) fn drop_late_media(&mut self, now: Instant, since: Instant) {
        let Some(limit) = now.checked_sub(MEDIA_AGE) else {
            return;
        };
        let is_media = |packet: &[u8]| UnitClass::of(packet) == UnitClass::RealTime;
        if since < limit {
            let [main, ..] = &mut self.outboxes;
            main.retain(|unit| {
                let packet = framed_packet(unit).map_or(&**unit, |packet| packet.as_bytes());
                !is_media(packet)
            });
        }
        let mut state = self.shared.lock();
        let State { stack, routed, .. } = &mut *state;
        // What has another way goes it.
        let is_late = |packet: &[u8]| is_media(packet) && !self.client.is_beside(packet);
        let dropped = stack.discard_transmit(limit, is_late);
        routed.discard(limit, is_media);
        if dropped > 0 {
            tracing::debug!(dropped, "late media is not sent");
        }
    }
}
