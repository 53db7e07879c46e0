//! Offer and answer of one G.711 stream (RFC 3264).

use std::net::SocketAddr;

use super::{Description, Direction, Media, RtpMap};
use crate::media::Codec;

/// Why no call comes out of an offer or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// No audio stream over RTP/AVP with PCMU or PCMA.
    #[error("no common codec")]
    NoCommonCodec,
    /// No stream of messages that can be used.
    #[error("no usable message stream")]
    NoMessages,
    /// The chosen stream has no usable address.
    #[error("the stream has no address")]
    NoAddress,
    /// The answer does not fit the offer.
    #[error("the answer does not fit the offer")]
    Mismatch,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Codec for both directions.
    pub codec: Codec,
    /// Where our RTP goes.
    pub remote_rtp: SocketAddr,
    /// Where our RTCP goes.
    pub remote_rtcp: SocketAddr,
    /// Whether the peer wants to hear us.
    pub send: bool,
    /// Whether the peer lets us hear it.
    pub receive: bool,
}

impl Description {
    /// An offer of one audio stream with these codecs, best first.
    #[must_use]
    pub fn offer(id: u64, rtp: SocketAddr, rtcp: SocketAddr, codecs: &[Codec]) -> Self {
        Self {
            id: (id, id),
            origin: rtp.ip(),
            connection: Some(rtp.ip()),
            media: vec![Self::stream(rtp, rtcp, codecs, Direction::SendRecv)],
        }
    }

    fn stream(rtp: SocketAddr, rtcp: SocketAddr, codecs: &[Codec], direction: Direction) -> Media {
        Media {
            kind: "audio".to_owned(),
            port: rtp.port(),
            protocol: "RTP/AVP".to_owned(),
            formats: codecs
                .iter()
                .map(|c| c.payload_type().to_string())
                .collect(),
            connection: None,
            rtp_maps: codecs
                .iter()
                .map(|c| RtpMap {
                    payload_type: c.payload_type(),
                    encoding: c.rtp_map().to_owned(),
                })
                .collect(),
            rtcp_port: (Some(rtcp.port()) != rtp.port().checked_add(1)).then_some(rtcp.port()),
            direction,
            attributes: Vec::new(),
        }
    }

    /// Answers an offer: the first audio stream with a codec of ours, in the offerer's order of preference.
    ///
    /// # Errors
    ///
    /// Nothing in the offer is usable: refuse the call with 488.
    pub fn answer(
        offer: &Self,
        id: u64,
        rtp: SocketAddr,
        rtcp: SocketAddr,
        ours: &[Codec],
    ) -> Result<(Self, Agreed), NegotiationError> {
        let chosen = offer.media.iter().enumerate().find_map(|(at, media)| {
            let codec = media
                .formats
                .iter()
                .filter_map(|format| media.codec_of(format))
                .find(|codec| ours.contains(codec))?;
            media.is_usable().then_some((at, codec))
        });
        let (chosen, codec) = chosen.ok_or(NegotiationError::NoCommonCodec)?;
        let mut agreed = None;
        let mut media = Vec::new();
        for (at, offered) in offer.media.iter().enumerate() {
            if at == chosen {
                agreed = Some(offer.agreed(offered, codec)?);
                let direction = offered.direction.reversed();
                media.push(Self::stream(rtp, rtcp, &[codec], direction));
            } else {
                media.push(offered.refused());
            }
        }
        let answer = Self {
            id: (id, id),
            origin: rtp.ip(),
            connection: Some(rtp.ip()),
            media,
        };
        let agreed = agreed.ok_or(NegotiationError::NoCommonCodec)?;
        Ok((answer, agreed))
    }

