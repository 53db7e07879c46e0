//! Calls over a network that loses and doubles datagrams: SIP repeats, and the report counts right.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{LOOPBACK, PATIENCE};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tsc_sip::{
    client::{ClientOptions, run_client},
    media::Codec,
    net::{HostNet, InnerNet, InnerSocket},
    random::{Random, SeededRandom},
    report::{CallReport, Outcome},
    server::{ServerOptions, SipServer},
    stop::Stop,
    transaction::Timers,
};

/// Loses and doubles what is sent. RTCP passes unharmed, so that the final counts are known to both sides.
struct LossyNet {
    random: Arc<Mutex<SeededRandom>>,
    loss: f64,
    doubled: f64,
}

struct LossySocket {
    inner: UdpSocket,
    random: Arc<Mutex<SeededRandom>>,
    loss: f64,
    doubled: f64,
}

impl LossyNet {
    fn new(seed: u64, loss: f64, doubled: f64) -> Arc<Self> {
        let random = Arc::new(Mutex::new(SeededRandom::new(seed)));
        Arc::new(Self {
            random,
            loss,
            doubled,
        })
    }
}

impl InnerNet for LossyNet {
    type Socket = LossySocket;
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(peer).await
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(local).await
    }

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<LossySocket> {
        Ok(LossySocket {
            inner: UdpSocket::bind(local).await?,
            random: Arc::clone(&self.random),
            loss: self.loss,
            doubled: self.doubled,
        })
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![LOOPBACK]
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    async fn lost(&self) -> String {
        HostNet::new(LOOPBACK).lost().await
    }
}

impl InnerSocket for LossySocket {
    async fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.inner.connect(peer).await
    }

    async fn send_to(&self, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
        let is_rtcp = payload[0] == 0x80 | payload[0] & 0x1f && (200..=204).contains(&payload[1]);
        let (lost, doubled) = {
            let mut random = self.random.lock().unwrap();
            (
                random.fraction() < self.loss,
                random.fraction() < self.doubled,
            )
        };
        if lost && !is_rtcp {
            return Ok(payload.len());
        }
        if doubled && !is_rtcp {
            self.inner.send_to(payload, to).await?;
        }
        self.inner.send_to(payload, to).await
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.inner.recv_from(buffer).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

fn assert_counted(from: &CallReport, to: &CallReport) {
    assert_eq!(to.received + to.lost, from.sent, "{to:?}");
    assert!(to.lost > 0 && to.duplicated > 0, "{to:?}");
    // What arrived stands at its place, and nothing else does.
    let mut arrived = 0;
    let skipped = from
        .played
        .chunks(160)
        .position(|packet| to.heard.starts_with(packet))
        .unwrap();
    for (played, heard) in from
        .played
        .chunks(160)
        .skip(skipped)
        .zip(to.heard.chunks(160))
    {
        let is_gap = heard.iter().all(|code| *code == Codec::Pcmu.silence());
        assert!(is_gap || played == heard, "another packet's payload");
        arrived += u64::from(played == heard);
    }
    // Packets that are silent themselves look like gaps.
    assert!(arrived >= to.received, "{arrived} {to:?}");
}

#[tokio::test]
async fn signalling_survives_loss_and_the_report_counts_it() {
    let timers = Timers {
        t1: Duration::from_millis(40),
        t2: Duration::from_millis(320),
        t4: Duration::from_millis(400),
    };
    let tone: Vec<i16> = (0..8000).map(|n| 1000 + (n % 977) * 30).collect();
    let audio = tsc_sip::media::Audio::from_samples(tone);
    let server = ServerOptions {
        sip_port: 0,
        timers,
        play: audio.clone(),
        ..ServerOptions::default()
    };
    let mut server = SipServer::start(LossyNet::new(1, 0.2, 0.1), server)
        .await
        .unwrap();
    let mut options = ClientOptions::new("alice", "play");
    options.sip_server = Some(server.address());
    options.timers = timers;
    options.play = audio;
    options.duration = Some(Duration::from_millis(1500));
    for seed in 2..6 {
        let net = LossyNet::new(seed, 0.2, 0.1);
        let run = run_client(net, options.clone(), Stop::never());
        let report = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
        let caller = &report.calls[0];
        assert_eq!(caller.outcome, Outcome::Ok, "seed {seed}: {caller:?}");
        let callee = server.next_report().await.unwrap();
        assert_counted(caller, &callee);
        assert_counted(&callee, caller);
        assert!(
            caller.mos.unwrap() < 3.0,
            "a fifth of the packets is missing"
        );
    }
}
