//! Holds the source to rules that the compiler does not know.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The layers, in the order in which lib.rs lists them.
fn layers(source: &Path) -> Vec<String> {
    let lib = fs::read_to_string(source.join("lib.rs")).expect("lib.rs");
    let list =
        lib.split("//!\n").nth(2).expect("the list of layers").lines().take_while(|line| line.starts_with("//!"));
    let list: String = list.map(|line| line.trim_start_matches("//!")).collect();
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

#[test]
fn modules_import_only_what_stands_before_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layers = layers(&source);
    assert!(layers.len() > 10, "the list was not read: {layers:?}");
    let rank = |module: &str| layers.iter().position(|layer| layer == module);
    let mut wrong = Vec::new();
    for file in sources(&source) {
        let relative = file.strip_prefix(&source).expect("inside");
        let own = relative.iter().next().and_then(|part| part.to_str()).expect("a name").trim_end_matches(".rs");
        let Some(own_rank) = rank(own) else {
            assert!(matches!(own, "lib" | "main"), "module {own} is in no layer: add it to lib.rs");
            continue;
        };
        for (number, line) in fs::read_to_string(&file).expect("text").lines().enumerate() {
            let mut rest = line.split("//").next().unwrap_or_default();
            while let Some(at) = rest.find("crate::") {
                rest = &rest[at + "crate::".len()..];
                let module: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if rank(&module).is_some_and(|rank| rank > own_rank) {
                    wrong.push(format!("{}:{}: {own} imports {module}", relative.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the order of lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn leaf_crates_import_no_sibling() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for (member, allowed) in
        [("wire", &[][..]), ("router", &[]), ("migrations", &[]), ("catalog", &["sluice-router", "sluice-migrations"])]
    {
        let manifest = fs::read_to_string(root.join(member).join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest.split("[dependencies]").nth(1).expect("dependencies");
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies.lines().filter(|line| line.starts_with("sluice")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(allowed.contains(&name), "{member} must not depend on {name}");
        }
    }
}
