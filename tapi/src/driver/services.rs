//! Services that sockets ask the server for.

use std::{net::SocketAddr, time::Instant};

use tsc_csm::{
    ServiceGrant,
    client::{Placement, RequestError, RequestId, ServiceOutcome},
};

use tsc_tpl::ServiceType;

use super::{Driver, links::framed_packet};
use crate::{
    TunnelConfig,
    error::ServiceError,
    notification::Notification,
    routed::{Answer, Job},
    services::{Query, Service, What, Wish},
};

/// A request under way; to whom its outcome is told, if to anybody.
pub(super) struct Asking {
    request: RequestId,
    answer: Option<Answer>,
}

impl Driver {
    /// Sends the next request for the packet socket, one at a time: their order decides.
    pub(super) fn run_jobs(&mut self, now: Instant) {
        while self.asking.is_none() {
            let Some(job) = self.shared.lock().routed.next_job() else {
                return;
            };
            let result = match &job {
                Job::Request(prefixes, _) => self.client.request_routed_prefixes(now, prefixes),
                Job::Release => self.client.release_routed_prefixes(now, &[]),
            };
            match (result, job) {
                (Ok(request), Job::Request(_, answer)) => {
                    let answer = Some(answer);
                    self.asking = Some(Asking { request, answer });
                }
                (Ok(request), Job::Release) => {
                    self.asking = Some(Asking {
                        request,
                        answer: None,
                    });
                }
                // There is room again when one of those that wait was answered.
                (Err(RequestError::TooMany | RequestError::InProgress), job) => {
                    return self.shared.lock().routed.return_job(job);
                }
                (Err(RequestError::Prefixes), Job::Request(_, answer)) => {
                    self.refuse(answer, ServiceError::Prefixes);
                }
                (Err(_), Job::Request(_, answer)) => self.refuse(answer, ServiceError::NoAnswer),
                // The tunnel is ending, and the prefixes with it.
                (Err(_), Job::Release) => {}
            }
        }
    }

    pub(super) fn service_over(&mut self, request: RequestId, outcome: ServiceOutcome) {
        if self
            .asking
            .as_ref()
            .is_none_or(|asking| asking.request != request)
        {
            return;
        }
        tracing::debug!(%outcome, "routed prefixes");
        let Some(answer) = self.asking.take().and_then(|asking| asking.answer) else {
            return;
        };
        let error = match outcome {
            ServiceOutcome::Granted(ServiceGrant::RoutedPrefixes(prefixes)) => {
                let mut state = self.shared.lock();
                // Else nobody waits any more, and the release stands in the queue.
                if !answer.is_closed() {
                    state.routed.granted(prefixes.clone());
                    drop(answer.send(Ok(prefixes)));
                }
                return;
            }
            ServiceOutcome::Refused(refusal) => return self.refuse(answer, refusal.into()),
            ServiceOutcome::NoAnswer => ServiceError::NoAnswer,
            _ => ServiceError::Unusable,
        };
        drop(answer.send(Err(error)));
    }

    fn refuse(&self, answer: Answer, error: ServiceError) {
        self.shared.lock().routed.refused();
        drop(answer.send(Err(error)));
    }

    /// Hands on what sockets want, and answers what they ask.
    pub(super) fn take_wishes(&mut self, now: Instant, (wishes, queries): (Vec<Wish>, Vec<Query>)) {
        for Wish { key, local, what } in wishes {
            let local = self.own_address(local);
            let result = match what {
                What::Redundancy(wish) => self.client.set_redundancy(now, key, local, wish),
                What::Transport(wish) => self.client.set_tunnel_transport(now, key, local, wish),
                What::Encryption(wish, connected) => {
                    self.client.set_encryption(now, key, local, wish, connected)
                }
                What::Peer(wanted) => self.client.set_peer(now, key, local, wanted),
            };
            // Only while the server does not answer, or without a tunnel.
            if let Err(error) = result {
                tracing::debug!(%error, socket = %local, ?what, "a wish is not passed on");
                if let What::Encryption(..) = what {
                    self.shared
                        .drive(|state| state.place(key, Some(Placement::Main), Some(false)));
                }
            }
        }
        for (key, answer) in queries {
            // Nobody may wait any more.
            let _ = answer.send(self.client.redundancy(key));
        }
    }

    /// The address on the main tunnel that a socket sends from, for one that is bound to none of it.
    pub(super) fn own_address(&self, local: SocketAddr) -> SocketAddr {
        let config = self.config.as_ref().map(|config| config.borrow().clone());
        let is_own = |config: &TunnelConfig| {
            let mut own = config.addresses.iter();
            own.any(|inner| inner.address == local.ip())
        };
        let own = config.filter(|config| !is_own(config)).and_then(|config| {
            let (first, second) = (config.ipv4(), config.ipv6());
            if local.is_ipv4() {
                first.or(second)
            } else {
                second.or(first)
            }
        });
        SocketAddr::new(own.unwrap_or_else(|| local.ip()), local.port())
    }

    pub(super) fn socket_service(
        &self,
        service: ServiceType,
        available: bool,
        mut enabled: bool,
        socket: SocketAddr,
    ) {
        tracing::info!(%service, available, enabled, %socket, "service");
        let service = match service {
            ServiceType::ENABLE_REDUNDANCY => Service::Redundancy,
            ServiceType::ENABLE_DDT => Service::Ddt,
            ServiceType::ENABLE_DTTE => Service::Dtte,
            ServiceType::ENABLE_PEER => Service::Peer,
            _ => return,
        };
        let (bound, placed) = {
            let state = self.shared.lock();
            enabled &= service != Service::Dtte || state.is_told_rightly(socket.port());
            let placed = state.encrypted.placed(socket);
            (state.wishes.bound(socket.port()), placed)
        };
        let socket = bound.unwrap_or(socket);
        let address = placed.unwrap_or_else(|| self.own_address(socket));
        self.shared.notify(Notification::Service {
            service,
            available,
            enabled,
            socket,
            address,
        });
    }

    /// The tunnel has another transport, for which packets that wait may have to be framed in another way: they go as they are.
    pub(super) fn unframe(&mut self) {
        let [main, ..] = &mut self.outboxes;
        for packet in main {
            if let Some(newest) = framed_packet(packet) {
                *packet = newest.as_bytes().to_vec();
            }
        }
    }

    pub(super) fn service_ended(&mut self, grant: &ServiceGrant) {
        tracing::info!(%grant, "ended by the server");
        if matches!(grant, ServiceGrant::RoutedPrefixes(_)) {
            self.shared.drive(|state| state.routed.server_ended());
        }
    }
}
