//! What a running server can take over of a configuration that was read again: the services of its interfaces, with what belongs to
//! them. Everything else is read at the start only.

use super::Egress;
use super::model::{Config, InterfaceConfig};

/// Differences that are named; further ones are counted by nobody.
const MOST_NAMED: usize = 8;

impl Config {
    /// The keys that differ in `new` and are read at the start only, by their tables. A running server can take over a
    /// configuration of which there are none: it may differ in `assigned-services`, and in what these need (`sip-servers`,
    /// `[[tscf-interface.routed-prefix]]`; the latter where there is no TUN device, whose routes are made at the start).
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<String> {
        let has_tun = self.uses(Egress::Tun);
        let mut fixed = new.clone();
        for (interface, before) in fixed.interfaces.iter_mut().zip(&self.interfaces) {
            interface.services = before.services;
            interface.sip_servers.clone_from(&before.sip_servers);
            if !has_tun {
                interface.routed.clone_from(&before.routed);
            }
        }
        if fixed == *self {
            return Vec::new();
        }
        let mut named = different_keys(&self.to_string(), &fixed.to_string());
        if named.is_empty() {
            // They are printed by their paths.
            named.push("the contents of a certificate, key or token file".to_owned());
        }
        named.truncate(MOST_NAMED);
        named
    }

    /// The interfaces whose services, or what belongs to them, differ in `new`, by name.
    #[must_use]
    pub fn changed_offers<'a>(&self, new: &'a Self) -> Vec<&'a str> {
        let both = new.interfaces.iter().zip(&self.interfaces);
        let is_changed = |(new, old): &(&InterfaceConfig, &InterfaceConfig)| {
            new.services != old.services
                || new.sip_servers != old.sip_servers
                || new.routed != old.routed
        };
        let changed = both.filter(is_changed);
        changed.map(|(new, _)| new.name.as_str()).collect()
    }
}

/// The keys of two printed configurations whose lines are not the same, each once and with its table.
fn different_keys(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (lines(old), lines(new));
    let gone = old.iter().filter(|line| !new.contains(line));
    let come = new.iter().filter(|line| !old.contains(line));
    let mut keys = Vec::new();
    for (table, _, line) in gone.chain(come) {
        let key = line.split_once(" = ").map_or(*line, |(key, _)| key);
        let key = if key == *table {
            key.to_owned()
        } else {
            format!("{key} of {table}")
        };
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// Each line with its table, and the number of that.
fn lines(printed: &str) -> Vec<(&str, usize, &str)> {
    let (mut table, mut number) = ("", 0);
    let mut lines = Vec::new();
    for line in printed.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('[') {
            (table, number) = (line, number + 1);
        }
        lines.push((table, number, line));
    }
    lines
}
