//! What `misuse.c` has to show of each function, read from the headers, so that none is forgotten.
//!
//! The program tells each call that it makes, as it is written there: `WHERE WHAT tsc_bind(wrong, NULL, short_1)`. The places of the
//! arguments are those of the parameters, and the words in them say in which way they are wrong.

use std::collections::BTreeSet;

/// Where each function is called at least once: without a library, by the thread that made what it uses, by another one, by a callback,
/// and after the library's end.
const PLACES: [&str; 5] = ["before", "inside", "thread", "callback", "after"];
/// How a handle is wrong: none, never given out, deleted.
const HANDLE: [&str; 3] = ["NULL", "stale", "deleted"];
/// How a socket is wrong: never one, closed, of a tunnel that was deleted.
const SOCKET: [&str; 3] = ["never", "closed", "orphan"];

/// One function, with its parameters as they are declared.
struct Function<'a> {
    name: &'a str,
    parameters: Vec<&'a str>,
}

/// The declarations of a header without its comments; inline functions are none.
fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("tsc_") {
        // From the end of what is before it: a function is the first thing with parentheses there.
        let before = code[..start].rsplit([';', '}', '{']).next().unwrap();
        let Some(open) = code[start..].find('(').map(|open| start + open) else {
            continue;
        };
        let name = &code[start..open];
        let is_name = name
            .chars()
            .all(|letter| letter == '_' || letter.is_ascii_alphanumeric());
        let close = open + code[open..].find(')').unwrap();
        let ends = code[close + 1..].trim_start().starts_with(';');
        let is_declared = !before.contains(['(', '=']) && !before.contains("typedef");
        if !is_name || !is_declared || !ends || before.trim().is_empty() {
            continue;
        }
        let parameters = code[open + 1..close].split(',').map(str::trim);
        let parameters = parameters.filter(|one| *one != "void").collect();
        found.push(Function { name, parameters });
    }
    found
}

/// Without comments and without what the preprocessor reads.
fn code(header: &str) -> String {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        code.push_str(before);
        rest = after.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    let lines = code.lines().filter(|line| !line.starts_with('#'));
    lines
        .collect::<Vec<_>>()
        .join(" ")
        .replace(r#"extern "C" {"#, "")
}

/// In which ways a parameter can be wrong.
fn ways(parameter: &str, before: Option<&str>) -> Vec<&'static str> {
    let name = parameter.rsplit([' ', '*']).next().unwrap();
    let is_handle = ["tsc_handle ", "tsc_notification_handle "];
    if is_handle.iter().any(|kind| parameter.starts_with(kind)) {
        return HANDLE.to_vec();
    }
    if parameter == "int socket" {
        return SOCKET.to_vec();
    }
    let is_length = name.ends_with("length");
    // What is sent may be as short as it likes.
    let is_data = before.is_some_and(|before| before == "const void *buffer");
    let mut ways = Vec::new();
    if parameter.contains('*') || parameter.starts_with("tsc_notification_callback ") {
        ways.push("NULL");
    }
    if is_length && !is_data {
        ways.push("short_");
    }
    ways
}

/// The arguments of a call, and its name.
fn call(text: &str) -> (&str, Vec<&str>) {
    let start = text.find("tsc_").expect("a call");
    let (name, rest) = text[start..].split_once('(').unwrap();
    let (mut depth, mut begin, mut quoted) = (0, 0, false);
    let mut arguments = Vec::new();
    for (at, letter) in rest.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            _ if quoted => {}
            ',' if depth == 0 => {
                arguments.push(rest[begin..at].trim());
                begin = at + 1;
            }
            ')' if depth == 0 => {
                arguments.push(rest[begin..at].trim());
                break;
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    (name, arguments)
}

/// What a program that said this has not shown of the functions in these headers.
pub(crate) fn missing(headers: &[&str], said: &str) -> Vec<String> {
    let code: Vec<_> = headers.iter().map(|header| code(header)).collect();
    let functions: Vec<_> = code.iter().flat_map(|code| functions(code)).collect();
    let mut shown = BTreeSet::new();
    for line in said.lines() {
        let (place, rest) = line.split_once(' ').unwrap();
        let (what, text) = rest.split_once(' ').unwrap();
        let (name, arguments) = call(text);
        shown.insert(format!("{name}: {place}"));
        let Some(function) = functions.iter().find(|function| function.name == name) else {
            panic!("{name} is in no header");
        };
        for (parameter, argument) in function.parameters.iter().zip(arguments) {
            let mut words: Vec<_> = argument
                .split(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric())
                .collect();
            if words.contains(&"wrong") {
                words.push(what);
            }
            for word in words {
                let word = if word.starts_with("short_") {
                    "short_"
                } else {
                    word
                };
                shown.insert(format!("{name}: {word} as {parameter}"));
            }
        }
    }
    let mut wanted = Vec::new();
    for Function { name, parameters } in &functions {
        wanted.extend(PLACES.map(|place| format!("{name}: {place}")));
        let mut before = None;
        for parameter in parameters {
            let ways = ways(parameter, before).into_iter();
            wanted.extend(ways.map(|way| format!("{name}: {way} as {parameter}")));
            before = Some(parameter);
        }
    }
    assert!(functions.len() >= 40, "{} functions", functions.len());
    wanted.retain(|case| !shown.contains(case));
    wanted
}

/// The search itself: a function that nobody has written a case for is found, with all that it lacks.
#[test]
fn a_function_without_its_cases_is_found() {
    let known = include_str!("../../include/tsc_socket_api.h");
    let control = include_str!("../../include/tsc_control_api.h");
    let new = "/** tsc_not(this); */\ntypedef void (*tsc_not)(int);\nint tsc_new(int socket, void *room,\n    size_t length);";
    let said = "before closed tsc_new(wrong, NULL, 1)\nafter - tsc_new((int)orphan, f(a, b), short_2) == 1";
    let mut found = missing(&[known, control, new], said);
    found.retain(|case| case.starts_with("tsc_new:") || case.starts_with("tsc_not:"));
    let wanted = ["inside", "thread", "callback", "never as int socket"];
    assert_eq!(found, wanted.map(|case| format!("tsc_new: {case}")));
}
