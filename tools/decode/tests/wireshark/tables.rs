//! The tables of the dissector, from the registry: the names by what the registry says, the rules by how messages are judged.

use std::fmt::Write;

use tsc_tpl::{
    CmType, Header, MessageError, RedundancyMethod, ResponseCode, ServiceType, Tlv, TlvType,
    TransportCode, Tsid, Unit, registry,
};

use crate::samples;

/// The generated part of `tscf.lua`.
pub(crate) fn render() -> String {
    let mut out = String::new();
    let names = |title: &str, entries: Vec<(u16, Option<&str>)>| {
        let mut table = format!("local {title} = {{\n");
        for (code, name) in entries {
            let name = name.expect("a known value has a name");
            table.push_str(&format!("    [{}] = \"{name}\",\n", number(code)));
        }
        table + "}\n\n"
    };
    macro_rules! names {
        ($title:literal, $code:ident) => {
            out += &names(
                $title,
                $code::ALL
                    .iter()
                    .map(|code| (code.0.into(), code.name()))
                    .collect(),
            );
        };
    }
    names!("CM_TYPES", CmType);
    names!("TLV_TYPES", TlvType);
    names!("RESPONSE_CODES", ResponseCode);
    names!("SERVICE_TYPES", ServiceType);
    names!("TRANSPORTS", TransportCode);
    names!("REDUNDANCY_METHODS", RedundancyMethod);
    out += &first_bytes();
    out += &limits();
    let repeatable = TlvType::ALL.iter().filter(|ty| ty.is_repeatable());
    let repeatable: Vec<_> = repeatable.copied().collect();
    out += &format!(
        "-- May appear more than once in a message.\nlocal REPEATABLE = {}\n\n",
        set(&repeatable, 0)
    );
    out += &needed();
    out += &rows();
    out
}

/// Codes from 256 on are read more easily in hex.
fn number(code: u16) -> String {
    if code < 256 {
        code.to_string()
    } else {
        format!("{code:#06x}")
    }
}

fn first_bytes() -> String {
    let first = [
        ("control", registry::FIRST_CONTROL, "control message"),
        ("redundancy", registry::FIRST_REDUNDANCY, "redundancy frame"),
        (
            "compressed_short",
            registry::FIRST_COMPRESSED_SHORT,
            "compressed_short",
        ),
        (
            "compressed_long",
            registry::FIRST_COMPRESSED_LONG,
            "compressed_long",
        ),
        ("extension", registry::FIRST_EXTENSION, "extension"),
    ];
    let mut out = "local FIRST = {\n".to_owned();
    for (name, byte, _) in first {
        let _ = writeln!(out, "    {name} = {byte:#04x},");
    }
    out += "}\n\nlocal FRAMES = {\n";
    for (_, byte, text) in first.get(1..).unwrap_or_default() {
        let _ = writeln!(out, "    [{byte:#04x}] = \"{text}\",");
    }
    out += "}\n\n";
    let alpn = std::str::from_utf8(registry::ALPN).expect("ASCII");
    out + &format!("local ALPN = \"{alpn}\"\n\n")
}

fn limits() -> String {
    let range = |range: std::ops::RangeInclusive<usize>| {
        format!("{{ {}, {} }}", range.start(), range.end())
    };
    let limits = [
        ("header", registry::HEADER_LEN.to_string()),
        ("tlv_header", registry::TLV_HEADER_LEN.to_string()),
        ("control_message", registry::MAX_CONTROL_MESSAGE.to_string()),
        ("tlvs", registry::MAX_TLVS.to_string()),
        ("probe", registry::MAX_PROBE_KEEPALIVE.to_string()),
        ("padding", registry::MAX_PADDING.to_string()),
        ("text", registry::MAX_TEXT.to_string()),
        ("cookie", range(registry::COOKIE_LEN)),
        ("auth_token", range(registry::AUTH_TOKEN_LEN)),
        ("entries", registry::MAX_REDUNDANCY_ENTRIES.to_string()),
        (
            "redundancy_factor",
            registry::MAX_REDUNDANCY_FACTOR.to_string(),
        ),
        ("inner_mtu", registry::MAX_INNER_MTU.to_string()),
        ("least_mtu_ipv4", registry::MIN_INNER_MTU_IPV4.to_string()),
        ("least_mtu_ipv6", registry::MIN_INNER_MTU_IPV6.to_string()),
    ];
    let mut out = "local LIMITS = {\n".to_owned();
    for (name, value) in limits {
        let _ = writeln!(out, "    {name} = {value},");
    }
    out + "}\n\n"
}

