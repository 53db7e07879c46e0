//! TCP directions put in order, within bounds.
//!
//! Simple on purpose: segments are passed on in order, those that arrive early wait (at most [`MAX_WAITING`]
//! of [`MAX_WAITING_BYTES`] together), overlaps are cut off. A capture has no one to ask for a
//! retransmission, so a gap that outlives these bounds ends the direction.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tsc_tpl::{FramingError, Limits, Sequence, StreamDecoder, Unit, registry};

use crate::outer::Segment;

/// Most directions followed at a time; later ones are reported and left out.
const MAX_DIRECTIONS: usize = 4096;
/// Most segments of one direction that wait for an earlier one.
const MAX_WAITING: usize = 64;
/// Most bytes of one direction that wait.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// From, to.
pub(crate) type Direction = (SocketAddr, SocketAddr);

/// What comes out of a direction.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A unit at an offset of the stream.
    Unit { offset: u64, unit: Unit<'a> },
    /// The stream is no sequence of units from here on; the rest is left out.
    Broken { offset: u64, error: FramingError },
    /// Bytes are missing; the rest is left out.
    Gap { offset: u64 },
    /// The stream is TLS, which is not ours to read.
    Tls,
    /// Too many directions to follow this one.
    TooMany,
}

/// All directions of a capture.
pub(crate) struct Streams {
    limits: Limits,
    directions: BTreeMap<Direction, Stream>,
}

struct Stream {
    /// Of the connection's first byte, as far as the capture shows it.
    start: Sequence,
    next: Sequence,
    offset: u64,
    waiting: Vec<(Sequence, Vec<u8>)>,
    state: State,
}

enum State {
    Fresh,
    Units(Box<StreamDecoder>),
    /// Nothing more to be had.
    Over,
}

impl Streams {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            directions: BTreeMap::new(),
        }
    }

    /// Takes a segment and tells `sink` what it completes.
    pub(crate) fn segment<E>(
        &mut self,
        segment: &Segment<'_>,
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let direction = (segment.source, segment.destination);
        let mut sequence = Sequence(segment.sequence);
        if segment.syn {
            sequence = sequence.next();
        }
        let known = self.directions.contains_key(&direction);
        if !known && self.directions.len() >= MAX_DIRECTIONS {
            return sink(Event::TooMany);
        }
        let limits = self.limits;
        let stream = self
            .directions
            .entry(direction)
            .or_insert_with(|| Stream::new(sequence));
        // A SYN that is no repetition starts another connection on the same ports.
        if segment.syn && sequence != stream.start {
            *stream = Stream::new(sequence);
        }
        stream.insert(sequence, segment.payload, &limits, sink)
    }

    /// The capture is over: tells what is missing.
    pub(crate) fn finish<E>(
        self,
        mut sink: impl FnMut(Direction, Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (direction, stream) in self.directions {
            match &stream.state {
                State::Over => {}
                State::Fresh | State::Units(_) if !stream.waiting.is_empty() => {
                    sink(
                        direction,
                        Event::Gap {
                            offset: stream.offset,
                        },
                    )?;
                }
                State::Fresh => {}
                State::Units(decoder) => {
                    if let Err(error) = decoder.finish() {
                        sink(
                            direction,
                            Event::Broken {
                                offset: stream.offset,
                                error,
                            },
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Stream {
    const fn new(start: Sequence) -> Self {
        Self {
            start,
            next: start,
            offset: 0,
            waiting: Vec::new(),
            state: State::Fresh,
        }
    }

    fn insert<E>(
        &mut self,
        sequence: Sequence,
        payload: &[u8],
        limits: &Limits,
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if payload.is_empty() || matches!(self.state, State::Over) {
            return Ok(());
        }
        if sequence.is_newer_than(self.next) {
            let bytes: usize = self.waiting.iter().map(|(_, payload)| payload.len()).sum();
            if self.waiting.len() >= MAX_WAITING || bytes + payload.len() > MAX_WAITING_BYTES {
                self.end();
                return sink(Event::Gap {
                    offset: self.offset,
                });
            }
            self.waiting.push((sequence, payload.to_vec()));
            return Ok(());
        }
        self.pass_on(sequence, payload, limits, sink)?;
        while let Some(at) = self
            .waiting
            .iter()
            .position(|(sequence, _)| !sequence.is_newer_than(self.next))
        {
            let (sequence, payload) = self.waiting.swap_remove(at);
            self.pass_on(sequence, &payload, limits, sink)?;
        }
        Ok(())
    }

    /// Decodes what of a segment is new.
    fn pass_on<E>(
        &mut self,
        sequence: Sequence,
        payload: &[u8],
        limits: &Limits,
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let seen = sequence
            .behind(self.next)
            .and_then(|seen| usize::try_from(seen).ok());
        let new = seen
            .and_then(|seen| payload.get(seen..))
            .unwrap_or_default();
        let Some(&first) = new.first() else {
            return Ok(());
        };
        if matches!(self.state, State::Fresh) {
            if first == registry::FIRST_TLS_HANDSHAKE {
                self.end();
                return sink(Event::Tls);
            }
            self.state = State::Units(Box::new(StreamDecoder::new(*limits)));
        }
        let State::Units(decoder) = &mut self.state else {
            return Ok(());
        };
        self.next = Sequence(
            self.next
                .0
                .wrapping_add(u32::try_from(new.len()).unwrap_or(u32::MAX)),
        );
        let mut feed = decoder.feed(new);
        loop {
            match feed.next() {
                Ok(Some(unit)) => {
                    let offset = self.offset;
                    self.offset += u64::try_from(unit.as_bytes().len()).unwrap_or(u64::MAX);
                    sink(Event::Unit { offset, unit })?;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.end();
                    return sink(Event::Broken {
                        offset: self.offset,
                        error,
                    });
                }
            }
        }
    }

    /// Forgets all but that there is nothing more to come.
    fn end(&mut self) {
        self.state = State::Over;
        self.waiting = Vec::new();
    }
}
