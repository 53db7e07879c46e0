//! What is kept of a cell: a file for each, so that a bench can be made in parts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tsc_figures::host::HostInfo;

use crate::{
    matrix::{Cell, Column, Listener, Network},
    router::Passed,
};

/// What one end of a call reports, of what the other end said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// The call.
    pub call_id: String,
    /// What went wrong.
    pub error: Option<String>,
    /// The caller's: from its wish until the service was in force, before the INVITE, in milliseconds; absent if it was not.
    #[serde(default)]
    pub services_ms: Option<f64>,
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets that arrived, each counted once.
    pub received: u64,
    /// RTP packets that did not arrive.
    pub lost: u64,
    /// RTP packets that came too late to be heard.
    pub late: u64,
    /// Interarrival jitter, in milliseconds.
    pub jitter_ms: f64,
    /// Mean round trip by RTCP, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Mean time that packets waited to be played, in milliseconds.
    pub playout_ms: Option<f64>,
    /// G.107, of the whole call.
    pub mos: Option<f64>,
    /// Where what arrived was recorded.
    pub recording: Option<PathBuf>,
    /// Where what was heard is, until PESQ has been told.
    #[serde(default)]
    pub heard: Option<PathBuf>,
    /// PESQ (MOS-LQO) of rounds of the speech; `None` for one in which no speech was left. Absent if not known.
    #[serde(default)]
    pub pesq: Option<Vec<Option<f64>>>,
}

/// PESQ of what the model finds no speech in: the least that P.862.1 maps to.
const NOTHING_HEARD: f64 = 1.02;

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Which.
    pub cell: Cell,
    /// Where and when.
    pub host: HostInfo,
    /// Length of the call.
    pub seconds: u32,
    /// What the losses were drawn with.
    pub seed: u64,
    /// Why there is no call, or not all of it.
    pub error: Option<String>,
    /// Opening the tunnel, in milliseconds.
    pub tunnel_ms: Option<f64>,
    /// What the caller and the callee report, if there was a call.
    pub sides: Vec<Side>,
    /// What passed the network, from the caller and to it.
    pub wire: [Passed; 2],
}

impl CellResult {
    fn sum(&self, of: impl Fn(&Side) -> u64) -> u64 {
        self.sides.iter().map(of).sum()
    }

    fn mean(&self, of: impl Fn(&Side) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.sides.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// RTP packets that were to arrive, at both ends.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.sum(|side| side.received + side.lost)
    }

    /// Share of RTP packets that did not arrive.
    #[must_use]
    pub fn lost(&self) -> Option<f64> {
        share(self.sum(|side| side.lost), self.expected())
    }

    /// Share of RTP packets that did not arrive, or too late to be heard.
    #[must_use]
    pub fn unheard(&self) -> Option<f64> {
        share(self.sum(|side| side.lost + side.late), self.expected())
    }

    /// G.107, the mean of both ends.
    #[must_use]
    pub fn mos(&self) -> Option<f64> {
        self.mean(|side| side.mos)
    }

    /// PESQ, the mean of both ends.
    #[must_use]
    pub fn pesq(&self) -> Option<f64> {
        self.mean(|side| {
            let scores = side.pesq.as_ref().filter(|scores| !scores.is_empty())?;
            let sum: f64 = scores
                .iter()
                .map(|score| score.unwrap_or(NOTHING_HEARD))
                .sum();
            Some(sum / scores.len() as f64)
        })
    }

    /// Mean time that packets waited to be played, in milliseconds.
    #[must_use]
    pub fn playout_ms(&self) -> Option<f64> {
        self.mean(|side| side.playout_ms)
    }

    /// Bytes on the wire in both directions, with the headers of IP, for each RTP packet.
    #[must_use]
    pub fn bytes_per_packet(&self) -> Option<f64> {
        let bytes: u64 = self.wire.iter().map(|passed| passed.bytes).sum();
        share(bytes, self.sum(|side| side.sent))
    }

    /// How long it took until the service was in force, before the call, in milliseconds.
    #[must_use]
    pub fn services_ms(&self) -> Option<f64> {
        self.sides.iter().find_map(|side| side.services_ms)
    }

    /// Share of the bytes on the wire that went over UDP: with DDT, beside the stream.
    #[must_use]
    pub fn datagrams(&self) -> Option<f64> {
        let bytes = self.wire.iter().flat_map(|passed| &passed.flows);
        let is_udp = |name: &str| name.starts_with("udp ");
        let udp = bytes
            .filter(|(name, _)| is_udp(name))
            .map(|(_, flow)| flow.bytes)
            .sum();
        share(udp, self.wire.iter().map(|passed| passed.bytes).sum())
    }

    /// Connections that carried at least a tenth of all bytes each way.
    #[must_use]
    pub fn busy_flows(&self) -> usize {
        let [up, down] = &self.wire;
        let is_busy = |name: &str| {
            [up, down].into_iter().all(|passed| {
                let bytes = passed.flows.get(name).map_or(0, |flow| flow.bytes);
                bytes.saturating_mul(10) >= passed.bytes
            })
        };
        up.flows.keys().filter(|name| is_busy(name)).count()
    }

    /// Share of packets that the network lost after its clean beginning.
    #[must_use]
    pub fn network_loss(&self) -> Option<f64> {
        let after = |passed: &Passed| passed.packets.saturating_sub(crate::router::CLEAN);
        share(
            self.wire.iter().map(|passed| passed.lost).sum(),
            self.wire.iter().map(after).sum(),
        )
    }
}

/// As a share; `None` of nothing.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// All results that there are.
#[derive(Clone, Debug, Default)]
pub struct Results(pub Vec<CellResult>);

impl Results {
    /// Reads a directory; one that is not there has none.
    ///
    /// # Errors
    ///
    /// A file in it cannot be read.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut results = Vec::new();
        for cell in crate::matrix::cells() {
            let path = file(directory, &cell);
            if path.is_file() {
                let text = fs::read_to_string(&path)?;
                results
                    .push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
            }
        }
        Ok(Self(results))
    }

    /// That of a cell.
    #[must_use]
    pub fn get(&self, column: Column, network: Network, listener: Listener) -> Option<&CellResult> {
        let cell = Cell {
            column,
            network,
            listener,
        };
        self.0.iter().find(|result| result.cell == cell)
    }
}

/// Where the result of a cell is.
#[must_use]
pub fn file(directory: &Path, cell: &Cell) -> PathBuf {
    directory.join(format!("{}.json", cell.name()))
}

/// Keeps a result.
///
/// # Errors
///
/// It cannot be written.
pub fn write(directory: &Path, result: &CellResult) -> anyhow::Result<()> {
    let path = file(directory, &result.cell);
    let text = serde_json::to_string_pretty(result)? + "\n";
    fs::write(&path, text).with_context(|| path.display().to_string())
}
