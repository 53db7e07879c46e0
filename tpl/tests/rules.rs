//! What a message must, may and must not carry (spec 3.2-3.6): one broken rule a test.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use std::net::{Ipv4Addr, Ipv6Addr};

use tsc_tpl::{
    CmType, ControlMessage, Cookie, EncodeError, Header, Ipv4Netmask, Ipv6PrefixLength, Limits,
    MessageBuilder, MessageError, Padding, ResponseCode, ResumeKey, Seconds, Sequence,
    ServerEndpoint, ServiceType, Text, Tlv, TlvType, TransportCode, Tsid, TunnelTag, Unit,
    UnknownTlv, ValueError,
};

static KEY: [u8; 32] = [7; 32];
static TAG: [u8; 16] = [9; 16];

const V4: Tlv<'_> = Tlv::InternalIpv4Address(Ipv4Addr::new(10, 0, 0, 1));
const V6: Tlv<'_> = Tlv::InternalIpv6Address(Ipv6Addr::LOCALHOST);
const REVISION: Tlv<'_> = Tlv::ProtocolRevision(1);
const SUCCESS: Tlv<'_> = Tlv::ResponseCode(ResponseCode::SUCCESS);
const TSID: Tlv<'_> = Tlv::TunnelSessionId(Tsid(5));

fn mask() -> Tlv<'static> {
    Tlv::InternalIpv4Netmask(Ipv4Netmask::new(24).unwrap())
}

fn prefix() -> Tlv<'static> {
    Tlv::InternalIpv6PrefixLength(Ipv6PrefixLength::new(64).unwrap())
}

fn tag() -> Tlv<'static> {
    Tlv::TunnelTag(TunnelTag::new(&TAG))
}

/// Bytes of a message, rules unchecked.
fn raw(ty: u8, tsid: u64, tlvs: &[(u16, &[u8])]) -> Vec<u8> {
    let mut wire = vec![0x10, ty];
    wire.extend(u16::try_from(tlvs.len()).unwrap().to_be_bytes());
    wire.extend(tsid.to_be_bytes());
    wire.extend(1u32.to_be_bytes());
    for (ty, value) in tlvs {
        wire.extend(ty.to_be_bytes());
        wire.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        wire.extend(*value);
    }
    wire
}

fn control(wire: &[u8]) -> ControlMessage<'_> {
    match Unit::decode_datagram(wire, &Limits::default()).unwrap() {
        Unit::Control(control) => control,
        other => panic!("{other}"),
    }
}

fn parse_error(wire: &[u8]) -> MessageError {
    control(wire).parse().unwrap_err()
}

/// A Keepalive with one TLV: whatever is wrong with its value comes first.
fn value_error(ty: TlvType, value: &[u8]) -> Option<ValueError> {
    match control(&raw(7, 1, &[(ty.0, value)])).parse() {
        Err(MessageError::Value { ty: named, error }) => {
            assert_eq!(named, ty);
            Some(error)
        }
        _ => None,
    }
}

/// What the encoder says; the decoder must agree, so that both are covered by each case.
#[track_caller]
fn check(builder: MessageBuilder<'_>) -> Result<(), MessageError> {
    let encoded = builder.encode(&mut Vec::new());
    let mut wire = raw(0, 0, &[]);
    let bytes: Vec<_> = builder
        .tlv_list()
        .iter()
        .map(|tlv| (tlv.ty().0, tlv_value(tlv)))
        .collect();
    let borrowed: Vec<_> = bytes
        .iter()
        .map(|(ty, value)| (*ty, value.as_slice()))
        .collect();
    let header = header_of(&builder);
    wire.splice(.., raw(header.cm_type.0, header.tsid.0, &borrowed));
    let decoded = control(&wire).parse().map(|_| ());
    match (encoded, decoded) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(EncodeError::Message(one)), Err(two)) => {
            assert_eq!(one, two);
            Err(one)
        }
        (encoded, decoded) => panic!("encoder {encoded:?}, decoder {decoded:?}: {builder:?}"),
    }
}

