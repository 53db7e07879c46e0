//! What each message carries (spec 3.6), as tables and one check that decoder and encoder share.
//!
//! Where the specification leaves room:
//!
//! - **Known TLVs that a message does not list** are treated exactly as the high bit treats unknown
//!   ones: ignored if it is set, else refused with `unsupported_tlv` and Offending_Type. A sender
//!   that sets no high bit relies on being understood; ignoring it would leave the two ends with
//!   different ideas of what was agreed (say, a Tunnel_Tag in a resume). And a later revision that
//!   allows more TLVs in a message gets the answer that tells it which one to leave out.
//! - **Pairs** (1+2, 3+4, 17+22) are adjacent, ignored TLVs between them apart.
//! - **Tunnel_Tag alone** is what a peer tunnel uses (spec 7): allowed once where tags are allowed,
//!   if the message has no Tunnel_Session_ID.
//! - **One claim per Configuration_Request**: it makes one tunnel.
//! - **Codes with their TLV** (spec 3.4): `cookie_required`, `redirect` and `unsupported_tlv` mean nothing
//!   without Cookie, Alternate_Server, Offending_Type, so these are required. Retry_After is not: the
//!   client has its own times (spec 5).
//! - **Refusals of any type** may say Retry_After, Offending_Type and Reason_Text, since sections 3.3,
//!   3.4 and 7 answer them so. Those of a resume also carry what those of a configuration do.
//! - **Refused service requests** carry Service_Type unless the code is `malformed` or `unsupported_tlv`:
//!   the one who answers may not have been able to read it.
//! - **Service messages** allow the union of what section 7 lists, with the reserved TLVs of the reserved
//!   services: what a *certain* service needs is checked where the service lives.

use super::view::addresses;
use crate::control::Header;
use crate::error::{MessageError, ValueError};
use crate::ids::Tsid;
use crate::registry::{
    CmType, MAX_INNER_MTU, MIN_INNER_MTU_IPV4, MIN_INNER_MTU_IPV6, ResponseCode, TlvType,
};
use crate::tlv::Tlv;

type T = TlvType;

/// One row of section 3.6.
struct Row {
    required: &'static [TlvType],
    optional: &'static [TlvType],
    /// The message assigns addresses, an inner MTU and so on.
    assigns: bool,
}

impl Row {
    const fn new(required: &'static [TlvType], optional: &'static [TlvType]) -> Self {
        Self {
            required,
            optional,
            assigns: false,
        }
    }

    fn lists(&self, ty: TlvType) -> bool {
        self.required.contains(&ty) || self.optional.contains(&ty)
    }
}

static CONFIGURATION_REQUEST: Row = Row::new(
    &[T::PROTOCOL_REVISION],
    &[
        T::ADDRESS_REQUEST,
        T::INNER_MTU,
        T::TUNNEL_SESSION_ID,
        T::TUNNEL_TAG,
        T::COOKIE,
        T::AUTH_TOKEN,
        T::CLIENT_INFO,
        T::SUPPORTED_SERVICES,
        T::PADDING,
    ],
);

/// What a configuration or resume that succeeded may carry.
const ASSIGNMENT: &[TlvType] = &[
    T::INTERNAL_IPV4_ADDRESS,
    T::INTERNAL_IPV4_NETMASK,
    T::INTERNAL_IPV6_ADDRESS,
    T::INTERNAL_IPV6_PREFIX_LENGTH,
    T::SIP_SERVER_IPV4,
    T::SIP_SERVER_IPV6,
    T::NAT_INFO_IPV4,
    T::NAT_INFO_IPV6,
    T::DNS_SERVER_IPV4,
    T::DNS_SERVER_IPV6,
    T::SUPPORTED_SERVICES,
    T::ALTERNATE_SERVER,
    T::DSCP,
];

static CONFIGURATION_SUCCESS: Row = Row {
    required: &[
        T::RESPONSE_CODE,
        T::PROTOCOL_REVISION,
        T::KEEPALIVE_INTERVAL,
        T::PERSISTENCE_TIME,
        T::RESUME_KEY,
        T::INNER_MTU,
    ],
    optional: ASSIGNMENT,
    assigns: true,
};

