//! SIP over a stream: Content-Length says where a message ends (RFC 3261 18.3), and line ends between messages keep the
//! connection alive (RFC 5626 3.5.1).

use std::str;

use super::{HeaderName, Message, ParseError, header, limits};

/// Sent by the client of a connection: are you there?
pub const PING: &[u8] = b"\r\n\r\n";
/// The answer to [`PING`].
pub const PONG: &[u8] = b"\r\n";

/// Why a stream cannot be cut into messages: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// A message has more bytes than [`limits::MESSAGE`].
    #[error("the message is longer than {} bytes", limits::MESSAGE)]
    TooLong,
    /// Content-Length is missing, is no number, or stands twice with different values.
    #[error("the message has no usable Content-Length")]
    ContentLength,
}

/// What comes out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message.
    Message(Box<Message>),
    /// As long as its Content-Length says, but no message: drop it, the next one can be read.
    Malformed(ParseError),
    /// [`PING`]: answer with [`PONG`].
    Ping,
    /// [`PONG`], or a line end that means nothing.
    Pong,
}

/// Cuts a stream into messages. It never holds more than [`limits::MESSAGE`] bytes and what was pushed last.
#[derive(Debug, Default)]
pub struct StreamFramer {
    buffer: Vec<u8>,
    /// Where the search for the end of the header part goes on.
    searched: usize,
    /// Length of the message at the front, once its header part is there.
    length: Option<usize>,
}

impl StreamFramer {
    /// Takes bytes of the stream. Read [`next_frame`](Self::next_frame) until it gives nothing before the next call.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether it holds no part of a message.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next frame; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// The stream cannot be understood any more; nothing follows.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FramingError> {
        if self.length.is_none() && self.searched == 0 {
            match &*self.buffer {
                [b'\r', b'\n', b'\r', b'\n', ..] => {
                    self.buffer.drain(..PING.len());
                    return Ok(Some(Frame::Ping));
                }
                // It may be the first half of a ping.
                [b'\r', b'\n', b'\r'] | [b'\r'] => return Ok(None),
                [b'\r', b'\n'] => {
                    // A ping is sent in one piece; a lone line end at the end of what came is a pong.
                    self.buffer.clear();
                    return Ok(Some(Frame::Pong));
                }
                [b'\r', b'\n', ..] => {
                    self.buffer.drain(..PONG.len());
                    return Ok(Some(Frame::Pong));
                }
                _ => {}
            }
        }
        let length = match self.length {
            Some(length) => length,
            None => {
                let Some(length) = self.find_length()? else {
                    return Ok(None);
                };
                *self.length.insert(length)
            }
        };
        let Some(message) = self.buffer.get(..length) else {
            return Ok(None);
        };
        let frame = match Message::parse(message) {
            Ok(message) => Frame::Message(Box::new(message)),
            Err(error) => Frame::Malformed(error),
        };
        self.buffer.drain(..length);
        (self.length, self.searched) = (None, 0);
        Ok(Some(frame))
    }

    /// Length of the message at the front; `None` while its header part is not complete.
    fn find_length(&mut self) -> Result<Option<usize>, FramingError> {
        let rest = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") else {
            self.searched = self.buffer.len().saturating_sub(3);
            if self.buffer.len() > limits::MESSAGE {
                return Err(FramingError::TooLong);
            }
            return Ok(None);
        };
        let head = self.searched + end;
        let text = self.buffer.get(..head).unwrap_or_default();
        let body = content_length(text).ok_or(FramingError::ContentLength)?;
        let total = body.saturating_add(head + 4);
        if total > limits::MESSAGE {
            return Err(FramingError::TooLong);
        }
        Ok(Some(total))
    }
}

/// Content-Length of a header part. It is read before it is known that the message is well-formed.
fn content_length(head: &[u8]) -> Option<usize> {
    let mut found = None;
    for line in head.split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let name = str::from_utf8(name).ok().map(str::trim_end);
        if name.and_then(HeaderName::parse) != Some(HeaderName::ContentLength) {
            continue;
        }
        let value = str::from_utf8(value.get(1..)?).ok()?;
        let length = header::number(value.trim_end_matches('\r'))?;
        if found.is_some_and(|other| other != length) {
            return None;
        }
        found = Some(length);
    }
    found?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str, length: &str) -> String {
        format!(
            "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n{length}\r\n{body}"
        )
    }

    fn frames(bytes: &[u8], step: usize) -> Result<Vec<Frame>, FramingError> {
        let mut framer = StreamFramer::default();
        let mut frames = Vec::new();
        for part in bytes.chunks(step) {
            framer.push(part);
            while let Some(frame) = framer.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn messages_are_cut_by_their_length_however_they_come() {
        let stream = message("abc\r\n\r\nd", "l : 8\r\n")
            + &message("", "Content-Length: 0\r\n")
            + &message("x", "Content-Length: 1\r\nOdd\r\n")
            + &message("", "Content-Length:\t0\r\n");
        let bodies = |step| -> Vec<Option<usize>> {
            let frames = frames(stream.as_bytes(), step).unwrap();
            let body = |frame: &Frame| match frame {
                Frame::Message(message) => Some(message.head().body.len()),
                Frame::Malformed(_) => None,
                Frame::Ping | Frame::Pong => panic!("{frame:?}"),
            };
            frames.iter().map(body).collect()
        };
        for step in [1, 2, 3, 7, 100, 4096] {
            assert_eq!(bodies(step), [Some(8), Some(0), None, Some(0)], "{step}");
        }
    }

    #[test]
    fn line_ends_between_messages_keep_alive() {
        let stream = "\r\n\r\n".to_owned() + &message("", "l: 0\r\n") + "\r\n";
        let frames = frames(stream.as_bytes(), 4096).unwrap();
        assert!(matches!(
            &frames[..],
            [Frame::Ping, Frame::Message(_), Frame::Pong]
        ));
    }

    #[test]
    fn what_cannot_be_framed_ends_the_stream() {
        for (text, error) in [
            (message("", ""), FramingError::ContentLength),
            (message("", "l: x\r\n"), FramingError::ContentLength),
            (message("", "l: 1\r\nl: 2\r\n"), FramingError::ContentLength),
            (message("", "l: 4294967295\r\n"), FramingError::TooLong),
            ("x".repeat(limits::MESSAGE + 1), FramingError::TooLong),
        ] {
            assert_eq!(frames(text.as_bytes(), 1000), Err(error));
        }
    }
}
