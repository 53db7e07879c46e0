//! Send queues of real connections whose peer is slower than the traffic.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::{
    io::IoSlice,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use common::{Ca, bounded};
use tokio::net::{TcpListener, TcpStream};
use tsc_osaa::{
    cert::ServerName,
    socket::StreamOptions,
    stream::{QueueError, RECV_BUFFER, StreamTransport},
};

const MEDIA: u16 = 5004;
const SIP: u16 = 5060;
const LENGTH: usize = 200;

/// An inner IPv4 packet with a number, to a UDP port; `protocol` 6 makes it one of TCP.
fn packet(protocol: u8, port: u16, number: u32) -> Vec<u8> {
    let mut packet = vec![0; LENGTH];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(LENGTH).unwrap().to_be_bytes());
    packet[9] = protocol;
    packet[20..22].copy_from_slice(&40_000u16.to_be_bytes());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[28..32].copy_from_slice(&number.to_be_bytes());
    packet
}

/// Port and number of each packet of a stream.
fn packets(bytes: &[u8]) -> Vec<(u16, u32)> {
    bytes
        .chunks(LENGTH)
        .map(|packet| {
            assert_eq!(
                (packet[0], packet.len()),
                (0x45, LENGTH),
                "cut in the middle"
            );
            let port = u16::from_be_bytes(packet[22..24].try_into().unwrap());
            (port, u32::from_be_bytes(packet[28..32].try_into().unwrap()))
        })
        .collect()
}

async fn pair(is_tls: bool) -> (StreamTransport, StreamTransport) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    let options = StreamOptions::server();
    if !is_tls {
        let plain = |socket| StreamTransport::plain(socket, &options).unwrap();
        return (plain(near), plain(far));
    }
    let ca = Ca::new("root");
    let (client, server) = (ca.client_security(), ca.server_security());
    let name = ServerName::try_from("localhost").unwrap();
    let (near, far) = tokio::join!(
        StreamTransport::tls_client(near, &client, name, &options),
        StreamTransport::tls_server(far, &server, &options),
    );
    (near.unwrap(), far.unwrap())
}

/// Sends bulk data until the connection takes no more.
fn stall(near: &mut StreamTransport) {
    let mut cx = Context::from_waker(Waker::noop());
    let unit = packet(6, 80, 0);
    for _ in 0..1_000_000 {
        match near.queue(&unit) {
            Ok(()) => {}
            Err(QueueError::Full) => {
                if near.poll_flush(&mut cx).is_pending() {
                    // Full, whatever that has sent.
                    while near.queue(&unit).is_ok() {}
                    return;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("something must fill up");
}

/// All that `far` gets while `near` sends the rest of its queue.
async fn drain(near: &mut StreamTransport, far: &mut StreamTransport) -> Vec<(u16, u32)> {
    let sender = async {
        near.flush().await.unwrap();
        std::future::poll_fn(|cx| near.poll_shutdown(cx))
            .await
            .unwrap();
    };
    let receiver = async {
        let mut buffer = vec![0; RECV_BUFFER];
        let mut all = Vec::new();
        while let Ok(len) = far.recv(&mut buffer).await {
            all.extend_from_slice(&buffer[..len]);
        }
        all
    };
    let ((), all) = tokio::join!(sender, receiver);
    packets(&all)
}

#[tokio::test]
async fn a_stalled_reader_gets_signalling_then_the_media_of_the_last_200_ms() {
    for is_tls in [false, true] {
        bounded(async move {
            let (mut near, mut far) = pair(is_tls).await;
            stall(&mut near);
            let before = near.unsent();
            let mut cx = Context::from_waker(Waker::noop());
            // 10 s of media, one packet each millisecond, and ten SIP messages, by a clock of our own.
            let start = Instant::now();
            for ms in 0..10_000 {
                let now = start + Duration::from_millis(ms.into());
                near.queue_at(now, &packet(17, MEDIA, ms)).unwrap();
                if ms % 1000 == 0 {
                    near.queue_at(now, &packet(17, SIP, ms)).unwrap();
                }
                assert!(near.unsent() <= before + (201 + 10) * LENGTH);
            }
            assert!(near.poll_flush(&mut cx).is_pending());
            let drops = near.take_drops();
            assert!(drops.late >= 10_000 - 201 && drops.full == 0, "{drops:?}");

            let got = drain(&mut near, &mut far).await;
            let of = |port| got.iter().filter(move |packet| packet.0 == port);
            let sip: Vec<u32> = of(SIP).map(|packet| packet.1).collect();
            assert_eq!(sip, (0..10_000).step_by(1000).collect::<Vec<_>>());
            // What is left of the media can only have become less, by its age.
            let media: Vec<u32> = of(MEDIA).map(|packet| packet.1).collect();
            assert!(media.len() <= 201, "{}", media.len());
            assert!(media.iter().all(|number| *number >= 10_000 - 201));
            assert!(media.windows(2).all(|pair| pair[0] < pair[1]));
            let last_sip = got.iter().rposition(|packet| packet.0 == SIP).unwrap();
            let first_media = got.iter().position(|packet| packet.0 == MEDIA);
            assert!(first_media.is_none_or(|first| first > last_sip));
        })
        .await;
    }
}

#[tokio::test]
async fn packets_without_room_are_dropped_and_hold_up_nothing() {
    bounded(async {
        let (mut near, mut far) = pair(false).await;
        stall(&mut near);
        // A batch as the client's driver hands it over: its bulk data has no room, the others have.
        let batch = [packet(6, 80, 1), packet(17, SIP, 2), packet(17, MEDIA, 3)];
        let slices: Vec<IoSlice<'_>> = batch.iter().map(|unit| IoSlice::new(unit)).collect();
        assert_eq!(near.send_vectored(&slices).unwrap(), 3);
        assert_eq!(near.take_drops().full, 1);
        let got = drain(&mut near, &mut far).await;
        assert!(got.contains(&(SIP, 2)) && !got.contains(&(80, 1)));
    })
    .await;
}

#[tokio::test]
async fn control_messages_pass_everything() {
    bounded(async {
        let (mut near, mut far) = pair(true).await;
        stall(&mut near);
        near.queue(&packet(17, SIP, 1)).unwrap();
        // No IP packet, but as long as one, so that the stream can be cut.
        let mut control = vec![0x10; LENGTH];
        control[22..24].copy_from_slice(&7u16.to_be_bytes());
        near.queue(&control).unwrap();
        let mut buffer = vec![0; RECV_BUFFER];
        let mut all = Vec::new();
        let sender = async {
            near.flush().await.unwrap();
            std::future::pending::<()>().await;
        };
        let receiver = async {
            while !all
                .windows(LENGTH)
                .any(|window| window == packet(17, SIP, 1))
            {
                let len = far.recv(&mut buffer).await.unwrap();
                all.extend_from_slice(&buffer[..len]);
            }
        };
        // Nobody reads what comes behind.
        tokio::select! {
            () = sender => {}
            () = receiver => {}
        }
        let find = |unit: &[u8]| all.chunks(LENGTH).position(|chunk| chunk == unit);
        assert!(find(&control).unwrap() < find(&packet(17, SIP, 1)).unwrap());
    })
    .await;
}
