//! What sockets want of a service, and what the server holds for them.
//!
//! The two stand side by side, and the difference is asked for, one request at a time: see `docs/services.md`. What a service
//! does with what it was granted is its own module's.

use std::net::SocketAddr;

use tsc_tpl::{ResponseCode, ServiceType};

use super::super::event::{Event, Refusal, RequestError, ServiceOutcome};
use crate::flow::{FlowKey, MAX_FLOWS};

/// What a socket wants of one service.
pub(super) trait Wish: Copy + PartialEq {
    /// Whether it wants it at all.
    fn is_wanted(self) -> bool;
}

/// The sockets of one service.
#[derive(Debug)]
pub(super) struct Flows<W, S> {
    /// By the value that enables it.
    service: ServiceType,
    /// At most [`MAX_FLOWS`] that want it, and as many of which the server is still to be told that they do not any more.
    entries: Vec<Flow<W, S>>,
    asking: Option<Asking>,
}

/// The request under way.
#[derive(Clone, Copy, Debug)]
struct Asking {
    key: FlowKey,
    /// For how much; `None` ends the service.
    asked: Option<u8>,
    /// The tunnel was resumed since. The answer may be the stored one of the transport before (spec 4), of what is not so any
    /// more.
    is_old: bool,
}

/// A socket that wants the service, or wanted it until now.
#[derive(Debug)]
pub(super) struct Flow<W, S> {
    pub(super) key: FlowKey,
    pub(super) local: SocketAddr,
    pub(super) wish: W,
    held: Held,
    /// The server has said no: it is not asked again before something changes.
    refused: bool,
    /// The server is asked once more for what it has granted.
    renews: bool,
    /// The application has changed its wish, and was not told of what came of it.
    pub(super) untold: bool,
    /// What the service's module keeps of it.
    pub(super) status: S,
}

/// What the server holds for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    Granted {
        granted: u8,
        /// With the request.
        asked: u8,
    },
    /// The last request was not answered, or not usably: there may be a grant or not. It is ended first, until that is answered:
    /// what begins anew begins with other sequences.
    Unknown,
}

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) key: FlowKey,
    pub(super) local: SocketAddr,
    /// For how much; `None` ends the service.
    pub(super) asked: Option<u8>,
}

/// What a request has led to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    pub(super) key: FlowKey,
    pub(super) asked: Option<u8>,
    /// Whether there was a grant before.
    pub(super) had: bool,
    /// What there is now.
    pub(super) granted: Option<u8>,
    /// Both ends agree about that.
    pub(super) is_settled: bool,
}

impl<W: Wish, S> Flow<W, S> {
    pub(super) fn is_wanted(&self) -> bool {
        self.wish.is_wanted()
    }

    pub(super) const fn granted(&self) -> Option<u8> {
        match self.held {
            Held::Granted { granted, .. } => Some(granted),
            Held::Nothing | Held::Unknown => None,
        }
    }

    /// Whether the server holds the service for this socket, or may.
    pub(super) fn is_held(&self) -> bool {
        self.held != Held::Nothing
    }

    /// Whether the server has said no, and nothing has changed since.
    pub(super) const fn is_refused(&self) -> bool {
        self.refused
    }

    /// What the server was asked for, and grants at most.
    const fn asked(&self) -> Option<u8> {
        match self.held {
            Held::Granted { asked, .. } => Some(asked),
            Held::Nothing | Held::Unknown => None,
        }
    }
}