/// A TLV's value bytes, taken from a message that ignores what it holds.
fn tlv_value(tlv: &Tlv<'_>) -> Vec<u8> {
    // Each type is valid in some message; building a raw one needs only its bytes.
    let mut wire = Vec::new();
    tlv.encode(&mut wire).unwrap();
    wire.split_off(4)
}

fn header_of(builder: &MessageBuilder<'_>) -> Header {
    builder.header()
}

fn request(ty: CmType) -> MessageBuilder<'static> {
    let tsid = if ty == CmType::CONFIGURATION_REQUEST {
        Tsid::UNASSIGNED
    } else {
        Tsid(1)
    };
    MessageBuilder::new(ty, tsid, Sequence(1))
}

fn grant() -> MessageBuilder<'static> {
    MessageBuilder::new(CmType::CONFIGURATION_RESPONSE, Tsid(1), Sequence(1))
        .tlv(SUCCESS)
        .tlv(REVISION)
        .tlv(Tlv::KeepaliveInterval(Seconds(50)))
        .tlv(Tlv::PersistenceTime(Seconds(330)))
        .tlv(Tlv::ResumeKey(ResumeKey::new(&KEY)))
}

fn refusal(ty: CmType, code: ResponseCode) -> MessageBuilder<'static> {
    let tsid = if ty == CmType::CONFIGURATION_RESPONSE {
        Tsid::UNASSIGNED
    } else {
        Tsid(1)
    };
    MessageBuilder::new(ty, tsid, Sequence(1)).tlv(Tlv::ResponseCode(code))
}

#[test]
fn required_tlvs_are_required() {
    use MessageError::Missing;
    assert_eq!(
        check(request(CmType::CONFIGURATION_REQUEST)),
        Err(Missing(TlvType::PROTOCOL_REVISION))
    );
    assert_eq!(
        check(request(CmType::CONFIGURATION_REQUEST).tlv(REVISION)),
        Ok(())
    );
    let resume = request(CmType::CONFIGURATION_RESUME_REQUEST).tlv(REVISION);
    assert_eq!(check(resume), Err(Missing(TlvType::RESUME_PROOF)));
    assert_eq!(
        check(request(CmType::SERVICE_REQUEST)),
        Err(Missing(TlvType::SERVICE_TYPE))
    );
    assert_eq!(
        check(request(CmType::CLIENT_SERVICE_REQUEST)),
        Err(Missing(TlvType::SERVICE_TYPE))
    );
    assert_eq!(check(request(CmType::KEEPALIVE)), Ok(()));
    assert_eq!(
        check(request(CmType::CONFIGURATION_RELEASE_REQUEST)),
        Ok(())
    );
    for ty in CmType::ALL.iter().copied().filter(|ty| ty.is_response()) {
        let error = check(MessageBuilder::new(ty, Tsid::UNASSIGNED, Sequence(1))).unwrap_err();
        assert!(
            matches!(
                error,
                Missing(TlvType::RESPONSE_CODE | TlvType::SERVICE_TYPE)
            ),
            "{ty}: {error}"
        );
    }

    let whole = grant().tlv(Tlv::InnerMtu(1400)).tlv(V4).tlv(mask());
    assert_eq!(check(whole.clone()), Ok(()));
    for (index, tlv) in whole.tlv_list().iter().enumerate().take(6) {
        let rest = whole
            .tlv_list()
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != index)
            .map(|(_, tlv)| *tlv);
        let without =
            MessageBuilder::new(CmType::CONFIGURATION_RESPONSE, Tsid(1), Sequence(1)).tlvs(rest);
        let error = check(without).unwrap_err();
        if tlv.ty() == TlvType::RESPONSE_CODE {
            // Without its code it is judged as a refusal.
            assert!(matches!(error, MessageError::UnexpectedTlv(_)), "{error}");
        } else {
            assert_eq!(error, Missing(tlv.ty()));
        }
    }
}

