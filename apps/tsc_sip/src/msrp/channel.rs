//! The async shell of a session: drives it over a stream.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{DecodeError, Event, MessageId, SendError, Session};

/// Bytes that are read at once.
const READ: usize = 8192;
/// Bytes that wait to be written. While it is so many nothing is read, because what is read wants answers.
const UNWRITTEN: usize = 256 * 1024;
/// How long the peer may take nothing of what is to be written.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What came is not MSRP.
    #[error("the peer does not speak MSRP: {0}")]
    Decode(#[from] DecodeError),
    /// A message of ours cannot be sent.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// A session and its connection.
#[derive(Debug)]
pub struct Channel<S> {
    session: Session,
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    buffer: Vec<u8>,
    unwritten: Vec<u8>,
    /// How much of `unwritten` is written.
    written: usize,
    /// Since when the peer takes nothing of it.
    stuck: Option<tokio::time::Instant>,
}

impl<S: AsyncRead + AsyncWrite> Channel<S> {
    /// Takes a stream that is open, and what was read from it already.
    ///
    /// # Errors
    ///
    /// What was read is not MSRP.
    pub fn new(mut session: Session, stream: S, read: &[u8]) -> Result<Self, DecodeError> {
        session.handle_input(Instant::now(), read)?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(Self {
            session,
            reader,
            writer,
            buffer: vec![0; READ],
            unwritten: Vec::new(),
            written: 0,
            stuck: None,
        })
    }

    /// The session, to send messages.
    pub const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Sends a message that is at hand.
    ///
    /// # Errors
    ///
    /// See [`Session::send`].
    pub fn send(
        &mut self,
        content_type: &str,
        body: &[u8],
        report: bool,
    ) -> Result<MessageId, SendError> {
        let now = Instant::now();
        self.session.send(now, content_type, body, report)
    }

    /// Reads and writes until there is an event. Nothing moves while nobody waits here. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The session is over.
    pub async fn next_event(&mut self) -> Result<Event, ChannelError> {
        loop {
            if let Some(event) = self.session.poll_event() {
                return Ok(event);
            }
            self.step().await?;
        }
    }

    /// Writes what there is to write.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.has_output() {
            let output = self.unwritten.get(self.written..).unwrap_or_default();
            let written = self.writer.write(output).await?;
            self.note_written(written)?;
        }
        self.writer.flush().await
    }

    /// Fetches output of the session; whether there is any.
    fn has_output(&mut self) -> bool {
        if self.written == self.unwritten.len() {
            self.unwritten.clear();
            self.written = 0;
        }
        while self.unwritten.len() < UNWRITTEN
            && let Some(chunk) = self.session.poll_transmit()
        {
            self.unwritten.extend(chunk);
        }
        self.written < self.unwritten.len()
    }

    fn note_written(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += written;
        self.stuck = None;
        Ok(())
    }

    async fn step(&mut self) -> Result<(), ChannelError> {
        let has_output = self.has_output();
        let may_read = self.unwritten.len() < UNWRITTEN;
        let deadline = self.session.poll_timeout();
        let stuck = has_output.then(|| self.stuck.unwrap_or_else(tokio::time::Instant::now));
        self.stuck = stuck;
        tokio::select! {
            // The owner may have been away for long: then it is first seen whether something can be written now.
            biased;
            written = self.writer.write(self.unwritten.get(self.written..).unwrap_or_default()), if has_output => {
                self.note_written(written?)?;
            }
            () = crate::endpoint::sleep_until(stuck.map(|at| (at + WRITE_TIME).into_std())) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing");
                return Err(error.into());
            }
            () = crate::endpoint::sleep_until(deadline) => self.session.handle_timeout(Instant::now()),
            read = self.reader.read(&mut self.buffer), if may_read => {
                let read = read?;
                if read == 0 {
                    return Err(ChannelError::Closed);
                }
                let bytes = self.buffer.get(..read).unwrap_or_default();
                self.session.handle_input(Instant::now(), bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        msrp::{Config, MsrpUri},
        random::SeededRandom,
    };

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let uri = |name| MsrpUri::tcp(([192, 0, 2, 1], 9).into(), name);
        let random = Box::new(SeededRandom::new(1));
        let session = Session::new(uri("a"), vec![uri("b")], Config::default(), random);
        let (ours, _theirs) = tokio::io::duplex(100);
        let mut channel = Channel::new(session, ours, &[]).unwrap();
        channel.send("text/plain", &[b'x'; 1000], false).unwrap();
        let started = tokio::time::Instant::now();
        let error = channel.next_event().await.unwrap_err();
        assert!(error.to_string().contains("takes nothing"), "{error}");
        assert_eq!(started.elapsed(), WRITE_TIME);
    }
}
