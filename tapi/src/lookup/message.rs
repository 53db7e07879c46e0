//! DNS messages: one question, and what answers it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "enums of other crates that may grow"
)]

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use tsc_osaa::random::OsRandom;

use super::MAX_ADDRESSES;

/// Longest chain of aliases that is followed.
const MAX_ALIASES: usize = 16;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Question(Query);

/// A question on its way to a server.
#[derive(Debug)]
pub(super) struct Asked {
    question: Question,
    id: u16,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Addresses of the name, perhaps none.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoName,
    /// The answer did not fit a datagram: ask again over TCP.
    Truncated,
    /// It could not tell.
    Failed(&'static str),
}

/// The name, if it can be one. International names become their ASCII form.
pub(super) fn name(host: &str) -> Option<Name> {
    if host.is_empty() || host.contains('\\') {
        return None;
    }
    let mut name = Name::from_str_relaxed(host).ok()?;
    // No search list: every name is a full one.
    name.set_fqdn(true);
    // RFC 6761, section 6.3: never asked for; and no loopback is inside a tunnel.
    (!name.is_root() && !name.is_localhost()).then_some(name)
}

impl Question {
    pub(super) fn new(name: Name, ipv6: bool) -> Self {
        let kind = if ipv6 {
            RecordType::AAAA
        } else {
            RecordType::A
        };
        Self(Query::query(name, kind))
    }

    /// The question with a number that nobody can guess (RFC 5452), and its bytes.
    pub(super) fn ask(&self) -> Option<(Asked, Vec<u8>)> {
        let mut id = [0; 2];
        OsRandom.fill(&mut id);
        let id = u16::from_be_bytes(id);
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.0.clone());
        let bytes = message.to_vec().ok()?;
        let question = self.clone();
        Some((Asked { question, id }, bytes))
    }
}

impl Asked {
    /// What the message says, or `None` if it is no answer to this question: then it was not sent by the server that
    /// was asked, or answers something else (RFC 5452, section 9.1).
    pub(super) fn judge(&self, bytes: &[u8]) -> Option<Reply> {
        let message = Message::from_vec(bytes).ok()?;
        let head = &message.metadata;
        let question = &self.question.0;
        let answers = head.id == self.id
            && head.message_type == MessageType::Response
            && head.op_code == OpCode::Query
            && message.queries == [question.clone()];
        if !answers {
            return None;
        }
        if head.truncation {
            return Some(Reply::Truncated);
        }
        Some(match head.response_code {
            ResponseCode::NoError => self.addresses(&message),
            ResponseCode::NXDomain => Reply::NoName,
            ResponseCode::ServFail => Reply::Failed("server failure"),
            ResponseCode::Refused => Reply::Failed("the query was refused"),
            ResponseCode::FormErr => Reply::Failed("the query was not understood"),
            ResponseCode::NotImp => Reply::Failed("not implemented"),
            _ => Reply::Failed("an error code"),
        })
    }

    /// Follows aliases, and takes the addresses of the last name only.
    fn addresses(&self, message: &Message) -> Reply {
        let records = || {
            let internet = |class| class == DNSClass::IN;
            message
                .answers
                .iter()
                .filter(move |record| internet(record.dns_class))
        };
        let mut name = &self.question.0.name;
        for _ in 0..MAX_ALIASES {
            let alias = records().find_map(|record| match &record.data {
                RData::CNAME(alias) if record.name == *name => Some(&alias.0),
                _ => None,
            });
            match alias {
                Some(alias) => name = alias,
                None => {
                    let mut addresses = Vec::new();
                    for record in records().filter(|record| record.name == *name) {
                        let address = record.data.ip_addr();
                        if let Some(address) = address
                            && record.record_type() == self.question.0.query_type
                            && !addresses.contains(&address)
                            && addresses.len() < MAX_ADDRESSES
                        {
                            addresses.push(address);
                        }
                    }
                    return Reply::Addresses(addresses);
                }
            }
        }
        Reply::Failed("too many aliases")
    }
}