    /// The next offer of the session in which we described ourselves like this: the stream that is used goes on by other
    /// sockets, in the codec that was agreed on.
    #[must_use]
    pub fn offer_again(&self, rtp: SocketAddr, rtcp: SocketAddr, codec: Codec) -> Self {
        let mut next = self.clone();
        next.connection = Some(rtp.ip());
        if let Some(media) = next.media.iter_mut().find(|media| media.is_usable()) {
            *media = Self::stream(rtp, rtcp, &[codec], Direction::SendRecv);
        }
        next.follow(self);
        next
    }

    /// Makes this the description that follows `last` in the same session: the origin stays, and the version grows if anything
    /// else is new (RFC 3264 8).
    pub fn follow(&mut self, last: &Self) {
        (self.origin, self.id) = (last.origin, last.id);
        if self != last {
            self.id.1 = self.id.1.wrapping_add(1);
        }
    }

    /// Takes the answer to an offer of [`Description::offer`] or [`Description::offer_again`].
    ///
    /// # Errors
    ///
    /// The peer refused the stream, chose what was not offered, or gave no address.
    pub fn accept(offer: &Self, answer: &Self) -> Result<Agreed, NegotiationError> {
        if offer.media.len() != answer.media.len() {
            return Err(NegotiationError::Mismatch);
        }
        // Streams that were refused before stand in offers of the same session, too.
        let (offered, answered) = offer
            .media
            .iter()
            .zip(&answer.media)
            .find(|(offered, _)| offered.is_usable())
            .ok_or(NegotiationError::Mismatch)?;
        if !answered.is_usable() {
            return Err(NegotiationError::NoCommonCodec);
        }
        let codec = answered
            .formats
            .iter()
            .find(|format| offered.formats.contains(format))
            .and_then(|format| answered.codec_of(format))
            .ok_or(NegotiationError::Mismatch)?;
        answer.agreed(answered, codec)
    }

