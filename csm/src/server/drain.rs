//! Draining: newcomers go elsewhere, and who has a tunnel keeps it, until hardly any are left and the server can be stopped.
//!
//! A newcomer is told what it is told by a full server or an overloaded one: `redirect` where its interface has alternates,
//! whatever the interface's policy, else `busy` with a Retry_After.

use super::Server;
use super::config::RedirectPolicy;

impl Server {
    /// Begins or ends draining, of this shard. Requests for tunnels that are on their way may still be granted by other
    /// shards; tunnels that exist are resumed and released as ever.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Whether a newcomer to this interface is sent away before any work is done for it, and then by which policy.
    pub(super) fn turns_away(&self, interface: usize, overloaded: bool) -> Option<RedirectPolicy> {
        let found = self.config.interfaces.get(interface);
        if self.draining {
            let leads_on = found.is_some_and(|interface| !interface.alternates.is_empty());
            return Some(if leads_on {
                RedirectPolicy::Always
            } else {
                RedirectPolicy::Never
            });
        }
        overloaded.then(|| found.map_or(RedirectPolicy::Never, |interface| interface.redirect))
    }
}
