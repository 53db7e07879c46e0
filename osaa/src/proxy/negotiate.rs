//! NTLM (v2) and Negotiate, by the sspi crate. The key servers are asked by us.

use sspi::{
    AuthIdentity, AuthIdentityBuffers, BufferType, ClientRequestFlags, CredentialUse, Credentials,
    CredentialsBuffers, DataRepresentation, ErrorKind, KerberosConfig, Negotiate, NegotiateConfig,
    Ntlm, SecurityBuffer, Sspi, SspiImpl, Username, UsernameParts, generator::GeneratorState,
    ntlm::NtlmConfig,
};
use zeroize::Zeroizing;

use super::{
    AuthScheme, Credentials as Ours, Proxy, SchemeFailure,
    kdc::{self, Verdict},
    mechanism::MechanismError,
};

/// Sent as the name of this computer. Nobody checks it, and the real one is nobody's business.
const WORKSTATION: &str = "OPENTSC";

/// The first bytes of an NTLM message, and the number of the last one, which has the proof of the password.
const NTLM_PROOF: &[u8] = b"NTLMSSP\0\x03\0\0\0";

type Token = Zeroizing<Vec<u8>>;

/// One authentication.
pub(super) struct Mechanism {
    context: Context,
    /// Service and host, as key servers know the proxy.
    target: String,
    /// The last token has put the password to the test.
    proved: bool,
    /// For `user@REALM`: Windows' key servers take it for a name of its own, others for a user in a realm.
    other: Option<Box<Self>>,
}

enum Context {
    Ntlm(Box<Ntlm>, Option<AuthIdentityBuffers>),
    Negotiate(Box<Negotiate>, Option<CredentialsBuffers>),
}

impl Mechanism {
    pub(super) const IS_BUILT: bool = true;

    pub(super) fn new(
        scheme: AuthScheme,
        proxy: &Proxy,
        credentials: &Ours,
    ) -> Result<Self, MechanismError> {
        let user = Username::new(credentials.user(), credentials.domain())
            .map_err(|error| failed(&error))?;
        let mut mechanism = Self::with(scheme, proxy, &user, credentials)?;
        if let UsernameParts::UserPrincipalName(name) = user.parts()
            && scheme == AuthScheme::Negotiate
        {
            let user = Username::new(name.account_name(), Some(name.suffix()))
                .map_err(|error| failed(&error))?;
            let other = Self::with(scheme, proxy, &user, credentials)?;
            mechanism.other = Some(Box::new(other));
        }
        Ok(mechanism)
    }

    fn with(
        scheme: AuthScheme,
        proxy: &Proxy,
        user: &Username,
        credentials: &Ours,
    ) -> Result<Self, MechanismError> {
        let has_domain = match user.parts() {
            UsernameParts::UserPrincipalName(_) => true,
            UsernameParts::DownLevelLogonName(name) => name.netbios_domain().is_some(),
        };
        let identity = AuthIdentity {
            username: user.clone(),
            password: credentials.expose_password().to_owned().into(),
        };
        let context = if scheme == AuthScheme::Ntlm {
            let mut ntlm = Ntlm::with_config(NtlmConfig::new(WORKSTATION.to_owned()));
            let handle = ntlm
                .acquire_credentials_handle()
                .with_credential_use(CredentialUse::Outbound)
                .with_auth_data(&identity)
                .execute(&mut ntlm)
                .map_err(|error| classify(&error))?;
            Context::Ntlm(Box::new(ntlm), handle.credentials_handle)
        } else {
            // Kerberos takes a realm.
            let protocol: Box<dyn sspi::negotiate::ProtocolConfig> = match proxy.kdc() {
                Some(kdc) if has_domain => Box::new(KerberosConfig::new_with_kdc_url(
                    kdc,
                    WORKSTATION.to_owned(),
                )),
                Some(_) | None => Box::new(NtlmConfig::new(WORKSTATION.to_owned())),
            };
            let packages = if has_domain { "kerberos,ntlm" } else { "ntlm" };
            let config =
                NegotiateConfig::new(protocol, Some(packages.to_owned()), WORKSTATION.to_owned());
            let mut negotiate = Negotiate::new_client(config).map_err(|error| classify(&error))?;
            let credentials = Credentials::AuthIdentity(identity);
            let handle = negotiate
                .acquire_credentials_handle()
                .with_credential_use(CredentialUse::Outbound)
                .with_auth_data(&credentials)
                .execute(&mut negotiate)
                .map_err(|error| classify(&error))?;
            Context::Negotiate(Box::new(negotiate), handle.credentials_handle)
        };
        Ok(Self {
            context,
            target: format!("HTTP/{}", proxy.host()),
            proved: false,
            other: None,
        })
    }