    fn agreed(&self, media: &Media, codec: Codec) -> Result<Agreed, NegotiationError> {
        let ip = media
            .connection
            .or(self.connection)
            .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
            .ok_or(NegotiationError::NoAddress)?;
        let rtcp_port = media
            .rtcp_port
            .or_else(|| media.port.checked_add(1))
            .ok_or(NegotiationError::NoAddress)?;
        Ok(Agreed {
            codec,
            remote_rtp: SocketAddr::new(ip, media.port),
            remote_rtcp: SocketAddr::new(ip, rtcp_port),
            send: matches!(media.direction, Direction::SendRecv | Direction::RecvOnly),
            receive: matches!(media.direction, Direction::SendRecv | Direction::SendOnly),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn offer(codecs: &[Codec]) -> Description {
        Description::offer(1, at("192.0.2.1:4000"), at("192.0.2.1:4001"), codecs)
    }

    fn answer_to(
        offer: &Description,
        ours: &[Codec],
    ) -> Result<(Description, Agreed), NegotiationError> {
        Description::answer(
            offer,
            2,
            at("[2001:db8::2]:5000"),
            at("[2001:db8::2]:5009"),
            ours,
        )
    }

    #[test]
    fn both_sides_agree() {
        let offer = offer(&[Codec::Pcma, Codec::Pcmu]);
        let parsed = Description::parse(offer.to_string().as_bytes()).unwrap();
        assert_eq!(parsed, offer);
        let (answer, callee) = answer_to(&parsed, &[Codec::Pcmu, Codec::Pcma]).unwrap();
        assert_eq!(callee.codec, Codec::Pcma, "the offerer's order counts");
        assert_eq!(callee.remote_rtp, at("192.0.2.1:4000"));
        assert_eq!(callee.remote_rtcp, at("192.0.2.1:4001"));
        let answer = Description::parse(answer.to_string().as_bytes()).unwrap();
        let caller = Description::accept(&offer, &answer).unwrap();
        assert_eq!(caller.codec, Codec::Pcma);
        assert_eq!(caller.remote_rtp, at("[2001:db8::2]:5000"));
        assert_eq!(caller.remote_rtcp, at("[2001:db8::2]:5009"), "a=rtcp");
        assert!(caller.send && caller.receive && callee.send && callee.receive);
    }

    #[test]
    fn foreign_offers_are_understood() {
        let text = "v=0\no=bob 99999999999999999999999 1 IN IP4 host.example\ns=call\n\
            c=IN IP4 192.0.2.9\nt=0 0\na=sendonly\nm=video 4002 RTP/AVP 31\n\
            m=audio 4000/2 RTP/AVP 96 101 0\na=rtpmap:96 opus/48000/2\n\
            a=rtpmap:101 telephone-event/8000\na=fmtp:101 0-16\na=rtcp-mux\na=ptime:20\n";
        let offer = Description::parse(text.as_bytes()).unwrap();
        let (answer, agreed) = answer_to(&offer, &[Codec::Pcmu]).unwrap();
        assert_eq!(agreed.codec, Codec::Pcmu);
        assert!(agreed.receive && !agreed.send);
        assert_eq!(answer.media[0].port, 0, "video is refused");
        assert_eq!(answer.media[1].direction, Direction::RecvOnly);
        assert_eq!(answer.media[1].formats, ["0"]);
    }

    #[test]
    fn a_session_goes_on_elsewhere() {
        let text = "v=0\no=bob 7 1 IN IP4 192.0.2.9\ns=-\nc=IN IP4 192.0.2.9\nt=0 0\n\
            m=video 4002 RTP/AVP 31\nm=audio 4000 RTP/AVP 8 0\n";
        let theirs = Description::parse(text.as_bytes()).unwrap();
        let (ours, _) = answer_to(&theirs, &[Codec::Pcmu]).unwrap();
        let again = ours.offer_again(at("192.0.2.7:6000"), at("192.0.2.7:6001"), Codec::Pcmu);
        assert_eq!(again.origin, ours.origin);
        assert_eq!(again.id, (ours.id.0, ours.id.1 + 1));
        assert_eq!(again.media[0], ours.media[0], "video stays refused");
        assert_eq!(again.media[1].port, 6000);
        let again = Description::parse(again.to_string().as_bytes()).unwrap();
        let (answer, callee) = answer_to(&again, &[Codec::Pcmu]).unwrap();
        assert_eq!(callee.remote_rtcp, at("192.0.2.7:6001"));
        let agreed = Description::accept(&again, &answer).unwrap();
        assert_eq!(agreed.remote_rtp, at("[2001:db8::2]:5000"));
        // The same once more is no new version.
        let same = again.offer_again(at("192.0.2.7:6000"), at("192.0.2.7:6001"), Codec::Pcmu);
        assert_eq!(same, again);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let only_a = offer(&[Codec::Pcma]);
        assert_eq!(
            answer_to(&only_a, &[Codec::Pcmu]).unwrap_err(),
            NegotiationError::NoCommonCodec
        );
        let (mut answer, _) = answer_to(&only_a, &[Codec::Pcma]).unwrap();
        let only_u = offer(&[Codec::Pcmu]);
        let accept = |answer: &Description| Description::accept(&only_u, answer).unwrap_err();
        assert_eq!(accept(&answer), NegotiationError::Mismatch);
        answer.media[0].port = 0;
        assert_eq!(accept(&answer), NegotiationError::NoCommonCodec);
        answer.media.clear();
        assert_eq!(accept(&answer), NegotiationError::Mismatch);
        let mut nowhere = only_a;
        nowhere.connection = None;
        let error = answer_to(&nowhere, &[Codec::Pcma]).unwrap_err();
        assert_eq!(error, NegotiationError::NoAddress);
        // A static payload type that is mapped to something else is not G.711.
        let mut remapped = offer(&[Codec::Pcmu]);
        remapped.media[0].rtp_maps[0].encoding = "L16/8000".into();
        let error = answer_to(&remapped, &[Codec::Pcmu]).unwrap_err();
        assert_eq!(error, NegotiationError::NoCommonCodec);
    }
}
