//! Invariants of the source: which room may use which, how long a file may be, and no work left undone.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// For each room the rooms that it may use. `ARCHITECTURE.md` says the same in words.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    [
        ("api", &[][..]),
        ("protocol", &["api"]),
        ("verify", &["api", "protocol"]),
        ("reward", &["api"]),
        ("schedule", &["api", "protocol"]),
        // A package of its own, which cannot use any of them.
        ("inference", &[]),
        ("chain", &["api", "reward"]),
        ("grid", &["api", "protocol"]),
        ("download", &["api", "protocol"]),
        ("openai", &["protocol", "verify"]),
        ("store", &["api", "download", "protocol", "reward", "verify"]),
        ("telemetry", &[]),
        ("http", &[]),
        // Not `chain`: a test double that takes its numbers from what it tests would agree with every mistake.
        ("devnet", &["api"]),
        ("operator", &["api", "chain", "openai", "protocol", "reward", "telemetry", "verify"]),
        (
            "gateway",
            &[
                "api",
                "download",
                "grid",
                "http",
                "openai",
                "protocol",
                "reward",
                "schedule",
                "store",
                "telemetry",
                "verify",
            ],
        ),
        (
            "worker",
            &[
                "api",
                "chain",
                "download",
                "grid",
                "http",
                "inference",
                "openai",
                "protocol",
                "schedule",
                "telemetry",
                "verify",
            ],
        ),
        ("cli", &["api", "chain", "protocol", "reward", "telemetry"]),
    ]
    .into()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_owned(), text));
        }
    }
}

/// The file up to its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\n").next().unwrap_or(text)
}

fn room(path: &Path) -> Option<&str> {
    let mut parts = path.components().skip(1);
    let first = parts.next()?.as_os_str().to_str()?;
    parts.next().map(|_| first)
}

/// Rooms named in `crate::room` paths, in one `use` tree or on their own.
fn used(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(tree) => rooms.extend(heads(tree)),
            None => rooms.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()),
        }
    }
    rooms
}

/// First segments of the entries of a use tree, up to its closing brace.
fn heads(tree: &str) -> Vec<String> {
    let (mut heads, mut depth, mut word, mut taken) = (Vec::new(), 0, String::new(), false);
    for c in tree.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => taken = false,
            ':' if depth == 0 && !taken => {
                heads.push(std::mem::take(&mut word));
                taken = true;
            }
            c if depth == 0 && !taken && (c.is_alphanumeric() || c == '_') => word.push(c),
            _ => {}
        }
        if taken || c == ',' {
            word.clear();
        }
    }
    heads
}

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let allowed = allowed();
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let Some(room) = room(&path).filter(|room| *room != "bin") else { continue };
        let Some(may) = allowed.get(room) else {
            faults.push(format!("{}: the room {room:?} is not in the list of this test", path.display()));
            continue;
        };
        for other in used(without_tests(&text)) {
            if allowed.contains_key(other.as_str()) && other != room && !may.contains(&other.as_str()) {
                faults.push(format!("{}: {room} may not use {other}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn pure_rooms_touch_no_clock_no_file_and_no_network() {
    let forbidden =
        ["SystemTime::now", "Instant::now", "Timestamp::now", "std::fs", "tokio::", "reqwest::", "rand::rng()"];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let pure = matches!(room(&path), Some("api" | "verify" | "reward" | "schedule"));
        if !pure && !path.starts_with("src/devnet/rules") {
            continue;
        }
        for word in forbidden {
            if without_tests(&text).contains(word) {
                faults.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_story() {
    // A schema is a list of fields with their descriptions, and so are the reasons; it does not get clearer in two files.
    let lists = ["src/api/inference_job.rs", "src/api/reasons.rs", "src/protocol/internal.rs", "src/protocol/wire.rs"];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if path.ends_with("tests.rs") {
            continue;
        }
        let lines = without_tests(&text).lines().count();
        if lines > 400 && !lists.contains(&path.to_str().unwrap()) {
            faults.push(format!("{}: {lines} lines without tests", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                faults.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_room_says_what_lives_in_it() {
    for (path, text) in sources() {
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            assert!(text.starts_with("//! "), "{} does not say what lives there", path.display());
        }
    }
}

#[test]
fn use_trees_are_read() {
    let text = "use crate::{\n    api::{ids::A, b},\n    chain::C,\n    reward,\n};\nlet x = crate::verify::y;";
    assert_eq!(used(text), ["api", "chain", "verify"]);
}
