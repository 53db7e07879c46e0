//! What worked on which network.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tsc_osaa::netwatch::{NetworkId, network_id};

/// Networks that are remembered; the one used longest ago is forgotten.
pub const MAX_NETWORKS: usize = 64;

/// Remembers for each network that the host was on which way to the server worked there last, so that it is tried first. A
/// handle: clones share what they know. Tunnels share [`PathMemory::process`] unless they are given another.
///
/// Networks are told apart by their default route ([`NetworkId`]), on Linux only; elsewhere there is one network.
#[derive(Clone, Debug, Default)]
pub struct PathMemory(Arc<Mutex<Vec<Entry>>>);

#[derive(Clone, Debug)]
struct Entry {
    network: Option<NetworkId>,
    way: String,
    address: SocketAddr,
}

impl PathMemory {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The memory of this process.
    #[must_use]
    pub fn process() -> Self {
        static MEMORY: OnceLock<PathMemory> = OnceLock::new();
        MEMORY.get_or_init(Self::new).clone()
    }

    /// Forgets all networks.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// A way worked on the network of now.
    pub(crate) fn remember(&self, way: String, address: SocketAddr) {
        self.remember_on(network_id(), way, address);
    }

    /// What worked on the network of now.
    pub(crate) fn recall(&self) -> Option<(String, SocketAddr)> {
        self.recall_on(network_id())
    }

    fn remember_on(&self, network: Option<NetworkId>, way: String, address: SocketAddr) {
        let mut entries = self.lock();
        entries.retain(|entry| entry.network != network);
        entries.insert(
            0,
            Entry {
                network,
                way,
                address,
            },
        );
        entries.truncate(MAX_NETWORKS);
    }

    fn recall_on(&self, network: Option<NetworkId>) -> Option<(String, SocketAddr)> {
        let entries = self.lock();
        let entry = entries.iter().find(|entry| entry.network == network)?;
        Some((entry.way.clone(), entry.address))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_way_and_the_oldest_is_forgotten() {
        let memory = PathMemory::new();
        let network = |number: u8| Some(NetworkId::from_bytes([number; 16]));
        let address: SocketAddr = "192.0.2.1:443".parse().unwrap();
        for number in 0..=u8::try_from(MAX_NETWORKS).unwrap() {
            memory.remember_on(network(number), format!("tls://{number}"), address);
        }
        assert_eq!(memory.recall_on(network(0)), None);
        assert_eq!(
            memory.recall_on(network(1)),
            Some(("tls://1".to_owned(), address))
        );
        memory.remember_on(network(1), "udp://1".to_owned(), address);
        assert_eq!(
            memory.recall_on(network(1)),
            Some(("udp://1".to_owned(), address))
        );
        assert_eq!(memory.recall_on(None), None);
        memory.clear();
        assert_eq!(memory.recall_on(network(1)), None);
    }
}
