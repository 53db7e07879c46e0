//! The registration: REGISTER, the answer to the registrar's challenge, renewal and removal.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::Shared;
use crate::{
    digest::{Challenge, Credentials},
    endpoint::RequestError,
    net::InnerNet,
    random::{OsRandom, Random},
    sip::{Contacts, HeaderName, Method, NameAddr, Request, Response, SipUri, StatusCode},
    ua,
};

/// Challenges that are answered in one registration: the first, and one more for a nonce that was too old.
const MAX_CHALLENGES: u32 = 2;

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

/// A registration and what has to be remembered from one REGISTER to the next.
#[derive(Debug)]
pub(super) struct Registration {
    call_id: String,
    tag: String,
    cseq: u32,
    /// The registrar's last challenge and how often its nonce was used.
    challenge: Option<(Challenge, u32)>,
    /// What the registrar granted.
    granted: Duration,
}

impl Registration {
    pub(super) fn new<N: InnerNet>(shared: &Shared<N>) -> Self {
        let host = shared.ip;
        Self {
            call_id: format!("{}@{host}", OsRandom.token()),
            tag: OsRandom.token(),
            cseq: 0,
            challenge: None,
            granted: Duration::from_secs(shared.options.expires.into()),
        }
    }

    /// Registers or renews.
    pub(super) async fn register<N: InnerNet>(
        &mut self,
        shared: &Shared<N>,
    ) -> Result<(), RegisterError> {
        let response = self.send(shared, shared.options.expires).await?;
        let ours = shared.contact();
        let binding = response
            .head
            .contacts
            .list()
            .iter()
            .find(|c| c.uri == ours.uri);
        let granted = binding
            .and_then(|b| b.params.value("expires")?.parse().ok())
            .or_else(|| response.head.expires())
            .unwrap_or(shared.options.expires);
        self.granted = Duration::from_secs(granted.max(1).into());
        tracing::info!(user = %shared.identity(), seconds = granted, "registered");
        Ok(())
    }

    async fn send<N: InnerNet>(
        &mut self,
        shared: &Shared<N>,
        expires: u32,
    ) -> Result<Response, RegisterError> {
        for _ in 0..=MAX_CHALLENGES {
            let request = self.request(shared, expires)?;
            let mut pending = shared.endpoint.request(request, shared.hop()).await?;
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

    fn request<N: InnerNet>(
        &mut self,
        shared: &Shared<N>,
        expires: u32,
    ) -> Result<Request, RegisterError> {
        self.cseq += 1;
        let identity = shared.identity();
        let registrar = SipUri::new("", identity.host.clone(), identity.port);
        let to = NameAddr::new(identity);
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
        request.head.contacts = Contacts::List(vec![shared.contact()]);
        request.head.push(HeaderName::Expires, expires.to_string());
        request.head.push(HeaderName::UserAgent, ua::PRODUCT);
        if let Some((challenge, count)) = &mut self.challenge {
            let password = shared.options.password.as_ref();
            let password = password.ok_or(RegisterError::NoPassword)?;
            *count += 1;
            let credentials = Credentials::answer(
                challenge,
                (&shared.options.user, password),
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

fn refusal(response: &Response) -> RegisterError {
    if response.status == StatusCode::FORBIDDEN {
        return RegisterError::Credentials;
    }
    RegisterError::Refused {
        status: response.status,
        reason: response.reason.clone(),
    }
}

/// Renews the registration at half its time, until nobody wants it back.
pub(super) async fn keep<N: InnerNet>(
    shared: Arc<Shared<N>>,
    mut registration: Registration,
    mut back: oneshot::Sender<Registration>,
) {
    loop {
        tokio::select! {
            // The receiver closes its end when the calls are over.
            () = back.closed() => return,
            () = tokio::time::sleep(registration.granted / 2) => {}
            () = shared.calls_over.notified() => {
                // Gone only if the whole run was dropped.
                let _ = back.send(registration);
                return;
            }
        }
        if let Err(error) = registration.register(&shared).await {
            tracing::warn!(%error, "registration not renewed");
        }
    }
}

/// Removes the registration: `Expires: 0`. That it fails changes nothing: it will expire.
pub(super) async fn remove<N: InnerNet>(
    shared: &Shared<N>,
    registration: oneshot::Receiver<Registration>,
) {
    shared.calls_over.notify_one();
    let Ok(mut registration) = registration.await else {
        return;
    };
    match tokio::time::timeout(REMOVAL, registration.send(shared, 0)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "registration not removed"),
        Err(_) => tracing::warn!("registration not removed: no answer"),
    }
}