#[test]
fn a_grant_has_an_address_and_an_inner_mtu_that_fits_its_family() {
    let range = Err(MessageError::Value {
        ty: TlvType::INNER_MTU,
        error: ValueError::Content("inner MTU out of range"),
    });
    let with = |mtu| grant().tlv(Tlv::InnerMtu(mtu));
    assert_eq!(check(with(1400)), Err(MessageError::MissingAddress));
    assert_eq!(check(with(576).tlv(V4).tlv(mask())), Ok(()));
    assert_eq!(check(with(575).tlv(V4).tlv(mask())), range);
    assert_eq!(check(with(9000).tlv(V4).tlv(mask())), Ok(()));
    assert_eq!(check(with(9001).tlv(V4).tlv(mask())), range);
    assert_eq!(check(with(1280).tlv(V6).tlv(prefix())), Ok(()));
    assert_eq!(
        check(with(1279).tlv(V6).tlv(prefix()).tlv(V4).tlv(mask())),
        range
    );
    // A wish may be any number: the server grants what it can.
    assert_eq!(
        check(
            request(CmType::CONFIGURATION_REQUEST)
                .tlv(REVISION)
                .tlv(Tlv::InnerMtu(1))
        ),
        Ok(())
    );
}

#[test]
fn halves_of_pairs_stand_together() {
    use MessageError::Unpaired;
    let with = || grant().tlv(Tlv::InnerMtu(1400));
    assert_eq!(
        check(with().tlv(V4)),
        Err(Unpaired(TlvType::INTERNAL_IPV4_ADDRESS))
    );
    assert_eq!(
        check(with().tlv(mask()).tlv(V4)),
        Err(Unpaired(TlvType::INTERNAL_IPV4_NETMASK))
    );
    assert_eq!(
        check(with().tlv(V4).tlv(V6).tlv(mask()).tlv(prefix())),
        Err(Unpaired(TlvType::INTERNAL_IPV4_ADDRESS))
    );
    assert_eq!(
        check(with().tlv(V6).tlv(mask())),
        Err(Unpaired(TlvType::INTERNAL_IPV6_ADDRESS))
    );
    assert_eq!(
        check(with().tlv(V4).tlv(mask()).tlv(prefix())),
        Err(Unpaired(TlvType::INTERNAL_IPV6_PREFIX_LENGTH))
    );
    assert_eq!(
        check(
            with()
                .tlv(V4)
                .tlv(mask())
                .tlv(V4)
                .tlv(mask())
                .tlv(V6)
                .tlv(prefix())
        ),
        Ok(())
    );
    // Something ignored between the halves changes nothing.
    let unknown = Tlv::Unknown(UnknownTlv::new(TlvType(0xFF00), b"x").unwrap());
    assert_eq!(check(with().tlv(V4).tlv(unknown).tlv(mask())), Ok(()));
    let reason = Tlv::ReasonText(Text::new("ignored here").unwrap());
    assert_eq!(check(with().tlv(V4).tlv(reason).tlv(mask())), Ok(()));

    let service = || {
        MessageBuilder::new(CmType::CLIENT_SERVICE_RESPONSE, Tsid(1), Sequence(1))
            .tlv(SUCCESS)
            .tlv(Tlv::ServiceType(ServiceType::ENABLE_REDUNDANCY))
    };
    assert_eq!(
        check(service().tlv(TSID).tlv(tag()).tlv(TSID).tlv(tag())),
        Ok(())
    );
    assert_eq!(
        check(service().tlv(TSID)),
        Err(Unpaired(TlvType::TUNNEL_SESSION_ID))
    );
    assert_eq!(check(service().tlv(tag())), Ok(()), "a peer's tag");
    assert_eq!(
        check(service().tlv(tag()).tlv(tag())),
        Err(Unpaired(TlvType::TUNNEL_TAG))
    );
    assert_eq!(
        check(service().tlv(TSID).tlv(tag()).tlv(tag())),
        Err(Unpaired(TlvType::TUNNEL_TAG))
    );
}

