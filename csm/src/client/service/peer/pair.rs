//! Two inner addresses: what there is between them, and what is being made.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tsc_tpl::{Header, Sequence};

use super::super::super::event::{Epoch, RequestId};
use super::event::{PathId, PeerStatus};
use super::{RESTS, UNUSED};
use crate::flow::{FlowKey, InnerTransport, MAX_FLOWS};
use crate::peer::{Invitation, Path, PathEnd};

/// See the module.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) own: IpAddr,
    pub(super) peer: IpAddr,
    /// Marked sockets that have sent there; at most [`MAX_FLOWS`].
    pub(super) users: Vec<FlowKey>,
    /// What there is, or what is being made, was asked for by the other end.
    pub(super) is_invited: bool,
    setup: Option<(Slot, Stage)>,
    pub(super) up: Option<Slot>,
    pub(super) rests_until: Option<Instant>,
    failures: u32,
    /// Of the other end's last request, as the server has forwarded it.
    invited_by: Option<Sequence>,
    /// This end has had a try of its own since its last rest.
    has_turned: bool,
}

/// A path and its name.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: PathId,
    pub(super) path: Path,
}

/// How far a set-up is.
#[derive(Debug)]
pub(super) enum Stage {
    /// This end wants it; gathering.
    Wanted {
        own: SocketAddr,
        peer: SocketAddr,
        transport: InnerTransport,
    },
    /// Gathered, and not asked for yet.
    Ready(Box<Invitation>),
    /// The server was asked.
    Asked(RequestId),
    Searching,
    /// The other end wants it; gathering.
    Invited(Box<Invited>),
    Listening,
}

/// The other end's request, which waits for its answer.
#[derive(Debug)]
pub(super) struct Invited {
    pub(super) header: Header,
    pub(super) epoch: Epoch,
    pub(super) invitation: Invitation,
    /// What there will be is in clear.
    pub(super) is_clear: bool,
}

impl Pair {
    pub(super) const fn new(own: IpAddr, peer: IpAddr) -> Self {
        Self {
            own,
            peer,
            users: Vec::new(),
            is_invited: false,
            setup: None,
            up: None,
            rests_until: None,
            failures: 0,
            invited_by: None,
            has_turned: false,
        }
    }

    /// Whether this end may try by itself what the other, who has asked, could not do: who is behind a NAT may find the one who is not.
    /// Once for each rest.
    pub(super) fn takes_turn(&mut self) -> bool {
        let is_wanted = self.is_invited && self.up.is_none() && !self.users.is_empty();
        is_wanted && !std::mem::replace(&mut self.has_turned, true)
    }

    pub(super) fn add_user(&mut self, key: FlowKey) {
        if !self.users.contains(&key) && self.users.len() < MAX_FLOWS {
            self.users.push(key);
        }
    }

    pub(super) const fn is_active(&self) -> bool {
        self.setup.is_some() || self.up.is_some()
    }

    /// This end wants a tunnel, and the other has not been found yet.
    pub(super) const fn is_asking(&self) -> bool {
        matches!(
            &self.setup,
            Some((
                _,
                Stage::Wanted { .. } | Stage::Ready(_) | Stage::Asked(_) | Stage::Searching
            ))
        )
    }

    pub(super) const fn stage(&self) -> Option<&Stage> {
        match &self.setup {
            Some((_, stage)) => Some(stage),
            None => None,
        }
    }

    /// What is being made, if it is this.
    pub(super) fn setup(&mut self, id: PathId) -> Option<(&mut Slot, &mut Stage)> {
        let (slot, stage) = self.setup.as_mut()?;
        (slot.id == id).then_some((slot, stage))
    }

    pub(super) fn asked(&mut self, request: RequestId) -> Option<(&mut Slot, &mut Stage)> {
        let (slot, stage) = self.setup.as_mut()?;
        matches!(stage, Stage::Asked(asked) if *asked == request).then_some((slot, stage))
    }

