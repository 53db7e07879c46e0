//! Media shed by the system: what passes and what does not, and what is told of the queue.
#![cfg(any(target_os = "linux", target_os = "android"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::future::poll_fn;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::timeout;
use tsc_osaa::datagram::{DatagramOptions, DatagramSocket, RecvBatch, Shed};

const LIMIT: Duration = Duration::from_secs(20);

/// Lengths of what is sent name it.
fn datagram(first: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[0] = first;
    bytes
}

struct Pair {
    server: DatagramSocket,
    client: UdpSocket,
    batch: RecvBatch,
}

impl Pair {
    fn new(address: &str) -> Option<Self> {
        let address: SocketAddr = address.parse().unwrap();
        let server = DatagramSocket::bind(address, &DatagramOptions::default()).ok()?;
        let client = UdpSocket::bind(SocketAddr::new(address.ip(), 0)).unwrap();
        client.connect(server.local_addr()).unwrap();
        Some(Self {
            server,
            client,
            batch: RecvBatch::new(4),
        })
    }

    /// Sends all, then a control message of one byte; what has arrived until that.
    async fn pass(&mut self, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for datagram in datagrams {
            self.client.send(datagram).unwrap();
        }
        self.client.send(&[0x10]).unwrap();
        let mut got = Vec::new();
        loop {
            let received = poll_fn(|cx| self.server.poll_recv(cx, &mut self.batch));
            timeout(LIMIT, received).await.unwrap().unwrap();
            for datagram in self.batch.datagrams() {
                if datagram.bytes.len() == 1 {
                    return got;
                }
                got.push(datagram.bytes.to_vec());
            }
        }
    }
}

fn kinds() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let passes = vec![
        // A control message, a STUN message, a DTLS handshake and alert, a Keepalive under DTLS.
        datagram(0x10, 200),
        datagram(0x00, 20),
        datagram(22, 1200),
        datagram(21, 60),
        datagram(23, 64),
        datagram(0x2f, 40),
    ];
    let media = vec![
        datagram(0x45, 200),
        datagram(0x60, 200),
        datagram(0x1c, 240),
        datagram(23, 65),
        datagram(25, 237),
        datagram(0x3f, 237),
    ];
    (passes, media)
}

#[tokio::test]
async fn media_is_shed_and_nothing_else() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Some(mut pair) = Pair::new(address) else {
            continue;
        };
        let (passes, media) = kinds();
        let all: Vec<_> = passes.iter().chain(&media).cloned().collect();
        assert_eq!(pair.pass(&all).await, all, "{address}");
        let before = pair.server.pressure().unwrap();
        pair.server.shed(Some(Shed { keep: 0 })).unwrap();
        assert_eq!(pair.pass(&all).await, passes, "{address}");
        let after = pair.server.pressure().unwrap();
        assert_eq!(after.dropped.wrapping_sub(before.dropped), 6, "{address}");
        assert!(after.room > 0 && after.percent() < 100);
        pair.server.shed(None).unwrap();
        pair.server.shed(None).unwrap();
        assert_eq!(pair.pass(&all).await, all, "{address}");
    }
}

#[tokio::test]
async fn a_share_is_kept() {
    let mut pair = Pair::new("127.0.0.1:0").unwrap();
    pair.server.shed(Some(Shed { keep: 1 << 14 })).unwrap();
    let media = vec![datagram(0x45, 60); 50];
    let mut kept = 0;
    for _ in 0..40 {
        kept += pair.pass(&media).await.len();
    }
    // A quarter of 2000: 500, with a deviation of 19.
    assert!((380..620).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_queue_that_nobody_reads_fills() {
    let mut options = DatagramOptions::default();
    options.recv_buffer = Some(32 * 1024);
    let server = DatagramSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(server.pressure().unwrap().percent(), 0);
    for _ in 0..2000 {
        client
            .send_to(&datagram(0x45, 1000), server.local_addr())
            .unwrap();
    }
    let pressure = server.pressure().unwrap();
    assert!(pressure.percent() > 50, "{pressure:?}");
    assert!(pressure.dropped > 1000, "{pressure:?}");
}
