//! Servers that let us in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use support::{Pki, Server, diagnosis, examine, ping, step};
use tsc_demo::lab::LabOptions;
use tsc_tapi::Transport;

const ALL: [Transport; 4] = [
    Transport::Tcp,
    Transport::Tls,
    Transport::Udp,
    Transport::Dtls,
];

#[test]
fn every_transport_is_examined_step_by_step() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let urls = ALL.map(|transport| server.url(transport));
    let ca = pki.ca();
    let mut arguments = vec!["--only", "--count", "3", "--ca", &ca];
    arguments.extend(urls.iter().map(String::as_str));
    let (code, targets) = examine(&arguments);
    assert_eq!(code, 0, "{targets:#}");
    let mut seen = Vec::new();
    for (target, url) in targets.as_array().unwrap().iter().zip(&urls) {
        assert_eq!(target["url"], *url);
        assert_eq!(target["possible"], true);
        let steps = target["steps"].as_array().unwrap();
        assert!(steps.iter().all(|step| step["ok"] != false), "{target:#}");
        let names: Vec<&str> = steps
            .iter()
            .map(|step| step["step"].as_str().unwrap())
            .collect();
        seen.push(names.join(" "));
        let configure = step(target, "configure");
        let address = configure["addresses"][0].as_str().unwrap();
        assert!(address.starts_with("10.64.0."), "{address}");
        assert_eq!(configure["nat"]["translated"], false);
        assert_eq!(configure["inner_mtu"], 1400);
        let keepalive = step(target, "keepalive");
        assert_eq!(
            (&keepalive["sent"], &keepalive["lost"]),
            (&3.into(), &0.into())
        );
        assert!(diagnosis(target).contains("is possible"));
    }
    let expected = [
        "resolve tcp configure keepalive mtu release",
        "resolve tcp tls configure keepalive mtu release",
        "resolve configure keepalive mtu release",
        "resolve dtls configure keepalive mtu release",
    ];
    assert_eq!(seen, expected);
    // What each alone has.
    let tls = step(&targets[1], "tls");
    assert_eq!(
        (&tls["version"], &tls["alpn"]),
        (&"TLSv1.3".into(), &true.into())
    );
    for name in [tls, step(&targets[3], "dtls")] {
        let certificate = &name["certificate"];
        assert!(
            certificate["subject"]
                .as_str()
                .unwrap()
                .contains("Test server")
        );
        assert!(
            certificate["issuer"]
                .as_str()
                .unwrap()
                .contains("Test authority")
        );
        assert_eq!(certificate["names"][0], "DNS:localhost");
        assert!(certificate["days_left"].as_i64().unwrap() > 1000);
    }
    assert!(step(&targets[2], "configure")["cookie_seconds"].is_f64());
    assert!(step(&targets[0], "mtu")["ok"].is_null());
    // Loopback takes whatever is asked.
    for target in [&targets[2], &targets[3]] {
        let mtu = step(target, "mtu");
        assert_eq!(
            (&mtu["mtu"], &mtu["at_least"]),
            (&1500.into(), &true.into())
        );
    }
    assert_eq!(step(&targets[2], "mtu")["overhead"], 28);
}

#[test]
fn datagrams_are_tried_beside_streams() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let (tcp, tls) = (server.url(Transport::Tcp), server.url(Transport::Tls));
    let (code, targets) = examine(&["--count", "1", "--ca", &pki.ca(), &tcp, &tls]);
    assert_eq!(code, 0);
    for (target, name) in targets.as_array().unwrap().iter().zip(["UDP", "DTLS"]) {
        let also = target["also"].as_array().unwrap();
        assert!(also.iter().all(|step| step["ok"] == true), "{target:#}");
        assert!(
            diagnosis(target).contains(&format!("{name} works too")),
            "{target:#}"
        );
    }
}

#[test]
fn people_read_lines() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let url = server.url(Transport::Tls);
    let said = ping(&["--count", "1", "--ca", &pki.ca(), &url]);
    assert_eq!(said.code, 0, "{}", said.out);
    assert!(said.out.starts_with(&url));
    for part in [
        "TLSv1.3",
        "ALPN tscf",
        "certificate of CN=Test server, for DNS:localhost",
        "issued by CN=Test authority",
        "days left",
        "a tunnel with 10.64.0.",
        "no NAT",
        "SIP servers: 10.65.0.1:5060",
        "1 of 1 answered",
        "on streams TCP sees to that",
        "besides, over dtls:",
        "Diagnosis:\n    + A tunnel by",
    ] {
        assert!(said.out.contains(part), "{part:?} in\n{}", said.out);
    }
    assert_eq!(said.err, "");
}

#[test]
fn a_token_is_shown_to_the_server() {
    let pki = Pki::new();
    // sha256 of "secret".
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let options = LabOptions {
        clear: false,
        interface: "authentication = \"token\"\ntoken-file = \"tokens\"".to_owned(),
        files: vec![("tokens".to_owned(), format!("me:{hash}\n").into_bytes())],
        ..LabOptions::default()
    };
    let server = Server::start(&pki.server(), &options);
    let token = pki.file("token");
    fs::write(&token, "secret\n").unwrap();
    let token = token.display().to_string();
    let (tls, dtls) = (server.url(Transport::Tls), server.url(Transport::Dtls));
    let ca = pki.ca();
    let known = [
        "--only",
        "--count",
        "1",
        "--ca",
        &ca,
        "--token-file",
        &token,
        &tls,
        &dtls,
    ];
    let (code, targets) = examine(&known);
    assert_eq!(code, 0, "{targets:#}");
    let (code, targets) = examine(&["--only", "--ca", &ca, &tls, &dtls]);
    assert_eq!(code, 1);
    for target in targets.as_array().unwrap() {
        let configure = step(target, "configure");
        assert_eq!(configure["problem"]["kind"], "not-authorized", "{target:#}");
        assert!(diagnosis(target).contains("--token-file"));
    }
}

#[test]
fn whoever_interrupts_it_has_the_tunnel_given_back() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let (url, other) = (server.url(Transport::Udp), server.url(Transport::Tcp));
    let mut child = Command::new(env!("CARGO_BIN_EXE_tsc-ping"))
        .args(["--count", "1000", &url, &other])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut wait_for = |part: &str| {
        lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.contains(part))
            .unwrap_or_else(|| panic!("no {part:?}"))
    };
    wait_for("configure");
    let id = child.id().to_string();
    let status = Command::new("kill").args(["-INT", &id]).status();
    assert!(status.unwrap().success());
    assert!(wait_for("release").contains("the server says success"));
    assert!(lines.map(Result::unwrap).all(|line| !line.contains(&other)));
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn help_teaches() {
    let said = ping(&["--help"]);
    assert_eq!(said.code, 0);
    for part in [
        "Examples:",
        "Steps:",
        "Exit codes:",
        "JSON:",
        "tsc-ping tls://example.com",
    ] {
        assert!(said.out.contains(part), "{part}");
    }
}
