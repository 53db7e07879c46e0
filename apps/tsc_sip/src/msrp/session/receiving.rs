//! Messages of the peer: chunks that come in, and the responses and reports that go back for them.

use std::time::Instant;

use super::{Event, Session};
use crate::msrp::{
    ByteRange, Chunk, Coverage, Flag, Head, Malformed, Method, MsrpUri, Start, limits, status,
};

#[derive(Debug)]
pub(super) struct Incoming {
    coverage: Coverage,
    /// Known once the peer says it, or ends the message.
    total: Option<u64>,
    ended: bool,
    report: bool,
    from: Vec<MsrpUri>,
}

/// The chunk that is just being read.
#[derive(Debug)]
pub(super) struct Current {
    head: Head,
    /// What is answered at its end.
    status: u16,
    /// The message that its body belongs to, and where; `None` skips it.
    message: Option<(String, u64)>,
}

impl Session {
    pub(super) fn handle_head(&mut self, now: Instant, head: Head, has_body: bool) {
        let method = match &head.start {
            Start::Response { code, .. } => {
                let code = *code;
                self.handle_response(now, &head.transaction, code);
                self.current = None;
                return;
            }
            Start::Request(method) => method.clone(),
        };
        let opened = match method {
            _ if !self.is_ours(&head) => Err(status::NO_SUCH_SESSION),
            Method::Send => self.open(&head, has_body),
            Method::Report => {
                // A report is never answered (7.1.2).
                if self.handle_report(&head).is_err() {
                    tracing::debug!("malformed MSRP report");
                }
                self.current = None;
                return;
            }
            Method::Other(_) => Err(status::UNKNOWN_METHOD),
        };
        self.current = Some(match opened {
            Ok(message) => Current {
                head,
                status: status::OK,
                message,
            },
            Err(status) => Current {
                head,
                status,
                message: None,
            },
        });
    }

    /// Whether a request is for this session and from its other end (7.3).
    fn is_ours(&self, head: &Head) -> bool {
        let to_us = matches!(&head.to_path[..], [to] if to.is_same(&self.local));
        let end = |path: &[MsrpUri]| path.last().cloned();
        to_us
            && end(&head.from_path)
                .zip(end(&self.remote))
                .is_some_and(|(from, peer)| from.is_same(&peer))
    }

    /// Finds the message of a chunk, or begins it. An error is the status to answer with.
    fn open(&mut self, head: &Head, has_body: bool) -> Result<Option<(String, u64)>, u16> {
        let bad = |_: Malformed| status::BAD_REQUEST;
        let name = head.message_id().map_err(bad)?.to_owned();
        let range = head.byte_range().map_err(bad)?;
        if !has_body {
            // It only says that the peer is there.
            return Ok(None);
        }
        let content_type = head.header("Content-Type").ok_or(status::BAD_REQUEST)?;
        if !self.config.accepts(content_type) {
            return Err(status::UNSUPPORTED_MEDIA_TYPE);
        }
        let offset = range.start - 1;
        let end = range.total.unwrap_or_else(|| range.end.unwrap_or(offset));
        if end.max(offset) > self.config.max_message {
            self.refuse(&name);
            return Err(status::STOP);
        }
        if !self.incoming.contains_key(&name) {
            if self.incoming.len() >= limits::INCOMING {
                return Err(status::STOP);
            }
            let yes = |value: &str| value.eq_ignore_ascii_case("yes");
            let message = Incoming {
                coverage: Coverage::default(),
                total: range.total,
                ended: false,
                report: head.header("Success-Report").is_some_and(yes),
                from: head.from_path.clone(),
            };
            self.incoming.insert(name.clone(), message);
            self.events.push_back(Event::Started {
                message: name.clone(),
                content_type: content_type.to_owned(),
                total: range.total,
            });
        }
        Ok(Some((name, offset)))
    }

    /// Forgets a message that comes in.
    fn refuse(&mut self, name: &str) {
        if self.incoming.remove(name).is_some() {
            let message = name.to_owned();
            self.events.push_back(Event::Aborted { message });
        }
    }

    pub(super) fn handle_body(&mut self, bytes: Vec<u8>) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some((name, offset)) = &mut current.message else {
            return;
        };
        let Some(message) = self.incoming.get_mut(name) else {
            return;
        };
        let end = *offset + bytes.len() as u64;
        let limit = message.total.unwrap_or(self.config.max_message);
        if end > limit || message.coverage.add(*offset, end).is_err() {
            current.status = status::STOP;
            if let Some((name, _)) = current.message.take() {
                self.refuse(&name);
            }
            return;
        }
        self.events.push_back(Event::Data {
            message: name.clone(),
            offset: *offset,
            bytes,
        });
        *offset = end;
    }

    pub(super) fn handle_end(&mut self, flag: Flag) {
        let Some(current) = self.current.take() else {
            return;
        };
        // 7.1.1: "yes", which is the default, wants every response, "partial" only refusals, "no" none.
        let wants = match current.head.header("Failure-Report") {
            Some(value) if value.eq_ignore_ascii_case("no") => false,
            Some(value) if value.eq_ignore_ascii_case("partial") => current.status != status::OK,
            _ => true,
        };
        if wants {
            let response = Chunk::bare(current.head.response(current.status));
            self.transmits.push_back(response.encode());
        }
        let Some((name, end)) = current.message else {
            return;
        };
        match flag {
            Flag::More => {}
            Flag::Abort => return self.refuse(&name),
            Flag::End => {
                if let Some(message) = self.incoming.get_mut(&name) {
                    message.ended = true;
                    message.total.get_or_insert(end);
                }
            }
        }
        self.complete(name);
    }

    fn complete(&mut self, name: String) {
        let Some(message) = self.incoming.get(&name) else {
            return;
        };
        let Some(size) = message
            .total
            .filter(|total| message.ended && message.coverage.is_complete(*total))
        else {
            return;
        };
        let Some(message) = self.incoming.remove(&name) else {
            return;
        };
        if message.report {
            let range = ByteRange {
                start: 1,
                end: Some(size),
                total: Some(size),
            };
            let transaction = self.random.token();
            let head = Head::request(Method::Report, transaction, &message.from, &self.local)
                .with("Message-ID", name.clone())
                .with("Byte-Range", range.to_string())
                .with("Status", "000 200 OK");
            self.transmits.push_back(Chunk::bare(head).encode());
        }
        self.events.push_back(Event::Received {
            message: name,
            size,
        });
    }
}
