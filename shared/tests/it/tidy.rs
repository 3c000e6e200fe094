//! The import rules of docs/architecture.md, and the completeness of documents.

mod imports;
mod planted;
mod rules;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use self::imports::Source;

/// Every crate of the workspace.
const CRATES: [&str; 7] = ["shared", "gateway", "worker", "worker/stock", "purger", "cli", "trial"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// The sources of a crate, without files of tests.
fn sources(krate: &str) -> Vec<Source> {
    let src = root().join(krate).join("src");
    let mut found = Vec::new();
    files(&src, "rs", &mut found);
    found.sort();
    let mut sources = Vec::new();
    for path in found {
        let name = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        if !is_test_file(&name) {
            sources.push(Source::read(krate, &name, &fs::read_to_string(&path).unwrap()));
        }
    }
    sources
}

fn is_test_file(name: &str) -> bool {
    name.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// Fails with one line for everything that breaks a rule.
fn assert_keeps_the_rules(krate: &str) {
    let broken = rules::check(&sources(krate));
    assert!(broken.is_empty(), "{} broken rules:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn shared_keeps_the_import_rules() {
    assert_keeps_the_rules("shared");
}

#[test]
fn the_gateway_keeps_the_import_rules() {
    assert_keeps_the_rules("gateway");
}

#[test]
fn the_worker_keeps_the_import_rules() {
    assert_keeps_the_rules("worker");
}

#[test]
fn the_stock_worker_keeps_the_import_rules() {
    assert_keeps_the_rules("worker/stock");
}

#[test]
fn the_purger_keeps_the_import_rules() {
    assert_keeps_the_rules("purger");
}

#[test]
fn the_cli_keeps_the_import_rules() {
    assert_keeps_the_rules("cli");
}

#[test]
fn the_trial_keeps_the_import_rules() {
    assert_keeps_the_rules("trial");
}

#[test]
fn the_layers_of_the_gateway_have_no_cycle() {
    assert_eq!(rules::cyclic_layers(rules::GATEWAY_LAYERS), None);
}

#[test]
fn every_folder_of_the_gateway_is_documented() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let library = fs::read_to_string(root().join("gateway/src/lib.rs")).unwrap();
    let header: String = library.lines().filter(|l| l.starts_with("//!")).flat_map(|l| [l, "\n"]).collect();
    for source in sources("gateway") {
        let Some(folder) = imports::module_of(&source.file).first().copied() else { continue };
        for (name, text) in [("docs/architecture.md", &page), ("the head of gateway/src/lib.rs", &header)] {
            let named = text
                .split('`')
                .skip(1)
                .step_by(2)
                .any(|code| code.split(['/', '.', ':', ' ']).any(|word| word == folder));
            assert!(named, "gateway/src/{}: `{folder}` is not named in {name}", source.file);
        }
    }
}

#[test]
fn every_type_and_file_in_the_glossary_exists() {
    let page = fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let mut types = BTreeSet::new();
    for krate in CRATES {
        let mut found = Vec::new();
        files(&root().join(krate).join("src"), "rs", &mut found);
        for path in found {
            let text = fs::read_to_string(path).unwrap();
            let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty());
            while let Some(word) = words.next() {
                if ["struct", "enum", "trait", "type"].contains(&word) {
                    types.extend(words.next().map(str::to_owned));
                }
            }
        }
    }
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let Some(column) = row.split('|').nth(3) else { continue };
        for name in column.split('`').skip(1).step_by(2).filter_map(|code| code.split("::").next()) {
            assert!(
                !name.contains('/') || root().join(name).exists(),
                "docs/glossary.md: no file `{name}`: {row}"
            );
            assert!(
                !is_camel_case(name) || types.contains(name),
                "docs/glossary.md: no type `{name}` is defined: {row}"
            );
        }
    }
}

fn is_camel_case(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.contains(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric())
}

#[test]
fn every_code_a_client_can_see_is_documented() {
    use tidegate_shared::protocol::codes::{DISCONNECTS, ERRORS, UNSUBSCRIPTIONS};
    let page = fs::read_to_string(root().join("docs/codes.md")).unwrap();
    for error in ERRORS {
        assert!(
            page.contains(&format!("| {} | {} |", error.code, error.message)),
            "{error:?} is not in docs/codes.md"
        );
    }
    for ended in UNSUBSCRIPTIONS {
        let row = format!("| {} | {} |", ended.code, ended.reason);
        assert!(page.contains(&row), "{ended:?} is not in docs/codes.md");
    }
    for disconnect in DISCONNECTS {
        let row = format!("| {} | {} |", disconnect.code, disconnect.reason);
        assert!(page.contains(&row), "{disconnect:?} is not in docs/codes.md");
    }
}

#[test]
fn every_metric_is_documented() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for (folder, program) in
        [("gateway", "gateway"), ("worker", "worker"), ("worker/stock", "worker"), ("purger", "purger")]
    {
        let mut sources = Vec::new();
        files(&root().join(folder).join("src"), "rs", &mut sources);
        let text: String = sources
            .iter()
            .filter(|f| f.to_string_lossy().contains("metrics"))
            .map(|f| fs::read_to_string(f).unwrap())
            .collect();
        let names: Vec<&str> =
            text.split(".register").skip(1).filter_map(|call| call.split('"').nth(1)).collect();
        assert!(!names.is_empty(), "no metrics found in {folder}");
        for name in names {
            assert!(
                page.contains(&format!("tidegate_{program}_{name}")),
                "tidegate_{program}_{name} is not in docs/metrics.md"
            );
        }
    }
}

#[test]
fn links_between_documents_resolve() {
    let mut pages =
        vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), "md", &mut pages);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                page.parent().unwrap().join(target).exists(),
                "{}: {target} does not exist",
                page.display()
            );
        }
    }
}
