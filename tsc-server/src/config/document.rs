//! The parsed file as a tree with places, and the errors found in it.
//!
//! A wrong value is noted and reading goes on with the default, so that one run reports everything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrorKind, Place};
use super::source::KeyOverride;
use super::value::{Node, Value, suggestion, type_name};

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
pub(super) enum Aim {
    Key,
    Value,
}

/// A configuration text, its tree, what overrides it, and the errors found so far.
pub(super) struct Document<'t> {
    origin: &'t str,
    text: &'t str,
    root: DeTable<'t>,
    overrides: BTreeMap<String, KeyOverride>,
    errors: RefCell<Vec<ConfigError>>,
    /// Paths whose value is wrong, so that it was replaced by the default.
    refused: RefCell<Vec<KeyPath>>,
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
                refused: RefCell::default(),
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
        Section::new(self, KeyPath::default(), Some(&self.root))
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
        Section::new(self, path, value.and_then(DeValue::as_table))
    }

    /// Notes an error of a single value.
    pub(super) fn fail(&self, path: &KeyPath, aim: Aim, kind: ConfigErrorKind, help: String) {
        self.refused.borrow_mut().push(path.clone());
        self.note(path, aim, kind, help);
    }

    /// Notes an error of a cross check, unless a value that it looks at was refused already: then it would
    /// be a mere consequence.
    pub(super) fn consequence(&self, path: &KeyPath, kind: ConfigErrorKind, help: String) {
        // An element that was refused shifts those behind it, so a list counts as a whole.
        let mut whole = path.clone();
        whole.0.pop_if(|step| matches!(step, Step::Index(_)));
        let refused = |at: &KeyPath| whole.covers(at) || at.covers(path);
        if !self.refused.borrow().iter().any(refused) {
            self.note(path, Aim::Value, kind, help);
        }
    }

    fn note(&self, path: &KeyPath, aim: Aim, kind: ConfigErrorKind, help: String) {
        self.errors.borrow_mut().push(ConfigError {
            place: self.locate(path, aim),
            key: path.to_string(),
            kind,
            help,
        });
    }

    /// All errors noted.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
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
    path: KeyPath,
    table: Option<&'d DeTable<'d>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    /// The section of a table; without one it is empty and lacks nothing.
    pub(super) fn new(
        doc: &'d Document<'d>,
        path: KeyPath,
        table: Option<&'d DeTable<'d>>,
    ) -> Self {
        let known = RefCell::default();
        Self {
            doc,
            path,
            table,
            known,
        }
    }

    /// The value of a key, if set.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'d>> {
        self.known.borrow_mut().push(key);
        let path = self.path.key(key);
        let node = match self.doc.overridden(&path) {
            Some(set) => Node::Text(&set.value),
            None => Node::Toml(self.table?.get(key)?.get_ref()),
        };
        Some(Value::new(self.doc, path, node))
    }

    /// The value of a key that must be set; `what` explains it in the error.
    pub(super) fn required(&self, key: &'static str, what: &str) -> Option<Value<'d>> {
        let value = self.value(key);
        // A section that is no table was refused already; what it lacks is a mere consequence.
        if value.is_none() && self.table.is_some() {
            self.lacks(key, format!("add {what}"));
        }
        value
    }

    /// Notes that a key is missing.
    pub(super) fn lacks(&self, key: &'static str, help: impl Into<String>) {
        self.doc.refused.borrow_mut().push(self.path.key(key));
        let what = format!("\"{key}\"");
        let kind = ConfigErrorKind::Missing { what };
        self.doc.note(&self.path, Aim::Key, kind, help.into());
    }

    /// The tables of `[[key]]`; one plain table counts as a list of one.
    pub(super) fn sections(&self, key: &'static str, max: usize) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        // What is no table yields an empty section, so that positions agree with the file's.
        let items = value.items(max);
        let section = |item: &Value<'d>| {
            let empty = || Self::new(self.doc, item.path.clone(), None);
            item.section().unwrap_or_else(empty)
        };
        items.iter().map(section).collect()
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
