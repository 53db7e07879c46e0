//! Estimated quality: the E-model of ITU-T G.107 with its default values for everything that a packet network does not
//! change.
//!
//! With all defaults `R0 - Is` is 93.2. The network and the codec subtract
//!
//! - `Idd`, the impairment by delay: 0 up to 100 ms one way, beyond it
//!   `25 ((1 + X^6)^(1/6) - 3 (1 + (X/3)^6)^(1/6) + 2)` with `X = log2(Ta / 100 ms)`;
//! - `Ie-eff = Ie + (95 - Ie) Ppl / (Ppl / BurstR + Bpl)`, the impairment by the codec and by loss: [`Codec`].
//!
//! MOS follows from R by annex B: `1 + 0.035 R + R (R - 60) (100 - R) 7e-6`.

use std::time::Duration;

/// `R0 - Is` with G.107's defaults.
const BASE_R: f64 = 93.2;

/// How a codec impairs speech, and how loss does with it (G.113 appendix I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Codec {
    /// `Ie`: without any loss.
    pub impairment: f64,
    /// `Bpl`: robustness against loss.
    pub robustness: f64,
}

impl Codec {
    /// G.711 whose losses are replaced by silence.
    pub const G711_SILENCE: Self = Self::new(0.0, 4.3);
    /// G.711 with loss concealment (appendix I of G.711).
    pub const G711: Self = Self::new(0.0, 25.1);
    /// G.729 A with silence suppression.
    pub const G729: Self = Self::new(11.0, 19.0);
    /// G.723.1 at 6.3 kbit/s.
    pub const G7231: Self = Self::new(15.0, 16.1);

    const fn new(impairment: f64, robustness: f64) -> Self {
        Self {
            impairment,
            robustness,
        }
    }

    /// That of a static payload type (RFC 3551). Others count as G.711 with concealment: of those that are negotiated today none
    /// is worse.
    #[must_use]
    pub const fn of_payload_type(payload_type: u8) -> Self {
        match payload_type {
            4 => Self::G7231,
            18 => Self::G729,
            _ => Self::G711,
        }
    }
}

/// What the network did to the speech.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairments {
    /// Mouth to ear.
    pub delay: Duration,
    /// Share of packets that could not be played, 0 to 1.
    pub loss: f64,
    /// `BurstR`: how much longer bursts of loss are than independent losses would make them; 1 is as long.
    pub burst_ratio: f64,
    /// What the speech is coded with.
    pub codec: Codec,
}

impl Impairments {
    /// The rating factor R, 0 to 93.2.
    #[must_use]
    pub fn r_factor(self) -> f64 {
        let Codec {
            impairment,
            robustness,
        } = self.codec;
        let percent = self.loss.clamp(0.0, 1.0) * 100.0;
        let burst_ratio = self.burst_ratio.max(1.0);
        let by_loss = (95.0 - impairment) * percent / (percent / burst_ratio + robustness);
        (BASE_R - delay_impairment(self.delay) - impairment - by_loss).max(0.0)
    }

    /// Mean opinion score, 1 (bad) to 4.5 (excellent); 4.41 with nothing lost and no delay.
    #[must_use]
    pub fn mos(self) -> f64 {
        mos_of_r(self.r_factor())
    }
}

fn delay_impairment(delay: Duration) -> f64 {
    let millis = delay.as_secs_f64() * 1000.0;
    if millis <= 100.0 {
        return 0.0;
    }
    let x = (millis / 100.0).log2();
    let root = |value: f64| (1.0 + value.powi(6)).powf(1.0 / 6.0);
    25.0 * (root(x) - 3.0 * root(x / 3.0) + 2.0)
}

/// MOS of a rating factor (G.107 annex B).
#[must_use]
pub fn mos_of_r(r: f64) -> f64 {
    if r <= 0.0 {
        1.0
    } else if r >= 100.0 {
        4.5
    } else {
        // The polynomial dips below 1 for very small R.
        (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, by: f64) {
        assert!((a - b).abs() <= by, "{a} is not {b}");
    }

    /// R to MOS at the lower limits of annex B's categories; its table rounds, so two digits agree to 0.01.
    #[test]
    fn reference_values_of_annex_b() {
        for (r, mos) in [
            (93.2, 4.41),
            (90.0, 4.34),
            (80.0, 4.03),
            (70.0, 3.60),
            (60.0, 3.10),
            (50.0, 2.58),
        ] {
            close(mos_of_r(r), mos, 0.01);
        }
        close(mos_of_r(-1.0), 1.0, 0.0);
        close(mos_of_r(3.0), 1.0, 0.0);
        close(mos_of_r(101.0), 4.5, 0.0);
    }

    #[test]
    fn delay_and_loss_cost() {
        let r = |millis, loss| {
            let delay = Duration::from_millis(millis);
            Impairments {
                delay,
                loss,
                burst_ratio: 1.0,
                codec: Codec::G711_SILENCE,
            }
            .r_factor()
        };
        close(r(0, 0.0), 93.2, 1e-9);
        close(r(100, 0.0), 93.2, 1e-9);
        // X = 1: 25 (2^(1/6) - 3 (1 + 3^-6)^(1/6) + 2) = 3.044.
        close(r(200, 0.0), 93.2 - 3.044, 0.001);
        // 1 % random loss: 95 / 5.3 = 17.92.
        close(r(0, 0.01), 93.2 - 17.925, 0.001);
        close(r(0, 1.0), 93.2 - 91.083, 0.001);
        close(r(10_000, 1.0), 0.0, 0.0);
    }

    #[test]
    fn bursts_and_codecs_cost() {
        let r = |loss, burst_ratio, codec| {
            Impairments {
                delay: Duration::ZERO,
                loss,
                burst_ratio,
                codec,
            }
            .r_factor()
        };
        close(r(0.05, 1.0, Codec::G711), 93.2 - 95.0 * 5.0 / 30.1, 0.001);
        // Of the same loss, half as many but twice as long.
        close(r(0.05, 2.0, Codec::G711), 93.2 - 95.0 * 5.0 / 27.6, 0.001);
        close(r(0.0, 1.0, Codec::G729), 82.2, 0.001);
        assert_eq!(Codec::of_payload_type(18), Codec::G729);
        assert_eq!(Codec::of_payload_type(111), Codec::G711);
    }
}
