//! Asking for a tunnel, and giving it back.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde_json::json;
use tsc_osaa::client::TransportKind;
use tsc_tpl::{
    AuthToken, CmType, Cookie, Message, MessageBuilder, ResponseCode, Text, Tlv, Tsid,
    registry::{MIN_UNAUTHENTICATED_REQUEST, PROTOCOL_REVISION},
};

use crate::{
    link::{Ask, Link},
    problem::{Kind, Problem},
    report::{Good, time},
    settings::Settings,
};

/// What tells the server's logs who is asking.
const CLIENT_INFO: &str = concat!("tsc-ping/", env!("CARGO_PKG_VERSION"));

/// Cookies that are brought back; the first may cross the change of a key.
const MAX_COOKIES: usize = 3;

/// Longest wait for the end of a tunnel.
const RELEASE: Duration = Duration::from_secs(2);

/// A tunnel that is there.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) tsid: Tsid,
    pub(crate) inner_mtu: u16,
}

enum Answer {
    Cookie(Vec<u8>),
    Given(Tunnel, Good),
    Refused(Problem),
}

/// Asks for a tunnel as a client does.
pub(crate) async fn configure(
    link: &mut Link,
    settings: &Settings,
) -> Result<(Tunnel, Good), Problem> {
    let until = settings.deadline();
    let start = Instant::now();
    let mut cookie: Option<Vec<u8>> = None;
    let mut cookie_time = None;
    let has_proxy = settings.proxy.is_some() && link.kind().is_stream();
    let local = (!has_proxy).then(|| link.local_addr());
    for _ in 0..=MAX_COOKIES {
        let sequence = link.next_sequence();
        let mut request =
            MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, sequence)
                .tlv(Tlv::ProtocolRevision(PROTOCOL_REVISION))
                .tlv(Tlv::ClientInfo(Text::truncated(CLIENT_INFO)));
        if let Some(token) = &settings.token
            && link.kind().is_protected()
        {
            let token = AuthToken::new(token.expose().as_bytes())
                .map_err(|error| Problem::new(Kind::System, format!("--token-file: {error}")))?;
            request = request.tlv(Tlv::AuthToken(token));
        }
        if let Some(cookie) = &cookie {
            let cookie = Cookie::new(cookie)
                .map_err(|error| Problem::new(Kind::NotTscf, error.to_string()))?;
            request = request.tlv(Tlv::Cookie(cookie));
        }
        if link.kind() == TransportKind::Udp {
            request = request.pad_to(MIN_UNAUTHENTICATED_REQUEST);
        }
        let answer = link
            .ask(&request, Ask::Repeat, until, |message| read(message, local))
            .await;
        match answer? {
            Answer::Cookie(bytes) => {
                cookie = Some(bytes);
                cookie_time.get_or_insert_with(|| start.elapsed());
            }
            Answer::Given(tunnel, mut good) => {
                if let Some(round_trip) = cookie_time {
                    good = good
                        .with("cookie_seconds", round_trip.as_secs_f64())
                        .line(format!("cookie after {}", time(round_trip)));
                }
                return Ok((tunnel, good));
            }
            Answer::Refused(problem) => return Err(problem),
        }
    }
    Err(Problem::new(
        Kind::Refusal,
        "the server asks for a cookie again and again",
    ))
}

fn read(message: &Message<'_>, local: Option<SocketAddr>) -> Option<Answer> {
    let code = message.response_code()?;
    if code == ResponseCode::COOKIE_REQUIRED {
        let cookie = message.cookie()?;
        return Some(Answer::Cookie(cookie.expose().to_vec()));
    }
    if code != ResponseCode::SUCCESS {
        return Some(Answer::Refused(refusal(code, message)));
    }
    let addresses: Vec<String> = message
        .addresses()
        .map(|address| address.to_string())
        .collect();
    let keepalive = message.keepalive_interval()?.0;
    let persistence = message.persistence_time()?.0;
    let inner_mtu = message.inner_mtu()?;
    let or_never = |seconds: u16| match seconds {
        0 => "never".to_owned(),
        seconds => format!("{seconds} s"),
    };
    let mut good = Good::new(format!("a tunnel with {}", addresses.join(", ")))
        .with("addresses", addresses)
        .with("keepalive_interval", keepalive)
        .with("persistence", persistence)
        .with("inner_mtu", inner_mtu)
        .line(format!(
            "idle after {}, kept without a transport for {}, inner MTU {inner_mtu}",
            or_never(keepalive),
            or_never(persistence)
        ));
    let sip: Vec<String> = message.sip_servers().map(|ip| ip.to_string()).collect();
    if !sip.is_empty() {
        good = good
            .line(format!("SIP servers: {}", sip.join(", ")))
            .with("sip_servers", sip);
    }
    let dns: Vec<String> = message
        .dns_servers()
        .map(|ip: IpAddr| ip.to_string())
        .collect();
    if !dns.is_empty() {
        good = good
            .line(format!("DNS servers: {}", dns.join(", ")))
            .with("dns_servers", dns);
    }
    if let (Some(seen), Some(local)) = (message.nat_info().next(), local) {
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let nat = seen != local;
        good = good
            .with(
                "nat",
                json!({ "local": local.to_string(), "seen": seen.to_string(), "translated": nat }),
            )
            .line(if nat {
                format!("NAT: the server sees {seen}, this end is {local}")
            } else {
                format!("no NAT: both ends see {seen}")
            });
    }
    let tunnel = Tunnel {
        tsid: message.tsid(),
        inner_mtu,
    };
    Some(Answer::Given(tunnel, good))
}

fn refusal(code: ResponseCode, message: &Message<'_>) -> Problem {
    let mut text = format!("the server says {code}");
    if let Some(reason) = message.reason_text() {
        text += &format!(" ({:?})", reason.as_str());
    }
    if let Some(wait) = message.retry_after() {
        text += &format!(", try again after {} s", wait.0);
    }
    let elsewhere: Vec<String> = message
        .alternate_servers()
        .map(|server| server.to_string())
        .collect();
    let mut problem = if elsewhere.is_empty() {
        Problem::refusal(code, text)
    } else {
        Problem::refusal(code, format!("{text}, go to {}", elsewhere.join(" or ")))
    };
    let more = &mut problem.more;
    more.insert("code".to_owned(), code.to_string().into());
    if let Some(wait) = message.retry_after() {
        more.insert("retry_after".to_owned(), wait.0.into());
    }
    if !elsewhere.is_empty() {
        more.insert("alternates".to_owned(), elsewhere.into());
    }
    problem
}

/// Gives the tunnel back.
pub(crate) async fn release(
    link: &mut Link,
    tunnel: &Tunnel,
    settings: &Settings,
) -> Result<Good, Problem> {
    let sequence = link.next_sequence();
    let request = MessageBuilder::new(CmType::CONFIGURATION_RELEASE_REQUEST, tunnel.tsid, sequence);
    let until = Instant::now() + settings.timeout.min(RELEASE);
    let code = |message: &Message<'_>| message.response_code();
    link.ask(&request, Ask::Repeat, until, code)
        .await
        .map(|code| Good::new(format!("the server says {code}")))
}
