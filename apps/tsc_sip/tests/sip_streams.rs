//! SIP over TCP as a peer sees it: framing, connection reuse, keepalives, hostile bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::{LOOPBACK, PATIENCE, World};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tsc_sip::{
    server::ServerOptions,
    sip::{
        Message, Request, Response,
        stream::{Frame, StreamFramer},
    },
};

struct Peer {
    stream: TcpStream,
    framer: StreamFramer,
}

impl Peer {
    async fn connect(world: &World) -> Self {
        Self::new(TcpStream::connect(world.server.address()).await.unwrap())
    }

    fn new(stream: TcpStream) -> Self {
        let framer = StreamFramer::default();
        Self { stream, framer }
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// `None` is the end of the stream.
    async fn frame(&mut self) -> Option<Frame> {
        let mut buffer = [0; 1000];
        loop {
            if let Some(frame) = self.framer.next_frame().unwrap() {
                return Some(frame);
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer));
            // A reset ends it, too.
            let length = read.await.unwrap().unwrap_or(0);
            if length == 0 {
                return None;
            }
            self.framer.push(&buffer[..length]);
        }
    }

    async fn response(&mut self) -> Response {
        match self.frame().await {
            Some(Frame::Message(message)) => match *message {
                Message::Response(response) => response,
                Message::Request(request) => panic!("{request:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    async fn request(&mut self) -> Request {
        match self.frame().await {
            Some(Frame::Message(message)) => match *message {
                Message::Request(request) => request,
                Message::Response(response) => panic!("{response:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn request(method: &str, branch: &str, via: &str, to: &str, body: &str) -> String {
    format!(
        "{method} sip:play@x SIP/2.0\r\nVia: SIP/2.0/TCP {via};branch=z9hG4bK{branch};alias\r\n\
         From: <sip:peer@x>;tag=peer\r\nTo: {to}\r\nCall-ID: {branch}@x\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:peer@{via};transport=tcp>\r\nContent-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn options(branch: &str) -> String {
    request("OPTIONS", branch, "127.0.0.1:9", "<sip:play@x>", "")
}

#[tokio::test]
async fn requests_may_come_in_any_pieces_and_are_answered_on_their_connection() {
    let world = World::start(ServerOptions::default()).await;
    let mut peer = Peer::connect(&world).await;
    for byte in options("1").chars() {
        peer.say(&byte.to_string()).await;
    }
    assert_eq!(peer.response().await.head.call_id, "1@x");
    peer.say(&(options("2") + &options("3"))).await;
    let mut ids = [peer.response().await, peer.response().await].map(|r| r.head.call_id);
    ids.sort();
    assert_eq!(ids, ["2@x", "3@x"]);
}

#[tokio::test]
async fn pings_are_answered_and_what_is_malformed_is_skipped() {
    let world = World::start(ServerOptions::default()).await;
    let mut peer = Peer::connect(&world).await;
    peer.say("\r\n\r\n").await;
    assert_eq!(peer.frame().await, Some(Frame::Pong));
    let odd = "ODD\r\nContent-Length: 2\r\n\r\nxx";
    peer.say(&(odd.to_owned() + &options("1"))).await;
    assert_eq!(peer.response().await.head.call_id, "1@x");
}

#[tokio::test]
async fn streams_without_lengths_are_closed_and_others_are_unharmed() {
    let world = World::start(ServerOptions::default()).await;
    let mut good = Peer::connect(&world).await;
    for bytes in [
        options("1").replace("Content-Length: 0\r\n", ""),
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "x".repeat(20_000),
    ] {
        let mut bad = Peer::connect(&world).await;
        // It may be closed before all is written.
        let _ = bad.stream.write_all(bytes.as_bytes()).await;
        assert_eq!(bad.frame().await, None);
    }
    good.say(&options("2")).await;
    assert_eq!(good.response().await.head.call_id, "2@x");
}

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";

async fn call_up(peer: &mut Peer, contact: &str) {
    let invite = request("INVITE", "c", contact, "<sip:play@x>", OFFER);
    peer.say(&invite).await;
    let answer = loop {
        let response = peer.response().await;
        if response.status.is_success() {
            break response;
        }
        assert!(response.status.is_provisional(), "{response:?}");
    };
    let ack = request("ACK", "c", contact, &answer.head.to.to_string(), "");
    peer.say(&ack).await;
}

#[tokio::test]
async fn what_the_server_asks_comes_by_the_connection_that_there_is() {
    let world = World::start(ServerOptions::default()).await;
    let mut peer = Peer::connect(&world).await;
    // Nobody listens at that port; `alias` says that our connection stands for it.
    call_up(&mut peer, "127.0.0.1:9").await;
    world.server.hang_up();
    let bye = peer.request().await;
    assert_eq!(bye.method.as_str(), "BYE");
    let ok = bye.response(tsc_sip::sip::StatusCode::OK, "").encode();
    peer.stream.write_all(&ok).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn without_that_connection_the_server_opens_one() {
    let world = World::start(ServerOptions::default()).await;
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let contact = listener.local_addr().unwrap().to_string();
    let mut peer = Peer::connect(&world).await;
    call_up(&mut peer, &contact).await;
    peer.say("x\r\n\r\n").await;
    assert_eq!(peer.frame().await, None, "closed for want of a length");
    world.server.hang_up();
    let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
    let mut peer = Peer::new(accepted.unwrap().unwrap().0);
    let bye = peer.request().await;
    assert_eq!(bye.method.as_str(), "BYE");
    let ok = bye.response(tsc_sip::sip::StatusCode::OK, "").encode();
    peer.stream.write_all(&ok).await.unwrap();
    world.stop().await;
}
