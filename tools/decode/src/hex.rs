//! Hex as people paste it.

/// Why a text is no hex.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HexError {
    /// A character that is neither a digit nor skipped.
    #[error("{found:?} in line {line} is no hex digit")]
    Digit { found: char, line: usize },
    /// Half a byte.
    #[error("line {line} ends in half a byte")]
    Odd { line: usize },
}

/// The datagrams in `text`: bytes in hex, separated by blank lines. Understands plain hex, C arrays, and the
/// output of `xxd`, `hexdump -C` and `tcpdump -x`/`-X`.
pub(crate) fn datagrams(text: &str) -> Result<Vec<Vec<u8>>, HexError> {
    // `hexdump -C` has no colon after its offsets and ends in a line with nothing but one, so that only
    // the bars around its text column give it away.
    let has_bars = text
        .lines()
        .any(|line| line.trim_end().ends_with('|') && split_offset(line).is_none());
    let mut all = Vec::new();
    let mut current = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        if line.trim().is_empty() {
            if !current.is_empty() {
                all.push(std::mem::take(&mut current));
            }
            continue;
        }
        bytes(digits(line, has_bars), index + 1, &mut current)?;
    }
    if !current.is_empty() {
        all.push(current);
    }
    Ok(all)
}

/// The part of a line that is data: without offset and text column.
fn digits(line: &str, has_bars: bool) -> &str {
    if has_bars {
        let line = line.split('|').next().unwrap_or_default().trim_start();
        return line
            .split_once(char::is_whitespace)
            .map_or("", |(_offset, data)| data);
    }
    let Some(data) = split_offset(line) else {
        return line;
    };
    let data = data.trim_start();
    data.split_once("  ").map_or(data, |(data, _text)| data)
}

/// What follows an offset and a colon, if the line begins so.
fn split_offset(line: &str) -> Option<&str> {
    let (offset, data) = line.split_once(": ")?;
    let offset = offset.trim();
    let digits = offset.strip_prefix("0x").unwrap_or(offset);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(data)
}

fn bytes(text: &str, line: usize, out: &mut Vec<u8>) -> Result<(), HexError> {
    let separators = |c: char| {
        c.is_whitespace() || matches!(c, ',' | ':' | ';' | '-' | '"' | '{' | '}' | '[' | ']')
    };
    for word in text.split(separators) {
        // "0x10", "\x10\x07": the prefix stands before each byte.
        let mut pending = None;
        for part in word.split("\\x") {
            let part = part
                .strip_prefix("0x")
                .or_else(|| part.strip_prefix("0X"))
                .unwrap_or(part);
            for found in part.chars() {
                let digit = found
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok());
                let digit = digit.ok_or(HexError::Digit { found, line })?;
                match pending.take() {
                    None => pending = Some(digit),
                    Some(high) => out.push(high << 4 | digit),
                }
            }
        }
        if pending.is_some() {
            return Err(HexError::Odd { line });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: [u8; 20] = [
        0x10, 7, 0, 1, 0, 0x40, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x0B, 0x80, 4, 0, 0,
    ];

    #[track_caller]
    fn same(text: &str) {
        assert_eq!(datagrams(text), Ok(vec![BYTES.to_vec()]), "{text}");
    }

    #[test]
    fn many_ways_to_write_the_same() {
        same("100700010040000000000001 0000000b80040000");
        same("10 07 00 01\n00 40 00 00 00 00 00 01  # TSID\n00 00 00 0B 80 04 00 00\n");
        same("{0x10, 0x07, 0x0001, 0x0040000000000001, 0x0000000b, 0x80040000}");
        same("10:07:00:01:00:40:00:00:00:00:00:01:00:00:00:0b:80:04:00:00");
        same(
            r#""\x10\x07\x00\x01\x00\x40\x00\x00\x00\x00\x00\x01" "\x00\x00\x00\x0b\x80\x04\x00\x00""#,
        );
    }

    #[test]
    fn dumps_of_the_usual_tools() {
        // xxd; its text column may hold anything.
        same(
            "00000000: 1007 0001 0040 0000 0000 0001 0000 000b  .....@..........\n\
             00000010: 8004 0000                                ab#|",
        );
        // xxd without its text column's bar.
        same(
            "00000000: 1007 0001 0040 0000 0000 0001 0000 000b  .....@..........\n\
             00000010: 8004 0000                                ..dd",
        );
        // hexdump -C.
        same(
            "00000000  10 07 00 01 00 40 00 00  00 00 00 01 00 00 00 0b  |.....@..........|\n\
             00000010  80 04 00 00                                       |....|\n\
             00000014\n",
        );
        // tcpdump -X.
        same(
            "\t0x0000:  1007 0001 0040 0000 0000 0001 0000 000b  .....@..........\n\
             \t0x0010:  8004 0000                                ....\n",
        );
    }

    #[test]
    fn blank_lines_separate_datagrams() {
        assert_eq!(datagrams("01\n02\n\n\n03\n"), Ok(vec![vec![1, 2], vec![3]]));
        assert_eq!(datagrams(" \n"), Ok(vec![]));
    }

    #[test]
    fn what_is_no_hex_is_named() {
        assert_eq!(
            datagrams("10\n1g"),
            Err(HexError::Digit {
                found: 'g',
                line: 2
            })
        );
        assert_eq!(datagrams("100"), Err(HexError::Odd { line: 1 }));
    }
}
