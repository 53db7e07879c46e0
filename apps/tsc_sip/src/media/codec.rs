//! G.711 in both laws (RFC 3551 4.5.14).

use std::{fmt, str::FromStr};

/// Samples per second, and the rate of the RTP clock.
pub const SAMPLE_RATE: u32 = 8000;

/// Samples, and in G.711 also bytes, of one packet of 20 ms.
pub const SAMPLES_PER_PACKET: usize = 160;

/// A G.711 law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// mu-law, payload type 0.
    Pcmu,
    /// A-law, payload type 8.
    Pcma,
}

impl Codec {
    /// Both, in the usual order of preference.
    pub const ALL: [Self; 2] = [Self::Pcmu, Self::Pcma];

    /// Static payload type (RFC 3551 6).
    #[must_use]
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
        }
    }

    /// The codec of a static payload type.
    #[must_use]
    pub const fn from_payload_type(payload_type: u8) -> Option<Self> {
        match payload_type {
            0 => Some(Self::Pcmu),
            8 => Some(Self::Pcma),
            _ => None,
        }
    }

    /// Value of its `a=rtpmap`.
    #[must_use]
    pub const fn rtp_map(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU/8000",
            Self::Pcma => "PCMA/8000",
        }
    }

    /// Code of silence.
    #[must_use]
    pub const fn silence(self) -> u8 {
        match self {
            Self::Pcmu => 0xff,
            Self::Pcma => 0xd5,
        }
    }

    /// Usual suffix of files with bare payload.
    #[must_use]
    pub const fn file_suffix(self) -> &'static str {
        match self {
            Self::Pcmu => "ulaw",
            Self::Pcma => "alaw",
        }
    }

    /// Encodes 16-bit samples.
    #[must_use]
    pub fn encode(self, samples: &[i16]) -> Vec<u8> {
        let one = match self {
            Self::Pcmu => audio_codec_algorithms::encode_ulaw,
            Self::Pcma => audio_codec_algorithms::encode_alaw,
        };
        samples.iter().map(|sample| one(*sample)).collect()
    }

    /// Decodes to 16-bit samples.
    #[must_use]
    pub fn decode(self, payload: &[u8]) -> Vec<i16> {
        let one = match self {
            Self::Pcmu => audio_codec_algorithms::decode_ulaw,
            Self::Pcma => audio_codec_algorithms::decode_alaw,
        };
        payload.iter().map(|code| one(*code)).collect()
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcmu => "pcmu",
            Self::Pcma => "pcma",
        })
    }
}

impl FromStr for Codec {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "pcmu" => Ok(Self::Pcmu),
            "pcma" => Ok(Self::Pcma),
            _ => Err("a codec is pcmu or pcma"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_full_scale_are_those_of_g711() {
        assert_eq!(
            Codec::Pcmu.encode(&[0, i16::MAX, i16::MIN]),
            [0xff, 0x80, 0x00]
        );
        assert_eq!(
            Codec::Pcma.encode(&[0, i16::MAX, i16::MIN]),
            [0xd5, 0xaa, 0x2a]
        );
        for codec in Codec::ALL {
            assert_eq!(codec.encode(&[0]), [codec.silence()]);
            // What was decoded encodes to itself, but for mu-law's two zeros: recordings stay bit-exact.
            for code in (0..=u8::MAX).filter(|c| (codec, *c) != (Codec::Pcmu, 0x7f)) {
                assert_eq!(codec.encode(&codec.decode(&[code])), [code]);
            }
        }
    }
}
