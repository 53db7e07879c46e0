//! An encrypted tunnel beside a clear one, and somebody on the wire between client and server who reads along.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::interval,
};
use tsc_interop::{Egress, Lab, Namespace, Network, WireOptions, address, isolated};
use tsc_tapi::{
    Encryption, Notification, Notifications, Service, SocketError, TcpSocket, Tunnel, UdpSocket,
};

use crate::{
    FRAME, ROUND_TRIP, block_on, builder, close,
    media::{echo, source},
    soon, url,
};

/// What must not be read on the wire, and what may.
const SECRET: &[u8] = b"the number of the account is 4711 0815";
const PUBLIC: &[u8] = b"the weather will be fine for the time of year";

const INTERFACE: &str = r#"assigned-services = ["DTTE", "redundancy"]

[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = 5060
transport-protocol = ["tcp", "udp"]

[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = 5061
transport-protocol = ["tls", "dtls"]
tls-profile = "default"
"#;

/// Sends until it comes back: where packets are lost while a socket moves, that is not what is looked at here.
async fn echoed(socket: &UdpSocket, payload: &[u8], echo: SocketAddr) {
    let mut buffer = [0; 2048];
    for _ in 0..20 {
        socket.send_to(payload, echo).await.unwrap();
        // What was sent before may come late.
        let heard = async {
            loop {
                let (len, _) = socket.recv_from(&mut buffer).await.unwrap();
                if buffer[..len] == *payload {
                    return;
                }
            }
        };
        if tokio::time::timeout(5 * ROUND_TRIP, heard).await.is_ok() {
            return;
        }
    }
    panic!("nothing comes back");
}

/// Waits until the service is in force for a socket, or not any more; the address that it has then.
async fn until(notifications: &mut Notifications, wanted: bool) -> SocketAddr {
    loop {
        if let Notification::Service {
            service: Service::Dtte,
            available,
            enabled,
            address,
            ..
        } = soon(notifications.recv()).await.unwrap()
        {
            assert!(available);
            if enabled == wanted {
                return address;
            }
        }
    }
}

fn main_address(tunnel: &Tunnel) -> std::net::IpAddr {
    tunnel.config().ipv4().unwrap()
}

#[test]
fn what_is_encrypted_only_is_never_on_the_wire_in_clear() {
    isolated(
        "dtte::what_is_encrypted_only_is_never_on_the_wire_in_clear",
        || {
            let (network, wire) = Network::with_wire(WireOptions::round_trip(ROUND_TRIP));
            let lab = Lab::on(network, Egress::UserSpace, INTERFACE, "");
            wire.look_for(SECRET);
            wire.look_for(PUBLIC);
            block_on(async {
                let ((echo, _echo), (source, _source)) = (echo(), source());
                for clear in ["tcp", "udp"] {
                    let server = url(clear, address::EDGE_V4, 5060);
                    let tunnel = soon(builder(&lab, &[server]).connect()).await.unwrap();
                    let socket = tunnel.bind_udp("0.0.0.0:0".parse().unwrap()).unwrap();
                    echoed(&socket, PUBLIC, echo).await;

                    socket.set_encryption(Encryption::Only).unwrap();
                    let early = socket.try_send_to(SECRET, echo).unwrap_err();
                    assert_eq!(SocketError::of(&early), Some(&SocketError::NotEncrypted));
                    let own = soon(socket.encrypted()).await.unwrap();
                    assert_ne!(own.ip(), main_address(&tunnel));
                    echoed(&socket, SECRET, echo).await;

                    // A connection goes there with its first segment.
                    let connection = TcpSocket::new(&tunnel).encryption(Encryption::Only);
                    let mut connection = soon(connection.connect(source)).await.unwrap();
                    assert_eq!(connection.local_addr().unwrap().ip(), own.ip());
                    connection.write_all(SECRET).await.unwrap();
                    let mut bytes = [0; 64];
                    soon(connection.read_exact(&mut bytes)).await.unwrap();

                    // Without the encrypted tunnel nothing is sent, for as long as that takes.
                    let (mut sent, mut refused) = (0, 0);
                    Namespace::Access.run("nft add table inet wall");
                    Namespace::Access.run(
                        "nft add chain inet wall output { type filter hook output priority 0 ; policy accept ; }",
                    );
                    Namespace::Access.run("nft add rule inet wall output tcp dport 5061 drop");
                    Namespace::Access.run("nft add rule inet wall output udp dport 5061 drop");
                    let mut pace = interval(FRAME);
                    for _ in 0..400 {
                        pace.tick().await;
                        match socket.try_send_to(SECRET, echo) {
                            Ok(_) => sent += 1,
                            Err(_) => refused += 1,
                        }
                    }
                    eprintln!("{clear}: {sent} sent into nowhere, {refused} refused");
                    Namespace::Access.run("nft delete table inet wall");
                    echoed(&socket, SECRET, echo).await;

                    // The server could not tell it from one of the other IP version.
                    let port = socket.local_addr().unwrap().port();
                    let other = tunnel.bind_udp(format!("[::]:{port}").parse().unwrap());
                    let other = other.unwrap();
                    let refused = other.set_encryption(Encryption::Only).unwrap_err();
                    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
                    drop(other);
                    echoed(&socket, SECRET, echo).await;

                    socket.set_encryption(Encryption::Default).unwrap();
                    assert_eq!(socket.local_addr().unwrap().ip().to_string(), "0.0.0.0");
                    echoed(&socket, PUBLIC, echo).await;
                    // Whoever waits is told when the tunnel ends.
                    socket.set_encryption(Encryption::Only).unwrap();
                    drop(connection);
                    close(tunnel).await;
                    assert!(soon(socket.encrypted()).await.is_err());
                }
            });
            let (found, packets) = wire.found();
            eprintln!("{packets} packets on the wire; secret and public in {found:?}");
            assert_eq!(found[0], 0, "in clear");
            // Both ways, before and after, over both transports: whoever reads along can read.
            assert!(found[1] >= 8, "{found:?}");
        },
    );
}

#[test]
fn what_prefers_encryption_goes_on_without_it_and_returns() {
    isolated(
        "dtte::what_prefers_encryption_goes_on_without_it_and_returns",
        || {
            let (network, _wire) = Network::with_wire(WireOptions::round_trip(ROUND_TRIP));
            let lab = Lab::on(network, Egress::UserSpace, INTERFACE, "");
            block_on(async {
                let (echo, _echo) = echo();
                let server = url("udp", address::EDGE_V4, 5060);
                let tunnel = soon(builder(&lab, &[server]).connect()).await.unwrap();
                let mut notifications = tunnel.notifications();
                let main = main_address(&tunnel);
                let socket = tunnel.bind_udp(SocketAddr::new(main, 0)).unwrap();
                socket.set_encryption(Encryption::Preferred).unwrap();
                let moved = until(&mut notifications, true).await;
                assert_ne!(moved.ip(), main);
                assert_eq!(socket.local_addr().unwrap(), moved);
                echoed(&socket, SECRET, echo).await;

                Namespace::Access.run("nft add table inet wall");
                Namespace::Access.run(
                    "nft add chain inet wall output { type filter hook output priority 0 ; policy accept ; }",
                );
                Namespace::Access.run("nft add rule inet wall output udp dport 5061 drop");
                // That it is lost is noticed by those who send.
                let talk = async {
                    let mut pace = interval(FRAME);
                    loop {
                        pace.tick().await;
                        let _ = socket.try_send_to(PUBLIC, echo);
                    }
                };
                let back = tokio::select! {
                    back = until(&mut notifications, false) => back,
                    () = talk => unreachable!(),
                };
                assert_eq!(back.ip(), main);
                assert_eq!(socket.local_addr().unwrap(), back);
                let mut buffer = [0; 2048];
                while socket.try_recv_from(&mut buffer).is_ok() {}
                echoed(&socket, PUBLIC, echo).await;

                Namespace::Access.run("nft delete table inet wall");
                let again = until(&mut notifications, true).await;
                assert_eq!(again, moved, "resumed");
                echoed(&socket, SECRET, echo).await;
                close(tunnel).await;
            });
        },
    );
}
