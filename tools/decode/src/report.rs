//! What is printed: one object for each unit, and for each thing that is none.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tsc_tpl::{StunMessage, Unit};

use crate::capture::Direction;
use crate::view;

/// How it is printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) json: bool,
    pub(crate) show_secrets: bool,
}

/// Where something comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Origin {
    /// Number of the packet in its capture, from 1.
    pub(crate) frame: Option<u64>,
    /// Since 1970.
    pub(crate) time: Option<Duration>,
    pub(crate) direction: Option<Direction>,
    pub(crate) outer: Option<OuterOrigin>,
    /// Place in the stream, in bytes.
    pub(crate) offset: Option<u64>,
}

/// The transport that carried it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OuterOrigin {
    pub(crate) transport: &'static str,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// What was seen, for the last line and the exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    units: u64,
    errors: u64,
    opaque: u64,
    /// Packets of a capture that have nothing to do with the tunnel.
    unrelated: u64,
}

impl Summary {
    pub(crate) const fn is_clean(&self) -> bool {
        self.errors == 0
    }

    /// A line for people, if there is more to say than what was printed.
    pub(crate) fn text(&self) -> Option<String> {
        let Self {
            units,
            errors,
            opaque,
            unrelated,
        } = self;
        (errors + opaque + unrelated > 0 || *units == 0).then(|| {
            format!("{units} units, {errors} errors, {opaque} encrypted or not ours, {unrelated} unrelated packets")
        })
    }
}

/// Prints and counts.
pub(crate) struct Report<W> {
    out: W,
    style: Style,
    index: u64,
    summary: Summary,
}

impl<W: Write> Report<W> {
    pub(crate) fn new(out: W, style: Style) -> Self {
        Self {
            out,
            style,
            index: 0,
            summary: Summary::default(),
        }
    }

    /// A unit, with the error of its content if there is one.
    pub(crate) fn unit(&mut self, origin: &Origin, unit: &Unit<'_>) -> io::Result<()> {
        let error = view::content_error(unit);
        match error {
            None => self.summary.units += 1,
            Some(_) => self.summary.errors += 1,
        }
        if self.style.json {
            let mut object = self.object(
                origin,
                view::kind(unit),
                error.is_none(),
                unit.as_bytes().len(),
            );
            if let Some(error) = error {
                object.insert("error".into(), error.into());
            }
            object.insert(
                view::kind(unit).into(),
                view::json(unit, self.style.show_secrets),
            );
            self.line(object)
        } else {
            self.prefix(origin)?;
            writeln!(self.out, "{}", view::text(unit, self.style.show_secrets))
        }
    }

    /// What finds the way of a peer tunnel, beside units.
    pub(crate) fn stun(
        &mut self,
        origin: &Origin,
        len: usize,
        message: &StunMessage,
    ) -> io::Result<()> {
        self.summary.units += 1;
        if self.style.json {
            let mut object = self.object(origin, "stun", true, len);
            object.insert("stun".into(), view::stun_json(message));
            self.line(object)
        } else {
            self.prefix(origin)?;
            writeln!(self.out, "{}", view::stun_text(message, len))
        }
    }

    /// Bytes that are no unit.
    pub(crate) fn error(&mut self, origin: &Origin, len: usize, error: &str) -> io::Result<()> {
        self.summary.errors += 1;
        if self.style.json {
            let mut object = self.object(origin, "error", false, len);
            object.insert("error".into(), error.into());
            self.line(object)
        } else {
            self.prefix(origin)?;
            writeln!(self.out, "error: {error}")
        }
    }

    /// Bytes that are not ours to read.
    pub(crate) fn opaque(&mut self, origin: &Origin, len: usize, what: &str) -> io::Result<()> {
        self.summary.opaque += 1;
        if self.style.json {
            let mut object = self.object(origin, "opaque", true, len);
            object.insert("opaque".into(), what.into());
            self.line(object)
        } else {
            self.prefix(origin)?;
            writeln!(self.out, "{what}, not decoded ({len} bytes)")
        }
    }

    /// A packet that has nothing to do with the tunnel.
    pub(crate) const fn unrelated(&mut self) {
        self.summary.unrelated += 1;
    }

    /// Writes what is left.
    pub(crate) fn finish(mut self) -> io::Result<Summary> {
        self.out.flush()?;
        Ok(self.summary)
    }

    fn object(&mut self, origin: &Origin, kind: &str, ok: bool, len: usize) -> Map<String, Value> {
        self.index += 1;
        let mut object = Map::new();
        object.insert("index".into(), self.index.into());
        if let Some(frame) = origin.frame {
            object.insert("frame".into(), frame.into());
        }
        if let Some(time) = origin.time {
            object.insert("time".into(), seconds(time).into());
        }
        if let Some(direction) = origin.direction {
            object.insert("direction".into(), direction_name(direction).into());
        }
        if let Some(outer) = origin.outer {
            let outer = json!({
                "transport": outer.transport,
                "source": outer.source.to_string(),
                "destination": outer.destination.to_string(),
            });
            object.insert("outer".into(), outer);
        }
        if let Some(offset) = origin.offset {
            object.insert("offset".into(), offset.into());
        }
        object.insert("kind".into(), kind.into());
        object.insert("ok".into(), ok.into());
        object.insert("length".into(), len.into());
        object
    }

    fn line(&mut self, object: Map<String, Value>) -> io::Result<()> {
        writeln!(self.out, "{}", Value::Object(object))
    }

    fn prefix(&mut self, origin: &Origin) -> io::Result<()> {
        if let Some(frame) = origin.frame {
            write!(self.out, "#{frame} ")?;
        }
        if let Some(time) = origin.time {
            write!(self.out, "{} ", seconds(time))?;
        }
        if let Some(direction) = origin.direction {
            write!(self.out, "{} ", direction_name(direction))?;
        }
        if let Some(outer) = origin.outer {
            write!(
                self.out,
                "{} {} > {} ",
                outer.transport, outer.source, outer.destination
            )?;
        }
        if let Some(offset) = origin.offset {
            write!(self.out, "@{offset} ")?;
        }
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}
