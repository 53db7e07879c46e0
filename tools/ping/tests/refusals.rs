//! Everything that can be in the way, each told apart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod support;

use std::{
    fs::{self, Permissions},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    thread,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use support::{Pki, Server, diagnosis, examine, ping, step};
use tsc_demo::lab::LabOptions;
use tsc_tapi::Transport;

/// Examines one URL that must fail at this step in this way.
fn fails(arguments: &[&str], name: &str, kind: &str) -> Value {
    let (code, targets) = examine(arguments);
    let target = targets[0].clone();
    assert_eq!(code, 1, "{target:#}");
    let step = step(&target, name);
    assert_eq!(step["ok"], false, "{target:#}");
    assert_eq!(step["problem"]["kind"], kind, "{target:#}");
    target
}

/// Does this with every connection, until the test program ends.
fn serve(each: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let each = each.clone();
            thread::spawn(move || each(stream.unwrap()));
        }
    });
    address
}

/// Reads up to an empty line.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[test]
fn nobody_listens() {
    // The other loopback address keeps the port from being given to others.
    let taken = UdpSocket::bind("127.0.0.2:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ca = Pki::new();
    for (scheme, name) in [("udp", "configure"), ("dtls", "dtls")] {
        let url = format!("{scheme}://127.0.0.1:{port}");
        // The kernel may hold back some of its answers; the program asks again.
        let arguments = ["-w", "30", "--ca", &ca.ca(), &url];
        fails(&arguments, name, "refused");
    }
    let taken = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let url = format!("tcp://127.0.0.1:{port}");
    let target = fails(&["--only", &url], "tcp", "refused");
    assert!(diagnosis(&target).contains("is the server running"));
}

#[test]
fn a_black_hole() {
    let ca = Pki::new();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for (scheme, name) in [("udp", "configure"), ("dtls", "dtls")] {
        let url = format!("{scheme}://{address}");
        let target = fails(&["-w", "0.4", "--ca", &ca.ca(), &url], name, "timeout");
        assert!(diagnosis(&target).contains("blocks UDP"));
    }
    // The system accepts, the program never does.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for (scheme, name) in [("tcp", "configure"), ("tls", "tls")] {
        let url = format!("{scheme}://{address}");
        let arguments = ["-w", "0.4", "--only", "--ca", &ca.ca(), &url];
        let target = fails(&arguments, name, "timeout");
        assert_eq!(step(&target, "tcp")["ok"], true);
    }
}

#[test]
fn certificates_that_are_not_accepted_are_shown_all_the_same() {
    let (pki, other) = (Pki::new(), Pki::named("Other authority"));
    let (ca, wrong_ca) = (pki.ca(), other.ca());
    for (identity, ca, kind, advice) in [
        (pki.server(), &wrong_ca, "certificate-issuer", "--ca"),
        (pki.stranger(), &ca, "certificate-name", "--server-name"),
        (pki.expired(), &ca, "certificate-expired", "renew it"),
    ] {
        let server = Server::start(&identity, &LabOptions::default());
        for (transport, name) in [(Transport::Tls, "tls"), (Transport::Dtls, "dtls")] {
            let url = server.url(transport);
            let target = fails(&["--only", "--ca", ca, &url], name, kind);
            let certificate = &step(&target, name)["certificate"];
            assert!(
                certificate["issuer"]
                    .as_str()
                    .unwrap()
                    .contains("Test authority")
            );
            assert!(diagnosis(&target).contains(advice), "{target:#}");
        }
    }
    // The name that the certificate has is the way out.
    let server = Server::start(&pki.stranger(), &LabOptions::default());
    let url = server.url(Transport::Tls);
    let named = [
        "--only",
        "--ca",
        &ca,
        "--server-name",
        "other.example",
        &url,
    ];
    assert_eq!(examine(&named).0, 0);
}

#[test]
fn an_http_server_or_a_captive_portal() {
    let address = serve(|mut stream| {
        head(&mut stream);
        let answer = "HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n";
        drop(stream.write_all(answer.as_bytes()));
    });
    let ca = Pki::new();
    for (scheme, name) in [("tcp", "configure"), ("tls", "tls")] {
        let url = format!("{scheme}://{address}");
        let arguments = ["-w", "1", "--only", "--ca", &ca.ca(), &url];
        let target = fails(&arguments, name, "http");
        let text = step(&target, name)["text"].as_str().unwrap();
        assert!(text.contains("http://portal.example/"), "{text}");
        assert!(diagnosis(&target).contains("captive portal"));
    }
    // One that answers at once what it does not understand.
    let address = serve(|mut stream| {
        let mut first = [0; 16];
        if stream.read(&mut first).is_ok() {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"));
        }
    });
    for (scheme, name) in [("tcp", "configure"), ("tls", "tls")] {
        let url = format!("{scheme}://{address}");
        fails(&["--only", "--ca", &ca.ca(), &url], name, "http");
    }
}

