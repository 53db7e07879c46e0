//! How much is sent to an address before anything has come from it.
//!
//! *Attack*: a peer names the address of a third party as its own, so that this client sends to it. *Mechanism*: an address gets
//! three datagrams at most without an answer, of whatever kind; each that comes from it counts anew. *Limit*: the server lets a
//! client name nothing but its own outer address, and private ones to clients behind the same; so the third party shares one.

use std::net::SocketAddr;

/// Most datagrams to an address from which nothing has come since the first of them (spec 7, "3 STUN indications").
pub const MOST_UNANSWERED: u8 = 3;

/// Addresses that are kept; the others get nothing.
const MOST_ADDRESSES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    sent: Vec<(SocketAddr, u8)>,
}

impl Unproven {
    /// Whether one more may go there; it is counted as sent.
    pub(super) fn may_send(&mut self, to: SocketAddr) -> bool {
        if let Some((_, sent)) = self.sent.iter_mut().find(|(address, _)| *address == to) {
            let allowed = *sent < MOST_UNANSWERED;
            *sent += u8::from(allowed);
            return allowed;
        }
        let allowed = self.sent.len() < MOST_ADDRESSES;
        if allowed {
            self.sent.push((to, 1));
        }
        allowed
    }

    /// Something has come from there.
    pub(super) fn heard(&mut self, from: SocketAddr) {
        if let Some((_, sent)) = self.sent.iter_mut().find(|(address, _)| *address == from) {
            *sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_without_an_answer_and_no_more() {
        let mut unproven = Unproven::default();
        let to = SocketAddr::from(([192, 0, 2, 1], 9));
        assert_eq!((0..9).filter(|_| unproven.may_send(to)).count(), 3);
        unproven.heard(to);
        assert_eq!((0..9).filter(|_| unproven.may_send(to)).count(), 3);
        // Nor to more and more addresses.
        let others = (0..100).filter(|port| unproven.may_send(([192, 0, 2, 2], *port).into()));
        assert_eq!(others.count(), MOST_ADDRESSES - 1);
    }
}
