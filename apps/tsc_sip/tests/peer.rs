//! The server against a hand-made peer: what it refuses, how, and that strangers do not disturb a call.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{LOOPBACK, World, assert_both_directions, client, run};
use tokio::net::UdpSocket;
use tsc_sip::{
    report::Outcome,
    server::ServerOptions,
    sip::{HeaderName, Message, Response},
};

struct Peer {
    socket: UdpSocket,
    server: SocketAddr,
    branch: u32,
}

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";

impl Peer {
    async fn new(world: &World) -> Self {
        Self {
            socket: UdpSocket::bind((LOOPBACK, 0)).await.unwrap(),
            server: world.server.address(),
            branch: 0,
        }
    }

    fn request(&mut self, method: &str, uri: &str, more: &str, body: &str) -> String {
        self.branch += 1;
        let (local, branch) = (self.socket.local_addr().unwrap(), self.branch);
        let to = if more.contains("To:") {
            ""
        } else {
            "To: <sip:play@x>\r\n"
        };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKp{branch}\r\n\
             From: <sip:peer@x>;tag=peer\r\n{to}Call-ID: call{branch}@x\r\nCSeq: {branch} {method}\r\n\
             Contact: <sip:peer@{local}>\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn send(&self, text: &str) {
        self.socket
            .send_to(text.as_bytes(), self.server)
            .await
            .unwrap();
    }

    /// The next response that is not 100.
    async fn response(&self) -> Response {
        let mut buffer = vec![0; 4096];
        loop {
            let receive = self.socket.recv_from(&mut buffer);
            let (length, _) = tokio::time::timeout(common::PATIENCE, receive)
                .await
                .unwrap()
                .unwrap();
            match Message::parse(&buffer[..length]).unwrap() {
                Message::Response(response) if response.status.code() != 100 => return response,
                Message::Response(_) => {}
                Message::Request(request) => panic!("{request:?}"),
            }
        }
    }

    async fn ask(&mut self, method: &str, uri: &str, more: &str, body: &str) -> Response {
        let request = self.request(method, uri, more, body);
        self.send(&request).await;
        self.response().await
    }
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_refused_clearly() {
    let world = World::start(ServerOptions::default()).await;
    let mut peer = Peer::new(&world).await;
    let sdp = "Content-Type: application/sdp\r\n";
    let inside = "To: <sip:play@x>;tag=unknown\r\n";
    for (method, uri, more, body, code) in [
        ("SUBSCRIBE", "sip:play@x", "", "", 405),
        ("OPTIONS", "tel:+1", "", "", 416),
        ("OPTIONS", "sip:x", "Require: 100rel\r\n", "", 420),
        ("OPTIONS", "sip:x", "", "", 200),
        ("BYE", "sip:play@x", inside, "", 481),
        ("BYE", "sip:play@x", "", "", 481),
        ("INVITE", "sip:play@x", inside, "", 481),
        ("CANCEL", "sip:play@x", "", "", 481),
        ("INVITE", "sip:nobody@x", sdp, OFFER, 404),
        ("INVITE", "sip:play@x", "", "", 488),
        (
            "INVITE",
            "sip:play@x",
            "Content-Type: text/plain\r\n",
            "hello",
            415,
        ),
        ("INVITE", "sip:play@x", sdp, "v=1", 400),
        (
            "INVITE",
            "sip:play@x",
            sdp,
            "v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\n",
            488,
        ),
        ("REGISTER", "sip:x", "Expires: 1\r\n", "", 423),
    ] {
        let response = peer.ask(method, uri, more, body).await;
        assert_eq!(response.status.code(), code, "{method} {uri} {more}");
        assert!(response.head.to.tag().is_some());
        match code {
            405 => assert!(
                response
                    .head
                    .header(&HeaderName::Allow)
                    .unwrap()
                    .contains("INVITE")
            ),
            420 => assert_eq!(
                response.head.header(&HeaderName::Unsupported),
                Some("100rel")
            ),
            423 => assert_eq!(response.head.header(&HeaderName::MinExpires), Some("30")),
            _ => {}
        }
        if method == "INVITE" && code >= 300 {
            let number = peer.branch;
            let local = peer.socket.local_addr().unwrap();
            peer.send(&format!(
                "ACK {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKp{number}\r\n\
                 From: <sip:peer@x>;tag=peer\r\nTo: {}\r\nCall-ID: call{number}@x\r\nCSeq: {number} ACK\r\n\r\n",
                response.head.to
            ))
            .await;
        }
    }
}

#[tokio::test]
async fn a_call_without_ack_is_ended_with_bye() {
    let mut options = ServerOptions::default();
    options.timers.t1 = Duration::from_millis(10);
    let mut world = World::start(options).await;
    let mut peer = Peer::new(&world).await;
    let invite = peer.request(
        "INVITE",
        "sip:play@x",
        "Content-Type: application/sdp\r\n",
        OFFER,
    );
    peer.send(&invite).await;
    assert_eq!(peer.response().await.status.code(), 180);
    assert_eq!(peer.response().await.status.code(), 200);
    // A new offer within the call is refused, and the call goes on; the INVITE again is absorbed.
    let report = tokio::time::timeout(common::PATIENCE, world.server.next_report());
    let report = report.await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::CallFailed);
    assert_eq!(report.error.as_deref(), Some("no ACK came"));
}

#[tokio::test]
async fn strangers_do_not_disturb_a_call() {
    let mut world = World::start(ServerOptions::default()).await;
    let mut options = client(&world, "play");
    options.duration = Some(Duration::from_millis(1000));
    let caller = tokio::spawn(run(options));
    world.server.calls_up(1).await;
    let mut peer = Peer::new(&world).await;
    // Garbage, cut messages, floods of requests, a BYE for a call that is not theirs.
    for n in 0..200u32 {
        peer.send(&"\u{0}\u{1}garbage".repeat(5)).await;
        let options = peer.request("OPTIONS", "sip:x", "", "");
        peer.send(&options[..options.len() * (n as usize % 10) / 10])
            .await;
        let bye = peer.request("BYE", "sip:play@x", "To: <sip:play@x>;tag=guess\r\n", "");
        peer.send(&bye).await;
        if n % 20 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let report = caller.await.unwrap().unwrap();
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
    let callee = world.server.next_report().await.unwrap();
    assert_both_directions(&report.calls[0], &callee);
}
