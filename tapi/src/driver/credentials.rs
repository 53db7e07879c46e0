//! What protected transports are opened with.

use tsc_osaa::cert::{ClientSecurity, CredentialError, HelloOptions, Identity, Trust};

/// Loaded when the first protected transport is opened: a clear tunnel may want one later, for an encrypted companion.
pub(super) struct Credentials {
    trust: Trust,
    identity: Option<Identity>,
    hello: HelloOptions,
    loaded: Option<ClientSecurity>,
}

impl Credentials {
    pub(super) const fn new(trust: Trust, identity: Option<Identity>, hello: HelloOptions) -> Self {
        Self {
            trust,
            identity,
            hello,
            loaded: None,
        }
    }

    /// Those of a protected transport that is about to be opened.
    ///
    /// # Errors
    ///
    /// What is wrong with them; the next transport tries again.
    pub(super) fn load(&mut self) -> Result<ClientSecurity, CredentialError> {
        if let Some(loaded) = &self.loaded {
            return Ok(loaded.clone());
        }
        let mut security = ClientSecurity::new(self.trust.clone(), self.identity.clone())?;
        if self.hello != HelloOptions::default() {
            security = security.with_hello(self.hello);
        }
        Ok(self.loaded.insert(security).clone())
    }
}
