//! The reader: bytes of a stream to heads, pieces of bodies and end lines.

use super::{
    Flag, Head, Method, Start, limits,
    message::{code_of, end_line, is_ident},
    parse_path,
};

/// Why bytes are not MSRP. The stream cannot be understood after it: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A head is larger than [`limits`] allow.
    #[error("the head of a chunk is too long")]
    TooLong,
    /// A head is no UTF-8.
    #[error("the head of a chunk is not text")]
    NotText,
    /// The first line is neither that of a request nor that of a response.
    #[error("malformed first line of a chunk")]
    StartLine,
    /// A header line without a colon.
    #[error("malformed header line of a chunk")]
    HeaderLine,
    /// `To-Path` or `From-Path` is missing or malformed.
    #[error("malformed or missing path of a chunk")]
    Path,
    /// The end line is not that of the chunk.
    #[error("malformed end of a chunk")]
    EndLine,
}

/// What comes out of a stream. A chunk is a head, pieces of its body, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A chunk begins.
    Head {
        /// What it says.
        head: Box<Head>,
        /// Whether a body follows, which may be empty.
        has_body: bool,
    },
    /// Bytes of its body, never none. How a body is cut into pieces means nothing.
    Body(Vec<u8>),
    /// The chunk is over.
    End(Flag),
}

#[derive(Debug)]
enum State {
    /// Gathering the lines of a head.
    Head(Vec<String>),
    /// In a body that ends at this text and a flag.
    Body(Vec<u8>),
    /// There was no body; the end line is read.
    End(Flag),
}

/// Reads one direction of a connection. Whatever comes, it holds no more than [`limits::HEAD`] bytes between two calls.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of the head so far.
    head: usize,
    state: State,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            head: 0,
            state: State::Head(Vec::new()),
        }
    }
}

impl Decoder {
    /// Takes bytes of the stream. Read [`next_item`](Self::next_item) until it gives nothing before the next call.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// The stream is not MSRP; nothing follows.
    pub fn next_item(&mut self) -> Result<Option<Item>, DecodeError> {
        loop {
            match &mut self.state {
                State::End(flag) => {
                    let flag = *flag;
                    self.state = State::Head(Vec::new());
                    return Ok(Some(Item::End(flag)));
                }
                State::Body(marker) => {
                    let (item, over) = body(&mut self.buffer, marker);
                    if over {
                        self.state = State::Head(Vec::new());
                    }
                    return Ok(item);
                }
                State::Head(lines) => {
                    let Some(line) = take_line(&mut self.buffer, &mut self.head)? else {
                        return Ok(None);
                    };
                    let end = line.starts_with("-------");
                    if !line.is_empty() && !end {
                        if lines.len() > limits::HEADER_LINES {
                            return Err(DecodeError::TooLong);
                        }
                        lines.push(line);
                        continue;
                    }
                    let head = head(lines)?;
                    self.head = 0;
                    let marker = end_line(&head.transaction);
                    self.state = if end {
                        let flag = match line.strip_prefix(&marker).map(str::as_bytes) {
                            Some([flag]) => Flag::from_byte(*flag),
                            _ => None,
                        };
                        State::End(flag.ok_or(DecodeError::EndLine)?)
                    } else {
                        State::Body(format!("\r\n{marker}").into_bytes())
                    };
                    let head = Box::new(head);
                    return Ok(Some(Item::Head {
                        head,
                        has_body: !end,
                    }));
                }
            }
        }
    }
}

/// Takes a line without its end off the front; `None` when it is not there yet.
fn take_line(buffer: &mut Vec<u8>, head: &mut usize) -> Result<Option<String>, DecodeError> {
    let end = buffer.windows(2).position(|pair| pair == b"\r\n");
    let length = end.map_or(buffer.len(), |at| at + 2);
    if *head + length > limits::HEAD {
        return Err(DecodeError::TooLong);
    }
    if end.is_none() {
        return Ok(None);
    }
    *head += length;
    let mut line: Vec<u8> = buffer.drain(..length).collect();
    line.truncate(length - 2);
    String::from_utf8(line)
        .map(Some)
        .map_err(|_| DecodeError::NotText)
}

