//! What it all means, in plain words. Pure.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use tsc_osaa::client::TransportKind;

use crate::{
    problem::{Kind, Problem},
    report::{Patient, Step, StepName},
};

/// Certificates that expire within so many days are warned about.
const SOON: i64 = 21;

/// NATs may forget a UDP binding after 30 s (RFC 4787, REQ-5, allows 2 minutes); clients send at half the interval.
const NAT_INTERVAL: u64 = 60;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Good,
    Warning,
    Bad,
}

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.level {
            Level::Good => '+',
            Level::Warning => '!',
            Level::Bad => 'x',
        };
        write!(f, "{mark} {}", self.text)
    }
}

/// Good news first, then what is in the way, then what should be looked after.
pub(crate) fn diagnose(patient: &Patient) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |level, text: String| {
        let finding = Finding { level, text };
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    };
    let url = &patient.url;
    if patient.possible {
        add(Level::Good, format!("A tunnel by {url} is possible."));
    } else {
        add(Level::Bad, format!("No tunnel by {url}."));
    }
    for (step, problem) in failures(&patient.steps) {
        let advice = advice(step.step, problem.kind);
        if patient.possible {
            let what = format!("{} {}: {}.", step.subject, step.step.text(), problem.text);
            add(Level::Warning, format!("{what} {advice}"));
        } else {
            add(Level::Bad, advice.to_owned());
        }
    }
    for step in &patient.steps {
        for text in worries(step, &patient.steps) {
            add(Level::Warning, text);
        }
    }
    if let Some(kind) = patient.besides {
        let (level, text) = besides(kind, &patient.also, patient.possible);
        add(level, text);
    }
    findings
}

fn failures(steps: &[Step]) -> impl Iterator<Item = (&Step, &Problem)> {
    steps
        .iter()
        .filter_map(|step| Some((step, step.problem.as_ref()?)))
}

/// What went well, and still is not as it should be.
fn worries(step: &Step, steps: &[Step]) -> Vec<String> {
    let mut worries = Vec::new();
    let number = |name: &str| step.more.get(name).and_then(Value::as_u64);
    let days = step
        .more
        .get("certificate")
        .and_then(|certificate| certificate.get("days_left"))
        .and_then(Value::as_i64);
    if let Some(days) = days
        && (0..SOON).contains(&days)
    {
        worries.push(format!(
            "The server's certificate expires in {days} days: renew it."
        ));
    }
    if step.step == StepName::Keepalive
        && let Some(lost @ 1..) = number("lost")
    {
        let sent = number("sent").unwrap_or_default();
        worries.push(format!(
            "{lost} of {sent} keepalives were lost: calls will suffer. Look for a bad radio link or a full line; redundancy \
             (TSC_TLV_SERVICE_TYPE redundancy, or a second tunnel) helps media."
        ));
    }
    if step.step == StepName::Mtu {
        let inner = steps
            .iter()
            .find_map(|step| step.more.get("inner_mtu")?.as_u64());
        if let (Some(room), Some(inner)) = (number("inner_room"), inner)
            && room < inner
        {
            worries.push(format!(
                "The path takes inner packets of {room} bytes in one datagram, the tunnel promises {inner}: larger ones are \
                 fragmented or refused. An inner-mtu of {room} at the server avoids that."
            ));
        }
    }
    let translated = step
        .more
        .get("nat")
        .and_then(|nat| nat.get("translated"))
        .and_then(Value::as_bool);
    let is_datagram = !steps
        .iter()
        .any(|step| matches!(step.step, StepName::Tcp | StepName::Proxy));
    if step.step == StepName::Configure && translated == Some(true) && is_datagram {
        let interval = number("keepalive_interval").unwrap_or_default();
        if interval == 0 || interval > NAT_INTERVAL {
            worries.push(format!(
                "There is a NAT on the way, and the server's keepalive interval is {interval} s (0 is none): NATs may forget \
                 a UDP binding after 30 s. Let the server set 50 s (datagram keepalive time)."
            ));
        }
    }
    worries
}

/// `possible`: what was asked for works.
fn besides(kind: TransportKind, steps: &[Step], possible: bool) -> (Level, String) {
    let name = kind.to_string().to_uppercase();
    match failures(steps).next() {
        None if possible => (
            Level::Good,
            format!("{name} works too, on the same port: media has a way without TCP's delays."),
        ),
        None => (
            Level::Good,
            format!("{name} works on the same port: use {kind}:// instead."),
        ),
        Some((_, problem)) if matches!(problem.kind, Kind::Timeout | Kind::Refused) => {
            let then = if possible {
                " Tunnels work without it, but media shares TCP's delays."
            } else {
                ""
            };
            let text = format!(
                "{name} does not get through on the same port: UDP is blocked or not offered here.{then}"
            );
            (Level::Warning, text)
        }
        Some((step, problem)) => (
            Level::Warning,
            format!(
                "{name} does not work ({}: {}).",
                step.step.text(),
                problem.text
            ),
        ),
    }
}

