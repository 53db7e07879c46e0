//! The registration: REGISTER, the answer to the registrar's challenge, renewal and removal.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use crate::{
    digest::{Challenge, Credentials},
    endpoint::{Endpoint, RequestError},
    net::InnerNet,
    random::{OsRandom, Random},
    secret::Secret,
    sip::{Contacts, HeaderName, Hop, Method, NameAddr, Request, Response, SipUri, StatusCode},
    stop::Stop,
    ua,
};

/// Challenges that are answered in one registration: the first, and one more for a nonce that was too old.
const MAX_CHALLENGES: u32 = 2;

/// Between two attempts to register from another place, where the registrar is not back itself.
const AGAIN: Duration = Duration::from_secs(1);

/// As long as any request may take, 64 T1: so long it is tried again.
const PATIENCE: Duration = Duration::from_secs(32);

/// How long removing the registration may take. A registrar that is gone must not hold up the end.
const REMOVAL: Duration = Duration::from_secs(2);

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registrar wants a password and there is none.
    #[error("the registrar asks for a password, and none was given")]
    NoPassword,
    /// The registrar asks in a way that is not understood here.
    #[error("the registrar's challenge is not understood")]
    Challenge,
    /// User name or password are wrong.
    #[error("the registrar did not accept user name or password")]
    Credentials,
    /// Another refusal.
    #[error("the registrar refused: {status} {reason}")]
    Refused {
        /// Status code.
        status: StatusCode,
        /// The registrar's words.
        reason: String,
    },
    /// We were told to stop meanwhile.
    #[error("stopped while registering")]
    Stopped,
    /// No response.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl RegisterError {
    /// Whether the registrar may say something else in a while.
    fn may_pass(&self) -> bool {
        match self {
            Self::Request(RequestError::Unreachable | RequestError::Timeout) => true,
            Self::Refused { status, .. } => matches!(status.code(), 408 | 480 | 500..=599),
            Self::NoPassword
            | Self::Challenge
            | Self::Credentials
            | Self::Stopped
            | Self::Request(_) => false,
        }
    }
}

/// Who registers, where and by what.
#[derive(Clone, Debug)]
pub(crate) struct Registrant {
    pub(crate) endpoint: Endpoint,
    /// The registrar, or a proxy before it.
    pub(crate) hop: Hop,
    /// The address of record.
    pub(crate) identity: SipUri,
    /// Where requests for it are to go.
    pub(crate) contact: NameAddr,
    /// User name of the credentials.
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    /// How long the registration shall last, in seconds.
    pub(crate) expires: u32,
}

/// A registration and what has to be remembered from one REGISTER to the next.
#[derive(Debug)]
pub(crate) struct Registration {
    registrant: Registrant,
    call_id: String,
    tag: String,
    cseq: u32,
    /// The registrar's last challenge and how often its nonce was used.
    challenge: Option<(Challenge, u32)>,
    /// What the registrar granted.
    granted: Duration,
    /// Contacts of ours that are still to be removed; at most [`MAX_LEFT`], the last ones.
    left: Vec<NameAddr>,
}

/// Whoever moves more often without being registered in between leaves the first ones to their end.
const MAX_LEFT: usize = 8;

impl Registration {
    pub(crate) fn new(registrant: Registrant) -> Self {
        let host = registrant.endpoint.local_addr().ip();
        Self {
            call_id: format!("{}@{host}", OsRandom.token()),
            tag: OsRandom.token(),
            cseq: 0,
            challenge: None,
            left: Vec::new(),
            granted: Duration::from_secs(registrant.expires.into()),
            registrant,
        }
    }

    /// Registers or renews.
    pub(crate) async fn register(&mut self) -> Result<(), RegisterError> {
        let response = self.send(self.registrant.expires).await?;
        self.left.clear();
        let ours = &self.registrant.contact;
        let binding = response
            .head
            .contacts
            .list()
            .iter()
            .find(|c| c.uri == ours.uri);
        let granted = binding
            .and_then(|b| b.params.value("expires")?.parse().ok())
            .or_else(|| response.head.expires())
            .unwrap_or(self.registrant.expires);
        self.granted = Duration::from_secs(granted.max(1).into());
        tracing::info!(user = %self.registrant.identity, seconds = granted, "registered");
        Ok(())
    }

