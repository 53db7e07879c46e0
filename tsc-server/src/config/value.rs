//! Readers of single values, each with its own complaint.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::de::DeValue;

use super::document::{Aim, Document, KeyPath, Section};
use super::error::{ConfigErrorKind, shown};
use super::model::Keyword;

/// A value as found: in the file, or as text from outside.
#[derive(Clone, Copy)]
pub(super) enum Node<'d> {
    Toml(&'d DeValue<'d>),
    Text(&'d str),
}

/// A value being read. Each method notes an error and gives `None` if the value is not what it wants.
pub(super) struct Value<'d> {
    doc: &'d Document<'d>,
    pub(super) path: KeyPath,
    node: Node<'d>,
}

impl<'d> Value<'d> {
    pub(super) fn new(doc: &'d Document<'d>, path: KeyPath, node: Node<'d>) -> Self {
        Self { doc, path, node }
    }

    /// Notes an error of this value.
    pub(super) fn fail(&self, kind: ConfigErrorKind, help: impl Into<String>) {
        self.doc.fail(&self.path, Aim::Value, kind, help.into());
    }

    /// Notes that a text is wrong.
    pub(super) fn invalid(&self, value: &str, reason: impl fmt::Display, help: impl Into<String>) {
        let kind = ConfigErrorKind::Invalid {
            value: shown(value),
            reason: reason.to_string(),
        };
        self.fail(kind, help);
    }

    fn wrong_type(&self, expected: &'static str, example: &str) {
        let found = match self.node {
            Node::Toml(value) => type_name(value),
            Node::Text(_) => "a text",
        };
        self.fail(
            ConfigErrorKind::WrongType { expected, found },
            format!("write {example}"),
        );
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&'d str> {
        let text = match self.node {
            Node::Toml(value) => value.as_str(),
            Node::Text(text) => Some(text),
        };
        if text.is_none() {
            self.wrong_type("a text in quotes", "\"…\"");
        }
        text
    }

    /// The text, without complaint if it is none.
    pub(super) fn text_quietly(&self) -> Option<&'d str> {
        match self.node {
            Node::Toml(value) => value.as_str(),
            Node::Text(text) => Some(text),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        let flag = match self.node {
            Node::Toml(value) => value.as_bool(),
            Node::Text(text) => text.parse().ok(),
        };
        if flag.is_none() {
            self.wrong_type("true or false", "true or false, without quotes");
        }
        flag
    }

    /// A whole number within `range`, or zero where `zero` says that it has a meaning of its own.
    pub(super) fn number<T: TryFrom<u64>>(
        &self,
        range: RangeInclusive<u64>,
        zero: bool,
    ) -> Option<T> {
        let digits = match self.node {
            Node::Toml(value) => value
                .as_integer()
                .map(|integer| (integer.as_str(), integer.radix())),
            Node::Text(text) => text
                .parse::<i128>()
                .is_ok()
                .then_some((text.trim_start_matches('+'), 10)),
        };
        let Some((digits, radix)) = digits else {
            let (low, high) = range.into_inner();
            self.wrong_type(
                "a whole number",
                &format!("a number from {low} to {high}, without quotes"),
            );
            return None;
        };
        let number = u64::from_str_radix(digits, radix)
            .ok()
            .filter(|number| range.contains(number) || (zero && *number == 0))
            .and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let (low, high) = range.into_inner();
            let zero = if zero && low > 0 { "0, " } else { "" };
            let kind = ConfigErrorKind::OutOfRange {
                value: shown(digits),
                allowed: format!("{zero}{low}-{high}"),
            };
            let or_zero = if zero.is_empty() { "" } else { ", or 0" };
            self.fail(kind, format!("use a number from {low} to {high}{or_zero}"));
        }
        number
    }

    /// One word of a closed set.
    pub(super) fn keyword<K: Keyword>(&self) -> Option<K> {
        let word = self.text()?;
        let found = K::from_word(word);
        if found.is_none() {
            let words = || K::ALL.iter().map(|value| value.word());
            let kind = ConfigErrorKind::UnknownWord {
                value: shown(word),
                allowed: words().collect::<Vec<_>>().join(", "),
            };
            self.fail(kind, suggestion(word, words()));
        }
        found
    }

    /// A text that `T` can be parsed from; `what` names it, `example` shows one.
    pub(super) fn parsed<T: std::str::FromStr>(&self, what: &str, example: &str) -> Option<T> {
        let text = self.text()?;
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.invalid(
                text,
                format_args!("is no {what}"),
                format!("write it as \"{example}\""),
            );
        }
        parsed
    }

    /// The path of a file; relative ones are taken from where the configuration is.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.contains("-----BEGIN") {
            // Not shown: it may be a key.
            let kind = ConfigErrorKind::Conflict {
                reason: "holds a PEM text where a path belongs".to_owned(),
            };
            self.fail(kind, "put the PEM text into a file and name it here");
            return None;
        }
        if text.is_empty() || text.contains(['\0', '\u{fffd}']) {
            self.invalid(text, "is no path", "write the path of a file");
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// The text as a path, without complaint if it is none.
    pub(super) fn path_quietly(&self) -> Option<PathBuf> {
        self.text_quietly().map(PathBuf::from)
    }

    /// A name for logs and references.
    pub(super) fn name(&self) -> Option<String> {
        const MAX: usize = 64;
        let text = self.text()?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if text.is_empty() || text.len() > MAX || !text.chars().all(fits) {
            self.invalid(
                text,
                "is no name",
                "use 1 to 64 letters, digits, '-', '_', '.' or ':'",
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// The elements of an array of at most `max`; anything else counts as a list of one.
    pub(super) fn items(&self, max: usize) -> Vec<Self> {
        let Node::Toml(DeValue::Array(array)) = self.node else {
            return vec![Self {
                doc: self.doc,
                path: self.path.clone(),
                node: self.node,
            }];
        };
        if array.len() > max {
            let kind = ConfigErrorKind::OutOfRange {
                value: format!("a list of {}", array.len()),
                allowed: format!("0-{max} entries"),
            };
            self.fail(kind, format!("list at most {max}"));
        }
        array
            .iter()
            .take(max)
            .enumerate()
            .map(|(index, value)| Self {
                doc: self.doc,
                path: self.path.index(index),
                node: Node::Toml(value.get_ref()),
            })
            .collect()
    }

    /// The value as a table.
    pub(super) fn section(&self) -> Option<Section<'d>> {
        if let Node::Toml(DeValue::Table(table)) = self.node {
            return Some(Section::new(self.doc, self.path.clone(), Some(table)));
        }
        self.wrong_type("a table", &format!("[[{}]]", self.path));
        None
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.node, Node::Toml(DeValue::Table(_)))
    }
}

pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// "did you mean …", or the words there are.
pub(super) fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Below this likeness a guess is more confusing than a list.
    const LIKENESS: f64 = 0.7;
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    known.dedup();
    let fold = |text: &str| text.to_lowercase().replace('_', "-");
    let likeness = |candidate: &str| strsim::jaro_winkler(&fold(word), &fold(candidate));
    let best = known
        .iter()
        .map(|candidate| (likeness(candidate), *candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, best)) if score >= LIKENESS => format!("did you mean \"{best}\"?"),
        Some(_) => format!("known here: {}", known.join(", ")),
        None => "remove it".to_owned(),
    }
}
