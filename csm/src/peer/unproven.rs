//! How much is sent to an address before anything has come from it.
//!
//! *Attack*: a peer names the address of a third party as its own, so that this client sends to it. *Mechanism*: an address that has
//! not answered gets three datagrams at most, of whatever kind. One that has gets more, counted anew by each datagram that comes from it:
//! a handshake answers one datagram with a flight of several, and has to repeat it where one of them is lost. *Limit*: the server lets a
//! client name nothing but its own outer address, and private ones to clients behind the same; so the third party shares one. Who
//! forges answers from there does not see what was asked, and gets a handshake no further.

use std::net::SocketAddr;

/// Most datagrams to an address from which nothing has come (spec 7, "3 STUN indications").
pub const MOST_UNANSWERED: u8 = 3;

/// Most datagrams to an address since the last one from there: three transmissions of the longest flight, which within the five
/// seconds of a search there is no time to exceed.
const MOST_SINCE_HEARD: u8 = 12;

/// Addresses that are kept; the others get nothing.
const MOST_ADDRESSES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    sent: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    to: SocketAddr,
    /// Since something came from there, if anything did.
    datagrams: u8,
    is_heard: bool,
}

impl Unproven {
    /// Whether one more may go there; it is counted as sent.
    pub(super) fn may_send(&mut self, to: SocketAddr) -> bool {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.to == to) {
            let most = if sent.is_heard {
                MOST_SINCE_HEARD
            } else {
                MOST_UNANSWERED
            };
            let allowed = sent.datagrams < most;
            sent.datagrams += u8::from(allowed);
            return allowed;
        }
        let allowed = self.sent.len() < MOST_ADDRESSES;
        if allowed {
            self.sent.push(Sent {
                to,
                datagrams: 1,
                is_heard: false,
            });
        }
        allowed
    }

    /// Something has come from there.
    pub(super) fn heard(&mut self, from: SocketAddr) {
        if let Some(sent) = self.sent.iter_mut().find(|sent| sent.to == from) {
            (sent.datagrams, sent.is_heard) = (0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_without_an_answer_and_more_where_there_was_one() {
        let mut unproven = Unproven::default();
        let to = SocketAddr::from(([192, 0, 2, 1], 9));
        assert_eq!((0..99).filter(|_| unproven.may_send(to)).count(), 3);
        for _ in 0..2 {
            unproven.heard(to);
            assert_eq!((0..99).filter(|_| unproven.may_send(to)).count(), 12);
        }
        // Nor to more and more addresses.
        let others = (0..100).filter(|port| unproven.may_send(([192, 0, 2, 2], *port).into()));
        assert_eq!(others.count(), MOST_ADDRESSES - 1);
    }
}
