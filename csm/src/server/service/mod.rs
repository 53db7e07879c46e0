//! Services that clients ask for (spec 7): one transaction path, and a module for each service.
//!
//! A module adds its two values to [`Server::serve`] and its state to [`Services`], and says there what is in force
//! after a resume and what ends with the tunnel.

mod stg;

use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::{ControlMessage, Message, ResponseCode, ServiceType, Tlv};

use super::Server;
use super::arena::Key;
use super::event::{BindingId, DropReason, Event, SessionId, Verdict};
use crate::prefix::Prefix;
use crate::service::ServiceGrant;
use crate::transaction::Admission;
use crate::wire;

/// Services in force for one tunnel. On the heap, as most tunnels have none.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// STG; at most [`MAX_ROUTED_PREFIXES`](crate::MAX_ROUTED_PREFIXES), as no more are configured.
    routed: Vec<Prefix>,
}

/// What a service answers: the TLVs of its success, or why not.
type Served = Result<Vec<Tlv<'static>>, ResponseCode>;

impl Services {
    const fn is_empty(&self) -> bool {
        let Self { routed } = self;
        routed.is_empty()
    }

    /// For Active_Services: what stays in force over a resume.
    pub(super) fn active(&self) -> Vec<ServiceType> {
        let stg = (!self.routed.is_empty()).then_some(ServiceType::ENABLE_STG);
        stg.into_iter().collect()
    }

    pub(super) fn routed(&self) -> &[Prefix] {
        &self.routed
    }

    /// Whether a service gives the tunnel this source beside its own addresses (spec 8.1).
    #[inline]
    pub(super) fn owns(&self, source: IpAddr) -> bool {
        self.routed.iter().any(|prefix| prefix.has_host(source))
    }

    /// What there is to be told of when all of it ends.
    fn grants(self) -> impl Iterator<Item = ServiceGrant> {
        let routed = (!self.routed.is_empty()).then_some(ServiceGrant::RoutedPrefixes(self.routed));
        routed.into_iter()
    }
}

impl Server {
    /// A request for a service, or to end one: executed once, and answered to every repeat (spec 4).
    pub(super) fn service(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        message: &ControlMessage<'_>,
    ) -> Verdict {
        let header = message.header();
        let Some(answer) = header.cm_type.response() else {
            return self.drop_unit(DropReason::Unexpected);
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return self.drop_unit(DropReason::UnknownBinding);
        };
        match session.inbox.admit(now, header.sequence, answer) {
            Admission::Execute => {}
            Admission::Repeat(bytes) => {
                self.transmit_over(id, bytes);
                return Verdict::Consumed;
            }
            Admission::Drop => return self.drop_unit(DropReason::Repeat),
        }
        let parsed = message.parse();
        let bytes = match &parsed {
            Ok(request) => match self.serve(key, request) {
                Ok(granted) => wire::service_success(request, granted),
                Err(code) => {
                    let busy = matches!(code, ResponseCode::BUSY | ResponseCode::NO_RESOURCES);
                    let retry_after = busy.then_some(self.config.limits.retry_after);
                    wire::service_refusal(request, code, retry_after)
                }
            },
            Err(error) => wire::refuse_message(&header, error),
        };
        if let Some((session, bytes)) = self.sessions.get_mut(key).zip(bytes) {
            session.inbox.remember(now, header.sequence, answer, &bytes);
            self.transmit_over(id, bytes);
            self.arm_session(key);
        }
        match parsed {
            Ok(_) => Verdict::Consumed,
            Err(error) => self.message_error(now, id, error),
        }
    }

    fn serve(&mut self, key: Key, request: &Message<'_>) -> Served {
        let service = request.service_type().ok_or(ResponseCode::MALFORMED)?;
        if !service.is_known() {
            return Err(ResponseCode::UNSUPPORTED_SERVICE);
        }
        let assigned = self
            .sessions
            .get(key)
            .and_then(|session| self.config.interfaces.get(session.interface))
            .is_some_and(|interface| interface.services.contains(&service.enable()));
        if !assigned {
            return Err(ResponseCode::SERVICE_UNAVAILABLE);
        }
        match service {
            ServiceType::ENABLE_STG => self.enable_stg(key, request),
            ServiceType::DISABLE_STG => Ok(self.disable_stg(key, request)),
            // Assigned, but not described yet (spec 3.5) or not built.
            _ => Err(ResponseCode::SERVICE_UNAVAILABLE),
        }
    }

    /// The tunnel is over, and all that its services gave it.
    pub(super) fn end_services(&mut self, session: SessionId, services: Services) {
        if !services.routed.is_empty() {
            self.common.take_back(&services.routed, session);
        }
        for grant in services.grants() {
            self.events
                .push_back(Event::ServiceEnded { session, grant });
        }
    }
}
