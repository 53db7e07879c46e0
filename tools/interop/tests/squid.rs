//! Ways through Squid, which is asked by our client, and by whole tunnels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    fs,
    future::Future,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tsc_interop::{
    Authentication, CORE, DOMAIN, Egress, Lab, Namespace, PASSWORD, PROXY, PROXY_TLS, REALM, Squid,
    USER, isolated, nginx,
};
use tsc_tapi::{
    PemSource, Roots, Trust, Tunnel,
    proxy::{
        self, AuthScheme, CredentialSource, Credentials, Proxy, ProxyError, ProxyScheme,
        SchemeFailure,
    },
};

const LIMIT: Duration = Duration::from_secs(20);

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// The proxy by its address, and by the name that its certificate and its Kerberos principal have.
fn by_address() -> Proxy {
    Proxy::new(ProxyScheme::Http, PROXY.ip(), PROXY.port())
}

fn by_name() -> Proxy {
    format!("http://localhost:{}", PROXY.port())
        .parse()
        .unwrap()
}

/// All that is logged, in greatest detail.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn new() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    /// The password is not in there, neither as text nor as the bytes of its UTF-8 or UTF-16 in any usual notation.
    fn check(&self) {
        let bytes = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        assert!(text.contains("proxy"), "something is logged");
        let utf8 = PASSWORD.as_bytes().to_vec();
        let utf16: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let units: Vec<String> = PASSWORD
            .encode_utf16()
            .map(|unit| unit.to_string())
            .collect();
        let mut forms = vec![PASSWORD.to_lowercase(), units.join(", ")];
        for bytes in [&utf8, &utf16] {
            let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
            forms.push(list.join(", "));
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            forms.push(hex.concat());
            forms.push(hex.join(" "));
        }
        for form in forms {
            assert!(!text.contains(&form), "the password is logged as {form}");
        }
    }
}

