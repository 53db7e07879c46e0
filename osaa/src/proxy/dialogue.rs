//! The dialogue with a proxy, up to the tunnel.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use tracing::debug;
use zeroize::Zeroizing;

use super::{
    AuthScheme, Body, Challenge, CredentialRequest, Credentials, Head, Proxy, ProxyError,
    SchemeFailure, SchemeFailures,
    connect::Opener,
    digest::Digest,
    head::clean,
    leg::{Leg, LegError},
    mechanism::{Mechanism, MechanismError},
};
use crate::{random::OsRandom, stream::Socket};

/// Most requests of one [`connect`](super::connect()). NTLM takes three, and a proxy may cut connections between.
pub const MAX_ROUNDS: usize = 10;

/// Most credentials that a [`CredentialSource`](super::CredentialSource) is asked for in one [`connect`](super::connect()).
pub const MAX_CREDENTIALS: usize = 3;

/// How often a proxy may call a fresh nonce stale.
const MAX_STALE: usize = 2;

/// Bytes of a client's nonce for Digest.
const NONCE: usize = 16;

pub(super) struct Dialogue<'a> {
    proxy: &'a Proxy,
    /// What is asked for.
    authority: String,
    /// What the source gave last, and how often it gave something.
    credentials: Option<Arc<Credentials>>,
    given: usize,
    attempt: Option<Attempt>,
    /// Schemes that are not tried again.
    failures: SchemeFailures,
}

/// What was sent last.
enum Attempt {
    Basic,
    Digest { stale: usize },
    Mechanism(AuthScheme, Box<Mechanism>),
}

/// The value of Proxy-Authorization.
type Authorization = Zeroizing<Vec<u8>>;

impl<'a> Dialogue<'a> {
    pub(super) fn new(proxy: &'a Proxy, authority: String) -> Self {
        Self {
            proxy,
            authority,
            credentials: None,
            given: 0,
            attempt: None,
            failures: SchemeFailures::default(),
        }
    }

    pub(super) async fn run(mut self, opener: &Opener<'_>) -> Result<Socket, ProxyError> {
        let mut kept: Option<Leg> = None;
        let mut authorization: Option<Authorization> = None;
        for _ in 0..MAX_ROUNDS {
            let mut leg = match kept.take() {
                Some(leg) => leg,
                None => Leg::new(opener.open().await?),
            };
            let request = self.request(authorization.as_ref());
            let head = match leg.ask(&request).await {
                Ok(head) => head,
                // Cut while it was idle, which says nothing about the request.
                Err(LegError::Gone) if leg.is_used && !self.has_proved() => {
                    if matches!(self.attempt, Some(Attempt::Mechanism(..))) {
                        self.attempt = None;
                        authorization = None;
                    }
                    continue;
                }
                Err(LegError::Gone) => return Err(ProxyError::Cut),
                Err(LegError::Other(error)) => return Err(error),
            };
            debug!(proxy = %self.proxy, target = %self.authority, status = head.status, "the proxy answers");
            match head.status {
                200..=299 => return accept(leg, head),
                407 => {
                    let is_kept = leg.drain(&head).await;
                    let was_mechanism = matches!(self.attempt, Some(Attempt::Mechanism(..)));
                    authorization = Some(self.answer(&head.challenges, is_kept).await?);
                    // What another scheme left behind on the connection is the proxy's secret.
                    let goes_on = matches!(self.attempt, Some(Attempt::Mechanism(..)));
                    if is_kept && (goes_on || !was_mechanism) {
                        kept = Some(leg);
                    }
                }
                _ => return Err(refusal(head)),
            }
        }
        Err(ProxyError::TooManyRounds)
    }

