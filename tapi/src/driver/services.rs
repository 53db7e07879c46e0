//! Services that sockets ask the server for.

use std::time::Instant;

use tsc_csm::{
    ServiceGrant,
    client::{RequestError, RequestId, ServiceOutcome},
};

use super::Driver;
use crate::{
    error::ServiceError,
    routed::{Answer, Job},
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

    pub(super) fn service_ended(&mut self, grant: &ServiceGrant) {
        tracing::info!(%grant, "ended by the server");
        if matches!(grant, ServiceGrant::RoutedPrefixes(_)) {
            self.shared.drive(|state| state.routed.server_ended());
        }
    }
}