    /// Registers from another place. A registrar that went with the same server may come back later than we: that it cannot be reached, or is
    /// not ready, is no last word.
    async fn register_anew(&mut self) -> Result<(), RegisterError> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.register().await {
                Err(error) if error.may_pass() && tokio::time::Instant::now() < until => {
                    tracing::info!(%error, "not registered yet");
                    tokio::time::sleep(AGAIN).await;
                }
                done => return done,
            }
        }
    }

    /// Registers from elsewhere from now on: the next REGISTER removes the old contact, where nobody is any more.
    fn move_to(&mut self, registrant: Registrant) {
        let old = std::mem::replace(&mut self.registrant, registrant);
        self.left.push(old.contact);
        let now = &self.registrant.contact.uri;
        self.left.retain(|left| left.uri != *now);
        if self.left.len() > MAX_LEFT {
            self.left.remove(0);
        }
    }

    async fn send(&mut self, expires: u32) -> Result<Response, RegisterError> {
        for _ in 0..=MAX_CHALLENGES {
            let request = self.request(expires)?;
            let (endpoint, hop) = (&self.registrant.endpoint, self.registrant.hop);
            let mut pending = endpoint.request(request, hop).await?;
            let response = pending.final_response().await?;
            if response.status.is_success() {
                return Ok(response);
            }
            if response.status != StatusCode::UNAUTHORIZED {
                return Err(refusal(&response));
            }
            let challenges = response.head.headers(&HeaderName::WwwAuthenticate);
            let challenge = Challenge::strongest(challenges).ok_or(RegisterError::Challenge)?;
            // A second challenge is no refusal only if it says that the nonce was too old (RFC 7616 3.3).
            if self.challenge.is_some() && !challenge.stale {
                return Err(RegisterError::Credentials);
            }
            self.challenge = Some((challenge, 0));
        }
        Err(RegisterError::Credentials)
    }

    fn request(&mut self, expires: u32) -> Result<Request, RegisterError> {
        self.cseq += 1;
        let Registrant {
            identity,
            contact,
            user,
            password,
            ..
        } = &self.registrant;
        let registrar = SipUri::new("", identity.host.clone(), identity.port);
        let to = NameAddr::new(identity.clone());
        let from = to.clone().with_tag(&self.tag);
        let uri = registrar.to_string();
        let mut request = Request::new(
            Method::Register,
            registrar,
            from,
            to,
            &self.call_id,
            self.cseq,
        );
        let mut contacts = vec![contact.clone()];
        for mut left in self.left.iter().cloned() {
            left.params.set("expires", Some("0".to_owned()));
            contacts.push(left);
        }
        request.head.contacts = Contacts::List(contacts);
        request.head.push(HeaderName::Expires, expires.to_string());
        request.head.push(HeaderName::UserAgent, ua::PRODUCT);
        if let Some((challenge, count)) = &mut self.challenge {
            let password = password.as_ref().ok_or(RegisterError::NoPassword)?;
            *count += 1;
            let credentials = Credentials::answer(
                challenge,
                (user, password),
                (Method::Register.as_str(), &uri),
                &OsRandom.token(),
                *count,
            );
            request
                .head
                .push(HeaderName::Authorization, credentials.to_string());
        }
        Ok(request)
    }
}

/// Registers from a network that has taken another's place; false if that is gone, too.
///
/// # Errors
///
/// Why it cannot be registered there.
pub(crate) async fn moved<N: InnerNet>(
    registration: &Mutex<Registration>,
    to: Registrant,
    net: &N,
) -> Result<bool, RegisterError> {
    let mut registration = registration.lock().await;
    registration.move_to(to);
    let registered = tokio::select! {
        registered = registration.register_anew() => registered,
        _ = net.lost() => return Ok(false),
    };
    match registered {
        Err(RegisterError::Request(RequestError::Closed)) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Renews the registration at half its time until `over`, and then removes it (`Expires: 0`). That removing fails changes
/// nothing: it will expire.
pub(crate) async fn keep(registration: Arc<Mutex<Registration>>, over: Stop) {
    loop {
        let renewal = async {
            let half = registration.lock().await.granted / 2;
            tokio::time::sleep(half).await;
            registration.lock().await.register().await
        };
        let renewed = tokio::select! {
            () = over.stopped() => break,
            renewed = renewal => renewed,
        };
        if let Err(error) = renewed {
            tracing::warn!(%error, "registration not renewed");
        }
    }
    let removal = async { registration.lock().await.send(0).await };
    match tokio::time::timeout(REMOVAL, removal).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "registration not removed"),
        Err(_) => tracing::warn!("registration not removed: no answer"),
    }
}

fn refusal(response: &Response) -> RegisterError {
    if response.status == StatusCode::FORBIDDEN {
        return RegisterError::Credentials;
    }
    RegisterError::Refused {
        status: response.status,
        reason: response.reason.clone(),
    }
}
