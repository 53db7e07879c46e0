//! NTLM and Negotiate, or their absence.

use super::SchemeFailure;

#[cfg(feature = "proxy-negotiate")]
pub(super) use super::negotiate::Mechanism;

/// Why a mechanism ended.
#[derive(Debug)]
pub(super) enum MechanismError {
    /// Somebody does not accept the credentials.
    Refused,
    /// It cannot be used, for another reason.
    Failed(SchemeFailure),
}

#[cfg(not(feature = "proxy-negotiate"))]
mod absent {
    use zeroize::Zeroizing;

    use super::{
        super::{AuthScheme, Credentials, Proxy, SchemeFailure},
        MechanismError,
    };

    /// There is none in this build.
    pub(in super::super) enum Mechanism {}

    impl Mechanism {
        pub(in super::super) const IS_BUILT: bool = false;

        pub(in super::super) const fn new(
            _scheme: AuthScheme,
            _proxy: &Proxy,
            _credentials: &Credentials,
        ) -> Result<Self, MechanismError> {
            Err(MechanismError::Failed(SchemeFailure::NotBuilt))
        }

        #[allow(clippy::unused_async, reason = "as in builds that have it")]
        pub(in super::super) async fn step(
            &mut self,
            _input: &[u8],
        ) -> Result<Zeroizing<Vec<u8>>, MechanismError> {
            match *self {}
        }

        pub(in super::super) const fn has_proved(&self) -> bool {
            match *self {}
        }
    }
}

#[cfg(not(feature = "proxy-negotiate"))]
pub(super) use absent::Mechanism;
