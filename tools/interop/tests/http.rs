//! HTTP through tunnels: curl and nginx, which know nothing of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    fs,
    net::IpAddr,
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
