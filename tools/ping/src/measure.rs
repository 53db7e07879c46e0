//! What a tunnel that is there can do: round trips, and the longest packet.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;
use tsc_osaa::{
    client::{ClientTransport, TransportKind},
    dtls::RECORD_OVERHEAD,
};
use tsc_tpl::{CmType, Message, MessageBuilder};

use crate::{
    link::{Ask, Link},
    problem::{Kind, Problem},
    report::{Good, time},
    search::Search,
    settings::Settings,
    tunnel::Tunnel,
};

/// Between keepalives.
const PAUSE: Duration = Duration::from_millis(100);

/// Times a length is tried.
const TRIES: u32 = 3;

/// Round trips through the server.
pub(crate) struct Trips {
    pub(crate) sent: u16,
    times: Vec<Duration>,
}

impl Trips {
    fn average(&self) -> Option<Duration> {
        let count = u32::try_from(self.times.len()).ok()?;
        let sum: Duration = self.times.iter().sum();
        sum.checked_div(count)
    }

    /// Twice the longest, within reason: after that a probe is lost.
    fn patience(&self, settings: &Settings) -> Duration {
        let longest = self.times.iter().max().copied();
        let patience = longest.unwrap_or(settings.timeout) * 2 + Duration::from_millis(200);
        patience.min(settings.timeout)
    }
}

/// Where no round trip is wanted.
pub(crate) fn nothing() -> (Trips, Result<Good, Problem>) {
    let trips = Trips {
        sent: 0,
        times: Vec::new(),
    };
    (trips, Ok(Good::default()))
}

/// Sends keepalives, one after the other.
pub(crate) async fn keepalive(
    link: &mut Link,
    tunnel: &Tunnel,
    settings: &Settings,
) -> (Trips, Result<Good, Problem>) {
    let mut trips = Trips {
        sent: 0,
        times: Vec::new(),
    };
    let mut failure = None;
    for number in 0..settings.count {
        if number > 0 {
            sleep(PAUSE).await;
        }
        trips.sent += 1;
        let start = Instant::now();
        match probe(link, tunnel, None, settings.deadline()).await {
            Ok(()) => trips.times.push(start.elapsed()),
            Err(problem) if problem.kind == Kind::Timeout && !link.kind().is_stream() => {}
            Err(problem) => {
                failure = Some(problem);
                break;
            }
        }
    }
    let lost = usize::from(trips.sent) - trips.times.len();
    let result = match (failure, trips.average()) {
        (Some(problem), _) => Err(problem),
        (None, None) => Err(Problem::new(
            Kind::Timeout,
            format!("none of {} keepalives was answered", trips.sent),
        )),
        (None, Some(average)) => {
            let least = trips.times.iter().min().copied().unwrap_or_default();
            let most = trips.times.iter().max().copied().unwrap_or_default();
            let text = format!(
                "{} of {} answered, {} / {} / {} (least, average, most)",
                trips.times.len(),
                trips.sent,
                time(least),
                time(average),
                time(most)
            );
            Ok(Good::new(text)
                .with("sent", trips.sent)
                .with("lost", lost)
                .with("least", least.as_secs_f64())
                .with("average", average.as_secs_f64())
                .with("most", most.as_secs_f64()))
        }
    };
    (trips, result)
}

/// One keepalive, padded to a length.
async fn probe(
    link: &mut Link,
    tunnel: &Tunnel,
    length: Option<usize>,
    until: Instant,
) -> Result<(), Problem> {
    let sequence = link.next_sequence();
    let mut request = MessageBuilder::new(CmType::KEEPALIVE, tunnel.tsid, sequence);
    if let Some(length) = length {
        request = request.pad_to(length);
    }
    link.ask(&request, Ask::Once, until, |message: &Message<'_>| {
        message.response_code()
    })
    .await
    .map(drop)
}

/// Searches the longest packet that gets to the server (after RFC 8899): the answer to a padded keepalive is short, so
/// the way back is not measured.
pub(crate) async fn mtu(
    link: &mut Link,
    tunnel: &Tunnel,
    trips: &Trips,
    settings: &Settings,
) -> Result<Good, Problem> {
    let overhead = overhead(link);
    let patience = trips.patience(settings);
    let mut tried = Vec::new();
    let mut search = Search::new(settings.mtu);
    while let Some(length) = search.next() {
        tried.push(length);
        let got_through = gets_through(link, tunnel, length, overhead, patience).await?;
        search.tried(length, got_through);
    }
    let Some(fits) = search.fits() else {
        return Err(Problem::new(
            Kind::Timeout,
            "not even short packets get through when they are padded",
        ));
    };
    let limited = search.is_limited();
    let room = fits.saturating_sub(u16::try_from(overhead).unwrap_or(u16::MAX));
    let more = if limited { "" } else { " or more" };
    let mut good = Good::new(format!("packets of {fits} bytes{more} get to the server"))
        .with("mtu", fits)
        .with("at_least", !limited)
        .with("overhead", overhead)
        .with("inner_room", room)
        .with("tried", json!(tried));
    if room < tunnel.inner_mtu {
        good = good.line(format!(
            "inner packets over {room} bytes do not fit one datagram, though the inner MTU is {}",
            tunnel.inner_mtu
        ));
    }
    Ok(good)
}

async fn gets_through(
    link: &mut Link,
    tunnel: &Tunnel,
    length: u16,
    overhead: usize,
    patience: Duration,
) -> Result<bool, Problem> {
    let padded = usize::from(length).saturating_sub(overhead);
    for _ in 0..TRIES {
        let before = link.too_big();
        let until = Instant::now() + patience;
        match probe(link, tunnel, Some(padded), until).await {
            Ok(()) => return Ok(true),
            Err(problem) if problem.kind == Kind::Timeout => {}
            Err(problem) => return Err(problem),
        }
        // Our own system says that it does not fit: no need to ask again.
        if link.too_big() > before {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Bytes around a unit on the wire: IP, UDP, and the record of the cipher suite in use.
fn overhead(link: &Link) -> usize {
    let ip = if link.peer_addr().ip().to_canonical().is_ipv4() {
        20
    } else {
        40
    };
    let record = if link.kind() == TransportKind::Dtls {
        let cipher = if let ClientTransport::Datagram(datagram) = link.transport() {
            datagram.dtls_info().and_then(|info| info.cipher)
        } else {
            None
        };
        match cipher {
            // RFC 7905: no explicit nonce.
            Some(name) if name.contains("CHACHA20") => RECORD_OVERHEAD - 8,
            // RFC 6655: half the tag.
            Some(name) if name.ends_with("CCM_8") => RECORD_OVERHEAD - 8,
            Some(_) | None => RECORD_OVERHEAD,
        }
    } else {
        0
    };
    ip + 8 + record
}
