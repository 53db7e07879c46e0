//! Reports about the quality of media, of a real stream through a real tunnel that loses packets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

use std::{net::SocketAddr, time::Duration};

use tokio::time::timeout;
use tsc_demo::{
    lab::{Lab, LabOptions, Side},
    relay::{BadNetwork, Relay},
};
use tsc_tapi::{
    DtlsBackendKind, Notification, Notifications, Redundancy, Server, Transport, Tunnel, UdpSocket,
    media::{MediaQuality, MediaWatch},
};

const LIMIT: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

fn bind(tunnel: &Tunnel) -> UdpSocket {
    let address = tunnel.config().ipv4().unwrap();
    tunnel.bind_udp(SocketAddr::new(address, 0)).unwrap()
}

/// G.711 from now on, until it is dropped.
struct Speaker(tokio::task::JoinHandle<()>);

impl Drop for Speaker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Speaker {
    fn start(from: UdpSocket, to: SocketAddr) -> Self {
        Self(tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            for number in 0_u16.. {
                pace.tick().await;
                let mut packet = vec![0x80, 0];
                packet.extend(number.to_be_bytes());
                packet.extend((u32::from(number) * 160).to_be_bytes());
                packet.extend(7_u32.to_be_bytes());
                packet.extend([0xFF; 160]);
                from.send_to(&packet, to).await.unwrap();
            }
        }))
    }
}

async fn report(notifications: &mut Notifications, socket: SocketAddr) -> MediaQuality {
    loop {
        match soon(notifications.recv()).await {
            Some(Notification::MediaQuality {
                socket: told,
                quality,
            }) => {
                assert_eq!(told, socket);
                return quality;
            }
            Some(Notification::Down(reason)) => panic!("{reason:?}"),
            None => panic!("no tunnel"),
            Some(_) => {}
        }
    }
}

/// Losses raise an alarm; redundancy mends them, and the alarm ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_raised_by_losses_and_ended_by_redundancy() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let backend = DtlsBackendKind::OpenSsl;
    let server = lab
        .server_for(Side::Access, Transport::Udp, backend)
        .unwrap();
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), server.port().unwrap());
    let network = BadNetwork {
        loss: 0.15,
        delay: Duration::from_millis(5),
        ..BadNetwork::default()
    };
    let relay = Relay::start(address, network).await.unwrap();
    let server = Server::new(Transport::Udp, "127.0.0.1", relay.address().port());
    let near = soon(Tunnel::builder(server).connect()).await.unwrap();
    let far = lab.tunnel(Transport::Tcp, backend).unwrap().connect();
    let far = soon(far).await.unwrap();

    let ear = bind(&near);
    let local = ear.local_addr().unwrap();
    let mut notifications = near.notifications();
    ear.watch_media(MediaWatch::Detect).unwrap();
    assert!(ear.media_quality().is_none());
    let _speaker = Speaker::start(bind(&far), local);
    let bad = report(&mut notifications, local).await;
    assert!(bad.alarms.loss && bad.loss > 0.05, "{bad:?}");
    assert!(
        bad.mos < 4.0 && bad.round_trip.is_some() && bad.ssrc == 7,
        "{bad:?}"
    );

    ear.set_redundancy(Redundancy::Copies(2)).unwrap();
    let good = report(&mut notifications, local).await;
    assert!(!good.alarms.loss && good.loss < 0.05, "{good:?}");
    assert!(good.mos > bad.mos, "{bad:?} {good:?}");
    assert_eq!(ear.media_quality().map(|quality| quality.ssrc), Some(7));
    ear.watch_media(MediaWatch::Off).unwrap();
    assert!(ear.media_quality().is_none());
}
