//! The incremental decoder for stream transports.

use crate::error::FramingError;
use crate::limits::{Carrier, Extent, Limits};
use crate::registry::{CmType, FIRST_CONTROL};
use crate::unit::Unit;

/// Cuts a byte stream into units.
///
/// It is fed what a read returned and decodes straight out of that; it keeps bytes only while a unit is
/// incomplete, and then only that unit's: at most 4096 of a control message, the inner MTU and 6 of
/// anything else. An idle decoder holds no heap memory.
///
/// An error is final: the stream cannot be resynchronised, and every later call repeats the error.
#[derive(Debug)]
pub struct StreamDecoder {
    limits: Limits,
    /// The incomplete unit; or, while `spent`, the unit that was returned last.
    tail: Vec<u8>,
    spent: bool,
    /// Whether the next unit has to be a configuration or resume request.
    expects_request: bool,
    units: u64,
    failed: Option<FramingError>,
}

impl StreamDecoder {
    /// A decoder at the client's end, where any unit may come first.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            tail: Vec::new(),
            spent: false,
            expects_request: false,
            units: 0,
            failed: None,
        }
    }

    /// A decoder at the server's end: anything but a Configuration_Request or a
    /// Configuration_Resume_Request as the first unit is refused, by its first two bytes (spec 2).
    #[must_use]
    pub const fn expecting_request(limits: Limits) -> Self {
        let mut decoder = Self::new(limits);
        decoder.expects_request = true;
        decoder
    }

    /// Changes the limits, once the inner MTU is known. They hold for every unit not yet returned.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Hands in what was read. Call [`Feed::next`] on the result until it returns `None`.
    pub const fn feed<'d, 'c>(&'d mut self, chunk: &'c [u8]) -> Feed<'d, 'c> {
        Feed {
            decoder: self,
            chunk,
        }
    }

    /// Whether part of a unit is held.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        !self.spent && !self.tail.is_empty()
    }

    /// The ordinal of the unit that is incomplete, if one is.
    ///
    /// If it is the same as 30 s ago, the unit stalled and the transport is to be closed with
    /// [`FramingError::Stalled`] (spec 2). A mere [`is_partial`](Self::is_partial) would also be true
    /// for a busy stream whose reads happen to end inside units.
    #[must_use]
    pub const fn partial(&self) -> Option<u64> {
        if self.is_partial() {
            Some(self.units)
        } else {
            None
        }
    }

    /// How many units were decoded so far.
    #[must_use]
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// Tells that the stream has ended.
    ///
    /// # Errors
    ///
    /// An earlier error, or [`FramingError::EndInsideUnit`].
    pub const fn finish(&self) -> Result<(), FramingError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.is_partial() => Err(FramingError::EndInsideUnit(self.tail.len())),
            None => Ok(()),
        }
    }

    fn measure(&self, bytes: &[u8]) -> Result<Extent, FramingError> {
        let Some(&first) = bytes.first() else {
            return Ok(Extent::AtLeast(1));
        };
        if self.expects_request {
            let wrong_type = bytes.get(1).is_some_and(|&ty| {
                !matches!(
                    CmType(ty),
                    CmType::CONFIGURATION_REQUEST | CmType::CONFIGURATION_RESUME_REQUEST
                )
            });
            if first != FIRST_CONTROL || wrong_type {
                return Err(FramingError::WrongFirstUnit);
            }
        }
        Ok(Unit::measure(first, bytes, &self.limits, Carrier::Stream)?)
    }
}

/// The units of one chunk, and of what was kept before it.
#[derive(Debug)]
pub struct Feed<'d, 'c> {
    decoder: &'d mut StreamDecoder,
    chunk: &'c [u8],
}

/// Where the next unit is.
enum Place<'c> {
    Tail,
    Chunk(&'c [u8]),
}

impl<'c> Feed<'_, 'c> {
    /// The next unit; `None` when the chunk is used up.
    ///
    /// The unit borrows from this feed, hence this is no [`Iterator`].
    ///
    /// # Errors
    ///
    /// The stream is broken: close the transport.
    #[expect(clippy::should_implement_trait, reason = "a lending iterator")]
    pub fn next(&mut self) -> Result<Option<Unit<'_>>, FramingError> {
        if let Some(error) = self.decoder.failed {
            return Err(error);
        }
        if self.decoder.spent {
            self.decoder.spent = false;
            self.decoder.tail = Vec::new();
        }
        let place = match self.locate() {
            Ok(Some(place)) => place,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.chunk = &[];
                self.decoder.tail = Vec::new();
                self.decoder.failed = Some(error);
                return Err(error);
            }
        };
        self.decoder.units += 1;
        self.decoder.expects_request = false;
        let unit = match place {
            Place::Chunk(bytes) => Unit::framed(bytes)?,
            Place::Tail => {
                self.decoder.spent = true;
                Unit::framed(&self.decoder.tail)?
            }
        };
        Ok(Some(unit))
    }

    /// What of the chunk has not been looked at. A caller that stops early (back-pressure) feeds this
    /// first next time; bytes that are not fed again are lost to the stream.
    #[must_use]
    pub const fn remaining(&self) -> &'c [u8] {
        self.chunk
    }

    /// [`StreamDecoder::set_limits`] in the middle of a chunk, for the units behind the one just returned.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.decoder.set_limits(limits);
    }

    /// Finds the next whole unit; moves what is left of the chunk to the tail if there is none.
    fn locate(&mut self) -> Result<Option<Place<'c>>, FramingError> {
        loop {
            if self.decoder.tail.is_empty() {
                if self.chunk.is_empty() {
                    return Ok(None);
                }
                match self.decoder.measure(self.chunk)? {
                    Extent::Complete(len) => return Ok(Some(Place::Chunk(self.take(len)))),
                    Extent::AtLeast(_) => {
                        self.decoder.tail.extend_from_slice(self.chunk);
                        self.chunk = &[];
                        return Ok(None);
                    }
                }
            }
            match self.decoder.measure(&self.decoder.tail)? {
                Extent::Complete(_) => return Ok(Some(Place::Tail)),
                Extent::AtLeast(_) if self.chunk.is_empty() => return Ok(None),
                // Never past the unit's end: what `AtLeast` names belongs to it.
                Extent::AtLeast(needed) => {
                    let missing = self.take(needed.saturating_sub(self.decoder.tail.len()));
                    self.decoder.tail.extend_from_slice(missing);
                }
            }
        }
    }

    fn take(&mut self, len: usize) -> &'c [u8] {
        let (head, rest) = self
            .chunk
            .split_at_checked(len)
            .unwrap_or((self.chunk, &[]));
        self.chunk = rest;
        head
    }
}
