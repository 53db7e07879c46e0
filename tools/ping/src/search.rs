//! The search for the longest packet that gets through. Pure.

/// Lengths tried in this order where the longest does not get through: what a tunnel starts with and IPv6 guarantees
/// (spec 7, RFC 8200), and what IPv4 hosts take (RFC 1122).
const LEAST: [u16; 2] = [1280, 576];

/// The longest packet is found to this many bytes.
const PRECISION: u16 = 4;

/// Which length to try next, by what came of those before.
#[derive(Debug)]
pub(crate) struct Search {
    most: u16,
    /// Gets through.
    fits: Option<u16>,
    /// Does not.
    too_long: Option<u16>,
}

impl Search {
    /// Up to this length, which is tried first: on most paths it is all there is to try.
    pub(crate) const fn new(most: u16) -> Self {
        Self {
            most,
            fits: None,
            too_long: None,
        }
    }

    /// The next length to try; `None` when all is known.
    pub(crate) fn next(&self) -> Option<u16> {
        match (self.fits, self.too_long) {
            (None, None) => Some(self.most),
            (None, Some(limit)) => LEAST.into_iter().find(|length| *length < limit),
            (Some(_), None) => None,
            (Some(fits), Some(limit)) => {
                (limit - fits > PRECISION).then(|| fits + (limit - fits) / 2)
            }
        }
    }

    /// What came of the length that [`Self::next`] gave.
    pub(crate) const fn tried(&mut self, length: u16, got_through: bool) {
        if got_through {
            self.fits = Some(length);
        } else {
            self.too_long = Some(length);
        }
    }

    /// The longest length that got through, if one did.
    pub(crate) const fn fits(&self) -> Option<u16> {
        self.fits
    }

    /// Whether longer ones were found not to.
    pub(crate) const fn is_limited(&self) -> bool {
        self.too_long.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_found_in_few_steps() {
        for most in [576, 577, 1280, 1281, 1500, 9000] {
            for path in (500..=9100).step_by(7) {
                let mut search = Search::new(most);
                let mut tries = 0;
                while let Some(length) = search.next() {
                    search.tried(length, length <= path);
                    tries += 1;
                }
                assert!(tries <= 14, "{tries}");
                match search.fits() {
                    None => assert!(path < 576.min(most), "{path} of {most}"),
                    Some(fits) => {
                        assert!(fits <= path);
                        assert!(fits == most || path - fits <= PRECISION, "{fits} of {path}");
                        assert_eq!(search.is_limited(), fits != most);
                    }
                }
            }
        }
    }
}