#[test]
fn what_may_appear_once_appears_once() {
    let twice = request(CmType::CONFIGURATION_REQUEST)
        .tlv(REVISION)
        .tlv(REVISION);
    assert_eq!(
        check(twice),
        Err(MessageError::Repeated(TlvType::PROTOCOL_REVISION))
    );
    let padding = Tlv::Padding(Padding::new(1).unwrap());
    let twice = request(CmType::KEEPALIVE).tlv(padding).tlv(padding);
    assert_eq!(check(twice), Err(MessageError::Repeated(TlvType::PADDING)));
    let claims = request(CmType::CONFIGURATION_REQUEST)
        .tlv(REVISION)
        .tlv(TSID)
        .tlv(tag());
    assert_eq!(check(claims.clone()), Ok(()));
    assert_eq!(
        check(claims.tlv(TSID).tlv(tag())),
        Err(MessageError::Repeated(TlvType::TUNNEL_SESSION_ID))
    );
    // Of what nobody knows, nobody knows how often it may appear.
    let unknown = Tlv::Unknown(UnknownTlv::new(TlvType(0xFF00), b"x").unwrap());
    assert_eq!(
        check(request(CmType::KEEPALIVE).tlv(unknown).tlv(unknown)),
        Ok(())
    );
}

#[test]
fn the_high_bit_decides_about_what_is_unknown_or_out_of_place() {
    let unknown = raw(7, 1, &[(0x0063, b"")]);
    assert_eq!(
        parse_error(&unknown),
        MessageError::UnsupportedTlv(TlvType(0x63))
    );
    assert!(control(&raw(7, 1, &[(0x8063, b"")])).parse().is_ok());
    assert!(control(&raw(7, 1, &[(0xFFFF, b"")])).parse().is_ok());
    // Known, but not for a Keepalive.
    let dscp = raw(7, 1, &[(TlvType::DSCP.0, &[0])]);
    assert_eq!(
        parse_error(&dscp),
        MessageError::UnexpectedTlv(TlvType::DSCP)
    );
    let reason = raw(7, 1, &[(TlvType::REASON_TEXT.0, b"why")]);
    assert!(control(&reason).parse().is_ok());
    // "A known type with a wrong length is a message error" wherever it stands.
    let long = raw(7, 1, &[(TlvType::REASON_TEXT.0, &[b'a'; 129])]);
    assert!(matches!(
        parse_error(&long),
        MessageError::Value {
            error: ValueError::Length(129),
            ..
        }
    ));
    let key =
        MessageBuilder::new(CmType::CONFIGURATION_RESUME_REQUEST, Tsid(1), Sequence(1)).tlv(tag());
    assert_eq!(
        check(key),
        Err(MessageError::UnexpectedTlv(TlvType::TUNNEL_TAG))
    );
}

#[test]
fn codes_come_with_their_tlv() {
    use MessageError::Missing;
    let ty = CmType::CONFIGURATION_RESPONSE;
    for (code, needed, tlv) in [
        (
            ResponseCode::COOKIE_REQUIRED,
            TlvType::COOKIE,
            Tlv::Cookie(Cookie::new(&[1; 8]).unwrap()),
        ),
        (
            ResponseCode::REDIRECT,
            TlvType::ALTERNATE_SERVER,
            Tlv::AlternateServer(ServerEndpoint {
                transport: TransportCode::TLS,
                addr: "192.0.2.1:443".parse().unwrap(),
            }),
        ),
        (
            ResponseCode::UNSUPPORTED_TLV,
            TlvType::OFFENDING_TYPE,
            Tlv::OffendingType(TlvType(99)),
        ),
    ] {
        assert_eq!(check(refusal(ty, code)), Err(Missing(needed)));
        assert_eq!(check(refusal(ty, code).tlv(tlv)), Ok(()));
    }
    for code in [
        ResponseCode::BUSY,
        ResponseCode::NO_RESOURCES,
        ResponseCode(999),
    ] {
        assert_eq!(check(refusal(ty, code)), Ok(()), "{code}");
        assert_eq!(
            check(refusal(CmType::KEEPALIVE_RESPONSE, code).tlv(Tlv::RetryAfter(Seconds(1)))),
            Ok(())
        );
    }
    let service = CmType::CLIENT_SERVICE_RESPONSE;
    assert_eq!(check(refusal(service, ResponseCode::MALFORMED)), Ok(()));
    assert_eq!(
        check(refusal(service, ResponseCode::BUSY)),
        Err(Missing(TlvType::SERVICE_TYPE))
    );
}

