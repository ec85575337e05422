//! Holds `docs/contract.md` to the sources: its verdicts have reasons, the tests that it names exist, and whatever the program
//! knows of PgBouncer's settings, keys and commands has a row.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A row of the page.
struct Row {
    section: String,
    what: String,
    verdict: String,
    why: String,
    tests: Vec<String>,
}

/// What stands between backticks.
fn code(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut section = String::new();
    for line in read("docs/contract.md").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        }
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else { continue };
        let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
        if matches!(cells[..], ["what", ..] | ["---", ..]) {
            continue;
        }
        let [what, verdict, why, tests] = cells[..] else { panic!("four cells are needed: {line}") };
        let [what, verdict, why] = [what, verdict, why].map(str::to_owned);
        rows.push(Row { section: section.clone(), what, verdict, why, tests: code(tests) });
    }
    assert!(rows.len() > 150, "the page was not read: {} rows", rows.len());
    rows
}

/// The first words in backticks of a section's rows.
fn named_in(section: &str) -> BTreeSet<String> {
    let rows = rows().into_iter().filter(|row| row.section == section);
    rows.flat_map(|row| code(&row.what)).flat_map(|code| code.split(' ').next().map(str::to_owned)).collect()
}

fn assert_complete(section: &str, known: impl IntoIterator<Item = String>) {
    let (rows, known) = (named_in(section), known.into_iter().collect::<BTreeSet<_>>());
    assert!(known.len() > 2, "nothing was found for section {section}: {known:?}");
    let missing: Vec<&String> = known.difference(&rows).collect();
    assert!(missing.is_empty(), "docs/contract.md, section {section}, has no row for {missing:?}");
}

/// The names in a list of the source: `const NAME: &[&str] = &["a", "b"];`.
fn list(file: &str, name: &str) -> Vec<String> {
    let source = read(file);
    let list =
        source.split(&format!("const {name}: &[&str] = &[")).nth(1).unwrap_or_else(|| panic!("{name} in {file}"));
    list.split("];").next().expect("its end").split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_row_has_a_verdict_and_what_is_not_held_a_reason() {
    for Row { section, what, verdict, why, tests } in rows() {
        assert!(matches!(&*verdict, "held" | "better" | "not"), "{section}: {what}: {verdict}");
        assert!(verdict == "held" || !why.is_empty(), "{section}: {what}: why is it {verdict}?");
        assert!(!tests.is_empty(), "{section}: {what}: no test shows it");
    }
}

#[test]
fn every_setting_key_and_command_has_a_row() {
    // Another test holds that page to the table of settings.
    let settings = read("docs/settings.md");
    assert_complete(
        "Settings",
        settings
            .lines()
            .filter_map(|line| line.split('`').nth(1).filter(|_| line.starts_with("| `")))
            .map(str::to_owned),
    );
    assert_complete("Entries", list("pooler/src/config/databases.rs", "KEYS"));
    assert_complete("Users", list("pooler/src/config/users.rs", "USER_KEYS"));
    assert_complete("Peers", list("pooler/src/config/users.rs", "PEER_KEYS"));
    let help = read("pooler/src/console/help.rs");
    let commands =
        help.lines().filter_map(|line| line.strip_prefix("\\t")).map(|line| line.split(' ').collect::<Vec<_>>());
    let (shows, others): (Vec<_>, Vec<_>) = commands.partition(|words| words[0] == "SHOW");
    assert_complete("SHOW", shows.iter().flat_map(|words| words[1].split('|')).map(str::to_owned));
    assert_complete("The console", others.iter().map(|words| words[0].to_owned()));
}

/// Every test of the workspace by the path of its file, without folders that all have, and its name.
fn tests() -> Vec<(Vec<String>, String)> {
    let mut files = Vec::new();
    for folder in ["catalog", "migrations", "pooler", "router", "tests", "wire"] {
        collect(&root().join(folder), &mut files);
    }
    let mut tests = Vec::new();
    for file in files {
        let path = file.strip_prefix(root()).expect("inside").with_extension("");
        let path: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let path: Vec<String> = path.into_iter().filter(|part| !matches!(&**part, "src" | "mod")).collect();
        let source = fs::read_to_string(&file).expect("text");
        let mut lines = source.lines();
        while let Some(line) = lines.next() {
            let line = line.trim();
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") || line.starts_with("proptest!") {
                let function = lines.by_ref().map(str::trim).find_map(|line| line.split("fn ").nth(1));
                let name = function.and_then(|function| function.split(['(', '<']).next()).unwrap_or_default();
                tests.push((path.clone(), name.to_owned()));
            }
        }
    }
    tests
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let tests = tests();
    let mut missing = BTreeSet::new();
    for named in rows().into_iter().flat_map(|row| row.tests) {
        let mut path: Vec<&str> = named.split("::").collect();
        let name = path.pop().expect("a name");
        let exists = tests.iter().any(|(file, test)| {
            test == name && file.ends_with(&path.iter().map(|&part| part.to_owned()).collect::<Vec<_>>())
        });
        if !exists {
            missing.insert(named);
        }
    }
    assert!(missing.is_empty(), "docs/contract.md names tests that don't exist:\n{missing:#?}");
}