#[test]
fn a_port_for_tls_only() {
    let pki = Pki::new();
    let options = LabOptions {
        clear: false,
        ..LabOptions::default()
    };
    let server = Server::start(&pki.server(), &options);
    let url = server.url(Transport::Tls).replace("tls:", "tcp:");
    let target = fails(&["--only", &url], "configure", "speaks-tls");
    assert!(diagnosis(&target).contains("use tls://"));
}

#[test]
fn a_tls_server_for_something_else() {
    let pki = Pki::new();
    let identity = pki.server();
    let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![chain], key)
    .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let address = serve(move |mut stream| {
        let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        drop(connection.complete_io(&mut stream));
    });
    let url = format!("tls://{address}");
    let target = fails(&["--only", "--ca", &pki.ca(), &url], "tls", "alpn");
    assert!(diagnosis(&target).contains("web server"));
}

#[test]
fn a_server_that_wants_a_certificate_of_ours() {
    let pki = Pki::new();
    let options = LabOptions {
        clear: false,
        interface: "authentication = \"mtls\"".to_owned(),
        ..LabOptions::default()
    };
    let server = Server::start(&pki.server(), &options);
    for (transport, name) in [(Transport::Tls, "configure"), (Transport::Dtls, "dtls")] {
        let url = server.url(transport);
        let arguments = ["--only", "--ca", &pki.ca(), &url];
        let target = fails(&arguments, name, "client-certificate");
        assert!(diagnosis(&target).contains("--cert and --key"));
    }
}

#[test]
fn a_server_that_sends_us_elsewhere() {
    let pki = Pki::new();
    let mut options = LabOptions::default();
    options.interface += "\nredirect = true\nalternate-servers = [\"tls://192.0.2.1:5061\"]";
    let server = Server::start(&pki.server(), &options);
    let url = server.url(Transport::Tls);
    let target = fails(
        &["--only", "--ca", &pki.ca(), &url],
        "configure",
        "redirect",
    );
    let alternates = &step(&target, "configure")["alternates"];
    assert!(alternates[0].as_str().unwrap().contains("192.0.2.1:5061"));
}

#[test]
fn a_proxy_on_the_way() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let url = server.url(Transport::Tls);
    let proxy = serve(|mut stream| {
        let request = head(&mut stream);
        // The name is left to the proxy: this one knows it.
        let to = request
            .split(' ')
            .nth(1)
            .unwrap()
            .replace("inside.example", "127.0.0.1");
        pass(stream, TcpStream::connect(to).unwrap());
    });
    let ca = pki.ca();
    let arguments = [
        "--only", "--count", "1", "--ca", &ca, "--proxy", &proxy, &url,
    ];
    let (code, targets) = examine(&arguments);
    assert_eq!(code, 0, "{targets:#}");
    assert_eq!(step(&targets[0], "proxy")["ok"], true);
    let named = url.replace("127.0.0.1", "inside.example");
    let arguments = [
        "--only",
        "--count",
        "1",
        "--ca",
        &ca,
        "--server-name",
        "localhost",
        "--proxy",
        &proxy,
        &named,
    ];
    let (code, targets) = examine(&arguments);
    assert_eq!(code, 0, "{targets:#}");
    assert!(step(&targets[0], "resolve")["ok"].is_null());
}

/// A proxy that says this to every request, and ends the connection.
fn saying(answer: &'static str) -> String {
    serve(move |mut stream| {
        head(&mut stream);
        drop(stream.write_all(answer.as_bytes()));
    })
}

/// What the step through the proxy fails by, and its findings.
fn refused_by(proxy: &str, more: &[&str], kind: &str) -> Value {
    let mut arguments = vec!["--only", "--proxy", proxy];
    arguments.extend(more);
    arguments.push("tcp://sbc.example:443");
    let target = fails(&arguments, "proxy", kind);
    assert!(!diagnosis(&target).is_empty());
    step(&target, "proxy").clone()
}