/// Opens a tunnel to a server that echoes, and sends something through it.
async fn echo_through(proxy: &Proxy) -> Result<(), ProxyError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        // The client may go when it has seen enough.
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let connected = proxy::connect(proxy, &address.ip().into(), address.port(), None, LIMIT).await;
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            echo.abort();
            return Err(error);
        }
    };
    let sent: Vec<u8> = (0..200_000_u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    let mut heard = vec![0; sent.len()];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let exchange = async {
        let send = async {
            write.write_all(&sent).await.unwrap();
            write.flush().await.unwrap();
        };
        let receive = async {
            read.read_exact(&mut heard).await.unwrap();
        };
        tokio::join!(send, receive);
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap();
    assert!(heard == sent);
    drop(stream);
    echo.await.unwrap();
    Ok(())
}

/// The right password opens the way by `scheme`; a wrong one is told as such.
async fn check(proxy: Proxy, user: &str, scheme: AuthScheme) {
    let with = |password: &str| {
        proxy
            .clone()
            .with_credentials(Credentials::new(user, password))
    };
    echo_through(&with(PASSWORD)).await.unwrap();
    // The source is asked once, and for the scheme that is meant.
    let asked: Arc<Mutex<Vec<AuthScheme>>> = Arc::default();
    let heard = Arc::clone(&asked);
    let user = user.to_owned();
    let source = CredentialSource::callback(move |request| {
        heard.lock().unwrap().push(request.scheme);
        Some(Credentials::new(user.as_str(), PASSWORD))
    });
    echo_through(&proxy.clone().with_credentials(source))
        .await
        .unwrap();
    assert_eq!(*asked.lock().unwrap(), [scheme]);
    let error = echo_through(&with("Hakuna Matata")).await.unwrap_err();
    assert!(
        matches!(error, ProxyError::CredentialsRefused { scheme: by } if by == scheme),
        "{error:?}"
    );
    assert!(error.is_final());
    let error = echo_through(&proxy).await.unwrap_err();
    assert!(
        matches!(error, ProxyError::AuthenticationRequired { .. }),
        "{error:?}"
    );
}

#[test]
fn nobody_is_asked() {
    isolated("nobody_is_asked", || {
        let squid = Squid::new(&[Authentication::None]);
        run(async {
            echo_through(&by_address()).await.unwrap();
            echo_through(&by_name()).await.unwrap();
            // Nobody listens at port 1, and Squid says so.
            let host = "127.0.0.1".parse().unwrap();
            let error = proxy::connect(&by_address(), &host, 1, None, LIMIT)
                .await
                .unwrap_err();
            assert!(
                matches!(error, ProxyError::Refused { status: 503, .. }),
                "{error:?}"
            );
            assert!(!error.is_final());
            // Under TLS.
            let roots = Roots::from_pem(&PemSource::File(squid.authority())).unwrap();
            let secure = |trust| {
                let proxy: Proxy = format!("https://localhost:{}", PROXY_TLS.port())
                    .parse()
                    .unwrap();
                proxy.with_trust(trust).unwrap()
            };
            echo_through(&secure(Trust::Roots(roots))).await.unwrap();
            let other = tsc_demo::pki::Authority::new("other").unwrap();
            let other = PemSource::Memory(other.certificate().as_bytes().to_vec());
            let error = echo_through(&secure(Trust::Roots(Roots::from_pem(&other).unwrap())))
                .await
                .unwrap_err();
            assert!(
                matches!(error, ProxyError::Certificate(_)) && error.is_final(),
                "{error:?}"
            );
        });
    });
}

#[test]
fn passwords_in_files() {
    isolated("passwords_in_files", || {
        let _squid = Squid::new(&[Authentication::Basic]);
        run(async {
            check(
                by_address().allow_basic_in_clear(true),
                USER,
                AuthScheme::Basic,
            )
            .await;
            let careful = by_address().with_credentials(Credentials::new(USER, PASSWORD));
            let error = echo_through(&careful).await.unwrap_err();
            assert!(
                matches!(error, ProxyError::NoUsableScheme { .. }),
                "{error:?}"
            );
        });
    });
}

#[test]
fn digests_come_before_passwords() {
    isolated("digests_come_before_passwords", || {
        let _squid = Squid::new(&[Authentication::Basic, Authentication::Digest]);
        run(check(
            by_address().allow_basic_in_clear(true),
            USER,
            AuthScheme::Digest,
        ));
    });
}

#[test]
fn ntlm_is_version_2() {
    isolated("ntlm_is_version_2", || {
        let _squid = Squid::new(&[Authentication::Ntlm, Authentication::Digest]);
        let log = Log::new();
        let user = format!("{DOMAIN}\\{USER}");
        run(check(by_address(), &user, AuthScheme::Ntlm));
        log.check();
    });
}

#[test]
fn negotiate_without_a_key_server_is_ntlm() {
    isolated("negotiate_without_a_key_server_is_ntlm", || {
        let _squid = Squid::new(&[Authentication::Spnego, Authentication::Digest]);
        let log = Log::new();
        let user = format!("{DOMAIN}\\{USER}");
        run(check(by_address(), &user, AuthScheme::Negotiate));
        log.check();
    });
}

#[test]
fn negotiate_with_a_key_server_is_kerberos() {
    isolated("negotiate_with_a_key_server_is_kerberos", || {
        let _squid = Squid::new(&[Authentication::Kerberos, Authentication::Digest]);
        let log = Log::new();
        run(async {
            let user = format!("{USER}@{REALM}");
            let only = by_name()
                .with_kdc("127.0.0.1")
                .with_schemes([AuthScheme::Negotiate]);
            let only = only.with_credentials(Credentials::new(user.as_str(), PASSWORD));
            echo_through(&only).await.unwrap();
            check(
                by_name().with_kdc("127.0.0.1"),
                &user,
                AuthScheme::Negotiate,
            )
            .await;
            // Where there is no key server this proxy's Negotiate is of no use, but its Digest is.
            let proxy = by_name().with_kdc("127.0.0.1:1");
            let proxy = proxy.with_credentials(Credentials::new(USER, PASSWORD).with_domain(REALM));
            echo_through(&proxy).await.unwrap();
            let error = echo_through(&proxy.with_schemes([AuthScheme::Negotiate]))
                .await
                .unwrap_err();
            let ProxyError::NoUsableScheme { reasons, .. } = &error else {
                panic!("{error:?}");
            };
            let mut reasons = reasons.iter();
            assert!(
                matches!(reasons.next(), Some((AuthScheme::Negotiate, _))),
                "{error:?}"
            );
            assert!(matches!(
                reasons.next(),
                Some((AuthScheme::Digest, SchemeFailure::SwitchedOff))
            ));
        });
        log.check();
    });
}

/// A tunnel under TLS through the proxy, in clear and under TLS, carries a download.
#[test]
fn whole_tunnels_go_through_the_proxy() {
    isolated("whole_tunnels_go_through_the_proxy", || {
        let squid = Squid::new(&[Authentication::Digest]);
        let lab = Lab::new(Egress::UserSpace);
        let root = lab.path("www");
        fs::create_dir(&root).unwrap();
        let data: Vec<u8> = (0..3_000_000_u32)
            .map(|n| u8::try_from(n % 253).unwrap())
            .collect();
        fs::write(root.join("file"), &data).unwrap();
        let _nginx = nginx(Namespace::Core, &CORE, &lab.path(""), &root);
        let roots = Roots::from_pem(&PemSource::File(squid.authority())).unwrap();
        let secure: Proxy = format!("https://localhost:{}", PROXY_TLS.port())
            .parse()
            .unwrap();
        let secure = secure.with_trust(Trust::Roots(roots)).unwrap();
        let roots = Roots::from_pem(&PemSource::File(lab.authority())).unwrap();
        run(async {
            for (proxy, scheme) in [
                (by_address(), "tls"),
                (by_address(), "tcp"),
                (secure.clone(), "tls"),
                (secure, "tcp"),
            ] {
                let credentials = Credentials::new(USER, PASSWORD);
                let server = format!("{scheme}://{}", lab.address()).parse().unwrap();
                // A server that no proxy can carry is passed over.
                let datagrams = format!("udp://{}", lab.address()).parse().unwrap();
                let tunnel = Tunnel::builder(datagrams)
                    .server(server)
                    .server_name("localhost")
                    .trust(Trust::Roots(roots.clone()))
                    .proxy(proxy.clone().with_credentials(credentials))
                    .connect()
                    .await
                    .unwrap();
                let mut stream = tunnel.connect_tcp(CORE[0]).await.unwrap();
                stream
                    .write_all(b"GET /file HTTP/1.0\r\n\r\n")
                    .await
                    .unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                assert!(answer.ends_with(&data), "{proxy}: {} bytes", answer.len());
                tunnel.close(Duration::from_secs(5)).await.unwrap();
            }
            // Wrong credentials end the attempts at once.
            let server = format!("tls://{}", lab.address()).parse().unwrap();
            let start = std::time::Instant::now();
            let error = Tunnel::builder(server)
                .trust(Trust::Roots(roots))
                .proxy(by_address().with_credentials(Credentials::new(USER, "wrong")))
                .connect()
                .await
                .unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("the proxy refused the credentials"),
                "{error}"
            );
            assert!(start.elapsed() < Duration::from_secs(20));
        });
    });
}
