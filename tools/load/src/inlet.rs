//! The way in for datagrams: from bytes to probes and messages.

use crate::clock::Now;
use crate::member::{Link, Member, Phase, Taken};
use crate::traffic::Arrived;

/// Longest plaintext of a datagram.
const PLAIN: usize = 1 << 14;

/// See the module.
#[derive(Debug)]
pub(crate) struct Inlet {
    plain: Vec<u8>,
    /// What has arrived and is not counted yet.
    pub(crate) arrived: Vec<Arrived>,
}

impl Default for Inlet {
    fn default() -> Self {
        Self {
            plain: vec![0; PLAIN],
            arrived: Vec::new(),
        }
    }
}

impl Inlet {
    /// Takes one datagram for a client.
    pub(crate) fn datagram(
        &mut self,
        now: &Now,
        number: u32,
        member: &mut Member,
        bytes: &[u8],
    ) -> Taken {
        let (at, epoch, arrived) = (now.instant, member.epoch, &mut self.arrived);
        let mut taken = Taken::default();
        match &mut member.link {
            Link::Datagram(_) => {
                taken = member.speech.datagram(at, number, epoch, bytes, arrived);
            }
            Link::Dtls(session, _) => {
                session.handle_datagram(at, bytes);
                while let Some(length) = session.recv(&mut self.plain) {
                    let bytes = self.plain.get(..length).unwrap_or_default();
                    let one = member.speech.datagram(at, number, epoch, bytes, arrived);
                    taken.control |= one.control;
                    taken.strangers += one.strangers;
                }
                // A handshake has answers, data has none.
                taken.control |= member.phase != Phase::Up;
            }
            Link::Closed | Link::Stream(_) => taken.strangers = 1,
        }
        taken
    }
}
