//! Names, asked of DNS servers inside the tunnel.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tsc_tapi::{LookupError, Tunnel};

use crate::{
    soon,
    world::{World, v4, v6},
};

/// What a test's server does with a question; `stream` says that it came over TCP.
type Policy = Arc<dyn Fn(&Message, bool) -> Vec<Message> + Send + Sync>;

/// Who asked: number and port of each question.
type Log = Arc<Mutex<Vec<(u16, SocketAddr)>>>;

fn reply(question: &Message) -> Message {
    let mut reply = question.clone();
    reply.metadata.message_type = MessageType::Response;
    reply
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn address(owner: &str, address: &str) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name(owner), 60, data)
}

fn alias(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
}

fn with(mut message: Message, records: impl IntoIterator<Item = Record>) -> Message {
    message.add_answers(records);
    message
}

fn failing(question: &Message, code: ResponseCode) -> Message {
    let mut message = reply(question);
    message.metadata.response_code = code;
    message
}

fn asks_for(question: &Message, kind: RecordType) -> bool {
    question.queries[0].query_type == kind
}

/// A DNS server at all addresses of a tunnel.
fn serve(
    tunnel: &Tunnel,
    policy: impl Fn(&Message, bool) -> Vec<Message> + Send + Sync + 'static,
) -> Log {
    let policy: Policy = Arc::new(policy);
    let log = Log::default();
    for any in ["0.0.0.0:53", "[::]:53"] {
        let any = any.parse().unwrap();
        let socket = tunnel.bind_udp(any).unwrap();
        let (datagrams, seen) = (Arc::clone(&policy), Arc::clone(&log));
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..len]).unwrap();
                seen.lock().unwrap().push((question.metadata.id, from));
                for answer in datagrams(&question, false) {
                    let answer = answer.to_vec().unwrap();
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let listener = tunnel.bind_tcp(any).unwrap();
        let streams = Arc::clone(&policy);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let len = stream.read_u16().await.unwrap();
                let mut question = vec![0; usize::from(len)];
                stream.read_exact(&mut question).await.unwrap();
                let question = Message::from_vec(&question).unwrap();
                for answer in streams(&question, true) {
                    let answer = answer.to_vec().unwrap();
                    let len = u16::try_from(answer.len()).unwrap();
                    stream.write_u16(len).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
    }
    log
}

/// A world whose first tunnel is assigned these DNS servers, and two more tunnels.
async fn world(dns: impl IntoIterator<Item = IpAddr>) -> (World, [Tunnel; 3]) {
    let world = World::new().await;
    world.set_dns(dns);
    let tunnels = [
        world.tunnel().await,
        world.tunnel().await,
        world.tunnel().await,
    ];
    (world, tunnels)
}

async fn look_up(tunnel: &Tunnel, host: &str) -> Result<Vec<SocketAddr>, LookupError> {
    soon(tunnel.lookup_host(host, 80)).await
}

