//! HTTP through tunnels: curl and nginx, which know nothing of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tsc_interop::{
    CORE, ClientOptions, Download, Egress, Lab, Namespace, Process, Transport, address, curl,
    isolated_within, nginx,
};

/// A test takes much of the machine; rates would say little if two ran at once.
static TURN: Mutex<()> = Mutex::new(());

/// Of one transfer: no rate is demanded.
const PATIENCE: Duration = Duration::from_secs(120);

/// The bytes of the file that is fetched over every transport.
const SIZE: usize = 100_000_000;

fn alone(name: &str, test: impl FnOnce()) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    isolated_within(Duration::from_secs(400), name, test);
}

/// A file that does not compress and does not repeat, and its hash.
fn file(path: &Path, size: usize) -> String {
    let mut bytes = Vec::with_capacity(size + 8);
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    fs::write(path, bytes).unwrap();
    sha256(path)
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

/// `tsc-connect` with the given ports, and its inner addresses.
fn connect(lab: &Lab, options: ClientOptions, arguments: &[&str]) -> (Process, Vec<IpAddr>) {
    let mut command = lab.client("tsc-connect", options);
    command.args(arguments).args(["--json", "--once"]);
    let process = Process::start("tsc-connect", command);
    let ready = process.wait_for("\"event\":\"ready\"");
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let addresses = ready["addresses"].as_array().unwrap();
    let addresses = addresses
        .iter()
        .map(|a| a.as_str().unwrap().parse().unwrap());
    (process, addresses.collect())
}

/// Fetches the core's `file` over every transport and by both families, and reports the rates.
fn downloads(egress: Egress) {
    let lab = Lab::new(egress);
    let root = lab.path("www");
    fs::create_dir(&root).unwrap();
    let hash = file(&root.join("file"), SIZE);
    let _nginx = nginx(Namespace::Core, &CORE, &lab.path(""), &root);
    let fetched = lab.path("fetched");
    let fetch = |what: &str, command: Command, host: IpAddr| -> Download {
        let url = match host {
            IpAddr::V4(host) => format!("http://{host}/file"),
            IpAddr::V6(host) => format!("http://[{host}]/file"),
        };
        let download = curl(command, &url, &fetched, PATIENCE);
        assert_eq!(download.status, 200, "{what}");
        assert_eq!(sha256(&fetched), hash, "{what}: other bytes");
        fs::remove_file(&fetched).unwrap();
        download
    };
    let families = [address::CORE_V4, address::CORE_V6];
    let direct = families.map(|host| fetch("direct", Namespace::Edge.command("curl"), host).rate());
    let mut table = format!(
        "{egress:?}: {SIZE} bytes, in MB/s and as a part of the same without a tunnel\n\
         transport   inner IPv4          inner IPv6\n\
         none        {:7.1}             {:7.1}\n",
        direct[0], direct[1]
    );
    for transport in Transport::ALL {
        let options = ClientOptions {
            transport,
            ..ClientOptions::default()
        };
        let (proxy, _) = connect(&lab, options, &["--socks", "1080"]);
        let mut line = format!("{:<9}", transport.as_str());
        for (host, direct) in families.into_iter().zip(direct) {
            let mut command = Namespace::Access.command("curl");
            command.args(["--proxy", "socks5h://127.0.0.1:1080"]);
            let rate = fetch(transport.as_str(), command, host).rate();
            line += &format!("   {rate:7.1} ({:5.1} %)", rate / direct * 100.0);
        }
        table += &line;
        table.push('\n');
        assert!(proxy.stop().status.success());
    }
    eprintln!("\n{table}");
}

#[test]
fn downloads_are_intact_over_tun() {
    alone("downloads_are_intact_over_tun", || downloads(Egress::Tun));
}

#[test]
fn downloads_are_intact_over_user_space() {
    alone("downloads_are_intact_over_user_space", || {
        downloads(Egress::UserSpace);
    });
}

/// A counter in a line of the server's report.
fn counter(line: &str, name: &str) -> f64 {
    let mut words = line.split_whitespace();
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap().parse().unwrap()
}

/// The sender is the core's kernel, which knows of the tunnel's queue only by what is lost there.
#[test]
fn downloads_over_tun_and_streams_lose_next_to_nothing() {
    let name = "downloads_over_tun_and_streams_lose_next_to_nothing";
    alone(name, || {
        let lab = Lab::new(Egress::Tun);
        let root = lab.path("www");
        fs::create_dir(&root).unwrap();
        let hash = file(&root.join("file"), SIZE);
        let _nginx = nginx(Namespace::Core, &CORE, &lab.path(""), &root);
        let fetched = lab.path("fetched");
        let url = format!("http://{}/file", address::CORE_V4);
        let mut before = [0.0; 2];
        for (index, transport) in [Transport::Tcp, Transport::Tls].into_iter().enumerate() {
            let options = ClientOptions {
                transport,
                ..ClientOptions::default()
            };
            let (proxy, _) = connect(&lab, options, &["--socks", "1080"]);
            let mut command = Namespace::Access.command("curl");
            command.args(["--proxy", "socks5h://127.0.0.1:1080"]);
            let download = curl(command, &url, &fetched, PATIENCE);
            assert_eq!((download.status, sha256(&fetched)), (200, hash.clone()));
            assert!(proxy.stop().status.success());
            lab.server.signal("USR1");
            let report = lab.server.wait_for_nth(index, "part=\"switch\"");
            let lost = counter(&report, "queue_full") + counter(&report, "queue_late");
            let now = [counter(&report, "switched"), lost];
            let [packets, lost] = [now[0] - before[0], now[1] - before[1]];
            before = now;
            eprintln!(
                "{}: {lost} of {packets} packets dropped, {:.1} MB/s",
                transport.as_str(),
                download.rate()
            );
            assert!(packets > 50_000.0 && lost < packets * 0.02, "{report}");
        }
    });
}

/// The core begins, and so this takes TUN.
#[test]
fn curl_in_the_core_reaches_a_server_inside_a_tunnel() {
    let name = "curl_in_the_core_reaches_a_server_inside_a_tunnel";
    alone(name, || {
        let lab = Lab::new(Egress::Tun);
        let root = lab.path("www");
        fs::create_dir(&root).unwrap();
        let hash = file(&root.join("file"), 5_000_000);
        let local = "127.0.0.1:8000".parse().unwrap();
        let _nginx = nginx(Namespace::Access, &[local], &lab.path(""), &root);
        let fetched = lab.path("fetched");
        for transport in Transport::ALL {
            for server in [address::EDGE_V4, address::EDGE_V6] {
                let options = ClientOptions { transport, server };
                let (remote, inner) = connect(&lab, options, &["-R", "80:127.0.0.1:8000"]);
                assert_eq!(inner.len(), 2, "one of each family: {inner:?}");
                for host in inner {
                    let url = match host {
                        IpAddr::V4(host) => format!("http://{host}/file"),
                        IpAddr::V6(host) => format!("http://[{host}]/file"),
                    };
                    let what = format!("{transport:?} to {server}, {url}");
                    let download = curl(Namespace::Core.command("curl"), &url, &fetched, PATIENCE);
                    assert_eq!(download.status, 200, "{what}");
                    assert_eq!(sha256(&fetched), hash, "{what}");
                }
                assert!(remote.stop().status.success());
            }
        }
    });
}

/// `tsc_sip_server` in a tunnel, and where it serves HTTP: an address of each family.
fn sip_server(lab: &Lab, options: ClientOptions) -> (Process, [SocketAddr; 2]) {
    let mut command = lab.client("tsc_sip_server", options);
    command.args(["--open-registration", "--log-level", "info"]);
    let process = Process::start("tsc_sip_server", command);
    let address = |nth| {
        let line = process.wait_for_nth(nth, "HTTP server ready");
        let mut words = line.split_whitespace();
        let address = words.find_map(|word| word.strip_prefix("address="));
        address.unwrap().parse().unwrap()
    };
    let addresses: [SocketAddr; 2] = [address(0), address(1)];
    assert_ne!(addresses[0].is_ipv4(), addresses[1].is_ipv4());
    (process, addresses)
}

/// What the field that `name` begins says, in a file of header fields.
fn field(path: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let line = lines.find(|(field, _)| field.eq_ignore_ascii_case(name));
    line.map(|(_, value)| value.trim().to_owned())
}

/// The server itself is inside the tunnel, hyper over inner TCP, and curl knows nothing of that.
#[test]
fn curl_in_the_core_downloads_from_tsc_sip_server_in_a_tunnel() {
    const LENGTH: usize = 5_000_000;
    let name = "curl_in_the_core_downloads_from_tsc_sip_server_in_a_tunnel";
    alone(name, || {
        let lab = Lab::new(Egress::Tun);
        let mut data = vec![0; LENGTH];
        tsc_sip::pattern::fill(0, &mut data);
        let (wanted, fetched, head) = (lab.path("wanted"), lab.path("fetched"), lab.path("head"));
        fs::write(&wanted, &data).unwrap();
        let hash = sha256(&wanted);
        let script = format!("openssl dgst -sha256 -binary {} | base64", wanted.display());
        let digest = Command::new("sh").args(["-c", &script]).output().unwrap();
        let digest = String::from_utf8(digest.stdout).unwrap();
        let digest = format!("sha-256=:{}:", digest.trim());
        for transport in Transport::ALL {
            let options = ClientOptions {
                transport,
                ..ClientOptions::default()
            };
            let (server, addresses) = sip_server(&lab, options);
            for address in addresses {
                let ask = |arguments: &[&str], path: &str| {
                    let mut command = Namespace::Core.command("curl");
                    command.args(arguments).arg("--dump-header").arg(&head);
                    let url = format!("http://{address}{path}");
                    let download = curl(command, &url, &fetched, PATIENCE);
                    eprintln!("{transport:?} {arguments:?} {url}: {download:?}");
                    download
                };
                let path = format!("/bytes/{LENGTH}");
                // GET
                let download = ask(&[], &path);
                assert_eq!((download.status, download.bytes), (200, LENGTH as u64));
                assert_eq!(sha256(&fetched), hash);
                assert_eq!(field(&head, "repr-digest").as_ref(), Some(&digest));
                // HEAD: the same fields and nothing more.
                let download = ask(&["--head"], &path);
                assert_eq!((download.status, download.bytes), (200, 0));
                let length = field(&head, "content-length");
                assert_eq!(length, Some(LENGTH.to_string()));
                assert_eq!(field(&head, "repr-digest").as_ref(), Some(&digest));
                assert_eq!(field(&head, "accept-ranges").as_deref(), Some("bytes"));
                // Ranges, also one that there is not.
                let download = ask(&["--range", "1234567-2345678"], &path);
                assert_eq!(download.status, 206);
                assert!(fs::read(&fetched).unwrap() == data[1_234_567..=2_345_678]);
                let range = format!("bytes 1234567-2345678/{LENGTH}");
                assert_eq!(field(&head, "content-range"), Some(range));
                let download = ask(&["--range", "-1000"], &path);
                assert_eq!(download.status, 206);
                assert!(fs::read(&fetched).unwrap() == data[LENGTH - 1000..]);
                let download = ask(&["--range", "5000000-"], &path);
                assert_eq!(download.status, 416);
                // What there is not, what is too much, what is not done.
                assert_eq!(ask(&[], "/nothing").status, 404);
                assert_eq!(ask(&[], "/bytes/100000001").status, 413);
                assert_eq!(ask(&["--data", "x"], &path).status, 405);
            }
            assert!(server.stop().status.success());
        }
    });
}
