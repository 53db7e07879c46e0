//! The pieces of RFC 3261's grammar (section 25) as nom parsers over unfolded text.

use nom::{
    IResult, Parser,
    branch::alt,
    bytes::complete::{take_while, take_while1},
    character::complete::char,
    combinator::{all_consuming, map, opt},
    error::{Error, ErrorKind},
    sequence::{delimited, preceded},
};

use super::limits;

pub(crate) type Parsed<'a, T> = IResult<&'a str, T>;

pub(crate) fn fail<T>(input: &str) -> Parsed<'_, T> {
    Err(nom::Err::Error(Error::new(input, ErrorKind::Verify)))
}

const fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(
            c,
            '-' | '.' | '!' | '%' | '*' | '_' | '+' | '`' | '\'' | '~'
        )
}

/// `token`: one or more characters that need no quoting.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

/// Linear white space, already unfolded.
pub(crate) fn lws(input: &str) -> Parsed<'_, &str> {
    take_while(|c| c == ' ' || c == '\t').parse(input)
}

/// Linear white space that must be there.
pub(crate) fn lws1(input: &str) -> Parsed<'_, &str> {
    take_while1(|c| c == ' ' || c == '\t').parse(input)
}

pub(crate) fn token(input: &str) -> Parsed<'_, &str> {
    take_while1(is_token_char).parse(input)
}

/// A separator with optional white space on both sides.
pub(crate) fn sep<'a>(c: char) -> impl Parser<&'a str, Output = char, Error = Error<&'a str>> {
    delimited(lws, char(c), lws)
}

/// `quoted-string`; gives the text without quotes and escapes.
pub(crate) fn quoted(input: &str) -> Parsed<'_, String> {
    let (rest, _) = char('"').parse(input)?;
    let mut text = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let rest = rest.get(at + 1..).unwrap_or_default();
                return Ok((rest, text));
            }
            '\\' => match chars.next() {
                Some((_, escaped)) if escaped.is_ascii() => text.push(escaped),
                _ => return fail(input),
            },
            _ => text.push(c),
        }
    }
    fail(input)
}

/// One parameter: `name`, `name=token`, `name=host`, `name="text"`.
fn param(input: &str) -> Parsed<'_, (String, Option<String>)> {
    // gen-value is a token, a host (with IPv6 brackets or, in `received`, bare colons) or quoted.
    let value = alt((
        quoted,
        map(
            take_while1(|c| is_token_char(c) || matches!(c, '[' | ']' | ':')),
            str::to_owned,
        ),
    ));
    (token, opt(preceded(sep('='), value)))
        .map(|(name, value): (&str, Option<String>)| (name.to_ascii_lowercase(), value))
        .parse(input)
}

/// `*( SEMI param )`, at most [`limits::PARAMS`].
pub(crate) fn params(input: &str) -> Parsed<'_, Vec<(String, Option<String>)>> {
    let mut list = Vec::new();
    let mut rest = input;
    while let Ok((after, _)) = sep(';').parse(rest) {
        let (after, one) = param(after)?;
        if list.len() == limits::PARAMS || list.iter().any(|(name, _)| *name == one.0) {
            return fail(rest);
        }
        list.push(one);
        rest = after;
    }
    Ok((rest, list))
}

/// Values with commas between them, at most [`limits::LIST`]; empty elements are refused.
pub(crate) fn comma_list<'a, T>(
    input: &'a str,
    mut one: impl FnMut(&'a str) -> Parsed<'a, T>,
) -> Parsed<'a, Vec<T>> {
    let (mut rest, first) = one(input)?;
    let mut list = vec![first];
    while let Ok((after, _)) = sep(',').parse(rest) {
        if list.len() == limits::LIST {
            return fail(rest);
        }
        let (after, item) = one(after)?;
        list.push(item);
        rest = after;
    }
    Ok((rest, list))
}

/// Runs a parser over all of a header value, white space around it allowed.
pub(crate) fn whole<'a, T>(
    input: &'a str,
    parser: impl Parser<&'a str, Output = T, Error = Error<&'a str>>,
) -> Option<T> {
    all_consuming(delimited(lws, parser, lws))
        .parse(input)
        .ok()
        .map(|(_, value)| value)
}

/// `Scheme name=value, name="value"`: challenge and credentials (RFC 3261 25.1, RFC 7235).
/// Gives the scheme and the parameters with lower-case names; `None` if malformed or a name stands twice.
pub(crate) fn auth_params(input: &str) -> Option<(&str, Vec<(String, String)>)> {
    let value = |i| alt((quoted, map(token, str::to_owned))).parse(i);
    let one = |i| {
        (token, sep('='), value)
            .map(|(name, _, value)| (name.to_ascii_lowercase(), value))
            .parse(i)
    };
    let parser = |i| (token, preceded(lws1, |i| comma_list(i, one))).parse(i);
    let (scheme, list) = whole(input, parser)?;
    let twice = list
        .iter()
        .enumerate()
        .any(|(at, (name, _))| list.iter().skip(at + 1).any(|(other, _)| other == name));
    (!twice).then_some((scheme, list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_unescape() {
        assert_eq!(quoted(r#""a \"b\" \\" x"#), Ok((" x", r#"a "b" \"#.into())));
        assert!(quoted(r#""open"#).is_err());
        assert!(quoted(r#""end\"#).is_err());
    }

    #[test]
    fn params_keep_order_and_refuse_twins() {
        let (rest, list) = params(" ; a = b;C ;d=\"e f\"; r=[::1],x").unwrap();
        assert_eq!(rest, ",x");
        assert_eq!(
            list,
            [
                ("a".into(), Some("b".into())),
                ("c".into(), None),
                ("d".into(), Some("e f".into())),
                ("r".into(), Some("[::1]".into())),
            ]
        );
        assert!(params(";a;A").is_err());
        assert!(params(";").is_err());
    }

    #[test]
    fn challenges_split() {
        let (scheme, list) = auth_params("Digest realm=\"a, b\", qop=auth ,STALE = true").unwrap();
        assert_eq!(scheme, "Digest");
        assert_eq!(list.len(), 3);
        assert_eq!(list[2], ("stale".into(), "true".into()));
        assert_eq!(auth_params("Digest a=1, a=2"), None);
        assert_eq!(auth_params("Digest"), None);
    }
}