impl<W: Wish, S: Default> Flows<W, S> {
    pub(super) const fn new(service: ServiceType) -> Self {
        Self {
            service,
            entries: Vec::new(),
            asking: None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow<W, S>> {
        self.entries.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow<W, S>> {
        self.entries.iter_mut()
    }

    pub(super) fn find(&self, key: FlowKey) -> Option<&Flow<W, S>> {
        self.entries.iter().find(|flow| flow.key == key)
    }

    pub(super) fn find_mut(&mut self, key: FlowKey) -> Option<&mut Flow<W, S>> {
        self.entries.iter_mut().find(|flow| flow.key == key)
    }

    /// Whether the server holds the service for any socket, or may.
    pub(super) fn is_in_force(&self) -> bool {
        self.entries.iter().any(Flow::is_held)
    }

    /// The request under way: whose, and for how much.
    pub(super) fn asking(&self) -> Option<(FlowKey, Option<u8>)> {
        self.asking.map(|asking| (asking.key, asking.asked))
    }

    pub(super) fn event(&self, flow: &Flow<W, S>, available: bool, enabled: bool) -> Event {
        Event::SocketService {
            service: self.service,
            available,
            enabled,
            local: flow.local,
        }
    }

    /// Takes the wish of a socket.
    pub(super) fn wish(
        &mut self,
        key: FlowKey,
        local: SocketAddr,
        wish: W,
    ) -> Result<(), RequestError> {
        let wanted = self.entries.iter().filter(|flow| flow.is_wanted()).count();
        let known = self.entries.len();
        let begins = wish.is_wanted() && !self.find(key).is_some_and(Flow::is_wanted);
        if begins && (wanted >= MAX_FLOWS || known >= 2 * MAX_FLOWS) {
            return Err(RequestError::TooManySockets);
        }
        match self.find_mut(key) {
            Some(flow) => {
                if begins {
                    // Another socket with the same port.
                    flow.status = S::default();
                }
                flow.untold |= flow.wish != wish;
                flow.wish = wish;
                flow.local = local;
                flow.refused = false;
            }
            None if !wish.is_wanted() => {}
            None => self.entries.push(Flow {
                key,
                local,
                wish,
                held: Held::Nothing,
                refused: false,
                renews: false,
                untold: true,
                status: S::default(),
            }),
        }
        Ok(())
    }

    /// The next request, where `wanted` says how much a socket is to have. Forgets sockets that want nothing and have nothing.
    pub(super) fn next(&mut self, wanted: impl Fn(&Flow<W, S>) -> Option<u8>) -> Option<Next> {
        if self.asking.is_some() {
            return None;
        }
        self.entries
            .retain(|flow| flow.is_wanted() || flow.held != Held::Nothing);
        // What ends makes room for what begins.
        let ends = |flow: &&Flow<W, S>| {
            flow.held == Held::Unknown || (flow.held != Held::Nothing && wanted(flow).is_none())
        };
        let next = |flow: &Flow<W, S>, asked| Next {
            key: flow.key,
            local: flow.local,
            asked,
        };
        if let Some(flow) = self.entries.iter().find(ends) {
            return Some(next(flow, None));
        }
        self.entries.iter().find_map(|flow| {
            let wanted = wanted(flow);
            let is_due = wanted != flow.asked() || flow.renews;
            (is_due && wanted.is_some() && !flow.refused).then(|| next(flow, wanted))
        })
    }

    /// The request was sent.
    pub(super) const fn begun(&mut self, next: Next) {
        self.asking = Some(Asking {
            key: next.key,
            asked: next.asked,
            is_old: false,
        });
    }

    /// The request under way is over; `granted` is what a grant gives.
    pub(super) fn over(&mut self, outcome: &ServiceOutcome, granted: Option<u8>) -> Option<Over> {
        let Asking { key, asked, is_old } = self.asking.take()?;
        let flow = self.find_mut(key)?;
        let had = flow.granted().is_some();
        flow.renews = false;
        flow.held = match (outcome, asked) {
            (_, _) if is_old => Held::Unknown,
            (ServiceOutcome::Granted(_), Some(asked)) => match granted {
                Some(granted) => Held::Granted { granted, asked },
                None => Held::Unknown,
            },
            (ServiceOutcome::Ended, _) => Held::Nothing,
            // What was not to be had at all.
            (ServiceOutcome::Refused(_), Some(_)) if !had => {
                flow.refused = true;
                Held::Nothing
            }
            // Whoever does not know the service holds none.
            (ServiceOutcome::Refused(_), None) => Held::Nothing,
            _ => Held::Unknown,
        };
        Some(Over {
            key,
            asked,
            had,
            granted: flow.granted(),
            is_settled: flow.held != Held::Unknown,
        })
    }

    /// Wishes that are fulfilled without asking the server for anything: the places of those that were not told.
    pub(super) fn fulfilled(&mut self, wanted: impl Fn(&Flow<W, S>) -> Option<u8>) -> Vec<Event> {
        let service = self.service;
        let mut events = Vec::new();
        for flow in &mut self.entries {
            let is_so = flow.granted().is_some() && flow.asked() == wanted(flow);
            if flow.untold && is_so {
                flow.untold = false;
                events.push(Event::SocketService {
                    service,
                    available: true,
                    enabled: true,
                    local: flow.local,
                });
            }
        }
        events
    }

    /// Asks the server once more for `which` of the sockets that it has granted something to.
    pub(super) fn renew(&mut self, which: impl Fn(&Flow<W, S>) -> bool) {
        for flow in &mut self.entries {
            flow.renews |= flow.granted().is_some() && which(flow);
        }
    }

    /// The tunnel has another transport, on which the service is in force or not.
    pub(super) fn resumed(&mut self, is_active: bool) {
        if let Some(asking) = &mut self.asking {
            asking.is_old = !is_active;
        }
        for flow in &mut self.entries {
            flow.refused = false;
            if !is_active {
                flow.held = Held::Nothing;
            }
        }
    }
}

/// Whether the server offers the service, as far as an answer tells.
pub(super) fn is_available(outcome: &ServiceOutcome) -> bool {
    let ServiceOutcome::Refused(Refusal { code, .. }) = outcome else {
        return matches!(outcome, ServiceOutcome::Granted(_) | ServiceOutcome::Ended);
    };
    !matches!(
        *code,
        ResponseCode::SERVICE_UNAVAILABLE
            | ResponseCode::UNSUPPORTED_SERVICE
            | ResponseCode::UNSUPPORTED_MESSAGE
            | ResponseCode::UNSUPPORTED_TLV
    )
}
