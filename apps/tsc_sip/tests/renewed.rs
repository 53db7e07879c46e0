//! A network that goes away in the middle of calls, and another that takes its place: calls go on there, and new ones are made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use common::{LOOPBACK, PATIENCE, fragile::FragileNet};
use tokio::{net::UdpSocket, task::JoinHandle};
use tsc_sip::{
    client::{ClientError, ClientOptions, ClientReport, run_client},
    net::{HostNet, RenewError},
    report::{CallReport, Outcome},
    server::{ServerOptions, SipServer},
    sip::{Message, Method, Request, StatusCode, Transport},
    stop::{Stop, Stopper},
};

/// Packets that show that media flows.
const SOME: u64 = 10;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

fn caller(server: &SipServer) -> ClientOptions {
    let mut options = ClientOptions::new("alice", "play");
    options.sip_server = Some(server.address());
    options.duration = Some(PATIENCE);
    options
}

fn callee() -> ServerOptions {
    ServerOptions {
        sip_port: 0,
        ..ServerOptions::default()
    }
}

async fn on_the_host() -> SipServer {
    let host = Arc::new(HostNet::new(LOOPBACK));
    SipServer::start(host, callee()).await.unwrap()
}

type Caller = JoinHandle<Result<ClientReport, ClientError>>;

/// A caller in a network that may go away, in a call.
async fn call(
    net: &Arc<FragileNet>,
    server: &mut SipServer,
    options: ClientOptions,
) -> (Caller, Stopper) {
    let (stopper, stop) = Stopper::new();
    let caller = tokio::spawn(run_client(Arc::clone(net), options, stop));
    soon(server.calls_up(1)).await;
    soon(net.heard(SOME)).await;
    (caller, stopper)
}

async fn end(caller: Caller) -> ClientReport {
    soon(caller).await.unwrap().unwrap()
}

/// The call went on to its orderly end, having moved so often; more was heard than had gone out since.
fn assert_went_on(report: &CallReport, moves: u32, heard_since: u64) {
    assert_eq!(report.outcome, Outcome::Ok, "{report:?}");
    assert_eq!(report.moves, moves, "{report:?}");
    assert!(report.received >= heard_since, "{heard_since}: {report:?}");
}

#[tokio::test]
async fn a_call_goes_on_when_the_callers_network_is_another() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut server = on_the_host().await;
        let (first, second) = (
            FragileNet::new([127, 0, 1, 1]),
            FragileNet::new([127, 0, 1, 2]),
        );
        let mut options = caller(&server);
        options.transport = transport;
        let (caller, stopper) = call(&first, &mut server, options).await;
        first.succeed(Ok(Arc::clone(&second)));
        first.pull().await;
        let sent = soon(second.heard(SOME)).await;
        stopper.stop();
        let report = end(caller).await;
        assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
        assert_went_on(&report.calls[0], 1, SOME);
        let [renewal] = report.renewals.as_slice() else {
            panic!("{:?}", report.renewals)
        };
        assert_eq!(renewal.reason, "pulled out");
        assert_eq!(renewal.address.to_string(), "127.0.1.2");
        let callee = soon(server.next_report()).await.unwrap();
        assert_went_on(&callee, 1, sent);
    }
}

#[tokio::test]
async fn a_call_goes_on_when_the_callees_network_is_another() {
    let (first, second) = (
        FragileNet::new([127, 0, 2, 1]),
        FragileNet::new([127, 0, 2, 2]),
    );
    let mut server = SipServer::start(Arc::clone(&first), callee())
        .await
        .unwrap();
    let mut renewals = server.renewals().unwrap();
    let host = Arc::new(HostNet::new(LOOPBACK));
    let (stopper, stop) = Stopper::new();
    let caller_task = tokio::spawn(run_client(Arc::clone(&host), caller(&server), stop));
    soon(server.calls_up(1)).await;
    soon(first.heard(SOME)).await;
    let before = server.address();

    first.succeed(Ok(Arc::clone(&second)));
    first.pull().await;
    let sent = soon(second.heard(SOME)).await;
    let renewal = soon(renewals.recv()).await.unwrap();
    assert_eq!(renewal.address, server.address().ip());
    assert_ne!(before, server.address());
    stopper.stop();
    let report = end(caller_task).await;
    assert_went_on(&report.calls[0], 1, sent);
    assert!(report.renewals.is_empty(), "the caller's network stayed");
    let callee = soon(server.next_report()).await.unwrap();
    assert_went_on(&callee, 1, SOME);

    // And the next call finds it.
    let mut options = caller(&server);
    options.duration = Some(Duration::from_millis(200));
    let report = soon(run_client(host, options, Stop::never()))
        .await
        .unwrap();
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
}

