//! A client over TCP, by hand: it says what it is told to, and nothing else.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use tsc_tpl::{
    CmType, Limits, MessageBuilder, ResponseCode, Seconds, Sequence, ServiceList, ServiceType,
    StreamDecoder, Tlv, Tsid, Unit, registry,
};

use super::{LIMIT, Port};

/// A message from the server.
#[derive(Debug)]
pub struct Said {
    pub cm_type: CmType,
    pub tsid: Tsid,
    /// Of answers.
    pub code: Option<ResponseCode>,
    pub retry_after: Option<Seconds>,
    pub alternates: usize,
    /// The services that are offered.
    pub services: Vec<ServiceType>,
}

pub struct Client {
    stream: TcpStream,
    decoder: StreamDecoder,
}

impl Client {
    pub fn connect(port: &Port) -> Self {
        let stream = TcpStream::connect(port.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let decoder = StreamDecoder::new(Limits::default());
        Self { stream, decoder }
    }

    /// With a tunnel.
    pub fn configured(port: &Port) -> Self {
        let mut client = Self::connect(port);
        assert_eq!(client.configure().code, Some(ResponseCode::SUCCESS));
        client
    }

    /// Asks for a tunnel.
    pub fn configure(&mut self) -> Said {
        let said = self.ask(
            MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
                .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION)),
        );
        assert_eq!(said.cm_type, CmType::CONFIGURATION_RESPONSE);
        said
    }

    pub fn ask(&mut self, request: MessageBuilder<'_>) -> Said {
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
        self.next()
    }

    /// The next message from the server.
    pub fn next(&mut self) -> Said {
        let mut buffer = [0; 2048];
        loop {
            let len = self.stream.read(&mut buffer).unwrap();
            assert_ne!(len, 0, "the server has closed the connection");
            let mut feed = self.decoder.feed(&buffer[..len]);
            if let Some(Unit::Control(message)) = feed.next().unwrap() {
                let message = message.parse().unwrap();
                return Said {
                    cm_type: message.header().cm_type,
                    tsid: message.tsid(),
                    code: message.response_code(),
                    retry_after: message.retry_after(),
                    alternates: message.alternate_servers().count(),
                    services: message
                        .supported_services()
                        .iter()
                        .flat_map(ServiceList::iter)
                        .collect(),
                };
            }
        }
    }
}
