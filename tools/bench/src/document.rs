//! Files for `docs/performance`: all figures as JSON, tables, plots.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use tsc_figures::bars::{Bar, Whose, chart};

use crate::results::Results;
use crate::suite::TRANSPORTS;
use crate::tables::{self, MEMORY, PATHS, SET_UPS};

/// Our name in reports.
const OURS: &str = "tsc-server";

/// Writes `results.json`, `results.md` and the plots into `directory`.
///
/// # Errors
///
/// They cannot be written.
pub fn write(results: &Results, directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put(
        "results.json",
        &(serde_json::to_string_pretty(results)? + "\n"),
    )?;
    put("results.md", &page(results))?;
    put("paths.svg", &paths(results))?;
    put("set-ups.svg", &per_transport(results, true))?;
    put("memory.svg", &per_transport(results, false))?;
    Ok(())
}

fn page(results: &Results) -> String {
    // Parts may be of different days; most tell.
    let mut hosts: Vec<_> = results.0.values().map(|one| one.host.text()).collect();
    hosts.sort();
    let (first, last) = (hosts.first(), hosts.last());
    let mut commits: Vec<_> = results.0.values().map(|one| &one.host.commit).collect();
    commits.sort();
    commits.dedup();
    let commits: Vec<_> = commits.into_iter().map(String::as_str).collect();
    format!(
        "# Figures\n\nMade by `tools/bench.sh`; `../performance.md` explains how, and what they mean. Do not edit.\n\n\
         - From: {}\n- To: {}\n- Commits: {}\n\n\
         Packets of 200 bytes, 100 tunnels (peers: 100 sessions; VPNs: one tunnel with 100 flows), at 90 % of the greatest rate with less than 0.1 % \
         loss. Ratios are to the plain UDP relay that was measured just before, in the same run. Medians [least-greatest] of the windows.\n\n\
         ## Paths\n\n![Packets per CPU second](paths.svg)\n\n{}\n\
         ## Other figures\n\n![Set-ups](set-ups.svg)\n\n![Memory](memory.svg)\n\n{}\n\
         ## Overload and forged traffic\n\n{}\n\
         ## Everything at its limit\n\n{}",
        first.map_or("-", String::as_str),
        last.map_or("-", String::as_str),
        commits.join(", "),
        tables::paths(results),
        tables::others(results),
        tables::trouble(results),
        tables::everything(results),
    )
}

fn paths(results: &Results) -> String {
    let mut bars = Vec::new();
    for row in &PATHS {
        if let Some(value) = results.ratio(row.section, OURS) {
            bars.push(Bar {
                label: row.label.to_owned(),
                value,
                whose: Whose::Ours,
                goal: Some(row.must),
            });
        }
        for (section, name, label) in row.others {
            let Some(value) = results.ratio(section, name) else {
                continue;
            };
            let whose = if *name == OURS {
                Whose::Ours
            } else if name.starts_with("relay") {
                Whose::Relay
            } else {
                Whose::Peer
            };
            bars.push(Bar {
                label: (*label).to_owned(),
                value,
                whose,
                goal: None,
            });
        }
    }
    chart(
        "Packets per CPU second of the server",
        "as a ratio to a plain UDP relay (recvmmsg, sendmmsg) in the same run; more is better",
        2,
        &bars,
    )
}

/// Set-ups or memory, by transport.
fn per_transport(results: &Results, is_set_ups: bool) -> String {
    let figure = if is_set_ups {
        tables::set_ups
    } else {
        tables::memory
    };
    let goals = if is_set_ups { SET_UPS } else { MEMORY };
    let mut bars = Vec::new();
    for (transport, goal) in TRANSPORTS.iter().zip(goals) {
        if let Some(value) = figure(results, &format!("setup-{transport}"), OURS) {
            bars.push(Bar {
                label: transport.to_uppercase(),
                value,
                whose: Whose::Ours,
                goal: Some(goal),
            });
        }
        let mut names = vec![format!("coturn-{transport}")];
        if *transport == "tls" {
            names.push("stunnel".to_owned());
        }
        for name in names {
            if let Some(value) = figure(results, &format!("peer-setup-{name}"), &name) {
                bars.push(Bar {
                    label: name,
                    value,
                    whose: Whose::Peer,
                    goal: None,
                });
            }
        }
    }
    if is_set_ups {
        let unit = "for each CPU second of the server; more is better";
        chart("Tunnels set up", unit, 0, &bars)
    } else {
        let unit = "KiB for each (PSS); less is better";
        chart("Memory of idle tunnels", unit, 1, &bars)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn all_files_are_written_even_without_results() {
        let directory = std::env::temp_dir().join(format!("tsc-bench-{}", std::process::id()));
        write(&Results::default(), &directory).unwrap();
        for name in [
            "results.json",
            "results.md",
            "paths.svg",
            "set-ups.svg",
            "memory.svg",
        ] {
            assert!(directory.join(name).is_file(), "{name}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