/// `{ [1] = true, ... }`, in lines that are not too long.
fn set(types: &[TlvType], indent: usize) -> String {
    let items: Vec<_> = types
        .iter()
        .map(|ty| format!("[{}] = true", number(ty.0)))
        .collect();
    if items.len() <= 6 {
        return if items.is_empty() {
            "{}".to_owned()
        } else {
            format!("{{ {} }}", items.join(", "))
        };
    }
    let (inner, outer) = (" ".repeat(indent + 4), " ".repeat(indent));
    let lines: Vec<_> = items
        .chunks(7)
        .map(|line| format!("{inner}{},\n", line.join(", ")))
        .collect();
    format!("{{\n{}{outer}}}", lines.concat())
}

/// TLVs without which a response code means nothing.
fn needed() -> String {
    let mut out = "-- The TLV that a response code comes with.\nlocal NEEDED = {\n".to_owned();
    for code in ResponseCode::ALL {
        let verdict = judge(CmType::CONFIGURATION_RESPONSE, &[Tlv::ResponseCode(*code)]);
        if let Err(MessageError::Missing(ty)) = verdict
            && *code != ResponseCode::SUCCESS
        {
            let _ = writeln!(out, "    [{}] = {},", code.0, number(ty.0));
        }
    }
    out + "}\n\n"
}

fn rows() -> String {
    let mut out = "-- What each message carries, by outcome. Types with the high bit set are never out of place.\n\
                   local ROWS = {\n"
        .to_owned();
    for cm_type in CmType::ALL {
        let outcomes: &[_] = if cm_type.is_request() {
            &[("request", None)]
        } else {
            &[
                ("success", Some(ResponseCode::SUCCESS)),
                ("refused", Some(ResponseCode::BUSY)),
                ("unreadable", Some(ResponseCode::MALFORMED)),
            ]
        };
        let _ = writeln!(out, "    [{}] = {{", cm_type.0);
        let mut refused = None;
        for (name, code) in outcomes {
            let row = row(*cm_type, *code);
            // Only services have answers of those who could not read the question.
            if refused.as_ref() == Some(&row) {
                continue;
            }
            let required: Vec<_> = row.0.iter().map(|ty| number(ty.0)).collect();
            let required = format!("{{ {} }}", required.join(", ")).replace("{  }", "{}");
            let listed = set(&row.1, 12);
            let _ = writeln!(
                out,
                "        {name} = {{\n            required = {required},\n            listed = {listed},\n        }},"
            );
            if *name == "refused" {
                refused = Some(row);
            }
        }
        out += "    },\n";
    }
    out + "}\n"
}

/// Which TLVs a message must and may carry.
fn row(cm_type: CmType, code: Option<ResponseCode>) -> (Vec<TlvType>, Vec<TlvType>) {
    let samples = samples::tlvs();
    let sample = |ty: TlvType| {
        *samples
            .iter()
            .find(|tlv| tlv.ty() == ty)
            .expect("a sample of each type")
    };
    let base: Vec<_> = code.map(Tlv::ResponseCode).into_iter().collect();
    let listed = TlvType::ALL.iter().copied().filter(|ty| {
        let mut tlvs = base.clone();
        if *ty != TlvType::RESPONSE_CODE || code.is_none() {
            tlvs.push(sample(*ty));
        }
        judge(cm_type, &tlvs) != Err(MessageError::UnexpectedTlv(*ty))
    });
    let listed = listed.filter(|ty| !ty.is_ignorable()).collect();
    // Without a code a response is judged as a refusal: only there the place of the code in the order shows.
    let mut tlvs = match code {
        Some(ResponseCode::BUSY) | None => Vec::new(),
        Some(_) => base.clone(),
    };
    let mut required: Vec<_> = tlvs.iter().map(Tlv::ty).collect();
    while let Err(MessageError::Missing(ty)) = judge(cm_type, &tlvs) {
        let code = code.filter(|_| ty == TlvType::RESPONSE_CODE);
        tlvs.push(code.map_or_else(|| sample(ty), Tlv::ResponseCode));
        required.push(ty);
    }
    (required, listed)
}

/// What `tsc-tpl` says of a message.
fn judge(cm_type: CmType, tlvs: &[Tlv<'_>]) -> Result<(), MessageError> {
    let header = Header {
        cm_type,
        tlv_count: 0,
        tsid: Tsid::UNASSIGNED,
        sequence: tsc_tpl::Sequence(1),
    };
    let bytes = samples::raw(&header, tlvs);
    match Unit::decode_datagram(&bytes, &samples::LIMITS) {
        Ok(Unit::Control(control)) => control.parse().map(|_message| ()),
        other => panic!("not framed: {other:?}"),
    }
}