#[test]
fn a_proxy_that_refuses() {
    for (answer, kind, status) in [
        ("403 Forbidden", "proxy-refused", 403),
        ("405 Method Not Allowed", "proxy-refused", 405),
        ("502 Bad Gateway", "proxy-gateway", 502),
        ("504 Gateway Timeout", "proxy-gateway", 504),
    ] {
        let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").leak();
        let step = refused_by(&saying(answer), &[], kind);
        assert_eq!(step["status"], status);
    }
    let portal =
        "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n";
    let step = refused_by(&saying(portal), &[], "proxy-portal");
    assert_eq!(step["location"], "http://login.example/");
    refused_by(&saying("220 mail.example ESMTP\r\n\r\n"), &[], "proxy");
    refused_by(&saying(""), &[], "proxy");
    refused_by("http://127.0.0.2:1", &[], "proxy-unreachable");
    let silent = serve(|mut stream| {
        head(&mut stream);
        head(&mut stream);
    });
    refused_by(&silent, &["-w", "0.3"], "timeout");
}

/// Who asks: a file with `user:password`.
fn who(directory: &Path) -> String {
    let path = directory.join("proxy-auth");
    fs::write(&path, "alice:secret\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn a_proxy_that_asks_who_we_are() {
    let pki = Pki::new();
    let directory = pki.file("");
    let file = who(&directory);
    let basic = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
                 Content-Length: 0\r\n\r\n";
    let asking = saying(basic);
    let step = refused_by(&asking, &[], "proxy-authentication");
    assert_eq!(step["offered"], "Basic");
    let step = refused_by(&asking, &["--proxy-auth", &file], "proxy-schemes");
    let text = step["problem"]["text"].as_str().unwrap();
    assert!(text.contains("clear"), "{text}");
    let more = ["--proxy-auth", &file, "--proxy-basic-in-clear"];
    let step = refused_by(&asking, &more, "proxy-credentials");
    assert_eq!(step["scheme"], "Basic");
    let said = ping(&[
        "--proxy",
        &asking,
        "--proxy-auth",
        "/nowhere",
        "tcp://sbc.example:443",
    ]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("--proxy-auth"), "{}", said.err);
}

#[test]
fn a_proxy_that_lets_us_through_with_a_password() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let file = who(&pki.file(""));
    // alice:secret
    let proxy = serve(|mut stream| {
        let request = head(&mut stream);
        if !request.contains("Proxy-Authorization: Basic YWxpY2U6c2VjcmV0") {
            let asks = b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
            drop(stream.write_all(asks));
            return;
        }
        let to = request.split(' ').nth(1).unwrap();
        pass(stream, TcpStream::connect(to).unwrap());
    });
    let url = server.url(Transport::Tls);
    let ca = pki.ca();
    let arguments = [
        "--only",
        "--count",
        "1",
        "--ca",
        &ca,
        "--proxy",
        &proxy,
        "--proxy-auth",
        &file,
        "--proxy-basic-in-clear",
        &url,
    ];
    let (code, targets) = examine(&arguments);
    assert_eq!(code, 0, "{targets:#}");
    assert_eq!(step(&targets[0], "proxy")["ok"], true);
}

/// Says that the tunnel is open, and copies both ways until it ends.
fn pass(mut stream: TcpStream, mut server: TcpStream) {
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let mut back = (server.try_clone().unwrap(), stream.try_clone().unwrap());
    thread::spawn(move || drop(io::copy(&mut back.0, &mut back.1)));
    drop(io::copy(&mut stream, &mut server));
}

#[test]
fn some_of_several() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let taken = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (good, bad) = (
        server.url(Transport::Udp),
        format!("tcp://127.0.0.1:{port}"),
    );
    let (code, targets) = examine(&["--only", "--count", "0", "--mtu", "0", &good, &bad]);
    assert_eq!(code, 3);
    assert_eq!(
        (&targets[0]["possible"], &targets[1]["possible"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn wrong_use() {
    for (arguments, part) in [
        (
            &["sbc.example.com"][..],
            "tcp://, tls://, udp:// or dtls://",
        ),
        (&[], "URL"),
        (
            &["--ca", "/nonexistent/ca.pem", "tls://127.0.0.1:1"],
            "/nonexistent/ca.pem",
        ),
        (&["-4", "-6", "tls://127.0.0.1:1"], "cannot be used with"),
        (&["--timeout", "0", "tcp://127.0.0.1:1"], "0.05"),
    ] {
        let said = ping(arguments);
        assert_eq!(said.code, 2, "{arguments:?}");
        assert!(said.err.contains(part), "{}", said.err);
    }
}

#[test]
fn a_name_that_leads_nowhere() {
    // An address of the wrong family needs no name server.
    let target = fails(&["-6", "tcp://127.0.0.1:1"], "resolve", "no-address");
    assert!(diagnosis(&target).contains("leave out -4 or -6"));
}
