//! Security traversing gateway: prefixes behind a client (spec 7, "STG").
//!
//! *Attack*: a client asks for addresses that are another's, or that would draw others' traffic to it. *Mechanism*:
//! only prefixes that the operator configured for its authenticated identity are granted, exactly as configured, and
//! never one that overlaps a pool or a living grant, be it of the same identity. *Limit*: who holds a gateway's
//! credentials holds its prefixes, for as long as its tunnel exists.

use tsc_tpl::{Message, ResponseCode, Tlv};

use super::super::Server;
use super::super::arena::Key;
use super::super::event::Event;
use super::super::routes::Granting;
use super::Served;
use crate::prefix::Prefix;
use crate::service::ServiceGrant;

impl Server {
    /// Grants what is wanted as far as it can be; wanting none is wanting all that is configured.
    pub(super) fn enable_stg(&mut self, key: Key, request: &Message<'_>) -> Served {
        let session = self
            .sessions
            .get(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let configured = session
            .identity
            .as_ref()
            .and_then(|identity| session.offers.routed_prefixes.get(identity))
            .ok_or(ResponseCode::NOT_AUTHORIZED)?;
        let wanted = prefixes(request);
        let allowed: Vec<Prefix> = configured
            .iter()
            .filter(|prefix| wanted.is_empty() || wanted.contains(prefix))
            .copied()
            .collect();
        if allowed.is_empty() {
            return Err(ResponseCode::NOT_AUTHORIZED);
        }
        let (mut granted, mut new) = (Vec::new(), Vec::new());
        for (prefix, outcome) in self.common.grant(allowed, self.session_id(key)) {
            match outcome {
                Granting::New => {
                    granted.push(prefix);
                    new.push(prefix);
                }
                Granting::Held => granted.push(prefix),
                Granting::Taken => {}
            }
        }
        if granted.is_empty() {
            return Err(ResponseCode::NO_ADDRESS);
        }
        if !new.is_empty() {
            if let Some(session) = self.sessions.get_mut(key) {
                let services = session.services.get_or_insert_default();
                services.routed.extend_from_slice(&new);
            }
            self.events.push_back(Event::ServiceGranted {
                session: self.session_id(key),
                grant: ServiceGrant::RoutedPrefixes(new),
            });
        }
        let tlvs: Vec<Tlv<'static>> = granted.iter().filter_map(Prefix::tlv).collect();
        Ok(tlvs.into())
    }

    /// Takes back what is named; naming none is naming all. What the tunnel does not have is no error, so that a
    /// client can always come to rest.
    pub(super) fn disable_stg(&mut self, key: Key, request: &Message<'_>) -> Vec<Tlv<'static>> {
        let named = prefixes(request);
        let mut ended = Vec::new();
        if let Some(session) = self.sessions.get_mut(key)
            && let Some(services) = &mut session.services
        {
            services.routed.retain(|prefix| {
                let ends = named.is_empty() || named.contains(prefix);
                if ends {
                    ended.push(*prefix);
                }
                !ends
            });
            if services.is_empty() {
                session.services = None;
            }
        }
        if !ended.is_empty() {
            self.common.take_back(&ended, self.session_id(key));
            self.events.push_back(Event::ServiceEnded {
                session: self.session_id(key),
                grant: ServiceGrant::RoutedPrefixes(ended),
            });
        }
        Vec::new()
    }
}

/// The Routed_Prefixes of a request. Host bits mean nothing.
fn prefixes(request: &Message<'_>) -> Vec<Prefix> {
    request
        .routed_prefixes()
        .filter_map(|(address, len)| Prefix::new(address, len).ok())
        .collect()
}