/// Takes what there is of a body: a piece, or its end.
fn body(buffer: &mut Vec<u8>, marker: &[u8]) -> (Option<Item>, bool) {
    let mut from = 0;
    // Bytes that certainly belong to the body.
    let known = loop {
        let rest = buffer.get(from..).unwrap_or_default();
        let Some(at) = rest.windows(marker.len()).position(|w| w == marker) else {
            // The marker may have begun in the last bytes.
            break buffer.len().saturating_sub(marker.len() - 1).max(from);
        };
        let at = from + at;
        match buffer.get(at + marker.len()..).unwrap_or_default() {
            [flag, b'\r', b'\n', ..] if let Some(flag) = Flag::from_byte(*flag) => {
                if at == 0 {
                    buffer.drain(..marker.len() + 3);
                    return (Some(Item::End(flag)), true);
                }
                break at;
            }
            [] => break at,
            [flag] | [flag, b'\r'] if Flag::from_byte(*flag).is_some() => break at,
            // It only looked like the end.
            _ => from = at + 1,
        }
    };
    let piece: Vec<u8> = buffer.drain(..known.min(limits::PIECE)).collect();
    ((!piece.is_empty()).then_some(Item::Body(piece)), false)
}

fn head(lines: &[String]) -> Result<Head, DecodeError> {
    let (first, fields) = lines.split_first().ok_or(DecodeError::StartLine)?;
    let rest = first.strip_prefix("MSRP ").ok_or(DecodeError::StartLine)?;
    let (transaction, rest) = rest.split_once(' ').ok_or(DecodeError::StartLine)?;
    if !is_ident(transaction) {
        return Err(DecodeError::StartLine);
    }
    let start = start(rest)?;
    let (mut to_path, mut from_path, mut headers) = (None, None, Vec::new());
    for line in fields {
        let (name, value) = line.split_once(':').ok_or(DecodeError::HeaderLine)?;
        let value = value.trim_matches([' ', '\t']);
        let good = |c: char| c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c);
        if name.is_empty() || !name.chars().all(good) {
            return Err(DecodeError::HeaderLine);
        }
        let path = match name.to_ascii_lowercase().as_str() {
            "to-path" => &mut to_path,
            "from-path" => &mut from_path,
            _ => {
                headers.push((name.to_owned(), value.to_owned()));
                continue;
            }
        };
        if path.is_some() {
            return Err(DecodeError::Path);
        }
        *path = Some(parse_path(value).map_err(|_| DecodeError::Path)?);
    }
    Ok(Head {
        transaction: transaction.to_owned(),
        start,
        to_path: to_path.ok_or(DecodeError::Path)?,
        from_path: from_path.ok_or(DecodeError::Path)?,
        headers,
    })
}

