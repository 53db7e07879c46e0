//! Which bytes a request wants (RFC 9110 14).

/// What a Range field asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// All: there is no field, or one that is not understood, which is to be ignored.
    Whole,
    /// Some bytes, at least one.
    Part {
        /// Where they begin.
        at: u64,
        /// Where they end: this byte is the first that is not meant.
        end: u64,
    },
    /// Bytes that there are not.
    Nowhere,
}

impl Range {
    /// The field `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH` for content of `size` bytes. Several ranges are
    /// answered with all, as a server may.
    pub(super) fn parse(field: &str, size: u64) -> Self {
        let Some((unit, spec)) = field.split_once('=') else {
            return Self::Whole;
        };
        let Some((first, last)) = spec.trim().split_once('-') else {
            return Self::Whole;
        };
        // Rust's integers may have a sign, HTTP's not.
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u64>().ok(),
            false => None,
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let (at, end) = match (number(first), number(last)) {
            (Some(at), Some(last)) if at <= last => (at, size.min(last.saturating_add(1))),
            (Some(at), None) if last.is_empty() => (at, size),
            (None, Some(length)) if first.is_empty() => (size.saturating_sub(length), size),
            _ => return Self::Whole,
        };
        match at < end {
            true => Self::Part { at, end },
            false => Self::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Range::{self, Nowhere, Part, Whole};

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        for (field, wanted) in [
            ("bytes=0-0", Part { at: 0, end: 1 }),
            ("bytes=10-19", Part { at: 10, end: 20 }),
            ("bytes=10-", Part { at: 10, end: 100 }),
            ("Bytes=10-1000", Part { at: 10, end: 100 }),
            ("bytes=-10", Part { at: 90, end: 100 }),
            ("bytes=-1000", Part { at: 0, end: 100 }),
            ("bytes=10-18446744073709551615", Part { at: 10, end: 100 }),
            ("bytes=100-", Nowhere),
            ("bytes=100-200", Nowhere),
            ("bytes=-0", Nowhere),
            ("bytes=5-4", Whole),
            ("bytes=-", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=1-2,5-6", Whole),
            ("bytes=18446744073709551616-", Whole),
            ("lines=1-2", Whole),
            ("", Whole),
        ] {
            assert_eq!(Range::parse(field, 100), wanted, "{field:?}");
        }
        assert_eq!(Range::parse("bytes=0-", 0), Nowhere);
    }
}
