//! What is measured: sections, each a few runs of `tsc-load` that belong together. Every section that speaks of packets per
//! processor second measures the UDP relay too, since its ratios hold only within a run.

use std::fmt;

use tsc_load::peer::PeerKind;

/// Transports by their names.
pub const TRANSPORTS: [&str; 4] = ["udp", "tcp", "tls", "dtls"];

/// Both ends of a TLS tunnel need a descriptor each, and the limit may be 20,000.
pub const MANY_STREAMS: u32 = 19_700;

/// Tunnels over UDP when there are many.
pub const MANY_DATAGRAMS: u32 = 100_000;

/// How often round trips are measured.
const ROUND_TRIPS: usize = 7;

/// How often set-ups are measured, each time some tenths of a second.
const SET_UPS: usize = 5;

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name, which is also that of its results' file.
    pub name: String,
    /// Command lines of `tsc-load`, without what is common.
    pub runs: Vec<Vec<String>>,
    /// Most seconds that each may take.
    pub limit: u32,
}

impl Section {
    fn new(name: impl fmt::Display, runs: &[&str]) -> Self {
        let words = |run: &&str| run.split_whitespace().map(str::to_owned).collect();
        Self {
            name: name.to_string(),
            runs: runs.iter().map(words).collect(),
            limit: 300,
        }
    }

    /// Whether other programs are measured.
    #[must_use]
    pub fn is_of_peers(&self) -> bool {
        self.name.starts_with("peer-")
    }

