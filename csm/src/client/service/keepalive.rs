//! Server keepalive: the server sends the Keepalives, and this end listens (spec 5, spec 7).
//!
//! While it is in force no Keepalive is sent for being silent, so that the host can sleep. Those for a reason are: on
//! another network, and when something was sent and nothing comes back. A NAT that is known to forget before the server
//! asks still gets its datagrams from here.

use std::time::{Duration, Instant};

use tsc_tpl::{Message, ServiceType};

use super::super::event::{
    CloseReason, Event, RequestError, RequestId, ServiceOutcome, SuspendReason,
};
use super::super::tunnel::Tunnel;
use super::super::{Client, State, silence_on};
use crate::service::ServiceGrant;
use crate::transport::Transport;

const ENABLE: ServiceType = ServiceType::ENABLE_SERVER_KEEPALIVE;

/// The service of one tunnel.
#[derive(Debug, Default)]
pub(super) struct ServerKeepalive {
    /// The owner's last word.
    wanted: bool,
    /// What the server is known to hold, wanted or not any more.
    granted: Option<Duration>,
    /// The transport was lost by silence and not replaced yet: of which kind it was.
    fell_silent: Option<Transport>,
}

impl ServerKeepalive {
    fn in_force(&self) -> Option<Duration> {
        self.granted.filter(|_| self.wanted)
    }

    /// A request to begin is over.
    pub(super) fn granted(&mut self, answer: &Message<'_>) -> ServiceOutcome {
        let Some(interval) = answer.keepalive_interval() else {
            return ServiceOutcome::Unusable;
        };
        self.granted = Some(interval.duration());
        ServiceOutcome::Granted(ServiceGrant::ServerKeepalive(interval.duration()))
    }

    /// What a request has led to. Without a grant this end sends again what it may have to, and does not ask for ever.
    pub(super) fn asked(&mut self, service: ServiceType, outcome: &ServiceOutcome) {
        if !matches!(outcome, ServiceOutcome::Granted(_)) {
            self.granted = None;
            self.wanted &= !service.is_enable();
        }
    }
}

impl Tunnel {
    /// For how long the server sends the Keepalives; `None` while it does not.
    pub(in super::super) fn server_keepalive(&self) -> Option<Duration> {
        self.services.keepalive.in_force()
    }

    /// When the transport counts as lost if nothing is heard before: 1.5 intervals (spec 5).
    pub(in super::super) fn silent_from(&self) -> Option<Instant> {
        let interval = self
            .server_keepalive()
            .filter(|interval| !interval.is_zero())?;
        let link = self
            .link
            .as_ref()
            .filter(|_| self.release_until.is_none())?;
        Some(link.last_heard() + interval * 3 / 2)
    }
}

impl Client {
    /// For which interval the server sends the Keepalives, and this end none for being silent; `None` while it does not.
    #[must_use]
    pub fn server_keepalive(&self) -> Option<Duration> {
        match &self.state {
            State::Up(tunnel) => tunnel.server_keepalive(),
            State::Idle | State::Connecting(_) | State::Down => None,
        }
    }

    /// Asks the server to send the Keepalives, or not to any more. At this end its word is off at once.
    pub(super) fn request_server_keepalive(
        &mut self,
        now: Instant,
        service: ServiceType,
    ) -> Result<RequestId, RequestError> {
        if self.open_tunnel()?.is_asking_for(service) {
            return Err(RequestError::InProgress);
        }
        let request = self.ask_service(now, service, [])?;
        self.open_tunnel()?.services.keepalive.wanted = service.is_enable();
        self.renew_silence();
        Ok(request)
    }

    /// Has the server send the Keepalives as soon as it can be asked, if it offers that; or not any more.
    pub(in super::super) fn want_server_keepalive(&mut self, now: Instant, wanted: bool) {
        if let State::Up(tunnel) = &mut self.state {
            tunnel.services.keepalive.wanted = wanted;
            self.settle_keepalive(now);
            self.renew_silence();
        }
    }

    /// Asks for what is wanted and not so. Requests about it follow one another; where there is no room for one it is
    /// settled when another is over.
    pub(super) fn settle_keepalive(&mut self, now: Instant) {
        let Ok(tunnel) = self.open_tunnel() else {
            return;
        };
        let ServerKeepalive {
            wanted, granted, ..
        } = tunnel.services.keepalive;
        let is_offered = tunnel.assignment.services.contains(&ENABLE);
        if wanted == granted.is_some() || tunnel.is_asking_for(ENABLE) || wanted && !is_offered {
            return;
        }
        let service = if wanted {
            ENABLE
        } else {
            ServiceType::DISABLE_SERVER_KEEPALIVE
        };
        let _ = self.ask_service(now, service, []);
    }

    /// After a resume it is in force if the server lists it; else it is asked for anew (spec 5, "Resume").
    pub(super) fn keepalive_resumed(&mut self, now: Instant) {
        let background = self.background;
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let interval = tunnel.assignment.keepalive;
        let is_active = tunnel.assignment.active_services.contains(&ENABLE);
        let keepalive = &mut tunnel.services.keepalive;
        let before = keepalive.in_force();
        keepalive.granted = is_active.then_some(interval);
        keepalive.wanted |= background;
        keepalive.fell_silent = None;
        if let Some(interval) = before.filter(|_| !is_active) {
            let grant = ServiceGrant::ServerKeepalive(interval);
            self.events.push_back(Event::ServiceEnded(grant));
        }
        self.settle_keepalive(now);
        self.renew_silence();
    }

    /// How long this end may be silent has changed.
    pub(super) fn renew_silence(&mut self) {
        if let State::Up(tunnel) = &mut self.state
            && let Some(transport) = tunnel.link.as_ref().map(|link| link.target.transport)
        {
            let silence = silence_on(transport, tunnel, self.background, &mut self.random);
            if let Some(link) = &mut tunnel.link {
                link.silence = silence;
            }
        }
    }

    /// Loses the transport over which the server is not heard any more.
    pub(in super::super) fn silence_timeout(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        if tunnel.silent_from().is_some_and(|at| at <= now) {
            let transport = tunnel.link.as_ref().map(|link| link.target.transport);
            tunnel.services.keepalive.fell_silent = transport;
            let close = Some(CloseReason::KeepaliveFailure);
            self.lose_link(now, SuspendReason::KeepaliveFailure, close);
        }
    }
}

impl Tunnel {
    /// A transport of this kind works at once where the last one fell silent: between two Keepalives of the server a NAT
    /// has forgotten it. Gives how long that was.
    pub(in super::super) fn forgotten_after(&self, transport: Transport) -> Option<Duration> {
        let interval = self.server_keepalive()?;
        (self.services.keepalive.fell_silent == Some(transport)).then_some(interval / 2)
    }
}
