//! What a service does for a call: the same call over the same bad network, with more and more of it.

use std::time::Duration;

use serde::Serialize;
use tsc_sip::report::{CallReport, Role};
use tsc_tapi::{DtlsBackendKind, Redundancy, Transport};

use crate::{
    lab::Lab,
    leg::{self, LegOptions},
    relay::BadNetwork,
};

/// What is called over.
pub const NETWORK: BadNetwork = BadNetwork {
    loss: 0.1,
    burst: 1.0,
    delay: Duration::from_millis(20),
    seed: 1,
};

/// More packets than these, of a hundred, may not be missing with two copies.
const MOST_LOST: f64 = 1.0;

/// With what calls are made.
const STEPS: [(&str, Redundancy); 4] = [
    ("none", Redundancy::Off),
    ("1 copy", Redundancy::Copies(1)),
    ("2 copies", Redundancy::Copies(2)),
    ("adaptive", Redundancy::Adaptive { most: 2 }),
];

/// How a call went. The names are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceReport {
    /// `udp` or `dtls`.
    pub transport: String,
    /// What the caller's media had: `none`, `1 copy`, `2 copies`, `adaptive`.
    pub redundancy: &'static str,
    /// The call was made; and with two copies next to nothing is missing.
    pub ok: bool,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// RTP packets sent by both sides.
    pub sent: u64,
    /// Share of them that is missing in the end, in percent.
    pub lost_percent: f64,
    /// Estimated quality at the caller's end (G.107), 1 to 4.41: of what came from the server.
    pub mos: Option<f64>,
    /// Bytes on the wire of the caller's tunnel per RTP packet, both directions, with the headers of UDP and IP.
    pub bytes_per_packet: f64,
}

/// Makes the calls over one transport, each of this length.
pub async fn redundancy(
    lab: &Lab,
    transport: Transport,
    backend: DtlsBackendKind,
    duration: Duration,
    mut done: impl FnMut(ServiceReport),
) {
    for (name, redundancy) in STEPS {
        let options = LegOptions {
            transport,
            backend,
            calls: 1,
            duration: Some(duration),
            record: None,
            trace: None,
            redundancy,
            network: Some(NETWORK),
        };
        done(call(lab, &options, name).await);
    }
}

async fn call(lab: &Lab, options: &LegOptions, redundancy: &'static str) -> ServiceReport {
    let leg = leg::run(lab, options).await;
    let (sent, lost) = (leg.sent, leg.lost);
    let share = |part: u64, of: u64| ratio(part, of.max(1)) * 100.0;
    let lost_percent = share(lost, sent);
    let caller = leg.calls.iter().find(|call| call.role == Role::Caller);
    let is_protected = options.redundancy == Redundancy::Copies(2);
    let error = match caller {
        None => Some(leg.error.unwrap_or_else(|| "no call".to_owned())),
        Some(_) if is_protected && lost_percent > MOST_LOST => {
            Some(format!("{lost_percent:.2} % are missing with two copies"))
        }
        Some(_) => None,
    };
    ServiceReport {
        transport: leg.transport,
        redundancy,
        ok: error.is_none(),
        error,
        sent,
        lost_percent,
        mos: caller.and_then(|call: &CallReport| call.mos),
        bytes_per_packet: ratio(leg.wire_bytes, sent.max(1)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}