    fn request(&self, authorization: Option<&Authorization>) -> Zeroizing<Vec<u8>> {
        let authority = &self.authority;
        let version = env!("CARGO_PKG_VERSION");
        let start = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: OpenTSC/{version}\r\n\
             Proxy-Connection: Keep-Alive\r\n"
        );
        let name = b"Proxy-Authorization: ";
        let value = authorization.map_or(&[][..], |value| value.as_slice());
        // Reserved at once, so that no copy is left behind by growing.
        let length = start.len() + name.len() + value.len() + 4;
        let mut request = Zeroizing::new(Vec::with_capacity(length));
        request.extend(start.bytes());
        if authorization.is_some() {
            request.extend(name);
            request.extend(value);
            request.extend(b"\r\n");
        }
        request.extend(b"\r\n");
        request
    }

    /// Whether the last request has put the password to the test.
    fn has_proved(&self) -> bool {
        match &self.attempt {
            None => false,
            Some(Attempt::Basic | Attempt::Digest { .. }) => false,
            Some(Attempt::Mechanism(_, mechanism)) => mechanism.has_proved(),
        }
    }

    /// What to say to a 407.
    async fn answer(
        &mut self,
        challenges: &[Challenge],
        is_kept: bool,
    ) -> Result<Authorization, ProxyError> {
        let go_on = match self.attempt.take() {
            None => None,
            Some(Attempt::Basic) => self.refused(AuthScheme::Basic, challenges).await?,
            Some(Attempt::Digest { stale }) => self.go_on_digest(stale, challenges).await?,
            Some(Attempt::Mechanism(scheme, mechanism)) => {
                self.go_on_mechanism(scheme, mechanism, challenges, is_kept)
                    .await?
            }
        };
        match go_on {
            Some(authorization) => Ok(authorization),
            None => self.choose(challenges).await,
        }
    }

    async fn go_on_digest(
        &mut self,
        stale: usize,
        challenges: &[Challenge],
    ) -> Result<Option<Authorization>, ProxyError> {
        let mut offers = challenges
            .iter()
            .filter(|challenge| challenge.known() == Some(AuthScheme::Digest));
        if !offers.any(Digest::is_stale) {
            return self.refused(AuthScheme::Digest, challenges).await;
        }
        if stale >= MAX_STALE {
            let failure = SchemeFailure::Challenge("every nonce is stale".to_owned());
            return Ok(self.fail(AuthScheme::Digest, failure));
        }
        match self.begin_digest(challenges) {
            Ok(authorization) => {
                self.attempt = Some(Attempt::Digest { stale: stale + 1 });
                Ok(Some(authorization))
            }
            Err(failure) => Ok(self.fail(AuthScheme::Digest, failure)),
        }
    }

    async fn go_on_mechanism(
        &mut self,
        scheme: AuthScheme,
        mut mechanism: Box<Mechanism>,
        challenges: &[Challenge],
        is_kept: bool,
    ) -> Result<Option<Authorization>, ProxyError> {
        let token = challenges
            .iter()
            .find(|challenge| challenge.known() == Some(scheme))
            .and_then(Challenge::token);
        let Some(token) = token else {
            if mechanism.has_proved() {
                return self.refused(scheme, challenges).await;
            }
            let what = "the proxy did not go on with it".to_owned();
            return Ok(self.fail(scheme, SchemeFailure::Mechanism(what)));
        };
        if !is_kept {
            return Ok(self.fail(scheme, SchemeFailure::NotKept));
        }
        let Ok(token) = STANDARD.decode(token) else {
            let failure = SchemeFailure::Challenge("no base64".to_owned());
            return Ok(self.fail(scheme, failure));
        };
        match mechanism.step(&token).await {
            Ok(token) => {
                self.attempt = Some(Attempt::Mechanism(scheme, mechanism));
                Ok(Some(with_token(scheme, &token)))
            }
            Err(MechanismError::Refused) => self.refused(scheme, challenges).await,
            Err(MechanismError::Failed(failure)) => Ok(self.fail(scheme, failure)),
        }
    }

    /// Remembers that a scheme is of no use.
    fn fail(&mut self, scheme: AuthScheme, failure: SchemeFailure) -> Option<Authorization> {
        debug!(proxy = %self.proxy, %scheme, %failure, "cannot authenticate to the proxy so");
        self.failures.0.push((scheme, failure));
        None
    }

    /// Asks for other credentials; `None` means to begin anew with those.
    async fn refused(
        &mut self,
        scheme: AuthScheme,
        challenges: &[Challenge],
    ) -> Result<Option<Authorization>, ProxyError> {
        self.credentials = None;
        if self.given >= MAX_CREDENTIALS || !self.ask(scheme, challenges, true).await? {
            return Err(ProxyError::CredentialsRefused { scheme });
        }
        Ok(None)
    }

    /// Takes credentials from the source; false if it has none.
    async fn ask(
        &mut self,
        scheme: AuthScheme,
        challenges: &[Challenge],
        refused: bool,
    ) -> Result<bool, ProxyError> {
        let Some(source) = self.proxy.credentials() else {
            return Ok(false);
        };
        let realm = challenges
            .iter()
            .filter(|challenge| challenge.known() == Some(scheme))
            .find_map(|challenge| challenge.parameter("realm"));
        let request = CredentialRequest {
            proxy: self.proxy.to_string(),
            scheme,
            realm: realm.map(|realm| String::from_utf8_lossy(realm).into_owned()),
            refused,
        };
        self.credentials = source.get(request).await.map_err(ProxyError::Credentials)?;
        self.given += 1;
        Ok(self.credentials.is_some())
    }

    /// Begins with the first scheme of the order that is offered and works.
    async fn choose(&mut self, challenges: &[Challenge]) -> Result<Authorization, ProxyError> {
        let offered = offer(challenges);
        for scheme in AuthScheme::ALL {
            let is_offered = challenges.iter().any(|c| c.known() == Some(scheme));
            let has_failed = self.failures.iter().any(|(known, _)| *known == scheme);
            if !is_offered || has_failed {
                continue;
            }
            if let Err(failure) = self.check(scheme) {
                self.fail(scheme, failure);
                continue;
            }
            if self.credentials.is_none() && !self.ask(scheme, challenges, false).await? {
                return Err(ProxyError::AuthenticationRequired { offered });
            }
            match self.begin(scheme, challenges).await {
                Ok((attempt, authorization)) => {
                    self.attempt = Some(attempt);
                    return Ok(authorization);
                }
                Err(MechanismError::Refused) => {
                    if let Some(authorization) = self.refused(scheme, challenges).await? {
                        return Ok(authorization);
                    }
                    return Box::pin(self.choose(challenges)).await;
                }
                Err(MechanismError::Failed(failure)) => {
                    self.fail(scheme, failure);
                }
            }
        }
        if self.proxy.credentials().is_none() {
            return Err(ProxyError::AuthenticationRequired { offered });
        }
        let reasons = std::mem::take(&mut self.failures);
        Err(ProxyError::NoUsableScheme { offered, reasons })
    }

    /// Whether a scheme may be used at all; nobody is asked for a password in vain.
    fn check(&self, scheme: AuthScheme) -> Result<(), SchemeFailure> {
        if !self.proxy.allows(scheme) {
            return Err(SchemeFailure::SwitchedOff);
        }
        match scheme {
            AuthScheme::Basic if !self.proxy.basic_is_allowed() => Err(SchemeFailure::InClear),
            AuthScheme::Negotiate | AuthScheme::Ntlm if !Mechanism::IS_BUILT => {
                Err(SchemeFailure::NotBuilt)
            }
            AuthScheme::Negotiate | AuthScheme::Ntlm | AuthScheme::Digest | AuthScheme::Basic => {
                Ok(())
            }
        }
    }

    async fn begin(
        &self,
        scheme: AuthScheme,
        challenges: &[Challenge],
    ) -> Result<(Attempt, Authorization), MechanismError> {
        match scheme {
            AuthScheme::Negotiate | AuthScheme::Ntlm => {
                let credentials = self.credentials.as_ref().ok_or(MechanismError::Refused)?;
                let mut mechanism = Box::new(Mechanism::new(scheme, self.proxy, credentials)?);
                let token = mechanism.step(&[]).await?;
                let attempt = Attempt::Mechanism(scheme, mechanism);
                Ok((attempt, with_token(scheme, &token)))
            }
            AuthScheme::Digest => {
                let authorization = self.begin_digest(challenges)?;
                Ok((Attempt::Digest { stale: 0 }, authorization))
            }
            AuthScheme::Basic => {
                let credentials = self.credentials.as_ref().ok_or(MechanismError::Refused)?;
                Ok((Attempt::Basic, basic(credentials)?))
            }
        }
    }

    fn begin_digest(&self, challenges: &[Challenge]) -> Result<Authorization, SchemeFailure> {
        let offers = challenges
            .iter()
            .filter(|challenge| challenge.known() == Some(AuthScheme::Digest));
        let unusable = |why: &str| SchemeFailure::Challenge(why.to_owned());
        let digest = Digest::best(offers).map_err(unusable)?;
        let credentials = self.credentials.as_ref().ok_or_else(|| unusable("none"))?;
        let mut nonce = [0; NONCE];
        OsRandom
            .try_fill(&mut nonce)
            .map_err(|error| SchemeFailure::Mechanism(error.to_string()))?;
        let nonce = STANDARD.encode(nonce);
        Ok(digest.answer(credentials, "CONNECT", &self.authority, &nonce))
    }
}