static RESUME_SUCCESS: Row = Row {
    required: &[
        T::RESPONSE_CODE,
        T::PROTOCOL_REVISION,
        T::KEEPALIVE_INTERVAL,
        T::PERSISTENCE_TIME,
        T::INNER_MTU,
        T::ACTIVE_SERVICES,
    ],
    optional: ASSIGNMENT,
    assigns: true,
};

static CONFIGURATION_REFUSED: Row = Row::new(
    &[T::RESPONSE_CODE],
    &[
        T::COOKIE,
        T::ALTERNATE_SERVER,
        T::RETRY_AFTER,
        T::OFFENDING_TYPE,
        T::REASON_TEXT,
    ],
);

static RESUME_REQUEST: Row = Row::new(
    &[T::PROTOCOL_REVISION, T::RESUME_PROOF],
    &[T::COOKIE, T::AUTH_TOKEN, T::PADDING],
);

static RELEASE_REQUEST: Row = Row::new(&[], &[T::REASON_TEXT]);
static RELEASE_SUCCESS: Row = Row::new(&[T::RESPONSE_CODE], &[T::REASON_TEXT]);
static KEEPALIVE: Row = Row::new(&[], &[T::PADDING]);
static KEEPALIVE_SUCCESS: Row = Row::new(
    &[T::RESPONSE_CODE],
    &[T::NAT_INFO_IPV4, T::NAT_INFO_IPV6, T::RECEPTION_REPORT],
);

static REFUSED: Row = Row::new(
    &[T::RESPONSE_CODE],
    &[T::RETRY_AFTER, T::OFFENDING_TYPE, T::REASON_TEXT],
);

static SERVICE_REQUEST: Row = Row::new(
    &[T::SERVICE_TYPE],
    &[
        T::CONNECTION_INFO_IPV4,
        T::CONNECTION_INFO_IPV6,
        T::REDUNDANCY_FACTOR,
        T::REDUNDANCY_METHOD,
        T::DSCP,
        T::ROUTED_PREFIX_IPV4,
        T::ROUTED_PREFIX_IPV6,
        T::CERTIFICATE_FINGERPRINT,
        T::ALTERNATE_SERVER,
        T::RETRY_AFTER,
        T::SOCKET_REFERENCE,
        T::HEADER_COMPRESSION_INDEX,
        T::PAYLOAD_TYPE,
        T::BUFFER_SIZE,
        T::PATH_ID,
    ],
);

static SERVICE_SUCCESS: Row = Row::new(
    &[T::SERVICE_TYPE, T::RESPONSE_CODE],
    &[
        T::CONNECTION_INFO_IPV4,
        T::CONNECTION_INFO_IPV6,
        T::REDUNDANCY_FACTOR,
        T::REDUNDANCY_METHOD,
        T::TUNNEL_SESSION_ID,
        T::TUNNEL_TAG,
        T::COMPANION_ENDPOINT,
        T::KEEPALIVE_INTERVAL,
        T::ROUTED_PREFIX_IPV4,
        T::ROUTED_PREFIX_IPV6,
        T::PEER_SERVICE_RESPONSE,
        T::CERTIFICATE_FINGERPRINT,
        T::SOCKET_REFERENCE,
        T::HEADER_COMPRESSION_INDEX,
        T::PAYLOAD_TYPE,
        T::BUFFER_SIZE,
        T::PATH_ID,
    ],
);

const SERVICE_REFUSAL: &[TlvType] = &[
    T::SERVICE_TYPE,
    T::PEER_SERVICE_RESPONSE,
    T::SOCKET_REFERENCE,
    T::RETRY_AFTER,
    T::OFFENDING_TYPE,
    T::REASON_TEXT,
];

