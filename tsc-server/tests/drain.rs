//! Draining by SIGUSR2, with the program itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod program_support;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use program_support::{LIMIT, Port, Program, command, config, text};
use tsc_tpl::{
    CmType, Limits, MessageBuilder, ResponseCode, Seconds, Sequence, StreamDecoder, Tlv, Tsid,
    Unit, registry,
};

/// What a server answered.
#[derive(Debug)]
struct Answer {
    tsid: Tsid,
    code: ResponseCode,
    retry_after: Option<Seconds>,
    alternates: usize,
}

struct Client {
    stream: TcpStream,
    decoder: StreamDecoder,
}

impl Client {
    fn connect(port: &Port) -> Self {
        let stream = TcpStream::connect(port.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let decoder = StreamDecoder::new(Limits::default());
        Self { stream, decoder }
    }

    fn configure(&mut self) -> Answer {
        self.ask(
            MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
                .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION)),
        )
    }

    fn ask(&mut self, request: MessageBuilder<'_>) -> Answer {
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
        let mut buffer = [0; 2048];
        loop {
            let len = self.stream.read(&mut buffer).unwrap();
            assert_ne!(len, 0, "the server has closed the connection");
            let mut feed = self.decoder.feed(&buffer[..len]);
            if let Some(Unit::Control(message)) = feed.next().unwrap() {
                let answer = message.parse().unwrap();
                return Answer {
                    tsid: answer.tsid(),
                    code: answer.response_code().unwrap(),
                    retry_after: answer.retry_after(),
                    alternates: answer.alternate_servers().count(),
                };
            }
        }
    }
}

/// The counters of the tunnels.
fn tunnels(program: &Program) -> serde_json::Value {
    program.signal("USR1");
    program.wait_for_event("report", |record| text(record, "part") == "tunnels")
}

#[test]
fn newcomers_are_told_busy_and_tunnels_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (mut program, ports) = Program::start_json(command(directory.path(), &config(0)));
    let mut old = Client::connect(&ports[0]);
    let tunnel = old.configure();
    assert_eq!(tunnel.code, ResponseCode::SUCCESS);
    assert_eq!(tunnels(&program)["draining"], 0);

    program.signal("USR2");
    program.wait_for_event("draining", |_| true);
    let refused = Client::connect(&ports[0]).configure();
    assert_eq!(refused.code, ResponseCode::BUSY);
    assert_eq!(refused.retry_after, Some(Seconds(5)));
    let keepalive = MessageBuilder::new(CmType::KEEPALIVE, tunnel.tsid, Sequence(2));
    assert_eq!(old.ask(keepalive).code, ResponseCode::SUCCESS);
    let report = tunnels(&program);
    assert!(report["draining"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(report["turned_away"], 1, "{report}");
    assert_eq!(report["sessions"], 1, "{report}");
    let release = CmType::CONFIGURATION_RELEASE_REQUEST;
    let release = MessageBuilder::new(release, tunnel.tsid, Sequence(3));
    assert_eq!(old.ask(release).code, ResponseCode::SUCCESS);

    program.signal("USR2");
    program.wait_for_event("draining-over", |_| true);
    let mut new = Client::connect(&ports[0]);
    assert_eq!(new.configure().code, ResponseCode::SUCCESS);
    assert_eq!(tunnels(&program)["draining"], 0);
    program.signal("USR2");
    program.wait_for_event("draining", |_| true);
    drop(new);
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn newcomers_are_redirected_where_there_is_somewhere_to_go() {
    let directory = tempfile::tempdir().unwrap();
    let alternates = "authentication = \"none\"\nalternate-servers = [\"tcp://192.0.2.1:5060\"]";
    let text = config(0).replace("authentication = \"none\"", alternates);
    let (program, ports) = Program::start_json(command(directory.path(), &text));
    let before = Client::connect(&ports[0]).configure();
    assert_eq!(before.code, ResponseCode::SUCCESS);
    program.signal("USR2");
    program.wait_for_event("draining", |_| true);
    let refused = Client::connect(&ports[0]).configure();
    assert_eq!(refused.code, ResponseCode::REDIRECT);
    assert_eq!(refused.alternates, 1);
}