fn start(rest: &str) -> Result<Start, DecodeError> {
    let (word, comment) = rest.split_once(' ').unwrap_or((rest, ""));
    if let Some(code) = code_of(word) {
        let comment = comment.to_owned();
        return Ok(Start::Response { code, comment });
    }
    let method = match rest {
        "SEND" => Method::Send,
        "REPORT" => Method::Report,
        other if !other.is_empty() && other.bytes().all(|b| b.is_ascii_uppercase()) => {
            Method::Other(other.to_owned())
        }
        _ => return Err(DecodeError::StartLine),
    };
    Ok(Start::Request(method))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrp::Chunk;

    fn read(bytes: &[u8], step: usize) -> Result<Vec<Item>, DecodeError> {
        let mut decoder = Decoder::default();
        let mut items = Vec::new();
        for part in bytes.chunks(step) {
            decoder.push(part);
            while let Some(item) = decoder.next_item()? {
                match (items.last_mut(), item) {
                    (Some(Item::Body(all)), Item::Body(more)) => all.extend(more),
                    (_, item) => items.push(item),
                }
            }
            assert!(decoder.buffer.len() <= limits::HEAD);
        }
        Ok(items)
    }

    const PATHS: &str =
        "To-Path: msrp://b.example:1/b;tcp\r\nFrom-Path: msrp://a.example:1/a;tcp\r\n";

    #[test]
    fn chunks_come_out_as_they_went_in_however_they_are_cut() {
        // The body of the first holds its own end line but for the flag, and the beginning of it at the end.
        let text = format!(
            "MSRP d93kswow SEND\r\n{PATHS}Message-ID: 1234\r\nByte-Range: 1-*/8\r\nContent-Type: text/plain\r\n\r\n\
             a\r\n-------d93kswow?\r\n-------d93ksw\r\n-------d93kswow+\r\n\
             MSRP d93kswow 200 OK\r\n{PATHS}-------d93kswow$\r\n\
             MSRP abcd SEND\r\n{PATHS}Content-Type: a/b\r\n\r\n\r\n-------abcd#\r\n"
        );
        let all = read(text.as_bytes(), text.len()).unwrap();
        assert_eq!(all.len(), 7);
        assert_eq!(
            all[1],
            Item::Body(b"a\r\n-------d93kswow?\r\n-------d93ksw".to_vec())
        );
        assert_eq!(all[2], Item::End(Flag::More));
        assert_eq!(all[4], Item::End(Flag::End));
        assert_eq!(all[6], Item::End(Flag::Abort));
        for step in 1..40 {
            assert_eq!(
                read(text.as_bytes(), step).unwrap(),
                all,
                "in pieces of {step}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let uri = "msrp://[::1]:9/x;tcp".parse().unwrap();
        let to = [
            "msrp://relay.example:1/r;tcp".parse().unwrap(),
            "msrp://b:1/b;tcp".parse().unwrap(),
        ];
        let head = Head::request(Method::Send, "tr4ns".into(), &to, &uri)
            .with("Message-ID", "12345")
            .with("X-Odd", "a: b");
        let chunk = Chunk {
            head: head.clone(),
            body: Some(vec![0; 20_000]),
            flag: Flag::More,
        };
        let items = read(&chunk.encode(), 4096).unwrap();
        let [
            Item::Head {
                head: read,
                has_body: true,
            },
            Item::Body(body),
            Item::End(Flag::More),
        ] = &items[..]
        else {
            panic!("{items:?}");
        };
        assert_eq!((&**read, body.len()), (&head, 20_000));
    }

    #[test]
    fn what_is_not_msrp_is_refused() {
        for (text, error) in [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), DecodeError::StartLine),
            ("\r\n".into(), DecodeError::StartLine),
            ("MSRP x SEND\r\n\r\n".into(), DecodeError::StartLine),
            ("MSRP abcd send\r\n\r\n".into(), DecodeError::StartLine),
            ("MSRP abcd SEND\r\n\r\n".into(), DecodeError::Path),
            (
                format!("MSRP abcd SEND\r\n{PATHS}{PATHS}\r\n"),
                DecodeError::Path,
            ),
            (
                format!("MSRP abcd SEND\r\n{PATHS}odd\r\n\r\n"),
                DecodeError::HeaderLine,
            ),
            (
                format!("MSRP abcd SEND\r\n{PATHS}-------abce$\r\n"),
                DecodeError::EndLine,
            ),
            (
                format!("MSRP abcd SEND\r\n{PATHS}-------abcd$$\r\n"),
                DecodeError::EndLine,
            ),
            (
                "MSRP abcd SEND\r\n".to_owned() + &"x: y\r\n".repeat(65),
                DecodeError::TooLong,
            ),
            ("x".repeat(limits::HEAD + 1), DecodeError::TooLong),
        ] {
            for step in [1, 4096] {
                assert_eq!(read(text.as_bytes(), step), Err(error), "{text}");
            }
        }
        assert_eq!(
            read(b"MSRP ab\xffd SEND\r\n\r\n", 99),
            Err(DecodeError::NotText)
        );
    }
}
