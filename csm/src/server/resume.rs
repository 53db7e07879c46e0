//! Moving a tunnel to another transport by proof (spec 5, "Resume").

use std::time::Instant;

use tsc_tpl::{CmType, ControlMessage, ResponseCode};

use super::Server;
use super::arena::Key;
use super::configure::{Denied, Origin, Outcome};
use super::event::{BindingId, Event};
use super::session::Life;
use crate::companion::CompanionRole;
use crate::resume;

impl Server {
    /// Answers a Configuration_Resume_Request and, if the proof holds, moves the tunnel.
    pub(super) fn resume(
        &mut self,
        now: Instant,
        origin: &Origin,
        raw: &ControlMessage<'_>,
    ) -> Outcome {
        match self.try_resume(now, origin, raw) {
            Ok((key, binding)) => {
                self.stats.resumed += 1;
                self.answer_resumed(now, key, binding, raw);
                Outcome::Accepted(binding)
            }
            Err(denied) => {
                if matches!(denied, Denied::Code(ResponseCode::RESUME_REJECTED)) {
                    self.stats.resume_rejected += 1;
                }
                self.deny(now, origin, raw, denied)
            }
        }
    }

    fn try_resume(
        &mut self,
        now: Instant,
        origin: &Origin,
        raw: &ControlMessage<'_>,
    ) -> Result<(Key, BindingId), Denied> {
        let home = self.home(raw.header().tsid);
        if home != self.shard {
            return Err(Denied::Elsewhere(home));
        }
        let message = self.admit_request(now, origin, raw)?;
        let proof = message
            .resume_proof()
            .ok_or(ResponseCode::RESUME_REJECTED)?;
        let counter = proof.counter;
        let cookie = message.cookie().map_or(&[][..], |cookie| cookie.expose());
        let tsid = raw.header().tsid;
        // An identity that cannot be established is another identity: the same answer, after the same work
        // (spec 8.5).
        let identity = self.authenticate(origin, &message);
        let found = self.directory.get(&tsid).copied();
        let session = found.and_then(|key| self.sessions.get(key));
        let resume_key = session.map_or(&self.decoy_key, |session| &session.resume_key);
        let proved = resume::verify(resume_key, tsid, counter, cookie, proof.mac);
        let allowed = session.is_some_and(|session| {
            session.interface == origin.interface
                && (origin.transport.is_protected() || !session.protected)
                && session.resume_counter.is_none_or(|last| counter > last)
                && identity
                    .as_ref()
                    .is_ok_and(|identity| *identity == session.identity)
                && !matches!(session.life, Life::Releasing(_))
                && session.main.is_none_or(|of| match of.role {
                    CompanionRole::Ddt => !origin.transport.is_stream(),
                    CompanionRole::Redundancy(_) => origin.transport.is_stream(),
                    // That it is protected was looked at.
                    CompanionRole::Dtte => true,
                })
        });
        let Some(key) = found.filter(|_| proved & allowed) else {
            return Err(Denied::Code(ResponseCode::RESUME_REJECTED));
        };
        // Stored before it is answered (spec 5): whatever follows, this proof is used up.
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::RESUME_REJECTED)?;
        session.resume_counter = Some(counter);
        session.resumed_by = Some(raw.header().sequence);
        session.inbox.see(raw.header().sequence);
        session.confirmed = true;
        let binding = self
            .attach(now, origin, key)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        Ok((key, binding))
    }

    fn answer_resumed(
        &mut self,
        now: Instant,
        key: Key,
        binding: BindingId,
        raw: &ControlMessage<'_>,
    ) {
        let (answer, sequence) = (CmType::CONFIGURATION_RESUME_RESPONSE, raw.header().sequence);
        self.events.push_back(Event::Bound {
            session: self.session_id(key),
            binding,
        });
        self.redundancy_rebound(now, key);
        self.beside_rebound(now, key);
        let bytes = self.describe(key, binding, answer, sequence);
        if let Some((session, bytes)) = self.sessions.get_mut(key).zip(bytes) {
            session.inbox.remember(now, sequence, answer, &bytes);
            self.transmit_over(binding, bytes);
        }
        self.wake(key);
    }
}