impl From<SchemeFailure> for MechanismError {
    fn from(failure: SchemeFailure) -> Self {
        Self::Failed(failure)
    }
}

/// The names of what a proxy offers.
fn offer(challenges: &[Challenge]) -> String {
    let names: Vec<&str> = challenges.iter().map(|c| c.scheme.as_str()).collect();
    if names.is_empty() {
        return "nothing".to_owned();
    }
    clean(names.join(", ").as_bytes())
}

/// RFC 7617, with UTF-8.
fn basic(credentials: &Credentials) -> Result<Authorization, SchemeFailure> {
    let (user, password) = (credentials.user(), credentials.expose_password());
    if user.contains(':') {
        return Err(SchemeFailure::UserName);
    }
    let mut plain = Zeroizing::new(Vec::with_capacity(user.len() + 1 + password.len()));
    plain.extend(user.bytes());
    plain.push(b':');
    plain.extend(password.bytes());
    Ok(with_token(AuthScheme::Basic, &plain))
}

/// `Scheme base64`
fn with_token(scheme: AuthScheme, token: &[u8]) -> Authorization {
    let text = Zeroizing::new(STANDARD.encode(token));
    let mut value = Zeroizing::new(Vec::with_capacity(scheme.as_str().len() + 1 + text.len()));
    value.extend(scheme.as_str().bytes());
    value.push(b' ');
    value.extend(text.bytes());
    value
}

/// A length in a 2xx is to be ignored (RFC 9110, 9.3.6); but a page is a page.
fn accept(leg: Leg, head: Head) -> Result<Socket, ProxyError> {
    let (socket, has_data) = leg.into_stream();
    let has_body = match head.body {
        Body::Length(length) => length > 0,
        Body::Chunked => true,
        Body::UntilClose => has_data,
    };
    if head.is_page && has_body {
        return Err(portal(head));
    }
    if has_data {
        return Err(ProxyError::UnexpectedData);
    }
    Ok(socket)
}

fn refusal(head: Head) -> ProxyError {
    match head.status {
        300..=399 | 511 => portal(head),
        status => ProxyError::Refused {
            status,
            reason: head.reason,
        },
    }
}

fn portal(head: Head) -> ProxyError {
    ProxyError::Portal {
        status: head.status,
        location: head.location,
    }
}