    pub(super) fn setup_id(&self) -> Option<PathId> {
        self.setup.as_ref().map(|(slot, _)| slot.id)
    }

    /// Begins to make a tunnel; there must be no other under way.
    pub(super) fn set_up(&mut self, id: PathId, path: Path, stage: Stage) {
        self.is_invited = matches!(stage, Stage::Invited(_));
        self.invited_by = if let Stage::Invited(invited) = &stage {
            Some(invited.header.sequence)
        } else {
            None
        };
        self.rests_until = None;
        self.setup = Some((Slot { id, path }, stage));
    }

    /// What was being made is there. Gives what was before.
    pub(super) fn came_up(&mut self, id: PathId) -> Option<Slot> {
        let (slot, _) = self.setup.take_if(|(slot, _)| slot.id == id)?;
        self.failures = 0;
        self.rests_until = None;
        self.up.replace(slot)
    }

    /// Whether the server takes both ends for partners because of this path, or may.
    pub(super) fn is_known_to_server(&self, id: PathId) -> bool {
        matches!(&self.setup, Some((slot, stage)) if slot.id == id
            && matches!(stage, Stage::Searching | Stage::Listening))
    }

    pub(super) fn take(&mut self, id: PathId) -> Option<Slot> {
        let setup = self.setup.take_if(|(slot, _)| slot.id == id);
        let setup = setup.map(|(slot, _)| slot);
        setup.or_else(|| self.up.take_if(|slot| slot.id == id))
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Slot> + use<> {
        let setup = self.setup.take().map(|(slot, _)| slot);
        setup.into_iter().chain(self.up.take())
    }

    /// Is left alone for a while.
    pub(super) fn rest(&mut self, now: Instant, why: PathEnd) {
        // Whoever wants it again has a reason.
        if why == PathEnd::Unused {
            return;
        }
        let rest = (RESTS.0 * 2_u32.saturating_pow(self.failures.min(16))).min(RESTS.1);
        self.failures = self.failures.saturating_add(1);
        self.has_turned = false;
        self.rest_until(now + rest);
    }

    pub(super) fn rest_until(&mut self, until: Instant) {
        self.rests_until = Some(until);
    }

    /// Whether a request of the server is older than the one by which the other end has asked last: late news of what was before.
    pub(super) fn outlives(&self, request: Sequence) -> bool {
        let newer = |invited: Sequence| invited.is_newer_than(request);
        self.invited_by.is_some_and(newer)
    }

    /// May be tried at once.
    pub(super) const fn wake(&mut self) {
        self.rests_until = None;
        self.failures = 0;
    }

    /// From when on this end, which has asked for it, has no use for it.
    pub(super) fn unused_from(&self) -> Option<Instant> {
        let up = self.up.as_ref().filter(|_| !self.is_invited)?;
        Some(up.path.last_packet()? + UNUSED)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        let setup = self.setup.as_ref().map(|(slot, _)| slot);
        setup.into_iter().chain(&self.up)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.slots().map(|slot| &slot.path)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PathId> {
        self.slots().map(|slot| slot.id)
    }

    pub(super) fn has(&self, id: PathId) -> bool {
        self.ids().any(|other| other == id)
    }

    pub(super) fn path_mut(&mut self, id: PathId) -> Option<&mut Path> {
        let setup = self.setup.as_mut().map(|(slot, _)| slot);
        let mut slots = setup.into_iter().chain(&mut self.up);
        slots.find(|slot| slot.id == id).map(|slot| &mut slot.path)
    }

    pub(super) fn status(&self, now: Instant) -> Option<PeerStatus> {
        let path = &self.up.as_ref()?.path;
        Some(PeerStatus {
            own: self.own,
            peer: self.peer,
            outer: path.usable(now),
            is_invited: self.is_invited,
            round_trip: path.round_trip(),
        })
    }
}
