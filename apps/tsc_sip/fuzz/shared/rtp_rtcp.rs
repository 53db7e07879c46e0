//! Media.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tsc_sip::{
    media::{Codec, MediaConfig, MediaSession, RtcpReport, Source},
    random::SeededRandom,
    sdp::Agreed,
};

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5060);
const PEER_RTCP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5061);

/// Packets, each with a byte of length, one that says RTP or RTCP, and one of milliseconds before it.
pub(crate) fn rtp_rtcp(data: &[u8]) {
    const LIMIT: usize = 16_000;
    if let Ok(report) = RtcpReport::parse(data)
        && let Ok(bytes) = report.encode()
    {
        assert_eq!(RtcpReport::parse(&bytes), Ok(report));
    }
    let agreed = Agreed {
        codec: Codec::Pcmu,
        remote_rtp: PEER,
        remote_rtcp: PEER_RTCP,
        send: true,
        receive: true,
    };
    let mut config = MediaConfig::new(Source::Echo, "a@b");
    config.max_recording = LIMIT;
    config.render = true;
    let mut now = Instant::now();
    let mut session = MediaSession::new(now, agreed, config, &mut SeededRandom::new(1));
    let mut packets = 0;
    let mut rest = data;
    let mut out = Vec::new();
    while let [length, kind, millis, tail @ ..] = rest {
        let (packet, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        now += Duration::from_millis((*millis).into());
        if kind % 4 == 0 {
            session.handle_rtcp(now, PEER_RTCP, packet);
        } else {
            session.handle_rtp(now, PEER, packet);
            packets += 1;
        }
        out.clear();
        session.tick(&mut out);
        if let Some(report) = session.poll_rtcp(now) {
            assert!(RtcpReport::parse(&report).is_ok());
        }
    }
    let last = session.stop(now);
    assert!(last.is_some_and(|bye| RtcpReport::parse(&bye).is_ok_and(|report| report.bye)));
    let report = session.report();
    assert!(report.received + report.duplicated <= packets);
    assert!(report.late <= report.received && report.reordered <= report.received);
    assert!(report.heard.len() <= LIMIT && report.played.len() <= LIMIT);
    assert!(report.rendered.len() <= LIMIT);
    assert!((1.0..=4.5).contains(&report.mos), "{}", report.mos);
}
