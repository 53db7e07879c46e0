//! What worked on which network.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tsc_osaa::netwatch::{NetworkId, network_id};

/// Ways that are remembered, each on one network; the one used longest ago is forgotten.
pub const MAX_REMEMBERED: usize = 256;

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

    /// What worked last on the network of now, of the ways that count.
    pub(crate) fn recall(&self, counts: impl Fn(&str) -> bool) -> Option<(String, SocketAddr)> {
        self.recall_on(network_id(), counts)
    }

    fn remember_on(&self, network: Option<NetworkId>, way: String, address: SocketAddr) {
        let mut entries = self.lock();
        entries.retain(|entry| entry.network != network || entry.way != way);
        entries.insert(
            0,
            Entry {
                network,
                way,
                address,
            },
        );
        entries.truncate(MAX_REMEMBERED);
    }

    fn recall_on(
        &self,
        network: Option<NetworkId>,
        counts: impl Fn(&str) -> bool,
    ) -> Option<(String, SocketAddr)> {
        let entries = self.lock();
        let entry = entries
            .iter()
            .find(|entry| entry.network == network && counts(&entry.way))?;
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
    fn each_network_has_its_ways_and_the_oldest_is_forgotten() {
        let memory = PathMemory::new();
        let network = |number: u8| Some(NetworkId::from_bytes([number; 16]));
        let address: SocketAddr = "192.0.2.1:443".parse().unwrap();
        let any = |_: &str| true;
        for number in 0..=MAX_REMEMBERED {
            let of = network(u8::from(number == 0));
            memory.remember_on(of, format!("tls://{number}"), address);
        }
        assert_eq!(memory.recall_on(network(1), any), None, "the oldest");
        let last = Some((format!("tls://{MAX_REMEMBERED}"), address));
        assert_eq!(memory.recall_on(network(0), any), last);
        // Another tunnel's ways are its own.
        let mine = |name: &str| name == "tls://7";
        assert_eq!(
            memory.recall_on(network(0), mine),
            Some(("tls://7".to_owned(), address))
        );
        memory.clear();
        assert_eq!(memory.recall_on(network(0), any), None);
    }
}
