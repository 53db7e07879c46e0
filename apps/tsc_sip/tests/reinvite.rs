//! Offers in the middle of a call, against a hand-made telephone: who goes on where, and what happens when both ask.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{net::SocketAddr, sync::Arc};

use common::{LOOPBACK, PATIENCE, fragile::FragileNet};
use tokio::net::UdpSocket;
use tsc_sip::{
    net::{HostNet, InnerNet},
    report::{CallReport, Outcome},
    sdp::Description,
    server::{ServerOptions, SipServer},
    sip::{Head, Message, Method, Request, Response, StatusCode},
};

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

async fn start<N: InnerNet>(net: &Arc<N>) -> SipServer {
    let options = ServerOptions {
        sip_port: 0,
        ..ServerOptions::default()
    };
    SipServer::start(Arc::clone(net), options).await.unwrap()
}

async fn socket() -> UdpSocket {
    UdpSocket::bind((LOOPBACK, 0)).await.unwrap()
}

/// A telephone in one call, at its server.
struct Phone {
    sip: UdpSocket,
    rtp: UdpSocket,
    server: SocketAddr,
    to: String,
    cseq: u32,
}

impl Phone {
    async fn new(server: SocketAddr) -> Self {
        Self {
            sip: socket().await,
            rtp: socket().await,
            server,
            to: "<sip:play@x>".to_owned(),
            cseq: 0,
        }
    }

    /// From now on it is elsewhere.
    async fn go_elsewhere(&mut self) {
        (self.sip, self.rtp) = (socket().await, socket().await);
    }

    fn offer(&self) -> String {
        let port = self.rtp.local_addr().unwrap().port();
        format!(
            "v=0\r\no=- 1 {} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n",
            self.cseq
        )
    }

