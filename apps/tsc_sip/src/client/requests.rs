//! The caller is a user agent server too: the other side may hang up, go on elsewhere, or ask what we can do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::{
    dialog::DialogId,
    endpoint::{Endpoint, Incoming, IncomingEvents, IncomingRequest},
    mid_call::{CallEvent, respond},
    net::{InnerNet, Prober},
    random::{OsRandom, Random},
    sip::{Method, StatusCode},
    transaction::ServerId,
    ua,
};

/// Events that may wait for a call; a peer that floods its own call loses the rest.
const CALL_EVENTS: usize = 16;

/// A call that is up.
#[derive(Debug)]
struct Place {
    events: mpsc::Sender<CallEvent>,
    /// The other side's last INVITE within it.
    invite: Option<ServerId>,
}

/// The calls that are up, to hand them what comes for them. As many as there are calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Dialogs(Arc<Mutex<BTreeMap<DialogId, Place>>>);

impl Dialogs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DialogId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request to its call; gives it back if there is none.
    fn request(&self, incoming: IncomingRequest) -> Option<IncomingRequest> {
        let mut dialogs = self.lock();
        let Some(place) = dialogs.get_mut(&DialogId::of_incoming(&incoming.request)) else {
            return Some(incoming);
        };
        if incoming.request.method == Method::Invite {
            place.invite = Some(incoming.id);
        }
        if let Err(error) = place.events.try_send(CallEvent::Request(incoming)) {
            tracing::debug!(%error, "call event dropped");
        }
        None
    }

    /// No ACK came for the answer to an INVITE.
    fn ack_missing(&self, invite: ServerId) {
        let dialogs = self.lock();
        let mut places = dialogs.values();
        let place = places.find(|place| place.invite == Some(invite));
        if let Some(Err(error)) = place.map(|place| place.events.try_send(CallEvent::AckMissing)) {
            tracing::debug!(%error, "call event dropped");
        }
    }

    /// The SIP socket is another: transactions of the old one are no more, and their names come again.
    fn forget_transactions(&self) {
        for place in self.lock().values_mut() {
            place.invite = None;
        }
    }

    /// Gives a call its place, which it leaves when the entry is dropped; and what comes for it.
    pub(super) fn add(&self, id: DialogId) -> (DialogEntry, mpsc::Receiver<CallEvent>) {
        let (events, receiver) = mpsc::channel(CALL_EVENTS);
        let invite = None;
        self.lock().insert(id.clone(), Place { events, invite });
        let dialogs = self.clone();
        (DialogEntry { dialogs, id }, receiver)
    }
}

/// The call's place among those that requests are handed to; leaves it when dropped.
pub(super) struct DialogEntry {
    dialogs: Dialogs,
    id: DialogId,
}

impl Drop for DialogEntry {
    fn drop(&mut self) {
        self.dialogs.lock().remove(&self.id);
    }
}

/// Answers what comes to one SIP socket, until that is closed.
pub(super) async fn answer_requests<N: InnerNet>(
    mut incoming: IncomingEvents,
    endpoint: Endpoint,
    dialogs: Dialogs,
    mut prober: Prober<N>,
) {
    dialogs.forget_transactions();
    loop {
        let event = tokio::select! {
            event = incoming.recv() => event,
            peer = prober.unreachable() => {
                // Fails only if the socket is closed, and then nobody waits any more.
                let _ = endpoint.unreachable(peer).await;
                continue;
            }
        };
        let incoming = match event {
            Some(Incoming::Request(incoming)) => incoming,
            Some(Incoming::Unanswered(to)) => {
                prober.suspect(to);
                continue;
            }
            Some(Incoming::AckMissing(id)) => {
                dialogs.ack_missing(id);
                continue;
            }
            // A re-INVITE is answered at once: there is nothing to cancel, and an ACK brings nothing new.
            Some(Incoming::Cancelled(_) | Incoming::Acknowledged(_)) => continue,
            None => return,
        };
        let request = &incoming.request;
        let tag = OsRandom.token();
        let response = match request.method {
            _ if let Some(refusal) = ua::screen(request, &tag) => refusal,
            Method::Invite | Method::Bye if request.head.to.tag().is_some() => {
                if let Some(stray) = dialogs.request(incoming) {
                    let gone = StatusCode::CALL_DOES_NOT_EXIST;
                    respond(&stray, stray.request.response(gone, &tag)).await;
                }
                continue;
            }
            Method::Bye => request.response(StatusCode::CALL_DOES_NOT_EXIST, &tag),
            Method::Options => ua::capabilities(request, &tag),
            Method::Invite => request.response(StatusCode::TEMPORARILY_UNAVAILABLE, &tag),
            Method::Register | Method::Ack | Method::Cancel | Method::Other(_) => {
                request.response(StatusCode::METHOD_NOT_ALLOWED, &tag)
            }
        };
        respond(&incoming, response).await;
    }
}