static SERVICE_REFUSED: Row = Row::new(&[T::SERVICE_TYPE, T::RESPONSE_CODE], SERVICE_REFUSAL);
static SERVICE_UNREADABLE: Row = Row::new(&[T::RESPONSE_CODE], SERVICE_REFUSAL);

/// Checks a message as a whole. `tlvs` are typed, so single values are known to be right.
pub(super) fn check(header: &Header, tlvs: &[Tlv<'_>]) -> Result<(), MessageError> {
    let row = row(header.cm_type, tlvs)?;
    check_listed_and_once(header.cm_type, row, tlvs)?;
    if let Some(&missing) = row.required.iter().find(|&&ty| !has(tlvs, ty)) {
        return Err(MessageError::Missing(missing));
    }
    check_code(tlvs)?;
    check_pairs(row, tlvs)?;
    check_tsid(header, row)?;
    if row.assigns {
        check_assignment(tlvs)?;
    }
    Ok(())
}

fn row(cm_type: CmType, tlvs: &[Tlv<'_>]) -> Result<&'static Row, MessageError> {
    let code = response_code(tlvs);
    let success = code == Some(ResponseCode::SUCCESS);
    // A response without a code breaks the rules of either row; the one for refusals is shorter.
    Ok(match cm_type {
        CmType::CONFIGURATION_REQUEST => &CONFIGURATION_REQUEST,
        CmType::CONFIGURATION_RESPONSE if success => &CONFIGURATION_SUCCESS,
        CmType::CONFIGURATION_RESUME_REQUEST => &RESUME_REQUEST,
        CmType::CONFIGURATION_RESUME_RESPONSE if success => &RESUME_SUCCESS,
        CmType::CONFIGURATION_RESPONSE | CmType::CONFIGURATION_RESUME_RESPONSE => {
            &CONFIGURATION_REFUSED
        }
        CmType::CONFIGURATION_RELEASE_REQUEST => &RELEASE_REQUEST,
        CmType::CONFIGURATION_RELEASE_RESPONSE if success => &RELEASE_SUCCESS,
        CmType::KEEPALIVE => &KEEPALIVE,
        CmType::KEEPALIVE_RESPONSE if success => &KEEPALIVE_SUCCESS,
        CmType::CONFIGURATION_RELEASE_RESPONSE | CmType::KEEPALIVE_RESPONSE => &REFUSED,
        CmType::SERVICE_REQUEST | CmType::CLIENT_SERVICE_REQUEST => &SERVICE_REQUEST,
        CmType::SERVICE_RESPONSE | CmType::CLIENT_SERVICE_RESPONSE => match code {
            Some(ResponseCode::SUCCESS) => &SERVICE_SUCCESS,
            Some(ResponseCode::MALFORMED | ResponseCode::UNSUPPORTED_TLV) => &SERVICE_UNREADABLE,
            _ => &SERVICE_REFUSED,
        },
        unknown => return Err(MessageError::UnsupportedMessage(unknown)),
    })
}

fn check_listed_and_once(cm_type: CmType, row: &Row, tlvs: &[Tlv<'_>]) -> Result<(), MessageError> {
    for (index, tlv) in tlvs.iter().enumerate() {
        let ty = tlv.ty();
        if matches!(tlv, Tlv::Unknown(_)) {
            continue;
        }
        if !row.lists(ty) && !ty.is_ignorable() {
            return Err(MessageError::UnexpectedTlv(ty));
        }
        let claims_once = cm_type == CmType::CONFIGURATION_REQUEST
            && matches!(ty, T::TUNNEL_SESSION_ID | T::TUNNEL_TAG);
        // At most 64 TLVs, of which the repeatable ones are skipped: cheaper than a set.
        if (!ty.is_repeatable() || claims_once)
            && tlvs.iter().take(index).any(|other| other.ty() == ty)
        {
            return Err(MessageError::Repeated(ty));
        }
    }
    Ok(())
}

fn check_code(tlvs: &[Tlv<'_>]) -> Result<(), MessageError> {
    let needed = match response_code(tlvs) {
        Some(ResponseCode::COOKIE_REQUIRED) => T::COOKIE,
        Some(ResponseCode::REDIRECT) => T::ALTERNATE_SERVER,
        Some(ResponseCode::UNSUPPORTED_TLV) => T::OFFENDING_TYPE,
        _ => return Ok(()),
    };
    if has(tlvs, needed) {
        Ok(())
    } else {
        Err(MessageError::Missing(needed))
    }
}

fn check_pairs(row: &Row, tlvs: &[Tlv<'_>]) -> Result<(), MessageError> {
    let tag_stands_alone = !has(tlvs, T::TUNNEL_SESSION_ID);
    let mut tags = 0;
    let mut open = None;
    for ty in tlvs.iter().map(Tlv::ty).filter(|&ty| row.lists(ty)) {
        if let Some((first, second)) = open.take() {
            if ty != second {
                return Err(MessageError::Unpaired(first));
            }
            continue;
        }
        match ty {
            T::INTERNAL_IPV4_ADDRESS => open = Some((ty, T::INTERNAL_IPV4_NETMASK)),
            T::INTERNAL_IPV6_ADDRESS => open = Some((ty, T::INTERNAL_IPV6_PREFIX_LENGTH)),
            T::TUNNEL_SESSION_ID => open = Some((ty, T::TUNNEL_TAG)),
            T::INTERNAL_IPV4_NETMASK | T::INTERNAL_IPV6_PREFIX_LENGTH => {
                return Err(MessageError::Unpaired(ty));
            }
            T::TUNNEL_TAG => {
                tags += 1;
                if !tag_stands_alone || tags > 1 {
                    return Err(MessageError::Unpaired(ty));
                }
            }
            _ => {}
        }
    }
    match open {
        Some((first, _)) => Err(MessageError::Unpaired(first)),
        None => Ok(()),
    }
}

/// All ones in a Configuration_Request and in a refusal of one, an assignable value in a grant
/// (spec 3.1, 5). Other TSIDs are compared with the binding's, which is not known here.
fn check_tsid(header: &Header, row: &Row) -> Result<(), MessageError> {
    let fits = match header.cm_type {
        CmType::CONFIGURATION_REQUEST => header.tsid == Tsid::UNASSIGNED,
        CmType::CONFIGURATION_RESPONSE if row.assigns => header.tsid.is_assignable(),
        CmType::CONFIGURATION_RESPONSE => header.tsid == Tsid::UNASSIGNED,
        _ => true,
    };
    if fits {
        Ok(())
    } else {
        Err(MessageError::Tsid)
    }
}

/// At least one address, and an inner MTU that its family allows (spec 3.6, 7).
fn check_assignment(tlvs: &[Tlv<'_>]) -> Result<(), MessageError> {
    let mut addresses = addresses(tlvs).peekable();
    if addresses.peek().is_none() {
        return Err(MessageError::MissingAddress);
    }
    let least = if addresses.any(|assigned| assigned.addr.is_ipv6()) {
        MIN_INNER_MTU_IPV6
    } else {
        MIN_INNER_MTU_IPV4
    };
    let mtu = tlvs.iter().find_map(|tlv| {
        if let Tlv::InnerMtu(mtu) = tlv {
            Some(*mtu)
        } else {
            None
        }
    });
    match mtu {
        Some(mtu) if (least..=MAX_INNER_MTU).contains(&mtu) => Ok(()),
        Some(_) | None => {
            let error = ValueError::Content("inner MTU out of range");
            Err(MessageError::Value {
                ty: T::INNER_MTU,
                error,
            })
        }
    }
}

fn has(tlvs: &[Tlv<'_>], ty: TlvType) -> bool {
    tlvs.iter().any(|tlv| tlv.ty() == ty)
}

fn response_code(tlvs: &[Tlv<'_>]) -> Option<ResponseCode> {
    tlvs.iter().find_map(|tlv| {
        if let Tlv::ResponseCode(code) = tlv {
            Some(*code)
        } else {
            None
        }
    })
}
