//! A client's side of resumption: which session is offered, what is remembered afterwards.

use std::sync::Arc;
use std::time::Instant;

use openssl::ssl::SslRef;
use rustls_pki_types::{ServerName, UnixTime};
use zeroize::Zeroizing;

use crate::cert::resumption::Session;
use crate::cert::{ClientSecurity, PeerIdentity};

/// What one handshake of a client has to do with the sessions that the client remembers.
pub(super) struct Resumption {
    security: ClientSecurity,
    name: ServerName<'static>,
    begun: Instant,
    offered: Option<Arc<Session>>,
    /// The server, or somebody in its name, has said something.
    answered: bool,
}

impl Resumption {
    /// Looks for a session with the server called `name`.
    pub(super) fn new(security: &ClientSecurity, now: Instant, name: &ServerName<'static>) -> Self {
        let offered = session(security, now, UnixTime::now(), name);
        Self {
            security: security.clone(),
            name: name.clone(),
            begun: now,
            offered,
            answered: false,
        }
    }

    /// The session to offer, as OpenSSL writes it.
    pub(super) fn offered(&self) -> Option<&[u8]> {
        Some(&self.offered.as_ref()?.secret)
    }

    /// Offers none in this handshake nor in later ones.
    pub(super) fn give_up(&mut self) {
        if let Some(offered) = self.offered.take() {
            self.security.dtls_sessions().forget(&offered);
        }
    }

    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// The handshake has failed. If the server answers it may have been for the session: the next one goes without. Silence is
    /// the network's.
    pub(super) fn failed(&mut self) {
        if self.answered {
            self.give_up();
        }
    }

    /// The handshake has resumed the session that was offered: who the server is. `None` if there was none.
    pub(super) fn resumed(&mut self, ssl: &SslRef) -> Option<PeerIdentity> {
        let offered = self.offered.take()?;
        // The server may have sent another ticket. What was verified does not become younger by that.
        if let Some(secret) = write(ssl)
            && *secret != *offered.secret
        {
            self.remember(secret, offered.peer.clone(), offered.made);
        }
        Some(offered.peer.clone())
    }

    /// The handshake was a full one, with this server.
    pub(super) fn verified(&mut self, ssl: &SslRef, peer: Option<&PeerIdentity>) {
        self.give_up();
        if let (Some(peer), Some(secret)) = (peer, write(ssl)) {
            self.remember(secret, peer.clone(), self.begun);
        }
    }

    fn remember(&self, secret: Zeroizing<Vec<u8>>, peer: PeerIdentity, made: Instant) {
        let session = Session { secret, peer, made };
        let memory = self.security.dtls_sessions();
        memory.put(self.name.clone(), session);
    }
}

/// The session with that server, if its certificate would still be accepted.
pub(super) fn session(
    security: &ClientSecurity,
    now: Instant,
    time: UnixTime,
    name: &ServerName<'static>,
) -> Option<Arc<Session>> {
    let session = security.dtls_sessions().get(now, name)?;
    let verdict = security.verify_server_chain(session.peer.chain(), name, time);
    if verdict.is_err() {
        security.dtls_sessions().forget(&session);
        return None;
    }
    Some(session)
}

/// The session of a finished handshake; `None` if it cannot be resumed. Sessions without an extended master secret must not be:
/// they could be another's, RFC 7627 section 5.4.
fn write(ssl: &SslRef) -> Option<Zeroizing<Vec<u8>>> {
    let session = ssl.session()?;
    if session.id().is_empty() || ssl.extms_support() != Some(true) {
        return None;
    }
    session.to_der().ok().map(Zeroizing::new)
}
