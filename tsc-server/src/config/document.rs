//! The parsed file as a tree with places, and the readers that turn it into values.
//!
//! A wrong value is noted and reading goes on with the default, so that one run reports everything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrorKind, Place, shown};
use super::model::Keyword;
use super::source::KeyOverride;

/// The table whose keys environment and flags may set.
pub(super) const SYSTEM_TABLE: &str = "tscf-config";

/// A key or index on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root to a value; prints as `tscf-interface[0].inner-mtu`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyPath(Vec<Step>);

impl KeyPath {
    pub(super) fn of(key: &str) -> Self {
        Self::default().key(key)
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Whether `other` is this path or lies below it.
    fn covers(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// What to point at for an error of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Key,
    Value,
}

/// A configuration text, its tree, what overrides it, and the errors found so far.
pub(super) struct Document<'t> {
    origin: &'t str,
    text: &'t str,
    root: DeTable<'t>,
    overrides: BTreeMap<String, KeyOverride>,
    errors: RefCell<Vec<(KeyPath, ConfigError)>>,
}

impl<'t> Document<'t> {
    /// Parses `text`. With syntax errors only those are reported: the tree behind them is a guess.
    pub(super) fn parse(origin: &'t str, text: &'t str) -> Result<Self, Vec<ConfigError>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self {
                origin,
                text,
                root: root.into_inner(),
                overrides: BTreeMap::new(),
                errors: RefCell::default(),
            });
        }
        Err(errors
            .iter()
            .map(|error| ConfigError {
                place: place_of(origin, text, error.span().unwrap_or(0..0)),
                key: String::new(),
                kind: ConfigErrorKind::Syntax {
                    reason: format!("no valid TOML: {}", error.message()),
                },
                help: "see https://toml.io for the syntax".to_owned(),
            })
            .collect())
    }

    /// Sets a key of `[tscf-config]` from outside; later calls win.
    pub(super) fn set(&mut self, set: KeyOverride) {
        self.overrides.insert(set.key.clone(), set);
    }

    /// The whole document as a section.
    pub(super) fn root(&self) -> Section<'_> {
        Section {
            doc: self,
            path: KeyPath::default(),
            table: Some(&self.root),
            known: RefCell::default(),
        }
    }

    /// `[tscf-config]`, which exists even if the file has none: it may be overridden.
    pub(super) fn system(&self, root: &Section<'_>) -> Section<'_> {
        root.known.borrow_mut().push(SYSTEM_TABLE);
        let path = KeyPath::of(SYSTEM_TABLE);
        let value = self.root.get(SYSTEM_TABLE).map(Spanned::get_ref);
        if let Some(value) = value.filter(|value| !value.is_table()) {
            let expected = "a table, [tscf-config]";
            let found = type_name(value);
            let kind = ConfigErrorKind::WrongType { expected, found };
            self.fail(&path, Aim::Value, kind, "write [tscf-config]".to_owned());
        }
        Section {
            doc: self,
            path,
            table: value.and_then(DeValue::as_table),
            known: RefCell::default(),
        }
    }

    /// Notes an error of a cross check, unless reading already failed there: it would be a mere consequence.
    pub(super) fn consequence(&self, path: &KeyPath, kind: ConfigErrorKind, help: String) {
        // An element that failed shifts those behind it, so the list counts as a whole.
        let mut cause = path.clone();
        cause.0.pop_if(|step| matches!(step, Step::Index(_)));
        let known = self.errors.borrow().iter().any(|(at, _)| cause.covers(at));
        if !known {
            self.fail(path, Aim::Value, kind, help);
        }
    }

    /// All errors noted.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors
            .into_inner()
            .into_iter()
            .map(|(_, error)| error)
            .collect()
    }

    fn fail(&self, path: &KeyPath, aim: Aim, kind: ConfigErrorKind, help: String) {
        let error = ConfigError {
            place: self.locate(path, aim),
            key: path.to_string(),
            kind,
            help,
        };
        self.errors.borrow_mut().push((path.clone(), error));
    }

    fn overridden(&self, path: &KeyPath) -> Option<&KeyOverride> {
        match path.0.as_slice() {
            [Step::Key(table), Step::Key(key), ..] if table == SYSTEM_TABLE => {
                self.overrides.get(key)
            }
            _ => None,
        }
    }

    /// The place of a path, or of the nearest part of it that exists.
    fn locate(&self, path: &KeyPath, aim: Aim) -> Place {
        if let Some(set) = self.overridden(path) {
            return Place::Override(set.origin.clone());
        }
        let mut span = None;
        let mut table = Some(&self.root);
        let mut value: Option<&Spanned<DeValue<'_>>> = None;
        for step in &path.0 {
            let next = match step {
                Step::Key(key) => table
                    .and_then(|table| table.get_key_value(key.as_str()))
                    .map(|(key, value)| (key.span(), value)),
                Step::Index(index) => value
                    .and_then(|value| value.get_ref().as_array())
                    .and_then(|array| array.get(*index))
                    .map(|value| (value.span(), value)),
            };
            let Some((key_span, found)) = next else { break };
            span = Some(match aim {
                Aim::Key => key_span,
                Aim::Value => found.span(),
            });
            table = found.get_ref().as_table();
            value = Some(found);
        }
        match span {
            Some(span) => place_of(self.origin, self.text, span),
            None => Place::File(self.origin.to_owned()),
        }
    }
}

