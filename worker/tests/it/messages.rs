//! What the compiler says about a wrong handler is what a person can read: `wrong/handlers.rs` has one of each kind.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// For each handler of `wrong/handlers.rs`, in any order: what the compiler has to say.
const SAYS: [&str; 11] = [
    "{not_an_extractor}` is not a handler",
    "{body_before_the_last}` is not a handler",
    "{not_async}` is not a handler",
    "a handler is an async function of at most twelve extractors, of which only the last may take the body",
    "a handler cannot answer with `Price`",
    "answer with `()`, `Json<T>`, `Bytes`, `Publication`, `(answer, Publications)` or `Result<answer, error>`",
    "`Price` cannot go with an answer",
    "`?` couldn't convert the error: `std::io::Error: IntoFailure` is not satisfied",
    "say what it means, with `.or_retry()?`, `.or_reject(code)?` or `.or_dead()?`",
    "expected `RouteHandler<()>`, found `RouteHandler<String>`",
    // With its path, if another crate has a type of this name.
    "Publication` does not decide a question",
];

#[test]
fn the_compiler_says_what_is_wrong_with_a_handler_in_words() {
    let wrong = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/wrong/handlers.rs");
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "--emit",
            "metadata",
            "--color",
            "never",
            "--out-dir",
        ])
        .arg(scratch.path())
        .arg("--extern")
        .arg(format!("tidegate_worker={}", library().display()))
        .arg("-L")
        .arg(format!("dependency={}", deps().display()))
        .arg(wrong)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "every handler of the file is wrong");
    // The words are where a person looks: in the first lines of an error or in its notes, unwrapped.
    for words in SAYS {
        assert!(said.contains(words), "{words}\n\n{said}");
    }
    let wrong_ones =
        said.lines().filter(|line| line.starts_with("error[") || line.starts_with("error:")).count();
    assert!((8..=12).contains(&wrong_ones), "one error for each wrong handler, not {wrong_ones}\n{said}");
}

/// Where the libraries are that this test was built with.
fn deps() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// The newest build of the library.
fn library() -> PathBuf {
    let built = std::fs::read_dir(deps()).unwrap().map(|entry| entry.unwrap().path());
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libtidegate_worker-") && name.ends_with(".rlib")
    };
    let when =
        |path: &PathBuf| path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    built.filter(is_library).max_by_key(when).expect("the library is built before its tests")
}
