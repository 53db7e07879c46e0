//! What is written down: capture files and log lines.

use tsc_csm::server::{Event, Identity};
use tsc_osaa::trace::{Capture, CaptureWriter, Direction, Interface as Side};
use tsc_tpl::Unit;

pub(super) fn trace(
    capture: Option<&(CaptureWriter, Capture)>,
    unit: &Unit<'_>,
    direction: Direction,
) {
    let Some((_, capture)) = capture else { return };
    match unit {
        Unit::Ip(packet) => capture.record(Side::Inner, direction, packet.as_bytes()),
        Unit::Control(message) => capture.record(Side::Control, direction, message.as_bytes()),
        Unit::Redundancy(_) | Unit::Reserved(_) => {}
    }
}

pub(super) fn trace_bytes(
    capture: Option<&(CaptureWriter, Capture)>,
    control: &[u8],
    direction: Direction,
) {
    if let Some((_, capture)) = capture {
        capture.record(Side::Control, direction, control);
    }
}

/// One line for each event that an operator wants to find again; packets never get here.
pub(super) fn log(event: &Event) {
    match event {
        Event::SessionUp {
            session,
            tsid,
            addresses,
            identity,
            ..
        } => {
            let identity = identity.as_ref().map(Identity::as_str);
            tracing::info!(event = "tunnel-up", ?session, %tsid, ?addresses, identity);
        }
        Event::Bound { session, binding } => {
            tracing::info!(event = "tunnel-resumed", ?session, ?binding)
        }
        Event::StateChanged { session, state } => {
            tracing::info!(event = "tunnel-state", ?session, ?state)
        }
        Event::SessionDown {
            session,
            tsid,
            reason,
        } => {
            tracing::info!(event = "tunnel-down", ?session, %tsid, ?reason);
        }
        Event::CloseBinding { binding, reason } => {
            tracing::debug!(event = "transport-closed", ?binding, ?reason)
        }
        Event::Refused { peer, code } => tracing::info!(event = "tunnel-refused", %peer, %code),
        _ => {}
    }
}
