//! Dialogs (RFC 3261 section 12): what both sides of a call remember of it.

use crate::sip::{Head, Hop, Method, NameAddr, Request, Response, SipUri};

/// Names a dialog.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialogId {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// Their tag.
    pub remote_tag: String,
}

impl DialogId {
    /// The dialog that a request from the other side belongs to.
    #[must_use]
    pub fn of_incoming(request: &Request) -> Self {
        let tag = |address: &NameAddr| address.tag().unwrap_or_default().to_owned();
        Self {
            call_id: request.head.call_id.clone(),
            local_tag: tag(&request.head.to),
            remote_tag: tag(&request.head.from),
        }
    }
}

/// One side's view of a dialog.
#[derive(Clone, Debug)]
pub struct Dialog {
    local: NameAddr,
    remote: NameAddr,
    call_id: String,
    /// Where the other side wants to be reached: its Contact.
    target: SipUri,
    route: Vec<NameAddr>,
    /// Where requests go when neither route nor target is an address literal.
    fallback: Hop,
    local_cseq: u32,
    remote_cseq: Option<u32>,
}

impl Dialog {
    /// The caller's view, from its INVITE and the 2xx to it. `None` if the 2xx has no tag or no usable Contact.
    #[must_use]
    pub fn of_caller(invite: &Request, response: &Response, peer: impl Into<Hop>) -> Option<Self> {
        response.head.to.tag()?;
        let mut route = response.head.record_route.clone();
        route.reverse();
        Some(Self {
            local: invite.head.from.clone(),
            remote: response.head.to.clone(),
            call_id: invite.head.call_id.clone(),
            target: response.head.contacts.first()?.sip()?.clone(),
            route,
            fallback: peer.into(),
            local_cseq: invite.head.cseq.number,
            remote_cseq: None,
        })
    }

    /// The callee's view, from the INVITE and our tag. `None` if the INVITE has no tag or no usable Contact.
    #[must_use]
    pub fn of_callee(invite: &Request, local_tag: &str, peer: impl Into<Hop>) -> Option<Self> {
        invite.head.from.tag()?;
        Some(Self {
            local: invite.head.to.clone().with_tag(local_tag),
            remote: invite.head.from.clone(),
            call_id: invite.head.call_id.clone(),
            target: invite.head.contacts.first()?.sip()?.clone(),
            route: invite.head.record_route.clone(),
            fallback: peer.into(),
            local_cseq: 0,
            remote_cseq: Some(invite.head.cseq.number),
        })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> DialogId {
        let tag = |address: &NameAddr| address.tag().unwrap_or_default().to_owned();
        DialogId {
            call_id: self.call_id.clone(),
            local_tag: tag(&self.local),
            remote_tag: tag(&self.remote),
        }
    }

    /// A request inside the dialog, and where it goes (12.2.1.1). An ACK has the number of its INVITE.
    pub fn request(&mut self, method: Method) -> (Request, Hop) {
        if method != Method::Ack {
            self.local_cseq += 1;
        }
        let mut route = self.route.clone();
        let mut uri = self.target.clone();
        // A first hop without `lr` is a strict router of RFC 2543: it wants to find itself in the Request-URI.
        if let Some(first) = self.route.first().and_then(NameAddr::sip)
            && !first.params.has("lr")
        {
            uri = first.clone();
            route.remove(0);
            route.push(NameAddr::new(self.target.clone()));
        }
        let hop = self.route.first().and_then(NameAddr::sip);
        let to = hop.unwrap_or(&self.target).hop();
        let (local, remote) = (self.local.clone(), self.remote.clone());
        let mut request = Request::new(method, uri, local, remote, &self.call_id, self.local_cseq);
        request.head.route = route;
        (request, to.unwrap_or(self.fallback))
    }

    /// Whether the other side says that it wants to be reached elsewhere than so far.
    #[must_use]
    pub fn moves(&self, head: &Head) -> bool {
        contact(head).is_some_and(|contact| *contact != self.target)
    }

    /// Takes the Contact of the other side's re-INVITE, or of its 2xx to ours, as where it wants to be reached from now on
    /// (12.2.1.2, 12.2.2). Without a usable one nothing changes. `peer` is where requests go if that is no address.
    pub fn refresh_target(&mut self, head: &Head, peer: impl Into<Hop>) {
        if let Some(contact) = contact(head) {
            self.target = contact.clone();
            self.fallback = peer.into();
        }
    }

    /// Whether a request from the other side is in order (12.2.2); notes its number.
    pub fn accept(&mut self, request: &Request) -> bool {
        let number = request.head.cseq.number;
        let in_order = self.remote_cseq.is_none_or(|last| number > last);
        if in_order {
            self.remote_cseq = Some(number);
        }
        in_order
    }
}

fn contact(head: &Head) -> Option<&SipUri> {
    head.contacts.first()?.sip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Contacts, StatusCode};

