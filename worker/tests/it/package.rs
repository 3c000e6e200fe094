//! What a package that has handlers takes along with the library.

use std::process::Command;

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_package_with_handlers_takes_neither_a_database_nor_an_http_client_nor_the_test_kit_along() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "--locked",
        "-p",
        "tidegate-worker",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"async-nats") && names.contains(&"tidegate-shared"), "{tree}");
    for forbidden in [
        "sqlx",
        "sqlx-core",
        "libsqlite3-sys",
        "reqwest",
        "hyper-rustls",
        "tempfile",
        "tidegate-cli",
        "mimalloc",
    ] {
        assert!(!names.contains(&forbidden), "{forbidden} is among the dependencies:\n{tree}");
    }
}

#[test]
fn the_packages_of_the_library_say_what_they_are() {
    let metadata = cargo(&["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    for name in ["tidegate-shared", "tidegate-worker"] {
        let package = packages.iter().find(|package| package["name"] == name).unwrap();
        for key in ["description", "license", "readme", "rust_version"] {
            assert!(package[key].as_str().is_some_and(|text| !text.is_empty()), "{name} has no {key}");
        }
        for key in ["keywords", "categories"] {
            let words = package[key].as_array().unwrap();
            assert!((1..=5).contains(&words.len()), "{name}: {key}: {words:?}");
        }
        // A path alone would keep it out of a registry.
        let ours = package["dependencies"].as_array().unwrap().iter().filter(|other| {
            other["kind"].is_null()
                && other["name"].as_str().is_some_and(|other| other.starts_with("tidegate-"))
        });
        ours.for_each(|other| {
            assert_ne!(other["req"], "*", "{name} needs {} without a version", other["name"]);
        });
    }
}
