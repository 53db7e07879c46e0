//! What must never be shown is not (spec 8.6), and what a peer wrote cannot forge a log line.
#![allow(clippy::unwrap_used)]

use tsc_tpl::{
    AuthToken, CmType, Cookie, Limits, MessageBuilder, ResumeKey, ResumeProof, Sequence, Text, Tlv,
    TlvType, Tsid, TunnelTag, Unit, UnknownTlv,
};

const SECRET: [u8; 32] = [0xA5; 32];

#[test]
fn no_view_of_a_secret_shows_it() {
    let (tag, _) = SECRET.split_first_chunk().unwrap();
    let secrets = [
        Tlv::ResumeKey(ResumeKey::new(&SECRET)),
        Tlv::TunnelTag(TunnelTag::new(tag)),
        Tlv::Cookie(Cookie::new(&SECRET).unwrap()),
        Tlv::AuthToken(AuthToken::new(&SECRET).unwrap()),
        Tlv::ResumeProof(ResumeProof {
            counter: 1,
            mac: &SECRET,
        }),
        // It may be one: nobody here knows.
        Tlv::Unknown(UnknownTlv::new(TlvType(0xFF00), &SECRET).unwrap()),
    ];
    let hidden = |text: &str| !text.contains("165") && !text.to_lowercase().contains("a5");
    for tlv in secrets {
        assert!(
            hidden(&format!("{tlv} {tlv:?} {tlv:#?} {}", tlv.value())),
            "{tlv:?}"
        );
    }
    let mut wire = Vec::new();
    let builder = MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
        .tlvs([
            Tlv::ProtocolRevision(1),
            Tlv::Cookie(Cookie::new(&SECRET).unwrap()),
            Tlv::AuthToken(AuthToken::new(&SECRET).unwrap()),
        ]);
    builder.encode(&mut wire).unwrap();
    let unit = Unit::decode_datagram(&wire, &Limits::default()).unwrap();
    let Unit::Control(control) = unit else {
        panic!("{unit}")
    };
    let raw: Vec<_> = control.raw_tlvs().collect();
    let all = format!(
        "{builder:?} {unit} {unit:?} {raw:?} {:?}",
        control.parse().unwrap()
    );
    assert!(hidden(&all), "{all}");
}

#[test]
fn secrets_are_compared_as_a_whole() {
    let mut other = SECRET;
    other[31] ^= 1;
    assert_eq!(ResumeKey::new(&SECRET), ResumeKey::new(&SECRET.clone()));
    assert_ne!(ResumeKey::new(&SECRET), ResumeKey::new(&other));
    assert_ne!(Cookie::new(&SECRET), Cookie::new(SECRET.split_at(31).0));
    let proof = |counter, mac| ResumeProof { counter, mac };
    assert_eq!(proof(1, &SECRET), proof(1, &SECRET));
    assert_ne!(proof(1, &SECRET), proof(2, &SECRET));
    assert_ne!(proof(1, &SECRET), proof(1, &other));
}

#[test]
fn text_is_cut_between_characters_and_escaped() {
    let reason = Tlv::ReasonText(Text::new("a\nERROR \u{1b}[31m\"").unwrap());
    assert_eq!(reason.to_string(), r#"Reason_Text="a\nERROR \u{1b}[31m\"""#);
    assert!(Text::new(&"x".repeat(129)).is_err());
    let long = "é".repeat(100);
    assert_eq!(Text::truncated(&long).as_str().len(), 128);
    let odd = format!("x{long}");
    assert_eq!(Text::truncated(&odd).as_str().len(), 127);
    assert_eq!(Text::truncated("short").as_str(), "short");
}
