//! Which captures see what this worker carries.
//!
//! | a capture of | sees |
//! | --- | --- |
//! | all | all packets and control messages of all tunnels, and packets at the TUN device and the host's sockets |
//! | an interface | what comes in and leaves by its ports, requests that are refused as well |
//! | a tunnel | what comes in and leaves by its transports and those of its companions |
//!
//! Without a capture each place that could record something costs one branch. With some, each has a bit, and whatever passes a mask: by
//! the index of its interface, and by the slot of its tunnel, for which a mask is worked out once.

use tsc_csm::server::{BindingId, Server as Core, SessionId, Verdict};
use tsc_osaa::trace::{CaptureStats, Direction, Interface as Side};
use tsc_tpl::{IpPacket, Limits, Tsid, Unit};

use super::{Worker, way::Way};
use crate::trace::{Tap, TraceFilter, Watch};

/// A bit for each capture.
type Mask = u16;

/// Answers of one turn to tunnels that are over by then, at most; further ones are missing in captures of tunnels.
const ANSWERS: usize = 1024;

// That of the configuration, and those that were started later.
const _: () = assert!(Mask::BITS as usize > crate::trace::MAX_TRACES);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Captures {
    taps: Vec<Tap>,
    /// Those of everything.
    all: Mask,
    /// Those of tunnels.
    tunnels: Mask,
    /// Which of the latter see a tunnel of this worker, by its slot, once it was looked at. As large as the most tunnels that there were
    /// at a time while a tunnel was captured.
    known: Vec<Option<(SessionId, Mask)>>,
    /// Whose message came in this turn, if it is seen by captures of tunnels: the answer may end the tunnel. At most [`ANSWERS`].
    answered: Vec<(Tsid, Mask)>,
}

/// A control message that the session core is about to be given: the tunnel of its transport, and the captures of tunnels that see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(Option<(Tsid, Mask)>);

/// The transport that something came by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) interface: usize,
    pub(super) binding: BindingId,
}

/// What a worker tells when it has taken captures over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// Only that it has.
    Nothing,
    /// How many of its tunnels the last of them sees: it looks at each.
    SeenByLast,
}

impl Captures {
    /// These and no others from now on.
    pub(super) fn set(&mut self, taps: Vec<Tap>) {
        let those = |fits: fn(&Watch) -> bool| mask(&taps, |tap| fits(&tap.watch));
        self.all = those(|watch| matches!(watch, Watch::All));
        self.tunnels = those(|watch| matches!(watch, Watch::Tunnel(_)));
        self.known = Vec::new();
        self.answered.clear();
        self.taps = taps;
    }

    /// How many of `sessions` the last of the captures sees.
    pub(super) fn seen_by_last(
        &mut self,
        core: &Core,
        sessions: impl Iterator<Item = SessionId>,
    ) -> usize {
        let Some(last) = self.taps.len().checked_sub(1) else {
            return 0;
        };
        let mut seen = 0;
        for session in sessions {
            let interface = core.interface_of(session);
            let mask = self.all | self.of_interface(interface) | self.of_session(core, session);
            seen += usize::from(mask & bit(last) != 0);
        }
        seen
    }

    #[inline]
    pub(super) const fn is_idle(&self) -> bool {
        self.taps.is_empty()
    }

    /// Of the capture that the configuration asks for.
    pub(super) fn configured(&self) -> Option<CaptureStats> {
        let configured = self.taps.iter().find(|tap| tap.is_configured)?;
        Some(configured.capture.stats())
    }

    /// A tunnel has other addresses than before.
    pub(super) fn forget(&mut self, session: SessionId) {
        if let Some(slot) = self.known.get_mut(session.index()) {
            *slot = None;
        }
    }