    async fn send(&self, method: &str, branch: &str, body: &str) {
        let (local, cseq, to) = (self.sip.local_addr().unwrap(), self.cseq, &self.to);
        let text = format!(
            "{method} sip:play@x SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{branch}{cseq}\r\n\
             From: <sip:peer@x>;tag=peer\r\nTo: {to}\r\nCall-ID: call@x\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:peer@{local}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.sip
            .send_to(text.as_bytes(), self.server)
            .await
            .unwrap();
    }

    async fn receive(&self) -> Message {
        let mut buffer = vec![0; 4096];
        let (length, _) = soon(self.sip.recv_from(&mut buffer)).await.unwrap();
        Message::parse(&buffer[..length]).unwrap()
    }

    /// The next request that is none of these again.
    async fn request(&self, known: &[&Request]) -> Request {
        loop {
            match self.receive().await {
                Message::Request(request) if !known.contains(&&request) => return request,
                Message::Request(_) | Message::Response(_) => {}
            }
        }
    }

    async fn answer(&self, request: &Request, status: StatusCode, body: &str) {
        let mut response = request.response(status, "");
        if !body.is_empty() {
            response
                .head
                .set_body("application/sdp", body.as_bytes().to_vec());
        }
        let to = request.head.via[0].response_address().unwrap();
        self.sip.send_to(&response.encode(), to).await.unwrap();
    }

    /// INVITE, its final response, and the ACK for it.
    async fn invite(&mut self, body: &str) -> Response {
        self.cseq += 1;
        self.send("INVITE", "invite", body).await;
        let response = loop {
            match self.receive().await {
                Message::Response(response)
                    if !response.status.is_provisional()
                        && response.head.cseq.number == self.cseq =>
                {
                    break response;
                }
                Message::Response(_) | Message::Request(_) => {}
            }
        };
        self.to = response.head.to.to_string();
        let branch = if response.status.is_success() {
            "ack"
        } else {
            "invite"
        };
        self.send("ACK", branch, "").await;
        response
    }

    async fn offer_again(&mut self) -> Response {
        let offer = self.offer();
        self.invite(&offer).await
    }

    /// Waits for a packet of the server's media, and sends one to where it said that it wants it.
    async fn talk(&self, answer: &Head) {
        let mut buffer = [0; 2048];
        let (length, _) = soon(self.rtp.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(length, 172);
        let answer = Description::parse(&answer.body).unwrap();
        let to = SocketAddr::new(answer.connection.unwrap(), answer.media[0].port);
        let mut packet = vec![0x80, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
        packet.resize(172, 0x7f);
        self.rtp.send_to(&packet, to).await.unwrap();
    }

    /// Takes the server's BYE, here where it is now.
    async fn take_bye(&self, server: &SipServer) {
        server.hang_up();
        loop {
            let request = self.request(&[]).await;
            if request.method == Method::Bye {
                self.answer(&request, StatusCode::OK, "").await;
                return;
            }
        }
    }
}

async fn assert_ended_well(mut server: SipServer, moves: u32) -> CallReport {
    let report = soon(server.next_report()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Ok, "{report:?}");
    assert_eq!(report.moves, moves, "{report:?}");
    report
}

fn described(head: &Head) -> Description {
    Description::parse(&head.body).unwrap()
}

#[tokio::test]
async fn the_server_goes_on_where_the_caller_says_that_it_is() {
    let server = start(&Arc::new(HostNet::new(LOOPBACK))).await;
    let mut phone = Phone::new(server.address()).await;
    let first = phone.offer_again().await;
    assert!(first.status.is_success());
    phone.talk(&first.head).await;

    phone.go_elsewhere().await;
    let second = phone.offer_again().await;
    assert_eq!(second.status, StatusCode::OK);
    let contact = second.head.contacts.first().unwrap();
    assert_eq!(contact, first.head.contacts.first().unwrap());
    // Nothing about the server is new, so its description has the same version (RFC 3264 8).
    assert_eq!(described(&second.head), described(&first.head));
    phone.talk(&second.head).await;

    // What is not understood leaves the call as it is.
    let refused = phone.invite("").await;
    assert_eq!(refused.status, StatusCode::NOT_ACCEPTABLE_HERE);
    let other = phone.offer().replace("RTP/AVP 0", "RTP/AVP 8");
    let refused = phone.invite(&other).await;
    assert_eq!(refused.status, StatusCode::NOT_ACCEPTABLE_HERE);
    phone.talk(&second.head).await;
    phone.take_bye(&server).await;
    assert_ended_well(server, 1).await;
}

#[tokio::test]
async fn a_call_can_be_put_on_hold() {
    let server = start(&Arc::new(HostNet::new(LOOPBACK))).await;
    let mut phone = Phone::new(server.address()).await;
    let first = phone.offer_again().await;
    phone.talk(&first.head).await;
    let hold = phone.offer() + "a=inactive\r\n";
    let held = phone.invite(&hold).await;
    assert_eq!(held.status, StatusCode::OK);
    let (before, now) = (described(&first.head), described(&held.head));
    assert_eq!(now.id, (before.id.0, before.id.1 + 1), "something is new");
    assert_eq!(now.media[0].direction, tsc_sip::sdp::Direction::Inactive);
    let back = phone.offer_again().await;
    assert_eq!(described(&back.head).id.1, now.id.1 + 1);
    phone.talk(&back.head).await;
    phone.take_bye(&server).await;
    assert_ended_well(server, 0).await;
}

#[tokio::test]
async fn offers_that_cross_are_sorted_out() {
    let (first, second) = (
        FragileNet::new([127, 0, 9, 1]),
        FragileNet::new([127, 0, 9, 2]),
    );
    let server = start(&first).await;
    let mut phone = Phone::new(server.address()).await;
    let answer = phone.offer_again().await;
    phone.talk(&answer.head).await;

    first.succeed(Ok(Arc::clone(&second)));
    first.pull().await;
    let offer = phone.request(&[]).await;
    assert_eq!(offer.method, Method::Invite);
    let contact = offer.head.contacts.first().unwrap().sip().unwrap();
    phone.server = contact.hop().unwrap().address;
    assert_eq!(phone.server.ip().to_string(), "127.0.9.2");
    let (before, now) = (described(&answer.head), described(&offer.head));
    assert_eq!(now.connection.unwrap(), phone.server.ip());
    assert_eq!(now.id, (before.id.0, before.id.1 + 1));
    assert_eq!(now.origin, before.origin, "the same session (RFC 3264 8)");

    // We were about to ask ourselves: then both have to wait, and the server asks again.
    phone.answer(&offer, StatusCode::REQUEST_PENDING, "").await;
    let ack = phone.request(&[&offer]).await;
    assert_eq!(ack.method, Method::Ack);
    let again = phone.request(&[&offer, &ack]).await;
    assert_eq!(again.method, Method::Invite);
    assert!(again.head.cseq.number > offer.head.cseq.number);
    let crossing = phone.offer_again().await;
    assert_eq!(crossing.status, StatusCode::REQUEST_PENDING);

    // But who has moved meanwhile will never get that question: its own is answered.
    phone.go_elsewhere().await;
    let taken = phone.offer_again().await;
    assert_eq!(taken.status, StatusCode::OK);
    assert_eq!(described(&taken.head).connection, now.connection);
    phone.talk(&taken.head).await;
    phone.take_bye(&server).await;
    assert_ended_well(server, 2).await;
}

#[tokio::test]
async fn a_refusal_to_go_on_ends_the_call_with_bye() {
    let (first, second) = (
        FragileNet::new([127, 0, 10, 1]),
        FragileNet::new([127, 0, 10, 2]),
    );
    let mut server = start(&first).await;
    let mut phone = Phone::new(server.address()).await;
    let answer = phone.offer_again().await;
    phone.talk(&answer.head).await;
    first.succeed(Ok(second));
    first.pull().await;
    let offer = phone.request(&[]).await;
    phone
        .answer(&offer, StatusCode::NOT_ACCEPTABLE_HERE, "")
        .await;
    loop {
        let request = phone.request(&[&offer]).await;
        if request.method == Method::Bye {
            phone.answer(&request, StatusCode::OK, "").await;
            break;
        }
    }
    let report = soon(server.next_report()).await.unwrap();
    assert_eq!(report.outcome, Outcome::CallFailed);
    let error = report.error.unwrap();
    assert!(
        error.contains("does not go on with the call: 488"),
        "{error}"
    );
}
