//! What protected transports are opened with.

use tsc_osaa::cert::{ClientSecurity, CredentialError, HelloOptions, Identity, Trust};

/// Loaded when the first protected transport is opened: a clear tunnel may want one later, for an encrypted companion.
pub(super) struct Credentials {
    /// Until it is loaded.
    given: Option<(Trust, Option<Identity>, HelloOptions)>,
    loaded: Option<ClientSecurity>,
}

impl Credentials {
    pub(super) const fn new(trust: Trust, identity: Option<Identity>, hello: HelloOptions) -> Self {
        Self {
            given: Some((trust, identity, hello)),
            loaded: None,
        }
    }

    /// # Errors
    ///
    /// What is wrong with them; the first time.
    pub(super) fn load(&mut self) -> Result<(), CredentialError> {
        let Some((trust, identity, hello)) = self.given.take() else {
            return Ok(());
        };
        let security = ClientSecurity::new(trust, identity)?;
        self.loaded = Some(if hello == HelloOptions::default() {
            security
        } else {
            security.with_hello(hello)
        });
        Ok(())
    }

    /// Those of a transport that is about to be opened; none if they cannot be used, or it needs none.
    pub(super) fn of(&mut self, protected: bool) -> Option<ClientSecurity> {
        if protected && let Err(error) = self.load() {
            tracing::warn!(%error, "no credentials for an encrypted tunnel");
        }
        self.loaded.clone()
    }
}