    /// A unit, before the session core has it. A packet is recorded at once; a control message by [`Self::control`] afterwards, when it is
    /// known which tunnel it has made.
    #[inline]
    pub(super) fn unit(&mut self, core: &Core, from: Entry, unit: &Unit<'_>) -> Option<Before> {
        if self.is_idle() {
            return None;
        }
        let session = core.session_of(from.binding);
        match unit {
            Unit::Ip(packet) => self.packet_from(core, from.interface, session, packet),
            Unit::Control(_) => {
                let known = session.and_then(|session| self.about(core, session));
                return Some(Before(known));
            }
            // Its packets follow, each once.
            Unit::Redundancy(_) | Unit::Reserved(_) => {}
        }
        None
    }

    /// The control message that [`Self::unit`] has told of. One for another worker is recorded there.
    pub(super) fn control(
        &mut self,
        core: &Core,
        from: Entry,
        before: Before,
        unit: &Unit<'_>,
        verdict: Verdict,
    ) {
        let Unit::Control(message) = unit else { return };
        if matches!(verdict, Verdict::Elsewhere(_)) {
            return;
        }
        let after = core.session_of(from.binding);
        let after = after.and_then(|session| self.about(core, session));
        let mut mask = self.all | self.of_interface(Some(from.interface));
        if let Some((tsid, known)) = after.or(before.0)
            && known != 0
        {
            mask |= known;
            if self.answered.len() < ANSWERS {
                self.answered.push((tsid, known));
            }
        }
        self.write(mask, Side::Control, Direction::Inbound, message.as_bytes());
    }

    /// A datagram from an address that had no tunnel: a request, which may have got it one.
    #[inline]
    pub(super) fn request(
        &mut self,
        core: &Core,
        interface: usize,
        made: Option<BindingId>,
        bytes: &[u8],
    ) {
        if self.is_idle() {
            return;
        }
        let session = made.and_then(|binding| core.session_of(binding));
        let mask = self.of(core, Some(interface), session);
        self.write(mask, Side::Control, Direction::Inbound, bytes);
    }

    /// A packet that came in a redundancy frame, once.
    #[inline]
    pub(super) fn packet(
        &mut self,
        core: &Core,
        interface: usize,
        from: SessionId,
        packet: &IpPacket<'_>,
    ) {
        if !self.is_idle() {
            self.packet_from(core, interface, Some(from), packet);
        }
    }

    /// A packet at the TUN device or the host's sockets.
    #[inline]
    pub(super) fn core_packet(&self, direction: Direction, bytes: &[u8]) {
        if !self.is_idle() {
            self.write(self.all, Side::Inner, direction, bytes);
        }
    }

    fn packet_from(
        &mut self,
        core: &Core,
        interface: usize,
        session: Option<SessionId>,
        packet: &IpPacket<'_>,
    ) {
        let mask = self.of(core, Some(interface), session);
        let direction = Direction::Inbound;
        self.write(mask, Side::Inner, direction, packet.as_bytes());
    }

    /// Those that see the tunnel of a control message that is about to be sent, though the tunnel may be over.
    fn of_answer(&self, message: &[u8]) -> Mask {
        if self.answered.is_empty() {
            return 0;
        }
        let Ok(Unit::Control(message)) = Unit::decode_datagram(message, &Limits::WIDEST) else {
            return 0;
        };
        let tsid = message.header().tsid;
        let found = self.answered.iter().find(|(about, _)| *about == tsid);
        found.map_or(0, |(_, mask)| *mask)
    }

    fn of(&mut self, core: &Core, interface: Option<usize>, session: Option<SessionId>) -> Mask {
        let of_tunnel = session.map_or(0, |session| self.of_session(core, session));
        self.all | self.of_interface(interface) | of_tunnel
    }

    fn of_interface(&self, interface: Option<usize>) -> Mask {
        let Some(interface) = interface else { return 0 };
        mask(
            &self.taps,
            |tap| matches!(tap.watch, Watch::Interface(watched) if watched == interface),
        )
    }

