//! Who may know whom. The layers are in the documentation of the crate; this keeps them apart.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each part of the crate, and the parts of the crate that it may use besides itself. No part uses
/// one further down, so there is no circle.
const LAYERS: &[(&str, &[&str])] = &[
    ("src/ids.rs", &[]),
    ("src/secret.rs", &[]),
    ("src/time.rs", &[]),
    ("src/transport.rs", &[]),
    ("src/sync.rs", &[]),
    ("src/protocol", &["ids", "secret", "time"]),
    ("src/trace", &["time"]),
    ("src/redact", &["protocol", "trace"]),
    (
        "src/machine",
        &[
            "ids",
            "protocol",
            "redact",
            "secret",
            "time",
            "trace",
            "transport",
        ],
    ),
    ("src/mock", &["ids", "secret", "time"]),
    (
        "src/har",
        &[
            "ids",
            "machine",
            "mock",
            "protocol",
            "redact",
            "time",
            "trace",
            "transport",
        ],
    ),
    ("src/error.rs", &["machine"]),
    ("src/adapter", &["sync", "time", "transport"]),
    (
        "src/adapter/record",
        &["adapter", "har", "redact", "sync", "time"],
    ),
    (
        "src/adapter/conformance",
        &["adapter", "mock", "sync", "time"],
    ),
    ("src/spool.rs", &["adapter", "sync"]),
    ("src/spool", &["adapter", "sync"]),
    (
        "src/artifact",
        &["adapter", "protocol", "spool", "sync", "time"],
    ),
    ("adapters/certificates.rs", &["adapter"]),
    ("adapters/options.rs", &["adapter"]),
    ("adapters/proxy.rs", &["adapter"]),
    ("adapters/common.rs", &["adapter"]),
    ("adapters/tls.rs", &["adapter"]),
    ("adapters/hyper_net.rs", &["adapter", "time"]),
    ("adapters/hyper_reply.rs", &["adapter"]),
    ("adapters/last_word.rs", &["adapter"]),
    ("adapters/hyper_pool.rs", &["adapter", "time"]),
    ("adapters/hyper_connect.rs", &["adapter"]),
    ("adapters/hyper_client.rs", &["adapter"]),
    ("adapters/async_std_isahc.rs", &["adapter", "time"]),
    ("adapters/smol_hyper.rs", &["adapter", "time"]),
    ("adapters/tokio_clock.rs", &["adapter"]),
    ("adapters/tokio_hyper.rs", &["adapter", "time"]),
    ("adapters/sim", &["adapter", "mock", "time"]),
    (
        "src/handler",
        &[
            "adapter", "artifact", "ids", "protocol", "spool", "sync", "time", "trace",
        ],
    ),
    (
        "src/runner",
        &[
            "adapter", "artifact", "error", "handler", "ids", "machine", "protocol", "secret",
            "spool", "sync", "time", "trace",
        ],
    ),
    (
        "src/fuzzing",
        &[
            "artifact",
            "har",
            "ids",
            "machine",
            "mock",
            "protocol",
            "secret",
            "spool",
            "time",
            "trace",
            "transport",
        ],
    ),
];

#[test]
fn no_part_uses_a_part_of_a_higher_layer() {
    let parts: BTreeSet<PathBuf> = LAYERS.iter().map(|(part, _)| PathBuf::from(part)).collect();
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    collect(Path::new("adapters"), &mut files);
    files.retain(|file| file != Path::new("src/lib.rs"));
    assert!(files.len() > 60, "{files:?}");

    for file in files {
        let owner = file.ancestors().find(|path| parts.contains(*path));
        let owner = owner.unwrap_or_else(|| panic!("{} is in no layer", file.display()));
        let (_, may_use) = LAYERS
            .iter()
            .find(|(part, _)| Path::new(part) == owner)
            .unwrap();
        let own = owner.file_stem().unwrap().to_str().unwrap();
        for name in used(&fs::read_to_string(&file).unwrap()) {
            assert!(
                name == own || may_use.contains(&name.as_str()),
                "{} uses crate::{name}",
                file.display()
            );
        }
    }
}

