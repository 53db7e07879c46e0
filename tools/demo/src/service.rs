//! What a service does for a call: the same call over the same bad network, with more and more of it.
//!
//! A service is a variant of [`Service`] and its steps. Peer tunneling is none of them ([`crate::peer`]): peers are not looked for on
//! loopback.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};
use tsc_sip::{
    net::MediaServices,
    report::{CallReport, Role},
};
use tsc_tapi::{DtlsBackendKind, Encryption, Redundancy, Transport, TunnelTransport};

use crate::{
    lab::Lab,
    leg::{self, LegOptions},
    relay::BadNetwork,
};

/// What is called over in datagrams.
const LOSSY: BadNetwork = BadNetwork {
    loss: 0.1,
    burst: 1.0,
    delay: Duration::from_millis(20),
    seed: 1,
    spared: 50,
};

/// What is called over on streams, with which they cannot hold a conversation: what is sent again comes after it should have been heard.
const FAR: BadNetwork = BadNetwork {
    loss: 0.05,
    delay: Duration::from_millis(50),
    ..LOSSY
};

/// What is called over where somebody reads along, and nothing is lost.
const CLEAN: BadNetwork = BadNetwork { loss: 0.0, ..LOSSY };

/// More packets than these, of a hundred, may not be missing with two copies.
const MOST_LOST: f64 = 1.0;
/// At least so much of all bytes, in percent, must go beside the stream with DDT. The main tunnel has its handshake and signalling.
const LEAST_BESIDE: f64 = 50.0;

/// Bytes in clear for each packet of media that is encrypted: those of set-up and signalling, in a call of a few seconds.
const MOST_CLEAR: f64 = 60.0;

/// A service that can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Each packet more than once: in the datagrams that follow, or over further streams.
    Redundancy,
    /// Media in datagrams beside a stream.
    Ddt,
    /// Media encrypted beside a clear tunnel.
    Dtte,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redundancy => "redundancy",
            Self::Ddt => "ddt",
            Self::Dtte => "dtte",
        })
    }
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Redundancy, Self::Ddt, Self::Dtte];

    /// Transports over which it is shown if nobody says which.
    #[must_use]
    pub const fn transports(self) -> [Transport; 2] {
        match self {
            Self::Redundancy => [Transport::Udp, Transport::Dtls],
            Self::Ddt => [Transport::Tcp, Transport::Tls],
            Self::Dtte => [Transport::Tcp, Transport::Udp],
        }
    }

    /// Whether it is of use over this transport.
    #[must_use]
    pub const fn is_for(self, transport: Transport) -> bool {
        match self {
            Self::Redundancy => true,
            Self::Ddt => transport.is_stream(),
            Self::Dtte => !transport.is_protected(),
        }
    }

    /// What is called over.
    #[must_use]
    pub const fn network(self, transport: Transport) -> BadNetwork {
        match (self, transport.is_stream()) {
            (Self::Redundancy, false) => LOSSY,
            (Self::Redundancy | Self::Ddt, _) => FAR,
            (Self::Dtte, _) => CLEAN,
        }
    }

    /// With what calls are made.
    #[must_use]
    pub fn steps(self, transport: Transport) -> Vec<Step> {
        match self {
            Self::Redundancy if transport.is_stream() => vec![
                Step::on_main("one stream", Redundancy::Off),
                Step::on_main("two streams", Redundancy::Copies(1)),
                Step::on_main("three streams", Redundancy::Copies(2)),
                Step::on_main("balanced", Redundancy::Balanced(2)),
            ],
            Self::Redundancy => vec![
                Step::on_main("none", Redundancy::Off),
                Step::on_main("1 copy", Redundancy::Copies(1)),
                Step {
                    is_protected: true,
                    ..Step::on_main("2 copies", Redundancy::Copies(2))
                },
                Step::on_main("adaptive", Redundancy::Adaptive { most: 2 }),
            ],
            Self::Dtte => vec![
                Step::on_main("clear", Redundancy::Off),
                Step::encrypted("preferred", Encryption::Preferred),
                Step::encrypted("only", Encryption::Only),
            ],
            Self::Ddt => vec![
                Step::on_main("none", Redundancy::Off),
                Step::beside("DDT", Redundancy::Off),
                Step {
                    is_protected: true,
                    ..Step::beside("DDT, 2 copies", Redundancy::Copies(2))
                },
            ],
        }
    }
}

/// One call of a [`Service`].
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// For people.
    pub name: &'static str,
    /// What the caller asks of its tunnel for its media.
    pub services: MediaServices,
    /// Next to nothing may be missing.
    is_protected: bool,
}