    /// The next token, for what the proxy said; nothing at first.
    pub(super) async fn step(&mut self, input: &[u8]) -> Result<Token, MechanismError> {
        let (token, verdict) = self.step_once(input).await;
        if verdict == Verdict::Unknown
            && let Some(mut other) = self.other.take()
        {
            let (token, verdict) = other.step_once(input).await;
            if verdict != Verdict::Unknown {
                *self = *other;
                return token;
            }
        }
        token
    }

    async fn step_once(&mut self, input: &[u8]) -> (Result<Token, MechanismError>, Verdict) {
        let mut input = [SecurityBuffer::new(input.to_vec(), BufferType::Token)];
        let mut output = [SecurityBuffer::new(Vec::new(), BufferType::Token)];
        let target = &self.target;
        let (result, verdict) = match &mut self.context {
            Context::Ntlm(context, handle) => {
                step(&mut **context, handle, target, &mut input, &mut output).await
            }
            Context::Negotiate(context, handle) => {
                step(&mut **context, handle, target, &mut input, &mut output).await
            }
        };
        let [output] = output;
        let token = Zeroizing::new(output.buffer);
        if let Err(error) = result {
            return (Err(error), verdict);
        }
        if token.is_empty() {
            // It is content, and the proxy is not.
            let what = "the proxy wants more than there is to say".to_owned();
            return (Err(SchemeFailure::Mechanism(what).into()), verdict);
        }
        self.proved = token
            .windows(NTLM_PROOF.len())
            .any(|window| window == NTLM_PROOF);
        (Ok(token), verdict)
    }

    /// Whether the last token put the password to the test. A Kerberos ticket does not: the key server has done it.
    pub(super) const fn has_proved(&self) -> bool {
        self.proved
    }
}

/// Runs one step, and asks key servers what it wants to know of them. Also gives what the last one said.
async fn step<C: Sspi + SspiImpl>(
    context: &mut C,
    handle: &mut C::CredentialsHandle,
    target: &str,
    input: &mut [SecurityBuffer],
    output: &mut [SecurityBuffer],
) -> (Result<(), MechanismError>, Verdict) {
    let mut verdict = Verdict::Other;
    let mut builder = context
        .initialize_security_context()
        .with_credentials_handle(handle)
        .with_context_requirements(ClientRequestFlags::empty())
        .with_target_data_representation(DataRepresentation::Native)
        .with_target_name(target)
        .with_input(input)
        .with_output(output);
    let mut generator = match context.initialize_security_context_impl(&mut builder) {
        Ok(generator) => generator,
        Err(error) => return (Err(classify(&error)), verdict),
    };
    let mut state = generator.start();
    for _ in 0..kdc::MAX_REQUESTS {
        match state {
            GeneratorState::Completed(result) => {
                let result = result.map(|_| ()).map_err(|error| match verdict {
                    Verdict::Refused => MechanismError::Refused,
                    Verdict::Unknown | Verdict::Other => classify(&error),
                });
                return (result, verdict);
            }
            GeneratorState::Suspended(request) => {
                let answer = kdc::ask(&request).await.map_err(|error| {
                    // Lets Negotiate fall back to NTLM.
                    let what = format!("key server {}: {error}", request.url);
                    sspi::Error::new(ErrorKind::NoAuthenticatingAuthority, what)
                });
                verdict = answer.as_deref().map_or(Verdict::Other, Verdict::new);
                state = generator.resume(answer);
            }
        }
    }
    let failure = SchemeFailure::Mechanism("too many questions to key servers".to_owned());
    (Err(failure.into()), verdict)
}

fn failed(error: &dyn std::fmt::Display) -> MechanismError {
    SchemeFailure::Mechanism(error.to_string()).into()
}

/// Who is to blame.
#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
fn classify(error: &sspi::Error) -> MechanismError {
    match error.error_type {
        ErrorKind::NoAuthenticatingAuthority | ErrorKind::TimeSkew => {
            SchemeFailure::Passing(error.to_string()).into()
        }
        // What the password should open it does not.
        ErrorKind::LogonDenied | ErrorKind::DecryptFailure => MechanismError::Refused,
        _ => failed(error),
    }
}