fn place_of(origin: &str, text: &str, span: Range<usize>) -> Place {
    let before = text.get(..span.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place::Text {
        file: origin.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or("").chars().count() + 1,
    }
}

/// A table being read. Each key asked for is a known one; [`Section::finish`] refuses the others.
pub(super) struct Section<'d> {
    doc: &'d Document<'d>,
    pub(super) path: KeyPath,
    table: Option<&'d DeTable<'d>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    /// The value of a key, if set.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'d>> {
        self.known.borrow_mut().push(key);
        let path = self.path.key(key);
        let node = match self.doc.overridden(&path) {
            Some(set) => Node::Text(&set.value),
            None => Node::Toml(self.table?.get(key)?.get_ref()),
        };
        Some(Value {
            doc: self.doc,
            path,
            node,
        })
    }

    /// The value of a key that must be set; `what` explains it in the error.
    pub(super) fn required(&self, key: &'static str, what: &str) -> Option<Value<'d>> {
        let value = self.value(key);
        // A section that is no table was refused already; what it lacks is a mere consequence.
        if value.is_none() && self.table.is_some() {
            let missing = ConfigErrorKind::Missing {
                what: format!("\"{key}\""),
            };
            self.fail(missing, format!("add {what}"));
        }
        value
    }

    /// The tables of `[[key]]`; one plain table counts as a list of one.
    pub(super) fn sections(&self, key: &'static str, max: usize) -> Vec<Section<'d>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        // What is no table yields an empty section, so that positions agree with the file's.
        let items = value.items(max);
        let section = |item: &Value<'d>| {
            item.section().unwrap_or_else(|| Section {
                doc: item.doc,
                path: item.path.clone(),
                table: None,
                known: RefCell::default(),
            })
        };
        items.iter().map(section).collect()
    }

    /// Notes an error of the table as a whole.
    pub(super) fn fail(&self, kind: ConfigErrorKind, help: impl Into<String>) {
        self.doc.fail(&self.path, Aim::Key, kind, help.into());
    }

    /// Refuses the keys that nobody asked for. `foreign` explains keys of the vendor's that have no
    /// counterpart here.
    pub(super) fn finish(self, foreign: &[(&str, &str)]) {
        let known = self.known.borrow();
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let key = key.get_ref().as_ref();
            if known.contains(&key) {
                continue;
            }
            let help = match foreign.iter().find(|(name, _)| *name == key) {
                Some((_, help)) => (*help).to_owned(),
                None => suggestion(key, known.iter().copied()),
            };
            let path = self.path.key(key);
            self.doc
                .fail(&path, Aim::Key, ConfigErrorKind::UnknownKey, help);
        }
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

/// A value as found: in the file, or as text from outside.
#[derive(Clone, Copy)]
enum Node<'d> {
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
        match self.node {
            Node::Toml(value) => value.as_str().map(PathBuf::from),
            Node::Text(text) => Some(PathBuf::from(text)),
        }
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
    pub(super) fn items(&self, max: usize) -> Vec<Value<'d>> {
        let Node::Toml(DeValue::Array(array)) = self.node else {
            return vec![Value {
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
            .map(|(index, value)| Value {
                doc: self.doc,
                path: self.path.index(index),
                node: Node::Toml(value.get_ref()),
            })
            .collect()
    }

    /// The value as a table.
    pub(super) fn section(&self) -> Option<Section<'d>> {
        if let Node::Toml(DeValue::Table(table)) = self.node {
            return Some(Section {
                doc: self.doc,
                path: self.path.clone(),
                table: Some(table),
                known: RefCell::default(),
            });
        }
        self.wrong_type("a table", &format!("[[{}]]", self.path));
        None
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.node, Node::Toml(DeValue::Table(_)))
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
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