impl Step {
    fn on_main(name: &'static str, redundancy: Redundancy) -> Self {
        Self {
            name,
            services: MediaServices {
                redundancy,
                transport: TunnelTransport::Main,
                ..MediaServices::default()
            },
            is_protected: false,
        }
    }

    fn beside(name: &'static str, redundancy: Redundancy) -> Self {
        let mut step = Self::on_main(name, redundancy);
        step.services.transport = TunnelTransport::Datagram;
        step
    }

    fn encrypted(name: &'static str, encryption: Encryption) -> Self {
        let mut step = Self::on_main(name, Redundancy::Off);
        step.services.encryption = encryption;
        step
    }

    /// What is wrong with a call that was made.
    fn problem(&self, report: &ServiceReport) -> Option<String> {
        let is_served = self.services == MediaServices::default() || report.services_ms.is_some();
        if !is_served {
            return Some("the service was not in force before the call".to_owned());
        }
        if self.is_protected && report.lost_percent > MOST_LOST {
            return Some(format!(
                "{:.2} % are missing with two copies",
                report.lost_percent
            ));
        }
        // The bad network has the main tunnel; the encrypted one goes its own way. What is left is signalling.
        if self.services.encryption.is_wanted() && report.bytes_per_packet > MOST_CLEAR {
            let bytes = report.bytes_per_packet;
            return Some(format!("{bytes:.0} bytes per packet in clear"));
        }
        let is_beside = self.services.transport == TunnelTransport::Datagram;
        if is_beside && report.datagrams_percent < LEAST_BESIDE {
            let share = report.datagrams_percent;
            return Some(format!("only {share:.0} % went beside the stream"));
        }
        None
    }
}

/// How a call went. The names are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceReport {
    /// `tcp`, `tls`, `udp` or `dtls`: that of the caller's main tunnel.
    pub transport: String,
    /// What is shown.
    #[serde(serialize_with = "as_text")]
    pub service: Service,
    /// What the caller's media had of it: `none`, `1 copy`, `DDT`, ...
    pub with: &'static str,
    /// The call was made, with the service in force. With two copies next to nothing is missing, and with DDT media went beside the
    /// stream.
    pub ok: bool,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took until the service was in force, before the call, in milliseconds.
    pub services_ms: Option<f64>,
    /// RTP packets sent by both sides.
    pub sent: u64,
    /// Share of them that is missing in the end, in percent.
    pub lost_percent: f64,
    /// Share of them that came after their playout time, in percent.
    pub late_percent: f64,
    /// Estimated quality (G.107), 1 to 4.41, at the end that hears less.
    pub mos: Option<f64>,
    /// Bytes on the wire of the caller's tunnels per RTP packet, both directions, with headers from IP on; without those of an
    /// encrypted one beside.
    pub bytes_per_packet: f64,
    /// Share of these bytes that went in datagrams, in percent.
    pub datagrams_percent: f64,
}

/// Makes the calls over one transport, each of this length.
pub async fn show(
    lab: &Lab,
    service: Service,
    transport: Transport,
    backend: DtlsBackendKind,
    duration: Duration,
    mut done: impl FnMut(ServiceReport),
) {
    for step in service.steps(transport) {
        let options = LegOptions {
            transport,
            backend,
            calls: 1,
            duration: Some(duration),
            record: None,
            trace: None,
            services: step.services,
            network: Some(service.network(transport)),
        };
        done(call(lab, &options, service, &step).await);
    }
}

async fn call(lab: &Lab, options: &LegOptions, service: Service, step: &Step) -> ServiceReport {
    let leg = leg::run(lab, options).await;
    let (sent, wire) = (leg.sent, leg.wire_bytes);
    let share = |part: u64, of: u64| ratio(part, of.max(1)) * 100.0;
    let caller = leg.calls.iter().find(|call| call.role == Role::Caller);
    let mut report = ServiceReport {
        transport: leg.transport,
        service,
        with: step.name,
        ok: false,
        error: None,
        services_ms: caller.and_then(|call: &CallReport| call.services_ms),
        sent,
        lost_percent: share(leg.lost, sent),
        late_percent: share(leg.late, sent),
        mos: leg.mos,
        bytes_per_packet: ratio(wire, sent.max(1)),
        datagrams_percent: share(leg.datagram_bytes, wire),
    };
    report.error = match caller {
        None => Some(leg.error.unwrap_or_else(|| "no call".to_owned())),
        Some(_) => step.problem(&report),
    };
    report.ok = report.error.is_none();
    report
}

fn as_text<S: Serializer>(service: &Service, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(service)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}