#[test]
fn the_tsid_fits_the_message() {
    let tsid = |builder: MessageBuilder<'static>, tsid| check(builder.tsid(Tsid(tsid)));
    let whole = || grant().tlv(Tlv::InnerMtu(1400)).tlv(V4).tlv(mask());
    assert_eq!(
        tsid(request(CmType::CONFIGURATION_REQUEST).tlv(REVISION), 5),
        Err(MessageError::Tsid)
    );
    assert_eq!(
        tsid(
            refusal(CmType::CONFIGURATION_RESPONSE, ResponseCode::BUSY),
            5
        ),
        Err(MessageError::Tsid)
    );
    assert_eq!(tsid(whole(), u64::MAX), Err(MessageError::Tsid));
    assert_eq!(tsid(whole(), 0), Err(MessageError::Tsid));
    // "Without looking at the TSID" (spec 8.2): the answer repeats whatever came.
    assert_eq!(
        tsid(
            refusal(CmType::KEEPALIVE_RESPONSE, ResponseCode::UNKNOWN_TUNNEL),
            0
        ),
        Ok(())
    );
}

#[test]
fn values_are_checked() {
    use ValueError::{Content, Length};
    type T = TlvType;
    let wrong_length: [(T, &[usize]); 46] = [
        (T::INTERNAL_IPV4_ADDRESS, &[0, 3, 5, 16]),
        (T::INTERNAL_IPV4_NETMASK, &[0, 3, 5]),
        (T::INTERNAL_IPV6_ADDRESS, &[0, 4, 15, 17]),
        (T::INTERNAL_IPV6_PREFIX_LENGTH, &[0, 2]),
        (T::SIP_SERVER_IPV4, &[0, 4, 5, 7]),
        (T::SIP_SERVER_IPV6, &[0, 16, 17, 19]),
        (T::KEEPALIVE_INTERVAL, &[0, 1, 3]),
        (T::PERSISTENCE_TIME, &[0, 1, 3]),
        (T::NAT_INFO_IPV4, &[0, 5, 7]),
        (T::NAT_INFO_IPV6, &[0, 17, 19]),
        (T::CONNECTION_INFO_IPV4, &[0, 13, 15]),
        (T::CONNECTION_INFO_IPV6, &[0, 14, 37, 39]),
        (T::SERVICE_TYPE, &[0, 1, 3]),
        (T::RESPONSE_CODE, &[0, 1, 3]),
        (T::REDUNDANCY_FACTOR, &[0, 2]),
        (T::REDUNDANCY_METHOD, &[0, 2]),
        (T::TUNNEL_SESSION_ID, &[0, 7, 9]),
        (T::PEER_SERVICE_RESPONSE, &[0, 2]),
        (T::HEADER_COMPRESSION_INDEX, &[0, 2]),
        (T::PAYLOAD_TYPE, &[0, 1, 3]),
        (T::BUFFER_SIZE, &[0, 3, 5]),
        (T::TUNNEL_TAG, &[0, 15, 17]),
        (T::RESUME_KEY, &[0, 31, 33]),
        (T::ADDRESS_REQUEST, &[0, 1, 3]),
        (T::PATH_ID, &[0, 2]),
        (T::ROUTED_PREFIX_IPV4, &[0, 4, 6]),
        (T::ROUTED_PREFIX_IPV6, &[0, 16, 18]),
        (T::DNS_SERVER_IPV4, &[0, 3, 5]),
        (T::DNS_SERVER_IPV6, &[0, 15, 17]),
        (T::INNER_MTU, &[0, 1, 3]),
        (T::DSCP, &[0, 2]),
        (T::ALTERNATE_SERVER, &[0, 1]),
        (T::SOCKET_REFERENCE, &[0, 3, 5]),
        (T::COOKIE, &[0, 7, 65]),
        (T::AUTH_TOKEN, &[0, 2049]),
        (T::RESUME_PROOF, &[0, 35, 37]),
        (T::CERTIFICATE_FINGERPRINT, &[0, 31, 33]),
        (T::ACTIVE_SERVICES, &[1, 3]),
        (T::COMPANION_ENDPOINT, &[0, 1]),
        (T::RETRY_AFTER, &[0, 1, 3]),
        (T::OFFENDING_TYPE, &[0, 1, 3]),
        (T::CLIENT_INFO, &[129]),
        (T::SUPPORTED_SERVICES, &[1, 3]),
        (T::REASON_TEXT, &[129]),
        (T::PADDING, &[9001]),
        (T::PROTOCOL_REVISION, &[0, 1, 3]),
    ];
    assert!(
        wrong_length
            .iter()
            .map(|(ty, _)| *ty)
            .eq(T::ALL.iter().copied()),
        "every type is here"
    );
    for (ty, lengths) in wrong_length {
        for &length in lengths {
            // A Padding of 9001 fits no message; the constructor is what refuses it.
            if ty == T::PADDING {
                assert_eq!(Padding::new(length), Err(Length(length)));
            } else {
                assert_eq!(
                    value_error(ty, &vec![0; length]),
                    Some(Length(length)),
                    "{ty} of {length}"
                );
            }
        }
    }
    let content = |ty, value: &[u8]| matches!(value_error(ty, value), Some(Content(_)));
    assert!(content(T::INTERNAL_IPV4_NETMASK, &[255, 0, 255, 0]));
    assert!(!content(T::INTERNAL_IPV4_NETMASK, &[0, 0, 0, 0]));
    assert!(!content(T::INTERNAL_IPV4_NETMASK, &[255, 255, 255, 255]));
    assert!(content(T::INTERNAL_IPV6_PREFIX_LENGTH, &[129]));
    assert!(!content(T::INTERNAL_IPV6_PREFIX_LENGTH, &[128]));
    assert!(content(T::ROUTED_PREFIX_IPV4, &[10, 0, 0, 0, 33]));
    assert!(content(
        T::ROUTED_PREFIX_IPV6,
        &[&[0; 16][..], &[129]].concat()
    ));
    assert!(content(
        T::CONNECTION_INFO_IPV4,
        &[&[3, 1][..], &[0; 12]].concat()
    ));
    assert!(content(T::REDUNDANCY_FACTOR, &[9]));
    assert!(!content(T::REDUNDANCY_FACTOR, &[8]));
    assert!(content(T::PEER_SERVICE_RESPONSE, &[2]));
    assert!(content(T::ADDRESS_REQUEST, &[5, 1]));
    assert!(content(T::DSCP, &[64]));
    assert!(content(T::PADDING, &[0, 1]));
    assert!(content(T::CLIENT_INFO, &[0xFF]));
    // The family says how long the address is.
    assert!(content(T::ALTERNATE_SERVER, &[1, 5, 0, 80, 1, 2, 3, 4]));
    assert_eq!(
        value_error(T::ALTERNATE_SERVER, &[1, 6, 0, 80, 1, 2, 3, 4]),
        Some(Length(8))
    );
    assert_eq!(
        value_error(T::ALTERNATE_SERVER, &[1, 4, 0, 80, 1, 2, 3]),
        Some(Length(7))
    );
}

