//! The log's records and the table of them in docs/configuration.md: what is written is documented, with its level, and what
//! is documented is written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// The levels of each event. That of a record beyond its budget, `debug`, does not count beside others.
type Events = BTreeMap<String, BTreeSet<&'static str>>;

fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Without the tests at the end.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            found.push((path.display().to_string(), code.to_owned()));
        }
    }
}

/// The calls of tracing's macros: level, and what is between the parentheses.
fn calls(code: &str) -> Vec<(&'static str, &str)> {
    let mut found = Vec::new();
    for level in LEVELS {
        let call = format!("{level}!(");
        for (at, _) in code.match_indices(&call) {
            // Not the end of another name.
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let arguments = &code[at + call.len()..];
            let mut depth = 1;
            let end = arguments.find(|sign| {
                depth += match sign {
                    '(' => 1,
                    ')' => -1,
                    _ => 0,
                };
                depth == 0
            });
            found.push((level, &arguments[..end.unwrap()]));
        }
    }
    found
}

fn event(arguments: &str) -> Option<&str> {
    let (_, rest) = arguments.split_once("event = \"")?;
    Some(rest.split_once('"')?.0)
}

fn note(events: &mut Events, event: &str, level: &'static str) {
    events.entry(event.to_owned()).or_default().insert(level);
}

fn written() -> Events {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut server, mut adaptation) = (Vec::new(), Vec::new());
    sources(&root.join("src"), &mut server);
    sources(&root.join("../osaa/src"), &mut adaptation);
    let mut events = Events::new();
    for (path, code) in &server {
        for (level, arguments) in calls(code) {
            match event(arguments) {
                Some(event) => note(&mut events, event, level),
                // Details for developers need none.
                None => assert_eq!(level, "debug", "{path}: no event in {arguments}"),
            }
        }
    }
    for (_, code) in &adaptation {
        for (level, arguments) in calls(code) {
            if let Some(event) = event(arguments) {
                note(&mut events, event, level);
            }
        }
    }
    for levels in events.values_mut().filter(|levels| levels.len() > 1) {
        levels.remove("debug");
    }
    events
}

fn documented() -> Events {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, table) = text.split_once("| event | level | fields |\n").unwrap();
    let mut events = Events::new();
    for row in table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'))
    {
        let cells: Vec<&str> = row.split('|').collect();
        let named = cells[2].split(',').map(str::trim);
        let levels: BTreeSet<_> = named
            .map(|named| {
                let known = LEVELS.into_iter().find(|level| *level == named);
                known.unwrap_or_else(|| panic!("no level in {row}"))
            })
            .collect();
        // What is between backticks.
        for event in cells[1].split('`').skip(1).step_by(2) {
            assert_eq!(
                events.insert(event.to_owned(), levels.clone()),
                None,
                "{event} twice"
            );
        }
    }
    events
}

#[test]
fn the_log_is_what_its_table_says() {
    let (written, documented) = (written(), documented());
    assert!(written.len() > 20, "{written:?}");
    assert_eq!(written, documented);
}
