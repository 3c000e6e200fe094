//! The import rules of docs/architecture.md, and what a document may not forget.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files whose path begins with the first may not hold the second.
const RULES: &[(&str, &[&str])] = &[
    ("shared/src/protocol", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/token.rs", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/channel.rs", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/delta.rs", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/hook.rs", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/filter.rs", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/route.rs", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/subject.rs", &["tokio", "axum", "async_nats", "SystemTime"]),
    ("shared/src/envelope.rs", &["tokio", "axum", "Client", "jetstream"]),
    ("shared/src", &["axum"]),
    ("worker/src", &["tidegate_gateway", "tidegate_cli"]),
    ("worker/src/handlers", &["async_nats"]),
    ("cli/src", &["tidegate_gateway", "tidegate_worker"]),
];

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

/// The part of a file that ships: no comments, no tests.
fn shipped(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn sources_keep_the_import_rules() {
    let mut sources = Vec::new();
    for member in ["shared", "gateway", "worker", "cli"] {
        files(&root().join(member).join("src"), "rs", &mut sources);
    }
    let mut broken = Vec::new();
    for file in sources {
        let name = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if name.ends_with("/tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (prefix, banned) in RULES.iter().filter(|(prefix, _)| name.starts_with(prefix)) {
            for word in *banned {
                if shipped(&text).any(|line| line.contains(word)) {
                    broken.push(format!("{name}: holds `{word}`, which {prefix} may not"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
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
fn every_metric_of_the_gateway_is_documented() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for program in ["gateway", "worker"] {
        let mut sources = Vec::new();
        files(&root().join(program).join("src"), "rs", &mut sources);
        let text: String = sources
            .iter()
            .filter(|f| f.to_string_lossy().contains("metrics"))
            .map(|f| fs::read_to_string(f).unwrap())
            .collect();
        let names: Vec<&str> =
            text.split(".register").skip(1).filter_map(|call| call.split('"').nth(1)).collect();
        assert!(!names.is_empty(), "no metrics found in {program}");
        for name in names {
            assert!(
                page.contains(&format!("tidegate_{program}_{name}")),
                "tidegate_{program}_{name} is not in docs/metrics.md"
            );
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
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
