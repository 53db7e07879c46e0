//! Security traversing gateway: prefixes behind this client (spec 7, "STG").

use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::{Message, ServiceType};

use super::super::event::{RequestError, RequestId, ServiceOutcome};
use super::super::{Client, State};
use crate::prefix::{MAX_ROUTED_PREFIXES, Prefix};
use crate::service::ServiceGrant;

/// The prefixes of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Stg {
    /// In force; at most [`MAX_ROUTED_PREFIXES`].
    granted: Vec<Prefix>,
    /// Of the request under way, of which there is one at most: else their order at the server would decide.
    wanted: Vec<Prefix>,
}

impl Stg {
    pub(super) fn routes(&self, destination: IpAddr) -> bool {
        self.granted
            .iter()
            .any(|prefix| prefix.has_host(destination))
    }

    /// Takes what the server grants of what was wanted. The rest of the answer widens nothing (spec 8.1).
    pub(super) fn granted(&mut self, answer: &Message<'_>) -> ServiceOutcome {
        let mut usable = Vec::new();
        for (address, len) in answer.routed_prefixes() {
            let Ok(prefix) = Prefix::new(address, len) else {
                continue;
            };
            let wanted = self.wanted.is_empty() || self.wanted.contains(&prefix);
            let known = self.granted.contains(&prefix);
            let room = known || self.granted.len() < MAX_ROUTED_PREFIXES;
            if !(wanted && room && prefix.is_routable()) || usable.contains(&prefix) {
                continue;
            }
            if !known {
                self.granted.push(prefix);
            }
            usable.push(prefix);
        }
        self.wanted.clear();
        if usable.is_empty() {
            return ServiceOutcome::Unusable;
        }
        ServiceOutcome::Granted(ServiceGrant::RoutedPrefixes(usable))
    }

    /// Everything is over; gives what was in force.
    pub(super) fn end(&mut self) -> Option<ServiceGrant> {
        let ended = std::mem::take(&mut self.granted);
        (!ended.is_empty()).then_some(ServiceGrant::RoutedPrefixes(ended))
    }
}

impl Client {
    /// Asks the server to route these prefixes to this client; none stands for all that are configured for it. The
    /// outcome comes as [`Event::Service`](super::super::Event::Service), with the prefixes granted of those wanted;
    /// what was granted before stays. Without a transport the request waits for the next one.
    ///
    /// # Errors
    ///
    /// There is no tunnel, another request about prefixes or too many requests are outstanding, or the prefixes are
    /// more than [`MAX_ROUTED_PREFIXES`] or cannot be routed ([`Prefix::is_routable`]).
    pub fn request_routed_prefixes(
        &mut self,
        now: Instant,
        prefixes: &[Prefix],
    ) -> Result<RequestId, RequestError> {
        let request = self.ask_stg(now, ServiceType::ENABLE_STG, prefixes)?;
        if let State::Up(tunnel) = &mut self.state {
            tunnel.services.stg.wanted = prefixes.to_vec();
        }
        Ok(request)
    }

    /// Gives prefixes back; none stands for all. They are off at this end at once;
    /// [`Event::Service`](super::super::Event::Service) tells when the server has done the same.
    ///
    /// # Errors
    ///
    /// As [`request_routed_prefixes`](Self::request_routed_prefixes).
    pub fn release_routed_prefixes(
        &mut self,
        now: Instant,
        prefixes: &[Prefix],
    ) -> Result<RequestId, RequestError> {
        let request = self.ask_stg(now, ServiceType::DISABLE_STG, prefixes)?;
        if let State::Up(tunnel) = &mut self.state {
            let granted = &mut tunnel.services.stg.granted;
            granted.retain(|prefix| !prefixes.is_empty() && !prefixes.contains(prefix));
        }
        Ok(request)
    }

    /// Prefixes behind this client that the server routes to it now.
    #[must_use]
    pub fn routed_prefixes(&self) -> &[Prefix] {
        match &self.state {
            State::Up(tunnel) => &tunnel.services.stg.granted,
            State::Idle | State::Connecting(_) | State::Down => &[],
        }
    }

    fn ask_stg(
        &mut self,
        now: Instant,
        service: ServiceType,
        prefixes: &[Prefix],
    ) -> Result<RequestId, RequestError> {
        if self.open_tunnel()?.is_asking_for(service) {
            return Err(RequestError::InProgress);
        }
        if prefixes.len() > MAX_ROUTED_PREFIXES || !prefixes.iter().all(Prefix::is_routable) {
            return Err(RequestError::Prefixes);
        }
        self.ask_service(now, service, prefixes.iter().filter_map(Prefix::tlv))
    }
}
