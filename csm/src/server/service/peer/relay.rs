//! What one client's shard has for the other's, which may be the same.

use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::{ResponseCode, Sequence};

use super::super::super::Server;
use super::super::super::event::{Event, SessionId, Shard};
use super::asking::Seen;
use super::partners::Partner;
use crate::peer::{Granted, Invitation};

/// What one shard has for another about peer tunnels: hand it to [`Server::handle_relayed`] of the shard that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    pub(super) to: SessionId,
    pub(super) from: SessionId,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Ask {
        ticket: Sequence,
        invitation: Box<Invitation>,
        asker: Seen,
    },
    Answer {
        ticket: Sequence,
        answer: Result<Box<Granted>, ResponseCode>,
    },
    /// The addresses are the receiver's and the sender's.
    End { own: IpAddr, peer: IpAddr },
}

impl Relayed {
    /// The shard that it is for.
    #[must_use]
    pub const fn shard(&self) -> Shard {
        self.to.shard()
    }
}

impl Server {
    pub(super) fn relay(&mut self, now: Instant, relayed: Relayed) {
        if relayed.to.shard() == self.shard {
            self.handle_relayed(now, relayed);
        } else {
            self.events.push_back(Event::Relay(relayed));
        }
    }

    /// Takes what another shard has relayed. What is for a tunnel that has ended meanwhile is answered, too.
    pub fn handle_relayed(&mut self, now: Instant, relayed: Relayed) {
        let Relayed { to, from, what } = relayed;
        let key = self.own(to).filter(|key| self.sessions.get(*key).is_some());
        match what {
            What::Ask {
                ticket,
                invitation,
                asker,
            } => {
                let forwarded = key
                    .ok_or(ResponseCode::PEER_UNAVAILABLE)
                    .and_then(|key| self.forward_ask(now, key, from, ticket, *invitation, asker));
                if let Err(code) = forwarded {
                    self.reply(now, to, from, ticket, Err(code));
                }
            }
            What::Answer { ticket, answer } => {
                let is_granted = answer.is_ok();
                let taken = key.and_then(|key| self.take_answer(now, key, ticket, answer));
                // Whom the other end takes for its partner is gone, or has been answered otherwise.
                if taken.is_none() && is_granted {
                    self.relay_ends(now, to, from);
                }
            }
            What::End { own, peer } => {
                let partner = Partner {
                    session: from,
                    own,
                    peer,
                };
                if let Some(key) = key {
                    self.partner_ended(now, key, partner);
                }
            }
        }
    }

    pub(super) fn reply(
        &mut self,
        now: Instant,
        from: SessionId,
        to: SessionId,
        ticket: Sequence,
        answer: Result<Box<Granted>, ResponseCode>,
    ) {
        let what = What::Answer { ticket, answer };
        self.relay(now, Relayed { to, from, what });
    }
}
