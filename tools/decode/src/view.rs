//! Units as text and as JSON values.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use tsc_tpl::{
    ControlMessage, IpPacket, IpVersion, MessageBuilder, RawTlv, RedundancyFrame, ReservedFrame,
    ReservedKind, ResponseCode, StunKind, StunMessage, TlvType, Unit,
};

/// What a unit is called in the output.
pub(crate) const fn kind(unit: &Unit<'_>) -> &'static str {
    match unit {
        Unit::Control(_) => "control",
        Unit::Ip(_) => "ip",
        Unit::Redundancy(_) => "redundancy",
        Unit::Reserved(_) => "reserved",
    }
}

/// What is wrong with the content of a unit that is framed well.
pub(crate) fn content_error(unit: &Unit<'_>) -> Option<String> {
    match unit {
        Unit::Control(control) => control.parse().err().map(|error| error.to_string()),
        Unit::Ip(_) | Unit::Redundancy(_) | Unit::Reserved(_) => None,
    }
}

/// Lines for people; the first has no indentation, the last no line break.
pub(crate) fn text(unit: &Unit<'_>, show_secrets: bool) -> String {
    let mut text = String::new();
    match unit {
        Unit::Control(control) => {
            text = format!("{} ({} bytes)", control.header(), control.as_bytes().len());
            for raw in control.raw_tlvs() {
                let line = match value(&raw, show_secrets) {
                    Ok(value) => format!("\n  {} = {value}", raw.ty),
                    Err(error) => format!("\n  {} = <{} bytes> ! {error}", raw.ty, raw.value.len()),
                };
                text.push_str(&line);
            }
            if let Err(error) = control.parse() {
                text.push_str(&format!("\n  ! {error}"));
                if let Some(code) = answer(control) {
                    text.push_str(&format!(" (answer: {code})"));
                }
            }
        }
        Unit::Redundancy(frame) => {
            text = format!(
                "redundancy of {} ({} bytes)",
                frame.count(),
                frame.as_bytes().len()
            );
            for entry in frame.entries() {
                text.push_str(&format!("\n  {}: {}", entry.sequence, entry.packet));
            }
        }
        Unit::Ip(packet) => text.push_str(&packet.to_string()),
        Unit::Reserved(frame) => text.push_str(&frame.to_string()),
    }
    text
}

/// The object named by [`kind`].
pub(crate) fn json(unit: &Unit<'_>, show_secrets: bool) -> Value {
    match unit {
        Unit::Control(control) => control_json(control, show_secrets),
        Unit::Ip(packet) => ip_json(packet),
        Unit::Redundancy(frame) => redundancy_json(frame),
        Unit::Reserved(frame) => reserved_json(frame),
    }
}

fn control_json(control: &ControlMessage<'_>, show_secrets: bool) -> Value {
    let header = control.header();
    let tlvs: Vec<_> = control
        .raw_tlvs()
        .map(|raw| tlv_json(&raw, show_secrets))
        .collect();
    let mut object = json!({
        "type": header.cm_type.to_string(),
        "type_code": header.cm_type.0,
        "tsid": header.tsid.to_string(),
        "sequence": header.sequence.0,
        "tlvs": tlvs,
    });
    if let (Value::Object(object), Some(code)) = (&mut object, answer(control)) {
        object.insert("answer".into(), code.to_string().into());
    }
    object
}

fn tlv_json(raw: &RawTlv<'_>, show_secrets: bool) -> Value {
    let mut object = Map::new();
    object.insert("type".into(), raw.ty.to_string().into());
    object.insert("type_code".into(), raw.ty.0.into());
    object.insert("length".into(), raw.value.len().into());
    match value(raw, show_secrets) {
        Ok(value) => object.insert("value".into(), value.into()),
        Err(error) => object.insert("error".into(), error.into()),
    };
    Value::Object(object)
}

fn ip_json(packet: &IpPacket<'_>) -> Value {
    let mut object = json!({
        "version": match packet.version() {
            IpVersion::V4 => 4,
            IpVersion::V6 => 6,
        },
        "source": packet.source().to_string(),
        "destination": packet.destination().to_string(),
        "protocol": packet.protocol(),
        "fragment": packet.is_fragment(),
    });
    if let (Value::Object(object), Some((source, destination))) = (&mut object, packet.ports()) {
        object.insert("source_port".into(), source.into());
        object.insert("destination_port".into(), destination.into());
    }
    object
}

fn redundancy_json(frame: &RedundancyFrame<'_>) -> Value {
    let entries: Vec<_> = frame
        .entries()
        .map(|entry| {
            json!({
                "sequence": entry.sequence.0,
                "length": entry.packet.len(),
                "ip": ip_json(&entry.packet),
            })
        })
        .collect();
    json!({ "entries": entries })
}

fn reserved_json(frame: &ReservedFrame<'_>) -> Value {
    json!({
        "frame": match frame.kind() {
            ReservedKind::CompressedShort => "compressed_short",
            ReservedKind::CompressedLong => "compressed_long",
            ReservedKind::Extension => "extension",
        },
        "index": frame.index(),
        "payload_length": frame.payload().len(),
    })
}

/// A line for people.
pub(crate) fn stun_text(message: &StunMessage, len: usize) -> String {
    let transaction = hex(&message.transaction);
    format!("{message} transaction={transaction} ({len} bytes)")
}

pub(crate) fn stun_json(message: &StunMessage) -> Value {
    let (name, seen) = match message.kind {
        StunKind::Request => ("request", None),
        StunKind::Indication => ("indication", None),
        StunKind::Success(seen) => ("success", Some(seen)),
    };
    let mut object = json!({
        "type": name,
        "transaction": hex(&message.transaction),
        "fingerprint": message.fingerprint,
    });
    if let (Value::Object(object), Some(seen)) = (&mut object, seen) {
        object.insert("seen".into(), seen.to_string().into());
    }
    object
}

/// A TLV's value as text, or what is wrong with it.
fn value(raw: &RawTlv<'_>, show_secrets: bool) -> Result<String, String> {
    let decoded = raw.decode();
    let hidden = !raw.ty.is_known()
        || matches!(
            raw.ty,
            TlvType::TUNNEL_TAG
                | TlvType::RESUME_KEY
                | TlvType::COOKIE
                | TlvType::AUTH_TOKEN
                | TlvType::RESUME_PROOF
        );
    match decoded {
        Ok(_) if hidden && show_secrets => Ok(hex(raw.value)),
        Ok(tlv) => Ok(tlv.value().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a malformed request is answered.
fn answer(control: &ControlMessage<'_>) -> Option<ResponseCode> {
    let error = control.parse().err()?;
    MessageBuilder::refuse(&control.header(), &error).map(|_answer| error.response_code())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
