//! Tests of the rules: texts that break one, and texts that break none.

use super::{
    imports::Source,
    is_test_file,
    rules::{check, cyclic_layers},
};

/// What the rules say about one file.
fn said(path: &str, text: &str) -> Vec<String> {
    let (krate, file) = path.split_once("/src/").unwrap();
    check(&[Source::read(krate, file, text)])
}

/// The file breaks rules, and one of the messages has all of these parts.
#[track_caller]
fn assert_says(path: &str, text: &str, parts: &[&str]) {
    let said = said(path, text);
    assert!(said.iter().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?}: {said:#?}");
}

/// The paths and lines read from a file of the gateway.
fn read(file: &str, text: &str) -> Vec<String> {
    Source::read("gateway", file, text)
        .imports
        .into_iter()
        .map(|import| format!("{}:{}", import.line, import.path))
        .collect()
}

#[test]
fn a_clean_text_breaks_no_rule() {
    let text = "//! tokio::spawn\nuse std::time::Instant;\nuse crate::channels::Feed;\n\
        use super::connect;\nfn f(now: Instant) -> Self { Self::new(\"async_nats::Message\") }";
    assert_eq!(said("gateway/src/session/control.rs", text), Vec::<String>::new());
}

#[test]
fn groups_renames_and_globs_are_expanded() {
    let text = "use a::{b::{C, self as d}, e::*,\n f as g};\nuse ::h::i;\nfn x() { g::j(); d::k(); }";
    assert_eq!(
        read("http/door.rs", text),
        ["1:a::b", "1:a::b::C", "1:a::e::*", "2:a::f", "3:h::i", "4:a::b::k", "4:a::f::j"]
    );
}

#[test]
fn relative_paths_become_absolute() {
    let text = "use super::a;\nmod inner { use super::super::b; fn f() { self::c::d() } }\nmod e;\nfn f() { e::g() }";
    assert_eq!(
        read("http/door.rs", text),
        [
            "1:crate::http::a",
            "2:crate::http::b",
            "2:crate::http::door::inner::c::d",
            "4:crate::http::door::e::g"
        ]
    );
}

#[test]
fn visibilities_are_not_imports() {
    assert_eq!(
        read("http/door.rs", "pub(in crate::http) struct A;\npub(super) fn f() {}"),
        Vec::<String>::new()
    );
}

#[test]
fn attributes_and_type_arguments_are_read() {
    let text =
        "#[derive(serde::Serialize)]\nstruct A(Option<crate::fleet::Fleet>);\n#[tokio::main]\nfn f() {}";
    assert_eq!(read("http/door.rs", text), ["1:serde::Serialize", "2:crate::fleet::Fleet", "3:tokio::main"]);
}

#[test]
fn a_grouped_import_is_reported() {
    let text = "use crate::{\n    metrics::Metrics,\n    session::{Session, Input as I},\n};";
    let parts = [
        "gateway/src/fleet/a.rs:3:",
        "`crate::session::Session`",
        "`fleet` may import metrics, not `session`",
    ];
    assert_says("gateway/src/fleet/a.rs", text, &parts);
    assert_says("gateway/src/fleet/a.rs", text, &["crate::session::Input"]);
}

#[test]
fn an_escape_by_super_is_reported() {
    let text = "fn f() { mod_a::f() }\nmod mod_a { use super::super::super::session::Session; }";
    assert_says("gateway/src/fleet/a.rs", text, &["a.rs:2:", "crate::session::Session", "not `session`"]);
}

#[test]
fn an_inline_path_is_reported() {
    let text = "fn f() {\n    let x = crate::connection::open();\n}\nfn g(x: &[crate::session::Session]) {}";
    assert_says("gateway/src/outbox/queue.rs", text, &[":2:", "crate::connection::open", "no other folder"]);
    assert_says("gateway/src/outbox/queue.rs", text, &[":4:", "crate::session::Session"]);
}

#[test]
fn an_import_behind_a_test_module_is_reported() {
    let text = "#[cfg(test)]\nmod tests {\n    use async_nats::Client;\n}\nuse tokio::spawn;";
    let said = said("gateway/src/session/a.rs", text);
    assert_eq!(
        said,
        ["gateway/src/session/a.rs:5: imports `tokio::spawn`: gateway/src/session may not use `tokio`"]
    );
}

#[test]
fn test_code_is_not_read() {
    let text = "#[cfg(test)]\nuse tokio::spawn;\n#[cfg(all(test, unix))]\nfn f() { tokio::spawn(x) }\nstruct A;\n\
        impl A { #[cfg(test)] fn f() { axum::serve() } }\nfn g() { #[cfg(test)] use tokio::join; }";
    assert_eq!(said("gateway/src/session/a.rs", text), Vec::<String>::new());
    assert_says("gateway/src/session/a.rs", "#[cfg(not(test))]\nuse tokio::spawn;", &["tokio::spawn"]);
    assert!(is_test_file("session/tests.rs") && is_test_file("session/tests/control.rs"));
    assert!(!is_test_file("session/contests.rs"));
}

#[test]
fn a_clock_behind_an_alias_is_reported() {
    let rule = "gateway/src/session may not use `std::time::Instant::now`";
    for text in [
        "use std::time::Instant;\nfn f() { Instant::now() }",
        "use std::{time::{Instant as Clock}};\nfn f() { x.unwrap_or_else(Clock::now) }",
        "use std::time;\nfn f() { time::Instant::now() }",
        "type Clock = std::time::Instant;\nfn f() { <Clock>::now() }",
        "use std::time::Instant;\nfn f() { println!(\"{:?}\", Instant::now()) }",
    ] {
        assert_says("gateway/src/session/a.rs", text, &["a.rs:2:", "`std::time::Instant::now`", rule]);
    }
    assert_says("gateway/src/session/a.rs", "use std::time::*;", &["std::time::*", "may not use"]);
}

#[test]
fn a_path_in_a_macro_is_reported() {
    let text = "fn f() {\n    tracing::info!(\n        x = crate::session::bar(), \"text\");\n}";
    assert_says("gateway/src/fleet/a.rs", text, &["a.rs:3:", "crate::session::bar", "not `session`"]);
    let text = "macro_rules! m { () => {\n use crate::{session::Session}; } }";
    assert_says("gateway/src/fleet/a.rs", text, &["a.rs:2:", "crate::session::Session"]);
}

#[test]
fn exceptions_cover_a_type_and_not_its_clock() {
    let text = "use tokio::time::Instant;\nfn f(now: Instant) {}";
    assert_eq!(said("gateway/src/policy/hook_cache.rs", text), Vec::<String>::new());
    let text = "use tokio::time::Instant;\nfn f() { Instant::now() }";
    assert_says(
        "gateway/src/policy/hook_cache.rs",
        text,
        &[":2:", "may not use `tokio::time::Instant::now`"],
    );
    assert_eq!(said("gateway/src/presence/registry.rs", "use tokio::sync::oneshot;"), Vec::<String>::new());
    assert_says("gateway/src/presence/registry.rs", "use tokio::sync::mpsc;", &["may not use `tokio`"]);
}

#[test]
fn a_folder_without_a_line_is_reported() {
    assert_says(
        "gateway/src/extras/a.rs",
        "",
        &["gateway/src/extras/a.rs:1:", "`extras` has no line in the list of layers"],
    );
}

#[test]
fn the_root_may_import_every_folder_but_no_folder_the_root() {
    assert_eq!(
        said("gateway/src/lib.rs", "use crate::{http::Door, metrics::Metrics};"),
        Vec::<String>::new()
    );
    assert_says("gateway/src/http/a.rs", "use crate::Gateway;", &["crate::Gateway", "not `Gateway`"]);
}

#[test]
fn lists_of_layers_with_a_cycle_are_reported() {
    assert_eq!(
        cyclic_layers(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"])]).as_deref(),
        Some("the lists of layers have a cycle: a -> b -> c -> a")
    );
    assert_eq!(cyclic_layers(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]), None);
}

#[test]
fn nats_outside_its_folders_is_reported() {
    let text = "fn f(m: async_nats::Message) {}";
    assert_says("gateway/src/http/a.rs", text, &["a.rs:1:", "async_nats::Message", "in gateway only"]);
    assert_says("worker/stock/src/handlers/a.rs", text, &["in worker/stock only"]);
    for path in [
        "gateway/src/channels/a.rs",
        "gateway/src/policy/hooks.rs",
        "gateway/src/api/nats.rs",
        "worker/src/attempt.rs",
    ] {
        assert_eq!(said(path, text), Vec::<String>::new());
    }
}

#[test]
fn imports_between_separate_crates_are_reported() {
    assert_says("gateway/src/http/a.rs", "use tidegate_worker::on;", &["may not use `tidegate_worker`"]);
    assert_says("worker/src/a.rs", "use tidegate_cli::stack;", &["may not use `tidegate_cli`"]);
    assert_says("worker/src/a.rs", "use sqlx::SqlitePool;", &["may not use `sqlx`"]);
    assert_says("worker/stock/src/a.rs", "use tidegate_cli::stack;", &["may not use `tidegate_cli`"]);
    assert_says("cli/src/a.rs", "use tidegate_gateway as g;", &["may not use `tidegate_gateway`"]);
}

#[test]
fn files_that_import_each_other_are_reported() {
    let source = |file, text| Source::read("worker", file, text);
    let ring = [
        source("a.rs", "use crate::b::B;"),
        source("b.rs", "\nuse crate::c::d::D;"),
        source("c.rs", "mod d;"),
        source("c/d.rs", "use crate::a::A;"),
    ];
    assert_eq!(
        check(&ring),
        [
            "worker/src/a.rs:1: imports `crate::b::B`: files may not import each other in a cycle: a.rs -> b.rs -> c/d.rs -> a.rs"
        ]
    );
    let family = [source("a.rs", "mod b;\nuse b::B;"), source("a/b.rs", "use super::A;")];
    assert_eq!(check(&family), Vec::<String>::new());
}

#[test]
fn a_file_that_is_too_long_is_reported_and_its_tests_do_not_count() {
    let long = "const A: u8 = 0;\n".repeat(401);
    assert_says("cli/src/a.rs", &long, &["cli/src/a.rs:1:", "401 lines outside tests", "at most 400"]);
    let tests = format!("const A: u8 = 0;\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(said("cli/src/a.rs", &tests), Vec::<String>::new());
}