    fn at(text: &str) -> Hop {
        Hop::from(text.parse::<std::net::SocketAddr>().unwrap())
    }

    fn uri(text: &str) -> SipUri {
        text.parse().unwrap()
    }

    fn invite() -> Request {
        let from = NameAddr::new(uri("sip:alice@a")).with_tag("alice");
        let to = NameAddr::new(uri("sip:bob@b"));
        let mut invite = Request::new(Method::Invite, uri("sip:bob@b"), from, to, "id", 7);
        invite.head.contacts = Contacts::List(vec![NameAddr::new(uri("sip:alice@192.0.2.1:5070"))]);
        invite
    }

    fn dialogs(routes: &[&str]) -> (Dialog, Dialog) {
        let mut invite = invite();
        let peer = at("192.0.2.99:5060");
        invite.head.record_route = routes.iter().map(|r| NameAddr::new(uri(r))).collect();
        let mut ok = invite.response(StatusCode::OK, "bob");
        ok.head.contacts = Contacts::List(vec![NameAddr::new(uri("sip:bob@192.0.2.2"))]);
        (
            Dialog::of_caller(&invite, &ok, peer).unwrap(),
            Dialog::of_callee(&invite, "bob", peer).unwrap(),
        )
    }

    #[test]
    fn both_views_name_the_same_dialog() {
        let (mut caller, mut callee) = dialogs(&[]);
        let (ack, to) = caller.request(Method::Ack);
        assert_eq!(ack.head.cseq.number, 7);
        assert_eq!(to, at("192.0.2.2:5060"));
        let (bye, _) = caller.request(Method::Bye);
        assert_eq!(bye.head.cseq.number, 8);
        assert_eq!(DialogId::of_incoming(&bye), callee.id());
        assert!(callee.accept(&bye));
        assert!(!callee.accept(&bye), "the same number again");
        let (bye, to) = callee.request(Method::Bye);
        assert_eq!(to, at("192.0.2.1:5070"));
        assert_eq!(DialogId::of_incoming(&bye), caller.id());
        assert!(caller.accept(&bye));
    }

    #[test]
    fn routes_are_followed() {
        let (mut caller, mut callee) = dialogs(&["sip:192.0.2.10;lr", "sip:192.0.2.11;lr"]);
        let (bye, to) = caller.request(Method::Bye);
        assert_eq!(to, at("192.0.2.11:5060"));
        assert_eq!(bye.uri, uri("sip:bob@192.0.2.2").into());
        assert_eq!(bye.head.route.len(), 2);
        let (_, to) = callee.request(Method::Bye);
        assert_eq!(to, at("192.0.2.10:5060"));

        let (_, mut callee) = dialogs(&["sip:192.0.2.10"]);
        let (bye, to) = callee.request(Method::Bye);
        assert_eq!(to, at("192.0.2.10:5060"));
        assert_eq!(bye.uri, uri("sip:192.0.2.10").into(), "strict router");
        assert_eq!(
            bye.head.route,
            [NameAddr::new(uri("sip:alice@192.0.2.1:5070"))]
        );
    }

    #[test]
    fn a_new_contact_is_where_requests_go() {
        let (mut caller, mut callee) = dialogs(&[]);
        let (mut again, _) = caller.request(Method::Invite);
        assert!(!callee.moves(&again.head), "without a Contact");
        again.head.contacts = invite().head.contacts;
        assert!(!callee.moves(&again.head), "the same");
        let elsewhere = NameAddr::new(uri("sip:alice@192.0.2.7:5071"));
        again.head.contacts = Contacts::List(vec![elsewhere]);
        assert!(callee.moves(&again.head) && callee.accept(&again));
        let id = callee.id();
        callee.refresh_target(&again.head, at("192.0.2.99:5060"));
        assert_eq!(callee.id(), id, "the dialog is the same");
        let (bye, to) = callee.request(Method::Bye);
        assert_eq!(to, at("192.0.2.7:5071"));
        assert_eq!(bye.uri, uri("sip:alice@192.0.2.7:5071").into());
    }

    #[test]
    fn without_tag_or_contact_there_is_no_dialog() {
        let peer = at("192.0.2.99:5060");
        let ok = invite().response(StatusCode::OK, "bob");
        assert!(Dialog::of_caller(&invite(), &ok, peer).is_none());
        let mut bare = invite();
        bare.head.contacts = Contacts::All;
        assert!(Dialog::of_callee(&bare, "bob", peer).is_none());
    }
}
