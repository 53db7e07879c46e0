//! Session descriptions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tsc_sip::{
    media::Codec,
    sdp::{Description, SdpError},
};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5060);

/// What is read can be written and is then read as the same; and answering it is safe.
pub(crate) fn sdp(data: &[u8]) {
    let Ok(session) = Description::parse(data) else {
        return;
    };
    match Description::parse(session.to_string().as_bytes()) {
        Ok(again) => assert_eq!(again, session),
        // Lines that were left out when it was read are written.
        Err(SdpError::TooLarge) => {}
        Err(error) => panic!("{error}: {session:?}"),
    }
    let rtcp = SocketAddr::new(LOCAL.ip(), 5061);
    if let Ok((answer, agreed)) = Description::answer(&session, 1, LOCAL, rtcp, &Codec::ALL) {
        assert_eq!(answer.media.len(), session.media.len());
        assert_eq!(answer.media.iter().filter(|m| m.port != 0).count(), 1);
        assert_ne!(agreed.remote_rtp.port(), 0);
    }
    let offer = Description::offer(1, LOCAL, rtcp, &Codec::ALL);
    let _ = Description::accept(&offer, &session);
}