/// A port of an address that nobody else uses.
async fn port(address: [u8; 4]) -> u16 {
    let socket = UdpSocket::bind(SocketAddr::from((address, 0))).await;
    socket.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_call_goes_on_when_both_have_moved() {
    // The SIP server comes back where it was, as the one that a tunnel server assigns.
    let address = [127, 0, 3, 1];
    let (first, second) = (FragileNet::new(address), FragileNet::new(address));
    let options = ServerOptions {
        sip_port: port(address).await,
        ..ServerOptions::default()
    };
    let mut server = SipServer::start(Arc::clone(&first), options).await.unwrap();
    let (here, there) = (
        FragileNet::new([127, 0, 3, 2]),
        FragileNet::new([127, 0, 3, 3]),
    );
    let options = caller(&server);
    let (caller, stopper) = call(&here, &mut server, options).await;

    first.succeed(Ok(Arc::clone(&second)));
    here.succeed(Ok(Arc::clone(&there)));
    tokio::join!(first.pull(), here.pull());
    let sent = soon(second.heard(SOME)).await;
    soon(there.heard(SOME)).await;
    stopper.stop();
    let report = end(caller).await;
    let caller = &report.calls[0];
    assert_eq!(caller.outcome, Outcome::Ok, "{caller:?}");
    assert!(caller.moves >= 1 && caller.received >= sent, "{caller:?}");
    let callee = soon(server.next_report()).await.unwrap();
    assert_went_on(&callee, 2, SOME);
}

#[tokio::test]
async fn a_call_that_the_other_side_does_not_hold_any_more_ends() {
    let options = ServerOptions {
        media_timeout: Duration::from_millis(500),
        ..callee()
    };
    let host = Arc::new(HostNet::new(LOOPBACK));
    let mut server = SipServer::start(host, options).await.unwrap();
    let (first, second) = (
        FragileNet::new([127, 0, 4, 1]),
        FragileNet::new([127, 0, 4, 2]),
    );
    let options = caller(&server);
    let (caller, _stopper) = call(&first, &mut server, options).await;
    first.pull().await;
    // Nothing comes from the caller for too long.
    let callee = soon(server.next_report()).await.unwrap();
    assert_eq!(callee.outcome, Outcome::CallFailed);
    first.succeed(Ok(second));
    let report = end(caller).await;
    assert_eq!(report.outcome(), Outcome::CallFailed, "{report:?}");
    let error = report.calls[0].error.as_ref().unwrap();
    assert!(
        error.contains("does not hold the call any more: 481"),
        "{error}"
    );
    assert_eq!(report.renewals.len(), 1);
    assert!(report.calls[0].received >= SOME, "reported up to there");
}

#[tokio::test]
async fn what_cannot_go_on_ends_with_its_network_and_the_next_call_works() {
    let mut server = on_the_host().await;
    let (first, second) = (
        FragileNet::new([127, 0, 5, 1]),
        FragileNet::new([127, 0, 5, 2]),
    );
    let mut options = caller(&server);
    // The second call begins a second after the first.
    options.calls = 2;
    options.rate = std::num::NonZeroU16::new(1);
    // A chat has a connection, which ends with its network; this one would last.
    options.sessions.chats = 1;
    options.sessions.messages = usize::MAX;
    let (caller, stopper) = call(&first, &mut server, options).await;
    first.pull().await;
    first.succeed(Ok(Arc::clone(&second)));
    soon(server.calls_up(2)).await;
    // Of both calls.
    soon(second.heard(second.came() + 4 * SOME)).await;
    stopper.stop();
    let report = end(caller).await;
    assert_went_on(&report.calls[0], 1, SOME);
    assert_went_on(&report.calls[1], 0, SOME);
    let chat = &report.chats[0];
    assert_eq!(chat.outcome, Outcome::TunnelFailed, "{chat:?}");
    assert!(chat.error.as_ref().unwrap().contains("pulled out"));
    assert_eq!(
        report.outcome(),
        Outcome::TunnelFailed,
        "something was lost"
    );
}

#[tokio::test]
async fn a_network_that_no_other_follows_ends_all_and_says_both_reasons() {
    let mut server = on_the_host().await;
    let first = FragileNet::new([127, 0, 6, 1]);
    let options = caller(&server);
    let (caller, _stopper) = call(&first, &mut server, options).await;
    first.succeed(Err(RenewError::Failed("nobody listens".to_owned())));
    first.pull().await;
    let report = end(caller).await;
    assert_eq!(report.outcome(), Outcome::TunnelFailed);
    let lost = report.lost.unwrap();
    assert!(
        lost.contains("pulled out; no new tunnel came up: nobody listens"),
        "{lost}"
    );
    assert!(report.renewals.is_empty());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_another_network() {
    let mut server = on_the_host().await;
    let first = FragileNet::new([127, 0, 7, 1]);
    let options = caller(&server);
    let (caller, stopper) = call(&first, &mut server, options).await;
    // Nothing takes its place, and nobody says that nothing will.
    first.pull().await;
    stopper.stop();
    let report = end(caller).await;
    assert_eq!(report.outcome(), Outcome::TunnelFailed, "{report:?}");
    assert!(report.calls[0].received >= SOME);
}

/// A registrar by hand: the next request but these, and its answer.
async fn serve(socket: &UdpSocket, known: &mut Vec<Request>, status: StatusCode) -> Request {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
        let Message::Request(request) = Message::parse(&buffer[..length]).unwrap() else {
            panic!("no request");
        };
        if known.contains(&request) || request.method == Method::Ack {
            continue;
        }
        let mut response = request.response(status, "registrar");
        response.head.contacts = request.head.contacts.clone();
        socket.send_to(&response.encode(), from).await.unwrap();
        known.push(request.clone());
        return request;
    }
}

fn contacts(request: &Request) -> Vec<String> {
    let contacts = request.head.contacts.list().iter();
    contacts
        .map(|contact| {
            let gone = contact.params.value("expires") == Some("0");
            let host = contact.sip().unwrap().host.to_string();
            if gone { format!("{host} gone") } else { host }
        })
        .collect()
}

#[tokio::test]
async fn the_registration_moves_with_its_client() {
    let registrar = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let (first, second) = (
        FragileNet::new([127, 0, 11, 1]),
        FragileNet::new([127, 0, 11, 2]),
    );
    let mut options = ClientOptions::new("alice", "play");
    options.sip_server = Some(registrar.local_addr().unwrap());
    // The second call begins a second after the first.
    options.calls = 2;
    options.rate = std::num::NonZeroU16::new(1);
    let caller = tokio::spawn(run_client(Arc::clone(&first), options, Stop::never()));
    let mut known = Vec::new();
    let here = serve(&registrar, &mut known, StatusCode::OK).await;
    assert_eq!(contacts(&here), ["127.0.11.1"]);
    let ringing = serve(&registrar, &mut known, StatusCode::RINGING).await;
    assert_eq!(ringing.method, Method::Invite);

    first.succeed(Ok(Arc::clone(&second)));
    first.pull().await;
    // It is not quite back itself.
    let early = serve(&registrar, &mut known, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(contacts(&early), ["127.0.11.2", "127.0.11.1 gone"]);
    let there = serve(&registrar, &mut known, StatusCode::OK).await;
    assert_eq!(there.method, Method::Register);
    // One registration of one client (RFC 3261 10.2.4), which is not where it was any more.
    assert_eq!(there.head.call_id, here.head.call_id);
    assert!(there.head.cseq.number > here.head.cseq.number);
    assert_eq!(contacts(&there), ["127.0.11.2", "127.0.11.1 gone"]);
    let next = serve(&registrar, &mut known, StatusCode::BUSY_HERE).await;
    assert_eq!(next.method, Method::Invite);
    assert_eq!(contacts(&next), ["127.0.11.2"]);
    let last = serve(&registrar, &mut known, StatusCode::OK).await;
    assert_eq!(last.method, Method::Register);
    assert_eq!(
        (contacts(&last), last.head.expires()),
        (vec!["127.0.11.2".to_owned()], Some(0))
    );

    let report = end(caller).await;
    assert_eq!(report.renewals.len(), 1);
    // It was not answered yet.
    assert_eq!(report.calls[0].outcome, Outcome::TunnelFailed);
    assert!(
        report.calls[0]
            .error
            .as_ref()
            .unwrap()
            .contains("pulled out")
    );
    assert_eq!(report.calls[1].status, Some(486));
}

/// Two renewals, one after the other.
#[tokio::test]
async fn a_call_goes_on_as_often_as_it_has_to() {
    let mut server = on_the_host().await;
    let nets = [1, 2, 3].map(|host| FragileNet::new([127, 0, 8, host]));
    let options = caller(&server);
    let (caller, stopper) = call(&nets[0], &mut server, options).await;
    for pair in nets.windows(2) {
        pair[0].succeed(Ok(Arc::clone(&pair[1])));
        pair[0].pull().await;
        soon(pair[1].heard(SOME)).await;
    }
    stopper.stop();
    let report = end(caller).await;
    assert_eq!(report.renewals.len(), 2);
    assert_went_on(&report.calls[0], 2, 2 * SOME);
    assert_went_on(&soon(server.next_report()).await.unwrap(), 2, SOME);
}
