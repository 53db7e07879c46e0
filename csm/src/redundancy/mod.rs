//! Redundancy by copies in the datagram (spec 6, 7): what both ends do with the frames of one group.
//!
//! ```text
//!  packet of a granted flow --> Sender: history of what is to be repeated --> frame [newest, copies ...]
//!  frame --> Window: believable? --> each packet, oldest first: new, or seen --> whoever passes it on
//!                '--> what was lost and what came back: Reception --> Adaptive: the factor to ask for
//! ```

mod adapt;
mod sender;
mod window;

use std::time::Duration;

use tsc_tpl::{IpPacket, RedundancyFrame};

pub(crate) use self::adapt::Adaptive;
pub(crate) use self::sender::Sender;
pub(crate) use self::window::{Arrival, Window};

/// Most copies of a packet that this end sends or grants (spec 3.3).
pub const MAX_COPIES: u8 = 2;

/// For so long after the end of the service frames of before are still taken (spec 6).
pub(crate) const STRAGGLERS: Duration = Duration::from_secs(32);

/// A packet goes over so many transports at most.
pub const MAX_WAYS: usize = 3;

/// How the ways of a packet are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// All of them.
    All,
    /// Any one.
    One,
}

/// Which packets of a redundancy frame come for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh(u16);

impl Fresh {
    /// Adds the one at this place, counted from the newest.
    pub(crate) const fn add(&mut self, place: u16) {
        self.0 |= 1 << place;
    }

    /// The packets, oldest first (spec 6). `frame` is the one that was handed in.
    pub fn packets<'a>(self, frame: &RedundancyFrame<'a>) -> impl Iterator<Item = IpPacket<'a>> {
        let places = (0..u16::from(frame.count())).rev();
        let entries = places.zip(frame.entries().rev());
        entries
            .filter(move |(place, _)| self.0 & 1 << place != 0)
            .map(|(_, entry)| entry.packet)
    }
}