/// The probable cause, and what to do.
fn advice(step: StepName, kind: Kind) -> &'static str {
    match kind {
        Kind::NoSuchName => {
            "The name does not exist: is it misspelt? It may also be known in another network only (VPN)."
        }
        Kind::NoAddress => {
            "The name exists, but has no address of a family that may be used: leave out -4 or -6, or have a record added."
        }
        Kind::NoDnsAnswer => {
            "No name server answers: the network is down, or blocks DNS. Try the server's address instead of its name."
        }
        Kind::NotOffered => {
            "The domain says by its SRV record that it does not offer this transport: try another one of tcp, tls, udp and dtls."
        }
        Kind::Refused => {
            "The host is there and refuses: nobody listens on that port (is the server running, is the port right?), or a \
             firewall rejects the connection."
        }
        Kind::Unreachable => {
            "There is no route to that address: this machine is offline, has no address of that family, or a router on the \
             way says no."
        }
        Kind::Timeout => match step {
            StepName::Tcp => {
                "Nobody answers: a firewall on the way drops the packets, or the host is down. Try another network, or port 443."
            }
            StepName::Tls => {
                "Something accepts the connection and then says nothing: the wrong port, a server that hangs, or a firewall that \
                 stops TLS it does not like."
            }
            StepName::Dtls => {
                "No answer by UDP: a firewall blocks UDP, the server does not offer DTLS on this port, or the host is down. Try \
                 tls on the same server."
            }
            StepName::Mtu => "Padded keepalives get lost: something on the way drops long packets.",
            StepName::Proxy => {
                "The proxy does not answer, or waits for a server that does not: compare with another server and port."
            }
            StepName::Resolve | StepName::Configure | StepName::Keepalive | StepName::Release => {
                "The server does not answer the request: over udp a firewall blocks UDP, nobody listens or the host is down; over \
                 tcp and tls what listens is no tunnel server, or it hangs."
            }
        },
        Kind::Proxy => {
            "The proxy does not do its work: is it an HTTP proxy, is the port right, and does it want https:// instead of \
             http://, or the other way round?"
        }
        Kind::ProxyAuthentication => {
            "The proxy wants to know who asks: give user and password by --proxy-auth."
        }
        Kind::ProxyRefused => {
            "The proxy does not connect to that server: many allow port 443 only. Ask its operator, or let the server listen \
             on 443."
        }
        Kind::ProxyUnreachable => {
            "There is no way to the proxy itself: is its name or address right, its port, and is it running?"
        }
        Kind::ProxyCertificate => {
            "The proxy's certificate is not accepted: name its authority by --proxy-ca, and the proxy by a name that the \
             certificate carries."
        }
        Kind::ProxyCredentials => {
            "The proxy knows no such user, or the password is wrong or has run out; for NTLM and Kerberos the domain belongs to the \
             name. Beware of trying often: directories lock accounts."
        }
        Kind::ProxySchemes => {
            "The proxy asks who we are in no way that can be used here; the reasons are by scheme. Basic without TLS takes \
             --proxy-basic-in-clear, Negotiate and NTLM a build with the feature proxy-negotiate."
        }
        Kind::ProxyGateway => {
            "The proxy would, and gets no connection to that server: the server is down, the proxy cannot resolve its name, or a \
             firewall behind the proxy stops it."
        }
        Kind::ProxyPortal => {
            "A web page came instead of a tunnel: sign in to this network by a web browser, or that is a web server and no proxy."
        }
        Kind::CertificateName => {
            "The server's certificate is for other names: use one of them in the URL or by --server-name, or have a certificate \
             issued for this name. If the names mean nothing to you, somebody else answers in the server's place."
        }
        Kind::CertificateExpired => {
            "The server's certificate has expired: renew it at the server. If that date is to come, this machine's clock is wrong."
        }
        Kind::CertificateNotYetValid => {
            "The server's certificate is not valid yet: look at this machine's clock first."
        }
        Kind::CertificateIssuer => {
            "Nobody we trust has issued the server's certificate: name its authority by --ca, or have the server send its \
             intermediate certificates. In a company network a firewall may have put its own certificate in place."
        }
        Kind::Certificate => {
            "The server's certificate cannot be accepted: have another one issued."
        }
        Kind::ClientCertificate => {
            "The server wants a certificate of ours and got none, or not one it accepts: give --cert and --key of an authority \
             that the server trusts."
        }
        Kind::Alpn => {
            "A TLS server is there that does not speak the application protocol tscf: most likely a web server. Is the port right?"
        }
        Kind::NotTls => {
            "What answers does not speak TLS: the wrong port, or a server for clear tunnels (tcp)."
        }
        Kind::Tls => {
            "The handshake fails: versions or cipher suites have nothing in common, or something on the way changes what is sent."
        }
        Kind::Http => {
            "An HTTP server answers: the wrong port, or a captive portal. In a hotel or a train open a web page, sign in, and \
             try again."
        }
        Kind::SpeaksTls => "The port takes TLS and nothing else: use tls:// instead of tcp://.",
        Kind::NotTscf => "Something else than a tunnel server listens there: is the port right?",
        Kind::Closed => {
            "The connection was closed before there was an answer: the port serves another transport, the server limits \
             strangers, or a firewall cut it off."
        }
        Kind::NotAuthorized => {
            "The server does not know who we are: give --token-file, or --cert and --key. Tokens go over tls and dtls only."
        }
        Kind::Busy => {
            "The server is there and has no room now: try again later, or ask its operator about limits on tunnels per client."
        }
        Kind::Redirect => "The server sends us to another one: try the one it names.",
        Kind::NoInnerAddress => {
            "The server's address pool is used up or has no address of the family asked for: its operator has to enlarge it."
        }
        Kind::Refusal => "The server refuses the tunnel; its log says more (event \"refused\").",
        Kind::System => "That comes from this machine or this program, not from the server.",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Map, json};

    use super::*;

    fn step(name: StepName, more: Value, problem: Option<Problem>) -> Step {
        let Value::Object(more) = more else {
            unreachable!()
        };
        Step {
            step: name,
            subject: "192.0.2.1:4567".to_owned(),
            ok: Some(problem.is_none()),
            seconds: 0.0,
            text: String::new(),
            problem,
            more,
            lines: Vec::new(),
        }
    }

    fn patient(possible: bool, steps: Vec<Step>) -> Patient {
        Patient {
            url: "udp://192.0.2.1:4567".to_owned(),
            possible,
            steps,
            also: Vec::new(),
            besides: None,
            diagnosis: Vec::new(),
        }
    }

    fn texts(patient: &Patient, level: Level) -> Vec<String> {
        let of_level = |finding: &Finding| finding.level == level;
        let findings = diagnose(patient).into_iter().filter(of_level);
        findings.map(|finding| finding.text).collect()
    }

    #[test]
    fn the_same_cause_is_told_once() {
        let failed = || {
            let problem = Problem::timeout(Duration::from_secs(5));
            step(StepName::Tcp, json!({}), Some(problem))
        };
        let patient = patient(false, vec![failed(), failed()]);
        let bad = texts(&patient, Level::Bad);
        assert_eq!(bad.len(), 2, "{bad:?}");
        assert!(bad[1].contains("firewall on the way drops"));
    }

    #[test]
    fn a_nat_and_a_long_interval_are_a_worry_on_datagrams() {
        let nat = json!({ "nat": { "translated": true }, "keepalive_interval": 300 });
        let configure = || step(StepName::Configure, nat.clone(), None);
        let worried = patient(true, vec![configure()]);
        assert!(texts(&worried, Level::Warning)[0].contains("NAT"));
        let tcp = step(StepName::Tcp, json!({}), None);
        let calm = patient(true, vec![tcp, configure()]);
        assert_eq!(texts(&calm, Level::Warning), Vec::<String>::new());
    }

    #[test]
    fn losses_short_paths_and_old_certificates_are_worries() {
        let steps = vec![
            step(
                StepName::Dtls,
                json!({ "certificate": { "days_left": 3 } }),
                None,
            ),
            step(StepName::Configure, json!({ "inner_mtu": 1400 }), None),
            step(StepName::Keepalive, json!({ "lost": 1, "sent": 5 }), None),
            step(StepName::Mtu, json!({ "inner_room": 1300 }), None),
        ];
        let warnings = texts(&patient(true, steps), Level::Warning);
        for (warning, part) in warnings.iter().zip(["3 days", "1 of 5", "1300 bytes"]) {
            assert!(warning.contains(part), "{warning}");
        }
        assert_eq!(warnings.len(), 3);
    }

    #[test]
    fn udp_besides_is_no_failure() {
        let mut patient = patient(true, vec![step(StepName::Tcp, json!({}), None)]);
        patient.besides = Some(TransportKind::Dtls);
        assert!(texts(&patient, Level::Good)[1].starts_with("DTLS works too"));
        let problem = Problem::new(Kind::Refused, "refused");
        patient.also.push(step(
            StepName::Dtls,
            Value::Object(Map::new()),
            Some(problem),
        ));
        assert!(texts(&patient, Level::Warning)[0].contains("UDP is blocked or not offered"));
    }
}