#[test]
fn unknown_message_types_are_told_from_wrong_messages() {
    // The type comes before the TLVs: a newer message may carry TLVs we do not know either.
    let wire = raw(13, 1, &[(0x0063, b"")]);
    let error = parse_error(&wire);
    assert_eq!(error, MessageError::UnsupportedMessage(CmType(13)));
    for (ty, answer) in [
        (0, None),
        (13, Some(14)),
        (14, None),
        (127, Some(128)),
        (128, None),
        (129, None),
        (255, None),
        (8, None),
        (9, Some(10)),
    ] {
        assert_eq!(CmType(ty).response(), answer.map(CmType), "{ty}");
    }
    let mut answer = Vec::new();
    MessageBuilder::refuse(&control(&wire).header(), &error)
        .unwrap()
        .encode_datagram(&mut answer)
        .unwrap();
    assert_eq!(answer, raw(14, 1, &[(TlvType::RESPONSE_CODE.0, &[0, 15])]));
    // Nothing else of an unknown type can be made.
    let odd = MessageBuilder::new(CmType(13), Tsid(1), Sequence(1)).encode(&mut Vec::new());
    assert_eq!(odd, Err(EncodeError::Message(error)));
}

#[test]
fn refusals_say_what_was_wrong() {
    let refuse = |wire: &[u8]| {
        let control = control(wire);
        let builder = MessageBuilder::refuse(&control.header(), &control.parse().unwrap_err())?;
        let mut answer = Vec::new();
        builder.encode_datagram(&mut answer).unwrap();
        Some(answer)
    };
    let code = TlvType::RESPONSE_CODE.0;
    let offending = TlvType::OFFENDING_TYPE.0;
    assert_eq!(
        refuse(&raw(7, 3, &[(0x63, b"")])),
        Some(raw(8, 3, &[(code, &[0, 4]), (offending, &[0, 0x63])]))
    );
    assert_eq!(
        refuse(&raw(1, 3, &[])),
        Some(raw(2, u64::MAX, &[(code, &[0, 2])]))
    );
    assert_eq!(
        refuse(&raw(9, 3, &[])),
        Some(raw(10, 3, &[(code, &[0, 2])]))
    );
    assert_eq!(refuse(&raw(8, 3, &[])), None, "responses are not answered");
}

