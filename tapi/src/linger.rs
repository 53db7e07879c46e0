//! Tunnels that outlive their handle for a while, and are handed to the next request that is like the one before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tsc_osaa::cert::Trust;

use crate::{TunnelConfig, builder::TunnelBuilder, shared::Shared};

/// Tunnels of this process that linger; one more is released at once.
pub const MAX_LINGERING: usize = 16;

static LINGERING: Mutex<Vec<Lingering>> = Mutex::new(Vec::new());

/// A tunnel that nobody has a handle of.
#[derive(Debug)]
pub(crate) struct Lingering {
    pub(crate) key: Key,
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: watch::Receiver<Arc<TunnelConfig>>,
}

/// All parameters of a request that make a tunnel what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn of(builder: &TunnelBuilder) -> Self {
        // What has secrets shows them to nobody, so these are added.
        let open = format!(
            "{:?}",
            (
                &builder.servers,
                &builder.server_name,
                &builder.dtls_backend,
                builder.direct,
                builder.outer_dscp,
                &builder.trace,
                builder.trace_options,
                builder.hello,
                builder.families,
                &builder.csm,
            )
        );
        let mut hash = Sha256::new_with_prefix(open);
        let token = builder.csm.auth_token.as_ref();
        let token = token.map_or_else(Default::default, |token| Sha256::digest(token.expose()));
        hash.update(token);
        if let Trust::Roots(roots) = &builder.trust {
            hash.update(roots.digest());
        } else {
            hash.update(format!("{:?}", builder.trust));
        }
        if let Some(identity) = &builder.identity {
            hash.update(identity.digest());
        }
        Self(hash.finalize().into())
    }
}

/// Keeps a tunnel; gives it back if there are too many.
pub(crate) fn keep(tunnel: Lingering) -> Result<(), Lingering> {
    let mut all = lock();
    all.retain(|tunnel| tunnel.shared.down.borrow().is_none());
    if all.len() >= MAX_LINGERING {
        return Err(tunnel);
    }
    all.push(tunnel);
    Ok(())
}

/// A tunnel that lives, for a request like the one it was made for.
pub(crate) fn take(key: Key) -> Option<Lingering> {
    let mut all = lock();
    all.retain(|tunnel| tunnel.shared.down.borrow().is_none());
    let place = all
        .iter()
        .position(|tunnel| tunnel.key == key && tunnel.shared.is_bound())?;
    Some(all.swap_remove(place))
}

/// Forgets a tunnel; true if it was lingering.
pub(crate) fn remove(shared: &Arc<Shared>) -> bool {
    let mut all = lock();
    let before = all.len();
    all.retain(|tunnel| !Arc::ptr_eq(&tunnel.shared, shared));
    all.len() < before
}

fn lock() -> MutexGuard<'static, Vec<Lingering>> {
    LINGERING.lock().unwrap_or_else(PoisonError::into_inner)
}