fn sockets<const N: usize>(texts: [&str; N]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn both_families_are_asked_and_aliases_followed() {
    let (_world, [a, b, _c]) = world([v4(1)]).await;
    let log = serve(&b, |question, _| {
        let answer = with(
            reply(question),
            [
                alias("www.example.com.", "Web.example.net."),
                alias("web.example.net.", "host.example.net."),
            ],
        );
        // Of other names, of the other type: not taken.
        let noise = address("www.example.com.", "10.0.0.66");
        vec![if asks_for(question, RecordType::AAAA) {
            with(answer, [noise, address("host.example.net.", "fd00::80")])
        } else {
            with(
                answer,
                [
                    address("host.example.net.", "10.0.0.80"),
                    address("HOST.example.net.", "10.0.0.81"),
                    address("host.example.net.", "10.0.0.80"),
                    address("host.example.net.", "fd00::66"),
                    noise,
                ],
            )
        }]
    });
    let found = look_up(&a, "www.example.com").await.unwrap();
    let expected = ["[fd00::80]:80", "10.0.0.80:80", "10.0.0.81:80"];
    assert_eq!(found, sockets(expected));
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn answers_to_something_else_are_ignored() {
    let (_world, [a, b, _c]) = world([v6(1)]).await;
    serve(&b, |question, _| {
        let right = with(reply(question), [address("good.example.", "10.0.0.1")]);
        let wrong = |change: &dyn Fn(&mut Message)| {
            let mut message = with(reply(question), [address("good.example.", "10.0.0.66")]);
            change(&mut message);
            message
        };
        vec![
            wrong(&|message| message.metadata.id ^= 1),
            wrong(&|message| message.metadata.message_type = MessageType::Query),
            wrong(&|message| message.queries[0].name = name("evil.example.")),
            wrong(&|message| message.queries[0].query_type = RecordType::TXT),
            wrong(&|message| message.queries.clear()),
            right,
        ]
    });
    let found = look_up(&a, "good.example").await.unwrap();
    assert_eq!(found, sockets(["10.0.0.1:80"]));
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let (_world, [a, b, _c]) = world([v4(1)]).await;
    serve(&b, |question, stream| {
        let mut answer = reply(question);
        if !stream {
            answer.metadata.truncation = true;
            return vec![with(answer, [address("big.example.", "10.0.0.66")])];
        }
        if asks_for(question, RecordType::AAAA) {
            return vec![answer];
        }
        let many = (0..200_u8).map(|host| address("big.example.", &format!("10.0.1.{host}")));
        vec![with(answer, many)]
    });
    let found = look_up(&a, "big.example").await.unwrap();
    assert_eq!(found.len(), tsc_tapi::MAX_ADDRESSES);
    assert_eq!(found[..1], sockets(["10.0.1.0:80"]));
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails() {
    // At 10.9.0.1, the asking tunnel itself, nobody listens.
    let (_world, [a, b, c]) = world([v4(0), v4(1), v4(2)]).await;
    let failed = serve(&b, |question, _| {
        vec![failing(question, ResponseCode::ServFail)]
    });
    serve(&c, |question, _| {
        vec![with(
            reply(question),
            [address("some.example.", "10.0.0.1")],
        )]
    });
    let found = look_up(&a, "some.example").await.unwrap();
    assert_eq!(found, sockets(["10.0.0.1:80"]));
    assert_eq!(failed.lock().unwrap().len(), 2, "once for each family");

    drop(c);
    let world = World::new().await;
    world.set_dns([v4(1)]);
    let (a, b) = (world.tunnel().await, world.tunnel().await);
    serve(&b, |question, _| {
        vec![failing(question, ResponseCode::Refused)]
    });
    assert!(matches!(
        look_up(&a, "some.example").await,
        Err(LookupError::Failed(_))
    ));
}

#[tokio::test]
async fn silence_is_asked_again_with_other_numbers_from_other_ports() {
    let (_world, [a, b, c]) = world([v4(1), v4(2)]).await;
    let silent = serve(&b, |_, _| Vec::new());
    let asked = Arc::new(Mutex::new(0));
    // The second server answers the second time.
    serve(&c, move |question, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked <= 2 {
            return Vec::new();
        }
        vec![with(
            reply(question),
            [address("late.example.", "10.0.0.1")],
        )]
    });
    let found = look_up(&a, "late.example").await.unwrap();
    assert_eq!(found, sockets(["10.0.0.1:80"]));
    let silent = silent.lock().unwrap();
    assert!(silent.len() >= 4, "{silent:?}");
    let ports: HashSet<_> = silent.iter().map(|(_, from)| from.port()).collect();
    assert_eq!(ports.len(), silent.len());
    let ids: HashSet<_> = silent.iter().map(|(id, _)| id).collect();
    // Equal by chance once in 65,536 times; all four equal never.
    assert!(ids.len() > 1);
}

#[tokio::test]
async fn what_has_no_address_says_why() {
    let (_world, [a, b, _c]) = world([v4(1)]).await;
    serve(&b, |question, _| {
        let known = question.queries[0].name == name("empty.example.");
        let looping = question.queries[0].name == name("loop.example.");
        vec![if known {
            reply(question)
        } else if looping {
            with(
                reply(question),
                [
                    alias("loop.example.", "pool.example."),
                    alias("pool.example.", "loop.example."),
                ],
            )
        } else {
            failing(question, ResponseCode::NXDomain)
        }]
    });
    for host in ["empty.example", "nothing.example"] {
        let error = look_up(&a, host).await.unwrap_err();
        assert_eq!(error, LookupError::NotFound(host.to_owned()));
        let kind = std::io::Error::from(error).kind();
        assert_eq!(kind, std::io::ErrorKind::NotFound);
    }
    assert!(matches!(
        look_up(&a, "loop.example").await,
        Err(LookupError::Failed(_))
    ));
    let long = "a.".repeat(200);
    for host in ["", ".", "localhost", "two words", "a..b", &long] {
        let error = look_up(&a, host).await.unwrap_err();
        assert_eq!(error, LookupError::Name(host.to_owned()));
    }
    for literal in ["10.1.2.3", "fd00::5"] {
        let address: IpAddr = literal.parse().unwrap();
        let found = look_up(&a, literal).await.unwrap();
        assert_eq!(found, [SocketAddr::new(address, 80)]);
    }
    let (_world, a, _b) = World::with_two().await;
    let error = look_up(&a, "some.example").await.unwrap_err();
    assert_eq!(error, LookupError::NoServers);
}
