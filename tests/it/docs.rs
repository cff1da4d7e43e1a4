//! Documentation that names things of the code is compared with the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn markdown() -> Vec<PathBuf> {
    let mut found: Vec<_> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)).into();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.extension() {
                _ if entry.is_dir() => folders.push(entry),
                Some(extension) if extension == "md" => found.push(entry),
                _ => {}
            }
        }
    }
    found
}

/// Text between back quotes, as far as it looks like a name.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Names of the dependencies in the tables of the manifests whose header ends in `dependencies]`, but for our own packages.
fn dependencies() -> BTreeSet<String> {
    let manifests = ["Cargo.toml", "src/inference/Cargo.toml", "src/verify/exact/Cargo.toml"];
    let names = manifests.iter().flat_map(|path| named(&read(path)));
    names.filter(|name| !name.starts_with("xdc-grid-")).collect()
}

fn named(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if let (true, Some((name, _))) = (inside, line.split_once('=')) {
            names.push(name.trim().to_owned());
        }
    }
    names
}

#[test]
fn every_dependency_has_a_line_that_says_why() {
    let text = read("docs/dependencies.md");
    let explained = quoted(&text);
    let names = dependencies();
    assert!(names.len() > 30, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !explained.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no line in docs/dependencies.md for {missing:?}");
}

/// Metric names in the sources: string literals that begin with `grid_` or `vllm:` in files called metrics.rs.
fn metrics_in_code() -> BTreeSet<String> {
    let rooms = ["operator", "gateway", "worker", "grid", "inference"]
        .map(|room| root().join("src").join(room).join("metrics.rs"));
    let sources: Vec<_> = rooms.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let literals = sources.iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let name = |text: &&str| {
        let ours = text.len() > "vllm:".len() && ["grid_", "vllm:"].iter().any(|prefix| text.starts_with(prefix));
        ours && text.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b':') || b.is_ascii_digit())
    };
    literals.filter(name).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let text = read("docs/metrics.md");
    let rows =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned()));
    // Rows of other tables begin with a label or a recorded series.
    let documented: BTreeSet<String> =
        rows.filter(|name| name.starts_with("grid_") || name.starts_with("vllm:")).collect();
    let code = metrics_in_code();
    let missing: Vec<_> = code.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&code).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not in docs/metrics.md: {missing:?}; not in the code: {stale:?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for file in markdown() {
        let text = fs::read_to_string(&file).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            if !file.parent().unwrap_or(Path::new("/")).join(path).exists() {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A code block of a document.
#[derive(Debug, Default)]
struct Block {
    /// NAME of the comment `<!-- test: NAME -->` on the line before.
    tag: Option<String>,
    language: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut found, mut open, mut before) = (Vec::new(), None::<Block>, String::new());
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let tag = before.strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->"));
                open = Some(Block { tag: tag.map(str::to_owned), language: language.to_owned(), ..Block::default() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
        before = line.trim().to_owned();
    }
    found
}

/// The pages whose commands `tests/readme/run.py` runs.
fn pages_that_are_run() -> Vec<PathBuf> {
    let guide = root().join("docs/user-guide");
    let inside = |path: &PathBuf| {
        path.ends_with("README.md") && !path.starts_with(root().join("docs")) || path.starts_with(&guide)
    };
    let found: Vec<_> = markdown().into_iter().filter(inside).collect();
    assert!(found.len() >= 5, "{found:?}");
    found
}

#[test]
fn every_command_block_that_readers_follow_has_a_tag_of_its_own() {
    let pages: Vec<_> = pages_that_are_run().into_iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let blocks: Vec<_> = pages.iter().flat_map(|page| blocks(page)).collect();
    let shell: Vec<_> = blocks.iter().filter(|block| block.language == "sh").collect();
    assert!(shell.len() >= 20, "{shell:?}");
    let tag = |block: &&Block| block.tag.clone().unwrap_or_else(|| panic!("no tag before:\n{}", block.text));
    let tags: BTreeSet<_> = shell.iter().map(tag).collect();
    assert_eq!(tags.len(), shell.len(), "{tags:?}");
}

#[test]
fn every_page_with_tagged_commands_is_run_by_the_test_that_runs_them() {
    let runner = read("tests/readme/run.py");
    for page in pages_that_are_run() {
        let tagged = blocks(&fs::read_to_string(&page).unwrap()).iter().any(|block| block.tag.is_some());
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        assert!(!tagged || runner.contains(&format!("\"{name}\"")), "tests/readme/run.py does not know {name}");
    }
}

#[test]
fn the_make_targets_that_documents_name_exist() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':').map(|(name, _)| name)).collect();
    for file in markdown() {
        let text = fs::read_to_string(&file).unwrap();
        for word in quoted(&text).into_iter().filter_map(|code| code.strip_prefix("make ")) {
            let target = word.split_whitespace().next().unwrap_or_default();
            assert!(targets.contains(target), "{}: `make {word}` is no target", file.display());
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_kubectl_grid_commands_that_documents_show_are_understood() {
    use clap::Parser;
    let mut seen = 0;
    for file in markdown() {
        let text = fs::read_to_string(&file).unwrap().replace("\\\n", " ");
        let shown = text.lines().filter_map(|line| line.trim().strip_prefix("kubectl grid "));
        for command in shown {
            let words = command.split('#').next().unwrap_or_default().split_whitespace();
            let words: Vec<_> = words.take_while(|word| !matches!(*word, "|" | ">" | "&&")).collect();
            // Placeholders stand for an address.
            let words = words.iter().map(|word| match word.strip_prefix("0x") {
                Some(rest) if rest.bytes().all(|b| b.is_ascii_uppercase()) => {
                    "0x00000000000000000000000000000000000000aa"
                }
                _ => word,
            });
            let parsed = xdc_grid::cli::Cli::try_parse_from(["kubectl-grid"].into_iter().chain(words));
            assert!(parsed.is_ok(), "{}: kubectl grid {command}\n{}", file.display(), parsed.unwrap_err());
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} commands found");
}
