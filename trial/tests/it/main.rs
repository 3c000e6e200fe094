//! The scenarios with a pass or fail verdict, at a small size.

use std::process::{Command, Stdio};

#[test]
fn recovered_subscribers_have_every_publication_once_and_in_order() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-trial"))
        .args(["torn", "--debug-ok", "--subscribers", "60", "--channels", "10", "--rate", "100"])
        .args(["--time", "10s", "--cut-every", "2s", "--kill-every", "3s"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("not recovered      0"), "the history is long enough for every break: {text}");
}

#[test]
fn when_a_gateway_is_killed_all_its_subscribers_resume_on_the_other_and_the_broker_is_read_once_a_channel() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-trial"))
        .args(["storm", "--debug-ok", "--subscribers", "200", "--channels", "10"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("recovery reads     10, 1.0 a channel"), "{text}");
}

#[test]
fn the_bench_measures_and_its_tables_can_be_written_again_from_its_results() {
    let trial = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-trial"));
        let output = command.args(args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("results.json").display().to_string();
    let scenarios = ["--scenarios", "connect,recovery,roundtrip", "--peers", "tidegate,bare-nats"];
    let run = ["--json", &json, "bench", "--debug-ok", "--small", "--turns", "1"];
    let text = trial(&[&run[..], &scenarios].concat());
    assert_eq!(trial(&["report", &json, "--debug-ok"]), text);
    let row = |title: &str| {
        let table = text.split(&format!("### {title}")).nth(1).unwrap_or_else(|| panic!("{title}: {text}"));
        table.lines().find(|line| line.starts_with("| Tidegate |")).unwrap_or_else(|| panic!("{text}"))
    };
    assert!(row("Connecting").contains(" | "), "{text}");
    // Nothing missing, nothing twice, everybody recovered.
    assert!(row("Recovery storm").contains("| 0 | 0 | 100 |"), "{text}");
    assert!(row("Round trip at a low rate").contains("x |"), "{text}");
    assert!(!text.contains("Not measured") && !text.contains("no answer"), "{text}");
}