    /// Whether a word of `--only` means it: its name, or the beginning of that up to a hyphen.
    #[must_use]
    pub fn is_meant_by(&self, word: &str) -> bool {
        let rest = self.name.strip_prefix(word);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// All sections. `windows` are measured at each load; `quick` ones need less of everything.
#[must_use]
pub fn sections(windows: u16, quick: bool) -> Vec<Section> {
    let measured = format!("--host-buffers 4194304 --windows {windows}");
    let server = format!("run {measured} --baseline udp --spawn-server --transport");
    let mut all = Vec::new();
    for (name, kinds) in [("gso", "udp,gso"), ("stream", "udp,tcp,tls")] {
        let run = format!("run {measured} --baseline {kinds} --rate 5k,max");
        all.push(Section::new(format!("relays-{name}"), &[&run]));
    }
    for transport in TRANSPORTS {
        let run = format!("{server} {transport} --rate 5k,max");
        all.push(Section::new(transport, &[&run]));
    }
    all.push(Section::new(
        "dimpl",
        &[&format!("{server} dtls --dtls-backend dimpl --rate max")],
    ));
    // Hosts change from one second to the next: only what is measured in turns can be compared. Into the core, as relays do
    // it too: the first leg and the last over the transport, the others over UDP.
    for transport in TRANSPORTS {
        let run = format!("{server} {transport} --egress user-space --rate 5k");
        let runs = vec![run.as_str(); if quick { 2 } else { ROUND_TRIPS }];
        all.push(Section::new(format!("latency-{transport}"), &runs));
        let run = format!("{run} --busy-poll 50");
        let runs = vec![run.as_str(); if quick { 1 } else { 3 }];
        all.push(Section::new(format!("latency-poll-{transport}"), &runs));
    }
    for transport in ["udp", "dtls"] {
        let run = format!("{server} {transport} --egress tun --rate max");
        all.push(Section::new(format!("tun-{transport}"), &[&run]));
    }
    all.push(Section::new(
        "trunk-relays",
        &[&format!(
            "run {measured} --trunk --baseline udp,gso,tcp,tls --rate max"
        )],
    ));
    for transport in TRANSPORTS {
        let run = format!("{server} {transport} --trunk --rate max");
        all.push(Section::new(format!("trunk-{transport}"), &[&run]));
    }
    for transport in ["udp", "dtls"] {
        let run = format!("{server} {transport} --trunk --gso --rate max");
        all.push(Section::new(format!("trunk-gso-{transport}"), &[&run]));
    }
    for (transport, tunnels) in [
        ("udp", 20_000),
        ("tcp", 8000),
        ("tls", 4000),
        ("dtls", 4000),
    ] {
        let tunnels = if quick { tunnels / 8 } else { tunnels };
        let run = format!(
            "setup --host-buffers 4194304 --spawn-server --transport {transport} --tunnels {tunnels} --open-rate 50000"
        );
        all.push(Section::new(
            format!("setup-{transport}"),
            &[run.as_str(); SET_UPS],
        ));
        if transport == "dtls" {
            let run = format!("{run} --dtls-backend dimpl");
            all.push(Section::new("setup-dimpl", &[run.as_str(); SET_UPS]));
        }
    }
    for transport in TRANSPORTS {
        let run = wire(&format!("--spawn-server --transport {transport}"));
        all.push(Section::new(format!("wire-{transport}"), &[&run]));
    }
    all.extend(peers(&measured, quick));
    let part = if quick { 10 } else { 1 };
    for (transport, many) in [("udp", MANY_DATAGRAMS / part), ("tls", MANY_STREAMS / part)] {
        let few = format!("{server} {transport} --rate 20k,50k");
        let many = format!(
            "run {measured} --spawn-server --transport {transport} --rate 20k,50k --tunnels {many} --open-rate 20000"
        );
        all.push(Section::new(format!("growth-{transport}"), &[&few, &many]));
    }
    // Keepalives of datagrams are due after 25 s, of streams after 150 s.
    for (transport, many, time) in [
        ("udp", MANY_DATAGRAMS / part, 60 / part),
        ("tls", MANY_STREAMS / part, 170 / part),
    ] {
        let run = format!(
            "hold --host-buffers 4194304 --spawn-server --transport {transport} --tunnels {many} --open-rate 20000 --time {time}"
        );
        all.push(Section::new(format!("held-{transport}"), &[&run]));
    }
    let time = 60 / part;
    for transport in TRANSPORTS {
        // What waits in the buffers of 2000 streams is as much as the server can pass on in seconds.
        let tunnels = match transport {
            "tcp" | "tls" => 500,
            _ => 2000,
        };
        let run = format!(
            "overload --tunnels {tunnels} --host-buffers 4194304 --spawn-server --transport {transport} --time {time}"
        );
        all.push(Section::new(format!("overload-{transport}"), &[&run]));
    }
    for transport in ["udp", "dtls"] {
        let run = format!("hostile {measured} --spawn-server --transport {transport}");
        all.push(Section::new(format!("hostile-{transport}"), &[&run]));
    }
    all
}

/// Other programs.
fn peers(measured: &str, quick: bool) -> Vec<Section> {
    let mut all = Vec::new();
    for kind in PeerKind::ALL {
        let name = kind.name();
        let run = format!("run {measured} --baseline udp --peer {name} --rate 5k,max");
        all.push(Section::new(format!("peer-{name}"), &[&run]));
        let run = wire(&format!("--peer {name}"));
        all.push(Section::new(format!("peer-wire-{name}"), &[&run]));
        let sessions = match kind {
            PeerKind::Coturn(_) if quick => 250,
            PeerKind::Coturn(_) => 2000,
            // It has no more descriptors.
            PeerKind::Stunnel => 400,
            PeerKind::Vpn(_) => continue,
        };
        let run = format!("setup --host-buffers 4194304 --peer {name} --tunnels {sessions}");
        all.push(Section::new(format!("peer-setup-{name}"), &[&run]));
    }
    all
}

/// Bytes on the wire are counted at a rate at which every packet travels alone.
fn wire(subject: &str) -> String {
    format!("run --own-network {subject} --tunnels 10 --calls 10 --rate 500 --windows 1 --window 3")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::Parser as _;
    use tsc_load::cli::Cli;

    use super::*;

    #[test]
    fn every_command_line_is_understood() {
        for quick in [false, true] {
            for section in sections(3, quick) {
                for run in &section.runs {
                    let line = std::iter::once("tsc-load".to_owned()).chain(run.clone());
                    let cli = Cli::try_parse_from(line).unwrap();
                    assert_eq!(cli.missing(), None, "{run:?}");
                }
            }
        }
    }

    #[test]
    fn sections_are_chosen_by_word() {
        let all = sections(1, true);
        let chosen = |word: &str| all.iter().filter(|one| one.is_meant_by(word)).count();
        assert_eq!(chosen("udp"), 1);
        assert_eq!(chosen("tun"), 2);
        assert_eq!(chosen("peer-coturn"), 4);
        assert_eq!(chosen("nothing"), 0);
        let mut names: Vec<_> = all.iter().map(|one| &one.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len(), "files of the same name");
    }
}