#[test]
fn the_layers_have_no_circle() {
    let mut above: BTreeSet<&str> = BTreeSet::new();
    for (part, may_use) in LAYERS {
        for name in *may_use {
            assert!(above.contains(name), "{part} comes before {name}");
        }
        above.insert(Path::new(part).file_stem().unwrap().to_str().unwrap());
    }
}

/// The program of the README runs on other runtimes with another `main`, and nothing else changed.
#[test]
fn the_programs_of_the_readme_differ_in_their_main_alone() {
    let bare = |text: &str| text.replace(char::is_whitespace, "").replace(",)", ")");
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, program) = readme.split_once("```rust,no_run\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    let (handler, main) = program.split_once("#[tokio::main]").unwrap();
    let (_, handler) = handler.split_once("#[derive").unwrap();
    let (_, main) = main.split_once("async fn main() {").unwrap();
    let main = main.trim().trim_end_matches('}');
    for (example, head) in [
        ("readme", "#[tokio::main]\nasync fn main() {"),
        ("readme_smol", "fn main() {\n    smol::block_on(async {"),
        ("readme_async_std", "#[async_std::main]\nasync fn main() {"),
    ] {
        let source = fs::read_to_string(format!("examples/{example}.rs")).unwrap();
        let source = bare(&source);
        assert!(source.contains(&bare(handler)), "{example}: the handler");
        let (_, rest) = source.split_once(&bare(head)).unwrap();
        assert!(rest.starts_with(&bare(main)), "{example}: {rest}");
    }
}

/// Each row of the tables names tests, and there are such tests.
#[test]
fn the_tables_name_tests_that_exist() {
    assert!(rows_with_tests("docs/compatibility.md") > 50);
    assert!(rows_with_tests("docs/official-runner.md") > 25);
    assert!(rows_with_tests("docs/conformance.md") > 200);
}

fn rows_with_tests(document: &str) -> usize {
    let table = fs::read_to_string(document).unwrap();
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, _, tests] = cells[..] else {
            panic!("not four cells: {row}");
        };
        if name == "row" || name == "case" {
            continue;
        }
        rows += 1;
        for test in tests.split(", ") {
            let named = test.trim_matches('`').split_once("::");
            let (file, function) = named.unwrap_or_else(|| panic!("{name} names no test"));
            let path = match file.starts_with("src/") {
                true => format!("{file}.rs"),
                false => format!("tests/{file}.rs"),
            };
            let source = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{name}: no {path}"));
            let head = format!("fn {function}(");
            let before = source.split_once(&head).map(|(before, _)| before);
            let before = before.unwrap_or_else(|| panic!("{name}: no {test}"));
            let attribute = before.trim_end_matches("async ").trim_end().lines().last();
            assert!(
                attribute.is_some_and(|line| {
                    line.contains("test]")
                        || line.contains("::test(")
                        || line.contains("quickcheck!")
                }),
                "{name}: {test} is no test"
            );
        }
    }
    rows
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The modules behind every `crate::` of a file: `crate::a::B` and `crate::{a::B, c}`.
fn used(source: &str) -> BTreeSet<String> {
    let code: Vec<&str> = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut names = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        // `$crate::` stands in macros, which are at home wherever they are used.
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + path.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            names.extend(top_level(list));
        } else {
            names.insert(home(rest));
        }
    }
    names
}

/// The first name of each item of a list in braces.
fn top_level(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut start = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && !c.is_whitespace() => {
                names.push(home(&list[at..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

/// The module that the first name of a path is, or comes from.
fn home(path: &str) -> String {
    let end = path.find(|c: char| c != '_' && !c.is_alphanumeric());
    match &path[..end.unwrap_or(path.len())] {
        "Time" | "WallTime" => "time".to_owned(),
        "Failure" => "protocol".to_owned(),
        "JobId" | "RequestId" => "ids".to_owned(),
        "Secret" => "secret".to_owned(),
        name => name.to_owned(),
    }
}
