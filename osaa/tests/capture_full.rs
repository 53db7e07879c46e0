//! A disk that is full is told at once, and once. In a binary of its own, as it listens to the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fmt::{self, Write as _},
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use tsc_osaa::trace::{CaptureError, CaptureOptions, CaptureWriter, Direction, Interface};

/// Passes warnings on as text.
struct Warnings(Sender<String>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                write!(self.0, "{field}={value:?} ").unwrap();
            }
        }
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        drop(self.0.send(fields.0));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn warnings() -> Receiver<String> {
    let (sender, receiver) = channel();
    tracing::subscriber::set_global_default(Warnings(sender)).unwrap();
    receiver
}

#[test]
fn a_full_disk_is_told_when_the_file_is_idle_and_not_again() {
    let warnings = warnings();
    // Takes any number of opens, and not one byte.
    let writer = CaptureWriter::create(Path::new("/dev/full"), CaptureOptions::default()).unwrap();
    let handle = writer.handle();
    handle.record(Interface::Inner, Direction::Inbound, &[0x45; 100]);
    let warning = warnings
        .recv_timeout(Duration::from_secs(20))
        .expect("told while the capture goes on");
    assert!(warning.contains("capture-failed"), "{warning}");
    // Much more than any buffer holds.
    for _ in 0..1000 {
        handle.record(Interface::Inner, Direction::Inbound, &[0x45; 1000]);
    }
    let closed = writer.close();
    assert!(
        matches!(closed, Err(CaptureError::Write { .. })),
        "{closed:?}"
    );
    assert!(handle.stats().dropped >= 1000);
    assert_eq!(warnings.try_iter().collect::<Vec<_>>(), [""; 0]);
}