#[test]
fn a_message_has_its_limits() {
    let key = |count: usize| {
        let tlv = Tlv::Unknown(UnknownTlv::new(TlvType(0xFF00), b"").unwrap());
        request(CmType::KEEPALIVE)
            .tlvs(std::iter::repeat_n(tlv, count))
            .encode(&mut Vec::new())
    };
    assert_eq!(key(64), Ok(()));
    assert!(matches!(key(65), Err(EncodeError::Unit(_))));
    let padded = |len| request(CmType::KEEPALIVE).pad_to(len);
    assert_eq!(padded(4096).encoded_len(), 4096);
    assert_eq!(padded(4096).encode(&mut Vec::new()), Ok(()));
    assert!(matches!(
        padded(4097).encode(&mut Vec::new()),
        Err(EncodeError::Unit(_))
    ));
    assert_eq!(
        padded(9020).encode_datagram(&mut Vec::new()),
        Ok(()),
        "a probe"
    );
    let resume = |len| refusal(CmType::KEEPALIVE_RESPONSE, ResponseCode::BUSY).pad_to(len);
    assert_eq!(resume(1200).encode_datagram(&mut Vec::new()), Ok(()));
    assert_eq!(
        resume(1201).encode_datagram(&mut Vec::new()),
        Err(EncodeError::DatagramTooLong(1201))
    );
    assert_eq!(resume(1201).encode(&mut Vec::new()), Ok(()));
    // Padding has a header of its own: between, the message gets a little longer than asked.
    assert_eq!(request(CmType::KEEPALIVE).pad_to(17).encoded_len(), 20);
    assert_eq!(request(CmType::KEEPALIVE).pad_to(16).encoded_len(), 16);
    let mut full = [0u8; 10];
    let room = request(CmType::KEEPALIVE).encode(&mut full.as_mut_slice());
    assert_eq!(
        room,
        Err(EncodeError::NoRoom {
            needed: 16,
            room: 10
        })
    );
}