    /// A tunnel by the name that answers to it bear.
    fn about(&mut self, core: &Core, session: SessionId) -> Option<(Tsid, Mask)> {
        let tsid = core.tsid_of(session)?;
        Some((tsid, self.of_session(core, session)))
    }

    /// Which captures of tunnels see this one.
    fn of_session(&mut self, core: &Core, session: SessionId) -> Mask {
        if self.tunnels == 0 {
            return 0;
        }
        let index = session.index();
        if let Some(Some((known, mask))) = self.known.get(index)
            && *known == session
        {
            return *mask;
        }
        // One that is over, or of another worker.
        if core.tsid_of(session).is_none() {
            return 0;
        }
        let main = core.main_of(session);
        let seen = mask(&self.taps, |tap| match &tap.watch {
            Watch::Tunnel(filter) => {
                is_meant(filter, core, session)
                    || main.is_some_and(|main| is_meant(filter, core, main))
            }
            Watch::All | Watch::Interface(_) => false,
        });
        if index >= self.known.len() {
            self.known.resize(index + 1, None);
        }
        if let Some(slot) = self.known.get_mut(index) {
            *slot = Some((session, seen));
        }
        seen
    }

    fn write(&self, mask: Mask, side: Side, direction: Direction, bytes: &[u8]) {
        for (index, tap) in self.taps.iter().enumerate() {
            if mask & bit(index) != 0 {
                tap.capture.record(side, direction, bytes);
            }
        }
    }
}

impl Worker {
    /// Records a packet that was sent to a tunnel, over these transports.
    pub(super) fn capture_sent(&mut self, to: SessionId, ways: [Option<Way>; 3], packet: &[u8]) {
        let mut mask = self.captures.of(&self.core, None, Some(to));
        for way in ways.into_iter().flatten() {
            mask |= self.captures.of_interface(self.interface_of(way));
        }
        let direction = Direction::Outbound;
        self.captures.write(mask, Side::Inner, direction, packet);
    }

    /// Records a control message that is sent over `way`, to the tunnel of `binding` if that is there still.
    pub(super) fn capture_said(
        &mut self,
        way: Option<Way>,
        binding: Option<BindingId>,
        message: &[u8],
    ) {
        let interface = way.and_then(|way| self.interface_of(way));
        let session = binding.and_then(|binding| self.core.session_of(binding));
        let captures = &mut self.captures;
        let mask = captures.of(&self.core, interface, session) | captures.of_answer(message);
        let direction = Direction::Outbound;
        captures.write(mask, Side::Control, direction, message);
    }

    /// All answers of the turn are sent.
    pub(super) fn captures_answered(&mut self) {
        self.captures.answered.clear();
    }

    /// Takes over the captures there are now.
    pub(super) fn set_captures(&mut self, taps: &[Tap], told: Told) -> usize {
        self.captures.set(taps.to_vec());
        match told {
            Told::Nothing => 0,
            Told::SeenByLast => self.captures.seen_by_last(&self.core, self.log.sessions()),
        }
    }
}

const fn bit(index: usize) -> Mask {
    1 << index
}

/// The bits of those that fit.
fn mask(taps: &[Tap], fits: impl Fn(&Tap) -> bool) -> Mask {
    let bits = taps.iter().enumerate();
    bits.filter(|(_, tap)| fits(tap))
        .fold(0, |mask, (index, _)| mask | bit(index))
}

/// Whether the filter means this tunnel itself.
fn is_meant(filter: &TraceFilter, core: &Core, session: SessionId) -> bool {
    match filter {
        TraceFilter::Tunnel(tsid) => core.tsid_of(session) == Some(*tsid),
        TraceFilter::Address(address) => core
            .assigned_addresses(session)
            .any(|lease| lease.address == *address),
        TraceFilter::Identity(name) => core
            .identity_of(session)
            .is_some_and(|identity| identity.as_str() == name),
        TraceFilter::All | TraceFilter::Interface(_) => false,
    }
}
